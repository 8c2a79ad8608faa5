"""What pods of one class prefer, and what prefers them: points of nodes that fit, brought up to date as tallies are.

Preferences go both ways: pods that run may want to be near or far from this one, and one with *required* affinity to it weighs 1
(`interpodaffinity`, Kubernetes 1.36). So whether anything weighs can change with every pod.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from forebay.scheduler.arrays.labels import NAME
from forebay.scheduler.arrays.node_rows import NodeRows
from forebay.scheduler.arrays.population import Group, Population
from forebay.scheduler.arrays.tallies import Counted, Kind, Tally
from forebay.scheduler.arrays.types import Bools, Ints
from forebay.scheduler.pods.classes import PodClass, Spread
from forebay.scheduler.preferences import points
from forebay.scheduler.preferences.nodes import SoftTaints, TermWeights
from forebay.scheduler.preferences.points import Points
from forebay.scheduler.preferences.spread import HOST, Leaning, unevenness

REQUIRED = 1
"""Weight of a required affinity of a pod that runs, towards pods that it means: kube-scheduler's hardPodAffinityWeight."""


def wishes_of(key: PodClass, people: Population) -> tuple[Kind, ...]:
    """What a pod of the class is counted among once it runs, for those who come after it."""
    wanted = (*key.preferred.pods, *((REQUIRED, term) for term in key.affinity))
    return tuple(people.wishers(weight, term) for weight, term in wanted)


class Preferences:
    """Of one class. `counted` gives the rows whose pods a spread constraint counts."""

    def __init__(
        self, key: PodClass, nodes: NodeRows, people: Population, group: Group, counted: Callable[[Spread], Counted]
    ) -> None:
        self.key, self._nodes, self._people, self._group, self._counted = key, nodes, people, group, counted
        preferred = key.preferred
        self.terms = TermWeights(nodes, preferred.nodes) if any(weight and term for weight, term in preferred.nodes) else None
        self.taints = SoftTaints(nodes, key.tolerations)
        self._own = bool(self.terms or preferred.pods or preferred.spread)
        self._leanings: tuple[Leaning, ...] = ()
        self._tallies: list[tuple[int, Tally]] = []
        self._known, self._epoch = 0, -1

    @property
    def any(self) -> bool:
        """Whether anything may weigh."""
        return self._own or len(self._nodes.soft_sets) > 1 or (self._people.wishes > 0 and self._meant())

    def _meant(self) -> bool:
        """Whether terms of any pods, this one included, speak of pods that may run."""
        people, labels = self._people, self._nodes.labels
        if self._epoch != people.epoch:
            self._epoch, self._known = people.epoch, 0
            own = self.key.preferred.pods
            self._tallies = [(weight, Tally(people.meant((term,)), term.key, labels)) for weight, term in own]
            self._leanings = tuple(self._leaning(spread) for spread in self.key.preferred.spread)
        if self._known < people.wishes:
            fresh = people.wishing(self._group, self._known)
            self._known = people.wishes
            self._tallies += [(weight, Tally(kind, term.key, labels)) for weight, term, kind in fresh]
        return bool(self._tallies)

    def _leaning(self, spread: Spread) -> Leaning:
        kind = self._people.staying(self.key.namespace, spread.selector) if spread.selector else None
        labels = self._nodes.labels
        if spread.key == HOST:  # kube-scheduler looks at the node itself then, whatever its label says
            return Leaning(spread, Tally(kind, NAME, labels))
        return Leaning(spread, Tally(kind, spread.key, labels, self._counted(spread)))

    def points(self, rows: Ints, held: Bools | None = None) -> Points:
        """Of these rows, which are all that fit. `held` [N]: where the pod's data is, for whoever weighs that by itself; terms
        about data do not count then."""
        near = self._near(rows) if self._meant() else None
        spread = None
        if self._leanings:
            spread = points.of_spread(*unevenness(self._leanings, self._nodes.labels, rows))
        weights = None
        if self.terms is not None:
            weights = self.terms.counts[rows] if held is None else self.terms.without_data(rows, held)
        soft = self.taints.counts[rows] if len(self._nodes.soft_sets) > 1 else None
        return Points(
            taints=points.of_taints(soft) if soft is not None and soft.any() else None,
            nodes=points.of_nodes(weights) if weights is not None else None,
            pods=points.of_pods(near) if near is not None else None,
            spread=spread,
        )

    def _near(self, rows: Ints) -> Ints:
        total = np.zeros(len(rows), np.int64)
        for weight, tally in self._tallies:
            tally.refresh()
            total += weight * tally.sums[tally.place[rows]]
        return total
