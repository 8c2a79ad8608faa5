"""How many workers the StatefulSet should have now: at once upwards; downwards only past workers that have handed out.

A StatefulSet takes its highest ordinal first, so one worker at a time leaves from the top. Bytes that no other worker takes,
or that take longer than the bound, come from the stores again: scaling in never waits for ever.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from forebay.runtimes.engine import Drain, Finding, WorkerFacts
from forebay.runtimes.forebay.pods import Pod


class Step(msgspec.Struct, frozen=True):
    replicas: int
    drain: tuple[Drain, ...] = ()
    findings: tuple[Finding, ...] = ()


def scale(desired: int, current: int | None, name: str, pods: Sequence[Pod], facts: Mapping[str, WorkerFacts]) -> Step:
    """`current`: replicas of the StatefulSet `name`, None without one."""
    if current is None or desired >= current:
        return Step(desired)
    if desired == 0:  # there is nobody to hand out to
        return Step(0)
    by_name = {pod.name: pod for pod in pods}
    replicas, findings = current, []
    while replicas > desired:
        pod = by_name.get(f"{name}-{replicas - 1}")
        if pod is None or not pod.serves:
            replicas -= 1  # it hands out nothing
            continue
        fact = facts.get(pod.name, WorkerFacts())
        if fact.drain == "Done":
            replicas -= 1
        elif fact.drain == "Refused" or fact.overdue:
            why = "took longer than its bound" if fact.overdue else "found no worker that takes all of it"
            text = f"worker {pod.name} is taken away although its drain {why}; what is lost comes from the stores again"
            findings.append(Finding("warning", "DrainIncomplete", text))
            replicas -= 1
        else:
            return Step(replicas, (Drain(pod.name),), tuple(findings))
    return Step(replicas, (), tuple(findings))


def idle(replicas: int, name: str, pods: Sequence[Pod], facts: Mapping[str, WorkerFacts]) -> tuple[Pod, ...]:
    """Workers that were drained and are wanted after all, such as when scaling in was taken back: a new start joins again."""
    kept = {f"{name}-{i}" for i in range(replicas)}
    return tuple(p for p in pods if p.name in kept and facts.get(p.name, WorkerFacts()).drain == "Done")
