"""What goes wrong without being an error of anybody's call is logged: once, and again when it is something else."""

from __future__ import annotations

import logging

from jessy_mem.errors import legible

__all__ = ["Notices"]

logger = logging.getLogger("jessy_mem")


class Notices:
    """What was logged already, and about what. Thread-safe; two threads at once may both log the same."""

    def __init__(self) -> None:
        self.said: dict[object, str] = {}

    def warn(self, about: object, message: str) -> None:
        """Log `message`, unless it is what was said last `about` the same, and nothing was forgotten since."""
        if self.said.get(about) != message:
            self.said[about] = message
            logger.warning("%s", legible(message))

    def forget(self, about: object) -> None:
        """All is well again: what goes wrong next is said, even if it is the same."""
        self.said.pop(about, None)
