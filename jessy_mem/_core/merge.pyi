from collections.abc import Sequence

from jessy_mem._core.image import Image
from jessy_mem._core.packing import PackedRegion

def merge_images(
    images: Sequence[Image],
    *,
    as_base: bool,
    generation: int,
    created_ns: int,
    extra: PackedRegion | None = None,
) -> PackedRegion: ...
