from typing import Self, final

@final
class Uncached:
    def __new__(cls, path: str, identity: tuple[int, int, int, int] | None) -> Self: ...
