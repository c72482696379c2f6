"""LayerTable: which layers are loaded, found by what is known of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jessy_mem.followed import FollowedTable
from jessy_mem.layout import LayerId
from jessy_mem.reading import check_where

__all__ = ["LayerTable"]


class LayerTable(FollowedTable):
    """The layers of a table of regions. Evicted dimensions count as loaded. Thread-safe."""

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
        check_where(where)
        snapshot = self._pass_gate()
        if snapshot is not None:
            return snapshot.layers(
                dimension, keyword, frequency, name=name, since_ns=since_ns, before_ns=before_ns, where=where
            )
        self._read_changed()
        with self._lock:
            self._check_open()
            found = self._catalogue.indexed().find(dimension, keyword, frequency, name, since_ns, before_ns)
        return [each for each in found if self._has_attributes(each, where)] if where else found

    def __len__(self) -> int:
        """How many layers are loaded."""
        snapshot = self._pass_gate()
        if snapshot is not None:
            return len(snapshot)
        self._read_changed()
        with self._lock:
            return self._catalogue.count_layers()

    def __contains__(self, layer_id: object) -> bool:
        snapshot = self._pass_gate()
        if snapshot is not None:
            return layer_id in snapshot
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
