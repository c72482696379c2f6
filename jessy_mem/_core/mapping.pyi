from typing import Any, Self, final

@final
class Mapping:
    @property
    def n_bytes(self) -> int: ...
    @property
    def writable(self) -> bool: ...
    def __new__(
        cls,
        n_bytes: int,
        fd: int = -1,
        *,
        private: bool = False,
        huge: bool = False,
        reserve: bool = False,
        file_bytes: int = 0,
    ) -> Self: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...
    def freeze(self) -> None: ...

@final
class UnmapTogether:
    def __enter__(self) -> None: ...
    def __exit__(self, *exc_info: Any) -> None: ...

def private_memory(n_bytes: int) -> bytearray | Mapping: ...
