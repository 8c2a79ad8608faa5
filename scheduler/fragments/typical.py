"""Which requests usually come, learned from the arrivals: no list is known beforehand."""

from __future__ import annotations

from dataclasses import replace

from forebay.scheduler.pods.request import Request

FIRST = 30
"""Arrivals before the first revision: fewer say little of a workload."""
GROWTH = 1.1
"""Arrivals between revisions grow by this factor: every revision makes all kept scores void."""
WINDOW = 20_000
"""Arrivals after which old ones count half, so that a workload that changes is followed."""
COVER = 0.9
"""Share of the arrivals of each set of accepted models that the typical requests stand for; the rest are too rare to plan for."""

MOST = 256
"""Typical requests at most, but for one of each set. Recorded workloads have 37 to 222 (openb). Where nearly each pod asks for
something else there were 1,138, and a decision on 200 nodes took 1.2 to 1.4 times as long."""


class Typical:
    """Counts arrivals by request; `requests` is the latest revision, with weights that sum to 1.

    Pods without a card, and pods by the models they accept, are covered apart: a set of models that many unlike pods name would
    otherwise lose its weight, each of them being rare. The weight of what is left out goes to the others of the same set.
    """

    def __init__(self) -> None:
        self.requests: list[tuple[Request, float]] = []
        self._counts: dict[Request, float] = {}
        self._plain: dict[Request, Request] = {}
        self._words: dict[Request, str] = {}  # of each request that is counted: its repr, by which equal counts are put in order
        self._seen = 0
        self._due = float(FIRST)
        self._total = 0.0

    def observe(self, request: Request) -> bool:
        """Count one arrival, as what it asks for: where it may go is not counted. True when `requests` was revised."""
        if request.constraints:
            plain = self._plain.get(request)
            if plain is None:
                plain = self._plain[request] = replace(request, constraints=0)
            request = plain
        self._counts[request] = self._counts.get(request, 0.0) + 1
        self._seen += 1
        self._total += 1
        if self._total >= WINDOW:
            self._counts = {one: count / 2 for one, count in self._counts.items() if count > 1}
            self._total = sum(self._counts.values())
        if self._seen < self._due:
            return False
        self._plain.clear()  # classes come and go
        self._due = self._seen + min(self._seen * (GROWTH - 1), WINDOW / 8)
        self._revise()
        return True

    def _revise(self) -> None:
        kinds: dict[tuple[bool, tuple[int, ...] | None], list[tuple[Request, float]]] = {}
        self._words = {request: self._words.get(request) or repr(request) for request in self._counts}
        for request, count in sorted(self._counts.items(), key=lambda one: (-one[1], self._words[one[0]])):
            kinds.setdefault((request.cards > 0, request.models), []).append((request, count))
        cover = COVER
        self.requests = [one for alike in kinds.values() for one in self._frequent(alike, cover)]
        while len(self.requests) > max(MOST, len(kinds)):
            cover *= 0.8
            self.requests = [one for alike in kinds.values() for one in self._frequent(alike, cover)]

    def _frequent(self, alike: list[tuple[Request, float]], cover: float) -> list[tuple[Request, float]]:
        """The shortest prefix that covers so much of these, with the weight of all of them; at least one."""
        whole = sum(count for _, count in alike)
        kept, covered = list[tuple[Request, float]](), 0.0
        for request, count in alike:
            if covered >= cover * whole:
                break
            kept.append((request, count))
            covered += count
        return [(request, count * whole / covered / self._total) for request, count in kept]
