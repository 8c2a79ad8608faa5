"""A few megabytes kept for the moment the index's disk is full: without them not even an eviction could be recorded."""

from __future__ import annotations

import os
import time
from contextlib import suppress

SIZE = 8 << 20
AGAIN = 60.0
"""Seconds between attempts to lay the ballast again."""


class Ballast:
    """A file of allocated bytes in `directory`, thrown off once and laid again when there is room."""

    def __init__(self, directory: str) -> None:
        self.path = os.path.join(directory, "ballast")
        self._next = 0.0
        self.lay()

    def lay(self) -> bool:
        """Allocate the file, at most once a minute; False while the disk has no room for it."""
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + AGAIN
        try:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(fd, 0, SIZE)
            finally:
                os.close(fd)
        except OSError:
            with suppress(OSError):
                os.unlink(self.path)
            return False
        return True

    def drop(self) -> bool:
        """Throw it off. False when it was gone already."""
        self._next = time.monotonic() + AGAIN
        try:
            os.unlink(self.path)
        except OSError:
            return False
        return True
