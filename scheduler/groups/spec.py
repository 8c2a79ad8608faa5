"""One description of a gang, whoever it came from; and which pods count towards its minimums."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from forebay.api.kubernetes.core import Pod
from forebay.scheduler.groups.said import Policy, Reference

SUCCEEDED, FAILED = "Succeeded", "Failed"


@dataclass(frozen=True)
class Part:
    """A gang of its own, or one of several that start only together. `minimum` of all its pods, `group_minimum` by sub-group."""

    key: str
    name: str
    source: str
    minimum: int
    group_minimum: Mapping[str, int] = field(default_factory=dict)
    policy: Policy = "once-satisfied"
    satisfied: bool = False
    about: Reference | None = None


@dataclass(frozen=True)
class Spec:
    """What is decided at once. `timeout` seconds after which an incomplete gang is worth a word, 0 where nobody set one.

    `priority`: of the description, else the highest of the pods. `together`: no pod of it goes for others without the rest.
    """

    gang: str
    parts: tuple[Part, ...]
    timeout: float = 0.0
    priority: int = 0
    priority_class: str = ""
    queue: str = ""
    together: bool = False

    @property
    def minimum(self) -> int:
        return sum(part.minimum for part in self.parts)


@dataclass(frozen=True)
class Need:
    """What the pods that wait still have to reach, of all and by sub-group; `short` is the sentence where they are too few."""

    minimum: int
    group_minimum: Mapping[str, int] = field(default_factory=dict)
    short: str = ""


def need(part: Part, waiting: Sequence[str], bound: Sequence[tuple[str, Pod]], ran: bool) -> Need:
    """By the part's policy. `waiting` and `bound`: sub-groups of its pods; `ran`: it is known to have run before.

    Of the pods that have a node, those that leave count for nobody, and ended ones for `waiting-running-succeed` only. A gang
    that has reached its minimum once asks for nothing any more under `once-satisfied`, as long as one of its pods has a node.
    """
    if part.policy == "once-satisfied" and bound and (ran or part.satisfied):
        return Need(0)
    counted = Counter(group for group, pod in bound if _counts(part.policy, pod))
    groups = {name: max(least - counted[name], 0) for name, least in part.group_minimum.items()}
    minimum = max(part.minimum - counted.total(), sum(groups.values()), 0)
    there = Counter(waiting)
    for name, least in groups.items():
        if there[name] < least:
            whole = f'task "{name}" of {part.source}'
            return Need(minimum, groups, _short(whole, part, there[name] + counted[name], part.group_minimum[name], bound))
    if there.total() < minimum:
        return Need(minimum, groups, _short(part.source, part, there.total() + counted.total(), part.minimum, bound))
    return Need(minimum, {name: least for name, least in groups.items() if least})


def reached(part: Part, bound: Iterable[Pod]) -> bool:
    """Whether as many pods as it needs have had a node."""
    return sum(1 for _ in bound) >= part.minimum


def _counts(policy: Policy, pod: Pod) -> bool:
    if policy == "only-waiting" or pod.status.phase == FAILED:
        return False
    if pod.status.phase == SUCCEEDED:
        return policy == "waiting-running-succeed"
    return pod.metadata.deletion_timestamp is None


def _short(whole: str, part: Part, there: int, least: int, bound: Sequence[tuple[str, Pod]]) -> str:
    told = f"{whole}: {there} of {least} pods exist"
    if part.policy == "only-waiting" and bound:
        return (
            f"{told} without a node ({part.policy}), {len(bound)} have one; delete those to start all anew, or lower the minimum"
        )
    return f"{told}; create {least - there} more, or lower the minimum"
