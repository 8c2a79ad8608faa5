"""Which requests usually come, learned from the arrivals: no list is known beforehand."""

from __future__ import annotations

from forebay.scheduler.request import Request

FIRST = 30
"""Arrivals before the first revision: fewer say little of a workload."""
GROWTH = 1.25
"""Arrivals between revisions grow by this factor: every revision makes all kept scores void."""
WINDOW = 20_000
"""Arrivals after which old ones count half, so that a workload that changes is followed."""
COVER = 0.95
"""Share of the arrivals that the typical requests stand for; the rest are too rare to plan for."""


class Typical:
    """Counts arrivals by request; `requests` is the latest revision, most frequent first, with weights that sum to 1."""

    def __init__(self) -> None:
        self.requests: list[tuple[Request, float]] = []
        self._counts: dict[Request, float] = {}
        self._seen = 0
        self._due = float(FIRST)
        self._total = 0.0

    def observe(self, request: Request) -> bool:
        """Count one arrival. True when `requests` was revised."""
        self._counts[request] = self._counts.get(request, 0.0) + 1
        self._seen += 1
        self._total += 1
        if self._total >= WINDOW:
            self._counts = {one: count / 2 for one, count in self._counts.items() if count > 1}
            self._total = sum(self._counts.values())
        if self._seen < self._due:
            return False
        self._due = self._seen + min(self._seen * (GROWTH - 1), WINDOW / 8)
        self._revise()
        return True

    def _revise(self) -> None:
        kept, covered = list[tuple[Request, float]](), 0.0
        for request, count in sorted(self._counts.items(), key=lambda one: (-one[1], repr(one[0]))):
            if covered >= COVER * self._total:
                break
            kept.append((request, count))
            covered += count
        self.requests = [(request, count / covered) for request, count in kept]
