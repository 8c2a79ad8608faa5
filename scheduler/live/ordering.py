"""Whose turn it is, and whether quotas let a job start. Reads books and queue, changes neither."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence

from forebay.api.kubernetes.core import Pod
from forebay.scheduler.live.books import Books, total
from forebay.scheduler.live.waiting import Job, Queue
from forebay.scheduler.pods.amounts import quota_amounts
from forebay.scheduler.quota.admission import Verdict
from forebay.scheduler.quota.inputs.elastic import of_pod
from forebay.scheduler.quota.order import Waiting

Rank = tuple[int, float, int, str]
BATCH = 256
"""Jobs of one pass. What watches say is read between passes: some 50 ms on 5,000 nodes."""


def waiting(books: Books, job: Job, pods: Sequence[Pod]) -> Waiting:
    """The job as quotas see it."""
    return Waiting(
        job.key, books.tenants.home(pods[0]).queue, total(map(quota_amounts, pods)), job.priority, job.since, job.arrival
    )


def order(queue: Queue, books: Books, pods: Mapping[str, Pod], now: float, epoch: float) -> Iterator[Job]:
    """At most a BATCH of jobs that are due: as quotas have it, else by priority and age.

    A job counts as placed if it has left the queue when the next one is asked for. Ages are those of pods (`epoch`: seconds
    since 1970 now), so that patience survives a restart.
    """
    due = queue.due(now)
    if not books.tenants.governed:
        yield from heapq.nsmallest(BATCH, due, key=rank)
        return
    jobs = [waiting(books, job, [pods[uid] for uid in job.pods]) for job in due]
    turns = books.quotas.turns(jobs, books.totals(), epoch)
    for _ in range(BATCH):
        turn = turns.next()
        if turn is None:
            return
        yield queue.jobs[turn.name]
        if turn.name not in queue.jobs:
            turns.placed(turn)


def verdict(books: Books, job: Job, pods: Sequence[Pod]) -> Verdict | None:
    """What quotas say of a job that is whole; None where there are none."""
    if not books.tenants.governed:
        return None
    firm = any(not of_pod(pod.metadata.labels)[1] for pod in pods)
    return books.quotas.admit(waiting(books, job, pods), books.totals(), preemptible=not firm)


def refusal(books: Books, job: Job, pods: Sequence[Pod]) -> str:
    """Why quotas do not let the job start, "" if they do."""
    if books.tenants.governed and (home := books.tenants.home(pods[0])).refusal:
        return home.refusal
    found = verdict(books, job, pods)
    return "" if found is None or found.admitted else found.sentence()


def guaranteed(books: Books, job: Job, pods: Sequence[Pod]) -> bool:
    """Whether the job would run within what its queue is promised, borrowing nothing."""
    found = None if not books.tenants.governed or books.tenants.home(pods[0]).refusal else verdict(books, job, pods)
    return found is not None and bool(found.queue) and found.admitted and not found.borrowed


def rank(job: Job) -> Rank:
    """Inside a queue, and where there are none: priority, then age. Sorts as the order goes."""
    return -job.priority, job.since, job.arrival, job.key
