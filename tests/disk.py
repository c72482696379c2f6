"""A disk of one's own, whose power can be cut: a file system in a file, mounted through a loop device. Needs root."""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import subprocess
import tempfile
from pathlib import Path

_SHUTDOWN = 0x8004587D  # FS_IOC_SHUTDOWN
FLUSHES, LOSES_DATA, LOSES_JOURNAL = 0, 1, 2  # all is written; only the journal; nothing that is not on the disk
KINDS = {"ext4": (64 << 20, "-F"), "xfs": (300 << 20, "-f")}  # how large, no xfs can be smaller, and how to insist
PATH = f"{os.environ.get('PATH', '')}:/sbin:/usr/sbin"


class CannotMount(Exception):
    """Why there is no disk here."""


def cut(folder: int, how: int) -> None:
    """Cut the power of the disk that the open folder is on: from now on it takes no write and no fsync."""
    fcntl.ioctl(folder, _SHUTDOWN, struct.pack("I", how))


class Disk:
    """A mounted disk, in `place`; `restart` is what comes after a power cut. CannotMount says why there is none."""

    def __init__(self, place: Path, kind: str = "ext4") -> None:
        (image_bytes, insisting), maker = KINDS[kind], f"mkfs.{kind}"
        if os.geteuid() != 0 or shutil.which(maker, path=PATH) is None:
            raise CannotMount(f"it needs root and {maker}")
        self.folder = place / "disk"
        self.folder.mkdir()
        in_memory = os.path.isdir("/dev/shm") and shutil.disk_usage("/dev/shm").free > 2 * image_bytes
        self.place = tempfile.TemporaryDirectory(dir="/dev/shm" if in_memory else place)
        self.image = Path(self.place.name, "image")
        with self.image.open("wb") as file:
            file.truncate(image_bytes)
        try:
            run(maker, "-q", insisting, self.image)
            self.mount()
        except CannotMount:
            self.place.cleanup()
            raise

    def mount(self) -> None:
        run("mount", "-o", "loop", self.image, self.folder)

    def restart(self) -> None:
        """Mount what is on the disk."""
        run("umount", self.folder)
        self.mount()

    def throw_away(self) -> None:
        run("umount", "-l", self.folder)  # what a test that failed has open goes with it
        self.place.cleanup()


def run(*command: object) -> None:
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, check=False, env=os.environ | {"PATH": PATH}
    )
    if done.returncode:
        raise CannotMount(f"{command[0]}: {done.stderr.strip()}")
