"""The configuration of a manager: one frozen dataclass, every field checked when it is made."""

from __future__ import annotations

import dataclasses
import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack

from jessy_mem import given
from jessy_mem.forking import imported
from jessy_mem.layout import MemoryLayout, default_layout
from jessy_mem.sizes import (
    DEFAULT_POOLS,
    MAX_SIZE_MB,
    check_guard_sample,
    check_pools,
    check_total_mb,
    parse_size_mb,
    size_bytes,
)

__all__ = ["MemoryConfig", "MemoryFields", "MemoryOptions"]

Policy = Literal["sieve", "lru", "lfu"]
Simulation = Literal["auto", "never", "always"]
Verify = Literal["lazy", "open", "never"]
Guard = Literal["auto", "reads", "lease", "copy"]
OnFull = Literal["crystallize", "raise", "drop"]
OnClose = Literal["crystallize", "drop", "raise"]
Durability = Literal["each", "batch"]
Follow = Literal["auto", "never"]


class MemoryOptions(TypedDict, total=False):
    """The fields of MemoryConfig but the first, for type checkers: what ``MmapManager(...)`` takes by name."""

    base_path: str | os.PathLike[str]
    pool_configs: tuple[tuple[int | float, int], ...]
    enable_warnings: bool
    warning_threshold: float
    eviction_threshold: float
    critical_threshold: float
    eviction_policy: Policy
    simulation: Simulation
    simulation_seed: int
    simulation_scale: float
    simulate_damaged: bool
    verify: Verify
    on_full: OnFull
    on_close: OnClose
    durability: Durability
    read_only: bool
    layout: MemoryLayout | str | os.PathLike[str] | None
    follow: Follow
    lock_timeout_s: int | float | None
    follow_links: bool
    guard: Guard
    max_metadata_mb: int | float | str
    strict_classes: bool
    scrub: bool
    guard_sample: int
    record_latency: bool
    trace: bool
    pressure_source: str | os.PathLike[str]
    pressure_keep_mb: int | float | str
    text_cache_mb: int | float | str


class MemoryFields(MemoryOptions, total=False):
    """All fields of MemoryConfig, for type checkers."""

    total_memory_mb: int | float | str


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryConfig:
    """What a manager is made with. Sizes are MiB (or text such as ``"280MB"``), thresholds percent of the total.

    Parameters
    ----------
    total_memory_mb : int, float or str
        The budget: nothing is mapped or allocated beyond it. A total above the plan's scales the plan.
    base_path : path-like
        The base folder, with a folder for each dimension. Made absolute here, and ``~`` expanded, so that it stays the
        same when the process changes its own.
    pool_configs : tuple of (MiB, block size in bytes)
        The size classes of the pool; a block size is a power of two.
    enable_warnings : bool
        Log when a threshold is passed, at most every ten seconds; callbacks (`on_pressure`) are called anyway.
    warning_threshold : float
        Percent of the total from which on the pressure is "warning".
    eviction_threshold : float
        Percent from which on the pressure is "eviction": regions are evicted until 70 percent are in use.
    critical_threshold : float
        Percent from which on the pressure is "critical". The three ascend.
    eviction_policy : str
        Who goes first: "sieve", "lru" or "lfu".
    simulation : str
        What a dimension without a file is: with "auto" invented text, and a warning; with "never" an error; with
        "always" files are not even looked for.
    simulation_seed : int
        Other seeds give other texts.
    simulation_scale : float
        0..1: simulated dimensions fill that share of their slots. 0 makes them as small as their text.
    simulate_damaged : bool
        A simulation stands in for a damaged file, too.
    verify : str
        When content is compared with its checksums: "lazy" (each layer on first access), "open" (all of it, when a file
        is loaded) or "never".
    on_full : str
        What makes room when eviction cannot: proto-dimensions become files ("crystallize") or are given up ("drop"); or
        nothing does ("raise").
    on_close : str
        What the end does with proto-dimensions that have no file: "crystallize", "drop" or "raise" (UnsavedLearning).
    durability : str
        When a change is on the disk: "each" (when the call returns) or "batch" (after ``sync()``, ``close()``, or a
        second later, when something is learned again).
    read_only : bool
        Nothing is written into the base folder; learning is refused (ReadOnly).
    layout : MemoryLayout or path-like, optional
        The plan, or the path of a ``dimensions.json``; None is the bundled plan.
    follow : str
        With "auto" an access sees what other processes learned, changed and forgot; with "never" only ``refresh()``
        does.
    lock_timeout_s : float, optional
        How long to wait for other processes that write, in seconds; None is for ever. Then LockTimeout.
    follow_links : bool
        A dimension may be read through a link in the base folder, which else is LinkRefused. Nothing is ever written or
        removed through one. `base_path` itself may be a link, and so may a path that you name.
    guard : str
        Against files that are shortened while they are mapped. With "reads" what is read of one is right or an error;
        with "copy" every file is copied when it is loaded, and nothing happens to it; with "lease" it is copied when
        somebody is about to shorten it, and with "auto" where the system announces that.
    max_metadata_mb : int, float or str
        The most that is read of a file before it is mapped; one that asks for more is an InvalidRegion.
    strict_classes : bool
        Each size class of the pool keeps within its own size; else one that is full borrows from a larger one.
    scrub : bool
        Blocks of the pool are zeroed when they are given back.
    guard_sample : int
        One in so many blocks of the pool, 1000 for example, lies before a page that faults, so that native code which
        writes past its block ends there, and not in a neighbour; it takes the next larger block. 0: none.
    record_latency : bool
        Record how long operations take; without it everything is still counted.
    trace : bool
        Note where views are taken, for ``leases()``; it makes each access slower.
    pressure_source : str or path-like
        Who tells that the memory of the whole system is short, upon which ``cool()`` is done: "psi" (the kernel, by
        ``/proc/pressure/memory``), "systemd" (by ``MEMORY_PRESSURE_WATCH``), a path (a ``memory.pressure`` of a cgroup,
        a FIFO or a socket), "auto" (systemd or the kernel, whichever there is) or "none". MappingError if it is not
        there.
    pressure_keep_mb : int, float or str
        How much of the mapped files stays in this process then.
    text_cache_mb : int, float or str
        How much decoded text is kept, so that the ``.text`` of a layer that was decoded before costs a lookup. It is
        part of the budget, charged as `allocate` is, and only as long as that passes no threshold; it goes before any
        region is evicted. 0 keeps none.

    Numbers may be of any type: numpy scalars, Decimal, Fraction. ValueError names the first field that is wrong.

    >>> MemoryConfig(total_memory_mb="64MB").total_bytes
    67108864
    """

    total_memory_mb: int | float | str = 280
    base_path: str | os.PathLike[str] = "data/consciousness"
    pool_configs: tuple[tuple[int | float, int], ...] = DEFAULT_POOLS
    enable_warnings: bool = True
    warning_threshold: float = 75.0
    eviction_threshold: float = 85.0
    critical_threshold: float = 95.0
    eviction_policy: Policy = "sieve"
    simulation: Simulation = "auto"
    simulation_seed: int = 0
    simulation_scale: float = 0.0
    simulate_damaged: bool = False
    verify: Verify = "lazy"
    on_full: OnFull = "crystallize"
    on_close: OnClose = "crystallize"
    durability: Durability = "each"
    read_only: bool = False
    layout: MemoryLayout | str | os.PathLike[str] | None = None
    follow: Follow = "auto"
    lock_timeout_s: int | float | None = 10.0
    follow_links: bool = False
    guard: Guard = "reads"
    max_metadata_mb: int | float | str = 256
    strict_classes: bool = False
    scrub: bool = False
    guard_sample: int = 0
    record_latency: bool = True
    trace: bool = False
    pressure_source: str | os.PathLike[str] = "none"
    pressure_keep_mb: int | float | str = 0
    text_cache_mb: int | float | str = 0

    def __post_init__(self) -> None:
        for field, check in _CHECKS.items():
            try:
                value = check(getattr(self, field))
            except (TypeError, ValueError) as error:
                raise ValueError(f"{field}: {error}") from None
            object.__setattr__(self, field, value)
        low, middle, high = self.thresholds
        if not 0 < low <= middle <= high <= 100:
            raise ValueError(
                f"warning_threshold, eviction_threshold, critical_threshold: {low}, {middle}, {high} "
                "are not ascending percentages"
            )

    @property
    def total_bytes(self) -> int:
        """The limit of the whole budget in bytes."""
        assert not isinstance(self.total_memory_mb, str)
        return int(self.total_memory_mb * (1 << 20))

    @property
    def max_metadata_bytes(self) -> int:
        """The most that is read of a file before it is mapped, in bytes."""
        return size_bytes("max_metadata_mb", self.max_metadata_mb)

    @property
    def pressure_keep_bytes(self) -> int:
        """How much of the mapped files stays in this process when memory is short, in bytes."""
        assert not isinstance(self.pressure_keep_mb, str)
        return int(self.pressure_keep_mb * (1 << 20))

    @property
    def text_cache_bytes(self) -> int:
        """How much decoded text is kept at most, in bytes."""
        assert not isinstance(self.text_cache_mb, str)
        return int(self.text_cache_mb * (1 << 20))

    @property
    def plan(self) -> MemoryLayout:
        """The layout, as it is for its own total."""
        return self.layout if isinstance(self.layout, MemoryLayout) else default_layout()

    @property
    def thresholds(self) -> tuple[float, float, float]:
        """The warning, eviction and critical threshold, in percent."""
        return self.warning_threshold, self.eviction_threshold, self.critical_threshold

    @classmethod
    def from_toml(cls, path: str | os.PathLike[str]) -> MemoryConfig:
        """Read the fields from the table ``[jessy_mem]`` of a TOML file, or from its top level if there is none.

        ValueError for what is no TOML, or no configuration.
        """
        tomllib = imported("tomllib")  # a twentieth of what the import of the package costs, for those who need it
        try:
            table = tomllib.loads(given.text_of(path))
        except tomllib.TOMLDecodeError as error:
            raise ValueError(f"{os.fspath(path)}: {error}") from None
        except RecursionError:
            raise ValueError(f"{os.fspath(path)}: it is nested too deeply") from None
        fields = table.get("jessy_mem", table)
        if not isinstance(fields, dict):
            raise ValueError(f"jessy_mem: {fields!r} is not a table")
        return cls.of(fields)

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> MemoryConfig:
        """Make a configuration from a mapping; ValueError names a field that does not exist."""
        known = {field.name for field in dataclasses.fields(cls)}
        for name in fields:
            if name not in known:
                raise ValueError(f"{name}: no such field; there are {', '.join(sorted(known))}")
        return cls(**fields)

    @staticmethod
    def _given(config: object) -> MemoryConfig:
        """`config`, if it is one; TypeError, for what one is made of, says how."""
        if isinstance(config, MemoryConfig):
            return config
        how = ""
        if isinstance(config, Mapping):
            how = "; a mapping is given as **fields"
        elif isinstance(config, (str, os.PathLike)):
            how = f"; MemoryConfig.from_toml({os.fspath(config)!r}) reads a file, base_path= names the base folder"
        raise TypeError(f"config: {type(config).__name__} is no MemoryConfig{how}")

    def replace(self, **changes: Unpack[MemoryFields]) -> MemoryConfig:
        """A copy with some fields changed, checked like a new one."""
        return self.of({**{field.name: getattr(self, field.name) for field in dataclasses.fields(self)}, **changes})

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON-serialisable values."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return fields | {
            "base_path": os.fspath(self.base_path),
            "pressure_source": os.fspath(self.pressure_source),
            "layout": None if self.layout is None else repr(self.layout),
            "pool_configs": [list(pool) for pool in self.pool_configs],
        }


def _one_of(*choices: str) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        if value not in choices:
            raise ValueError(f"{value!r} is not one of {', '.join(choices)}")
        return str(value)

    return check


def _seed(value: Any) -> int:
    if isinstance(given.scalar(value), bool):
        raise ValueError(f"{value!r} is not an int")
    return given.integer(value)


def _number(value: Any) -> float:
    """A number, infinite if it is too large for a float, or nan for what is none."""
    try:
        return given.number(given.amount(value))
    except (TypeError, ValueError):
        return math.nan


def _percent(value: Any) -> float:
    percent = _number(value)
    if not 0 < percent <= 100:
        raise ValueError(f"{value!r} is not a percentage above 0 and up to 100")
    return percent


def _share(value: Any) -> float:
    share = _number(value)
    if not 0 <= share <= 1:
        raise ValueError(f"{value!r} is not a share of 0..1")
    return share


def _total_mb(value: Any) -> int | float:
    if isinstance(value, (bytes, os.PathLike)):
        raise ValueError(f"{value!r} is not a size; a folder is given by name: base_path={os.fspath(value)!r}")
    if isinstance(value, MemoryConfig):
        raise ValueError("a MemoryConfig is not a size; it is given by name: config=...")
    try:
        return check_total_mb(value)
    except ValueError as error:
        if isinstance(value, str) and not re.match(r"\s*([-+.]?[0-9]|$)", value):
            raise ValueError(f"{error}; a folder is given by name: base_path={value!r}") from None
        raise


def _base_path(value: Any) -> str:
    """The folder, absolute, so that it stays the same when the process changes its own."""
    path = os.fsdecode(value)
    if not path or "\0" in path:
        raise ValueError(f"{value!r} is not a path")
    try:
        return os.fspath(Path(path).expanduser().absolute())
    except (OSError, RuntimeError) as error:  # the current folder is gone, or there is no such user
        raise ValueError(f"{value!r} cannot be made absolute: {error}") from None


def _pressure_source(value: Any) -> str:
    name = os.fsdecode(value)
    if name not in ("none", "psi", "systemd", "auto") and ("/" not in name or "\0" in name):
        raise ValueError(f"{value!r} is not one of none, psi, systemd, auto, nor a path with a slash")
    return name


def _keep_mb(value: Any) -> int | float:
    size_mb = parse_size_mb(value)
    if not 0 <= size_mb <= MAX_SIZE_MB:
        raise ValueError(f"{value!r} is not a size of 0 to {MAX_SIZE_MB} MiB")
    return size_mb


def _layout(value: Any) -> MemoryLayout | None:
    if value is None or isinstance(value, MemoryLayout):
        return value
    try:
        return MemoryLayout.from_json(value)
    except OSError as error:
        raise ValueError(str(error)) from None


def _timeout_s(value: Any) -> float | None:
    if value is None:
        return None
    timeout_s = given.number(given.amount(value))
    if not 0 <= timeout_s < float("inf"):
        raise ValueError(f"{value!r} is not a number of seconds, nor None")
    return timeout_s


_CHECKS: dict[str, Callable[[Any], Any]] = {
    "total_memory_mb": _total_mb,
    "base_path": _base_path,
    "pool_configs": check_pools,
    "enable_warnings": given.flag,
    "warning_threshold": _percent,
    "eviction_threshold": _percent,
    "critical_threshold": _percent,
    "eviction_policy": _one_of("sieve", "lru", "lfu"),
    "simulation": _one_of("auto", "never", "always"),
    "simulation_seed": _seed,
    "simulation_scale": _share,
    "simulate_damaged": given.flag,
    "verify": _one_of("lazy", "open", "never"),
    "on_full": _one_of("crystallize", "raise", "drop"),
    "on_close": _one_of("crystallize", "drop", "raise"),
    "durability": _one_of("each", "batch"),
    "read_only": given.flag,
    "layout": _layout,
    "follow": _one_of("auto", "never"),
    "lock_timeout_s": _timeout_s,
    "follow_links": given.flag,
    "guard": _one_of("auto", "reads", "lease", "copy"),
    "max_metadata_mb": check_total_mb,
    "strict_classes": given.flag,
    "scrub": given.flag,
    "guard_sample": check_guard_sample,
    "record_latency": given.flag,
    "trace": given.flag,
    "pressure_source": _pressure_source,
    "pressure_keep_mb": _keep_mb,
    "text_cache_mb": _keep_mb,
}
