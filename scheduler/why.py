"""Why a gang waits: what keeps it from which nodes, the nearest plan and its price, when it should start, and what to free.

Reads a snapshot, as the dispatcher does, and decides nothing. Everything it says is computed with the functions that decide.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import numpy as np

from forebay.scheduler.dispatcher import Dispatcher
from forebay.scheduler.explain import failed_constraints
from forebay.scheduler.locality import prefetch
from forebay.scheduler.locality.placing import Choice
from forebay.scheduler.locality.waiting import PASSES, Entry
from forebay.scheduler.locality.warmth import Warmth
from forebay.scheduler.snapshot import Snapshot, restore


class Nearest(msgspec.Struct, frozen=True):
    """The cheapest plan that fits now: pods by node, and seconds that it would lose by its data and by what it breaks."""

    nodes: dict[str, int]
    data_seconds: float
    seconds: float


class Free(msgspec.Struct, frozen=True):
    """What would have to end for the gang to fit on one node, or, if it is larger than that, anywhere."""

    node: str
    slots: int
    gangs: list[str]


class Why(msgspec.Struct, frozen=True):
    """`state` is running, waiting or unknown; `reason` one sentence. `eta_seconds` is None where nobody can tell."""

    gang: str
    state: str
    reason: str
    pods: int = 0
    dataset: str = ""
    waited_seconds: float = 0.0
    position: int = 0
    passed_pods: int = 0
    passed_bound: int = 0
    failed: dict[str, int] = {}
    """Constraint -> nodes that fail it; a node counts for each it fails."""
    nodes_with_data: int = 0
    nearest: Nearest | None = None
    eta_seconds: float | None = None
    free: Free | None = None
    nodes: dict[str, int] = {}
    """Of a running gang: pods by node."""


@dataclass(frozen=True, slots=True)
class View:
    """A gang that waits, and all that is known around it."""

    dispatcher: Dispatcher
    warmth: Warmth
    now: float
    entry: Entry
    position: int


def why(snapshot: Snapshot, gang: str) -> Why:
    """The answer for a gang by name, as of the snapshot."""
    dispatcher, warmth = restore(snapshot)
    dispatcher.refresh(snapshot.now, warmth)
    if gang in dispatcher.running:
        return _running(dispatcher, gang)
    for position, entry in enumerate(dispatcher.waiting, 1):
        if entry.ask.gang.name == gang:
            return _waiting(View(dispatcher, warmth, snapshot.now, entry, position))
    return Why(gang, "unknown", f'no gang "{gang}" runs or waits here: it ended, was never submitted, or has another name')


def _running(dispatcher: Dispatcher, gang: str) -> Why:
    one = dispatcher.running[gang]
    nodes = dict[str, int]()
    for place in one.plan.placements:
        nodes[place.node] = nodes.get(place.node, 0) + 1
    reason = f"it runs on {', '.join(f'{name} ({count})' for name, count in nodes.items())}"
    return Why(gang, "running", reason, len(one.plan.placements), one.ask.dataset, nodes=nodes)


def _waiting(view: View) -> Why:
    dispatcher, entry = view.dispatcher, view.entry
    choice = dispatcher.cheapest(entry, view.now, view.warmth)
    nearest = None if choice is None else _nearest(view, choice)
    reason, eta = _reason(view, choice)
    worst = max(entry.kind[2], key=lambda request: (request.cards * request.milli, request.resources))
    failed = failed_constraints(dispatcher.state, worst)
    free = dispatcher.free(entry.kind)
    if entry.pods > 1 and (short := int((free < entry.pods).sum())):
        failed[f"room for all {entry.pods} pods"] = short
    warm = dispatcher.holders(entry.column)
    if entry.column >= 0 and (cold := int((~warm).sum())):
        failed[f"{prefetch.WARM:.0%} of {entry.ask.dataset}"] = cold
    return Why(
        entry.ask.gang.name,
        "waiting",
        reason,
        entry.pods,
        entry.ask.dataset,
        view.now - entry.ask.since,
        view.position,
        dispatcher.waiting.passed(entry),
        int(PASSES * dispatcher.empty(entry.kind).sum()),
        dict(sorted(failed.items(), key=lambda one: (-one[1], one[0]))),
        int(warm.sum()),
        nearest,
        eta,
        _to_free(view),
    )


def _nearest(view: View, choice: Choice) -> Nearest:
    names = view.dispatcher.state.names
    nodes = {names[row]: count for row, count in zip(choice.rows, choice.counts, strict=True)}
    return Nearest(nodes, choice.data_seconds, choice.seconds)


def _reason(view: View, choice: Choice | None) -> tuple[str, float | None]:
    """One sentence, and the seconds until it should start."""
    dispatcher, entry = view.dispatcher, view.entry
    total, free = int(dispatcher.empty(entry.kind).sum()), int(dispatcher.free(entry.kind).sum())
    if total < entry.pods:
        return (
            f"it needs {entry.pods} places at once and the empty cluster has {total}: add nodes, or make the gang smaller",
            None,
        )
    if choice is None:
        return f"it needs {entry.pods} places at once, {free} are free", None
    waited = view.now - entry.ask.since
    if dispatcher.turn_comes(entry, view.now, view.warmth):
        line = dispatcher.line(view.warmth)
        return f"only the store has {entry.ask.dataset}, and others' data is loaded first: its turn comes in {line:.0f} s", line
    left = choice.seconds - waited
    if left < 1 or (len(choice.rows) == 1 and dispatcher.holders(entry.column)[choice.rows[0]]):
        return "it fits now and starts with the next pass", 0.0
    price = f"{choice.data_seconds:.0f} s until its data is there"
    if (broken := choice.seconds - choice.data_seconds) >= 1:
        price += f" and {broken:.0f} s for breaking up free nodes"
    return f"{free} places are free, but starting there costs {price}; it waits as long for better ones", left


def _to_free(view: View) -> Free | None:
    """The fewest slots whose end lets the gang start on one node; on a node that holds its data, if that costs no more."""
    dispatcher, entry = view.dispatcher, view.entry
    free, empty = dispatcher.free(entry.kind), dispatcher.empty(entry.kind)
    able = np.flatnonzero(empty >= entry.pods)
    if not len(able):
        short = entry.pods - int(free.sum())
        return Free("", short, []) if short > 0 and int(empty.sum()) >= entry.pods else None
    near = dispatcher.holders(entry.column)[able]
    order = np.lexsort((able, ~near, np.maximum(entry.pods - free[able], 0)))
    row = int(able[order[0]])
    short = entry.pods - int(free[row])
    if short <= 0:
        return None
    name = dispatcher.state.names[row]
    there = [gang for gang, one in dispatcher.running.items() if any(place.node == name for place in one.plan.placements)]
    return Free(name, short, there)


def sentences(why: Why) -> list[str]:
    """The answer for a person, the reason first."""
    lines = [f"{why.gang}: {why.reason}"]
    if why.state != "waiting":
        return lines
    data = f", data {why.dataset} on {why.nodes_with_data} nodes" if why.dataset else ""
    lines.append(f"  {why.pods} pods{data}; number {why.position} in the queue, waiting for {why.waited_seconds:.0f} s")
    if why.failed:
        lines.append("  nodes that lack " + ", ".join(f"{name}: {count}" for name, count in why.failed.items()))
    if why.nearest is not None:
        where = ", ".join(f"{node} ({count})" for node, count in why.nearest.nodes.items())
        lines.append(f"  nearest plan: {where}; {why.nearest.data_seconds:.0f} s until the data is near")
    if why.free is not None:
        where = f"on {why.free.node}" if why.free.node else "anywhere"
        gangs = f", held by {', '.join(why.free.gangs)}" if why.free.gangs else ""
        lines.append(f"  to start sooner, free {why.free.slots} places {where}{gangs}")
    when = "nobody can tell" if why.eta_seconds is None else f"in {why.eta_seconds:.0f} s, unless its data comes near before"
    lines.append(f"  expected start: {when}; passed by {why.passed_pods} younger pods of at most {why.passed_bound}")
    return lines
