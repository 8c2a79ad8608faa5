"""Running pods as reclaim sees them, and what can be evicted together: a gang is whole, or at least its minimum, or gone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from forebay.scheduler.quota.amounts import Amounts


@dataclass(frozen=True)
class Running:
    """One bound pod. Times in seconds of one clock.

    `started`: the minimum runtime counts from here. `saved`: from here on its work would be lost (its last checkpoint;
    `started` if nobody says). `cards`: accelerators it holds, a fraction for a shared one. `budgets`: PodDisruptionBudgets that
    select it. `leaving`: it is being deleted; its room comes back by itself and it is no victim.
    """

    uid: str
    queue: str
    node: str
    amounts: Amounts = field(default_factory=dict)
    gang: str = ""
    priority: int = 0
    started: float = 0.0
    saved: float | None = None
    cards: float = 0.0
    preemptible: bool = True
    leaving: bool = False
    core: bool = False
    budgets: tuple[str, ...] = ()

    def lost(self, now: float) -> float:
        """Card-seconds of work that an eviction throws away. Without cards, seconds weigh as those of a thousandth of a card."""
        since = self.started if self.saved is None else max(self.started, self.saved)
        return max(0.0, now - since) * (self.cards or 0.001)


@dataclass(frozen=True)
class Gang:
    """`minimum` members must run, or none. `single=False`: its pods go only together (disruption mode all)."""

    minimum: int = 1
    single: bool = True


@dataclass(frozen=True)
class Unit:
    """Pods that go together: one member above the minimum, or all that is left of a gang.

    `pods` of a whole gang are all its members; those that were already taken one by one are no longer there to go. `began`: when
    what would be stopped came to be, a pod's own start, or the moment at which the gang had its minimum. `above`: how many
    members may go alone, in all.
    """

    gang: str
    queue: str
    pods: tuple[Running, ...]
    whole: bool
    priority: int
    lost: float
    began: float
    above: int


def groups(pods: Iterable[Running]) -> list[tuple[str, list[Running]]]:
    """Gangs by name and pods of no gang by a name of their own, each the oldest pod first, without what is being deleted."""
    members: dict[str, list[Running]] = {}
    for pod in pods:
        if not pod.leaving:
            members.setdefault(pod.gang or f"pod {pod.uid}", []).append(pod)
    for group in members.values():
        group.sort(key=lambda p: (p.started, p.uid))
    return list(members.items())


def units(pods: Iterable[Running], gangs: Mapping[str, Gang], now: float) -> list[Unit]:
    """What may be evicted, gang by gang: members one by one, as long as the minimum stays; and the whole gang.

    A pod without a gang is a whole one. A gang whose members are in several queues goes only together.
    """
    result: list[Unit] = []
    for name, group in groups(pods):
        gang = gangs.get(name, Gang(minimum=len(group)))
        minimum = max(gang.minimum, 1)
        queue, priority = group[0].queue, max(p.priority for p in group)
        above = max(0, len(group) - minimum) if gang.single and all(p.queue == queue for p in group) else 0
        result += [Unit(name, queue, (p,), False, priority, p.lost(now), p.started, above) for p in group if above and not p.core]
        began = group[min(len(group), minimum) - 1].started
        result.append(Unit(name, queue, tuple(group), True, priority, sum(p.lost(now) for p in group), began, above))
    return result
