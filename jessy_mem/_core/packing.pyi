from collections.abc import Iterator, Mapping, Sequence
from typing import Any, final

from typing_extensions import Buffer

@final
class PackedRegion:
    @property
    def n_bytes(self) -> int: ...
    @property
    def n_layers(self) -> int: ...
    @property
    def head(self) -> bytearray: ...
    def seal(self, immutable: bool) -> None: ...
    def renumber(self, dimension_id: int) -> None: ...
    def pieces(self) -> Iterator[Buffer]: ...
    def fill(self, target: Buffer) -> None: ...

def pack_layers(
    dimension_id: int,
    name: bytes,
    generation: int,
    created_ns: int,
    layers: Mapping[int, Any],
    passages: Mapping[int, Sequence[Any]] | None = None,
    *,
    immutable: bool = False,
    delta: bool = False,
) -> PackedRegion: ...
