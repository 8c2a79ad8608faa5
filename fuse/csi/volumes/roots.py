"""Directories of the node that volumes may name: only below roots that the administrator allows, through no symbolic link."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Sequence

from forebay.fuse.csi.protocol.refusal import Refusal

OWN = "forebay"
"""Below an allowed directory everything is in `forebay/<namespace>/<dataset>`."""


class Roots:
    """`allowed`: absolute directories. The first one is the node's own: where a tier without a directory goes."""

    def __init__(self, allowed: Sequence[str], option: str) -> None:
        self.allowed = [os.path.normpath(root) for root in allowed]
        self.option = option

    def holds(self, path: str) -> str:
        """The allowed root that `path` is at or below. Raises `Refusal`."""
        for root in self.allowed:
            if root in (path, "/") or path.startswith(root + "/"):
                return root
        known = f"allowed are {', '.join(self.allowed)} and what is below" if self.allowed else "none is allowed"
        raise Refusal(
            "PERMISSION_DENIED", f"directory {path!r} of the node: {known}; an administrator adds more with {self.option}"
        )

    def open(self, path: str, *, make: bool = False) -> int:
        """An O_PATH descriptor of a directory at or below an allowed root. `make`: with missing parts made, mode 0700."""
        root = self.holds(path)
        if make:
            os.makedirs(root, mode=0o755, exist_ok=True)
        try:
            fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as e:
            raise Refusal("NOT_FOUND", f"directory {root!r} of the node: {e.strerror}") from None
        for part in [p for p in os.path.relpath(path, root).split("/") if p != "."]:
            fd = _step(fd, part, path, make=make)
        return fd

    def remove(self, path: str) -> None:
        """A directory and what is in it; nothing when it is not there."""
        try:
            fd = self.open(os.path.dirname(path))
        except Refusal as e:
            if e.code == "NOT_FOUND":
                return
            raise
        try:
            name = os.path.basename(path)
            if name in os.listdir(f"/proc/self/fd/{fd}"):
                shutil.rmtree(name, dir_fd=fd)
        finally:
            os.close(fd)


def _step(fd: int, part: str, path: str, *, make: bool) -> int:
    try:
        if make:
            try:
                os.mkdir(part, 0o700, dir_fd=fd)
            except FileExistsError:
                pass  # a directory, or a link that the open below refuses
        inner = os.open(part, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
    except FileNotFoundError:
        raise Refusal("NOT_FOUND", f"directory {path!r} of the node: {part!r} is not there") from None
    except OSError as e:
        raise Refusal("INTERNAL", f"directory {path!r} of the node: {part!r}: {e.strerror}") from None
    finally:
        os.close(fd)
    mode = os.fstat(inner).st_mode
    if not stat.S_ISDIR(mode):
        os.close(inner)
        what = "a symbolic link, which is not followed" if stat.S_ISLNK(mode) else "no directory"
        raise Refusal("INVALID_ARGUMENT", f"directory {path!r} of the node: {part!r} is {what}")
    return inner
