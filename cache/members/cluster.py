"""A mount's store as a node of a cluster sees it: names from the owner of their directory, bytes from the owner of their segment.

`Cluster` is what a process knows of its cluster, one for all mounts; `ClusterStore` is one mount's `Store`, to be put in
the place of the store itself. A client tier has no store of its own (`local` None).
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Generator, MutableSequence, Sequence
from typing import NamedTuple

from forebay.cache.disk.extents import segments_of
from forebay.cache.disk.index import BLOCK, SEGMENT, object_id
from forebay.cache.fetch.lanes import Source
from forebay.cache.log import log
from forebay.cache.members import placement
from forebay.cache.members.membership import Membership
from forebay.cache.members.roster import Member
from forebay.cache.members.route import Health
from forebay.cache.members.routed import RoutedBody
from forebay.cache.peers import wire
from forebay.cache.peers.call import PeerError, PeerRefused, PeerSilent, PeerWrong, Whole
from forebay.cache.peers.client import PeerClient
from forebay.cache.peers.wire import Mode, Ref
from forebay.cache.stores.base import Body, Changed, Entry, NotFound, Page, Store, StoreError, Unavailable
from forebay.cache.stores.names import show
from forebay.cache.stores.ranges import Empty, Held

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
SIZES = 4096
BATCH_FROM = 2
"""Files of one owner from which a batch is worth its framing."""
AT_ONCE = 8
"""Batches on their way for one caller; each holds a connection."""


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


class Wanted(NamedTuple):
    """One object of `ClusterStore.read_many`."""

    key: bytes
    version: bytes
    size: int


class ClusterStore:
    """See the module. `source` is `Mount.identity`: it names the same tree on every node, and the objects in it."""

    def __init__(self, source: str, cluster: Cluster, local: Store | None = None) -> None:
        self.source = source
        self.cluster = cluster
        self.local = local
        self.retired = False  # its mount was taken from the dataset: it shows nothing, what is open stays readable
        self._strong = False  # until a member says so
        self._sizes: OrderedDict[tuple[bytes, bytes], int] = OrderedDict()

    @property
    def strong(self) -> bool:
        return self._strong if self.local is None else self.local.strong

    # --- names

    def list(self, prefix: bytes, token: bytes | None = None, limit: int = 1000) -> Page:
        answer = self._names(prefix, wire.Ask("list", self.source, prefix, token, min(limit, wire.LIST_MOST)))
        if isinstance(answer, wire.Answer):
            if answer.page is None:
                raise Unavailable(f"{self.source}: a member answered a listing without a page; use one version of forebay")
            return answer.page
        return answer.list(prefix, token, limit)

    def stat(self, key: bytes) -> Entry:
        answer = self._names(_parent(key), wire.Ask("stat", self.source, key))
        if isinstance(answer, wire.Answer):
            if answer.entry is None:
                raise Unavailable(f"{self.source}: a member answered without an entry; use one version of forebay")
            return answer.entry
        return answer.stat(key)

    def is_dir(self, key: bytes) -> bool:
        answer = self._names(key.rstrip(b"/") + b"/", wire.Ask("is_dir", self.source, key))
        if isinstance(answer, wire.Answer):
            if answer.is_dir is None:
                raise Unavailable(f"{self.source}: a member did not say whether it is a directory; use one version of forebay")
            return answer.is_dir
        return answer.is_dir(key)

    def _names(self, prefix: bytes, ask: wire.Ask) -> wire.Answer | Store:
        """The answer of the first member in order that gives one, or the own store when it is its turn."""
        c = self.cluster
        if self.retired:
            raise NotFound(f"{self.source}/{show(ask.key)}: its mount was taken from the dataset")
        failure: StoreError | None = None
        for member in placement.rank_prefix(c.dataset, self.source, prefix, c.members()):
            if member.id == c.me and self.local is not None:
                return self.local
            if member.id == c.me or c.health.down(member.id, c.clock()):
                continue
            try:
                answer = c.client.meta(member, ask)
            except PeerRefused as e:
                c.health.refused(member.id, c.clock())
                c.note("refused", member.id, e)
                failure = e
            except PeerSilent as e:
                c.health.silent(member.id, c.clock())
                c.note("silent", member.id, e)
                failure = e
            except PeerError as e:
                c.note("names_unanswered", member.id, e)
                failure = e
            else:
                c.health.heard(member.id)
                self._strong = answer.strong
                return answer
        if self.local is not None:
            return self.local
        raise Unavailable(
            f"{self.source}/{show(ask.key)}: no member answers ({failure or 'none is known or well'}); "
            "check the member list and that workers are up"
        )

    # --- bytes

    def read(self, key: bytes, version: bytes, offset: int, length: int, size: int = -1) -> Body:
        """As of `Store`. `size` is the object's; without it the owner of its directory is asked once more."""
        if length == 0:
            return Empty()
        if size < 0:
            size = self._size(key, version)
        if offset + length > size:
            raise Changed(f"{self.source}/{show(key)}: only {size} bytes long, {offset + length} were listed; list it again")
        return RoutedBody(self.cluster, self.local, Ref(self.source, key, version, size), offset=offset, length=length)

    def _size(self, key: bytes, version: bytes) -> int:
        known = self._sizes.get((key, version))
        if known is None:
            entry = self.stat(key)
            if entry.version != version:
                raise Changed(f"{self.source}/{show(key)}: has another version now; list it again")
            known = self._sizes[key, version] = entry.size
            while len(self._sizes) > SIZES:
                self._sizes.popitem(last=False)
        return known

    def whole(self, key: bytes) -> tuple[Entry, Body]:
        if self.local is not None and not self.cluster.members():
            return self.local.whole(key)
        entry = self.stat(key)
        return entry, self.read(key, entry.version, 0, entry.size, entry.size)

    def read_many(
        self, objects: Sequence[tuple[bytes, bytes, int]]
    ) -> Generator[tuple[int, Body | StoreError] | None, None, None]:
        """Small files, each once, as they come: those of one owner in one exchange. A body that came in a batch is in memory;
        what no batch brought is read as `read` does it. None where the next one may take a while."""
        c = self.cluster
        wanted = [Wanted(*o) for o in objects]
        groups: dict[str, list[int]] = {}
        rest: list[int] = []
        for i, w in enumerate(wanted):
            if w.size == 0:
                yield i, Empty()
                continue
            oid = object_id(self.source, w.key, w.version)
            owner = c.owner(oid)
            if owner is None or owner.id == c.me or w.size > wire.BATCH_BYTES or c.health.down(owner.id, c.clock()):
                rest.append(i)
            else:
                groups.setdefault(owner.id, []).append(i)
        batches: list[tuple[Member, Sequence[int]]] = []
        for identity, numbers in groups.items():
            member = c.member(identity)
            if len(numbers) < BATCH_FROM or member is None:
                rest += numbers
            else:
                batches += [(member, batch) for batch in _batches(numbers, wanted)]
        for at in range(0, len(batches), AT_ONCE):
            yield from self._batched(wanted, batches[at : at + AT_ONCE], rest)
        for i in rest:
            w = wanted[i]
            yield None
            yield i, self.read(w.key, w.version, 0, w.size, w.size)

    def _batched(
        self, wanted: Sequence[Wanted], batches: Sequence[tuple[Member, Sequence[int]]], rest: MutableSequence[int]
    ) -> Generator[tuple[int, Body | StoreError] | None, None, None]:
        """Send some batches, then read their answers: all owners work while one is read. What did not come goes to `rest`."""
        c = self.cluster
        asked: list[tuple[Member, Sequence[int], Generator[tuple[int, Whole | StoreError] | None, None, None]]] = []
        for member, batch in batches:
            refs = [Ref(self.source, wanted[i].key, wanted[i].version, wanted[i].size) for i in batch]
            try:
                asked.append((member, batch, c.client.batch(member, refs)))
            except PeerError as e:
                self._failed(member, e)
                rest += batch
        for member, batch, answers in asked:
            left = dict.fromkeys(range(len(batch)))
            came = 0
            try:
                for answer in answers:
                    if answer is None:
                        yield None
                        continue
                    at, result = answer
                    if isinstance(result, PeerError):
                        self._failed(member, result)
                        if isinstance(result, PeerWrong):
                            w = wanted[batch[at]]
                            c.suspect(member, Ref(self.source, w.key, w.version, w.size), result.block)
                        continue
                    if isinstance(result, Whole):
                        del left[at]
                        came += len(result.data)
                        yield batch[at], Held(result.data, result.sums)
                    # else asked for alone: that a file is gone is believed only of an answer that proves who gives it
                c.health.heard(member.id)
            except PeerError as e:
                self._failed(member, e)
            finally:
                answers.close()
                c.count("owner", came)
            rest += [batch[at] for at in left]

    def _failed(self, member: Member, e: PeerError) -> None:
        if isinstance(e, PeerRefused):
            self.cluster.health.refused(member.id, self.cluster.clock())
        self.cluster.note("batch_failed", member.id, e)

    # --- the rest of the interface

    def probe(self) -> None:
        """Reach of the own store, or for a client tier of any member."""
        if self.local is not None:
            self.local.probe()
            return
        failure: StoreError = Unavailable(f"{self.source}: no member is known; check the member list")
        for member in random.sample(self.cluster.members(), len(self.cluster.members())):
            try:
                self.cluster.client.hello(member.data)
                return
            except StoreError as e:
                failure = e
        raise failure

    def close(self) -> None:
        if self.local is not None:
            self.local.close()


class ClusterSource(Source):
    """A `Source` whose store is a `ClusterStore`: it is told the size, which the caller knows."""

    def open(self, size: int, offset: int, length: int) -> Body:
        store = self.store
        assert isinstance(store, ClusterStore)
        return store.read(self.key, self.version, offset, length, size)


def _parent(key: bytes) -> bytes:
    head, slash, _ = key.rstrip(b"/").rpartition(b"/")
    return head + slash


def _batches(numbers: Sequence[int], wanted: Sequence[Wanted]) -> Generator[Sequence[int], None, None]:
    """Cut into batches that a port takes."""
    batch: list[int] = []
    total = 0
    for i in numbers:
        if batch and (len(batch) == wire.BATCH_FILES or total + wanted[i].size > wire.BATCH_BYTES):
            yield batch
            batch, total = [], 0
        batch.append(i)
        total += wanted[i].size
    if batch:
        yield batch
