import os
from collections.abc import Callable
from typing import Any

from jessy_mem._core.image import Image

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
) -> Image: ...
