"""Gates mode, without a call: pods of another scheduler that wait at our gate are given a node, and that is an intention only.

The node is written as a required node affinity, the one thing that may be added to a pod while it is gated; then the gate goes,
and the pod's own scheduler binds it, or does not: it may see what we did not, or lose a race. `Opened` keeps count of that.
The intention stands in an annotation too, so that a restart finds it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from forebay.api.kubernetes.core import Pod, PodCondition
from forebay.scheduler.live.config import Configuration
from forebay.scheduler.live.instructions import Named

GATE = "forebay.io/placement"
"""The scheduling gate of pods that we place and another scheduler binds."""
INTENTION = "forebay.io/intention"
"""Annotation: JSON with the node, the gang ("" for none), and seconds of the epoch."""
_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"


class Intention(NamedTuple):
    """Where a pod is meant to go, for which gang, since when (seconds of the epoch)."""

    node: str
    gang: str
    since: float


def render(intention: Intention) -> dict[str, str]:
    """As an annotation."""
    return {INTENTION: json.dumps({"node": intention.node, "gang": intention.gang, "since": round(intention.since, 3)})}


def gated(pod: Pod) -> bool:
    """Whether it waits at our gate."""
    return any(gate.name == GATE for gate in pod.spec.scheduling_gates)


def to_place(pod: Pod, settings: Configuration) -> bool:
    """Whether we are to place it now."""
    if pod.metadata.deletion_timestamp:
        return False
    gates = [gate.name for gate in pod.spec.scheduling_gates]
    if settings.gates and gates == [GATE]:
        return True
    return not gates and pod.spec.scheduler_name == settings.scheduler_name


def asks(pod: Pod) -> tuple[object, ...]:
    """What of a waiting pod has it tried at once where it changes. Names of claims come when these are made."""
    return pod.spec, pod.metadata.labels, pod.status.resource_claim_statuses


def read(pod: Pod) -> Intention | None:
    """What an earlier run of ours meant for the pod; None for nothing, and for what nobody can read."""
    try:
        found = json.loads(pod.metadata.annotations.get(INTENTION, "null"))
        return None if found is None else Intention(str(found["node"]), str(found["gang"]), float(found["since"]))
    except (ValueError, TypeError, KeyError):
        return None


def opening(pod: Mapping[str, Any], node: str, annotations: Mapping[str, str]) -> dict[str, Any]:
    """The merge patch that pins a gated pod, an object as the API server has it, to the node and takes our gate away.

    Everything that the pod demands of nodes stays: the name is added to each of its terms, since one of them must hold as a
    whole. Version and UID are in it: Conflict where the pod was written or replaced meanwhile.
    """
    meta, spec = pod["metadata"], pod["spec"]
    name = {"key": "metadata.name", "operator": "In", "values": [node]}
    affinity = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    terms = (affinity.get(_REQUIRED) or {}).get("nodeSelectorTerms") or [{}]
    pinned = [{**term, "matchFields": [*term.get("matchFields", ()), name]} for term in terms]
    gates = [gate for gate in spec.get("schedulingGates", ()) if gate["name"] != GATE]
    return {
        "metadata": {"uid": meta["uid"], "resourceVersion": meta["resourceVersion"], "annotations": dict(annotations)},
        "spec": {
            "schedulingGates": gates or None,
            "affinity": {"nodeAffinity": {_REQUIRED: {"nodeSelectorTerms": pinned}}},
        },
    }


# --- what became of it


def _refused(condition: PodCondition) -> bool:
    """The words of the pod's scheduler. The API server's own about the gate stay there until the scheduler has looked."""
    return condition.type == "PodScheduled" and condition.status == "False" and condition.reason != "SchedulingGated"


@dataclass(slots=True)
class _Gang:
    since: float
    meant: dict[str, tuple[Named, str]] = field(default_factory=dict)  # uid -> pod, node
    bound: dict[str, Named] = field(default_factory=dict)
    why: dict[str, str] = field(default_factory=dict)
    told: bool = False


class Late(NamedTuple):
    """A gang, or a pod on its own, that its scheduler has not bound in time. `pods`: all that are left of it."""

    gang: str
    waiting: tuple[Named, ...]
    bound: tuple[Named, ...]
    sentence: str

    @property
    def pods(self) -> tuple[Named, ...]:
        return (*self.bound, *self.waiting)


class Opened:
    """Pods whose gate we have taken away, until all of their gang have a node. Time is seconds of the epoch."""

    def __init__(self) -> None:
        self._gangs: dict[str, _Gang] = {}
        self._gang_of: dict[str, str] = {}

    def __len__(self) -> int:
        """Pods that have no node yet."""
        return sum(len(one.meant) for one in self._gangs.values())

    def add(self, pod: Named, intention: Intention) -> None:
        """The gate is gone: by us now, or by an earlier run."""
        key = intention.gang or pod.uid
        gang = self._gangs.setdefault(key, _Gang(intention.since))
        gang.since, gang.told = max(gang.since, intention.since), False
        gang.meant[pod.uid] = pod, intention.node
        self._gang_of[pod.uid] = key

    def see(self, pod: Pod) -> str:
        """The pod as it is now: does it have a node, and what does its scheduler say. A sentence where it went elsewhere."""
        uid = pod.metadata.uid
        key = self._gang_of.get(uid)
        if key is None:
            return ""
        gang = self._gangs[key]
        if not pod.spec.node_name:
            gang.why[uid] = next((one.message for one in pod.status.conditions if _refused(one)), "")
            return ""
        if uid not in gang.meant:
            return ""
        named, node = gang.meant.pop(uid)
        gang.bound[uid] = named
        if not gang.meant:
            self._forget(key)
        if pod.spec.node_name == node:
            return ""
        return f"pod {named} was meant for {node} and its scheduler bound it to {pod.spec.node_name}; what runs counts"

    def gone(self, uid: str) -> None:
        """The pod was deleted."""
        key = self._gang_of.pop(uid, None)
        if key is None:
            return
        gang = self._gangs[key]
        gang.meant.pop(uid, None)
        gang.bound.pop(uid, None)
        gang.why.pop(uid, None)
        if not gang.meant:
            self._forget(key)

    def late(self, now: float, patience: float) -> list[Late]:
        """What has been open for longer than `patience` seconds; each is told once."""
        found = list[Late]()
        for key, gang in self._gangs.items():
            if gang.told or now - gang.since < patience:
                continue
            gang.told = True
            waiting = tuple(named for named, _ in gang.meant.values())
            found.append(Late(key, waiting, tuple(gang.bound.values()), self._sentence(key, gang, now)))
        return found

    def _sentence(self, key: str, gang: _Gang, now: float) -> str:
        uid, (named, node) = next(iter(gang.meant.items()))
        count = len(gang.meant) + len(gang.bound)
        who = f"{len(gang.bound)} of {count} pods of gang {key} are bound" if key != uid else "it is not bound"
        said = gang.why.get(uid) or "its scheduler says nothing of it"
        return f"{who} {now - gang.since:.0f} s after the gate was opened; pod {named} was meant for {node}: {said}"

    def _forget(self, key: str) -> None:
        gang = self._gangs.pop(key)
        for uid in (*gang.meant, *gang.bound):
            self._gang_of.pop(uid, None)
