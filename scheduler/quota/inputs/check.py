"""From declared queues to a tree, with a sentence for everything that is wrong with them or looks wrong.

Errors close queues or namespaces (`QuotaTree.closed`, `.refused`) and never the tree: one team's typing error must not stop the
others. A caller that would rather keep the tree it has looks at the severities.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from forebay.api.problem import Problem, Severity, did_you_mean
from forebay.api.problem import show as quote
from forebay.scheduler.quota.amounts import Amounts, show
from forebay.scheduler.quota.tree import WHOLE_CLUSTER, Queue, QuotaTree

ABSURD = 1 << 63
"""Kubernetes' own quantities end before this."""


class Findings:
    """Collects problems about queues. `where` is the file or the cluster that the objects came from."""

    def __init__(self, where: str = "cluster") -> None:
        self.where = where
        self.problems: list[Problem] = []

    def add(  # noqa: PLR0917 - one call per finding
        self, severity: Severity, source: str, field: str, value: object, message: str, remedy: str
    ) -> str:
        """Files a problem; returns its sentence without file and severity, as a refusal repeats it."""
        shown = "" if value is None else quote(value)
        self.problems.append(Problem(severity, self.where, 0, source, field, shown, message, remedy))
        subject = " ".join(part for part in (field, shown, message) if part)
        return f"{source}: {subject}; {remedy}"


def who(queue: Queue) -> str:
    """How messages name a queue: by its object, and by its own name where the object holds several."""
    return f'{queue.source} queue "{queue.name}"' if queue.source else f'queue "{queue.name}"'


def build(queues: Sequence[Queue], findings: Findings, *, root: Queue | None = None, default: str = "") -> QuotaTree:
    """A tree of any queues. `parent` "" is the root: `root`, or one without bounds. `default` takes pods that no other wants."""
    top = root or Queue(name=WHOLE_CLUSTER)
    closed: dict[str, str] = {}
    known = _unique([top, *queues], closed, findings)
    _parents(known, top.name, closed, findings)
    _cycles(known, top.name, closed, findings)
    ordered = _parents_first(known, top.name)
    parents = {q.parent for q in ordered if q.name != top.name}
    leaves = {q.name for q in ordered if q.name not in parents}
    for queue in ordered:
        _amounts(queue, closed, findings)
        if queue.mistake:
            closed[queue.name] = queue.mistake
    refused = _namespaces(ordered, leaves, findings)
    if default and default not in leaves:
        close = did_you_mean(default, leaves, "name one of the leaves")
        findings.add("error", "the default queue", "name", default, "is no leaf of the tree", close)
        default = ""
    tree = QuotaTree([_harmless(q) for q in ordered], closed, refused, default)
    _levels(tree, findings)
    return tree


def _unique(queues: Iterable[Queue], closed: dict[str, str], findings: Findings) -> dict[str, Queue]:
    known: dict[str, Queue] = {}
    for queue in queues:
        if not queue.name:
            closed[""] = findings.add(
                "error", who(queue), "name", None, "is missing", "give the queue a name of its own in the tree"
            )
        if queue.name not in known:
            known[queue.name] = queue
            continue
        other = known[queue.name].source or "another queue"
        remedy = f'rename one of the two (the other: {other}); until then nothing is admitted to "{queue.name}"'
        closed[queue.name] = findings.add("error", who(queue), "name", queue.name, "stands twice in the tree", remedy)
        both = tuple(dict.fromkeys((*known[queue.name].namespaces, *queue.namespaces)))
        known[queue.name] = replace(known[queue.name], namespaces=both)  # pods of either are refused, not let through ungoverned
    return known


def _parents(known: dict[str, Queue], root: str, closed: dict[str, str], findings: Findings) -> None:
    for queue in list(known.values()):
        if queue.name == root:
            if queue.parent:
                known[root] = replace(queue, parent="")
        elif not queue.parent:
            known[queue.name] = replace(queue, parent=root)
        elif queue.parent not in known:
            remedy = did_you_mean(queue.parent, known, "create the parent, or name one that exists")
            closed[queue.name] = findings.add("error", who(queue), "parent", queue.parent, "is no queue of this tree", remedy)
            known[queue.name] = replace(queue, parent=root)


def _cycles(known: dict[str, Queue], root: str, closed: dict[str, str], findings: Findings) -> None:
    sound = {root}
    for start in list(known):
        trail: list[str] = []
        seen: set[str] = set()
        name = start
        while name not in sound and name not in seen:
            trail.append(name)
            seen.add(name)
            name = known[name].parent
        if name in seen:
            ring = trail[trail.index(name) :]
            drawn = " -> ".join([*ring[:8], *(["..."] if len(ring) > 8 else []), ring[0]])
            for member in ring:
                queue = known[member]
                message = "makes the queue its own ancestor" + (f" ({drawn})" if len(ring) > 1 else "")
                remedy = "give one of them a parent outside the ring" if len(ring) > 1 else "name another parent, or none"
                closed[member] = findings.add("error", who(queue), "parent", queue.parent, message, remedy)
                known[member] = replace(queue, parent=root)
        sound |= seen


def _parents_first(known: dict[str, Queue], root: str) -> list[Queue]:
    children: dict[str, list[str]] = {name: [] for name in known}
    for queue in known.values():
        if queue.name != root:
            children[queue.parent].append(queue.name)
    ordered, reached = [], [root]
    while reached:
        name = reached.pop()
        ordered.append(known[name])
        reached.extend(reversed(children[name]))
    return ordered


def _amounts(queue: Queue, closed: dict[str, str], findings: Findings) -> None:
    kinds = (("min", queue.min), ("max", queue.max), ("weight", queue.weight), ("borrow", queue.borrow), ("lend", queue.lend))
    for field, named in kinds:
        for resource, amount in named.items():
            if 0 <= amount < ABSURD * 1000:
                continue
            message, remedy = ("is below 0", "write 0 or more") if amount < 0 else ("is out of range", "write less than 8Ei")
            closed[queue.name] = findings.add("error", who(queue), f"{field}.{resource}", amount, message, remedy)
    if queue.min_runtime < 0:
        findings.add("warning", who(queue), "minRuntime", queue.min_runtime, "is below 0 and counts as 0", "write seconds")
    for resource, least in queue.min.items():
        most = queue.max.get(resource)
        if most is not None and least > most:
            message = f"is over max.{resource}, {show(resource, most)}"
            remedy = f"lower min to {show(resource, most)} or raise max to {show(resource, least)}"
            closed[queue.name] = findings.add("error", who(queue), f"min.{resource}", show(resource, least), message, remedy)
    for resource, lent in queue.lend.items():
        least = queue.min.get(resource, 0)
        if lent > least:
            message = f"is more than min.{resource}, {show(resource, least)}: all of the min may be lent"
            findings.add("warning", who(queue), f"lend.{resource}", show(resource, lent), message, "lower it, or leave it out")


def _harmless(queue: Queue) -> Queue:
    """A closed queue still takes part in sums: without negative amounts, and with a min that its max allows."""

    def clean(amounts: Amounts) -> dict[str, int]:
        return {r: min(max(0, n), ABSURD * 1000) for r, n in amounts.items()}

    fields = {"max": queue.max, "min": queue.min, "weight": queue.weight, "borrow": queue.borrow, "lend": queue.lend}
    if all(0 <= n < ABSURD * 1000 for named in fields.values() for n in named.values()) and queue.min_runtime >= 0:
        return queue
    cleaned = {name: clean(named) for name, named in fields.items()}
    return replace(queue, **cleaned, min_runtime=max(0.0, queue.min_runtime))  # type: ignore[arg-type]


def _namespaces(queues: Sequence[Queue], leaves: set[str], findings: Findings) -> dict[str, str]:
    first: dict[str, Queue] = {}
    refused: dict[str, str] = {}
    for queue in queues:
        for namespace in dict.fromkeys(queue.namespaces):
            if queue.name not in leaves:
                message = "is listed by a queue that has children, and only leaves hold pods"
                remedy = "move it to a leaf below"
                refused.setdefault(namespace, findings.add("error", who(queue), "namespaces", namespace, message, remedy))
            elif namespace in first:
                message = f'is listed by queue "{first[namespace].name}" as well, and a namespace has one leaf'
                remedy = "take it out of one of the two; until then its new pods wait"
                refused[namespace] = findings.add("error", who(queue), "namespaces", namespace, message, remedy)
            else:
                first[namespace] = queue
    return refused


def _levels(tree: QuotaTree, findings: Findings) -> None:
    """What official pages disagree on, or what can never take effect: accepted, and warned of."""
    bounds: dict[str, dict[str, tuple[str, int]]] = {tree.root: {}}  # by resource: the nearest ancestor that bounds it, and how
    for name, queue in tree.queues.items():
        _promises(tree, queue, findings)
        _bounded(tree, queue, bounds[name], findings)
        below = bounds[name] | {r: (name, n) for r, n in tree.ceilings[name].items()}
        bounds.update(dict.fromkeys(tree.children[name], below))
    root = tree.queues[tree.root]
    for resource, least in sorted(root.min.items()):
        most = root.max.get(resource, least)
        if least != most and tree.root not in tree.closed:
            message = f"differs from max.{resource}, {show(resource, most)}: the root's max counts"
            remedy = "make them equal, as the root of a tree has them"
            findings.add("warning", who(root), f"min.{resource}", show(resource, least), message, remedy)


def _promises(tree: QuotaTree, queue: Queue, findings: Findings) -> None:
    for resource, least in sorted(queue.min.items()):
        promised = sum(tree.floors[child].get(resource, 0) for child in tree.children[queue.name])
        if promised > least:
            message = (
                f"is less than the sum of its children's, {show(resource, promised)}: they are scaled down when all want theirs"
            )
            remedy = f"raise it to {show(resource, promised)}, or lower theirs"
            findings.add("warning", who(queue), f"min.{resource}", show(resource, least), message, remedy)


def _bounded(tree: QuotaTree, queue: Queue, bounds: Mapping[str, tuple[str, int]], findings: Findings) -> None:
    for resource in sorted(bounds.keys() & (queue.min.keys() | tree.ceilings[queue.name].keys())):
        parent, limit = bounds[resource]  # the nearest is enough: it has been held against its own ancestors
        above = f'is over the max of "{parent}" above it, {show(resource, limit)}'
        most = tree.ceilings[queue.name].get(resource, 0)
        if most > limit:
            remedy = "lower it, or raise the other"
            findings.add("warning", who(queue), f"max.{resource}", show(resource, most), f"{above}, which holds", remedy)
        least = queue.min.get(resource, 0)
        if least > limit:
            remedy = "lower it, or raise the other"
            findings.add(
                "warning", who(queue), f"min.{resource}", show(resource, least), f"{above}, and can never be given", remedy
            )
