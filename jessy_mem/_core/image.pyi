import os
from collections.abc import Callable
from typing import Any, final

from typing_extensions import Buffer

from jessy_mem.errors import InvalidRegion

@final
class Image:
    charged_bytes: int
    @property
    def n_bytes(self) -> int: ...
    @property
    def n_layers(self) -> int: ...
    @property
    def n_live_layers(self) -> int: ...
    @property
    def content_bytes(self) -> int: ...
    @property
    def dimension_id(self) -> int: ...
    @property
    def immutable(self) -> bool: ...
    @property
    def is_delta(self) -> bool: ...
    @property
    def generation(self) -> int: ...
    @property
    def name(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def source(self) -> str: ...
    @property
    def identity(self) -> tuple[int, int, int, int] | None: ...
    def __init__(
        self,
        owner: Buffer,
        path: str,
        dimension_id: int,
        source: str,
        charge: Any = None,
        identity: tuple[int, int, int, int] | None = None,
        first: bytes = b"",
        trusted: bool = False,
        n_bytes: int = 0,
    ) -> None: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...
    def check_all(self) -> None: ...
    def damage(self, progress: Callable[[int, int], object] | None = None) -> list[InvalidRegion]: ...

def checked(image: Image, verify: str) -> Image: ...
def map_file(
    path: str | os.PathLike[str],
    dimension_id: int,
    *,
    admit: Callable[[int], Any] | None = None,
    immutable: bool = False,
    delta: bool = False,
) -> Image: ...
