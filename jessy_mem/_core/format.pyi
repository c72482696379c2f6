from collections.abc import Sequence

MAGIC: bytes
METADATA_XXH3_AT: int
CONTENT_SHA256_AT: int

def pack_head(
    dimension_id: int,
    name: bytes,
    immutable: bool,
    generation: int,
    created_ns: int,
    layers: list[tuple[int, int, float, Sequence[bytes], int, int, int, int, int, int]],
) -> tuple[bytearray, list[int], int]: ...
