"""Where a dimension belongs, and its bytes from there: its files or its simulation, as a stack of checked Images.

The charge is handed in: who opens decides nothing about room. Nothing here is a table, and no lock is taken.
"""

from __future__ import annotations

import os
import sys
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from jessy_mem._core.base_file import BaseFile
from jessy_mem._core.budget import Charge, Ledger
from jessy_mem._core.folder import delta_generations
from jessy_mem._core.image import Image
from jessy_mem._core.stack import open_delta, reopen_stack
from jessy_mem.config import MemoryConfig
from jessy_mem.errors import DimensionNotFound, InvalidRegion, legible
from jessy_mem.layout import MemoryLayout, delta_file, dimension_folder, has_deltas, region_file
from jessy_mem.notices import Notices
from jessy_mem.simulation import simulated_image

__all__ = ["Opener", "Place", "newest_delta"]

Stack = tuple[Image, ...]  # the base and its deltas, oldest first

MAX_PLACES = 64  # that are kept: enough for those that are loaded again and again


@dataclass(frozen=True, slots=True)
class Place:
    """Where a dimension belongs: what the plan, and whoever named a path, say of it."""

    dimension: int
    path: str
    named: bool  # the path was given to load_dimension
    has_deltas: bool  # if there are any beside it
    follow_links: bool  # of what is named each is followed
    may_simulate: bool  # never what is named
    planned: bool
    immutable: bool
    segment: str
    slot_bytes: int
    file: BaseFile


Admit = Callable[[Place, int, int], Charge]  # bytes of a file, bytes of those under it -> its charge; LimitExceeded


class _Invented(threading.local):
    """What this thread's call simulates: dimensions, and what is wrong with their files, if there are any."""

    damage: dict[int, str] | None = None  # None: each is told at once


class Opener:
    """Opens the dimensions of a base folder. Of paths, only those that somebody named are kept.

    What is opened is charged to `ledger`; what that has no room for, and all if there is none, to whom `admit` gives.
    """

    def __init__(self, config: MemoryConfig, layout: MemoryLayout, ledger: Ledger | None = None) -> None:
        self._config = config
        self._metadata_limit_bytes = config.max_metadata_bytes
        self._layout = layout
        self._ledger = ledger
        self._base_path = os.fspath(config.base_path)
        self.named: dict[int, str] = {}  # dimension -> the path that somebody gave
        self._bare: dict[int, bytes] = {}  # what had no delta: its folder and file then
        self._invented = _Invented()
        self._notices = Notices()
        self._places: dict[int, Place] = {}  # those of a few dimensions that nobody named: they do not change

    def place_of(self, dimension: int) -> Place:
        if dimension in self.named:
            return self._place(dimension, self.named.get(dimension))
        place = self._places.get(dimension)
        if place is None:  # to make one takes as long as to open a file
            if len(self._places) >= MAX_PLACES:
                self._places.clear()
            place = self._places[dimension] = self._place(dimension, None)
        return place

    def name_path(self, dimension: int, path: str | os.PathLike[str]) -> None:
        """The file of `dimension` is at `path`, until that is forgotten; unless it is its own file."""
        if self._config.simulation == "always" or not _is_own_file(path, self.place_of(dimension).path):
            self.named[dimension] = os.path.abspath(os.fsdecode(path))

    def forget_path(self, dimension: int) -> None:
        self.named.pop(dimension, None)

    def open(self, place: Place, admit: Admit | None, known_source: str | None = None) -> Stack:
        """The files of a dimension, mapped and checked as the configuration says, or its simulation.

        Without `admit` nothing is charged, and content is neither checked nor copied: who looks at heads lets go soon.
        `known_source` is that of the generation whose place it takes. What was read from a file is not replaced by
        invented text when the file is gone; what was simulated is simulated again without another warning.
        """
        config = self._config
        if place.may_simulate and config.simulation == "always":
            return self._simulated(place, admit)
        try:
            stack = place.file.open(place, admit)
        except (DimensionNotFound, InvalidRegion) as error:
            damaged = isinstance(error, InvalidRegion)
            if not place.may_simulate or known_source == "mmap" or (damaged and not config.simulate_damaged):
                raise
            damage = str(error) if damaged else ""
        else:
            if place.immutable and stack[0].generation == 0:
                text = "is immutable but a plain V1 file: it carries no digest to compare with"
                self._notices.warn(place.path, f"{place.path} {text}")
            if self._notices.said:
                self._notices.forget((place.dimension,))
            return stack
        if known_source is None:
            if self._invented.damage is None:
                self._tell({place.dimension: damage})
            else:
                self._invented.damage[place.dimension] = damage
        return self._simulated(place, admit)

    def begin_telling_once(self) -> None:
        """What this thread simulates from now on is told by `tell_once`, in one warning that names all."""
        self._invented.damage = {}

    def tell_once(self) -> None:
        """Tell what was simulated since `begin_telling_once`, if anything was."""
        damage, self._invented.damage = self._invented.damage, None
        if damage:
            self._tell(damage)

    def _tell(self, damage: dict[int, str]) -> None:
        """Log and warn that dimensions are simulated; the warning points to the line that called the package."""
        names = [dimension_folder(dimension) for dimension in damage]
        if len(damage) == 1:
            ((dimension, text),) = damage.items()
            why = f"for its file is damaged: {text}" if text else f"there is no file at {self.place_of(dimension).path}"
            message = f"dimension {names[0]} is simulated, {why}"
        else:
            damaged = [
                f"; {name} is damaged: {text}" for name, text in zip(names, damage.values(), strict=True) if text
            ]
            message = f"dimensions {', '.join(names)} are simulated, they have no file in {self._base_path}"
            message += "".join(damaged)
        self._notices.warn(tuple(damage), message)
        warnings.warn(legible(message), stacklevel=_levels_to_caller())

    def open_delta(self, place: Place, admit: Admit, stack: Stack, generation: int, folder: int = -1) -> Image:
        """The delta of `generation` that lies on `stack`, mapped and checked; `folder`, if it is open, has both."""
        return open_delta(
            stack,
            place.path,
            generation,
            admit=partial(admit, place),
            verify=self._config.verify,
            guard=self._config.guard,
            metadata_limit_bytes=self._metadata_limit_bytes,
            follow_links=place.follow_links,
            folder=folder,
        )

    def reopen(self, place: Place, admit: Admit, stack: Stack) -> Stack:
        """The files that are there now, those that `stack` maps already not mapped again; `stack` if it is all."""
        if place.immutable or stack[0].immutable or not place.has_deltas:
            return stack
        if stack[0].source == "simulated" and (self._config.simulation == "always" or not os.path.exists(place.path)):
            return stack
        found = reopen_stack(
            stack,
            place.path,
            admit=partial(admit, place),
            verify=self._config.verify,
            guard=self._config.guard,
            metadata_limit_bytes=self._metadata_limit_bytes,
            follow_links=place.follow_links,
        )
        return self.open(place, admit, stack[0].source) if found is None else found

    def _place(self, dimension: int, named: str | None) -> Place:
        config, planned = self._config, self._layout.dimensions.get(dimension)
        segment = self._layout.segment_of(dimension)
        path = region_file(self._base_path, dimension) if named is None else named
        slot_bytes = segment.size_bytes if planned is None else planned.size_bytes
        follow_links, immutable = named is not None or config.follow_links, planned is not None and planned.immutable
        with_deltas = named is None or has_deltas(path)
        return Place(
            dimension=dimension,
            path=path,
            named=named is not None,
            has_deltas=with_deltas,
            follow_links=follow_links,
            may_simulate=named is None
            and planned is not None
            and bool(planned.layers)
            and config.simulation != "never",
            planned=planned is not None,
            immutable=immutable,
            segment=segment.name,
            slot_bytes=slot_bytes,
            file=BaseFile(
                path,
                dimension,
                ledger=self._ledger,
                segment=segment.name,
                most_bytes=slot_bytes,
                immutable=immutable,
                verify=config.verify,
                deltas=with_deltas,
                bare=self._bare if named is None else None,
                guard=config.guard,
                metadata_limit_bytes=self._metadata_limit_bytes,
                follow_links=follow_links,
            ),
        )

    def _simulated(self, place: Place, admit: Admit | None) -> Stack:
        image = simulated_image(
            place.dimension,
            self._layout,
            seed=self._config.simulation_seed,
            scale=self._config.simulation_scale,
            admit=None if admit is None else lambda n_bytes: admit(place, n_bytes, 0),
        )
        return (image,)


def _is_own_file(path: str | os.PathLike[str], own: str) -> bool:
    """Whether `path` is the file of a base folder at `own`, by whatever name: it is there, and no link is in its stack.

    What is behind a link is followed, if it is named.
    """
    base, folder, name = own.rsplit("/", 2)
    found = os.path.realpath(os.fsdecode(path))
    if found != os.path.join(os.path.realpath(base), folder, name) or not os.path.exists(found):
        return False
    return not any(os.path.islink(delta_file(own, each)) for each in delta_generations(own))


def newest_delta(path: str) -> int:
    """The generation of the newest delta beside the base file at `path`; 0 if there is none."""
    return max(delta_generations(path), default=0) if has_deltas(path) else 0


def _levels_to_caller() -> int:
    """The stack level of the first frame outside the package, as seen by the caller: what a warning points to."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "jessy_mem":
        frame, level = frame.f_back, level + 1
    return level
