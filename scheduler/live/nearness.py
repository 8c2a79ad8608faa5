"""Where pods' data is, for the live scheduler: hints come in, gangs are placed where they lose the fewest seconds, or wait.

Pure; times are seconds of the epoch. What a hint says is never trusted beyond what is possible (`locality/warmth.py`), and counts
only as long as its publisher lives: so a lie, or a node that vanishes, costs time and cannot keep a gang from starting.

A gang that fits far from its data may be better off later: what it waits for then, and how long, is `awaiting.py`'s.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np

from forebay.api.hints.datasethints import LOAD_ON, DatasetHintsStatus
from forebay.api.hints.nodecache import NodeCacheStatus, Served, Warming
from forebay.api.kubernetes.core import Pod
from forebay.api.moments import over
from forebay.scheduler.arrays.slots import Shapes, Slots, capacity
from forebay.scheduler.arrays.state import State
from forebay.scheduler.arrays.types import Bools, Floats, Ints
from forebay.scheduler.gang import Gang, Member, part
from forebay.scheduler.live.awaiting import Awaiting, Case, Line
from forebay.scheduler.live.config import Locality
from forebay.scheduler.locality.cost import Data, Links, soon, together
from forebay.scheduler.locality.placing import Choice, choose, take
from forebay.scheduler.locality.prefetch import WARM
from forebay.scheduler.locality.warmth import Warmth
from forebay.scheduler.plan import Plan
from forebay.scheduler.pods.request import Request
from forebay.scheduler.preferences.worth import SECONDS, wasted

HINTS = ("NodeCache", "DatasetHints")
PUBLISHER = ("forebay.io/component", "node")
"""Label of the pods that publish NodeCaches, one a node."""
FRESHEN = 10.0
"""Seconds between looks whether silent publishers live; a hint is believed for 120 s."""


class Later(NamedTuple):
    """Better not now: look again in `seconds`; `sentence` says why."""

    seconds: float
    sentence: str


class Nearness:
    """Over the rows of `state`."""

    def __init__(self, state: State, settings: Locality = Locality()) -> None:  # noqa: B008
        self.state, self.settings = state, settings
        self.warmth = Warmth(state.names, settings.store_bytes_per_second, settings.node_bytes_per_second)
        self._slots, self._whole = Slots(state), Slots(state, capacity)
        self._preference_seconds = SECONDS
        self._nodes: dict[str, tuple[NodeCacheStatus, float]] = {}
        self._hints: dict[str, tuple[DatasetHintsStatus, float]] = {}
        self._publishers: dict[str, str] = {}  # uid of a pod that is ready -> its node
        self._freshened = 0.0
        self._roster = state.roster
        self.wished: dict[str, str] = {}
        """What stands on the DatasetHints of each dataset that has some: nodes that should load it (LOAD_ON of
        `api/hints/datasethints.py`)."""
        self._coming: dict[str, dict[str, int]] = {}  # node -> dataset -> bytes that a load there will bring
        self.awaiting = Awaiting(lambda: self.state.names)
        self.line = Line()

    def configure(self, settings: Locality, preference_seconds: float) -> None:
        """Settings were read anew. A rate that was not set is what was measured."""
        old, self.settings = self.settings, settings
        self._preference_seconds = preference_seconds
        self.warmth.nic = settings.node_bytes_per_second
        if old.store_bytes_per_second != settings.store_bytes_per_second:
            self.warmth.store = settings.store_bytes_per_second

    # --- what is published ---

    def apply(self, kind: str, old: Any, new: Any, now: float) -> None:
        """A change of one of HINTS, as the copies say."""
        meta = (new if new is not None else old).metadata
        status = new.status if new is not None else None
        if kind == "NodeCache":
            self.set_node(meta.name, status, now)
        else:
            dataset = f"{meta.namespace}/{meta.name}"
            self.set_hints(dataset, status, now)
            if new is None:
                self.wished.pop(dataset, None)
            else:
                self.wished[dataset] = meta.annotations.get(LOAD_ON, "")

    def see(self, old: Pod | None, new: Pod | None) -> None:
        """A change of any pod: publishers come and go."""
        pod = new if new is not None else old
        assert pod is not None
        meta = pod.metadata
        if meta.labels.get(PUBLISHER[0]) != PUBLISHER[1] or meta.namespace != self.settings.publishers:
            return
        if new is not None and any(one.type == "Ready" and one.status == "True" for one in new.status.conditions):
            self._publishers[meta.uid] = new.spec.node_name
        else:
            self._publishers.pop(meta.uid, None)

    def set_node(self, name: str, status: NodeCacheStatus | None, now: float) -> None:
        """A NodeCache as it is now, None when it is gone. A node that is not there yet is believed once it is."""
        self.follow()
        if status is not None:
            self._nodes[name] = status, now
            self._sizes(status)
            self._coming[name] = _coming(status)
            self.warmth.node_says(name, status, now)
            return
        self._coming.pop(name, None)
        if self._nodes.pop(name, None) is not None and name in self.warmth.row_of:
            self.warmth.forget(name)

    def _sizes(self, status: NodeCacheStatus) -> None:
        """How large datasets are, by workers that have listed them whole; DatasetHints, which sum them up, count first."""
        for one in status.datasets:
            name = f"{one.namespace}/{one.name}"
            if isinstance(one.worker, Served) and one.worker.listed and one.worker.total_bytes > 0 and name not in self._hints:
                self.warmth.resize(name, one.worker.total_bytes)

    def set_hints(self, dataset: str, status: DatasetHintsStatus | None, now: float) -> None:
        """A DatasetHints, `namespace/name`; None when it is gone: what nodes said themselves still counts."""
        self.follow()
        if status is None:
            self._hints.pop(dataset, None)
            return
        self._hints[dataset] = status, now
        self.warmth.dataset_says(dataset, status, now)

    def alive(self, now: float) -> None:
        """Nodes write only what is new: what they said holds as long as their publisher is ready."""
        if not over(self._freshened, FRESHEN, now):
            return
        self._freshened = now
        self.awaiting.forget(now)
        self.follow()
        for name in self._publishers.values():
            if name in self._nodes:
                self.warmth.still(name, now)

    def dataset(self, pod: Pod) -> str:
        """The dataset that the pod reads: the first of its claims of whose bytes anybody has told. "" for none."""
        for volume in pod.spec.volumes:
            if volume.persistent_volume_claim is not None:
                name = f"{pod.metadata.namespace}/{volume.persistent_volume_claim.claim_name}"
                if name in self.warmth.column_of:
                    return name
        return ""

    @property
    def published(self) -> bool:
        """Whether anything was told of any dataset."""
        return bool(self._nodes or self.wished)

    def workers(self, datasets: int) -> Bools:
        """bool[N, datasets]: nodes where a worker of the dataset serves, and which therefore can load it."""
        found: Bools = np.zeros((len(self.warmth.nodes), datasets), np.bool_)
        for name, (status, _) in self._nodes.items():
            row = self.warmth.row_of.get(name)
            for one in status.datasets if row is not None else ():
                column = self.warmth.column_of.get(f"{one.namespace}/{one.name}")
                if column is not None and isinstance(one.worker, Served):
                    found[row, column] = True
        return found

    # --- what is decided ---

    def place(self, gang: Gang, dataset: str, waited: float, now: float) -> Plan | Later | None:
        """Places the gang, or what of it fits, in the state where its data is near; or says why it waits, after `waited` seconds.

        None leaves the choice to others: nothing is known of the data, or less of the gang fits than must start at once.
        """
        self.follow()
        turn = self.line.turn(dataset, waited, now, self.settings.longest_wait_seconds)
        data = self._data(dataset, now)
        if data is None or (data.nowhere and not turn):
            return None
        requests = list(dict.fromkeys(member.request for member in gang.members))
        if not requests:
            return None
        free = self._masked(requests, [self._slots.of(request) for request in requests])
        members = part(gang, int(free.sum()))
        choice = self._choose(len(members), free, data) if members else None
        if choice is None:
            return None

        def best(data: Data) -> Choice | None:
            return self._choose(len(members), self.empty(requests), data)

        case = Case(gang.name, dataset, data, choice, free, waited, now, turn)
        wait = self.awaiting.look(case, self.settings, best)
        if wait is not None:
            return Later(*wait)
        if data.nowhere:
            return None
        worse = self._wasted(members, free, data)
        if worse is not None:  # what is preferred has no say in whether it waits, nor in whether it starts
            preferred = choose(len(members), free, data, self._links, Shapes(1), wasted=worse)
            found = None if preferred is None else self._take(gang, members, preferred, free)
            if found is not None:
                return found
        return self._take(gang, members, choice, free)

    def holders(self, dataset: str, now: float) -> Bools | None:
        """bool[N]: nodes that hold some of the dataset, or load it; None where that has no say in where its pods go."""
        data = self._data(dataset, now)
        return None if data is None or data.nowhere else (data.held > 0) | np.isfinite(data.eta)

    def _wasted(self, members: Sequence[Member], free: Ints, data: Data) -> Floats | None:
        """Seconds [N] by which nodes with room are worse than what the pods prefer, on average; None where nothing is."""
        if not self._preference_seconds:
            return None
        total: Floats | None = None
        held = (data.held > 0) | np.isfinite(data.eta)
        for request, count in Counter(member.request for member in members).items():
            one = wasted(self.state, request, free > 0, held, self._preference_seconds)
            if one is not None:
                part = one * (count / len(members))
                total = part if total is None else total + part
        return total

    def _take(self, gang: Gang, members: Sequence[Member], choice: Choice, free: Ints) -> Plan | None:
        some = gang if len(members) == len(gang.members) else Gang(gang.name, members, len(members))
        plan = take(self.state, some, choice.rows, choice.counts)
        if plan is None and any(self.state.coupled(member.request) for member in members):
            # its own affinity or spread forbids to put so many on one node: one on each, the same nodes first
            rows = [*choice.rows, *np.setdiff1d(np.flatnonzero(free), choice.rows).tolist()][: len(members)]
            plan = take(self.state, some, rows, [1] * len(rows)) if len(rows) == len(members) else None
        if plan is None or some is gang:
            return plan
        placed = {one.pod for one in plan.placements}
        return msgspec.structs.replace(plan, waiting=tuple(one.pod for one in gang.members if one.pod not in placed))

    def _choose(self, pods: int, free: Ints, data: Data) -> Choice | None:
        """Without knowledge of which gangs come, no free node is worth more whole than another."""
        return choose(pods, free, data, self._links, Shapes(1))

    @property
    def _links(self) -> Links:
        return Links(self.warmth.nic, self.warmth.store, len(self.line.loading))

    def keep(self, requests: Sequence[Request]) -> None:
        """Forget how many pods fit where for all but these."""
        self._slots.keep(requests)
        self._whole.keep(requests)

    def empty(self, requests: list[Request]) -> Ints:
        """Slots [N] that would take any of the pods if nothing ran, where the constraints of all allow them."""
        return self._masked(requests, [self._whole.of(request) for request in requests])

    def _masked(self, requests: list[Request], rooms: list[Ints]) -> Ints:
        """Slots [N] that take any of the pods, where the constraints of all allow them."""
        room: Ints = rooms[0] if len(rooms) == 1 else np.minimum.reduce(rooms)
        for request in requests:
            allowed = self.state.allowed(request)
            if allowed is not None:
                room = np.where(allowed, room, 0)
        return room

    def _data(self, dataset: str, now: float) -> Data | None:
        """None where nobody knows its size and no node holds any. One of unknown size is as large as the largest part of it."""
        column = self.warmth.column_of.get(dataset)
        if column is None:
            return None
        held = self.warmth.believed_of(column, now)
        size = int(self.warmth.size[column]) or int(held.max(initial=0))
        if not size:
            return None
        data = Data(size, held, self.warmth.remaining(column, now), together(held, size), np.zeros(len(held)))
        self._loads(dataset, data)
        return data

    def _loads(self, dataset: str, data: Data) -> None:
        """Loads count that bring a node all of it, sooner than reading would; and what was asked for, at the links' rates, until
        hints show it."""
        asked = self.line.asked.get(dataset, ())
        running = np.flatnonzero(np.isfinite(data.eta)).tolist()
        if not asked and not running:
            return
        for row in running:
            coming = self._coming.get(self.warmth.nodes[row], {}).get(dataset)
            if coming is not None and data.held[row] + coming < WARM * data.size:  # a path of it, or the node's share
                data.eta[row] = np.inf
        links = self._links
        rate = links.per_node if data.joint >= WARM * data.size else links.store_share
        for row in (self.warmth.row_of[name] for name in asked if name in self.warmth.row_of):
            data.eta[row] = min(float(data.eta[row]), max(data.size - int(data.held[row]), 0) / rate)
        data.eta[~soon(data, links)] = np.inf

    def follow(self) -> None:
        """Nodes came or went: what they said before they were there is read now."""
        if self.state.roster == self._roster:
            return
        self._roster = self.state.roster
        before = set(self.warmth.row_of)
        if not self.warmth.follow(self.state.names):
            return
        for name in self.warmth.row_of.keys() - before:
            if name in self._nodes:
                self.warmth.node_says(name, *self._nodes[name])
        for dataset, said in self._hints.items():
            self.warmth.dataset_says(dataset, *said)


def _coming(status: NodeCacheStatus) -> dict[str, int]:
    """Bytes that loads will bring by dataset, none where its store gives nothing."""
    found: dict[str, int] = {}
    for one in status.datasets:
        if isinstance(one.warming, Warming):
            stuck = isinstance(one.worker, Served) and bool(one.worker.trouble)
            found[f"{one.namespace}/{one.name}"] = 0 if stuck else max(one.warming.remaining_bytes, 0)
    return found
