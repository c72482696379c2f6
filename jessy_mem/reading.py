"""What is asked of layers in the same way wherever they are kept: in a manager, or in a snapshot of it.

Finding a layer is LayerRegistry's; who has layers says which there are.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jessy_mem import given
from jessy_mem._core.registry import LayerRegistry
from jessy_mem.context import ContextCollection, LayerBatch, LoadedContext, NavigationPath
from jessy_mem.errors import InvalidRegion, LayerNotFound
from jessy_mem.layout import LayerId
from jessy_mem.notices import Notices

__all__ = ["contexts_of", "copied", "plain_where", "with_attributes"]

logger = logging.getLogger("jessy_mem")


def contexts_of(
    layers: LayerRegistry, paths: Iterable[NavigationPath], strict: bool, notices: Notices
) -> ContextCollection:
    """The layers of all paths as text; one that cannot be found is listed as missing, or raised if `strict`."""

    def load(layer_id: LayerId) -> LoadedContext | None:
        try:
            return layers.load_context(layer_id)
        except LayerNotFound:
            if strict:
                raise
            return None

    return ContextCollection.collect(paths, load, notices)


def copied(layers: LayerRegistry, layer_ids: Sequence[tuple[int, int]]) -> LayerBatch:
    """Many layers in one array, copied without the GIL; LayerNotFound if one is not there."""
    import numpy as np

    data: list[Any] = []

    def target_of(n_bytes: int) -> Any:
        data.append(np.empty(n_bytes, np.uint8))
        return data[0]

    offsets = layers._read_into(layer_ids, target_of)
    return LayerBatch(data[0], np.array(offsets, np.int64))


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
    return found is not None and all(key in found and found[key] == value for key, value in where.items())


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
