"""A dataset as a mount sees it: the spec, the index read directly, and the worker's door for what the index cannot tell."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from typing import Any, Protocol

from forebay.api import wire
from forebay.api.spec import DatasetSpec
from forebay.cache.disk.index import _OBJECT, _ROW, _U64, ROOT, Index

DOOR_DEADLINE = 60.0
"""Seconds a request may wait for the worker; the store's own deadlines (10 s to a first byte) end earlier."""

pack_ino = _U64.pack
unpack_fixed = _ROW.unpack_from
"""kind, flags, mount, checked, size, mtime_ns, ino, oid, length of the name, length of the version"""
unpack_object = _OBJECT.unpack
"""state, tier, flags, used, size, present, boot, ino"""
_ROOT_PARENT = pack_ino(0)


class WouldBlock(Exception):
    """Not now: the same call with `wait=True`, from a thread that may wait, answers it."""


class DoorLike(Protocol):
    """The part of `forebay.cache.client.Door` that a mount uses."""

    def call(self, request: wire.Request, timeout: float = ...) -> wire.AnyReply: ...
    def open(self, ino: int, *, validate: bool = False, timeout: float = ...) -> tuple[wire.Opened, int]: ...
    def ensure(self, ino: int, offset: int, length: int, held: int, timeout: float = ...) -> tuple[int, bool] | None: ...
    def forget(self, ino: int) -> None: ...
    def touch(self, used: list[int], opened: list[int], closed: list[int], timeout: float = ...) -> bool: ...


class View:
    """What names and opens share. Rows stay packed: a look-up that builds no object costs 4 us in place of 14."""

    def __init__(self, spec: DatasetSpec, index: Index, door: DoorLike, clock: Callable[[], float] = time.time) -> None:
        self.spec = spec
        self.index = index
        self.door = door
        self.clock = clock
        self.begin = index.env.begin

    def find(self, txn: Any, parent: int, name: bytes) -> bytes | None:
        """Raw row of a child by name."""
        up = pack_ino(parent)
        ino = txn.get(up + name, None, self.index.names)
        raw: bytes | None = None if ino is None else txn.get(up + ino, None, self.index.children)
        return raw

    def row(self, txn: Any, ino: int) -> bytes | None:
        """Raw row of an inode, whether a name points to it or not."""
        key = pack_ino(ino)
        up = _ROOT_PARENT if ino == ROOT else txn.get(key, None, self.index.inodes)
        raw = None if up is None else txn.get(up + key, None, self.index.children)
        found: bytes | None = txn.get(key, None, self.index.orphans) if raw is None else raw
        return found

    def ask(self, request: wire.Request, expected: type[wire.Reply]) -> wire.AnyReply:
        """The worker's answer. `OSError` when it refuses, or answers with something else."""
        reply = self.door.call(request, timeout=DOOR_DEADLINE)
        if isinstance(reply, wire.Failed):
            raise OSError(reply.errno, reply.message)
        if not isinstance(reply, expected):
            raise OSError(errno.EPROTO, f"the worker answered {type(request).__name__} with {type(reply).__name__}")
        return reply
