"""The bytes of one object, each segment from where `Route` says: the shell around that machine.

Blocks of members are verified before they are delivered; those of the own store are as good as its link.
"""

from __future__ import annotations

import random

from forebay.cache.disk.extents import block_range
from forebay.cache.disk.index import BLOCK, SEGMENT, object_id
from forebay.cache.members.cluster import Cluster
from forebay.cache.members.roster import Member
from forebay.cache.members.route import Ask, Fail, Listen, Pause, Route, Step
from forebay.cache.members.route import Store as FromStore
from forebay.cache.peers.call import BlobCall, PeerAbsent, PeerBusy, PeerError, PeerRefused, PeerShut, PeerWrong, Silent
from forebay.cache.peers.wire import Mode, Ref
from forebay.cache.stores.base import Body, Store, StoreError, Unavailable
from forebay.cache.stores.names import show


class RoutedBody:
    """A `Body`. One thread's."""

    def __init__(self, cluster: Cluster, local: Store | None, ref: Ref, *, offset: int, length: int) -> None:
        self._cluster = cluster
        self._local = local
        self._ref = ref
        self._at = offset
        self._end = offset + length
        self._oid = object_id(ref.mount_source, ref.key, ref.version)
        self._segment = -1
        self._route: Route | None = None
        self._step: Step = FromStore()
        self._fresh = True  # whether the step was not begun yet
        self._patience = 0.0
        self._call: BlobCall | None = None
        self._mode = Mode.FETCH
        self._parked: BlobCall | None = None  # the owner's answer while copies are looked for
        self._body: Body | None = None  # the own store's
        self._scratch: bytearray | None = None
        self._ready = memoryview(b"")  # verified, not yet delivered
        self._sums: list[bytes] = []  # of blocks verified in the reader's own buffer

    def readinto(self, buffer: memoryview) -> int:
        if not buffer or self._at == self._end:
            return 0
        if self._ready:
            return self._deliver(buffer)
        segment = self._at // SEGMENT
        if segment != self._segment:
            self._begin(segment)
        if self._body is None:
            block = self._at // BLOCK
            offset, length = block_range(self._ref.size, block)
            if offset == self._at and len(buffer) >= length and offset + length <= self._end:
                if self._receive(block, buffer[:length]):
                    assert self._call is not None
                    self._sums.append(self._call.told)
                    self._at += length
                    return length
            else:
                if self._scratch is None:
                    self._scratch = bytearray(BLOCK)
                view = memoryview(self._scratch)[:length]
                if self._receive(block, view):
                    self._ready = view[self._at - offset : self._end - offset]
                    return self._deliver(buffer)
        return self._from_store(buffer)

    def proved(self, blocks: int) -> bytes:
        """xxh3-64 of the blocks delivered since the last time, compared where they lie; b"" unless all `blocks` are such."""
        sums, self._sums = self._sums, []
        return b"".join(sums) if len(sums) == blocks else b""

    def _deliver(self, buffer: memoryview) -> int:
        n = min(len(buffer), len(self._ready))
        buffer[:n] = self._ready[:n]
        self._ready = self._ready[n:]
        self._at += n
        return n

    def _limit(self) -> int:
        """Where the present segment, or the range, ends."""
        return min(self._end, (self._segment + 1) * SEGMENT)

    def _from_store(self, buffer: memoryview) -> int:
        assert self._body is not None
        n = self._body.readinto(buffer[: self._limit() - self._at])
        self._at += n
        self._cluster.count("store", n)
        return n

    def _begin(self, segment: int) -> None:
        self.close()
        c = self._cluster
        self._segment = segment
        stands_in = c.stands_in(self._oid, segment)
        self._route = Route(
            [m.id for m in c.ranked(self._oid, segment)],
            me=c.me,
            store=self._local is not None,
            health=c.health,
            as_owner=stands_in,
            returned=c.returned() or stands_in,  # the owner had given copies of what it fetched before it fell silent
        )
        self._step = self._route.begin(c.clock())
        self._fresh = True

    def _receive(self, block: int, view: memoryview) -> bool:
        """Get one block from a member into `view`. False when the own store's turn has come, and its body is open."""
        c, route = self._cluster, self._route
        assert route is not None
        while True:
            step = self._step
            if isinstance(step, FromStore):
                self._open_store()
                return False
            if isinstance(step, Fail):
                self.close()
                raise Unavailable(
                    f"{self._ref.mount_source}/{show(self._ref.key)}: no member serves block {block} ({step.reason}); "
                    "check that workers are up and `forebay status` for their members"
                )
            if isinstance(step, Pause):
                self._drop()
                c.sleep(step.seconds * random.uniform(0.7, 1.3))
                self._turn(route.paused(c.clock()))
                continue
            member = c.member(step.member)
            if member is None:  # it left the list just now
                self._drop()
                self._turn(route.absent(c.clock()))
                continue
            try:
                if self._fresh:
                    self._start(step, member, block)
                if self._call is None:
                    self._ask(member, block)
                assert self._call is not None
                got = self._call.block(view, self._patience)
            except Silent:
                c.note("silent", member.id, f"no byte of {show(self._ref.key)} for {self._patience:g} s")
                self._turn(route.silence(c.clock()))
            except PeerRefused as e:
                c.note("refused", member.id, e)
                self._turn(route.refused(c.clock(), str(e)))
            except PeerWrong as e:
                c.note("wrong_checksum", member.id, e)
                c.suspect(member, self._ref, e.block)
                self._turn(route.broken(c.clock(), wrong=True, reason=str(e)))
            except PeerAbsent:
                if self._mode is Mode.CACHED:
                    c.looked(found=False)
                self._turn(route.absent(c.clock()))
            except PeerBusy as e:
                c.note("busy", member.id, e)
                self._turn(route.busy(c.clock(), str(e)))
            except PeerShut as e:
                c.note("shut", member.id, e)
                self._turn(route.shut(c.clock(), str(e)))
            except PeerError as e:
                c.note("broken", member.id, e)
                self._turn(route.broken(c.clock(), reason=str(e)))
            except StoreError:
                if self._mode is Mode.CACHED:  # who has a copy cannot tell what the store has
                    self._turn(route.absent(c.clock()))
                    continue
                self.close()
                raise
            else:
                if got:
                    self._patience = route.progress(c.clock())
                    if self._mode is Mode.CACHED:
                        c.looked(found=True)
                    c.count("owner" if self._mode is Mode.FETCH else str(self._mode), got)
                    return True
                # a copy of less than was asked for came to its end
                self._turn(route.absent(c.clock()))

    def _turn(self, step: Step) -> None:
        """The next step. The owner's open answer is kept while copies are looked for."""
        call = self._call
        if call is not None and call.open and self._mode is Mode.FETCH and isinstance(step, Ask) and step.mode is Mode.CACHED:
            self._parked, self._call = call, None
        elif not (isinstance(step, Listen) and call is not None and call.open and self._mode is Mode.FETCH):
            # bytes of another answer in the reader's buffer spoil what the owner's answer had put there
            spoiled = call is not None and call.touched and self._parked is not None and self._parked.touched
            if call is not None:
                call.close()
            self._call = None
            if spoiled:
                self._unpark()
        self._step = step
        self._fresh = True

    def _start(self, step: Ask | Listen, member: Member, block: int) -> None:
        self._fresh = False
        self._patience = step.patience
        if isinstance(step, Listen):
            self._mode = Mode.FETCH
            if self._call is None and self._parked is not None:
                self._call, self._parked = self._parked, None
            if self._call is not None and (not self._call.open or self._call.next != block or self._call.member != member):
                self._call.close()
                self._call = None
            return
        self._mode = step.mode
        if step.mode is not Mode.CACHED:
            self._unpark()

    def _ask(self, member: Member, block: int) -> None:
        last = (self._limit() + BLOCK - 1) // BLOCK
        self._call = self._cluster.client.blob(member, self._ref, block, last - block, self._mode)

    def _open_store(self) -> None:
        self.close()
        assert self._local is not None
        self._body = self._local.read(self._ref.key, self._ref.version, self._at, self._limit() - self._at)

    def _unpark(self) -> None:
        if self._parked is not None:
            self._parked.close()
            self._parked = None

    def _drop(self) -> None:
        if self._call is not None:
            self._call.close()
            self._call = None
        self._unpark()

    def close(self) -> None:
        self._drop()
        body, self._body = self._body, None
        if body is not None:
            body.close()
