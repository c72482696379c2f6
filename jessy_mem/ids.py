"""Ids that are given once in a base folder, and names that are unique in it, whatever process asks.

The register is one small file, ``BASE/.jessy_mem.lock``: it is locked (locking.py) while something is given or a file
published, and tells what was given (journal.py). Readers never lock it. The truth about names are the region files: the
register saves reading all of them, and knows what has no file yet.

    a name is taken    while its dimension has a file, or a process that made it and lives, or was made for all

Claims are appended, and what was appended first counts: so two processes on a file system whose locks do nothing do
not get the same id either. If the register is lost, the ids start behind the highest dimension folder that there is
(one that lies millions of ids behind the others was numbered by somebody else), and the names are read from the files:
a power cut may bring back the id of a proto-dimension that had no file, and died with it.
"""

from __future__ import annotations

import os
import stat
import unicodedata
from contextlib import suppress
from typing import NamedTuple

from jessy_mem._core.folder import is_there
from jessy_mem._core.whole import Descriptor
from jessy_mem.errors import ConsciousnessError, LimitExceeded
from jessy_mem.journal import Event
from jessy_mem.layout import dimension_folder, region_file
from jessy_mem.locking import process_key
from jessy_mem.names import checked_name, dimensions_in, dimensions_of, stored_names
from jessy_mem.register import FOR_ALL, LOCK_NAME, Register

__all__ = ["LOCK_NAME", "Given", "IdRegister", "Reservation", "dimensions_in"]


class Reservation(NamedTuple):
    """The dimension that has a name, and whether it was given just now."""

    dimension: int
    is_new: bool


class Given(NamedTuple):
    """To whom an id was given that has no file: the name, empty if nobody has it any more, and if it is one process."""

    name: str
    is_proto: bool  # of a process that lives


class IdRegister(Register):
    """Gives the ids and names of one base folder. Safe between threads, processes and forks."""

    # Ids

    def sync(self) -> None:
        """Make durable what was given, so that an id does not come back when its folder is removed; MappingError."""
        with self, self._errors():
            self._append()
            os.fsync(self._lock.descriptor)

    def give(self, segment: str) -> int:
        """The next id of "reserve" or "user", never to be given again in this folder; it has no name yet.

        LimitExceeded when there is none left, LockTimeout, MappingError.
        """
        with self, self._errors():
            while True:
                dimension = self._free_id(segment)
                if self._claim(dimension, FOR_ALL, ""):
                    return dimension

    def reserve(self, name: str, segment: str, for_all: bool = False) -> Reservation:
        """The dimension of that name; a new id of "reserve" or "user" for it if there is none.

        It keeps the name while this process lives or it has a region file, or, with `for_all`, until it is released. Of
        any number of processes and threads that ask at once, one gets a new id, and the others the same one. Durable
        with the file, or by `sync`. Raises ValueError, TypeError, LimitExceeded, LockTimeout,
        MappingError.
        """
        name = checked_name(name)
        if not self._has_scanned:
            self.refresh()  # what takes long is read without the lock
        try:
            with self:
                return self._reserve(name, segment, FOR_ALL if for_all else process_key())
        except OSError as error:
            self._raise(error)

    def _reserve(self, name: str, segment: str, owner: str) -> Reservation:
        if not self._has_scanned:
            self.scan()
        while True:
            holder = self._holder(name)
            if holder is None:
                holder = self._planned.get(name)
            if holder is not None:
                return Reservation(holder, False)
            dimension = self._free_id(segment)
            if self._names.by_name.get(name) is None and self._claim(dimension, owner, name):
                return Reservation(dimension, True)

    def release(self, dimension: int) -> None:
        """Let the name of a dimension that has no file be free; its id stays given. LockTimeout, MappingError."""
        with self, self._errors():
            self._append(Event("-", dimension))
            with self._mutex:
                self._names.remove(dimension)
            self._shorten()

    def leave_to_file(self, dimension: int) -> None:
        """Let nothing but its file keep the name of a dimension, durably, and its id stay given: it will be removed.

        Whoever is killed then leaves a file that has its name, or a name that is free. Under the lock; MappingError.
        """
        name, told = self._names.of.get(dimension), []
        if not self._is_given(dimension):
            told.append(Event("^", dimension, dimension + 1))
        if name is not None and dimension in self._names.owner_of:
            told.append(Event("=", dimension, name=name))
        with self._errors():
            self._append(*told)
            os.fsync(self._lock.descriptor)

    def file_is_gone(self, dimension: int) -> None:
        """Tell that the name of a dimension is free, for its file was removed. Under the lock.

        What cannot be told now, the next line tells.
        """
        with self._mutex:
            self._names.remove(dimension)
            self._unwritten[dimension] = ""
        with suppress(OSError, ConsciousnessError):
            self._append()
            self._shorten()

    def give_way(self, dimension: int, name: str = "") -> str:
        """Let a dimension have the name in the file that is, or came, where its own would be, and no other then.

        That name; empty if there is no such file, or it is called `name`. LockTimeout, MappingError.
        """
        with self, self._errors():
            if is_there(region_file(self._base_path, dimension)):  # asked first: it needs no descriptor
                for _, found in stored_names(self._base_path, [dimension]):
                    if found != name:
                        self._append(Event("=", dimension, name=found))
                        self._shorten()
                        return found
        return ""

    # Names

    def find(self, name: str) -> int | None:
        """The dimension that has the name, the lowest if several files do; None if there is none.

        What other processes did since is seen by `refresh`, or when the name is not known. Takes no lock of the folder.
        """
        found = self._names.by_name.get(name)
        if found is not None and found not in self._unsure:
            return found
        name = checked_name(name)
        self.refresh()
        return self._holder(name)

    def names(self) -> dict[str, int]:
        """All names of the folder, and which dimension has each."""
        self.refresh()
        with self._mutex:
            found = dict(self._names.by_name)
            unsure = [name for name, dimension in found.items() if dimension in self._unsure]
        for name in unsure:
            if self._holder(name) is None:
                del found[name]
        return found

    @property
    def excludes(self) -> bool:
        """Whether the lock keeps others out: on some file systems it does nothing."""
        return self._lock.excludes

    def is_empty(self, dimension: int) -> bool:
        """Whether a dimension was made for all and waits for its first layer. Under the lock."""
        name = self._names.of.get(dimension)
        return name is not None and self._names.owner_of.get(dimension) == FOR_ALL and self._holder(name) == dimension

    def given_to(self, dimension: int) -> Given | None:
        """To whom the id of a dimension without a file was given; None if it was not given, as far as this is known."""
        with self._mutex:
            name = self._names.of.get(dimension)
            if name is not None and self._is_kept(dimension):
                return Given(name, self._names.owner_of.get(dimension) != FOR_ALL)
            return Given("", False) if self._is_given(dimension) else None

    def name_of(self, dimension: int) -> str | None:
        """The name of a dimension; None if it has none, or is not known."""
        return self._names.of.get(dimension)

    def duplicates(self) -> dict[str, list[int]]:
        """Names that several dimensions have, because files came with them: ids ascending."""
        self.refresh()
        with self._mutex:
            return self._names.duplicates()

    def see(self, dimension: int) -> bool:
        """A file of the base folder is about to be mapped; whether its name need not be told to `note`.

        Where nobody has begun to ask for names, and none is known, it is looked for when somebody asks.
        """
        if self._is_asked or self._names.of:
            return False
        self._seen.add(dimension)
        return True

    def note(self, dimension: int, name: str) -> None:
        """Tell the name that the file of a dimension was just seen to have; others hear of it with the next claim.

        Where nobody has begun to ask for names, it is told when somebody does.
        """
        known = self._names.of.get(dimension)
        if known is None and not self._is_asked:  # mostly
            self._seen.add(dimension)
            return
        if known == name:  # nearly always, so no lock is taken
            return
        name = unicodedata.normalize("NFC", name)
        if not name or known == name:
            return
        with self._mutex:
            if not self._has_scanned and dimension not in self._names.of:  # that will find it
                return
            self._names.put(dimension, name)
            self._unwritten[dimension] = name
            # Asked last: who forgets a dimension tells so when its file has gone.
            if not is_there(region_file(self._base_path, dimension)):
                self._names.remove(dimension)
                self._unwritten.pop(dimension, None)

    def note_file(self, dimension: int) -> None:
        """The same of one whose name is not known, by what its file says; MappingError if that cannot be read."""
        if dimension not in self._names.of:
            with self._errors():
                for _, name in stored_names(self._base_path, [dimension]):
                    self.note(dimension, name)

    def tell(self, dimension: int, name: str) -> None:
        """Tell others the name of a file that was just published. Under the lock; MappingError."""
        name = unicodedata.normalize("NFC", name)
        if self._names.of.get(dimension) != name or dimension in self._unwritten:
            with self._errors():
                self._append(Event("=", dimension, name=name))
                self._shorten()

    def refresh(self) -> None:
        """Read what others appended to the register; the first time also the names of files it does not know."""
        try:
            facts = os.stat(self._path, follow_symlinks=False)
            seen = facts.st_ino, facts.st_size, facts.st_mtime_ns
            if self._has_scanned and (self._inode, self._size, self._seen_ns) == seen:
                return
            file = Descriptor(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError as error:  # none, or not for this user: then the files are asked
            with self._mutex:
                if isinstance(error, FileNotFoundError) and self._inode >= 0:  # it is lost
                    self._inode, self._has_scanned = -1, False
            if not self._has_scanned:
                self.scan()
            return
        with file as fd, self._errors():
            if stat.S_ISREG(os.fstat(fd).st_mode):
                with self._mutex:
                    self._follow(fd)
                    self._seen_ns = facts.st_mtime_ns
        if not self._has_scanned:
            self.scan()

    def scan(self) -> None:
        """Look at the folders: names of files that the register does not know, names that have lost their files.

        MappingError if that cannot be done now.
        """
        self._is_asked = True
        with self._mutex, self._errors():
            try:
                there = set(dimensions_of(os.listdir(self._base_path)))
            except FileNotFoundError:  # the folder is not made yet
                return
            told = sorted(self._seen & there & self._names.of.keys())
            for dimension, name in stored_names(self._base_path, sorted(there - self._names.of.keys())):
                self._names.put(dimension, name)
                self._unwritten[dimension] = name
            for dimension in self._names.of.keys() - there:
                if not self._is_kept(dimension):
                    self._names.remove(dimension)
                    self._unwritten[dimension] = ""
            for dimension, name in stored_names(self._base_path, told):
                if self._names.of.get(dimension) != name:  # the journal tells an old one
                    self._names.put(dimension, name)
                    self._unwritten[dimension] = name
            self._seen.clear()
            self._has_scanned = True

    def _holder(self, name: str) -> int | None:
        """The dimension that has the name and keeps it."""
        with self._mutex:
            while (dimension := self._names.by_name.get(name)) is not None:
                is_kept = self._is_kept(dimension)  # asked first: its last deed may have been the file
                if is_there(region_file(self._base_path, dimension)):
                    self._unsure.discard(dimension)
                elif not is_kept:
                    self._names.remove(dimension)
                    self._unwritten[dimension] = ""
                    continue
                return dimension
        return None

    def _free_id(self, segment: str) -> int:
        ranges = self._layout.ids_of(segment)
        for first, last in ranges:
            free = first
            while free <= last:
                behind = self._behind(free)
                if behind is not None:
                    free = behind
                elif free in self._layout.dimensions or is_there(f"{self._base_path}/{dimension_folder(free)}"):
                    self.note_file(free)  # it may have come with the very name that an id is asked for
                    free += 1
                else:
                    return free
        n_ids = sum(last + 1 - first for first, last in ranges)
        hint = f"the ids {', '.join(f'{first}..{last}' for first, last in ranges)} of this base folder are used up"
        raise LimitExceeded(n_ids, n_ids, 1, segment, hint=hint, unit="ids")
