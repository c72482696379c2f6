from collections.abc import Iterable
from typing import final

from jessy_mem._core.image import Image
from jessy_mem.layout import LayerId

# layer, depth, Hz, keywords, stored bytes, bytes, created_ns
_LayerFacts = tuple[int, int, float, tuple[str, ...], int, int, int]

@final
class Word: ...

@final
class LayerIndex:
    @property
    def n_words(self) -> int: ...
    def __contains__(self, dimension: object, /) -> bool: ...
    def has_layer(self, dimension: int, layer: int) -> bool: ...
    def put(self, dimension: int, facts: Iterable[_LayerFacts], name: str = "") -> None: ...
    def put_stack(self, dimension: int, stack: tuple[Image, ...], name: str = "") -> None: ...
    def remove(self, dimension: int) -> None: ...
    def change(self, dimension: int, facts: Iterable[_LayerFacts], removed: Iterable[int] = ()) -> None: ...
    def find(
        self,
        dimension: int | None = None,
        keyword: str | None = None,
        frequency: tuple[float, float] | None = None,
        name: str | None = None,
        since_ns: int | None = None,
        before_ns: int | None = None,
    ) -> list[LayerId]: ...
