"""Texts that several processes read without a copy and add to: mapped files, under one hard limit of memory.

==============  ====================================================================================
to              there is
==============  ====================================================================================
read            :class:`MmapManager`, :class:`Reader`, :class:`LayerView`, :class:`LayerId`, :class:`ContextCollection`
write           :class:`RegionBuilder`, :class:`LayerSpec`, :class:`MmapRegion` (one file, no manager)
allocate        :class:`PoolAllocator`, :class:`Block`
measure         :class:`MemoryStats`, :class:`LatencyHistogram`, :func:`metrics`; :mod:`jessy_mem.exporters`
look at         :class:`MemoryMap`, :func:`plot_map`, :func:`plot_latency`, :func:`plot_budget`, :func:`plot_advice`
examine         :func:`verify_region` (one file), :func:`stack_files` and :func:`region_files` (what a dimension
                consists of), :func:`examine` and :func:`clean` (a base folder)
carry           :func:`export_base`, :func:`import_base`
configure       :class:`MemoryConfig`
catch           :mod:`jessy_mem.errors`, all under :class:`ConsciousnessError`
==============  ====================================================================================

Everything not exported here is private. Importing it prints nothing, starts nothing and reads no file.
"""

import logging

from jessy_mem import errors

try:
    from jessy_mem._core.latency import LatencyHistogram
except ImportError as error:  # pragma: no cover -- seen in copies of the package and in other interpreters only
    if "interpreter" in str(error):  # CPython's words, or Cython's
        raise ImportError(
            "jessy_mem is loaded once in a process, and by no interpreter with a lock (GIL) of its own: its memory, "
            "signal handler and locks are the process's. Use threads, or processes"
        ) from error
    if not isinstance(error, ModuleNotFoundError) or not (error.name or "").startswith("jessy_mem._core."):
        raise
    raise ImportError(
        f"jessy_mem is imported from a folder where its extensions are not built for this Python: {__path__[0]}\n"
        "If that is a source tree, start Python in another folder, where the installed package is found; or build it "
        "there: pip install -e ."
    ) from None
from jessy_mem._core.pool import Block, PoolAllocator
from jessy_mem._core.reader import Reader
from jessy_mem._core.region import MmapRegion
from jessy_mem._core.view import LayerView
from jessy_mem.advice import ReplayResult, advise, parse_budget
from jessy_mem.archive import Exported, Imported, export_base, import_base
from jessy_mem.builder import LayerSpec, RegionBuilder
from jessy_mem.config import MemoryConfig
from jessy_mem.context import (
    ContextCollection,
    InterferenceEngine,
    LayerBatch,
    LoadedContext,
    NavigationPath,
    Navigator,
)
from jessy_mem.doctor import Finding, RegionFile, clean, examine, region_files, stack_files, verify_region
from jessy_mem.errors import (
    AllocationFailed,
    AlreadyPublished,
    ChecksumMismatch,
    ConsciousnessError,
    DimensionAlreadyLoaded,
    DimensionExists,
    DimensionNotFound,
    DoubleFree,
    ImmutableDimension,
    ImportConflict,
    InvalidArchive,
    InvalidRegion,
    LayerNotFound,
    LimitExceeded,
    LinkRefused,
    LockTimeout,
    ManagerClosed,
    MappingError,
    OutOfBounds,
    ReadOnly,
    RegionNotFound,
    RegionTruncated,
    UnsavedLearning,
)
from jessy_mem.exporters import Sample, metrics
from jessy_mem.following import Changes
from jessy_mem.layout import LayerId, MemoryLayout, data_folder, default_layout, region_path
from jessy_mem.manager import MmapManager
from jessy_mem.memory_map import MapEntry, MapSegment, MemoryMap
from jessy_mem.plots import plot_advice, plot_budget, plot_latency, plot_map
from jessy_mem.simulation import create_simulated_contexts
from jessy_mem.snapshot import Snapshot
from jessy_mem.stats import LatencySummary, Lease, LoadReport, MemoryStats, PoolStats

__version__ = "0.1.0"

__all__ = [
    "AllocationFailed",
    "AlreadyPublished",
    "Block",
    "Changes",
    "ChecksumMismatch",
    "ConsciousnessError",
    "ContextCollection",
    "DimensionAlreadyLoaded",
    "DimensionExists",
    "DimensionNotFound",
    "DoubleFree",
    "Exported",
    "Finding",
    "ImmutableDimension",
    "ImportConflict",
    "Imported",
    "InterferenceEngine",
    "InvalidArchive",
    "InvalidRegion",
    "LatencyHistogram",
    "LatencySummary",
    "LayerBatch",
    "LayerId",
    "LayerNotFound",
    "LayerSpec",
    "LayerView",
    "Lease",
    "LimitExceeded",
    "LinkRefused",
    "LoadReport",
    "LoadedContext",
    "LockTimeout",
    "ManagerClosed",
    "MapEntry",
    "MapSegment",
    "MappingError",
    "MemoryConfig",
    "MemoryLayout",
    "MemoryMap",
    "MemoryStats",
    "MmapManager",
    "MmapRegion",
    "NavigationPath",
    "Navigator",
    "OutOfBounds",
    "PoolAllocator",
    "PoolStats",
    "ReadOnly",
    "Reader",
    "RegionBuilder",
    "RegionFile",
    "RegionNotFound",
    "RegionTruncated",
    "ReplayResult",
    "Sample",
    "Snapshot",
    "UnsavedLearning",
    "advise",
    "clean",
    "create_simulated_contexts",
    "data_folder",
    "default_layout",
    "errors",
    "examine",
    "export_base",
    "import_base",
    "metrics",
    "parse_budget",
    "plot_advice",
    "plot_budget",
    "plot_latency",
    "plot_map",
    "region_files",
    "region_path",
    "stack_files",
    "verify_region",
]

logging.getLogger("jessy_mem").addHandler(logging.NullHandler())
