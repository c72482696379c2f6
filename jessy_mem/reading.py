"""What is asked of layers in the same way wherever they are kept: in a manager, or in a snapshot of it.

Finding a layer is LayerRegistry's; who has layers says which there are.
"""

from __future__ import annotations

import itertools
import logging
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from jessy_mem import given
from jessy_mem._core.registry import LayerRegistry
from jessy_mem.context import ContextCollection, LayerBatch, LoadedContext, NavigationPath, layers_on
from jessy_mem.errors import ConsciousnessError, InvalidRegion, LayerNotFound, OutOfBounds
from jessy_mem.forking import imported
from jessy_mem.layout import LayerId
from jessy_mem.notices import Notices

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["contexts_of", "copied", "plain_where", "with_attributes"]

logger = logging.getLogger("jessy_mem")

MAX_THREADS = 64


def contexts_of(
    layers: LayerRegistry, paths: Iterable[NavigationPath], strict: bool, notices: Notices, prefetch: bool
) -> ContextCollection:
    """The layers of all paths as text; one that cannot be found is listed as missing, or raised if `strict`.

    With `prefetch` the pages of all are asked for before the first is read.
    """

    def load(layer_id: LayerId) -> LoadedContext | None:
        try:
            return layers.load_context(layer_id)
        except LayerNotFound:
            if strict:
                raise
            return None

    if prefetch:
        paths = list(paths)
        _ask_for(layers, paths)
    return ContextCollection.collect(paths, load, notices)


def _ask_for(layers: LayerRegistry, paths: Iterable[NavigationPath]) -> None:
    """Let the system read in the layers of all paths, side by side; returns at once. What is not there is left out."""
    wanted: dict[int, dict[int, None]] = {}
    for dimension, layer in itertools.chain.from_iterable(map(layers_on, paths)):
        wanted.setdefault(dimension, {})[layer] = None
    for dimension, numbers in wanted.items():
        with suppress(ConsciousnessError):  # whoever reads it says so
            region = layers._regions.get(dimension) or layers._restore(dimension, next(iter(numbers)))
            region.prefetch(filter(region._has_layer, numbers))


def copied(
    layers: LayerRegistry, layer_ids: Iterable[tuple[int, int]], out: Any = None, threads: int | None = None
) -> LayerBatch:
    """Many layers in one array, `out` if it is given, copied without the GIL; LayerNotFound if one is not there."""
    numpy = imported("numpy")
    n_threads = 1 if threads is None else given.integer_in("threads", threads, 1, MAX_THREADS)
    gathered = layers._gather(layer_ids)
    n_bytes = gathered.n_bytes
    data: Any = numpy.empty(n_bytes, numpy.uint8) if out is None else _room_in(out, n_bytes)
    offsets: Any = numpy.empty(len(gathered) + 1, numpy.int64)
    gathered.offsets(offsets)
    if n_threads == 1:
        gathered.copy(data)
    else:
        bounds = [n_bytes * i // n_threads for i in range(n_threads + 1)]
        parts: list[Any] = []
        with imported("concurrent.futures.thread").ThreadPoolExecutor(n_threads - 1) as others:
            with suppress(RuntimeError):  # no thread can be started: this one copies what is left
                for part in itertools.islice(itertools.pairwise(bounds), n_threads - 1):
                    parts.append(others.submit(gathered.copy, data, *part))
            gathered.copy(data, bounds[len(parts)], n_bytes)
            for copied_part in parts:
                copied_part.result()
    gathered.check()
    layers._count_copies(len(gathered))
    return LayerBatch(data, offsets)


def _room_in(out: Any, n_bytes: int) -> NDArray[np.uint8]:
    """The first `n_bytes` of a writable buffer; OutOfBounds if it has fewer, TypeError if it is none."""
    numpy = imported("numpy")
    try:
        view = memoryview(out)
        if view.readonly:
            raise TypeError("it cannot be written")
        if "O" in re.sub(":[^:]*:", "", view.format):  # which colons enclose are names of fields
            raise TypeError("it holds objects, and not bytes")
        data = numpy.frombuffer(view.cast("B"), numpy.uint8) if view.nbytes else numpy.empty(0, numpy.uint8)
    except TypeError as error:
        raise TypeError(f"out: {type(out).__name__} is no writable buffer, all in one piece: {error}") from None
    if data.size < n_bytes:
        raise OutOfBounds(0, n_bytes, data.size)
    room: NDArray[np.uint8] = data[:n_bytes]
    return room


def with_attributes(
    layers: LayerRegistry, found: list[LayerId], where: Mapping[str, Any] | None, notices: Notices
) -> list[LayerId]:
    """Those of `found` whose attributes are there and equal; they are read from the files. No lock held."""
    return [each for each in found if _has_attributes(layers, each, where, notices)] if where else found


def _has_attributes(layers: LayerRegistry, layer_id: LayerId, where: Mapping[str, Any], notices: Notices) -> bool:
    dimension, layer = layer_id
    try:
        found = (layers._regions.get(dimension) or layers._restore(dimension, layer))._attributes_of(layer)
    except LayerNotFound:  # it is not loaded any more
        return False
    except InvalidRegion as error:
        notices.warn(layer_id, f"{layer_id} cannot be found by its attributes: {error}")
        return False
    return found is not None and all(key in found and _is_same(found[key], value) for key, value in where.items())


def _is_same(found: Any, asked: Any) -> bool:
    """Whether two values are equal in JSON, where true is not 1; however deep they are."""
    pairs = [(found, asked)]
    for each, other in pairs:
        if isinstance(each, dict) and isinstance(other, dict):
            if each.keys() != other.keys():
                return False
            pairs += [(each[key], other[key]) for key in each]
        elif isinstance(each, list) and isinstance(other, list):
            if len(each) != len(other):
                return False
            pairs += zip(each, other, strict=True)
        elif each != other or isinstance(each, bool) != isinstance(other, bool):
            return False
    return True


def plain_where(where: Any) -> dict[str, Any] | None:
    """A condition on attributes, its values as attributes are kept; TypeError if it is none."""
    if where is None:
        return None
    if not isinstance(where, Mapping):
        raise TypeError(f"where: {where!r} is {type(where).__name__}, not a dict of attributes")
    try:
        return {key: given.plain(value) for key, value in where.items()}
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(f"where: {error}") from None
