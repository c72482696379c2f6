import os
from collections.abc import Callable
from typing import Any

from jessy_mem._core.image import Image

def open_file(path: str, folder: int, follow_links: bool) -> int: ...
def read_begin(fd: int) -> tuple[bytes, tuple[int, int, int, int], int]: ...
def read_beneath(base: int, path: str, n_bytes: int) -> bytes: ...
def map_file(
    path: str | os.PathLike[str],
    dimension_id: int,
    *,
    admit: Callable[[int, int], Any] | None = None,
    below_bytes: int = 0,
    immutable: bool = False,
    delta: bool = False,
    guard: str = "reads",
    metadata_limit_bytes: int | None = None,
    folder: int = -1,
    follow_links: bool = True,
) -> Image: ...
