"""LayerTable: all layers that are loaded, found by what is known of them, and as a read-only Mapping."""

from __future__ import annotations

import logging
from collections.abc import ItemsView, Iterator, KeysView, Mapping, ValuesView
from typing import Any, TypeVar, overload

from jessy_mem._core.view import LayerView
from jessy_mem.errors import InvalidRegion, LayerNotFound
from jessy_mem.layout import LayerId
from jessy_mem.table import RegionTable

__all__ = ["LayerTable"]

T = TypeVar("T")

logger = logging.getLogger("jessy_mem")


class LayerTable(RegionTable):
    """The layers of a table of regions. Evicted dimensions count as loaded. Thread-safe.

    A read-only Mapping of LayerId to LayerView: ``memory[layer_id]`` and ``memory[dimension, layer]`` are
    `access_layer`; iteration is over the LayerIds there are at its beginning, ascending. Unlike other containers it is
    true as long as it is open, and equal to itself only.
    """

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
        """The layers of all loaded dimensions that meet every condition, ascending.

        `keyword` is compared case-folded; `frequency` is (low, high) in Hz, inclusive. `name` is a dimension's, or its
        beginning followed by ``*``. A layer was made at `since_ns` or later, and before `before_ns` (Unix time in ns).
        `where` are attributes that must be there and be equal; they are read from the files, of those layers only
        that meet all other conditions. Evicted dimensions count as loaded.
        """
        self._check_open()
        if where is not None and not isinstance(where, Mapping):
            raise TypeError(f"where: {where!r} is {type(where).__name__}, not a dict of attributes")
        self._read_changed()
        with self._lock:
            self._check_open()
            found = self._catalogue.indexed().find(dimension, keyword, frequency, name, since_ns, before_ns)
        return [each for each in found if self._has_attributes(each, where)] if where else found

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
        """How many layers are loaded."""
        self._check_open()
        self._read_changed()
        with self._lock:
            return sum(region.n_layers for region in self._regions.values()) + self._evicted.n_layers

    def __iter__(self) -> Iterator[LayerId]:
        return iter(self.layers())

    def __contains__(self, layer_id: object) -> bool:
        self._check_open()
        try:
            dimension, layer = LayerId.of(layer_id)  # type: ignore[arg-type]
        except TypeError:
            return False
        region = self._regions.get(dimension)
        if region is not None:
            return region._has_layer(layer)
        if dimension not in self._evicted:
            return False
        self._read_changed()
        with self._lock:
            return self._catalogue.indexed().has_layer(dimension, layer)

    def __bool__(self) -> bool:
        """Whether it is open, however many layers there are."""
        return not self._closed

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


Mapping.register(LayerTable)
