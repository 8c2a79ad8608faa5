"""Walking the tree: the background walk that fills it, and the walk over the files below one place that warm-up uses.

The frontier lives in the index, not in memory: directories not listed yet are rows of `dirs`, and a directory found later
has a larger inode number, so one pass in inode order meets them all. A killed walk goes on where the index stands.
"""

from __future__ import annotations

import logging
import math
import random
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import msgspec
import trio

from forebay.cache.disk.index import COMPLETE_LIST, DIR, FILE, UNLISTED, UNRESOLVED, Dir, IndexError_, Row, unpack_dir, unpack_row
from forebay.cache.stores.base import NotFound, StoreError, Unavailable
from forebay.cache.tree.core import Core
from forebay.cache.tree.listing import Lister

log = logging.getLogger("forebay.namespace")
_U64 = struct.Struct(">Q")

PARALLEL = 8
BATCH = 1000
SCAN_SLICE = 5000
POLITE_STEP, POLITE_MOST = 0.02, 0.5
"""The background walk lets the foreground pass: steps of 20 ms while somebody waits, half a second at most for each listing."""
RETRY_FIRST, RETRY_MOST, RETRY_PASSES = 15.0, 300.0, 6
"""Seconds between passes while some stores do not answer, doubling; after so many passes only as often as at the end."""
TRUSTED_AGE = 600.0


class WalkProgress(msgspec.Struct):
    """How far the background walk is. `dirs_known`, `files` and `bytes` are what the index holds now."""

    dirs_listed: int = 0
    dirs_known: int = 0
    files: int = 0
    bytes: int = 0
    failed: int = 0  # directories the last pass could not list
    done: bool = False  # every known directory is listed, but for `failed` whose store refuses or talks nonsense
    error: str = ""  # the last failure's sentence


class Walker:
    """See the module. `resolve` fills versions of rows whose listing told names only (`Namespace.resolve`)."""

    def __init__(self, core: Core, lister: Lister, resolve: Callable[[int, list[int]], Awaitable[None]]) -> None:
        self._core = core
        self._lister = lister
        self._resolve = resolve
        self._progress = WalkProgress()
        self._active = 0
        self._unanswered = 0  # failures of the last pass that are worth another try
        self._freed = trio.Event()

    def progress(self) -> WalkProgress:
        counts = self._core.counts
        self._progress.dirs_known, self._progress.files, self._progress.bytes = counts
        return self._progress

    # background

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """List every directory once, then rest until new ones appear or a refresh forgets some. Until cancelled.

        A directory whose listing merely expired is not walked again: it is listed when somebody looks.
        """
        task_status.started()
        while True:
            self._core.new_dirs = trio.Event()
            for attempt in range(RETRY_PASSES):
                self._progress.done = False
                await self._pass()
                if not self._unanswered:
                    self._progress.done = True
                    if not self._progress.failed:
                        self._progress.error = ""
                    break
                pause = min(RETRY_MOST, RETRY_FIRST * 2**attempt) * random.uniform(0.7, 1.3)
                log.warning("walk: %d directories not listed yet (%s)", self._unanswered, self._progress.error)
                await trio.sleep(pause)
            with trio.move_on_after(self._rest()):
                await self._core.new_dirs.wait()
                await trio.sleep(POLITE_MOST)  # one pass for many new directories

    def _rest(self) -> float:
        """Seconds until it looks again by itself. What failed is tried for ever: whoever mends a store tells nobody here."""
        return RETRY_MOST * random.uniform(0.7, 1.3) if self._progress.failed else math.inf

    async def _pass(self) -> None:
        p = self._progress
        p.failed = p.dirs_listed = self._unanswered = 0
        after = 0
        async with trio.open_nursery() as nursery:
            while True:
                found, after, end = self._unlisted(after, PARALLEL - self._active)
                for ino in found:
                    self._active += 1
                    nursery.start_soon(self._one, ino)
                if end and not found and not self._active:
                    return
                if self._active >= PARALLEL or (end and self._active):
                    self._freed = trio.Event()
                    await self._freed.wait()
                else:
                    await trio.lowlevel.checkpoint()

    def _unlisted(self, after: int, limit: int) -> tuple[list[int], int, bool]:
        """Up to `limit` directories above inode `after` that need a listing, where to go on, and whether the table ended."""
        index = self._core.index
        found: list[int] = []
        with index.env.begin() as txn, txn.cursor(db=index.dirs) as cursor:
            if not cursor.set_range(_U64.pack(after + 1)):
                return found, after, True
            for n, (key, raw) in enumerate(cursor):
                if n >= SCAN_SLICE or len(found) >= limit:
                    return found, after, False
                after = _U64.unpack(key)[0]
                d = unpack_dir(raw)
                if d.state != COMPLETE_LIST or d.listed == 0:
                    if txn.get(key, db=index.orphans) is None:
                        found.append(after)
                else:
                    self._progress.dirs_listed += 1
        return found, after, True

    async def _one(self, ino: int) -> None:
        try:
            waited = 0.0
            while self._core.waiting and waited < POLITE_MOST:
                await trio.sleep(POLITE_STEP)
                waited += POLITE_STEP
            await self._lister.complete(ino)
            self._progress.dirs_listed += 1
        except NotFound:
            pass  # gone meanwhile: nothing to list
        except (StoreError, IndexError_) as e:
            self._progress.failed += 1
            self._unanswered += isinstance(e, Unavailable | IndexError_)
            self._progress.error = str(e)
        finally:
            self._active -= 1
            self._freed.set()

    # one subtree

    async def files(
        self,
        start: int,
        *,
        metadata_only: bool = False,
        max_age: float = TRUSTED_AGE,
        on_error: Callable[[int, Exception], None] | None = None,
    ) -> AsyncIterator[list[Row]]:
        """Rows of all files below `start` (or of the file itself), in batches of at most 1,000, depth first.

        Directories are listed as they are met, the next ones ahead; a listing younger than `max_age` seconds is believed.
        Rows without a version are resolved first unless `metadata_only`; one that stays without shows its error when opened.
        A directory that cannot be listed goes to `on_error(ino, error)` and the walk goes on; without it the error is
        raised. Memory: one batch and one pair of numbers for each level.
        """
        with self._core.index.env.begin() as txn:
            row = self._core.index.row(txn, start)
        if row is None:
            raise NotFound(f"inode {start} is unknown here: look its path up again")
        if row.kind == FILE:
            yield [row]
            return
        stack = [start]
        cursors = [-1]  # -1: its own files come first; else the last subdirectory entered
        while stack:
            ino = stack[-1]
            if cursors[-1] < 0:
                after, more = 0, True
                while more:
                    try:
                        more = not await self._available(ino, after, max_age)
                        batch, after, end = self._files_above(ino, after)
                        more = more or not end
                        if not metadata_only:
                            batch = await self._resolved(ino, batch)
                    except (StoreError, IndexError_) as e:
                        if on_error is None:
                            raise
                        on_error(ino, e)
                        break
                    if batch:
                        yield batch
                cursors[-1] = 0
            ahead = self._subdirs(ino, cursors[-1], PARALLEL)
            if not ahead:
                stack.pop()
                cursors.pop()
                continue
            for sub, d in ahead:
                if len(self._lister.flights) < PARALLEL and d.state == UNLISTED:
                    self._lister.begin(sub)
            cursors[-1] = ahead[0][0]
            stack.append(ahead[0][0])
            cursors.append(-1)

    async def _available(self, ino: int, after: int, max_age: float) -> bool:
        d, _ = self._lister.state(ino, after)
        if d.state == COMPLETE_LIST and d.listed and (not d.sources or self._core.clock() - d.listed <= max_age):
            return True
        return await self._lister.list_dir(ino, after)

    def _files_above(self, ino: int, after: int) -> tuple[list[Row], int, bool]:
        """A batch of file rows of a directory, where to go on, and whether it ended."""
        batch: list[Row] = []
        n = 0
        with self._core.index.env.begin() as txn:
            for child, raw in self._core.index.scan_raw(txn, ino, after):
                if n >= SCAN_SLICE or len(batch) >= BATCH:
                    return batch, after, False
                n += 1
                after = child
                if raw[0] == FILE:
                    batch.append(unpack_row(raw))
        return batch, after, True

    def _subdirs(self, ino: int, after: int, limit: int) -> list[tuple[int, Dir]]:
        index = self._core.index
        found: list[tuple[int, Dir]] = []
        with index.env.begin() as txn:
            for child in subdirs(self._core, txn, ino, after):
                found.append((child, index.dir(txn, child) or Dir(UNLISTED, 0, 0, 0, ())))
                if len(found) == limit:
                    break
        return found

    async def _resolved(self, parent: int, batch: list[Row]) -> list[Row]:
        wanted = [row.ino for row in batch if row.flags & UNRESOLVED]
        if not wanted:
            return batch
        try:
            await self._resolve(parent, wanted)
        except StoreError as e:
            log.warning("walk: files of directory %d have no version yet: %s", parent, e)
        index = self._core.index
        with index.env.begin() as txn:
            rows = [index.child(txn, parent, row.ino) for row in batch]
        return [row for row in rows if row is not None and row.kind == FILE]


def subdirs(core: Core, txn: object, ino: int, after: int) -> Iterator[int]:
    """Inode numbers of a directory's subdirectories above `after`."""
    for child, raw in core.index.scan_raw(txn, ino, after):
        if raw[0] == DIR:
            yield child


async def known_dirs(core: Core, start: int) -> AsyncIterator[int]:
    """Every directory the index knows at or below `start`, each before those below it; asks no store."""
    yield start
    stack = [(start, 0)]
    while stack:
        ino, after = stack.pop()
        with core.index.env.begin() as txn:
            child = next(subdirs(core, txn, ino, after), None)
        if child is not None:
            stack += [(ino, child), (child, 0)]
            yield child
            await trio.lowlevel.checkpoint()
