"""A cluster with queues and running pods, for tests of reclaim."""

from __future__ import annotations

from collections.abc import Iterable

from forebay.scheduler.quota.books import Books
from forebay.scheduler.quota.inputs.check import Findings, build
from forebay.scheduler.quota.reclaim.entitled import Ask
from forebay.scheduler.quota.reclaim.plan import Reclaim, reclaim
from forebay.scheduler.quota.reclaim.pods import Running
from forebay.scheduler.quota.reclaim.rooms import NodeRoom
from forebay.scheduler.quota.shares import Shares, fair_shares
from forebay.scheduler.quota.tree import Queue

GPU = "nvidia.com/gpu"
NOW = 10_000.0


def pod(uid: str, queue: str, node: str = "n1", gpus: int = 1, **more: object) -> Running:
    fields: dict[str, object] = {"cards": float(gpus), "started": NOW - 3600} | more
    return Running(uid, queue, node, {GPU: gpus}, **fields)  # type: ignore[arg-type]


def pods(prefix: str, queue: str, count: int, node: str = "n1", gpus: int = 1, **more: object) -> list[Running]:
    return [pod(f"{prefix}{i}", queue, node, gpus, **more) for i in range(count)]


class World:
    """Nodes full of pods, and a tree they are counted in."""

    def __init__(self, queues: Iterable[Queue], running: Iterable[Running], size: int = 8, nodes: Iterable[str] = ()) -> None:
        self.running = list(running)
        self.books = Books(build(list(queues), Findings()))
        self.size = size
        self.free = dict.fromkeys([*nodes, *(p.node for p in self.running)], size)
        self.requests: dict[str, dict[str, int]] = {}
        for p in self.running:
            if p.queue:
                self.books.book(p.queue, p.amounts, preemptible=p.preemptible)
                self.requests.setdefault(p.queue, {GPU: 0})[GPU] += p.amounts[GPU]
            if not p.leaving:
                self.free[p.node] -= p.amounts[GPU]
        assert all(n >= 0 for n in self.free.values())

    def total(self) -> int:
        return self.size * len(self.free)

    def shares(self, ask: Ask) -> Shares:
        requests = {q: dict(a) for q, a in self.requests.items()}
        if ask.queue:
            requests.setdefault(ask.queue, {GPU: 0})[GPU] += ask.request[GPU]
        return fair_shares(self.books.tree, requests, {GPU: self.total()})

    def room(self, each: int, wanted: int) -> NodeRoom:
        return NodeRoom({n: {GPU: f} for n, f in self.free.items()}, {GPU: each}, wanted)

    def take(self, ask: Ask, each: int = 1, **more: object) -> Reclaim:
        wanted = ask.request[GPU] // each
        room = self.room(each, wanted)
        before, found = room.fitting(), self.books.copy()
        result = reclaim(
            ask,
            self.books,
            self.shares(ask),
            self.running,
            room,
            NOW,
            totals={GPU: self.total()},
            **more,  # type: ignore[arg-type]
        )
        assert room.fitting() == before
        assert self.books.same(found)
        return result


def ask(queue: str, gpus: int, **more: object) -> Ask:
    return Ask("job", queue, {GPU: gpus}, **more)  # type: ignore[arg-type]


def gone(result: Reclaim) -> list[str]:
    return sorted(p.uid for p in result.pods)


A, B = Queue(name="a", min={GPU: 4}, max={GPU: 8}), Queue(name="b", min={GPU: 4}, max={GPU: 8})
