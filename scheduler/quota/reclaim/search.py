"""The searches behind reclaim: evictions thought through, step by step, and pruned until none is in vain.

`by_excess` takes from whoever is furthest above its fair share, cheapest first, until the job fits. `by_work` and `by_strain`
go node by node and keep only what makes room for another pod; they find whole nodes where the first would scatter its victims.
All are heuristics: the cheapest set is a knapsack on every node.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from forebay.scheduler.quota.admission import Verdict, admit
from forebay.scheduler.quota.amounts import JOBS, Amounts, add
from forebay.scheduler.quota.books import Books
from forebay.scheduler.quota.reclaim.entitled import GUARANTEE, Ask, Entitlement
from forebay.scheduler.quota.reclaim.pods import Running, Unit
from forebay.scheduler.quota.reclaim.rooms import Room

LARGE = 16
"""Members from which a gang is tried on one node only: it would be thought away once for each of its nodes, in vain."""
_PART = 50
"""One in so many nodes is freed before the strain is computed anew: 1,000 nodes in 260 rounds."""


@dataclass(eq=False)
class Step:
    """A unit that was taken, the pods of it that were still there, and the rule that allowed it (`entitled`)."""

    unit: Unit
    pods: tuple[Running, ...]
    stage: int


class Trial:
    """Evictions thought through: books, room and disruption budgets with some units gone.

    Steps may be undone and redone in any order in which a gang's last step, if it takes the whole, is undone first.
    """

    def __init__(
        self, ask: Ask, books: Books, room: Room, entitlement: Entitlement, *, budgets: Mapping[str, int], totals: Amounts
    ) -> None:
        self.ask = ask
        self.books = books
        self.room = room
        self.steps: list[Step] = []
        self._budgets = dict(budgets)
        self.entitlement = entitlement
        self._totals = totals
        self._gone: set[str] = set()
        self._alone: Counter[str] = Counter()
        """By gang: members that have gone one by one."""

    def verdict(self) -> Verdict:
        """What the quotas say to the job now."""
        ask = self.ask
        return admit(self.books, ask.queue, ask.request, self._totals, preemptible=ask.preemptible, jobs=ask.jobs)

    def fits(self) -> bool:
        """Whether the job could start now. Once true, it stays so whatever else is taken."""
        return self.room.fitting() >= self.room.wanted and self.verdict().admitted

    def feasible(self) -> bool:
        """Whether it may start by what has been taken, which is more: nobody goes so that a queue grows beyond its share. Once
        true, it stays so too."""
        return self.entitlement.settled(self.books) and self.fits()

    def stage(self, unit: Unit) -> int | None:
        """The rule by which a unit may be taken now; None if it may not. Once None, it stays so whatever else is taken."""
        pods = self._left(unit)
        if not pods or not self._within_budgets(pods):
            return None
        if not unit.whole and self._alone[unit.gang] >= unit.above:
            return None
        freed: dict[str, dict[str, int]] = {}
        for pod in pods:
            add(freed.setdefault(pod.queue, {}), pod.amounts)
        stages = [self.entitlement.stage(queue, unit.priority, self.books, amounts) for queue, amounts in freed.items()]
        return None if None in stages else max(s for s in stages if s is not None)

    def take(self, unit: Unit, stage: int) -> None:
        step = Step(unit, self._left(unit), stage)
        self._apply(step, -1)
        self.steps.append(step)

    def undo(self, steps: Sequence[Step]) -> None:
        for step in steps:
            self._apply(step, 1)

    def redo(self, steps: Sequence[Step]) -> None:
        for step in steps:
            self._apply(step, -1)

    def roll_back(self, length: int) -> None:
        """Undoes the last steps, down to a number of them."""
        self.undo(self.steps[length:])
        del self.steps[length:]

    def stay(self, candidates: Iterable[Unit]) -> Counter[str]:
        """Of what has not been taken and could be: how many pods stay, by why."""
        kept: Counter[str] = Counter()
        for unit in candidates:
            pods = self._left(unit)
            if unit.whole and pods:
                if not self._within_budgets(pods):
                    kept["their disruption budgets allow no more"] += len(pods)
                elif unit.queue in ("", self.ask.queue):
                    kept["their priority is not lower"] += len(pods)
                else:
                    kept["their queues use no more than their fair share, or than what is left to them"] += len(pods)
        return kept

    def _left(self, unit: Unit) -> tuple[Running, ...]:
        return tuple(p for p in unit.pods if p.uid not in self._gone)

    def _within_budgets(self, pods: Iterable[Running]) -> bool:
        needed = Counter(name for p in pods for name in p.budgets)
        return all(self._budgets.get(name, 0) >= n for name, n in needed.items())

    def _apply(self, step: Step, sign: int) -> None:
        for pod in step.pods:
            if pod.queue:
                self.books.book(pod.queue, pod.amounts, sign, preemptible=pod.preemptible)
            for name in pod.budgets:
                self._budgets[name] += sign
        if not step.unit.whole:
            self._alone[step.unit.gang] -= sign
        elif step.unit.queue and JOBS in self.books.tree.resources:
            self.books.book(step.unit.queue, {JOBS: 1}, sign)
        uids = [p.uid for p in step.pods]
        if sign < 0:
            self._gone.update(uids)
            self.room.leave(step.pods)
        else:
            self._gone.difference_update(uids)
            self.room.back(step.pods)


def _key(unit: Unit) -> tuple[int, bool, float, str, str]:
    """Cheapest first; single members of a gang before the gang."""
    return unit.priority, unit.whole, unit.lost, unit.gang, unit.pods[0].uid


def by_excess(trial: Trial, candidates: Sequence[Unit]) -> None:
    """Takes units until the job is feasible or none is left, each from the queue with the largest multiple of its fair share."""
    queues: dict[str, list[Unit]] = {}
    for unit in sorted(candidates, key=_key, reverse=True):
        queues.setdefault(unit.queue, []).append(unit)  # the next one at the end
    heap: list[tuple[_Turn, str]] = []
    for queue, waiting in queues.items():
        _enter(heap, trial, queue, waiting)
    begun, checked, gap = len(trial.steps), len(trial.steps), 1
    while heap:
        turn, queue = heapq.heappop(heap)
        now = _turn(trial, queue, queues[queue])
        if now is None or now > turn:  # what was taken since has moved it back
            if now is not None:
                heapq.heappush(heap, (now, queue))
            continue
        trial.take(queues[queue].pop(), now[0])
        _enter(heap, trial, queue, queues[queue])
        if len(trial.steps) - checked >= gap:
            if trial.feasible():
                break
            checked = len(trial.steps)
            gap = min(gap * 2, 1 + len(trial.steps) // 8) if trial.room.quick else gap * 2  # what is too much is undone below
    if trial.feasible():
        _shorten(trial, max(begun, checked))


_Turn = tuple[int, tuple[float, ...], int, float]


def _turn(trial: Trial, queue: str, waiting: list[Unit]) -> _Turn | None:
    """When a queue's next unit goes. Units that may not go are dropped: what was taken before them only makes that more
    certain."""
    while waiting:
        unit = waiting[-1]
        stage = trial.stage(unit)
        if stage is not None:
            return stage, tuple(-x for x in trial.entitlement.excess(queue, trial.books)), unit.priority, unit.lost
        waiting.pop()
    return None


def _enter(heap: list[tuple[_Turn, str]], trial: Trial, queue: str, waiting: list[Unit]) -> None:
    turn = _turn(trial, queue, waiting)
    if turn is not None:
        heapq.heappush(heap, (turn, queue))


def _shorten(trial: Trial, infeasible: int) -> None:
    """Undoes the last steps as long as the job stays feasible; with `infeasible` steps it is not, or they are none of this
    search."""
    low, high = infeasible, len(trial.steps)
    steps = trial.steps
    while high - low > 1:
        middle = (low + high) // 2
        trial.undo(steps[middle:high])
        if trial.feasible():
            high = middle
        else:
            trial.redo(steps[middle:high])
            low = middle
    # steps[high:] are undone; trial.steps must say so
    del steps[high:]


def by_work(trial: Trial, candidates: Sequence[Unit]) -> None:
    """Frees node after node, the one where room for a pod costs the least work first."""
    on = _on_nodes(trial, candidates)
    prices = {node: _price(trial, there) for node, there in on.items()}
    tried: set[str] = set()
    for node in sorted(on, key=lambda n: (prices[n], n)):
        if trial.room.fitting() >= trial.room.wanted:
            break
        _free(trial, on[node], tried)
    if not trial.feasible():
        by_excess(trial, candidates)  # there is room, but a quota above the job is full


def _price(trial: Trial, there: Sequence[Unit]) -> tuple[int, float]:
    """The harshest rule and the work of the first pod more that fits; where asking is dear, of all that is on the node."""
    if not trial.room.quick:
        return 0, sum(u.lost for u in there)
    begun, fitting = len(trial.steps), trial.room.fitting()
    harshest, work = 0, 0.0
    for unit in there:
        if trial.room.fitting() > fitting:
            break
        stage = trial.stage(unit)
        if stage is not None and len(unit.pods) <= LARGE:
            trial.take(unit, stage)
            harshest, work = max(harshest, stage), work + unit.lost
    price = (harshest, work) if trial.room.fitting() > fitting else (GUARANTEE, math.inf)
    trial.roll_back(begun)
    return price


def by_strain(trial: Trial, candidates: Sequence[Unit]) -> None:
    """Frees node after node, the one first whose queues have most to give for what they lose there.

    Where the job claims nearly all that others have beyond their shares, this spends it evenly; going by work, the queues that
    happen to be met first are soon at their share, and every node that holds a pod of theirs is then out of reach.
    """
    on = _on_nodes(trial, candidates)
    losses = {node: _losses(there) for node, there in on.items()}
    queues = {q for lost in losses.values() for q in lost}
    tried: set[str] = set()
    while losses and trial.room.fitting() < trial.room.wanted:
        rates = {q: trial.entitlement.rates(q, trial.books) for q in queues}
        cheapest = heapq.nsmallest(1 + len(losses) // _PART, ((_strain(lost, rates), node) for node, lost in losses.items()))
        for _, node in cheapest:
            _free(trial, on[node], tried)
            del losses[node]
            if trial.room.fitting() >= trial.room.wanted:
                break
    if not trial.feasible():
        by_excess(trial, candidates)


def _on_nodes(trial: Trial, candidates: Sequence[Unit]) -> dict[str, list[Unit]]:
    """Units by node, cheapest first, without those that may not be taken even now."""
    on: dict[str, list[Unit]] = {}
    for unit in sorted(candidates, key=_key):
        if trial.stage(unit) is not None:
            for node in dict.fromkeys(p.node for p in unit.pods):
                on.setdefault(node, []).append(unit)
    return on


def _strain(losses: Mapping[str, Amounts], rates: Mapping[str, Mapping[str, float]]) -> float:
    """How much of what its queues may still lose is on a node."""
    return sum(max((n * rates[q].get(r, 0.0) for r, n in lost.items()), default=0.0) for q, lost in losses.items())


def _losses(there: Iterable[Unit]) -> dict[str, dict[str, int]]:
    losses: dict[str, dict[str, int]] = {}
    for unit in there:
        for pod in unit.pods:
            add(losses.setdefault(pod.queue, {}), pod.amounts)
    return losses


def _free(trial: Trial, there: Iterable[Unit], tried: set[str]) -> None:
    """Takes what is on a node; what makes no more pods fit is taken back. `tried`: large gangs that have had their turn."""
    kept, fitting = len(trial.steps), trial.room.fitting()
    for unit in there:
        stage = trial.stage(unit)
        large = len(unit.pods) > LARGE
        if stage is None or (large and unit.gang in tried):
            continue
        if large:
            tried.add(unit.gang)
        trial.take(unit, stage)
        if trial.room.fitting() > fitting:
            kept, fitting = len(trial.steps), trial.room.fitting()
            if fitting >= trial.room.wanted:
                break
    trial.roll_back(kept)


def prune(trial: Trial) -> None:
    """Leaves only steps none of which can be left out, the last taken tried first. The trial is feasible before and after.

    Blocks are tried, twice as large after one that stays, half as large after one that is needed: a search that took far too much
    costs few questions, one that took nothing in vain one a step. A member that went alone stays gone if its gang goes. At the
    end, a gang that went whole although members above its minimum would do gives only those.
    """
    needed: set[int] = set()
    gangs: set[str] = set()
    high = size = len(trial.steps)
    while high:
        low = max(0, high - size)
        bound = {i for i in range(low, high) if not trial.steps[i].unit.whole and trial.steps[i].unit.gang in gangs}
        free = [trial.steps[i] for i in range(low, high) if i not in bound]
        trial.undo(free)
        if trial.feasible():
            needed |= bound
            high, size = low, size * 2
            continue
        trial.redo(free)
        if high - low == 1:
            needed.add(low)
            if trial.steps[low].unit.whole:
                gangs.add(trial.steps[low].unit.gang)
            high = low
        size = max(1, (high - low) // 2)
    trial.steps[:] = [s for i, s in enumerate(trial.steps) if i in needed]
    for step in [s for s in trial.steps if s.unit.whole and s.unit.above]:
        _spare(trial, step)


def _spare(trial: Trial, whole: Step) -> None:
    """Brings back members of a gang, its core and the oldest first, and leaves it running if that comes to its minimum."""
    of_gang = [s for s in trial.steps if s.unit.gang == whole.unit.gang]
    trial.undo(of_gang[::-1])
    alone = [
        Step(replace(whole.unit, pods=(p,), whole=False), (p,), whole.stage)
        for p in sorted(whole.unit.pods, key=lambda p: (not p.core, p.started, p.uid))
    ]
    trial.redo(alone)
    gone = list(alone)
    if trial.feasible():
        for step in alone:
            trial.undo([step])
            if trial.feasible():
                gone.remove(step)
            else:
                trial.redo([step])
    if len(gone) <= whole.unit.above and not any(p.core for s in gone for p in s.pods):
        trial.steps[:] = [s for s in trial.steps if s not in of_gang] + gone
    else:
        trial.undo(gone)
        trial.redo(of_gang)
