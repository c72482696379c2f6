from collections.abc import Callable
from typing import Self, TypeVar, final

from jessy_mem._core.budget import Charge, Ledger
from jessy_mem._core.image import Image

_P = TypeVar("_P")

@final
class BaseFile:
    def __new__(
        cls,
        path: str,
        dimension_id: int,
        *,
        ledger: Ledger | None = None,
        segment: str = "",
        most_bytes: int = 0,
        immutable: bool = False,
        verify: str = "lazy",
        deltas: bool = True,
        bare: dict[int, bytes] | None = None,
        guard: str = "reads",
        metadata_limit_bytes: int | None = None,
        follow_links: bool = True,
    ) -> Self: ...
    def open(self, place: _P, admit: Callable[[_P, int, int], Charge] | None) -> tuple[Image, ...]: ...
