"""What a process knows of its cluster, one for all mounts: members, their health, who owns what, and what came from where."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable

from forebay.cache.disk.extents import segments_of
from forebay.cache.disk.index import BLOCK, SEGMENT, object_id
from forebay.cache.log import log
from forebay.cache.members import placement
from forebay.cache.members.membership import Membership
from forebay.cache.members.roster import Member
from forebay.cache.members.route import Health
from forebay.cache.peers import wire
from forebay.cache.peers.call import PeerRefused
from forebay.cache.peers.client import PeerClient
from forebay.cache.peers.wire import Mode, Ref
from forebay.cache.stores.base import StoreError

RETURN_FOR = 600.0
"""Seconds after a start, or a change of members, in which an owner asks others before the store: they may have fetched in
its place."""
LOOKS = 64
"""Questions for copies in a row that may be in vain; then one range in so many asks on: a member may be filled meanwhile."""
OWNERS_KEPT = 4096
SAMPLE = 256
"""Segments looked at to tell a copy: a placement costs 17 us with 50 members, and readers wait meanwhile."""
STAND_IN_FOR = 60.0
STAND_INS = 65536
GREET_EVERY = 0.5


class Cluster:
    """Members, their health, and what came from where. Thread-safe. `clock` is any steady clock, in seconds.

    `me` is this process's identity, in the member list or not; `owns` whether it serves a store. `returned`: others may hold
    what belongs here, as for one that was away or is new.
    """

    def __init__(
        self,
        dataset: str,
        me: str,
        *,
        membership: Membership,
        client: PeerClient,
        owns: bool = True,
        returned: bool = False,
        weight: float = 1.0,
        node: str = "",
        control: str = "",
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.dataset = dataset
        self.me = me
        self.membership = membership
        self.client = client
        self.owns = owns
        self.health = Health()
        self.bytes: Counter[str] = Counter()  # by source: "store", "owner", "cached", "standin"
        self.events: Counter[str] = Counter()  # refusals, silences, wrong checksums ... each by name
        self.clock = clock
        self.sleep = sleep
        self._about = (weight, node, control)
        self._members: dict[str, Member] = {}
        self._list: tuple[Member, ...] = ()
        self._owners: tuple[tuple[Member, ...], dict[bytes, Member | None]] = ((), {})
        self._returned_until = clock() + RETURN_FOR if returned else 0.0
        self._looks = LOOKS  # questions for copies that may still be in vain
        self._stand_ins: OrderedDict[tuple[bytes, int], float] = OrderedDict()
        self._lock = threading.Lock()
        self._suspects: deque[tuple[Member, wire.Ask]] = deque(maxlen=64)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._take(membership.current())
        membership.subscribe(self._changed)

    def start(self) -> None:
        """Greet ill members, and tell members of bad blocks, in a thread until `close`."""
        self._thread = threading.Thread(target=self._tend, name="forebay-greet", daemon=True)
        self._thread.start()

    def close(self, timeout: float = 2.0) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout)

    def _take(self, members: tuple[Member, ...]) -> None:
        self._owners = (members, {})
        self._list = members
        self._members = {m.id: m for m in members}

    def _changed(self, members: tuple[Member, ...]) -> None:
        if self._list and placement.epoch(members) != self.epoch():
            self._returned_until = self.clock() + RETURN_FOR
            self._looks = LOOKS
        self._take(members)

    # --- placement

    def members(self) -> tuple[Member, ...]:
        return self._list

    def member(self, identity: str) -> Member | None:
        return self._members.get(identity)

    def epoch(self) -> int:
        return placement.epoch(self._list)

    def hello(self) -> wire.Hello:
        """What a port answers to a greeting."""
        weight, node, control = self._about
        return wire.Hello(self.me, wire.PROTOCOL, self.dataset, weight, node, self.epoch(), self.owns, control)

    def ranked(self, oid: bytes, segment: int) -> list[Member]:
        return placement.rank(oid, segment, self._list)

    def owner(self, oid: bytes, segment: int = 0) -> Member | None:
        """Whose a segment is. A small file's is asked for four times on its way here: 15 us each with three members."""
        members, known = self._owners
        if segment:
            return placement.owner(oid, segment, members)
        try:
            return known[oid]
        except KeyError:
            if len(known) >= OWNERS_KEPT:
                known.clear()
            found = known[oid] = placement.owner(oid, 0, members)
            return found

    def owned(self, oid: bytes, size: int) -> int:
        """Bytes of an object that belong here; the rest of what is kept of it are copies."""
        total = 0
        for segment in range(max(segments_of(size), 1)):
            owner = self.owner(oid, segment)
            if owner is None or owner.id == self.me:
                total += min(SEGMENT, size - segment * SEGMENT)
        return total

    def is_copy(self, oid: bytes, size: int) -> bool:
        """Whether an object goes first when room is made: less than half of it belongs here; of a huge one a sample tells."""
        if size <= SAMPLE * SEGMENT:
            return self.owned(oid, size) * 2 < size
        segments = range(0, segments_of(size), max(segments_of(size) // SAMPLE, 1))
        owners = (self.owner(oid, segment) for segment in segments)
        return sum(o is None or o.id == self.me for o in owners) * 2 < len(segments)

    def returned(self) -> bool:
        """Whether others may have fetched what belongs here."""
        return self.clock() < self._returned_until and (self._looks > 0 or random.random() < 1 / LOOKS)

    def looked(self, *, found: bool) -> None:
        """Somebody was asked for a copy of what belongs here. Where nobody has any, as in a new cluster, few are asked."""
        self._looks = LOOKS if found else max(self._looks - 1, 0)

    def stand_in(self, oid: bytes, segment: int) -> None:
        """Somebody asked this node to fetch in the owner's place: until further notice it goes to the store for it."""
        with self._lock:
            self._stand_ins[oid, segment] = self.clock() + STAND_IN_FOR
            self._stand_ins.move_to_end((oid, segment))
            while len(self._stand_ins) > STAND_INS:
                self._stand_ins.popitem(last=False)

    def stands_in(self, oid: bytes, segment: int) -> bool:
        return self._stand_ins.get((oid, segment), 0.0) > self.clock()

    def admit(self, ref: Ref, first: int, count: int, mode: Mode) -> None:
        """For a provider, before it fetches blocks for another node: what does not belong here is fetched in the owner's place.

        That holds for `FETCH` as well. Who asks takes this node for the owner; if this node takes the other for it, each
        would wait for the other. Raises `Absent` where no store is served.
        """
        if mode is Mode.CACHED:
            return
        if not self.owns:
            raise wire.Absent("a client tier has no store to fetch from: correct the member list")
        oid = object_id(ref.mount_source, ref.key, ref.version)
        for segment in range(first * BLOCK // SEGMENT, ((first + count) * BLOCK - 1) // SEGMENT + 1):
            owner = self.owner(oid, segment)
            if owner is not None and owner.id != self.me:
                self.stand_in(oid, segment)

    # --- what goes wrong

    def count(self, source: str, nbytes: int) -> None:
        """Bytes came: from the "store", the "owner", a "cached" copy, or a "standin"."""
        with self._lock:
            self.bytes[source] += nbytes

    def note(self, event: str, member: str, error: object) -> None:
        """Count and log a member's failure."""
        with self._lock:
            self.events[event] += 1
        log("cluster", event, member=member, error=str(error))

    def suspect(self, member: Member, ref: Ref, block: int) -> None:
        """Tell a member that a block of its came with a wrong checksum. Not at once: the reader does not wait for it."""
        ask = wire.Ask("suspect", ref.mount_source, ref.key, version=ref.version, size=ref.size, block=block)
        if (member, ask) not in self._suspects:
            self._suspects.append((member, ask))

    def _tend(self) -> None:
        while not self._stop.wait(GREET_EVERY):
            self.tend()

    def tend(self) -> None:
        """One round of greetings and notices."""
        while self._suspects and not self._stop.is_set():
            member, ask = self._suspects.popleft()
            try:
                self.client.meta(member, ask, timeout=2.0)
            except StoreError as e:
                log("cluster", "suspect_untold", member=member.id, error=str(e))
        for identity in self.health.ill():
            member_ = self._members.get(identity)
            if member_ is None:
                self.health.heard(identity)  # it left the list: nothing to remember
                continue
            if self._stop.is_set():
                return
            try:
                hello = self.client.hello(member_.data, timeout=1.0)
            except PeerRefused:
                self.health.refused(identity, self.clock())
            except StoreError as e:
                log("cluster", "not_well", member=identity, error=str(e))
            else:
                if hello.id == identity:
                    self.health.answered(identity, self.clock())
