"""MemoryConfig: each field is checked when it is made."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import pickle
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import get_args, get_type_hints

import numpy as np
import pytest

from jessy_mem._core.pool import PoolAllocator
from jessy_mem.config import MemoryConfig, MemoryFields, MemoryOptions
from jessy_mem.layout import default_layout
from jessy_mem.manager import MmapManager
from jessy_mem.sizes import DEFAULT_POOLS, parse_size_mb

# Field: (default, values that are taken and what they become, values that are refused).
FIELDS = {
    "total_memory_mb": (
        280,
        [(1, 1), (0.5, 0.5), ("280MB", 280), ("280MiB", 280), ("1.5 GiB", 1536), ("512kb", 0.5), ("64", 64),
         (np.int8(64), 64), (np.array(64), 64), (np.float32(0.5), 0.5), (Decimal("1.5"), 1.5), (Fraction(1, 4), 0.25),
         (np.str_("64MB"), 64)],
        [0, -1, 0.0, math.nan, math.inf, True, None, "", "MB", "-1MB", "1 XB", "1e3", "0", b"280", [280], 1e-9,
         2**26 + 1, np.True_, np.array([280]), np.float32("nan"), Decimal("NaN"), Decimal("sNaN"), 10**400, 1j],
    ),
    "base_path": (
        os.path.abspath("data/consciousness"),
        [("x", os.path.abspath("x")), (Path("/a/b"), "/a/b"), (b"/a", "/a"), (b"/\xff", "/\udcff"),
         ("~", os.path.expanduser("~")), ("~/a", os.path.expanduser("~/a")), ("/a/../b", "/a/../b"), ("/~", "/~")],
        ["", b"", 5, None, "a\0b", "~nobody-has-this-name/x"],
    ),
    "pool_configs": (
        ((32, 4096), (128, 16384), (80, 65536), (40, 262144)),
        [
            ([[1, 64]], ((1, 64),)),
            (((2, 128), (1, 64)), ((1, 64), (2, 128))),
            ((("32MB", 4096),), ((32, 4096),)),
            (((0.5, 4096),), ((0.5, 4096),)),
            (np.array([[1, 64], [2, 128]], np.int16), ((1, 64), (2, 128))),
            ([(Decimal(1), 64)], ((1.0, 64),)),
        ],
        [(), 5, "32", None, {1: 64}, ((1,),), ((1, 64, 1),), ((0, 64),), ((-1, 64),), ((1, 32),), ((1, 65),), ((1, 0),),
         ((1, -64),), ((1, 64.0),), ((1, "64"),), ((True, 64),), ((1, True),), ((1, 64), (2, 64)), ((0.001, 4096),),
         ((1.001, 4096),),
         ((1, 2**21),), ((2**60, 64),), ((1, 2**70),), [(1, 64 << i) for i in range(33)],
         ((math.inf, 64),), ((math.nan, 64),), (("big", 64),)],
    ),
    "enable_warnings": (True, [(False, False), (np.False_, False)], [0, 1, None, "yes", np.array([True])]),
    "warning_threshold": (
        75.0,
        [(50, 50.0), (85, 85.0), (np.int16(50), 50.0), (Decimal("50.5"), 50.5)],
        [0, -1, 101, math.nan, True, "75", None, 86],
    ),
    "eviction_threshold": (85.0, [(75, 75.0), (95, 95.0)], [0, -1, 101, math.nan, True, "85", None, 74.9, 95.1]),
    "critical_threshold": (95.0, [(85, 85.0), (100, 100.0)], [0, -1, 100.1, math.nan, True, "95", None, 84]),
    "eviction_policy": ("sieve", [("lru", "lru"), ("lfu", "lfu")], ["", "LRU", "fifo", None, 1]),
    "simulation": ("auto", [("never", "never"), ("always", "always")], ["", "on", None, True]),
    "simulation_seed": (0, [(-5, -5), (2**70, 2**70), (np.uint8(7), 7), (np.array(7), 7)], [1.0, "1", None, True]),
    "simulation_scale": (
        0.0,
        [(1, 1.0), (0.25, 0.25), (np.float32(0.25), 0.25), (Fraction(1, 8), 0.125)],
        [-0.1, 1.1, math.nan, "1", None, True],
    ),
    "simulate_damaged": (False, [(True, True)], [0, 1, None, "no"]),
    "verify": ("lazy", [("open", "open"), ("never", "never")], ["", "always", None, False]),
    "on_full": ("crystallize", [("raise", "raise"), ("drop", "drop")], ["", "wait", None]),
    "on_close": ("crystallize", [("raise", "raise"), ("drop", "drop")], ["", "save", None]),
    "durability": ("each", [("batch", "batch")], ["", "never", None, True]),
    "read_only": (False, [(True, True), (np.True_, True)], [0, 1, None, "no"]),
    "layout": (None, [(default_layout(), default_layout())], [5, "no such file", b""]),
    "follow": ("auto", [("never", "never")], ["", "always", None, True]),
    "lock_timeout_s": (
        10.0, [(None, None), (0, 0.0), (2.5, 2.5), (np.float32(0.5), 0.5)], [-1, math.inf, math.nan, True, "10"]
    ),
    "follow_links": (False, [(True, True), (np.True_, True)], [0, 1, None, "no"]),
    "guard": ("reads", [("copy", "copy"), ("lease", "lease"), ("auto", "auto")], ["", "none", None, True]),
    "max_metadata_mb": (
        256, [(16, 16), ("16MB", 16), (0.5, 0.5), (np.float32(0.5), 0.5)], [0, -1, math.nan, True, None, "", 1e-9]
    ),
    "strict_classes": (False, [(True, True)], [0, 1, None, "no"]),
    "scrub": (False, [(True, True), (np.True_, True), (np.array(True), True)], [0, 1, None, "no"]),
    "guard_sample": (0, [(1000, 1000), (np.uint8(7), 7), (2**32 - 1, 2**32 - 1)], [-1, 2**32, 1.0, "1", None, True]),
    "record_latency": (True, [(False, False)], [0, 1, None, "no"]),
    "trace": (False, [(True, True)], [0, 1, None, "no"]),
    "pressure_source": ("none", [("psi", "psi"), (Path("/a/b"), "/a/b"), ("./fifo", "./fifo")], ["no", "", 1, None]),
    "pressure_keep_mb": (0, [("16MB", 16), (0.5, 0.5), (0, 0)], [-1, "many", None, 1 << 30]),
    "text_cache_mb": (0, [("16MB", 16), (0.5, 0.5), (0, 0)], [-1, "many", None, 1 << 30]),
}  # fmt: skip


def test_table_holds_every_field():
    assert list(FIELDS) == [field.name for field in dataclasses.fields(MemoryConfig)]


@pytest.mark.parametrize(("field", "default"), [(field, row[0]) for field, row in FIELDS.items()])
def test_field_has_its_default(field, default):
    assert getattr(MemoryConfig(), field) == default


@pytest.mark.parametrize(
    ("field", "given", "kept"), [(field, given, kept) for field, row in FIELDS.items() for given, kept in row[1]]
)
def test_field_takes(field, given, kept):
    value = getattr(MemoryConfig(**{field: given}), field)
    assert value == kept
    assert type(value) is type(kept)


@pytest.mark.parametrize(("field", "value"), [(field, value) for field, row in FIELDS.items() for value in row[2]])
def test_field_refuses_and_is_named(field, value):
    with pytest.raises(ValueError, match=field):
        MemoryConfig(**{field: value})


@pytest.mark.parametrize("field", sorted(FIELDS))
@pytest.mark.parametrize("value", [10**400, -(10**400), Fraction(10**400), Decimal("1e9999")])
def test_number_that_no_float_holds_is_refused_and_the_field_is_named(field, value):
    if field == "simulation_seed" and isinstance(value, int):
        assert MemoryConfig(simulation_seed=value).simulation_seed == value
    else:
        with pytest.raises(ValueError, match=f"^{field}: "):
            MemoryConfig(**{field: value})


def test_config_is_frozen_compared_hashed_and_pickled():
    config = MemoryConfig(total_memory_mb="64MB", scrub=True)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.scrub = False
    assert config == MemoryConfig(total_memory_mb=64, scrub=True)
    assert hash(config) == hash(MemoryConfig(total_memory_mb=64, scrub=True))
    assert pickle.loads(pickle.dumps(config)) == config
    with pytest.raises(TypeError):
        MemoryConfig(64)


def test_config_tells_bytes_and_thresholds():
    config = MemoryConfig(total_memory_mb=0.5, warning_threshold=10, eviction_threshold=20, critical_threshold=30)
    assert (config.total_bytes, type(config.total_bytes)) == (524288, int)
    assert config.thresholds == (10.0, 20.0, 30.0)


def test_replaced_field_is_checked_and_the_others_stay():
    config = MemoryConfig(total_memory_mb=64)
    assert config.replace(verify="open") == MemoryConfig(total_memory_mb=64, verify="open")
    assert config.verify == "lazy"
    with pytest.raises(ValueError, match="verify: 'no' is not one of lazy, open, never"):
        config.replace(verify="no")
    with pytest.raises(ValueError, match="verfy: no such field; there are base_path, "):
        config.replace(verfy="open")


def test_config_as_a_dict_is_json_and_makes_the_same_config():
    config = MemoryConfig(base_path=Path("/a/b"), pool_configs=((1, 64),))
    fields = json.loads(json.dumps(config.to_dict()))
    assert (fields["base_path"], fields["pool_configs"]) == ("/a/b", [[1, 64]])
    assert MemoryConfig.of(fields) == config
    assert set(fields) == {field.name for field in dataclasses.fields(MemoryConfig)}


def test_config_is_read_from_toml(tmp_path):
    path = tmp_path / "config.toml"
    fields = 'total_memory_mb = "1GiB"\npool_configs = [[8, 4096], ["16MB", 16384]]\nverify = "open"\n'
    expected = MemoryConfig(total_memory_mb=1024, pool_configs=((8, 4096), (16, 16384)), verify="open")
    path.write_text(fields)
    assert MemoryConfig.from_toml(path) == expected
    path.write_text(f"[other]\nx = 1\n[jessy_mem]\n{fields}")
    assert MemoryConfig.from_toml(str(path)) == expected
    path.write_text("")
    assert MemoryConfig.from_toml(path) == MemoryConfig()


@pytest.mark.parametrize(
    ("text", "message"),
    [("verify = 'no'", "verify"), ("nothing = 1", "nothing: no such field"), ("verify = ", "(?i)invalid"),
     ("jessy_mem = 5", "jessy_mem: 5 is not a table"), ("[other]\nx = 1", "other: no such field"),
     (f"a = {'[' * 9000}", "(?i)nested|invalid|unclosed")],
)  # fmt: skip
def test_toml_that_is_wrong_says_how(text, message, tmp_path):
    (tmp_path / "config.toml").write_text(text)
    with pytest.raises(ValueError, match=message):
        MemoryConfig.from_toml(tmp_path / "config.toml")


def test_toml_that_is_missing_is_file_not_found(tmp_path):
    with pytest.raises(FileNotFoundError):
        MemoryConfig.from_toml(tmp_path / "config.toml")


@pytest.mark.parametrize(
    ("size", "expected"),
    [(1, 1), (1.5, 1.5), ("1", 1), ("1.5", 1.5), ("1k", 2**-10), ("1 KiB", 2**-10), ("3m", 3), ("2gb", 2048),
     ("1TiB", 2**20), (" 7 MB ", 7), ("0", 0)],
)  # fmt: skip
def test_size_is_mib(size, expected):
    assert parse_size_mb(size) == expected


@pytest.mark.parametrize("size", ["", "m", "1 x", "1mbb", "1.", ".5", "-1", "1 2", "0x10", "٣", None, True, b"1", (1,)])
def test_text_that_is_no_size_is_refused(size):
    with pytest.raises(ValueError, match="is not a size"):
        parse_size_mb(size)


@pytest.mark.parametrize("pools", [given for given, _ in FIELDS["pool_configs"][1]])
def test_pools_that_the_configuration_takes_make_a_pool(pools):
    kept = MemoryConfig(pool_configs=pools).pool_configs
    for each in (pools, kept):
        stats = PoolAllocator(each).stats()
        assert [(one.n_blocks * one.block_size / (1 << 20), one.block_size) for one in stats.classes] == list(kept)


@pytest.mark.parametrize("pools", FIELDS["pool_configs"][2])
def test_pools_that_the_configuration_refuses_make_no_pool(pools):
    if pools is not None:  # here: the default
        with pytest.raises(ValueError, match="pools: "):
            PoolAllocator(pools)


@pytest.mark.parametrize("total_mb", FIELDS["total_memory_mb"][2])
def test_total_that_the_configuration_refuses_makes_no_pool(total_mb):
    with pytest.raises(ValueError, match="limit_mb: "):
        PoolAllocator(limit_mb=total_mb)


def test_pools_may_be_iterators_which_are_read_once():
    assert MemoryConfig(pool_configs=iter([iter([np.uint8(1), np.uint8(64)])])).pool_configs == ((1, 64),)
    assert MemoryConfig(pool_configs=((1, 64 << i) for i in range(3))).pool_configs == ((1, 64), (1, 128), (1, 256))


def test_default_pools_add_up_to_the_plan():
    assert sum(size_mb for size_mb, _ in DEFAULT_POOLS) == 280


def test_base_folder_stays_the_same_when_the_process_changes_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = MemoryConfig(base_path="../data")
    assert config.base_path == f"{tmp_path}/../data"  # what a symbolic link leads to is not guessed
    monkeypatch.chdir("/")
    assert config.replace(scrub=True).base_path == config.base_path
    assert pickle.loads(pickle.dumps(config)) == config
    assert MemoryConfig.of(config.to_dict()) == config


def test_relative_base_in_a_folder_that_is_gone_is_refused(tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(ValueError, match="base_path: 'data' cannot be made absolute"):
        MemoryConfig(base_path="data")
    assert MemoryConfig(base_path="/data").base_path == "/data"


@pytest.mark.parametrize(
    "given", ["data/consciousness", "./here", "notes.d", Path("data"), b"data", "~/memory", "my data"]
)
def test_folder_in_the_place_of_the_size_is_told_where_it_goes(given):
    with pytest.raises(ValueError, match=r"total_memory_mb: .*base_path="):
        MemoryConfig(total_memory_mb=given)


def test_configuration_that_is_given_without_its_name_is_told_how():
    with pytest.raises(ValueError, match=r"^total_memory_mb: a MemoryConfig is not a size; it is given by name"):
        MmapManager(MemoryConfig())


@pytest.mark.parametrize("given", ["280XB", "-1MB", "1e3", "", "1.5.2 GB"])
def test_size_that_is_mistyped_is_not_taken_for_a_folder(given):
    with pytest.raises(ValueError, match="is not a size") as caught:
        MemoryConfig(total_memory_mb=given)
    assert "base_path" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"base_path": "x"}, r"config: dict is no MemoryConfig; a mapping is given as \*\*fields"),
        ("memory.toml", r"config: str is no MemoryConfig; MemoryConfig\.from_toml\('memory\.toml'\) reads a file"),
        (Path("x"), r"config: PosixPath is no MemoryConfig; .*base_path= names the base folder"),
        (5, "config: int is no MemoryConfig$"),
    ],
)
def test_what_is_no_configuration_is_told_how_one_is_made(given, message):
    with pytest.raises(TypeError, match=message):
        MmapManager(config=given)


def test_options_for_type_checkers_are_the_fields():
    fields = get_type_hints(MemoryConfig)
    assert get_type_hints(MemoryFields) == fields
    assert get_type_hints(MemoryOptions) == {name: kind for name, kind in fields.items() if name != "total_memory_mb"}


@pytest.mark.parametrize("field", ["eviction_policy", "simulation", "verify", "on_full"])
def test_choices_for_type_checkers_are_those_that_are_taken(field):
    choices = get_args(get_type_hints(MemoryConfig)[field])
    assert choices
    for choice in choices:
        assert getattr(MemoryConfig(**{field: choice}), field) == choice
    with pytest.raises(ValueError, match=f"not one of {', '.join(choices)}"):
        MemoryConfig(**{field: "none of them"})
