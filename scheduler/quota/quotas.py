"""Quotas as a planner sees them: one object with the tree, the ledger, and the four questions of a scheduling pass.

    quotas = Quotas()
    problems = quotas.load(objects)                   # ElasticQuotaTree, ElasticQuota; again whenever one changes
    quotas.ledger.add(pod.uid, Charge(...))           # for every pod that has a node; remove(uid) when it is gone
    turns = quotas.turns(waiting, totals, now)        # 1. whose turn is it?
    while job := turns.next():
        verdict = quotas.admit(job, totals)           # 2. may it start? verdict.sentence() says why not
        ...                                           # 3. quotas.reservations: would it delay a job that is held a place?
        turns.placed(job)
    result = quotas.reclaim(ask, pods, room, now)     # 4. who would have to go?

Jobs name leaves of the tree as it is now: after `load`, ask `tree.home` again. Nothing here does I/O, reads a clock or starts a
thread.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from forebay.api.problem import Problem
from forebay.scheduler.quota.admission import Verdict, admit
from forebay.scheduler.quota.amounts import JOBS, NOTHING, Amounts, add
from forebay.scheduler.quota.backfill import Reservations
from forebay.scheduler.quota.inputs.check import Findings, build
from forebay.scheduler.quota.inputs.objects import read
from forebay.scheduler.quota.inputs.reading import Object
from forebay.scheduler.quota.ledger import Ledger
from forebay.scheduler.quota.order import PATIENCE, Turns, Waiting
from forebay.scheduler.quota.reclaim.entitled import Ask
from forebay.scheduler.quota.reclaim.plan import Reclaim, reclaim
from forebay.scheduler.quota.reclaim.pods import Gang, Running
from forebay.scheduler.quota.reclaim.rooms import Room
from forebay.scheduler.quota.shares import Shares, fair_shares
from forebay.scheduler.quota.tree import QuotaTree


class Quotas:
    """Tree, ledger and reservations of one cluster. Without quota objects all are admitted, in order of priority and age."""

    def __init__(self, patience: float = PATIENCE) -> None:
        self.ledger = Ledger(build([], Findings()))
        self.reservations = Reservations()
        self.patience = patience

    @property
    def tree(self) -> QuotaTree:
        return self.ledger.tree

    def load(self, objects: Iterable[Object], where: str = "cluster") -> list[Problem]:
        """Takes new quota objects and counts all pods anew. What is wrong closes what it concerns, and is returned."""
        findings = Findings(where)
        self.ledger.rebase(read(objects, findings))
        return findings.problems

    def shares(self, waiting: Iterable[Waiting], totals: Amounts) -> Shares:
        """Fair shares for what is used and what waits, together."""
        tree, books = self.tree, self.ledger.books
        requests = {name: dict(books.used(name)) for name in tree.queues if tree.is_leaf(name)}
        for job in waiting:
            if job.queue:
                add(requests[job.queue], {**job.request, JOBS: 1})
        return fair_shares(tree, requests, totals)

    def turns(self, waiting: Iterable[Waiting], totals: Amounts, now: float) -> Turns:
        """The order of a pass. `totals`: allocatable of all nodes that may be used."""
        jobs = list(waiting)
        return Turns(self.ledger.books, self.shares(jobs, totals), jobs, now, self.patience)

    def admit(self, job: Waiting, totals: Amounts = NOTHING, *, preemptible: bool = True) -> Verdict:
        """Whether a job that does not run yet may start. Book its pods in the ledger (`assumed`) before asking for the next."""
        return admit(self.ledger.books, job.queue, job.request, totals, preemptible=preemptible, jobs=1)

    def reclaim(
        self,
        ask: Ask,
        pods: Iterable[Running],
        room: Room,
        now: float,
        *,
        waiting: Iterable[Waiting] = (),
        gangs: Mapping[str, Gang] = {},
        budgets: Mapping[str, int] = {},
        totals: Amounts = NOTHING,
    ) -> Reclaim:
        """Whom to evict for a job, or why nobody. `waiting`: the other jobs that wait; they count in the fair shares too."""
        others = [job for job in waiting if job.name != ask.name]
        shares = self.shares([*others, Waiting(ask.name, ask.queue, ask.request)], totals)
        return reclaim(ask, self.ledger.books, shares, pods, room, now, gangs=gangs, budgets=budgets, totals=totals)
