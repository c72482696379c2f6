from collections.abc import Callable
from typing import Any

from jessy_mem._core.image import Image

MAX_BARE: int

def open_stack(
    path: str,
    dimension_id: int,
    *,
    admit: Callable[[int, int], Any] | None = None,
    immutable: bool = False,
    verify: str = "lazy",
    deltas: bool = True,
    bare: dict[int, bytes] | None = None,
    guard: str = "reads",
    metadata_limit_bytes: int | None = None,
    follow_links: bool = True,
) -> tuple[Image, ...]: ...
def reopen_stack(
    stack: tuple[Image, ...],
    path: str,
    *,
    admit: Callable[[int, int], Any] | None = None,
    verify: str = "lazy",
    guard: str = "reads",
    metadata_limit_bytes: int | None = None,
    follow_links: bool = True,
) -> tuple[Image, ...] | None: ...
def open_delta(
    stack: tuple[Image, ...],
    path: str,
    generation: int,
    *,
    admit: Callable[[int, int], Any] | None = None,
    verify: str = "lazy",
    guard: str = "reads",
    metadata_limit_bytes: int | None = None,
    follow_links: bool = True,
    folder: int = -1,
) -> Image: ...
def is_torn(path: str) -> bool: ...
