"""Simulated dimensions, for a working folder without region files.

A simulated dimension is a region like any other: the RegionBuilder makes it, from the plan and from bundled text, in
anonymous memory, and the same compiled code reads it. Only where the bytes come from is different.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from functools import cache
from itertools import cycle
from typing import Any

from jessy_mem._core.image import Image
from jessy_mem._core.mapping import Mapping
from jessy_mem._core.region import make_region
from jessy_mem.builder import LayerSpec, PackedRegion, Passage, RegionBuilder
from jessy_mem.context import ContextCollection, LoadedContext, NavigationPath
from jessy_mem.errors import DimensionNotFound, LayerNotFound, MappingError
from jessy_mem.layout import LayerId, MemoryLayout, default_layout, dimension_folder
from jessy_mem.prose import write_paragraphs

__all__ = ["create_simulated_contexts", "simulate_dimension", "simulated_image"]

_PAGE_BYTES = 4096
_HUGE_PAGE_BYTES = 2 << 20
_MAX_WASTE = 16  # the uncharged rest of a region's last huge page is at most this part of it
_PASSAGE_BYTES = 65536
_N_ORDERS = 4
_HEADING_BYTES = 24  # at most


def simulate_dimension(
    dimension_id: int, layout: MemoryLayout | None = None, seed: int = 0, scale: float = 0.0
) -> PackedRegion:
    """The region of a planned dimension with invented text, ready to be copied into memory.

    Parameters
    ----------
    dimension_id : int
    layout : MemoryLayout, optional
        The plan; the bundled one by default.
    seed : int
        The same seed gives the same bytes, in every process; another seed gives other text.
    scale : float
        0..1: the share of its slot that the region fills. At 0, and wherever that is more, each layer has its natural
        size: several paragraphs, 300 to 3,000 characters.

    Name, layers, keywords, frequencies, depths and immutability are the plan's. The text consists of sentences about
    the layer's keywords and, where they are the bundled plan's, of bundled ones. A scaled layer goes on after its
    natural text with numbered passages of 64 KB; they repeat its paragraphs in four orders, and one another.

    Raises DimensionNotFound for a dimension that is not in the plan, or whose layers the plan does not name, ValueError
    for a wrong scale. Thread-safe.

    >>> simulate_dimension(1).n_bytes < 16384 < 0.95 * (8 << 20) < simulate_dimension(4, scale=1.0).n_bytes <= 8 << 20
    True
    """
    layout = layout or default_layout()
    planned = layout.dimensions.get(dimension_id)
    if planned is None or not planned.layers:
        raise DimensionNotFound(dimension_id, _name(dimension_id))
    if not 0 <= scale <= 1:
        raise ValueError(f"scale: {scale!r} is not in 0..1")
    builder = RegionBuilder(planned.id, planned.name, immutable=planned.immutable, generation=1, created_ns=0)
    metadata_bytes = sum(64 + len(word.encode()) for layer in planned.layers for word in ("", *layer.keywords))
    gaps_bytes = _PAGE_BYTES * (len(planned.layers) + 1)
    layer_bytes = int(scale * planned.size_bytes - metadata_bytes - gaps_bytes) // len(planned.layers)
    for layer in planned.layers:
        rng = random.Random(f"{seed}/{planned.id}/{layer.layer}")  # a str is hashed alike in every process
        paragraphs = write_paragraphs(planned, layer, rng)
        text = "\n\n".join(paragraphs)
        spec = LayerSpec(
            text=text, depth=layer.depth, frequency=layer.frequency, keywords=layer.keywords, layer=layer.layer
        )
        builder._add_continued(spec, _passages(paragraphs, rng, layer_bytes - len(text.encode())))
    return builder.pack(1)


def simulated_image(
    dimension_id: int,
    layout: MemoryLayout | None = None,
    *,
    seed: int = 0,
    scale: float = 0.0,
    admit: Callable[[int], Any] | None = None,
) -> Image:
    """A simulated dimension in memory, as an Image whose path is a name such as ``<simulated D01>``.

    `admit(n_bytes)` is called with the region's size before memory is taken and returns its charge, or raises; the
    rest is as in `simulate_dimension`. MappingError if there is no memory. Thread-safe.

    The memory is private and anonymous: no other process and no descriptor reaches it; the Image shows it read-only.
    Huge pages are asked for, since most of the time goes into page faults without them. At scale 1 most of it is to
    clear and fill the memory, and the SHA-256 of the immutable dimensions; docs/benchmarks.md has the times. The first
    time in a process the bundled text is read as well.
    """
    region = simulate_dimension(dimension_id, layout, seed, scale)
    charge = admit(region.n_bytes) if admit is not None else None
    try:
        memory = _filled_memory(region)
    except OSError as error:
        raise MappingError.of(error, _name(dimension_id), region.n_bytes) from None
    return Image(memory, _name(dimension_id), dimension_id, "simulated", charge, trusted=True, n_bytes=region.n_bytes)


def _filled_memory(region: PackedRegion) -> Mapping:
    """Anonymous memory that begins with `region`, in huge pages where it is large: 8 MiB in 0.7 ms instead of 3."""
    n_bytes = region.n_bytes
    # Linux places a mapping at a huge page only if it consists of whole ones; else its ends are faulted in bit by bit.
    if -n_bytes % _HUGE_PAGE_BYTES <= n_bytes // _MAX_WASTE:
        n_bytes += -n_bytes % _HUGE_PAGE_BYTES
    memory = Mapping(n_bytes, huge=True)
    region.fill(memoryview(memory))
    return memory


def create_simulated_contexts(
    paths: Iterable[NavigationPath], seed: int = 0, layout: MemoryLayout | None = None
) -> ContextCollection:
    """The contexts of `paths` from simulated dimensions, in path order; layers outside the plan are in `missing`.

    The dimensions are built, mapped and read like those of a manager, and dropped afterwards. Thread-safe. The name is
    the seed's.

    >>> contexts = create_simulated_contexts([NavigationPath(1, [(1, 0), (99, 0)])])
    >>> contexts[0].source, [str(layer) for layer in contexts.missing]
    ('simulated', ['D99/L0'])
    """
    region_of = cache(lambda dimension: make_region(simulated_image(dimension, layout, seed=seed), False, bytearray))

    def load(layer_id: LayerId) -> LoadedContext | None:
        try:
            return LoadedContext.of(region_of(layer_id.dimension).layer(layer_id.layer))
        except (DimensionNotFound, LayerNotFound):
            return None

    return ContextCollection.collect(paths, load)


def _name(dimension_id: int) -> str:
    return f"<simulated {dimension_folder(dimension_id)}>"


def _passages(paragraphs: list[str], rng: random.Random, n_bytes: int) -> list[Passage]:
    """Text that goes on after `paragraphs`: at most `n_bytes`, and less than a paragraph short of them."""
    if n_bytes <= 0:
        return []
    encoded = [Passage.of("\n\n" + paragraph) for paragraph in paragraphs]
    orders = Passage.joined(part for _ in range(_N_ORDERS) for part in rng.sample(encoded, len(encoded)))
    passage = orders.repeated(max(1, _PASSAGE_BYTES // len(orders.data)))
    n_passages, n_bytes = divmod(n_bytes, len(passage.data) + _HEADING_BYTES)
    passages = [piece for number in range(n_passages) for piece in (_heading(number + 1), passage)]
    n_orders, n_bytes = divmod(n_bytes, len(orders.data))
    passages.append(orders.repeated(n_orders))
    for part in cycle(encoded):  # pragma: no branch -- it has no end
        n_bytes -= len(part.data)
        if n_bytes < 0:
            break
        passages.append(part)
    return passages


@cache
def _heading(number: int) -> Passage:
    return Passage.of(f"\n\nPassage {number}.")
