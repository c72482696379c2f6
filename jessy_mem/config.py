"""The configuration of a manager: one frozen dataclass, every field checked when it is made."""

from __future__ import annotations

import dataclasses
import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jessy_mem.layout import MemoryLayout
from jessy_mem.sizes import DEFAULT_POOLS, check_pools, check_total_mb

__all__ = ["MemoryConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryConfig:
    """What a manager is made with. Sizes are MiB (or text such as ``"280MB"``), thresholds percent of the total.

    `simulation` is "auto", "never" or "always"; `simulation_scale` (0..1) makes simulated dimensions fill that share of
    their slots; `simulate_damaged` lets a simulation stand in for a damaged file too. `verify` is "lazy", "open" or
    "never"; `on_full` is "crystallize", "raise" or "drop"; `eviction_policy` is "sieve", "lru" or "lfu". `trace` notes
    where views are taken, for ``leases()``; it makes each access slower.

    `on_close` says what the end does with proto-dimensions that have no file: "crystallize", "drop" or "raise".
    `durability` is "each" (what returned is on the disk) or "batch" (it is after ``sync()``, ``close()``, or a second
    later, when something is learned again). With `read_only` nothing is written into the base folder. `layout` is a
    MemoryLayout, or the path of a ``dimensions.json``; None is the bundled plan. With `follow` "auto" an access sees what
    other processes learned, changed and forgot; with "never" only `refresh()` does. `lock_timeout_s` is how long to wait
    for other processes that write, None for ever. `base_path` is made absolute, ``~`` expanded.

    ValueError names the first field that is wrong.

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
    eviction_policy: str = "sieve"
    simulation: str = "auto"
    simulation_seed: int = 0
    simulation_scale: float = 0.0
    simulate_damaged: bool = False
    verify: str = "lazy"
    on_full: str = "crystallize"
    on_close: str = "crystallize"
    durability: str = "each"
    read_only: bool = False
    layout: MemoryLayout | str | os.PathLike[str] | None = None
    follow: str = "auto"
    lock_timeout_s: int | float | None = 10.0
    strict_classes: bool = False
    scrub: bool = False
    record_latency: bool = True
    trace: bool = False

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
    def thresholds(self) -> tuple[float, float, float]:
        """The warning, eviction and critical threshold, in percent."""
        return self.warning_threshold, self.eviction_threshold, self.critical_threshold

    @classmethod
    def from_toml(cls, path: str | os.PathLike[str]) -> MemoryConfig:
        """Read the fields from the table ``[jessy_mem]`` of a TOML file, or from its top level if there is none."""
        with Path(path).open("rb") as file:
            table = tomllib.load(file)
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

    def replace(self, **changes: Any) -> MemoryConfig:
        """A copy with some fields changed, checked like a new one."""
        return self.of({**{field.name: getattr(self, field.name) for field in dataclasses.fields(self)}, **changes})

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON-serialisable values."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return fields | {
            "base_path": os.fspath(self.base_path),
            "layout": None if self.layout is None else repr(self.layout),
            "pool_configs": [list(pool) for pool in self.pool_configs],
        }


def _one_of(*choices: str) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        if value not in choices:
            raise ValueError(f"{value!r} is not one of {', '.join(choices)}")
        return str(value)

    return check


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{value!r} is not True or False")
    return value


def _integer(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{value!r} is not an int")
    return value


def _percent(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 100:
        raise ValueError(f"{value!r} is not a percentage above 0 and up to 100")
    return float(value)


def _share(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise ValueError(f"{value!r} is not a share of 0..1")
    return float(value)


def _base_path(value: Any) -> str:
    path = os.fspath(value)
    if not isinstance(path, str) or not path:
        raise ValueError(f"{value!r} is not a path")
    return os.path.abspath(os.path.expanduser(path))


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
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
        raise ValueError(f"{value!r} is not a number of seconds, nor None")
    return float(value)


_CHECKS: dict[str, Callable[[Any], Any]] = {
    "total_memory_mb": check_total_mb,
    "base_path": _base_path,
    "pool_configs": check_pools,
    "enable_warnings": _flag,
    "warning_threshold": _percent,
    "eviction_threshold": _percent,
    "critical_threshold": _percent,
    "eviction_policy": _one_of("sieve", "lru", "lfu"),
    "simulation": _one_of("auto", "never", "always"),
    "simulation_seed": _integer,
    "simulation_scale": _share,
    "simulate_damaged": _flag,
    "verify": _one_of("lazy", "open", "never"),
    "on_full": _one_of("crystallize", "raise", "drop"),
    "on_close": _one_of("crystallize", "drop", "raise"),
    "durability": _one_of("each", "batch"),
    "read_only": _flag,
    "layout": _layout,
    "follow": _one_of("auto", "never"),
    "lock_timeout_s": _timeout_s,
    "strict_classes": _flag,
    "scrub": _flag,
    "record_latency": _flag,
    "trace": _flag,
}
