"""Reading: what can be asked of layers, wherever they are kept: contexts, many at once, and a read-only Mapping.

The read path is LayerRegistry's; whoever has layers says which there are.
"""

from __future__ import annotations

import logging
from collections.abc import ItemsView, Iterable, Iterator, KeysView, Mapping, Sequence, ValuesView
from typing import Any, TypeVar, overload

from jessy_mem._core.registry import LayerRegistry
from jessy_mem._core.view import LayerView
from jessy_mem.context import ContextCollection, LayerBatch, LoadedContext, NavigationPath
from jessy_mem.errors import InvalidRegion, LayerNotFound
from jessy_mem.layout import LayerId

__all__ = ["Reading", "check_where"]

T = TypeVar("T")

logger = logging.getLogger("jessy_mem")


class Reading(LayerRegistry):
    """Layers that are read. Thread-safe.

    A read-only Mapping of LayerId to LayerView: ``memory[layer_id]`` and ``memory[dimension, layer]`` are
    `access_layer`; iteration is over the LayerIds there are at its beginning, ascending. Unlike other containers it is
    true as long as it is open, and equal to itself only.
    """

    def _check_open(self) -> None:
        """ManagerClosed if it is closed."""
        raise NotImplementedError

    def layers(
        self,
        dimension: int | None = None,
        keyword: str | None = None,
        frequency: tuple[float, float] | None = None,
        *,
        name: str | None = None,
        since_ns: int | None = None,
        before_ns: int | None = None,
        where: Mapping[str, Any] | None = None,
    ) -> list[LayerId]:
        """The layers that meet every condition, ascending."""
        raise NotImplementedError

    def load_contexts(self, paths: Iterable[NavigationPath], *, strict: bool = False) -> ContextCollection:
        """The layers of all paths as text, in path order; a layer named twice is there twice.

        A layer that cannot be found is logged, skipped and listed in ``.missing``; with `strict` its LayerNotFound is
        raised.
        """

        def load(layer_id: LayerId) -> LoadedContext | None:
            try:
                return self.load_context(layer_id)
            except LayerNotFound:
                if strict:
                    raise
                return None

        self._check_open()
        return ContextCollection.collect(paths, load)

    def read_many(self, layer_ids: Sequence[tuple[int, int]]) -> LayerBatch:
        """Copy many layers into one array without the GIL; LayerNotFound if one is not there."""
        import numpy as np

        self._check_open()
        data: list[Any] = []

        def target_of(n_bytes: int) -> Any:
            data.append(np.empty(n_bytes, np.uint8))
            return data[0]

        offsets = self._read_into(layer_ids, target_of)
        return LayerBatch(data[0], np.array(offsets, np.int64))

    def _has_attributes(self, layer_id: LayerId, where: Mapping[str, Any]) -> bool:
        dimension, layer = layer_id
        try:
            found = (self._regions.get(dimension) or self._restore(dimension, layer))._attributes_of(layer)
        except LayerNotFound:  # it is not loaded any more
            return False
        except InvalidRegion as error:
            logger.warning("%s cannot be found by its attributes: %s", layer_id, str(error))
            return False
        return found is not None and all(key in found and found[key] == value for key, value in where.items())

    # The Mapping; __getitem__ is LayerRegistry's

    def __len__(self) -> int:
        """How many layers there are."""
        raise NotImplementedError

    def __contains__(self, layer_id: object) -> bool:
        raise NotImplementedError

    def __iter__(self) -> Iterator[LayerId]:
        return iter(self.layers())

    def keys(self) -> KeysView[LayerId]:
        """The LayerIds, as a view of what is loaded now."""
        return KeysView(self)

    def values(self) -> ValuesView[LayerView]:
        """The LayerViews, as a view of what is loaded now; each is read as it is come to."""
        return ValuesView(self)

    def items(self) -> ItemsView[LayerId, LayerView]:
        """Pairs of LayerId and LayerView, as a view of what is loaded now; each is read as it is come to."""
        return ItemsView(self)

    @overload
    def get(self, layer_id: tuple[int, int], /) -> LayerView | None: ...
    @overload
    def get(self, layer_id: tuple[int, int], default: T, /) -> LayerView | T: ...
    def get(self, layer_id: tuple[int, int], default: T | None = None, /) -> LayerView | T | None:
        """What `access_layer` returns, or `default` if there is no such layer."""
        try:
            return self.access_layer(layer_id)
        except LayerNotFound:
            return default


def check_where(where: object) -> None:
    """TypeError if it is no condition on attributes."""
    if where is not None and not isinstance(where, Mapping):
        raise TypeError(f"where: {where!r} is {type(where).__name__}, not a dict of attributes")


Mapping.register(Reading)
