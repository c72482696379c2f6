from collections.abc import Generator, Sequence
from typing import Any, final

from typing_extensions import Buffer

@final
class PackedRegion:
    @property
    def n_bytes(self) -> int: ...
    @property
    def n_layers(self) -> int: ...
    def renumber(self, dimension_id: int) -> None: ...
    def pieces(self) -> Generator[bytearray | memoryview]: ...
    def fill(self, target: Buffer) -> None: ...

def pack_layers(
    dimension_id: int,
    name: bytes,
    generation: int,
    created_ns: int,
    layers: dict[int, Any],
    passages: dict[int, Sequence[Any]] | None = None,
    *,
    immutable: bool = False,
    delta: bool = False,
) -> PackedRegion: ...
