"""Ways in which layer (1, 0) of a loaded `World` becomes its second generation, for tests of who goes on reading it."""

from __future__ import annotations

import inside
from world import World, content_of

import jessy_mem as jm


def update(memory: jm.MmapManager, world: World) -> None:
    memory.update_layer((1, 0), jm.LayerSpec(content=content_of(1, 0, 2)))


def reload(memory: jm.MmapManager, world: World) -> None:
    world.write(1, generation=2)
    memory.reload_dimension(1)


def load_again(memory: jm.MmapManager, world: World) -> None:
    world.write(1, generation=2)
    memory.unload_dimension(1)
    memory.load_dimension(1)


def evict(memory: jm.MmapManager, world: World) -> None:
    world.write(1, generation=2)
    inside.evict(memory, 1)
