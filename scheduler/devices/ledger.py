"""Who holds what of which card, by pod UID and container: assumed by a plan, confirmed by the cluster, until the pod is gone.

Invariants:
- the use of a card is the sum over `records`, at every moment, and nothing else;
- `assume` never takes more than a card has, whatever was heard before; what the cluster shows is booked even if it is too much
  (`overfull` says so), because it is there;
- what is on a card or node that is lost stays counted until its pods are gone, and such a card takes nothing;
- repeated, late and reordered events change nothing: a pod's newest appearance counts (`seen`), and gone is gone.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from forebay.scheduler.devices.card import ANY, NOTHING, Device, Rules, Use, lack, mask_of
from forebay.scheduler.devices.record import Record

REMEMBERED = 65_536
"""UIDs of pods that are gone, as in the quota ledger."""


class Refused(ValueError):
    """An assumption that the cards cannot carry. Nothing was booked."""


@dataclass(slots=True)
class _Node:
    devices: dict[str, Device]
    rules: Rules
    lost: dict[str, Device]
    used: dict[str, Use]


class Ledger:
    """The books of all nodes. Pure: no clock, no I/O."""

    def __init__(self) -> None:
        self.records: dict[str, Record] = {}
        self._seen: dict[str, int] = {}  # confirmed pods only
        self._nodes: dict[str, _Node] = {}
        self._gone: OrderedDict[str, None] = OrderedDict()
        self._changed: set[str] = set()

    # nodes

    def set_node(self, name: str, devices: Iterable[Device], rules: Rules = ANY) -> bool:
        """What a node has now. False if nothing changed. A card that is missing while pods hold it is lost, not forgotten."""
        now = {device.id: device for device in devices}
        node = self._node(name)
        if node.devices == now and node.rules == rules:
            return False
        missing = {**node.lost, **node.devices}
        node.lost = {
            key: replace(device, healthy=False) for key, device in missing.items() if key not in now and key in node.used
        }
        node.devices, node.rules = now, rules
        self._changed.add(name)
        return True

    def drop_node(self, name: str) -> bool:
        """A node is gone; its pods stay counted until they are. False if it was not known."""
        known = name in self._nodes and bool(self._nodes[name].devices)
        self.set_node(name, ())
        self._tidy(name)
        return known

    def devices(self, name: str) -> tuple[Device, ...]:
        """The node's cards by kind and number; lost ones that are still held come last, marked unhealthy."""
        node = self._nodes.get(name)
        if node is None:
            return ()
        have = sorted(node.devices.values(), key=lambda device: (device.kind, device.index, device.id))
        return (*have, *sorted(node.lost.values(), key=lambda device: (device.kind, device.index, device.id)))

    def rules(self, name: str) -> Rules:
        """The node's policy."""
        return self._nodes[name].rules if name in self._nodes else ANY

    def used(self, name: str) -> Mapping[str, Use]:
        """Card id -> what is held of it. Not to be changed."""
        return self._nodes[name].used if name in self._nodes else {}

    def changes(self) -> set[str]:
        """Nodes that changed since this was last asked: a snapshot sets their rows anew."""
        changed, self._changed = self._changed, set()
        return changed

    # pods

    def assume(self, record: Record) -> bool:
        """Books what a plan decided. False if exactly that is booked already.

        Raises `Refused` for a pod that holds something else or is gone, a node or card that is not there any more, and too much.
        """
        who = f"pod {record.name}"
        if record.uid in self._gone:
            raise Refused(f"{who} is gone: nothing is booked for it")
        held = self.records.get(record.uid)
        if held is not None:
            if _same(held, record):
                return False
            raise Refused(f"{who} holds cards of node {held.node} already: release it before it is planned anew")
        word = self._word(record)
        if word:
            raise Refused(f"{who}: {word}; plan the pod anew")
        self._book(record)
        return True

    def check(self, uid: str) -> str:
        """Whether what a pod was promised is still there, asked right before the bind. "" if it is, else a sentence."""
        record = self.records.get(uid)
        if record is None:
            return f"nothing is booked for pod {uid}: plan it anew"
        where = f"of node {record.node}"
        for part in record.parts:
            device = self._nodes[record.node].devices.get(part.device)
            if device is None or not device.healthy:
                what = "is gone" if device is None else "fell ill"
                return f"pod {record.name}: card {part.device} {where} {what} since it was planned; plan the pod anew"
        return ""

    def confirm(self, record: Record, seen: int = 0) -> bool:
        """Books what a bound pod holds, as the cluster shows it. `seen` orders appearances of one pod (its resourceVersion).

        False where the books stay: the same again, an older appearance, a pod that is gone. Raises ValueError for parts that
        contradict each other.
        """
        record.uses()
        if record.uid in self._gone or self._seen.get(record.uid, -1) >= seen:
            return False
        held = self.records.get(record.uid)
        self._seen[record.uid] = seen
        if held is not None and _same(held, record):
            return False
        if held is not None:
            self._unbook(held)
        self._book(record)
        return True

    def release(self, uid: str) -> bool:
        """Takes an assumption back: the bind failed. False if there is none; what the cluster has confirmed stays."""
        record = self.records.get(uid)
        if record is None or uid in self._seen:
            return False
        self._unbook(record)
        return True

    def remove(self, uid: str) -> bool:
        """The pod has ended or is deleted, for good. False if it held nothing."""
        self._gone[uid] = None
        self._gone.move_to_end(uid)
        if len(self._gone) > REMEMBERED:
            self._gone.popitem(last=False)
        self._seen.pop(uid, None)
        record = self.records.get(uid)
        if record is None:
            return False
        self._unbook(record)
        return True

    def replace(self, listed: Mapping[str, tuple[Record, int]]) -> None:
        """After a new list of all bound pods: confirmed ones that are not in it are gone; assumptions stay.

        The list is the truth: a pod in it exists, whatever was heard before.
        """
        for uid in [uid for uid in self._seen if uid not in listed]:
            self.remove(uid)
        for uid, (record, seen) in listed.items():
            self._gone.pop(uid, None)
            self.confirm(record, seen)

    def assumed(self, before: int | None = None) -> list[Record]:
        """Assumptions that the cluster has not confirmed, oldest first; only those decided before that time (ns)."""
        open_ = [record for uid, record in self.records.items() if uid not in self._seen]
        return sorted((r for r in open_ if before is None or r.time < before), key=lambda record: (record.time, record.uid))

    def overfull(self, only: str = "") -> list[str]:
        """Cards that hold more than they have, as sentences: somebody else placed pods, or a card shrank. `only`: of one node."""
        wrong = list[str]()
        nodes = {only: self._nodes[only]} if only in self._nodes else {} if only else self._nodes
        for name, node in sorted(nodes.items()):
            for key, use in sorted(node.used.items()):
                device = node.devices.get(key)
                word = _excess(device, use) if device else ""
                if word:
                    pods = sorted(
                        r.name for r in self.records.values() if r.node == name and any(p.device == key for p in r.parts)
                    )
                    wrong.append(f"card {key} of node {name} holds more {word} than it has: move one of {', '.join(pods)}")
        return wrong

    # books

    def _word(self, record: Record) -> str:
        node = self._nodes.get(record.node)
        if node is None or not node.devices:
            return f"node {record.node} has no cards"
        for key, more in record.uses().items():
            device = node.devices.get(key)
            if device is None:
                return f"card {key} of node {record.node} is gone since it was planned"
            word = lack(device, node.used.get(key, NOTHING), more, node.rules)
            if word:
                return f"card {key} of node {record.node} cannot take it: {word}"
        return ""

    def _node(self, name: str) -> _Node:
        return self._nodes.setdefault(name, _Node({}, ANY, {}, {}))

    def _book(self, record: Record) -> None:
        node = self._node(record.node)
        for key, use in record.uses().items():
            node.used[key] = node.used.get(key, NOTHING) + use
        self.records[record.uid] = record
        self._changed.add(record.node)

    def _unbook(self, record: Record) -> None:
        node = self._nodes[record.node]
        for key, use in record.uses().items():
            left = node.used[key] - use
            if left == NOTHING:
                del node.used[key]
                node.lost.pop(key, None)
            else:
                node.used[key] = left
        del self.records[record.uid]
        self._changed.add(record.node)
        self._tidy(record.node)

    def _tidy(self, name: str) -> None:
        node = self._nodes[name]
        if not node.devices and not node.used:
            del self._nodes[name]


def _same(one: Record, other: Record) -> bool:
    """Whether two records hold the same, whenever they were decided and whatever notation they were read from."""
    return (one.node, one.uses()) == (other.node, other.uses())


def _excess(device: Device, use: Use) -> str:
    if device.layout:
        taken = 0
        for instance in use.instances:
            bits = mask_of(device.layout, device.kind, instance)
            if taken & bits or not bits:
                return "parts"
            taken |= bits
        return ""
    if use.whole and use.pods > 1:
        return "pods"
    if device.memory and use.memory > device.memory:
        return "memory"
    return "cores" if device.cores and use.cores > device.cores else ""
