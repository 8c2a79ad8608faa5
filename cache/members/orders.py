"""What a node does when its control door is told to: fetch ahead, pin, evict, give its bytes away and leave.

Called from the door's threads; the engine is used in the trio thread alone, each hop as short as a batch of rows.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Awaitable, Callable, Container, Iterator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec
import trio

from forebay.cache.disk.extents import segments_of
from forebay.cache.disk.index import COMPLETE, SEGMENT, UNRESOLVED, Row
from forebay.cache.disk.marks import Marks
from forebay.cache.log import log
from forebay.cache.members.fanned import fanned
from forebay.cache.members.handout import Handout
from forebay.cache.members.node import DRAINED
from forebay.cache.members.roster import Member
from forebay.cache.members.taking import Taker
from forebay.cache.peers import controlwire as c
from forebay.cache.peers.control_client import ControlClient
from forebay.cache.peers.wire import Ref, Refused
from forebay.cache.stores.base import NotFound, StoreError, Unavailable
from forebay.cache.tree.globs import matching
from forebay.cache.warm import REPORT

if TYPE_CHECKING:
    from forebay.cache.members.node import Node
    from forebay.cache.worker import Worker

PASSES = 4
"""Times a drain looks for what came meanwhile."""
TELL_TRIES = 3
TELL_TIMEOUT = 5.0
SLICE = 250
"""Rows looked at in one hop to the trio thread."""
Batch = list[tuple[bytes, Ref]]
_T = TypeVar("_T")


class Drained:
    """How far giving away is, for `status`: "" (never asked), Running, Done or Refused."""

    def __init__(self, state: str = "") -> None:
        self.state, self.error, self.since = state, "", time.time()

    def become(self, state: str, error: str = "") -> None:
        self.state, self.error, self.since = state, error, time.time()

    def during(self, steps: Iterator[c.Progress]) -> Iterator[c.Progress]:
        """The steps of a drain, whose end is noted."""
        self.become("Running")
        try:
            yield from steps
        except Exception as e:
            self.become("Refused", str(e))
            raise
        finally:
            if self.state == "Running":
                self.become("Refused", "who asked for it went away")

    def report(self) -> dict[str, object]:
        return {"state": self.state, "since": round(self.since, 3), "error": self.error}


class NodeOrders:
    """`control.Orders` over a worker. `token` is that of its trio run."""

    def __init__(self, worker: Worker, node: Node, token: trio.lowlevel.TrioToken) -> None:
        self.worker = worker
        self.node = node
        self.client = ControlClient(node.key)
        self._token = token
        self._marks = Marks(worker.namespace, worker.engine)
        self._taker = Taker(worker.engine, node.names)
        self._draining = threading.Lock()
        self.drained = Drained("" if node.cluster.owns or not node.spec.owns else "Done")
        self._ending = threading.Event()

    def close(self) -> None:
        """What other nodes were told to do for this one ends."""
        self._ending.set()
        self.client.close()

    @property
    def taken(self) -> int:
        """Bytes fetched because another member gave an order."""
        return self._taker.fetched

    def who(self) -> tuple[str, str]:
        return self.node.cluster.me, self.node.spec.node

    def stats(self) -> dict[str, object]:
        return self._do_now(self.worker.report)

    # --- load

    def load(self, load: c.Load) -> Iterator[c.Progress]:
        if load.nodes:
            return self._on_nodes(load)
        if load.replicas and not load.metadata_only:
            return self._spread(load)
        return self._here(load.paths, metadata_only=load.metadata_only)

    def _here(self, paths: Sequence[bytes], *, metadata_only: bool) -> Iterator[c.Progress]:
        tops = self._tops(paths)
        label = paths[0] if len(paths) == 1 else b"%d paths" % len(paths)
        run = self._do_now(lambda: self.worker.service.warmer.begin(label, tops, metadata_only=metadata_only))
        try:
            while not run.finished:
                yield c.Progress(**msgspec.structs.asdict(self._do(run.progress)))
        finally:
            self._do_now(run.close)

    def _tops(self, paths: Sequence[bytes]) -> list[Row]:
        found: dict[int, Row] = {}
        for path in paths:
            for row in self._do(matching, self.worker.namespace, path):
                found[row.ino] = row
        return list(found.values())

    def _on_nodes(self, load: c.Load) -> Iterator[c.Progress]:
        members = self._named(load.nodes)
        streams: dict[str, Callable[[], Iterator[c.Progress]]] = {}
        for member in members:
            alike = [m for m in self.node.cluster.members() if m.node == member.node]
            name = member.node if member.node and len(alike) == 1 else member.data
            if member.id == self.node.cluster.me:
                streams[name] = lambda: self._here(load.paths, metadata_only=load.metadata_only)
            else:
                streams[name] = lambda m=member: self.client.load(  # type: ignore[misc]
                    _door_of(m), load.paths, metadata_only=load.metadata_only
                )
        return fanned(streams)

    def _named(self, names: Sequence[str]) -> list[Member]:
        members = self.node.cluster.members()
        found: dict[str, Member] = {}
        for name in names:
            matching_ = [m for m in members if name in (m.node, m.id, m.data)]
            if len(matching_) != 1:
                known = ", ".join(m.node or m.id for m in members) or "none"
                raise c.ControlError(
                    f'"{name}" is no member of the cluster: say one of {known}'
                    if not matching_
                    else f'"{name}" is the name of {len(matching_)} members: say an identity or an address',
                    "Absent",
                )
            found[matching_[0].id] = matching_[0]
        return list(found.values())

    def _spread(self, load: c.Load) -> Iterator[c.Progress]:
        """Each segment to its owner and the next members in rank, `replicas` together."""
        cluster = self.node.cluster
        count = len(cluster.members())
        if load.replicas > count:
            raise c.ControlError(f"{load.replicas} replicas on {count} members: lower it, or add members", "Malformed")

        def pick(batch: Batch, handout: Handout) -> bool:
            return all(
                handout.give_file(
                    [
                        (_part(ref, segment), member)
                        for segment in range(max(segments_of(ref.size), 1))
                        for member in cluster.ranked(oid, segment)[: load.replicas]
                    ]
                )
                for oid, ref in batch
            )

        tops = self._tops(load.paths)
        return self._handing_out(lambda handout, fail: self._walk(tops, pick, handout, fail))

    # --- drain

    def drain(self, drain: c.Drain) -> Iterator[c.Progress]:
        if not self._draining.acquire(blocking=False):
            raise Refused("Busy", "this node is being drained already")
        try:
            if not self.node.cluster.owns:
                raise c.ControlError("this node owns nothing: it was drained, or is a client tier", "Absent")
            yield from self.drained.during(self._drain(drain))
        finally:
            self._draining.release()

    def _drain(self, drain: c.Drain) -> Iterator[c.Progress]:
        cluster = self.node.cluster
        if not any(m.id != cluster.me for m in cluster.members()):
            raise c.ControlError("no other member takes the bytes of this node: use `forebay down`, its cache stays", "Absent")
        last = c.Progress()
        for last in self._handing_out(self._give_away):
            if not last.finished:
                yield last
        if last.failed and not drain.force:
            raise c.ControlError(
                f"{last.failed} parts could not be moved, the last: {last.error}; the node stays a member, "
                "and its bytes are fetched from the stores again if it leaves by force"
            )
        yield msgspec.structs.replace(last, finished=False)  # who asked may have left: then this node stays
        untold = self.leave_all()
        error = f"{', '.join(untold)} could not be told and notice later" if untold else last.error
        yield msgspec.structs.replace(last, error=error)

    def _give_away(self, handout: Handout, fail: Callable[[str], None]) -> None:
        cluster = self.node.cluster
        since = 0
        root = self._tops([b"/"])
        for _ in range(PASSES):
            before, begun = handout.parts, int(time.time())

            def pick(batch: Batch, handout: Handout, since: int = since) -> bool:
                owned = []
                for oid, ref in batch:
                    for segment in range(max(segments_of(ref.size), 1)):
                        ranked = cluster.ranked(oid, segment)
                        if ranked and ranked[0].id == cluster.me:
                            owned.append((oid, ref, segment, ranked[1:]))
                sizes = {oid: ref.size for oid, ref, _, _ in owned}
                held = self._do_now(self._held_segments, sizes, since) if sizes else {}
                return all(handout.give(_part(ref, s), ranked) for oid, ref, s, ranked in owned if s in held[oid])

            self._walk(root, pick, handout, fail)
            while not handout.idle(1.0):
                pass
            if handout.parts == before or self._ending.is_set():
                return
            since = begun

    def _held_segments(self, sizes: dict[bytes, int], since: int) -> dict[bytes, Container[int]]:
        """In the trio thread: segments whose every block is in the cache, none of an object last used before `since`."""
        records = self.worker.records
        records.commit()
        out: dict[bytes, Container[int]] = {}
        for oid, size in sizes.items():
            o = records.object(oid)
            if o is None or o.size != size or (o.used and o.used < since):
                out[oid] = ()
            elif o.state == COMPLETE:
                out[oid] = range(max(segments_of(size), 1))
            else:
                out[oid] = {segment for segment, extent in records.sums(oid, size).items() if extent.count() == extent.n}
        return out

    def leave_all(self) -> list[str]:
        """Own nothing from now on, also after a restart, and tell every member; those that could not be told."""
        cluster = self.node.cluster
        others = [m for m in cluster.members() if m.id != cluster.me]
        mark(self.worker.spec.index_dir)
        cluster.owns = False
        self.node.watcher.leave(cluster.me)
        self.drained.become("Done")
        log("node", "drained", identity=cluster.me, node=self.node.spec.node)
        for _ in range(TELL_TRIES):
            untold = []
            for member in others:
                try:
                    self.client.leave(_door_of(member), cluster.me, timeout=TELL_TIMEOUT)
                except c.ControlError as e:
                    log("node", "untold", member=member.id, error=str(e))
                    untold.append(member)
            others = untold
            if not others or self._ending.wait(0.5):
                break
        return [m.node or m.data for m in others]

    def leave(self, leave: c.Leave) -> c.Changed:
        if leave.id == self.node.cluster.me:
            raise Refused("Malformed", "a node leaves when it is drained, not when another says so")
        return c.Changed(changed=int(self.node.watcher.leave(leave.id)))

    # --- parts for members

    def _handing_out(self, feed: Callable[[Handout, Callable[[str], None]], None]) -> Iterator[c.Progress]:
        """Progress of what `feed` gives, in a thread of its own, until all of it was taken."""
        handout = Handout(self._take_at)
        errors: list[str] = []
        fed = threading.Event()

        def run() -> None:
            try:
                feed(handout, errors.append)
            except (StoreError, Refused, c.ControlError) as e:
                errors.append(str(e))
            finally:
                fed.set()

        threading.Thread(target=run, name="forebay-feed", daemon=True).start()
        try:
            while not (fed.wait(REPORT) and handout.idle(REPORT)):
                if self._ending.is_set():
                    raise Unavailable("this node is ending")
                yield handout.progress(walked=fed.is_set(), finished=False)
            yield handout.progress(walked=True, finished=True, failures=errors)
        finally:
            handout.close()

    def _take_at(self, member: Member, parts: list[c.Part]) -> Iterator[c.Taken]:
        if member.id == self.node.cluster.me:
            return self.take(c.Take(parts))
        return self.client.take(_door_of(member), parts)

    def _walk(
        self,
        tops: Sequence[Row],
        pick: Callable[[Batch, Handout], bool],
        handout: Handout,
        fail: Callable[[str], None],
    ) -> None:
        """Call `pick` with all files at and below `tops`, in this thread, until it says False."""
        send, receive = trio.open_memory_channel[Batch](2)
        scope = trio.CancelScope()
        self._do_now(self.worker.engine.spawn, self._produce, scope, tops, send, fail)
        try:
            while True:
                try:
                    batch = self._do(receive.receive)
                except trio.EndOfChannel:
                    return
                if not pick(batch, handout):
                    return
        finally:
            self._do_now(scope.cancel)

    async def _produce(
        self,
        scope: trio.CancelScope,
        tops: Sequence[Row],
        send: trio.MemorySendChannel[Batch],
        fail: Callable[[str], None],
    ) -> None:
        namespace = self.worker.namespace
        with scope, send:
            for top in tops:
                walk = namespace.walk(top.ino, on_error=lambda _ino, e: fail(str(e)))
                async with aclosing(walk) as batches:  # type: ignore[type-var]
                    async for batch in batches:
                        for at in range(0, len(batch), SLICE):
                            rows = batch[at : at + SLICE]
                            await send.send([(row.oid, ref) for row in rows if (ref := self._ref(row, fail)) is not None])

    def _ref(self, row: Row, fail: Callable[[str], None]) -> Ref | None:
        if row.flags & UNRESOLVED:
            fail(f"inode {row.ino}: its store tells neither size nor version")
            return None
        try:
            where = self.worker.namespace.locate(row.ino)
        except NotFound:
            return None  # gone meanwhile
        return Ref(self.worker.spec.mounts[row.mount].identity, where.key, row.version, row.size)

    def take(self, take: c.Take) -> Iterator[c.Taken]:
        run = self._do_now(self._taker.begin, take.parts)
        try:
            while not run.finished:
                yield self._do(run.taken)
        finally:
            self._do_now(run.scope.cancel)

    # --- what is known, pinned, cached

    def refresh(self, below: c.Below) -> c.Changed:
        """The next look at a name below asks the stores; files that did not change keep their bytes."""
        self._do(self.worker.namespace.refresh, below.path)
        return c.Changed()

    def pin(self, below: c.Below) -> c.Changed:
        return self._do(self._marks.each, below.path, self._marks.pin)

    def unpin(self, below: c.Below) -> c.Changed:
        return self._do(self._marks.each, below.path, self._marks.unpin)

    def evict(self, below: c.Below) -> c.Changed:
        return self._do(self._marks.each, below.path, self._marks.evict)

    # --- hops

    def _do(self, fn: Callable[..., Awaitable[_T]], *args: object) -> _T:
        try:
            return trio.from_thread.run(fn, *args, trio_token=self._token)
        except (trio.RunFinishedError, trio.Cancelled) as e:
            raise Unavailable("this node is ending") from e

    def _do_now(self, fn: Callable[..., _T], *args: object) -> _T:
        try:
            return trio.from_thread.run_sync(fn, *args, trio_token=self._token)
        except trio.RunFinishedError as e:
            raise Unavailable("this node is ending") from e


def mark(index_dir: str) -> None:
    """Remember that this node was drained, whatever happens to the machine next."""
    path = Path(index_dir, DRAINED)
    with path.open("wb") as f:
        os.fsync(f.fileno())
    fd = os.open(index_dir, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _part(ref: Ref, segment: int) -> c.Part:
    return c.Part(ref, segment * SEGMENT, min((segment + 1) * SEGMENT, ref.size))


def _door_of(member: Member) -> str:
    if not member.control:
        raise c.ControlError(f"member {member.node or member.data} has no control door: give it --control-listen")
    return member.control
