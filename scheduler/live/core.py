"""What is decided, and nothing else: changes and outcomes come in, instructions go out. One thread; no clock, no call.

    core.apply(kind, old, new)            # as the copies say
    core.outcome(result, now)             # of what was instructed
    for instruction in core.decide(now): ...

Invariants:
- a pod of ours is waiting (`pods`, and in the queue), in flight (`flights`, and assumed in the books), or bound, never two;
- a gang's members go in flight in one decision that the planner made as one; when one of them fails, those not yet sent are
  called back, and what is left waits again with its gang;
- whatever leaves flight without being bound gives back all that it was booked.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from forebay.api.kubernetes.core import Pod
from forebay.scheduler.arrays.cluster import ENDED
from forebay.scheduler.arrays.storage import NOWHERE
from forebay.scheduler.gang import Gang, Member
from forebay.scheduler.gang import plan as plan_gang
from forebay.scheduler.groups import Groups
from forebay.scheduler.groups.size import too_large
from forebay.scheduler.groups.status import Reason
from forebay.scheduler.live.books import Books, created
from forebay.scheduler.live.config import Configuration
from forebay.scheduler.live.counts import Counts
from forebay.scheduler.live.flights import Flight, Flights
from forebay.scheduler.live.instructions import Bind, Cancel, Instruction, Outcome
from forebay.scheduler.live.intentions import Intention, Opened, asks, gated, to_place
from forebay.scheduler.live.intentions import read as read_intention
from forebay.scheduler.live.members import Members
from forebay.scheduler.live.nearness import HINTS, Later, Nearness
from forebay.scheduler.live.ordering import order, refusal, waiting
from forebay.scheduler.live.partial import Partials, alive, told_late
from forebay.scheduler.live.preempting import Preemption
from forebay.scheduler.live.reserve.keeping import Keeping
from forebay.scheduler.live.saying import Sayings, named, quota_changed
from forebay.scheduler.live.statuses import Statuses, full_name
from forebay.scheduler.live.tenants import Unplaceable
from forebay.scheduler.live.waiting import Job, Queue
from forebay.scheduler.plan import Placement, Plan
from forebay.scheduler.planner import Planner
from forebay.scheduler.pods.request import Request
from forebay.scheduler.policies import Setting, make

LOG = logging.getLogger(__name__)

LOOK_AGAIN = 5.0
"""Seconds after which a gang that waits for its data, or room there, is tried again, whatever its back-off says."""
SWEEP = 300.0
"""Seconds between two looks for classes of pods that nobody has any more."""


class Core:
    """See the module. `time_ns`: for the annotations that carry when something was assumed."""

    def __init__(self, settings: Configuration, groups: Groups, time_ns: Callable[[], int]) -> None:
        self.settings, self.groups, self._time_ns = settings, groups, time_ns
        self.books = Books(settings.devices, settings.patience_seconds)
        self.planner = Planner(self.books.cluster, make(settings.policy, Setting()))
        self.queue = Queue(settings.backoff.first_seconds, settings.backoff.longest_seconds, settings.flush_seconds)
        self.nearness = Nearness(self.books.cluster, settings.locality)
        self.pods: dict[str, Pod] = {}
        self.flights, self.partials, self.opened = Flights(), Partials(), Opened()
        self.sayings = Sayings(self.books.cluster)
        self.statuses = Statuses(groups)
        self.preemption = Preemption(self.books, groups, self.planner)
        self.keeping = Keeping(self.books, self.planner, self.queue, groups, self.nearness, self._booked)
        self._lacking: Gang | None = None  # what the job that is being tried found no room for
        self._refused = False  # whether quotas did not let it start
        self.counts = Counts()
        self.configure(settings)
        self._job_of: dict[str, str] = {}
        self._members = Members()
        self._failures: dict[str, int] = {}
        self._pending: list[Instruction] = []
        self._attempts, self._swept_at = 0, 0.0
        self._look_again: dict[str, float] = {}  # job -> seconds after which it is to be tried though nothing changed

    def configure(self, settings: Configuration) -> None:
        """Settings were read anew. What counts from the start alone is left as it is."""
        old, self.settings = self.settings, settings
        self.nearness.configure(settings.locality, settings.preference_seconds)
        if old.policy != settings.policy:
            self.planner = Planner(self.books.cluster, make(settings.policy, Setting()))
            self.preemption.planner = self.planner
        self.planner.preference_seconds = settings.preference_seconds
        self.keeping.configure(self.planner, wanted=settings.reservations)
        self.queue.first, self.queue.longest = settings.backoff.first_seconds, settings.backoff.longest_seconds
        self.queue.flush = settings.flush_seconds
        self.books.quotas.patience = settings.patience_seconds
        self.books.configure(settings.devices, settings.filling)
        self.queue.stir()

    # --- what comes in ---

    def apply(self, kind: str, old: Any, new: Any) -> None:
        """One change of a copy: `old` None for what is new, `new` None for what is gone. `kind` as in `copies`."""
        if kind == "Pod":
            if old is not None and (new is None or new.metadata.uid != old.metadata.uid):
                self._gone(old)
            if new is not None:
                self._pod(old, new)
            self.nearness.see(old, new)
            return
        cluster = self.books.cluster
        before = cluster.tick, cluster.storage.version
        if kind == "Node":
            self._node(old, new)
        elif kind == "Quota":
            self._pending += quota_changed(self.books, old, new)
            self.queue.stir()
        elif kind.startswith("Group:"):
            self._group(kind.removeprefix("Group:"), old, new)
        elif kind == "PriorityClass":
            if self.groups.set_class((new or old).metadata.name, None if new is None else new.value):
                self._regroup("")
        elif kind == "Job":
            if self.keeping.ends.job(old, new):
                self.queue.stir()
        elif kind == "PodDisruptionBudget":
            self.preemption.budget(old, new)
        elif kind in HINTS:
            self.nearness.apply(kind, old, new, self._wall())
        elif node := self.books.other(kind, old, new):
            self._raced(node)
        if (cluster.tick, cluster.storage.version) != before or kind == "Namespace":
            self.queue.stir()

    def _node(self, old: Any, new: Any) -> None:
        name = (old if new is None else new).metadata.name
        if new is not None:
            self.books.node(new)
            self._raced(name)  # cards or amounts may be gone that were promised
            return
        for flight in self.flights.on(name):
            self._call_back(flight, f"node {name} is gone")
        self.books.node_gone(name)

    def _group(self, kind: str, old: Any, new: Any) -> None:
        namespace, name = full_name(old if new is None else new)
        news = self.groups.remove(kind, namespace, name) if new is None else self.groups.set(kind, new)
        self.statuses.object(kind, namespace, name, new)
        if news:  # not for a status alone
            self._regroup(namespace)

    def _regroup(self, namespace: str) -> None:
        """What is said of gangs changed, "" in all namespaces: pods may belong to another now, to none, or go earlier."""
        for uid, pod in list(self.pods.items()):
            if not namespace or pod.metadata.namespace == namespace:
                self._wait(uid, pod)
                if self.queue.jobs[self._job_of[uid]].gang:
                    self.queue.hurry(self._job_of[uid])

    # --- pods ---

    def _pod(self, old: Pod | None, pod: Pod) -> None:
        uid = pod.metadata.uid
        gang = member.gang if (member := self.groups.membership(pod)) is not None else ""
        if gang or pod.spec.scheduling_group is not None:
            self.statuses.pod(pod, ours=pod.spec.scheduler_name == self.settings.scheduler_name)
        if elsewhere := self.opened.see(pod):
            LOG.warning("%s", elsewhere)
        if pod.spec.node_name or pod.status.phase in ENDED:
            if gang and pod.spec.node_name:
                self._members.seen(gang, pod)
            self._has_node(pod, gang)
            return
        if pod.status.nominated_node_name or (old is not None and old.status.nominated_node_name):
            self.books.pod(pod)
        if not to_place(pod, self.settings):
            if pod.metadata.deletion_timestamp and (flight := self.flights.get(uid)) is not None:
                self._call_back(flight, "the pod is being deleted")
            self._withdraw(uid)
            self._let_go(pod, gang)
            return
        if (flight := self.flights.get(uid)) is not None:
            flight.pod = pod
            return
        if uid in self.books.cluster.pods:  # it was let through our gate and is ours to bind after all
            self.books.undo(uid)
        changed = old is None or uid not in self.pods or asks(old) != asks(pod)
        self._wait(uid, pod)
        if changed and old is not None:
            self.queue.hurry(self._job_of[uid])

    def _let_go(self, pod: Pod, gang: str) -> None:
        """An earlier run of ours has opened its gate and nobody has bound it yet: it counts where it was meant to go."""
        uid, intention = pod.metadata.uid, read_intention(pod)
        if intention is None or gated(pod) or pod.metadata.deletion_timestamp or uid in self.books.cluster.pods:
            return
        meant = msgspec.structs.replace(pod, spec=msgspec.structs.replace(pod.spec, node_name=intention.node))
        self.books.pod(meant, gang)
        self.opened.add(named(pod), intention)

    def _wait(self, uid: str, pod: Pod, *, hurry: bool = True) -> None:
        gang = member.gang if (member := self.groups.membership(pod)) is not None else ""
        key = f"gang {gang}" if gang else uid
        if self._job_of.get(uid, key) != key:
            self.queue.remove(self._job_of[uid], uid)
        self.pods[uid], self._job_of[uid] = pod, key
        self.queue.add(key, uid, created(pod), gang=gang, priority=self.groups.priority(pod), hurry=hurry)

    def _withdraw(self, uid: str) -> None:
        """It waits no more."""
        key = self._job_of.pop(uid, None)
        if key is not None:
            self.queue.remove(key, uid)
        self.pods.pop(uid, None)

    def _has_node(self, pod: Pod, gang: str) -> None:
        uid, node = pod.metadata.uid, pod.spec.node_name
        known = uid in self.books.cluster.pods
        flight = self.flights.get(uid)
        if flight is not None:
            self.flights.land(uid)
            if flight.node != node:
                self._pending.append(Cancel((flight.number,)))
        self._withdraw(uid)
        self.sayings.forget(uid)
        self._failures.pop(uid, None)
        self.books.pod(pod, gang)
        if pod.status.phase in ENDED:
            if known:
                self.queue.stir()
        elif not known:  # somebody else's: it may be in the way of what is in flight, or what another pod waits for
            self._raced(node)
            self.queue.stir_coupled()

    def _raced(self, node: str) -> None:
        """Another scheduler, or the kubelet, has put a pod there: the watch wins, flights that no longer fit are called back."""
        there = self.flights.on(node)
        leaving = [flight.pod.metadata.uid for flight in there if flight.called_back]
        for flight in reversed(there):
            uid = flight.pod.metadata.uid
            if not flight.bound_at and not flight.called_back and (why := self.books.lost(uid, leaving)):
                self.counts.races += 1
                leaving.append(uid)
                self._call_back(flight, why)

    def _gone(self, pod: Pod) -> None:
        uid = pod.metadata.uid
        flight = self.flights.get(uid)
        if flight is not None:
            self.flights.land(uid)
            self._pending.append(Cancel((flight.number,)))
        counted = uid in self.books.cluster.pods
        self._withdraw(uid)
        self.sayings.forget(uid)
        self._failures.pop(uid, None)
        self.books.gone(uid)
        self.opened.gone(uid)
        self.statuses.gone(uid)
        member = self.groups.membership(pod)
        if member is not None and self._members.gone(member.gang, uid):
            self.partials.whole(member.gang)
        if counted:
            self.queue.stir()

    # --- flights ---

    def _call_back(self, flight: Flight, why: str) -> None:
        """What was decided cannot be any more. If it is sent already, what came of it is what the watch says."""
        LOG.info("pod %s is called back from %s: %s", named(flight.pod), flight.node, why)
        flight.called_back = True
        self._pending.append(Cancel((flight.number,)))

    def outcome(self, outcome: Outcome, now: float) -> None:
        """What came of a Bind."""
        self.books.claims.landed(outcome.number)
        self.counts.outcomes[outcome.result] = self.counts.outcomes.get(outcome.result, 0) + 1
        flight = self.flights.get(outcome.uid)
        if flight is None or flight.number != outcome.number:
            return  # the watch was faster
        if outcome.result == "bound":
            flight.bound_at = now
            if gated(flight.pod):  # the rest is its own scheduler's; it counts where it was meant to go
                self.flights.land(outcome.uid)
                self.opened.add(named(flight.pod), Intention(flight.node, flight.gang, self._wall()))
            return
        self.flights.land(outcome.uid)
        self.books.undo(outcome.uid)
        self.queue.stir()
        if outcome.result == "gone":
            self._withdraw(outcome.uid)
        else:
            self._again(flight, outcome, now)
        if flight.gang and (rest := self.flights.call_back_rest(flight)) is not None:
            self._pending.append(rest)

    def _again(self, flight: Flight, outcome: Outcome, now: float) -> None:
        pod, uid = flight.pod, outcome.uid
        if not to_place(pod, self.settings):
            return
        self._wait(uid, pod, hurry=False)
        failures = self._failures[uid] = self._failures.get(uid, 0) + (outcome.result != "withheld")
        delay = min(self.queue.longest, self.queue.first * 2.0 ** min(failures - 1, 32)) if failures else 0.0
        job = self.queue.jobs[self._job_of[uid]]
        if now + delay > job.due_at:
            self.queue.later(job, now, delay)
        if outcome.result != "withheld":
            self.counts.attempts["error"] += 1
            what = f"binding it to node {flight.node} failed: {outcome.sentence}; it is tried again in {delay:.0f} s"
            self._pending += self.sayings.tell(pod, "SchedulerError", what)
            self.statuses.waits([pod], "SchedulerError", what)

    # --- the pass ---

    def decide(self, now: float) -> list[Instruction]:
        """One pass: a batch of jobs is tried, in the order of quotas, priorities and age. `now` monotonic."""
        self.books.sync()
        self.nearness.alive(self._wall())
        self.preemption.new_pass()
        self.keeping.begin(self._wall(), self.pods)
        for job in order(self.queue, self.books, self.pods, now, self._wall()):
            if job.key in self.queue.jobs:
                self._try(job, now)
        self._pending += self.keeping.end(self._wall(), self.pods)
        self._tell_late()
        self._pending += self.statuses.due(now, self._wall())
        if now - self._swept_at > SWEEP:
            self._sweep(now)
            for flight in self.flights.lost(now):
                self.outcome(Outcome(flight.number, flight.pod.metadata.uid, "failed", "no watch has shown it bound"), now)
        done, self._pending = self._pending, []
        return done

    def _tell_late(self) -> None:
        """Gangs whose gate was opened and which their scheduler did not bind in time."""
        for late in self.opened.late(self._wall(), self.settings.gangs.repair_seconds):
            self._pending += told_late(late, self.groups.regarding(late.gang), self.settings.gangs)

    def _try(self, job: Job, now: float) -> None:
        seen, self._lacking, self._refused = self.queue.stirs, None, False
        kind: Reason = "Unschedulable"
        pods = [self.pods[uid] for uid in job.pods]
        nominations = self.books.cluster.nominations
        held = {one.uid: one for pod in pods if (one := nominations.get(pod.metadata.uid)) is not None}
        places: Mapping[str, str] = {}
        try:
            self.keeping.trying(job, pods, self._wall())
            reason = self._place(job, pods, now)
            if self._lacking is not None and self.settings.preemption:
                reason, places = self._make_room(job, self._lacking, pods, reason)
            if reason:
                making = bool(places) or self.preemption.waits(job)
                told = self.keeping.failed(job, pods, self._lacking, self._wall(), refused=self._refused, making=making)
                reason = f"{reason}; {told}" if told else reason
        except Exception as wrong:  # a defect: it must not keep the other jobs from being tried
            LOG.exception("job %s: it could not be tried", job.key)
            self.counts.attempts["error"] += 1
            kind, reason = "SchedulerError", f"the scheduler failed on it: {wrong!r}; its log says more"
            self.books.sync()
        if not reason:
            return
        if not places and self.preemption.waits(job):
            for one in held.values():  # it keeps the place that is being made for it
                nominations.put(one, self.books.cluster.row_of.get(one.node, NOWHERE))
        self.counts.attempts["unschedulable"] += len(job.pods)
        self.queue.failed(job, now, reason, seen=seen)
        self._pending += self.books.claims.give_back(pods)
        if job.key in self._look_again:
            self.queue.later(job, now, self._look_again.pop(job.key))
        self.statuses.waits((self.pods[uid] for uid in job.pods), kind, reason)
        for uid in job.pods:
            given_up = "" if uid in held and nominations.get(uid) is None else None
            self._pending += self.sayings.tell(self.pods[uid], "Unschedulable", reason, places.get(uid, given_up))

    def _booked(self, uid: str) -> Pod | None:
        return self.books.bound.get(uid) or self.flights.pod(uid)

    def _make_room(self, job: Job, gang: Gang, pods: list[Pod], reason: str) -> tuple[str, Mapping[str, str]]:
        """The job found none: perhaps others yield. Reason, and where its pods go once they are gone."""
        if self.preemption.waits(job):
            return f"{reason}; it waits until the pods that make room for it are gone", {}
        if not self.preemption.may(job, pods):
            return reason, {}
        all_jobs = self.queue.jobs.values() if self.books.tenants.governed else ()
        others = [waiting(self.books, one, [self.pods[uid] for uid in one.pods]) for one in all_jobs]
        room = self.preemption.make_room(job, gang, pods, others, self._wall())
        self._pending += self.preemption.deletions(room, job)
        return f"{reason}; {room.reason}", room.places

    def _place(self, job: Job, pods: list[Pod], now: float) -> str:
        """Places the job; "" or why not."""
        requests = dict[str, Request]()
        for pod in pods:
            try:
                requests[pod.metadata.uid] = self.books.request(pod)
            except Unplaceable as wrong:
                return f"pod {pod.metadata.name}: {wrong}" if len(pods) > 1 else str(wrong)
            if not job.attempts:
                self.planner.policy.observe(self.books.cluster, requests[pod.metadata.uid])
        gang: Gang | None = None
        if job.gang:
            members = [(pod, Member(pod.metadata.uid, requests[pod.metadata.uid], self.groups.part(pod))) for pod in pods]
            gathered = self.groups.gather(job.gang, members, self._members.of(job.gang))
            if isinstance(gathered, str):
                return gathered
            gang = gathered
        if refused := refusal(self.books, job, pods):
            self._lacking = gang or Gang(job.key, [Member(uid, request) for uid, request in requests.items()], 1)
            self._refused = True
            return refused
        if behind := self.keeping.behind(job, pods, self._wall()):
            return behind
        for pod in pods:
            self.books.cluster.nominations.drop(pod.metadata.uid)
        if gang is not None:
            return self._start_gang(job, gang, now)
        return self._start_pod(job, pods[0], requests[pods[0].metadata.uid])

    def _start_pod(self, job: Job, pod: Pod, request: Request) -> str:
        uid = pod.metadata.uid
        near = self._near(job, Gang(uid, [Member(uid, request)], 1), [pod])
        if isinstance(near, str):
            return near
        if near is not None:
            self._start(job, near.placements, {uid: request})
            return ""
        choice = self.planner.choose(request)
        if choice is None:
            if self.books.cluster.coupled(request):
                self.queue.couple(job.key)
            self._lacking = Gang(uid, [Member(uid, request)], 1)
            return self.sayings.why(request)
        cluster = self.books.cluster
        cluster.place(choice.row, request, choice.cards, choice.parts)
        self._start(job, [Placement(uid, cluster.names[choice.row], choice.cards, choice.parts)], {uid: request})
        return ""

    def _start_gang(self, job: Job, gang: Gang, now: float) -> str:
        near = self._near(job, gang, [self.pods[member.pod] for member in gang.members])
        if isinstance(near, str):
            return near
        plan = near if near is not None else plan_gang(self.planner, gang)
        requests = {member.pod: member.request for member in gang.members}
        if not plan.placed:
            if any(self.books.cluster.coupled(request) for request in requests.values()):
                self.queue.couple(job.key)
            self._check_partial(job, gang, plan, now)
            if large := too_large(self.books.cluster, gang):
                return large
            self._lacking = gang
            return self.sayings.why_gang(plan)
        self._start(job, plan.placements, requests)
        self.partials.whole(job.gang)
        return self.sayings.why(requests[plan.waiting[0]]) if plan.waiting else ""

    def _near(self, job: Job, gang: Gang, pods: Sequence[Pod]) -> Plan | str | None:
        """Where its data is: placed in the arrays, or why it waits; None where that decides nothing."""
        dataset = next((name for pod in pods if (name := self.nearness.dataset(pod))), "")
        if not dataset:
            return None
        now = self._wall()
        found = self.nearness.place(gang, dataset, max(now - job.since, job.tried_at - job.first_at), now)
        if isinstance(found, Later):
            self._look_again[job.key] = min(found.seconds, LOOK_AGAIN)
            return found.sentence
        return found

    def _wall(self) -> float:
        return self._time_ns() / 1e9

    def _start(self, job: Job, placements: Iterable[Placement], requests: Mapping[str, Request]) -> None:
        """The arrays have these; now the books have them, and they fly."""
        self._attempts += 1
        for placement, notes in self.books.assume_all(list(placements), self.pods, requests, job.gang, self._time_ns()):
            pod = self.pods[placement.pod]
            flight = self.flights.take_off(pod, placement.node, job.gang, self._attempts)
            self._withdraw(placement.pod)
            wishes, claims = self.books.volume_wishes(pod, placement.node), self.books.claims.take_off(pod, flight.number)
            self._pending.append(Bind(named(pod), placement.node, flight.number, notes, job.gang, wishes, gated(pod), claims))
            self.counts.attempts["scheduled"] += 1
        self.queue.stir_coupled()

    def _check_partial(self, job: Job, gang: Gang, plan: Plan, now: float) -> None:
        """Members are bound, the rest finds no place, and the minimum is not reached."""
        there = [pod for pod in self._members.of(job.gang) if alive(pod)]
        if there and (gang.minimum or any(gang.group_minimum.values())):
            regarding = self.groups.regarding(job.gang)
            gangs = self.keeping.timeouts.repair(job, there, self.settings.gangs)
            self._pending += self.partials.stuck(job.gang, there, plan.reason, regarding, now, gangs)
            if self.partials.untold(job.gang):  # perhaps nothing happens meanwhile that has it tried again in time
                self._look_again[job.key] = min(gangs.repair_seconds, LOOK_AGAIN)

    def _sweep(self, now: float) -> None:
        self._swept_at = now
        self.statuses.again()
        requests = self.books.requests(self.pods.values())
        self.books.cluster.sweep(requests)
        self.planner.keep(requests)
        self.nearness.keep(requests)
        self.sayings.classes_changed()
