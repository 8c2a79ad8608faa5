"""Gangs that are bound in part: what could not be undone by calling back is told after a while, and perhaps deleted."""

from __future__ import annotations

from collections.abc import Sequence

from forebay.api.kubernetes.core import Pod
from forebay.scheduler.arrays.cluster import ENDED
from forebay.scheduler.live.config import Gangs
from forebay.scheduler.live.instructions import Delete, Instruction, Report
from forebay.scheduler.live.intentions import Late
from forebay.scheduler.live.saying import named

Reference = tuple[str, str, str, str, str]


class Partials:
    """By gang: since when members are bound and the rest, which is needed, finds no place. Observed anew after a restart."""

    def __init__(self) -> None:
        self.count = 0
        self._since: dict[str, float] = {}
        self._reported: set[str] = set()

    def stuck(  # noqa: PLR0917 - one event
        self, gang: str, there: Sequence[Pod], reason: str, regarding: Reference | None, now: float, settings: Gangs
    ) -> list[Instruction]:
        """The gang was tried and stays partial. `there`: its members that are bound and live."""
        since = self._since.setdefault(gang, now)
        if now - since < settings.repair_seconds or gang in self._reported:
            return []
        self._reported.add(gang)
        self.count += 1
        delete = settings.partial == "Delete"
        what = f"{len(there)} pods of gang {gang} are bound and the others found no place for {now - since:.0f} s: {reason}"
        remedy = "the bound ones are deleted, so that all start anew" if delete else "free room, or delete the bound ones"
        said = list[Instruction]()
        if regarding is not None:
            said.append(Report(*regarding, "PartialGang", f"{what}; {remedy}"))
        for pod in there:
            if delete:
                said.append(Delete(named(pod), "PartialGang", f"{what}; {remedy}"))
            else:
                said.append(Report("v1", "Pod", *named(pod), "PartialGang", f"{what}; {remedy}"))
        return said

    def untold(self, gang: str) -> bool:
        """It is partial, and has not been long enough to say so."""
        return gang in self._since and gang not in self._reported

    def whole(self, gang: str) -> None:
        """It has what it needs, or nothing of it is left."""
        self._since.pop(gang, None)
        self._reported.discard(gang)


def told_late(late: Late, regarding: Reference | None, settings: Gangs) -> list[Instruction]:
    """Of pods that were let through our gate and not bound by their scheduler in time."""
    said = [] if regarding is None else list[Instruction]([Report(*regarding, "PartialGang", late.sentence)])
    for pod in late.pods:
        if settings.partial == "Delete":
            said.append(Delete(pod, "PartialGang", late.sentence))
        else:
            said.append(Report("v1", "Pod", *pod, "PartialGang", late.sentence))
    return said


def alive(pod: Pod) -> bool:
    """Whether it still counts."""
    return pod.status.phase not in ENDED and not pod.metadata.deletion_timestamp
