"""Why a pod or a gang of a cluster waits, by the scheduler's own core over a private copy of the cluster. Pure.

Nothing is asked of the scheduler that runs: the same pass is made here, with all other jobs that wait, and nothing of it is
carried out. So the answer is what the scheduler would do now, also while none runs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np

from forebay.api.kubernetes.core import Pod
from forebay.scheduler.arrays.cluster import ENDED
from forebay.scheduler.arrays.slots import capacity, slots
from forebay.scheduler.arrays.types import Ints
from forebay.scheduler.explain import failed_constraints
from forebay.scheduler.live.core import Core
from forebay.scheduler.live.intentions import GATE
from forebay.scheduler.live.questions.preferred import preferred
from forebay.scheduler.live.questions.when import When, when
from forebay.scheduler.live.tenants import Unplaceable
from forebay.scheduler.pods.request import Request

PASSES = 100
"""Passes until the job must have been tried: each takes some 256 jobs."""
SPACES = ("", "volcano:", "kubernetes:")
SHOWN = 5


class Free(msgspec.Struct, frozen=True):
    """What would have to end for all to fit: pods' places short on one node ("": anywhere), and who is there."""

    node: str
    places: int
    pods: list[str]


class Answer(msgspec.Struct, frozen=True):
    """`state`: waiting, fits (it would be bound by now), running, elsewhere (another scheduler's), unknown."""

    name: str
    state: str
    reason: str
    pods: list[str] = []
    nodes: dict[str, int] = {}
    """Pods by node: that run there, or would be bound."""
    waited_seconds: float = 0.0
    position: int = 0
    """In the order of age among all jobs that wait, from 1."""
    dataset: str = ""
    held: dict[str, int] = {}
    """Bytes of the dataset by node, as far as hints are believed."""
    failed: dict[str, int] = {}
    """Constraint -> nodes that fail it; a node counts for each it fails."""
    free: Free | None = None
    when: When | None = None
    preferred: str = ""
    """What of its preferences its node meets, and why not more."""


@dataclass
class View:
    """A private core that has taken in the whole cluster, and all its pods by full name."""

    core: Core
    pods: dict[str, Pod] = field(default_factory=dict)


def why(view: View, namespace: str, name: str, now: float, wall: float) -> Answer:
    """The answer for a pod or a gang: `name`, or `namespace/name`. Decides in the view's core: ask each view once."""
    gang, pods = _find(view, namespace, name)
    if not pods:
        reason = f'no pod and no gang "{name}" is in namespace {namespace}; name another with -n, or write namespace/name'
        return Answer(name, "unknown", reason)
    core = view.core
    full = gang or _full(pods[0])
    waiting = [pod for pod in pods if pod.metadata.uid in core.pods]
    bound = Counter(pod.spec.node_name for pod in pods if pod.spec.node_name and pod.status.phase not in ENDED)
    if not waiting:
        return _not_ours(full, pods, bound) or _runs(core, full, pods, wall)
    key = f"gang {gang}" if gang else pods[0].metadata.uid
    job = core.queue.jobs[key]
    ages = sorted(core.queue.jobs.values(), key=lambda one: (one.since, one.arrival, one.key))
    position = 1 + ages.index(job)
    requests = _requests(core, waiting)
    dataset = next((found for pod in waiting if (found := core.nearness.dataset(pod))), "")
    waits = Answer(
        full,
        "waiting",
        "",
        [one.metadata.name for one in pods],
        dict(bound),
        max(wall - job.since, 0.0),
        position,
        dataset,
        _held(core, dataset, wall),
    )
    for _ in range(PASSES):
        core.decide(now)
        if job.attempts or key not in core.queue.jobs:
            break
    placed = Counter(flight.node for pod in waiting if (flight := core.flights.get(pod.metadata.uid)) is not None)
    if placed and key not in core.queue.jobs:
        reason = (
            f"it fits now, on {_shown(placed)}, and is bound with the scheduler's next pass; if it is not, see whether one runs"
        )
        found = preferred(core, waiting, wall)
        return msgspec.structs.replace(waits, state="fits", reason=reason, nodes=dict(placed), preferred=found)
    reason = job.reason or "it has not been tried yet"
    start = when(core, job, dataset, wall)
    if not requests:
        return msgspec.structs.replace(waits, reason=reason, when=start)
    worst = max(requests, key=lambda request: (request.cards * request.milli, request.resources))
    failed = failed_constraints(core.books.cluster, worst)
    free = _to_free(view, requests, len(waiting))
    return msgspec.structs.replace(waits, reason=reason, failed=failed, free=free, when=start)


def _find(view: View, namespace: str, name: str) -> tuple[str, list[Pod]]:
    """The gang's key and all its pods; or "" and one pod."""
    full = name if "/" in name else f"{namespace}/{name}"
    groups = view.core.groups
    pod = view.pods.get(full)
    gangs: Collection[str] = {space + full for space in SPACES} | {full}
    if pod is not None:
        member = groups.membership(pod)
        if member is None:
            return "", [pod]
        gangs = {member.gang}
    found = dict[str, list[Pod]]()
    for one in view.pods.values():
        member = groups.membership(one)
        if member is not None and (member.gang in gangs or member.group in gangs):
            found.setdefault(member.gang, []).append(one)
    for gang, pods in found.items():
        return gang, sorted(pods, key=_full)
    return "", []


def _not_ours(full: str, pods: Sequence[Pod], bound: Counter[str]) -> Answer | None:
    """None where nothing keeps it from being ours."""
    names = [pod.metadata.name for pod in pods]
    for pod in pods:
        if pod.spec.node_name or pod.status.phase in ENDED:
            continue
        gates = [gate.name for gate in pod.spec.scheduling_gates]
        if gates:
            hint = "; settings with gates: true place it" if gates == [GATE] else ""
            return Answer(full, "elsewhere", f"pod {pod.metadata.name} waits at {', '.join(gates)}{hint}", names, dict(bound))
        said = next((one.message for one in pod.status.conditions if one.type == "PodScheduled" and one.status == "False"), "")
        reason = f'pod {pod.metadata.name} is of schedulerName "{pod.spec.scheduler_name}", which is another\'s'
        return Answer(full, "elsewhere", f"{reason}{f' and says: {said}' if said else ''}", names, dict(bound))
    return None


def _runs(core: Core, full: str, pods: Sequence[Pod], wall: float) -> Answer:
    names = [pod.metadata.name for pod in pods]
    there = [pod for pod in pods if pod.spec.node_name and pod.status.phase not in ENDED]
    bound = Counter(pod.spec.node_name for pod in there)
    reason = f"it runs on {_shown(bound)}" if bound else "all its pods have ended"
    return Answer(full, "running", reason, names, dict(bound), preferred=preferred(core, there, wall))


def _requests(core: Core, waiting: Sequence[Pod]) -> list[Request]:
    found = list[Request]()
    for pod in waiting:
        try:
            found.append(core.books.request(pod))
        except Unplaceable:
            return []  # the reason says so
    return list(dict.fromkeys(found))


def _held(core: Core, dataset: str, wall: float) -> dict[str, int]:
    warmth = core.nearness.warmth
    column = warmth.column_of.get(dataset)
    if column is None:
        return {}
    held = warmth.believed(wall)[:, column]
    rows = np.flatnonzero(held)
    order = rows[np.argsort(-held[rows], kind="stable")][:SHOWN]
    return {warmth.nodes[row]: int(held[row]) for row in order.tolist()}


def _to_free(view: View, requests: Sequence[Request], count: int) -> Free | None:
    """On the node that is nearest to taking all; where none can, how many places are missing in all."""
    cluster = view.core.books.cluster
    free, empty = (_room(view, requests, whole=whole) for whole in (False, True))
    if int(free.sum()) >= count:
        return None  # not for want of room
    able = np.flatnonzero(empty >= count)
    if not len(able):
        return Free("", count - int(free.sum()), []) if int(empty.sum()) >= count else None
    row = int(able[np.argmax(free[able])])
    node = cluster.names[row]
    there = sorted(_full(pod) for pod in view.pods.values() if pod.spec.node_name == node and pod.status.phase not in ENDED)
    asking = [name for name in there if view.core.groups.membership(view.pods[name]) or _asks(view, name, requests)]
    return Free(node, count - int(free[row]), asking[:SHOWN])


def _asks(view: View, name: str, requests: Sequence[Request]) -> bool:
    """Whether the pod holds any of what is asked here but its place in the count of pods."""
    cluster = view.core.books.cluster
    record = cluster.pods.get(view.pods[name].metadata.uid)
    if record is None:
        return False
    wanted = {at for one in requests for at, amount in enumerate(one.resources) if amount and cluster.columns[at] != "pods"}
    held = {at for at, amount in enumerate(record.request.resources) if amount}
    return bool(wanted & held) or bool(record.request.cards and any(one.cards for one in requests))


def _room(view: View, requests: Sequence[Request], *, whole: bool) -> Ints:
    """Slots [N] for any of the pods, as things are or (`whole`) while nothing runs."""
    cluster = view.core.books.cluster
    rooms = [capacity(cluster, one) if whole else slots(cluster, one, cluster.rows) for one in requests]
    room: Ints = np.minimum.reduce(rooms)
    for one in requests:
        allowed = cluster.allowed(one)
        if allowed is not None:
            room = np.where(allowed, room, 0)
    return room


def _full(pod: Pod) -> str:
    return f"{pod.metadata.namespace}/{pod.metadata.name}"


def _shown(nodes: Counter[str]) -> str:
    return ", ".join(f"{name} ({count})" for name, count in sorted(nodes.items()))


def sentences(answer: Answer) -> list[str]:
    """For a person, the reason first."""
    lines = [f"{answer.name}: {answer.reason}"]
    if answer.preferred:
        lines.append(f"  preferred: {answer.preferred}")
    if answer.state not in ("waiting", "fits"):
        return lines
    some = f"{len(answer.pods)} pods" if len(answer.pods) > 1 else "a pod"
    lines.append(f"  {some}, waiting for {answer.waited_seconds:.0f} s, number {answer.position} by age of what waits")
    if answer.state == "waiting" and answer.nodes:
        lines.append(f"  of them bound: {_shown(Counter(answer.nodes))}")
    if answer.dataset:
        where = ", ".join(f"{node} ({amount} bytes)" for node, amount in answer.held.items()) or "no node that says so"
        lines.append(f"  its data {answer.dataset} is on {where}")
    if answer.failed:
        lines.append("  nodes that lack " + ", ".join(f"{name}: {count}" for name, count in answer.failed.items()))
    if answer.free is not None:
        where = f"on {answer.free.node}" if answer.free.node else "anywhere"
        who = f", held by {', '.join(answer.free.pods)}" if answer.free.pods else ""
        lines.append(f"  to start now, free {answer.free.places} places {where}{who}")
    return [*lines, *_expected(answer.when)]


def _expected(start: When | None) -> list[str]:
    if start is None:
        return []
    lines = list[str]()
    if start.loading:
        lines.append("  its data is loaded " + ", ".join(f"on {node} in {left:.0f} s" for node, left in start.loading.items()))
    if start.reserved:
        first = f", once {', '.join(start.ending)} have ended" if start.ending else ""
        lines.append(f"  reserved for it: {', '.join(start.reserved)}{first}")
    eta = "nobody can tell" if start.eta_seconds is None else f"in {start.eta_seconds:.0f} s at the latest, as far as is known"
    return [*lines, f"  expected start: {eta}; {start.because}"]
