from collections.abc import Sequence

from typing_extensions import Buffer

def pack_head(
    dimension_id: int,
    name: bytes,
    immutable: bool,
    generation: int,
    created_ns: int,
    layers: list[tuple[int, int, float, Sequence[bytes], int, int, int, int, int, int]],
) -> tuple[bytearray, list[int], int]: ...
def seal_head(head: Buffer, content_sha256: bytes | None = None) -> None: ...
def renumber_head(head: Buffer, dimension_id: int) -> None: ...
