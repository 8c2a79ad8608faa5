"""What lookups, listings and walks of one dataset share: its stores, bounded calls to them, paths, write transactions."""

from __future__ import annotations

import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import lmdb
import msgspec
import trio

from forebay.api import wire
from forebay.api.spec import DatasetSpec, Mount
from forebay.cache.disk.index import DIR, FIXED, NO_MOUNT, ROOT, Counts, Index, IndexError_, Row
from forebay.cache.stores.base import BadReply, Changed, NotFound, Store, StoreError, Unavailable
from forebay.cache.tree import numbering
from forebay.cache.tree.changes import Source, Writer
from forebay.cache.tree.mounts import components, mount_tree
from forebay.cache.tree.remerge import Remerge

log = logging.getLogger("forebay.namespace")
T = TypeVar("T")

CALL_DEADLINE = 30.0
"""Seconds for one exchange with a store, longer than its own deadlines: a store that forgets them cannot hang a waiter."""
ASKS_PER_MOUNT = 32
LISTS_PER_MOUNT = 16
PATHS_KEPT = 8192


class NotADirectory(NotFound):
    """A path goes through a file."""

    errno_name = "ENOTDIR"


class Location(NamedTuple):
    """Where the bytes of an inode live. `key` is relative to the mount; of a directory it is "" or ends in "/"."""

    mount: int  # 0xFFFF for directories made of mount paths alone
    key: bytes
    row: Row
    path: tuple[bytes, ...]  # names from the dataset's root


class Reach(msgspec.Struct):
    """Whether a mount's store answers, as last seen. Times are unix seconds, 0 = never."""

    asked: int = 0  # exchanges begun
    failed: int = 0  # exchanges that ended in an error (a definite "no such object" is an answer)
    listing_errors: int = 0
    ok_at: float = 0.0
    error_at: float = 0.0
    error: str = ""  # the last error's sentence
    trouble_at: float = 0.0  # of the last error that was no object's: no answer, refused credentials, nonsense

    @property
    def silent(self) -> bool:
        """Whether the store gave nothing when it was asked last."""
        return self.trouble_at > self.ok_at


class Core:
    """Shared state. Everything here runs in the trio thread; only store calls leave it."""

    def __init__(
        self,
        spec: DatasetSpec,
        index: Index,
        stores: Sequence[Store],
        clock: Callable[[], float],
        on_changed: Callable[[wire.Changed], None],
    ) -> None:
        if len(stores) != len(spec.mounts):
            raise ValueError(f"{len(spec.mounts)} mounts and {len(stores)} stores")
        self.spec = spec
        self.index = index
        self.stores = stores
        self.clock = clock
        self.on_changed = on_changed
        self.depth: list[int] = []
        self.reach: list[Reach] = []
        self.fixed: dict[int, dict[bytes, int]] = {}  # parent -> names of mount paths below it
        self.counts = Counts()
        self.stale_answers = 0
        self.waiting = 0  # callers that wait for a store now: the background walk steps back
        self.new_dirs = trio.Event()  # set when directories appeared that nobody listed yet
        self.lost: deque[int] = deque()  # directories without a name, to be emptied
        self.lost_some = trio.Event()  # set when there are more of them
        self.nursery: trio.Nursery | None = None
        self._asks: list[trio.CapacityLimiter] = []
        self._lists: list[trio.CapacityLimiter] = []
        self._paths: OrderedDict[int, tuple[bytes, ...]] = OrderedDict()

        self.grow()

    def grow(self) -> None:
        """What is kept for each mount, for those that are new."""
        for mount in self.spec.mounts[len(self.depth) :]:
            self.depth.append(len(components(mount.path)))
            self.reach.append(Reach())
            self._asks.append(trio.CapacityLimiter(ASKS_PER_MOUNT))
            self._lists.append(trio.CapacityLimiter(LISTS_PER_MOUNT))

    def now(self) -> int:
        return int(self.clock())

    def spawn(self, fn: Callable[..., Any], *args: Any) -> None:
        """Start work that outlives the caller who asked for it first."""
        if self.nursery is None:
            raise RuntimeError("the namespace is not running: start it with `await nursery.start(namespace.run)`")
        self.nursery.start_soon(fn, *args)

    @contextmanager
    def foreground(self) -> Iterator[None]:
        """Marks that a caller waits."""
        self.waiting += 1
        try:
            yield
        finally:
            self.waiting -= 1

    # index

    @contextmanager
    def write(self) -> Iterator[Writer]:
        """One write transaction of the tree; events are told after it is committed. Never awaits inside.

        Raises `IndexError_` with a remedy when the environment cannot take it (a full disk).
        """
        try:
            with self.index.env.begin(write=True) as txn:
                w = Writer(self.index, txn)
                yield w
                w.finish()
        except lmdb.Error as e:
            raise IndexError_(f"{self.index.path}: the index cannot be written ({e}): free space on its disk") from e
        self.counts = w.counts
        if w.new_dirs:
            self.new_dirs.set()
        if w.lost:
            self.lost.extend(w.lost)
            self.lost_some.set()
        for event in w.events:
            self.on_changed(event)

    def plant_mounts(self, now: int) -> list[int]:
        """Root, and the directories of every mount path, whatever mounts the tree was made of before.

        Returns directories at and below which every name has to be asked for again. A tree whose mounts had other numbers
        (`numbering`) is forgotten.
        """
        mounts = self.spec.mounts
        with self.write() as w:
            self.index.check_schema(w.txn)
            known = numbering.load(self.index, w.txn)
            if known is None or not numbering.continues(known, mounts):
                self.index.forget_tree(w.txn)
                w.counts = Counts()
                known = []
            merge = Remerge(w, now)
            merge.root(mount_tree(known) if known else None, mount_tree(mounts))
            again = [*merge.again, *self._reopened(w, known, mounts)]
            if known != (public := numbering.public(mounts)):
                numbering.save(self.index, w.txn, public)
            pending = numbering.pending(self.index, w.txn)
            again = [ino for ino in dict.fromkeys([*pending, *again]) if w.dir(ino) is not None]
            if again != pending:
                numbering.remember(self.index, w.txn, again)
        self.fixed = merge.fixed
        return again

    def _reopened(self, w: Writer, known: Sequence[Mount], mounts: Sequence[Mount]) -> list[int]:
        """Directories of mounts that are read with other options than before."""
        found = []
        for before, mount in zip(known, mounts, strict=False):
            if not mount.gone and before.options != mount.options:
                row = self.index.row(w.txn, ROOT)
                for name in components(mount.path):
                    row = None if row is None else self.index.find(w.txn, row.ino, name)
                if row is not None:
                    found.append(row.ino)
        return found

    def path_of(self, txn: Any, ino: int) -> tuple[bytes, ...] | None:
        """Names from the root to an inode, None when the index does not know it. Never changes for an inode."""
        if ino == ROOT:
            return ()
        known = self._paths.get(ino)
        if known is not None:
            self._paths.move_to_end(ino)
            return known
        names: list[bytes] = []
        at = ino
        head: tuple[bytes, ...] = ()
        while at != ROOT:
            row = self.index.row(txn, at)
            if row is None:
                return None
            names.append(row.name)
            at = self.index.parent(txn, at)
            if at in self._paths:
                head = self._paths[at]
                break
        path = (*head, *reversed(names))
        self._paths[ino] = path
        if len(self._paths) > PATHS_KEPT:
            self._paths.popitem(last=False)
        return path

    def source(self, mount: int, path: tuple[bytes, ...]) -> Source:
        """A mount's view of the directory at `path`."""
        below = path[self.depth[mount] :]
        return Source(mount, self.spec.mounts[mount].identity, b"/".join(below) + b"/" if below else b"")

    def locate(self, ino: int) -> Location:
        """Where an inode's bytes live, whether a name still points to it or not. `NotFound` for an unknown inode."""
        with self.index.env.begin() as txn:
            row = self.index.row(txn, ino)
            path = self.path_of(txn, ino) if row is not None else None
        if row is None or path is None:
            raise NotFound(f"inode {ino} is unknown here: look its path up again")
        if row.mount == NO_MOUNT:
            return Location(NO_MOUNT, b"", row, path)
        below = path[self.depth[row.mount] :]
        key = b"/".join(below)
        if row.kind == DIR and key:
            key += b"/"
        return Location(row.mount, key, row, path)

    # stores

    async def ask(self, mount: int, call: Callable[..., T], *args: Any, listing: bool = False) -> T:
        """One store call in a thread of the mount's bounded pool. Raises `StoreError`. Stores retry by their own budget."""
        reach = self.reach[mount]
        reach.asked += 1
        try:
            result = await self._once(mount, call, args, (self._lists if listing else self._asks)[mount])
        except NotFound:
            reach.ok_at = self.clock()
            raise
        except StoreError as e:
            reach.failed += 1
            reach.listing_errors += listing
            reach.error_at, reach.error = self.clock(), str(e)
            if isinstance(e, Changed):
                reach.ok_at = reach.error_at
            else:
                reach.trouble_at = reach.error_at
            raise
        reach.ok_at = self.clock()
        return result

    async def _once(self, mount: int, call: Callable[..., T], args: tuple[Any, ...], limiter: trio.CapacityLimiter) -> T:
        with trio.move_on_after(CALL_DEADLINE):
            try:
                return await trio.to_thread.run_sync(call, *args, limiter=limiter, abandon_on_cancel=True)
            except StoreError:
                raise
            except Exception as e:
                log.exception("store of mount %s failed", self.spec.mounts[mount].path)
                raise BadReply(
                    f"{self.spec.mounts[mount].source}: the store module failed ({type(e).__name__}: {e}): report this"
                ) from e
        raise Unavailable(
            f"{self.spec.mounts[mount].source}: no answer within {CALL_DEADLINE:.0f} s: check the endpoint and the network"
        )


def is_fixed(row: Row) -> bool:
    return bool(row.flags & FIXED)
