"""What the status of a PodGroup should say, from its description, its pods and why they wait. Pure.

Each API has words of its own. Kubernetes' has one condition, which is its scheduler's and stays True once it was, whatever
becomes of the pods. scheduler-plugins' type and Koordinator's copy of it have a phase and counts; Volcano's has both.
Sources: `scheduling/v1alpha2/types.go` of k8s.io/api and what kube-scheduler 1.36 does with the condition; scheduler-plugins'
`apis/scheduling/v1alpha1/types.go`; Koordinator's CRD of PodGroups; `scheduling/v1beta1/types.go` of volcano.sh/apis.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from forebay.scheduler.groups import native, podgroup, volcano
from forebay.scheduler.groups.reading import mapping, text
from forebay.scheduler.groups.said import Object, Said

LONGEST = 1024
"""Bytes of a condition's message, as of an Event's note."""

Reason = Literal["Unschedulable", "SchedulerError"]


class Why(NamedTuple):
    """Why pods of a group wait."""

    reason: Reason
    sentence: str


class Tally(NamedTuple):
    """Pods of a group: `waiting` have no node, `placed` have one and have not begun, the others are in that phase. `groups`: by
    task, those that have a node."""

    groups: Mapping[str, int]
    waiting: int = 0
    placed: int = 0
    running: int = 0
    succeeded: int = 0
    failed: int = 0

    @property
    def live(self) -> int:
        return self.waiting + self.placed + self.running

    @property
    def total(self) -> int:
        return self.live + self.succeeded + self.failed


class Condition(NamedTuple):
    """`generation` 0: the API's conditions have no observedGeneration."""

    status: Literal["True", "False"]
    reason: str
    message: str
    generation: int = 0


@dataclass(frozen=True)
class Shown:
    """What a status should say: `fields` (phase, counts), and conditions by type. Of what is not named here nothing is said."""

    fields: Mapping[str, str | int] = field(default_factory=dict)
    conditions: Mapping[str, Condition] = field(default_factory=dict)


class Standing(NamedTuple):
    """An object as it is: its kind as `Groups.set` names it, and what its metadata and status say."""

    kind: str
    api_version: str
    generation: int
    status: Object


def shown(standing: Standing, said: Said, tally: Tally, why: Why | None) -> Shown:
    """What it should say. Of a group without a minimum one pod makes the difference."""
    least = max(said.minimum or 0, 1)
    reached = (
        all(tally.groups.get(name, 0) >= number for name, number in said.group_minimum.items())
        and tally.total - tally.waiting >= least
    )
    if standing.kind == native.KIND:
        return _native(standing, least, reached, tally, why)
    if standing.kind == volcano.KIND:
        return _volcano(standing, least, reached, tally, why)
    return _coscheduling(standing, least, tally, why)


def _native(standing: Standing, least: int, reached: bool, tally: Tally, why: Why | None) -> Shown:
    name = native.INITIALLY if standing.api_version.endswith("/v1beta1") else native.SCHEDULED
    was = conditions(standing.status).get(name, {})
    if reached:
        told = f"{least} pods that start together have a node" if least > 1 else "a pod of it has a node"
        return Shown(conditions={name: Condition("True", "Scheduled", told, standing.generation)})
    if was.get("status") == "True":  # it has started once, which is all that it says
        return Shown()
    if not tally.total and was:
        why = Why("Unschedulable", f"none of its pods exist; create {least}")
    if why is None:
        return Shown()
    return Shown(conditions={name: Condition("False", *why, standing.generation)})


def _coscheduling(standing: Standing, least: int, tally: Tally, why: Why | None) -> Shown:
    was = text(standing.status.get("phase"))
    if not tally.total and was in ("Finished", "Failed"):  # its pods were cleaned up, what they counted stays
        return Shown()
    begun = tally.running + tally.succeeded
    if tally.succeeded >= least:
        phase = "Finished"
    elif tally.failed and tally.live + tally.succeeded < least:
        phase = "Failed"
    elif begun >= least:
        phase = "Running"
    elif begun + tally.placed >= least:
        phase = "Scheduling"
    elif begun + tally.placed and why is not None:
        phase = "Unknown"
    else:
        phase = "Pending"
    fields: dict[str, str | int] = {"phase": phase, **_ended(tally)}
    if standing.kind == podgroup.SIGS or "scheduled" in standing.status:  # newer types have it no more
        fields["scheduled"] = begun + tally.placed
    return Shown(fields)


def _volcano(standing: Standing, least: int, reached: bool, tally: Tally, why: Why | None) -> Shown:
    """Its controller makes a job's pods only while the phase is not Pending, and nobody here keeps it from that: so Inqueue."""
    was = text(standing.status.get("phase"))
    if not tally.total and was == "Completed":
        return Shown()
    begun = tally.running + tally.succeeded
    if tally.total and not tally.live and tally.succeeded >= least:
        phase = "Completed"
    elif begun >= least:
        phase = "Running"
    elif begun + tally.placed and why is not None:
        phase = "Unknown"
    else:
        phase = "Inqueue"
    there = dict[str, Condition]()
    stuck = conditions(standing.status).get("Unschedulable", {}).get("status") == "True"
    if reached:
        there["Scheduled"] = Condition("True", "Scheduled", f"{least} of its pods have a node")
        if stuck:
            there["Unschedulable"] = Condition("False", "Scheduled", f"{least} of its pods have a node")
    elif why is not None:
        short = "NotEnoughTasks" if tally.total < least else "NotEnoughResources"
        there["Unschedulable"] = Condition("True", short, why.sentence)
        if conditions(standing.status).get("Scheduled", {}).get("status") == "True":
            there["Scheduled"] = Condition("False", short, why.sentence)
    return Shown({"phase": phase, **_ended(tally)}, there)


def _ended(tally: Tally) -> dict[str, str | int]:
    return {"running": tally.running, "succeeded": tally.succeeded, "failed": tally.failed}


def differs(wanted: Shown, status: Object) -> bool:
    """Whether a status does not say all of it. Numbers of 0 are left out where Go writes them."""
    if any(status.get(name, 0 if isinstance(value, int) else "") != value for name, value in wanted.fields.items()):
        return True
    there = conditions(status)
    return any(_differs(one, there.get(name)) for name, one in wanted.conditions.items())


def _differs(one: Condition, there: Object | None) -> bool:
    if there is None or (there.get("status"), there.get("reason"), there.get("message")) != one[:3]:
        return True
    return bool(one.generation) and there.get("observedGeneration") != one.generation


def coarse(wanted: Shown, status: Object) -> bool:
    """Whether phase or a condition's status differ, for which somebody may wait; not counts or sentences alone."""
    there = conditions(status)
    return wanted.fields.get("phase", "") != text(status.get("phase")) or any(
        there.get(name, {}).get("status") != one.status for name, one in wanted.conditions.items()
    )


def patch(standing: Standing, wanted: Shown, now: str) -> dict[str, object]:
    """The status to be merged: by the keys of its conditions for Kubernetes' own kind, else with all conditions, since lists of
    custom resources are merged as a whole. `now`: RFC 3339; a time stays where a condition's status does."""
    there = conditions(standing.status)
    made = dict[str, object](wanted.fields)
    ours = list[dict[str, object]]()
    for name, one in wanted.conditions.items():
        was = there.get(name, {})
        same = was.get("status") == one.status and was.get("lastTransitionTime")
        condition: dict[str, object] = {"type": name, "status": one.status, "reason": one.reason, "message": one.message}
        condition["lastTransitionTime"] = was["lastTransitionTime"] if same else now
        ours.append(condition | ({"observedGeneration": one.generation} if one.generation else {}))
    if ours:
        kept = [] if standing.kind == native.KIND else [dict(one) for name, one in there.items() if name not in wanted.conditions]
        made["conditions"] = [*kept, *ours]
    return made


def conditions(status: Object) -> dict[str, Object]:
    """By type."""
    listed = status.get("conditions")
    return {text(one.get("type")): one for one in map(mapping, listed)} if isinstance(listed, list) else {}


def cut(sentence: str) -> str:
    """As much of it as a condition's message takes."""
    data = sentence.encode()
    return sentence if len(data) <= LONGEST else data[: LONGEST - 3].decode("utf-8", "ignore") + "..."
