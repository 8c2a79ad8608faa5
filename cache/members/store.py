"""A mount's store as a node of a cluster sees it: names from the owner of their directory, bytes from the owner of their segment.

`ClusterStore` is one mount's `Store`, to be put in the place of the store itself. A client tier has no store of its own
(`local` None).
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Generator, MutableSequence, Sequence
from typing import NamedTuple

from forebay.cache.disk.index import object_id
from forebay.cache.fetch.lanes import Source
from forebay.cache.members import placement
from forebay.cache.members.cluster import Cluster
from forebay.cache.members.roster import Member
from forebay.cache.members.routed import RoutedBody
from forebay.cache.peers import wire
from forebay.cache.peers.call import PeerError, PeerRefused, PeerSilent, PeerWrong, Whole
from forebay.cache.peers.wire import Ref
from forebay.cache.stores.base import Body, Changed, Entry, NotFound, Page, Store, StoreError, Unavailable
from forebay.cache.stores.names import show
from forebay.cache.stores.net.ranges import Empty, Held

SIZES = 4096
BATCH_FROM = 2
"""Files of one owner from which a batch is worth its framing."""
AT_ONCE = 8
"""Batches on their way for one caller; each holds a connection."""


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
