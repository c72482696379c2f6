"""Cooling: pages of mapped files go back to the system while everything stays mapped, and views stay what they are.

Only pages that are a file's go, for a file has them still: never what a lease copied, or was simulated, learned or
allocated. A sealed copy is a file in memory: its pages leave this process, and the system has them as before.
"""

from __future__ import annotations

import logging
import os
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from jessy_mem import given
from jessy_mem.errors import ManagerClosed, MappingError
from jessy_mem.table import RegionTable
from jessy_mem.watching import Watch, source_of

__all__ = ["give_back", "watch_for"]

logger = logging.getLogger("jessy_mem")


def give_back(table: RegionTable, keep_bytes: int, to_system: bool) -> int:
    """Give pages back until no more than `keep_bytes` of mapped files are this process's, and free blocks of the pool.

    Texts that were kept go, too; they are not in the number, for when their memory is the system's again nobody says.

    With `to_system` they leave the page cache, too. Returns the bytes that this process does not have any more. No lock
    is held while the system works.
    """
    keep_bytes = given.integer_in("keep_bytes", keep_bytes, 0, 1 << 62)
    with table._lock:
        table._check_open()
        mappings = table._holders.mappings()
    table._texts.clear()
    n_given = 0
    with _pagemap() as pagemap:
        sizes = [mapping.own_bytes(pagemap) for mapping in mappings]
        excess_bytes = sum(sizes) - keep_bytes
        for mapping, n_bytes in zip(mappings, sizes, strict=True):
            if n_given >= excess_bytes:
                break
            if n_bytes:
                mapping.give_back(to_system=to_system)
                n_given += max(n_bytes - mapping.own_bytes(pagemap), 0)  # who reads meanwhile has some again
    return n_given + table._pool.trim()


def watch_for(table: RegionTable) -> Watch | None:
    """What gives pages back when the source of the configuration reports pressure; None: there is none.

    MappingError for a source that cannot be watched, but "auto", of which it is logged. It keeps no table alive.
    """
    config, reference = table.config, weakref.ref(table)

    def cool() -> bool:
        it = reference()
        with suppress(ManagerClosed):
            if it is not None:
                n_bytes = give_back(it, config.pressure_keep_bytes, to_system=True)
                logger.info("memory of the system is short: %d bytes were given back", n_bytes)
                return True
        return False

    try:
        source = source_of(os.fspath(config.pressure_source))
        return None if source is None else Watch(source, cool)
    except MappingError as error:
        if config.pressure_source != "auto":
            raise
        logger.info("memory pressure of the system is not watched: %s", error)
        return None


@contextmanager
def _pagemap() -> Iterator[int]:
    """Which pages this process has, as an open file; -1 where nobody says."""
    fd = -1
    with suppress(OSError):
        fd = os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        if fd >= 0:
            os.close(fd)
