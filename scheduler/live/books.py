"""All that is booked, as one: the arrays of the cluster, the cards, the quotas. Written by the deciding thread alone.

Invariants:
- a pod counts in all three or in none: `pod` and `gone` follow the watch, `assume` and `undo` what was decided here;
- what the watch says wins: a pod that is bound elsewhere than assumed is moved there, and what is there counts whether or not
  it fits;
- cards of a bound pod that nobody wrote down are guessed as the node's plugin would give them, so that they are not given again.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from forebay.api.kubernetes.core import Node, Pod
from forebay.api.moments import moment
from forebay.api.quantity import QuantityError
from forebay.scheduler.arrays.cluster import ENDED, Cluster
from forebay.scheduler.arrays.storage import ClaimKey
from forebay.scheduler.devices.ask import PodAsk
from forebay.scheduler.devices.card import lack
from forebay.scheduler.devices.ecosystems.ack import read_unhealthy
from forebay.scheduler.devices.ecosystems.hami import asking
from forebay.scheduler.devices.ecosystems.inputs import Inventory, read_ask, read_node, read_record, render, served
from forebay.scheduler.devices.ecosystems.inputs import Settings as DeviceSettings
from forebay.scheduler.devices.fit import Refusal, fit
from forebay.scheduler.devices.ledger import Ledger, Refused
from forebay.scheduler.devices.pod import read_pod
from forebay.scheduler.devices.record import Record
from forebay.scheduler.devices.request import with_devices
from forebay.scheduler.live.claims import Claims
from forebay.scheduler.live.instructions import VolumeWish
from forebay.scheduler.live.tenants import Tenants, Unplaceable
from forebay.scheduler.plan import Placement
from forebay.scheduler.pods.amounts import quota_amounts
from forebay.scheduler.pods.fill import UNSAID, Fill
from forebay.scheduler.pods.request import Request
from forebay.scheduler.quota.amounts import Amounts, add
from forebay.scheduler.quota.inputs.check import Findings
from forebay.scheduler.quota.inputs.elastic import of_pod
from forebay.scheduler.quota.ledger import Charge
from forebay.scheduler.quota.quotas import Quotas

LOG = logging.getLogger(__name__)

ASKING = tuple(sorted(asking()))
"""Annotations that have a say in what a pod asks of devices."""


class Books:
    """See the module."""

    def __init__(self, settings: DeviceSettings, patience: float) -> None:
        self.cluster, self.devices, self.quotas = Cluster(), Ledger(), Quotas(patience)
        self.claims, self.tenants = Claims(self.cluster), Tenants(self.quotas)
        self.inventories: dict[str, Inventory] = {}
        self._nodes: dict[str, Node] = {}
        self._device_objects: dict[str, Mapping[str, object]] = {}
        self._sick, self._settings = dict[str, frozenset[int]](), settings  # sick: by node, numbers of cards
        self._seen = 0  # counts appearances: the ledger wants their order
        self._unread: dict[str, dict[str, Pod]] = {}  # by node: bound pods whose cards are not known yet
        self._totals: dict[str, int] | None = None
        self.bound: dict[str, Pod] = {}
        self.priorities = Counter[int]()
        """Of bound pods: how many of each."""
        self._thought_away: dict[str, Record | None] = {}
        self._overfull: dict[str, list[str]] = {}

    def configure(self, settings: DeviceSettings, fill: Fill) -> None:
        """Settings were read anew; what one `aliyun.com/gpu-mem` means stays, because what is booked was counted by it."""
        settings = replace(settings, unit=self._settings.unit)
        if settings != self._settings:
            self._settings = settings
            for node in list(self._nodes.values()):
                self.node(node)
        self.tenants.default = fill

    # --- nodes ---

    def node(self, node: Node) -> None:
        """A node is there or changed. One whose amounts cannot be read is left as it was, and that is logged."""
        name = node.metadata.name
        try:
            self.cluster.set_node(node)
        except QuantityError as wrong:
            LOG.error("node %s is not used as it is now: %s; correct its status", name, wrong)
            return
        self._totals = None
        findings = Findings()
        self._nodes[name] = node
        sick = self._sick.get(name, frozenset())
        found = read_node(node, findings, device=self._device_objects.get(name), unhealthy=sick, settings=self._settings)
        for problem in findings.problems:
            LOG.warning("%s", problem)
        self.inventories[name] = found
        self.devices.set_node(name, found.devices, found.rules)
        self.claims.counted(name, found.devices)
        if found.devices:
            for pod in list(self._unread.pop(name, {}).values()):
                self.pod(pod)

    def device(self, old: Mapping[str, Any] | None, new: Mapping[str, Any] | None) -> str:
        """Koordinator's Device of a node, called as the node: its cards one by one. `new` None for one that is gone. The node."""
        one = new if new is not None else old
        name = str(((one or {}).get("metadata") or {}).get("name", ""))
        if new is not None:
            self._device_objects[name] = new
        else:
            self._device_objects.pop(name, None)
        self._anew(name)
        return name

    def sick(self, name: str, data: Mapping[str, str]) -> str:
        """A ConfigMap of where gpushare says which cards are sick; {} for one that is gone. The node it is about."""
        findings = Findings()
        node, numbers = read_unhealthy(name, data, findings)
        for problem in findings.problems:
            LOG.warning("%s", problem)
        if numbers != self._sick.pop(node, frozenset()):
            self._anew(node, numbers)
        elif numbers:
            self._sick[node] = numbers
        return node

    def _anew(self, name: str, sick: frozenset[int] | None = None) -> None:
        """What else tells of the node's cards changed."""
        if sick:
            self._sick[name] = sick
        if name in self._nodes:
            self.node(self._nodes[name])
            self.cluster.noted()

    def node_gone(self, name: str) -> None:
        self.cluster.remove_node(name)
        self.devices.drop_node(name)
        self.inventories.pop(name, None)
        self._nodes.pop(name, None)
        self.claims.counted(name, ())
        self._totals = None

    def totals(self) -> Amounts:
        """Allocatable of all nodes, by resource."""
        if self._totals is None:
            sums = self.cluster.allocatable[self.cluster.nodes].sum(axis=0).tolist()
            self._totals = dict(zip(self.cluster.columns, sums, strict=True))
        return self._totals

    def sync(self) -> None:
        """Rows whose cards changed, other than by `assume`, are set anew. Before every decision."""
        for name in self.devices.changes():
            self._equip(name)

    def _equip(self, name: str) -> None:
        row = self.cluster.row_of.get(name)
        if row is not None:
            self.cluster.set_devices(row, self.devices.devices(name), self.devices.rules(name), self.devices.used(name))
        before, now = self._overfull.pop(name, []), self.devices.overfull(name)
        for sentence in now:
            if sentence not in before:
                LOG.warning("%s", sentence)
        if now:
            self._overfull[name] = now

    @property
    def overfull(self) -> int:
        """Cards that hold more than they have: somebody else placed pods there, or a card shrank."""
        return sum(len(one) for one in self._overfull.values())

    # --- what pods ask ---

    def request(self, pod: Pod) -> Request:
        """Raises Unplaceable."""
        try:
            amounts = self.cluster.facts(pod).amounts
        except QuantityError as wrong:
            raise Unplaceable(f"an amount that it asks for is none: {wrong}; {wrong.remedy}") from wrong
        if not pod.spec.node_name and (why := self.claims.mapped(amounts)):
            raise Unplaceable(why)
        return self._whole(self.tenants.kept_in(pod), self.ask(pod))

    def _whole(self, pod: Pod, ask: PodAsk | None) -> Request:
        """With its cards, and how its queue or the settings want nodes and cards filled."""
        request = self.cluster.request(pod) if ask is None else self.cluster.request_but(pod, served)
        fill = self.tenants.fill(pod)
        if fill != UNSAID:
            request, ask = replace(request, fill=fill.nodes), ask.filled(fill) if ask is not None else None
        return request if ask is None else with_devices(self.cluster, request, ask)

    def requests(self, pods: Iterable[Pod]) -> list[Request]:
        """Of those that do not contradict themselves: the others are told when they are tried."""
        found = list[Request]()
        for pod in pods:
            try:
                found.append(self.request(pod))
            except Unplaceable:
                continue
        return found

    def ask(self, pod: Pod) -> PodAsk | None:
        """What it asks of cards, None for nothing. Raises Unplaceable."""
        if not _may_ask(pod):
            return None
        if pod.spec.resource_claims:  # then it depends on objects too
            return self._read_ask(pod)
        asks, notes = self.cluster.facts(pod).asks, pod.metadata.annotations
        words = tuple(word for key in ASKING if key in notes for word in (key, notes[key])) if notes else ()
        if words not in asks:
            asks[words] = self._read_ask(pod)
        return asks[words]

    def _read_ask(self, pod: Pod) -> PodAsk | None:
        findings = Findings()
        ask = read_ask(replace(read_pod(pod, findings), claims={}), findings, settings=self._settings)  # claims: `self.claims`
        wrong = [problem for problem in findings.problems if problem.severity == "error"]
        if wrong:
            one = wrong[0]
            raise Unplaceable(" ".join(part for part in (one.field, one.value, one.message) if part) + f"; {one.remedy}")
        return ask

    # --- what the watch says of pods ---

    def pod(self, pod: Pod, gang: str = "") -> None:
        """A bound pod counts; what is nominated holds its place; an ended one is gone."""
        uid = pod.metadata.uid
        if pod.status.phase in ENDED:
            self.gone(uid)
            return
        try:
            if not pod.spec.node_name:
                self.cluster.set_pod(pod, self.request(pod))
                return
            self._bound(pod, gang)
        except (QuantityError, Unplaceable) as wrong:  # the API server refuses such a pod: somebody else's admission has bent it
            LOG.error("pod %s/%s counts for nothing: %s", pod.metadata.namespace, pod.metadata.name, wrong)

    def _bound(self, pod: Pod, gang: str) -> None:
        uid, node = pod.metadata.uid, pod.spec.node_name
        kept = self.cluster.pods.get(uid)
        if kept is not None and kept.node != node:
            LOG.warning("pod %s/%s: assumed on %s, bound to %s", pod.metadata.namespace, pod.metadata.name, kept.node, node)
            self.devices.release(uid)
            kept = None
        ask: PodAsk | None
        try:
            ask = self.ask(pod)
        except Unplaceable as wrong:
            LOG.warning("pod %s/%s on %s: %s", pod.metadata.namespace, pod.metadata.name, node, wrong)
            ask = None
        if ask is not None and not self._confirm(pod, ask):
            ask = None
        request = self._whole(pod, ask) if ask is not None or self.tenants.fills else None
        self.cluster.set_pod(pod, request, kept.cards if kept is not None else ())
        self._keep(uid, pod)
        self._charge(pod, gang, assumed=False)

    def _confirm(self, pod: Pod, ask: PodAsk) -> bool:
        """Books the pod's cards as it says that it holds them. False where it holds none that we know of."""
        uid, node = pod.metadata.uid, pod.spec.node_name
        inventory = self.inventories.get(node, Inventory())
        record: Record | None = None
        try:
            record = read_record(replace(read_pod(pod, Findings()), claims={}), inventory, settings=self._settings)
        except ValueError as wrong:
            LOG.warning("%s", wrong)
        if record is None and (kept := self.devices.records.get(uid)) is not None and kept.node == node:
            record = kept
        if record is None:
            record = self._guess(pod, ask)
        if record is None:
            self._unread.setdefault(node, {})[uid] = pod
            return False
        self._seen += 1
        self.devices.confirm(record, self._seen)
        return True

    def _guess(self, pod: Pod, ask: PodAsk) -> Record | None:
        node = pod.spec.node_name
        granted = fit(ask, self.devices.devices(node), self.devices.used(node), self.devices.rules(node))
        if isinstance(granted, Refusal) or not granted:
            return None
        name = f"{pod.metadata.namespace}/{pod.metadata.name}"
        return Record(pod.metadata.uid, name, node, ask.seats, granted, ask.api)

    def gone(self, uid: str) -> None:
        """The pod has ended or is deleted."""
        self._keep(uid, None)
        self.cluster.remove_pod(uid)
        self.devices.remove(uid)
        self.quotas.ledger.remove(uid)
        for node, waiting in list(self._unread.items()):
            if waiting.pop(uid, None) is not None and not waiting:
                del self._unread[node]

    def _keep(self, uid: str, pod: Pod | None) -> None:
        old = self.bound.pop(uid, None)
        if old is not None:
            self.priorities[old.spec.priority] -= 1
            if not self.priorities[old.spec.priority]:
                del self.priorities[old.spec.priority]
        if pod is not None:
            self.bound[uid] = pod
            self.priorities[pod.spec.priority] += 1

    def gang_of(self, uid: str) -> str:
        """The gang that a booked pod is counted with, "" for none."""
        charge = self.quotas.ledger.charges.get(uid)
        return charge.gang if charge is not None else ""

    # --- what if ---

    @contextmanager
    def thinking(self) -> Iterator[None]:
        """Whatever is thought away inside is back at the end."""
        try:
            with self.cluster.claims.thinking():
                yield
        finally:
            nodes = {self.cluster.pods[uid].node for uid in self._thought_away}
            for uid in list(self._thought_away):
                self.think_back(uid)
            for name in nodes & self.inventories.keys():
                if self.devices.devices(name):  # cards that held too much were not given back by `think_back`
                    self._equip(name)

    def think_away(self, uid: str) -> None:
        """As if the pod were not there; for `thinking`."""
        record = self.cluster.pods[uid]
        if uid in self._thought_away or record.row < 0:
            return
        held = self.devices.records.get(uid)
        self._thought_away[uid] = held
        if record.request.devices is not None and held is not None and self.cluster.devices is not None:
            self.cluster.devices.give(record.row, record.request.devices, held.parts)
        self.cluster.count(uid, -1)
        self.cluster.claims.think_away(self.cluster.claims_of(record.request))

    def think_back(self, uid: str) -> None:
        if uid not in self._thought_away:
            return
        held, record = self._thought_away.pop(uid), self.cluster.pods[uid]
        if record.request.devices is not None and held is not None and self.cluster.devices is not None:
            self.cluster.devices.take(record.row, record.request.devices, held.parts)
        self.cluster.claims.think_back(self.cluster.claims_of(record.request))
        self.cluster.count(uid, 1)

    # --- what was decided here ---

    def assume(self, pod: Pod, placement: Placement, request: Request, gang: str, time_ns: int) -> dict[str, str]:
        """The pod is where the arrays have it already; the annotations that it gets.

        Raises `Refused` (devices) where the cards are not there any more: nothing is booked then but the arrays.
        """
        uid, notes = pod.metadata.uid, dict[str, str]()
        if request.devices is not None:
            name = f"{pod.metadata.namespace}/{pod.metadata.name}"
            ask = request.devices
            record = Record(uid, name, placement.node, ask.seats, placement.devices, ask.api, time_ns)
            self.devices.assume(record)
            notes = render(record, self.inventories[placement.node], self._settings)
        self.cluster.adopt(pod, self.cluster.row_of[placement.node], request, placement.cards)
        self._charge(pod, gang, assumed=True)
        return notes

    def assume_all(
        self,
        placements: Sequence[Placement],
        pods: Mapping[str, Pod],
        requests: Mapping[str, Request],
        gang: str,
        time_ns: int,
    ) -> list[tuple[Placement, dict[str, str]]]:
        """`assume` for what one decision placed: all of them, or none, and then nothing is left in the arrays. Raises Refused."""
        done = list[tuple[Placement, dict[str, str]]]()
        for at, placement in enumerate(placements):
            request = requests[placement.pod]
            try:
                done.append((placement, self.assume(pods[placement.pod], placement, request, gang, time_ns)))
            except Refused:
                for left in placements[at:]:
                    row = self.cluster.row_of[left.node]
                    self.cluster.release(row, requests[left.pod], left.cards, left.devices)
                for booked, _ in done:
                    self.undo(booked.pod)
                raise
        self.devices.changes()  # the arrays have these cards already: they are not set anew
        return done

    def undo(self, uid: str) -> None:
        """An assumption came to nothing."""
        self.cluster.remove_pod(uid)
        self.devices.release(uid)
        self.quotas.ledger.release(uid)

    def lost(self, uid: str, leaving: Sequence[str] = ()) -> str:
        """Why what was promised to the pod is not there any more, "" if it is: asked right before the binding.

        `leaving`: other assumptions of the node that will be taken back.
        """
        kept = self.cluster.pods.get(uid)
        if kept is None:
            return "nothing is booked for it"
        if kept.row < 0:
            return f"node {kept.node} is gone"
        free = self.cluster.free[kept.row].copy()
        for other in leaving:
            free += self.cluster.pods[other].request.resources
        asked = [at for at, amount in enumerate(kept.request.resources) if amount]
        if (free[asked] < 0).any():
            return f"node {kept.node} is full: somebody else was faster"
        return self._cards_lost(uid, leaving) if uid in self.devices.records else ""

    def _cards_lost(self, uid: str, leaving: Sequence[str]) -> str:
        word = self.devices.check(uid)
        if word:
            return word
        record = self.devices.records[uid]
        others = [self.devices.records[other].uses() for other in leaving if other in self.devices.records]
        cards = {device.id: device for device in self.devices.devices(record.node)}
        for name, mine in record.uses().items():
            used = self.devices.used(record.node)[name] - mine
            for other in others:
                used = used - other[name] if name in other else used
            word = lack(cards[name], used, mine, self.devices.rules(record.node))
            if word:
                return f"card {name} of node {record.node} cannot take it any more ({word}): somebody else was faster"
        return ""

    def _charge(self, pod: Pod, gang: str, *, assumed: bool) -> None:
        label, preemptible = of_pod(pod.metadata.labels)
        amounts = quota_amounts(pod, self.cluster.pods[pod.metadata.uid].amounts)
        charge = Charge(pod.metadata.namespace, amounts, label, gang, preemptible, assumed)
        self.quotas.ledger.add(pod.metadata.uid, charge)

    def volume_wishes(self, pod: Pod, node: str) -> tuple[VolumeWish, ...]:
        """Volumes that are to be bound or made before the pod, which is assumed on the node."""
        chosen, wishes = self.cluster.storage.chosen, list[VolumeWish]()
        for name in self.cluster.pods[pod.metadata.uid].key.claims if chosen else ():
            what = chosen.get(ClaimKey(pod.metadata.namespace, name))
            if what is not None:
                wishes.append(VolumeWish(name, what.volume, "" if what.volume else node))
        return tuple(wishes)

    # --- everything else ---

    def other(self, kind: str, old: Any, new: Any) -> str:
        """Storage, namespaces, what drivers attach: `new` None for what is gone. The node whose cards it is about, or ""."""
        if kind == "Device":
            return self.device(old, new)
        if kind == "ConfigMap":
            return self.sick((old or new).metadata.name, {} if new is None else new.data)
        if kind == "ResourceFlavor":
            self.tenants.flavor(str((old or new)["metadata"]["name"]), new)
            self.cluster.noted()
            return ""
        cluster, one = self.cluster, new if new is not None else old
        name, namespace = one.metadata.name, one.metadata.namespace
        if kind == "Namespace":
            cluster.set_namespace(new) if new is not None else cluster.remove_namespace(name)
        elif kind == "PersistentVolume":
            cluster.storage.set_volume(new) if new is not None else cluster.storage.remove_volume(name)
        elif kind == "PersistentVolumeClaim":
            cluster.storage.set_claim(new) if new is not None else cluster.storage.remove_claim(namespace, name)
        elif kind == "StorageClass":
            cluster.storage.set_class(new) if new is not None else cluster.storage.remove_class(name)
        elif kind == "CSINode":
            cluster.set_driver_limits(new) if new is not None else cluster.remove_driver_limits(name)
        elif kind == "CSIDriver":
            cluster.storage.set_driver(new) if new is not None else cluster.storage.remove_driver(name)
        elif kind == "CSIStorageCapacity":
            cluster.storage.set_capacity(new) if new is not None else cluster.storage.remove_capacity(namespace, name)
        elif not self.claims.change(kind, old, new):
            raise ValueError(f"a change of {kind}, which nobody here reads")
        return ""


def created(pod: Pod) -> float:
    """Seconds of the epoch: age survives a restart. 0 for a pod that does not say."""
    at = moment(pod.metadata.creation_timestamp)
    return 0.0 if at is None else at.timestamp()


def total(amounts: Iterable[Amounts]) -> dict[str, int]:
    """Sum by resource."""
    result: dict[str, int] = {}
    for one in amounts:
        add(result, one)
    return result


def _may_ask(pod: Pod) -> bool:
    """Whether any container asks for more than CPU, memory and the like: reading the rest costs ten times as much."""
    spec = pod.spec
    for container in (*spec.containers, *spec.init_containers):
        if any("/" in name for name in container.resources.limits) or any("/" in name for name in container.resources.requests):
            return True
    return False
