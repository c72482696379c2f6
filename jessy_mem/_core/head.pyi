from typing import IO, Final, Self, final

MAX_METADATA_BYTES: Final[int]
N_HEADER_BYTES: Final[int]
MAX_NAME_BYTES: Final[int]
MAX_LAYER_ATTRIBUTES_BYTES: Final[int]

@final
class Head:
    def __new__(cls, fd: int, path: str, file_bytes: int, first: bytes, limit_bytes: int | None = None) -> Self: ...

def stored_name(head: bytes, dimension_id: int) -> bytes: ...
def read_header(file: IO[bytes]) -> tuple[int, str, int, bool] | None: ...
