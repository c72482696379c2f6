"""What pickle takes to another process: a manager as what it is made with and what it has loaded; views and regions by
reference, as the file that they are of.

A file of a generation never changes, so a reference gives the very bytes it was made of, or an error. They are found in
an open manager of this process, where they are paid for; else the file is opened alone, as MmapRegion does.
"""

from __future__ import annotations

import copyreg
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, Protocol, TypeVar
from weakref import WeakValueDictionary

from jessy_mem._core import guard
from jessy_mem._core.image import Image
from jessy_mem._core.mapping import private_memory
from jessy_mem._core.region import MmapRegion, make_region
from jessy_mem._core.stack import open_stack
from jessy_mem._core.view import LayerView
from jessy_mem.config import MemoryConfig
from jessy_mem.ending import open_ones
from jessy_mem.errors import ConsciousnessError, LayerNotFound, ManagerClosed, RegionNotFound, UnsavedLearning
from jessy_mem.opening import Opener

__all__ = ["manager_at", "manager_state", "region_at", "view_at"]

Loaded = tuple[tuple[int, str | None], ...]  # the dimensions, and the paths that were named for them
_MAX_DECOMPRESSED_BYTES = 64 << 20  # what views of a file that is opened alone may take, as of an MmapRegion


class Manager(Protocol):
    """What is asked of a manager."""

    @property
    def config(self) -> MemoryConfig: ...
    @property
    def _opener(self) -> Opener: ...

    def _check_open(self) -> None: ...
    def _loaded_ids(self) -> set[int]: ...
    def _known(self, dimension: int) -> Any: ...
    def load_dimension(self, dimension_id: int, path: str | None = None, *, exist_ok: bool = False) -> MmapRegion: ...
    def close(self) -> None: ...


M = TypeVar("M", bound=Manager)


# A manager


def manager_state(memory: Manager) -> tuple[MemoryConfig, Loaded]:
    """What makes another manager like this one; ManagerClosed, UnsavedLearning for what has no file to be read from."""
    memory._check_open()
    known = {dimension: memory._known(dimension) for dimension in sorted(memory._loaded_ids())}
    unsaved = [dimension for dimension, region in known.items() if region is not None and region.source == "pool"]
    if unsaved:
        raise UnsavedLearning(unsaved)
    places = (memory._opener.place_of(dimension) for dimension in known)
    return memory.config, tuple((place.dimension, place.path if place.named else None) for place in places)


def manager_at(kind: Callable[..., M], config: MemoryConfig, loaded: Loaded) -> M:
    """A manager of that configuration that has loaded the same; closed again if one cannot be loaded."""
    memory = kind(config=config)
    try:
        memory._opener.begin_telling_once()
        try:
            for dimension, path in loaded:
                memory.load_dimension(dimension, path, exist_ok=True)
        finally:
            memory._opener.tell_once()
    except BaseException:
        memory.close()
        raise
    return memory


# Views and regions


def view_at(path: str, dimension: int, layer: int, generation: int) -> LayerView:
    """The layer of that generation of the file at `path`; LayerNotFound if it is gone."""
    reference = path, dimension, layer, generation
    for memory in _managers_of(path, dimension):
        with suppress(LayerNotFound, ManagerClosed):
            view: LayerView = memory.access_layer((dimension, layer))
            if view._reference() == reference:
                return view
    try:
        image = _image_at(path, dimension, generation)
    except ConsciousnessError as error:
        raise LayerNotFound(dimension, layer, f"generation {generation} of {path} is gone: {error}") from error
    return make_region(image, image.immutable, private_memory, _MAX_DECOMPRESSED_BYTES).layer(layer)


def region_at(path: str, dimension: int, generation: int) -> MmapRegion:
    """The region of that generation, whose base is the file at `path`; RegionNotFound if it is gone."""
    for memory in _managers_of(path, dimension):
        with suppress(LookupError, ManagerClosed):
            region: MmapRegion = memory.region(dimension)
            if region.generation == generation:
                return region
    try:
        region = MmapRegion(dimension, path)
        found = f"generation {region.generation} is there"
    except ConsciousnessError as error:
        raise RegionNotFound(dimension, f"generation {generation} of {path} is gone: {error}") from error
    if region.generation != generation:
        raise RegionNotFound(dimension, f"generation {generation} of {path} is gone: {found}")
    return region


def _managers_of(path: str, dimension: int) -> Iterator[Any]:
    """The open managers that read `dimension` from the folder of the file at `path`."""
    folder = os.path.dirname(path)
    for memory in open_ones():
        place = memory._opener.place_of(dimension)  # type: ignore[attr-defined]
        with suppress(OSError):
            if os.path.samefile(os.path.dirname(place.path), folder):
                yield memory


_alone: WeakValueDictionary[tuple[str, int], Image] = WeakValueDictionary()  # what views that are alone have mapped


def _image_at(path: str, dimension: int, generation: int) -> Image:
    """The one file, mapped once for all views of it."""
    image = _alone.get((path, generation))
    if image is None or image.identity != _identity_of(path):
        guard.install()
        (image,) = open_stack(path, dimension, deltas=False)
        if image.generation != generation:
            raise RegionNotFound(dimension, f"generation {image.generation} is there")
        _alone[path, generation] = image
    return image


def _identity_of(path: str) -> tuple[int, int, int, int] | None:
    with suppress(OSError):
        info = os.stat(path)
        return info.st_dev, info.st_ino, info.st_mtime_ns, info.st_size
    return None


def _reduced_view(view: LayerView) -> tuple[Any, ...]:
    reference = view._reference()
    if reference is None:
        raise TypeError(
            f"{view!r} has no file that another process could read it from: take its bytes() or its text, or "
            "crystallize its dimension first"
        )
    path, *rest = reference
    return view_at, (os.path.abspath(path), *rest)


def _reduced_region(region: MmapRegion) -> tuple[Any, ...]:
    if region._stack[0].identity is None:
        raise TypeError(f"{region!r} has no file that another process could read it from; crystallize it first")
    return region_at, (os.path.abspath(region.path), region.dimension_id, region.generation)


# They are compiled, and know nothing of managers; so what finds them again is told to pickle from here.
copyreg.pickle(LayerView, _reduced_view)  # type: ignore[arg-type]
copyreg.pickle(MmapRegion, _reduced_region)
