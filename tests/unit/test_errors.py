"""The errors: one tree, their numbers, the built-in kinds, pickle."""

from __future__ import annotations

import builtins
import copy
import errno
import pickle
from pathlib import Path

import pytest

import jessy_mem
from jessy_mem import errors
from jessy_mem._probe.pool import kernel_statuses

# An instance of each, the built-in kinds that catch it, its attributes, and what its message says.
TABLE = [
    (
        errors.AllocationFailed(70_000, 65_536, {4096: 3, 65536: 1}),
        builtins.MemoryError,
        {"requested_bytes": 70_000, "largest_free_bytes": 65_536, "free_blocks": {4096: 3, 65536: 1}},
        "the largest free piece has 65536 bytes (free blocks: 3 of 4096, 1 of 65536)",
    ),
    (
        errors.LimitExceeded(90, 100, 20, "reserve", ["D01 (3 views)"], "close them"),
        builtins.MemoryError,
        {"current_bytes": 90, "limit_bytes": 100, "requested_bytes": 20, "segment": "reserve",
         "holders": ("D01 (3 views)",), "hint": "close them"},
        "reserve: 20 bytes do not fit, 90 of 100 bytes are in use; held by D01 (3 views); close them",
    ),
    (
        errors.LimitExceeded(985, 985, 1, "reserve", hint="another base folder begins anew", unit="ids"),
        builtins.MemoryError,
        {"requested_bytes": 1, "unit": "ids"},
        "reserve: 1 ids do not fit, 985 of 985 ids are in use; another base folder begins anew",
    ),
    (
        errors.RegionNotFound(15, "it is a proto-dimension"),
        LookupError,
        {"dimension": 15, "hint": "it is a proto-dimension"},
        "dimension D15: it is a proto-dimension",
    ),
    (
        errors.InvalidRegion("x.mmap", "magic", "b'PK'", "b'JESSY'", hint="it looks like a zip archive"),
        ValueError,
        {"layer": None, "hint": "it looks like a zip archive"},
        "x.mmap: magic: found b'PK', expected b'JESSY'; it looks like a zip archive",
    ),
    (
        errors.MappingError.of(OSError(errno.ENOMEM, "Cannot allocate memory"), "pool", 4096),
        OSError,
        {"errno": errno.ENOMEM, "requested_bytes": 4096},
        f"[Errno {errno.ENOMEM}] Cannot allocate memory: 'pool'; 4096 bytes of address space were asked for; raise ",
    ),
    (
        errors.MappingError.of(OSError(errno.EMFILE, "Too many open files"), "x.mmap", 4096),
        OSError,
        {"errno": errno.EMFILE, "requested_bytes": 0, "hint": ""},
        f"[Errno {errno.EMFILE}] Too many open files: 'x.mmap'",
    ),
    (
        errors.LayerNotFound(1, 9, "the dimension has 4 layers"),
        LookupError,
        {"dimension": 1, "layer": 9, "hint": "the dimension has 4 layers"},
        "no layer D01/L9: the dimension has 4 layers",
    ),
    (
        errors.RegionNotFound(1000),
        LookupError,
        {"dimension": 1000, "hint": ""},
        "dimension D1000 is not loaded; load_dimension(1000) loads it",
    ),
    (
        errors.DimensionNotFound(7, Path("base/D07/region.mmap")),
        FileNotFoundError,
        {"dimension": 7, "path": "base/D07/region.mmap", "errno": errno.ENOENT, "filename": "base/D07/region.mmap"},
        "dimension D07 has no region file at base/D07/region.mmap",
    ),
    (
        errors.DimensionAlreadyLoaded(7),
        ValueError,
        {"dimension": 7},
        "dimension D07 is already loaded; reload_dimension(7) takes a new file",
    ),
    (
        errors.OutOfBounds(-1, 2**70, 100),
        IndexError,
        {"offset": -1, "size": 2**70, "region_size": 100},
        f"{2**70} bytes at offset -1 do not lie inside the 100 bytes there are",
    ),
    (
        errors.InvalidRegion(Path("x.mmap"), "frequency", "nan", "finite", 3),
        ValueError,
        {"path": "x.mmap", "field": "frequency", "found": "nan", "expected": "finite", "layer": 3},
        "x.mmap: frequency of layer 3: found nan, expected finite",
    ),
    (
        errors.RegionTruncated("x.mmap", "total_size", "5 bytes", "a file of 300 bytes"),
        errors.InvalidRegion,
        {"path": "x.mmap", "field": "total_size", "found": "5 bytes", "expected": "a file of 300 bytes", "layer": None},
        "x.mmap: total_size: found 5 bytes, expected a file of 300 bytes",
    ),
    (
        errors.ChecksumMismatch("x.mmap", "content", "0x1", "0x2", 0),
        errors.InvalidRegion,
        {"path": "x.mmap", "field": "content", "found": "0x1", "expected": "0x2", "layer": 0},
        "x.mmap: content of layer 0: found 0x1, expected 0x2",
    ),
    (
        errors.ImmutableDimension(9, "reloading it with other content"),
        PermissionError,
        {"dimension": 9, "refused": "reloading it with other content", "errno": errno.EPERM},
        "dimension D09 is immutable: reloading it with other content is refused",
    ),
    (
        errors.DoubleFree(4096, 17),
        ValueError,
        {"block_size": 4096, "index": 17},
        "block 17 of the 4096 byte class was freed before",
    ),
    (errors.ManagerClosed("the pool"), ValueError, {"what": "the pool"}, "the pool is closed"),
    (
        errors.MappingError(errno.ENOSPC, "No space left on device", Path("x.mmap")),
        OSError,
        {"errno": errno.ENOSPC, "strerror": "No space left on device", "filename": "x.mmap"},
        f"[Errno {errno.ENOSPC}] No space left on device: 'x.mmap'",
    ),
    (
        errors.AlreadyPublished(Path("base/D15/region.mmap")),
        FileExistsError,
        {"path": "base/D15/region.mmap", "errno": errno.EEXIST, "filename": "base/D15/region.mmap"},
        "another published a file in this place, and it stays: 'base/D15/region.mmap'",
    ),
    (
        errors.LinkRefused(Path("base/D15")),
        errors.MappingError,
        {"path": "base/D15", "errno": errno.ELOOP, "filename": "base/D15"},
        "it is a link, and nothing outside the base folder is written or removed: 'base/D15'",
    ),
    (
        errors.DimensionExists("user:ann", 1000),
        FileExistsError,
        {"name": "user:ann", "dimension": 1000, "errno": errno.EEXIST},
        "dimension 'user:ann' exists: it is D1000; ensure_dimension('user:ann') gives its id",
    ),
    (
        errors.ReadOnly("base"),
        PermissionError,
        {"base_path": "base", "errno": errno.EROFS, "filename": "base"},
        "the manager of base is read only: nothing is learned or forgotten with it",
    ),
    (
        errors.UnsavedLearning([15, 1000]),
        RuntimeError,
        {"dimensions": (15, 1000)},
        "not saved: D15, D1000; crystallize or forget them first",
    ),
    (
        errors.InvalidArchive("out.tar", "D15/region.mmap", "cut off"),
        ValueError,
        {"path": "out.tar", "member": "D15/region.mmap", "reason": "cut off"},
        "out.tar:D15/region.mmap: cut off",
    ),
    (
        errors.ImportConflict({15: "another name"}),
        FileExistsError,
        {"dimensions": {15: "another name"}, "errno": errno.EEXIST},
        "not imported: D15: another name",
    ),
    (
        errors.LockTimeout("base/lock", 2.5, 4711),
        TimeoutError,
        {"path": "base/lock", "timeout_s": 2.5, "holder_pid": 4711, "errno": errno.ETIMEDOUT, "filename": "base/lock"},
        "base/lock: process 4711 held the lock for 2.5 s",
    ),
    (
        errors.UnsavedLearning([15, 1000]),
        RuntimeError,
        {"dimensions": (15, 1000)},
        "not saved: D15, D1000; crystallize or forget them first",
    ),
    (
        errors.ReadOnly("base"),
        PermissionError,
        {"base_path": "base", "errno": errno.EROFS, "filename": "base"},
        "the manager of base is read only: nothing is learned or forgotten with it",
    ),
    (
        errors.ImportConflict({15: "its file differs"}),
        FileExistsError,
        {"dimensions": {15: "its file differs"}, "errno": errno.EEXIST},
        "not imported: D15: its file differs",
    ),
    (
        errors.InvalidArchive(Path("x.tar"), "../etc", "a name outside"),
        ValueError,
        {"path": "x.tar", "member": "../etc", "reason": "a name outside"},
        "x.tar:../etc: a name outside",
    ),
    (errors.MemoryError("no memory"), builtins.MemoryError, {"args": ("no memory",)}, "no memory"),
    (
        errors.InvalidArchive("x.tar", "D15/region.mmap", "it is not there"),
        ValueError,
        {"path": "x.tar", "member": "D15/region.mmap", "reason": "it is not there"},
        "x.tar:D15/region.mmap: it is not there",
    ),
    (errors.InvalidArchive("x.tar", "", "it is cut off"), ValueError, {"member": ""}, "x.tar: it is cut off"),
    (
        errors.ImportConflict({15: "it is there, and differs"}),
        FileExistsError,
        {"dimensions": {15: "it is there, and differs"}, "errno": errno.EEXIST},
        "not imported: D15: it is there, and differs",
    ),
    (errors.ConsciousnessError("why"), Exception, {"args": ("why",)}, "why"),
]  # fmt: skip
ROWS = [pytest.param(*row, id=type(row[0]).__name__) for row in TABLE]


def test_table_holds_every_error():
    tree = {each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, Exception)}
    assert {type(row[0]) for row in TABLE} == tree
    assert sorted(error.__name__ for error in tree) == sorted(errors.__all__)
    assert all(issubclass(error, errors.ConsciousnessError) for error in tree)


@pytest.mark.parametrize("name", sorted(set(errors.__all__) - {"MemoryError"}))
def test_error_is_exported(name):
    assert getattr(jessy_mem, name) is getattr(errors, name)
    assert name in jessy_mem.__all__


def test_general_memory_error_does_not_hide_the_builtin():
    assert "MemoryError" not in jessy_mem.__all__
    assert not hasattr(jessy_mem, "MemoryError")


@pytest.mark.parametrize(("error", "kind", "attributes", "message"), ROWS)
def test_error_is_of_its_kind_and_carries_its_numbers(error, kind, attributes, message):
    with pytest.raises(kind) as caught:
        raise error
    assert caught.value is error
    assert isinstance(error, errors.ConsciousnessError)
    for name, value in attributes.items():
        assert getattr(error, name) == value
        assert type(getattr(error, name)) is type(value)
    assert message in str(error)


@pytest.mark.parametrize("error", [pytest.param(row[0], id=type(row[0]).__name__) for row in TABLE])
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_error_travels_through_pickle(error, protocol):
    again = pickle.loads(pickle.dumps(error, protocol))
    assert type(again) is type(error)
    assert str(again) == str(error)
    names = next(row[2] for row in TABLE if row[0] is error)
    assert {name: getattr(again, name) for name in names} == names


@pytest.mark.parametrize("error", [pytest.param(row[0], id=type(row[0]).__name__) for row in TABLE])
def test_error_is_copied_with_its_notes(error):
    for move in (copy.copy, copy.deepcopy, lambda each: pickle.loads(pickle.dumps(each))):
        noted = move(error)
        noted.add_note("while loading D01")
        assert (str(move(noted)), move(noted).__notes__) == (str(error), ["while loading D01"])
    assert not hasattr(error, "__notes__")


@pytest.mark.parametrize(
    ("error", "catchers"),
    [
        (errors.AllocationFailed(1, 0, {}), (errors.MemoryError, builtins.MemoryError)),
        (errors.LimitExceeded(0, 0, 1, "core"), (errors.MemoryError, builtins.MemoryError)),
        (errors.MappingError(1, "no", "x"), (errors.MemoryError, builtins.MemoryError, OSError)),
        (errors.DimensionNotFound(1, "x"), (OSError, FileNotFoundError)),
        (errors.ImmutableDimension(1), (OSError, PermissionError)),
        (errors.OutOfBounds(0, 0, 0), (LookupError, IndexError)),
    ],
)
def test_error_is_caught_by_each_kind_it_is(error, catchers):
    for kind in catchers:
        with pytest.raises(kind):
            raise error


def test_mapping_error_takes_over_what_the_system_said():
    error = errors.MappingError.of(OSError(errno.EMFILE, "Too many open files"), Path("x.mmap"))
    assert (error.errno, error.strerror, error.filename) == (errno.EMFILE, "Too many open files", "x.mmap")
    error = errors.MappingError.of(OSError("something"), "x.mmap")
    assert (error.errno, error.filename) == (None, "x.mmap")
    assert "something" in str(error)


def test_errors_import_nothing_of_the_package():
    source = Path(errors.__file__).read_text(encoding="utf-8")
    assert "jessy_mem." not in source.split("__all__")[0].split('"""')[2]


def test_each_status_of_a_kernel_has_its_error():
    names = {"OUT_OF_BOUNDS": errors.OutOfBounds, "LIMIT_EXCEEDED": errors.LimitExceeded,
             "NO_FREE_BLOCK": errors.AllocationFailed, "DOUBLE_FREE": errors.DoubleFree}  # fmt: skip
    statuses = kernel_statuses()
    assert statuses.pop("OK") == 0
    assert {name: errors.BY_STATUS[status] for name, status in statuses.items()} == names
    assert len(errors.BY_STATUS) == 1 + len(names)
    error = errors.error_of(statuses["LIMIT_EXCEEDED"], 90, 100, 20, "reserve")
    assert str(error) == str(errors.LimitExceeded(90, 100, 20, "reserve"))
