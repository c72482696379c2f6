"""Limits that the system sets to the memory of this process and of others in its control group (cgroup v2 of Linux)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

__all__ = ["GroupMemory", "group_memory"]


class GroupMemory(NamedTuple):
    """Bytes; None: no limit, or nobody says."""

    limit_bytes: int | None  # the lowest memory.max of the group and those around it
    high_bytes: int | None  # the lowest memory.high, above which the system slows them down
    used_bytes: int | None  # by the group


def group_memory(
    root: str | os.PathLike[str] = "/sys/fs/cgroup", membership: str | os.PathLike[str] = "/proc/self/cgroup"
) -> GroupMemory:
    """What the files of the groups below `root` say, of which `membership` names the one of this process."""
    try:
        found = [
            line[3:]
            for line in Path(membership).read_text(encoding="utf-8", errors="surrogateescape").splitlines()
            if line.startswith("0::/")
        ]
    except OSError:
        found = []
    if not found or "/.." in found[0]:  # outside of what this process can see
        return GroupMemory(None, None, None)
    base = Path(root)
    own = base / found[0].lstrip("/")
    groups = [own, *(each for each in own.parents if each.is_relative_to(base))]
    limits = [_bytes_in(group / "memory.max") for group in groups]
    highs = [_bytes_in(group / "memory.high") for group in groups]
    return GroupMemory(_lowest(limits), _lowest(highs), _bytes_in(own / "memory.current"))


def _lowest(values: list[int | None]) -> int | None:
    return min((value for value in values if value is not None), default=None)


def _bytes_in(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):  # "max", or a kernel that does not know it
        return None
