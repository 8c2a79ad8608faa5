"""Which pods go so that a waiting job can start: whole gangs, or members above their minimum; none that could stay, none in vain.

Three searches (`search`), the best result counts: the mildest rule first, then the least work lost. What they find is
right; a set that exists may be missed (docs/quota.md has how often, on small cases).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from forebay.scheduler.quota.admission import Verdict
from forebay.scheduler.quota.amounts import NOTHING, Amounts, add, show_all
from forebay.scheduler.quota.books import Books
from forebay.scheduler.quota.reclaim.covered import Cover, weigh
from forebay.scheduler.quota.reclaim.entitled import GUARANTEE, PRIORITY, SURPLUS, WHOLE_GANG, Ask, Entitlement
from forebay.scheduler.quota.reclaim.pods import Gang, Running, Unit, units
from forebay.scheduler.quota.reclaim.rooms import Room
from forebay.scheduler.quota.reclaim.search import Step, Trial, by_excess, by_strain, by_work, prune
from forebay.scheduler.quota.shares import Shares

_STAGES = {
    SURPLUS: "all of it is beyond fair shares",
    WHOLE_GANG: "a gang larger than its queue's surplus goes whole",
    PRIORITY: "lower priorities yield",
    GUARANTEE: "queues within their fair share give what the job's queue is guaranteed",
}

_COVERED = "their queues' mins or fair shares cover them, and would cover less by the job"
_TRIES = 4
"""Searches of one kind, each without what the one before should have let stay."""


@dataclass(frozen=True)
class Reclaim:
    """What to evict. `feasible` and no pods: it fits as it is. Not feasible: nothing is to be evicted, `reason` says why.

    `lost` in card-seconds. `stage`: the harshest rule that was needed (`entitled`). `kept` counts the pods that may not
    go, by why. `by_amounts`: what floors and shares cover falls for some priority, and amounts alone decided (`covered`).
    """

    feasible: bool
    pods: tuple[Running, ...] = ()
    reason: str = ""
    lost: float = 0.0
    stage: int = 0
    kept: Mapping[str, int] = field(default_factory=dict)
    by_amounts: bool = False

    def freed(self) -> dict[str, dict[str, int]]:
        """Amounts by node."""
        result: dict[str, dict[str, int]] = {}
        for pod in self.pods:
            add(result.setdefault(pod.node, {}), pod.amounts)
        return result


def reclaim(  # noqa: PLR0917 - what a decision needs, once per decision
    ask: Ask,
    books: Books,
    shares: Shares,
    pods: Iterable[Running],
    room: Room,
    now: float,
    *,
    gangs: Mapping[str, Gang] = {},
    budgets: Mapping[str, int] = {},
    totals: Amounts = NOTHING,
) -> Reclaim:
    """Victims for a job, or why there are none. `books` count all pods given here, leaving ones included; nothing given is
    changed.

    `gangs` by the pods' gang (one that is missing goes only whole); `budgets`: disruptions each PodDisruptionBudget allows now.
    `room` must already count as free what leaving pods hold. The room is left as it was found.
    """
    running = list(pods)
    draft = books.copy()
    for pod in running:
        if pod.leaving and pod.queue:
            draft.book(pod.queue, pod.amounts, -1, preemptible=pod.preemptible)
    trial = Trial(ask, draft, room, Entitlement(ask, draft, shares), budgets=budgets, totals=totals)
    hopeless = next((s for s in trial.verdict().shorts if s.hopeless), None)
    if hopeless or trial.verdict().closed:
        return Reclaim(False, reason=trial.verdict().sentence())
    if trial.fits():
        return Reclaim(True, reason=f'"{ask.name}" fits without evicting anything')
    candidates, kept = _movable(units(running, gangs, now), draft, now)
    cover = Cover(books.tree, shares)
    found: list[Reclaim] = []
    spare: list[Reclaim] = []  # what counts by amounts alone
    far: list[_Progress] = []
    for search in (by_excess, by_work, by_strain):
        left: Sequence[Unit] = candidates
        for _ in range(_TRIES):
            search(trial, left)
            taken = len(trial.steps)
            stays: list[Unit] = []
            if not trial.feasible():
                far.append(_progress(trial, candidates))
            else:
                prune(trial)
                stays = _owed(trial)
                if not stays:
                    stays, by_amounts = _weighed(trial, cover, running, gangs)
                    kept[_COVERED] = max(kept[_COVERED], sum(len(unit.pods) for unit in stays))
                    if not stays:
                        found.append(_found(trial, now))
                    elif by_amounts:
                        spare.append(replace(_found(trial, now), by_amounts=True))
            done = bool(found) and (taken == len(trial.steps) or not room.quick)  # nothing was scattered, or asking costs
            trial.roll_back(0)
            if not stays:
                break
            left = _without(left, stays)
        else:
            far.append(_progress(trial, candidates))
        if done:
            break
    if found := found or spare:
        return min(found, key=lambda r: (r.stage, r.lost, len(r.pods)))
    return _in_vain(trial, max(far, key=lambda p: p.fitting), kept)


def _movable(all_units: Iterable[Unit], books: Books, now: float) -> tuple[list[Unit], Counter[str]]:
    """Units that nothing but the order and the shares can keep; and how many pods are kept by what."""
    candidates: list[Unit] = []
    kept: Counter[str] = Counter()
    for unit in all_units:
        least = books.tree.min_runtime(unit.queue) if unit.queue else 0.0
        if any(not p.preemptible for p in unit.pods):
            why = "not preemptible"
        elif any(len(p.budgets) > 1 for p in unit.pods):
            why = "under two disruption budgets, which the eviction API refuses"
        elif now - unit.began < least:
            why = f"have run less than their queue's minimum runtime of {least:.0f} s"
        else:
            candidates.append(unit)
            continue
        if unit.whole:
            kept[why] += len(unit.pods)
    return candidates, kept


def _owed(trial: Trial) -> list[Unit]:
    """What has been taken and should stay: with it back its queue would be within its share, and would be owed it at once."""
    whole = {step.unit.gang for step in trial.steps if step.unit.whole}
    groups: dict[str, list[Step]] = {}
    for step in trial.steps:
        groups.setdefault(step.unit.gang if step.unit.gang in whole else step.pods[0].uid, []).append(step)
    dearest = sorted(
        groups.values(), key=lambda g: (-max(s.unit.priority for s in g), -sum(s.unit.lost for s in g), g[0].unit.gang)
    )
    gone = []
    for group in dearest:
        lost: dict[str, dict[str, int]] = {}
        for pod in (p for step in group for p in step.pods):
            add(lost.setdefault(pod.queue, {}), pod.amounts)
        gone.append((lost, max(step.stage for step in group)))
    return [step.unit for i in trial.entitlement.owed(gone, trial.books) for step in dearest[i]]


def _weighed(trial: Trial, cover: Cover, running: Sequence[Running], gangs: Mapping[str, Gang]) -> tuple[list[Unit], bool]:
    """What has been taken and should stay: floors and shares would cover no more by the job than they cover of what goes. And
    whether it may go all the same: amounts say so, and nobody goes for a higher priority of the same queue. Without this a queue
    could not take its min back where what others have beyond theirs has higher priorities."""
    gone = [p for step in trial.steps for p in step.pods]
    found = weigh(cover, running, gangs, trial.ask, gone)
    others = all(step.stage != PRIORITY for step in trial.steps)
    return [step.unit for step in trial.steps if found.stay & {p.uid for p in step.pods}], others and found.by_amounts


def _without(candidates: Sequence[Unit], owed: Iterable[Unit]) -> list[Unit]:
    gangs = {u.gang for u in owed if u.whole}
    alone = {u.pods[0].uid for u in owed if not u.whole}
    return [u for u in candidates if u.gang not in gangs and (u.whole or u.pods[0].uid not in alone)]


def _found(trial: Trial, now: float) -> Reclaim:
    pods = tuple(p for step in trial.steps for p in step.pods)
    lost = sum(p.lost(now) for p in pods)
    stage = max(step.stage for step in trial.steps)
    return Reclaim(True, pods, _done(trial, pods, lost, stage), lost, stage)


def _done(trial: Trial, pods: Sequence[Running], lost: float, stage: int) -> str:
    whole = {step.unit.gang for step in trial.steps if step.unit.whole}
    alone = sum(len(step.pods) for step in trial.steps if not step.unit.whole and step.unit.gang not in whole)
    freed: dict[str, int] = {}
    for pod in pods:
        add(freed, pod.amounts)
    above = f", and {alone} that their gangs have above the minimum" if alone else ""
    return (
        f'evicting {len(pods)} pods ({len(whole)} whole jobs{above}) lets "{trial.ask.name}" start: frees {show_all(freed)}, '
        f"loses {lost / 3600:.1f} card-hours of work; {_STAGES[stage]}"
    )


@dataclass(frozen=True)
class _Progress:
    """How far a search got that did not get there."""

    fitting: int
    gone: int
    verdict: Verdict
    stay: Counter[str]


def _progress(trial: Trial, candidates: Sequence[Unit]) -> _Progress:
    gone = sum(len(step.pods) for step in trial.steps)
    return _Progress(trial.room.fitting(), gone, trial.verdict(), trial.stay(candidates))


def _in_vain(trial: Trial, far: _Progress, kept: Counter[str]) -> Reclaim:
    """Nothing helps: how far it would get, and what stays."""
    before, wanted, name = trial.room.fitting(), trial.room.wanted, trial.ask.name
    stay = kept + far.stay
    if far.gone:
        text = f'evicting the {far.gone} pods that may go lets {far.fitting} of {wanted} pods of "{name}" fit, {before} without'
    else:
        text = f'no pod may go for "{name}", and {before} of its {wanted} pods fit'
    bounds = replace(
        far.verdict, shorts=tuple(s for s in far.verdict.shorts if s.rule != "cluster")
    )  # that nothing is free is known
    parts = [text, "" if bounds.admitted else bounds.sentence(), trial.entitlement.why_not(trial.books)]
    parts += [f"{n} pods stay: {why}" for why, n in sorted(stay.items())]
    return Reclaim(False, reason="; ".join(p for p in parts if p), kept=dict(stay))
