"""The quota tree: what each queue is promised, may use, lends and borrows. Immutable; whatever the input, it is usable.

Rules (sources in docs/quota.md):

- A resource that a queue does not name is not governed by it. Named in `max` only: nothing is guaranteed. Named in `min` only:
  no ceiling. What `min` does not name passes through: an inner queue's floor is then the sum of its children's.
- A mistake closes what it concerns, and nothing else: a closed queue stays in the tree, what runs there stays counted, and
  nothing new is admitted there until somebody mends it. The refusal repeats the mistake's sentence.
- Contradictions that the official pages allow (mins of children above the parent's, a ceiling above the parent's) are accepted,
  warned of, and resolved when shares are computed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from forebay.scheduler.pods.fill import UNSAID, Fill
from forebay.scheduler.quota.amounts import Amounts

WHOLE_CLUSTER = "(cluster)"
"""Name of the root where the input has none. No Kubernetes object can have it."""


@dataclass(frozen=True, kw_only=True)
class Queue:
    """One queue as it was declared. Amounts as in `amounts`; a resource that is missing is not named.

    `borrow` bounds what is used above `min`; `lend` bounds how much of an unused `min` others may use, and `lends=False` keeps
    all of it. `weight` decides who gets what is left over; without it, a queue's ceiling is its weight (Koordinator's default).
    `scales=False`: keeps its min when the mins of a level exceed what is there, before those that scale get anything.
    `min_runtime` in seconds: what runs shorter is not evicted for others; 0 takes the parent's. `fifo`: age alone orders jobs.
    """

    name: str
    parent: str = ""
    min: Amounts = field(default_factory=dict)
    max: Amounts = field(default_factory=dict)
    weight: Amounts = field(default_factory=dict)
    borrow: Amounts = field(default_factory=dict)
    lend: Amounts = field(default_factory=dict)
    lends: bool = True
    scales: bool = True
    min_runtime: float = 0.0
    fifo: bool = False
    fill: Fill = UNSAID
    """How nodes and cards are filled with its pods; what is "" takes the parent's."""
    parent_only: bool = False
    """It was declared to be a parent: it takes no pods even while it has no children."""
    namespaces: tuple[str, ...] = ()
    flavors: tuple[str, ...] = ()
    """Node sets (ACK's resource flavors) on which its pods may run; empty for any. Applied by the planner's filters."""
    attributes: Mapping[str, str] = field(default_factory=dict)
    """What the input said beside this, kept for the way back."""
    mistake: str = ""
    """What could not be read of it, as a sentence: nothing is admitted, because a bound may be missing."""
    source: str = ""
    """The object it comes from, `ElasticQuota team-a/q`."""


@dataclass(frozen=True)
class Home:
    """Where a pod is counted: a leaf, or nowhere (`queue` is empty). `refusal` says why it may not run at all."""

    queue: str
    refusal: str = ""


class QuotaTree:
    """Queues in an order in which parents come first. Built by `check.build`, which has made it a tree.

    `floors`, `ceilings` and `keeps` hold what counts after all rules: guaranteed amounts (at most the ceiling), ceilings
    (`min(max, min + borrow)`), and the part of the floor that is not lent.
    """

    def __init__(self, queues: Iterable[Queue], closed: Mapping[str, str], refused: Mapping[str, str], default: str = "") -> None:
        self.queues: dict[str, Queue] = {q.name: q for q in queues}
        self.root = next(iter(self.queues))
        self.closed = dict(closed)
        """Sentence by queue that admits nothing."""
        self.refused = dict(refused)
        """Sentence by namespace that belongs to no single leaf."""
        self.default = default
        """The leaf of pods that no other queue wants; empty for none."""
        listed: dict[str, list[str]] = {name: [] for name in self.queues}
        for queue in self.queues.values():
            if queue.name != self.root:
                listed[queue.parent].append(queue.name)
        self.children: dict[str, tuple[str, ...]] = {name: tuple(sorted(names)) for name, names in listed.items()}
        leaves = [q for q in self.queues.values() if not self.children[q.name] and not q.parent_only]
        self.by_namespace = {ns: q.name for q in leaves for ns in q.namespaces if ns not in self.refused}
        self.resources = frozenset(r for q in self.queues.values() for named in (q.min, q.max, q.borrow) for r in named)
        self.fills: dict[str, Fill] = {}
        """How nodes and cards are filled with a queue's pods: as it says itself, or the nearest parent that does."""
        for queue in self.queues.values():
            self.fills[queue.name] = queue.fill.or_else(self.fills.get(queue.parent, UNSAID))
        self.ceilings = {q.name: _ceilings(q) for q in self.queues.values()}
        self.floors: dict[str, dict[str, int]] = {}
        self.keeps: dict[str, dict[str, int]] = {}
        for queue in reversed(self.queues.values()):
            self._guarantee(queue)
        self.kept_resources = frozenset(r for keep in self.keeps.values() for r, n in keep.items() if n)

    def _guarantee(self, queue: Queue) -> None:
        floor: dict[str, int] = {}
        for child in self.children[queue.name]:
            for resource, amount in self.floors[child].items():
                floor[resource] = floor.get(resource, 0) + amount
        floor |= queue.min
        for resource, ceiling in self.ceilings[queue.name].items():
            if resource in floor:
                floor[resource] = min(floor[resource], ceiling)
        self.floors[queue.name] = floor
        lent = queue.lend if queue.lends else dict.fromkeys(queue.min, 0)
        self.keeps[queue.name] = {r: max(0, floor[r] - amount) for r, amount in lent.items() if r in queue.min}

    def is_leaf(self, name: str) -> bool:
        return not self.children[name]

    def path(self, name: str) -> list[str]:
        """From a queue up to the root, both included. `KeyError` for a name that is no queue."""
        names = [name]
        while name != self.root:
            name = self.queues[name].parent
            names.append(name)
        return names

    def title(self, name: str) -> str:
        """The path from the root as ACK's queues are called: `root/algorithm/video`."""
        return "/".join(reversed(self.path(name)))

    def min_runtime(self, name: str) -> float:
        """Seconds that a pod of this queue may run before others may have it evicted: its own, or the nearest parent's."""
        return next((s for q in self.path(name) if (s := self.queues[q].min_runtime) > 0), 0.0)

    def closed_at(self, name: str) -> str:
        """Why nothing is admitted to this queue; empty where something may be."""
        return next((self.closed[q] for q in self.path(name) if q in self.closed), "")

    def home(self, namespace: str, label: str = "") -> Home:
        """The leaf of a pod: the queue its label names, else its namespace's, else the default, else none.

        A label that names no queue falls back to the namespace, as in Koordinator; one that names an inner queue is refused,
        because only leaves hold pods.
        """
        if label and label in self.queues:
            if not self.is_leaf(label) or self.queues[label].parent_only:
                some = ", ".join(f'"{c}"' for c in self.children[label][:3]) or "a leaf below it"
                parent = f'the pod names queue "{label}", which is a parent and holds no pods'
                return Home("", f"{parent}; name a leaf, such as {some}")
            return Home(label)
        if namespace in self.refused:
            return Home("", self.refused[namespace])
        return Home(self.by_namespace.get(namespace, self.default))


def _ceilings(queue: Queue) -> dict[str, int]:
    ceilings = dict(queue.max)
    for resource, amount in queue.borrow.items():
        limit = queue.min.get(resource, 0) + amount
        ceilings[resource] = min(limit, ceilings.get(resource, limit))
    return ceilings
