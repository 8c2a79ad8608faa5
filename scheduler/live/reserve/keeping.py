"""What is kept for jobs that cannot start yet: nodes (`holding`), queues (`queueholding`), gangs' own patience (`timeouts`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from forebay.api.kubernetes.core import Pod
from forebay.scheduler.arrays.holds import shut_by
from forebay.scheduler.gang import Gang
from forebay.scheduler.groups import Groups
from forebay.scheduler.live.books import Books
from forebay.scheduler.live.instructions import Instruction
from forebay.scheduler.live.nearness import Nearness
from forebay.scheduler.live.ordering import verdict
from forebay.scheduler.live.reserve.ends import Ends
from forebay.scheduler.live.reserve.holding import Holding
from forebay.scheduler.live.reserve.prefetching import Prefetching
from forebay.scheduler.live.reserve.queues import QueueHolding
from forebay.scheduler.live.reserve.timeouts import Timeouts
from forebay.scheduler.live.waiting import Job, Queue
from forebay.scheduler.planner import Planner


class Keeping:
    """Asked by the core around each attempt. `pod_of` gives a booked pod; times are seconds of the epoch."""

    def __init__(  # noqa: PLR0917 - what it works on
        self,
        books: Books,
        planner: Planner,
        queue: Queue,
        groups: Groups,
        nearness: Nearness,
        pod_of: Callable[[str], Pod | None],
    ) -> None:
        self._books, self._nearness = books, nearness
        self.ends = Ends()
        self.nodes = Holding(books, planner, queue, pod_of, self.ends)
        self.queues = QueueHolding(books, queue, pod_of, self.ends)
        self.timeouts = Timeouts(groups, queue)
        self.prefetching = Prefetching(books, nearness, queue)
        self._behind: dict[str, str] = {}

    def configure(self, planner: Planner, *, wanted: bool) -> None:
        """Settings, or the policy, were read anew."""
        self.nodes.planner = planner
        self.nodes.wanted = self.queues.wanted = wanted

    def begin(self, now: float, pods: Mapping[str, Pod]) -> None:
        """Before the jobs of a pass. `pods`: those that wait."""
        self.nodes.begin()
        self.queues.begin()
        self.prefetching.begin(now, pods)
        self._behind.clear()

    def trying(self, job: Job, pods: Sequence[Pod], now: float) -> None:
        """Before one of them is tried."""
        self._nearness.awaiting.trying(job.gang or job.key)
        self.nodes.trying(job, pods, now)

    def end(self, now: float, pods: dict[str, Pod]) -> list[Instruction]:
        """After them: what is said of gangs that waited too long, and asked of nodes. `pods`: those that wait."""
        self.nodes.end(now)
        return [*self.timeouts.over(now, pods), *self.prefetching.look(now, pods, self.nodes.holders.values())]

    def behind(self, job: Job, pods: Sequence[Pod], now: float) -> str:
        """Why quotas' order keeps it back although its queue admits it, "" if it does not."""
        told = self.queues.behind(job, pods, now)
        if told:
            self._behind[job.key] = next(one.who for one in self.queues.holders.values() if one.who in told)
        return told

    def behind_whom(self, job: Job) -> str:
        """Who is held places that the job may not take, "" for nobody: as the last pass found."""
        return self._behind.get(job.key, "")

    def failed(self, job: Job, pods: Sequence[Pod], lacking: Gang | None, now: float, *, refused: bool, making: bool) -> str:
        """It could not start. What is to be said of its place, "" for nothing.

        `lacking`: what it found no room for, None where it waits for something else; `refused`: by its quota; `making`: pods are
        being deleted for it, and its place is nominated.
        """
        self.timeouts.waits(job, pods)
        if lacking is not None and not refused:
            requests = {member.request for member in lacking.members}
            for kept in self._books.cluster.holds.standing:
                if any(len(shut_by(kept, self._books.cluster, one)) for one in requests):
                    self._behind.setdefault(job.key, kept.who)
        found = verdict(self._books, job, pods) if refused and not making and lacking is not None else None
        if found is None:
            self.queues.waive(job)
        else:
            self.queues.refused(job, pods, found, now)
        if lacking is None or refused or making:
            awaited = self._nearness.awaiting.of.get(job.gang or job.key)
            if awaited is None or awaited.what != "room" or not self.nodes.held(job, awaited.names):
                self.nodes.waive(job)  # else it waits for the very room that is held for it
            return ""
        return self.nodes.lacking(job, lacking, pods, now)
