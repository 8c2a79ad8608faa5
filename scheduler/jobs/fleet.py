"""Jobs that run in the simulation, and how far they read in a tick. Arrays over jobs [J] and their parts [P], one a node."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from forebay.scheduler.arrays.types import Bools, Floats, Ints
from forebay.scheduler.jobs.caches import Caches
from forebay.scheduler.jobs.network import share
from forebay.scheduler.jobs.workload import Workload

NOTHING = 1e-9
"""A miss ratio below this is none: it stands for less than a byte in a gigabyte."""
PREFETCH_WEIGHT = 8.0
"""A prefetch shares links as that many pods do: it reads with as many connections as a full node."""


@dataclass(slots=True)
class Moved:
    """Bytes, by where they came from and for whom."""

    local: float = 0.0
    peer: float = 0.0
    store: float = 0.0
    prefetch_peer: float = 0.0
    prefetch_store: float = 0.0


class Fleet:
    """What runs. `tick` advances everything; parts of a job stand together, in the order of the jobs."""

    def __init__(self, workload: Workload, caches: Caches) -> None:
        self.workload, self.caches = workload, caches
        self.moved = Moved()
        self.job: Ints = np.zeros(0, np.int64)
        self.pods: Floats = np.zeros(0)
        self.portion: Floats = np.zeros(0)  # bytes that one pod reads an epoch
        self.left: Floats = np.zeros(0)  # of it, in this epoch
        self.epoch: Ints = np.zeros(0, np.int64)
        self.first: Floats = np.zeros(0)  # bytes to the first batch of each pod
        self.owner: Ints = np.zeros(0, np.int64)  # index of the job in these arrays
        self.node: Ints = np.zeros(0, np.int64)
        self.dataset: Ints = np.zeros(0, np.int64)
        self.count: Floats = np.zeros(0)  # pods of the part
        self.unread: Floats = np.zeros(0)  # bytes that the part reads in this epoch yet
        self.cached: Floats = np.zeros(0)  # of these, bytes that its node holds
        self.prefetch: dict[tuple[int, int], None] = {}  # (node, dataset), in the order they were asked for

    def __len__(self) -> int:
        return len(self.job)

    def start(self, index: int, counts: Mapping[int, int]) -> None:
        """Job `index` starts with `counts` pods by node."""
        job, shape = self.workload.jobs[index], self.workload.shape
        portion = self.workload.sizes[job.dataset] / job.pods
        at = len(self.job)
        self.job = np.append(self.job, index)
        self.pods = np.append(self.pods, job.pods)
        self.portion = np.append(self.portion, portion)
        self.left = np.append(self.left, portion)
        self.epoch = np.append(self.epoch, 0)
        self.first = np.append(self.first, min(float(shape.first_batch_bytes), portion))
        nodes = np.array(sorted(counts), np.int64)
        many = np.array([counts[int(node)] for node in nodes], np.float64)
        self.owner = np.append(self.owner, np.full(len(nodes), at))
        self.node = np.append(self.node, nodes)
        self.dataset = np.append(self.dataset, np.full(len(nodes), job.dataset))
        self.count = np.append(self.count, many)
        self.unread = np.append(self.unread, many * portion)
        self.cached = np.append(self.cached, many * portion * self._ratio(nodes, job.dataset))

    def _ratio(self, node: Ints, dataset: Ints | int) -> Floats:
        """Share of the dataset that the node holds."""
        ratio: Floats = np.minimum(1.0, self.caches.held[node, dataset] / self.caches.size[dataset])
        return ratio

    def tick(self, now: float, seconds: float) -> tuple[list[tuple[int, float]], list[tuple[int, float]]]:
        """Read for `seconds`. Returns (job, time) of first batches and of ends, in the order of the arrays."""
        batches, ends = list[tuple[int, float]](), list[tuple[int, float]]()
        self.caches.touch(self.node, self.dataset, now)
        for node, dataset in self.prefetch:  # what is being fetched must not be the first to go
            self.caches.used[node, dataset] = now
        miss = self._miss()
        worst = self._worst(miss)
        rate, loads = self._rates(miss, worst, seconds)
        remaining = np.full(len(self), float(seconds))
        done = np.zeros(len(self), np.bool_)
        self._load(loads)
        while True:
            with np.errstate(divide="ignore", invalid="ignore"):
                step = np.minimum(remaining, np.where(rate > 0, self.left / rate, np.inf))
            amount = np.minimum(rate * step, self.left)
            reached = (self.first > 0) & (amount >= self.first) & (rate > 0)
            for at in np.flatnonzero(reached).tolist():
                batches.append((int(self.job[at]), now + seconds - float(remaining[at]) + float(self.first[at] / rate[at])))
            self.first = np.where(reached, 0.0, np.maximum(self.first - amount, 0.0))
            self._read(miss, amount)
            self.left -= amount
            remaining -= step
            over = ~done & (self.left <= self.portion * 1e-9)
            if not over.any():
                break
            self.epoch[over] += 1
            last = over & (self.epoch >= self.workload.shape.epochs)
            ends.extend((int(self.job[at]), now + seconds - float(remaining[at])) for at in np.flatnonzero(last).tolist())
            done |= last
            again = over & ~last
            self.left[last] = 0.0
            self.left[again] = self.portion[again]
            fresh = again[self.owner]
            self.unread[fresh] = (self.count * self.portion[self.owner])[fresh]
            self.cached[fresh] = (self.unread * self._ratio(self.node, self.dataset))[fresh]
            self.unread[last[self.owner]] = self.cached[last[self.owner]] = 0.0
            miss = self._miss()
            fair = rate * worst  # bytes per second that its worst pod was given
            worst = self._worst(miss)
            with np.errstate(divide="ignore", invalid="ignore"):
                rate = np.where(worst > 0, np.minimum(fair / worst, rate_cap(self)), rate_cap(self))
            rate[~again] = 0.0
            remaining[~again] = 0.0
            if not remaining.any():
                break
        self._drop(done)
        return batches, ends

    def _miss(self) -> Floats:
        with np.errstate(divide="ignore", invalid="ignore"):
            miss = np.where(self.unread > 0, 1 - self.cached / self.unread, 0.0)
        miss[miss < NOTHING] = 0.0
        return miss

    def _worst(self, miss: Floats) -> Floats:
        """The largest miss ratio of each job's parts: pods advance together, so that part sets the pace."""
        if not len(self):
            return np.zeros(0)
        worst: Floats = np.maximum.reduceat(miss, np.searchsorted(self.owner, np.arange(len(self))))
        return worst

    def _from_store(self, node: Ints, dataset: Ints) -> Floats:
        """Share of what is missing on the node that no other holds."""
        caches = self.caches
        held = caches.held[node, dataset]
        missing = caches.size[dataset] - held
        others = caches.copies[dataset] - held
        with np.errstate(divide="ignore", invalid="ignore"):
            part = np.where(missing > 0, (caches.size[dataset] - caches.spread[dataset]) / missing, 1.0)
        return np.where(others > 1.0, np.clip(part, 0.0, 1.0), 1.0)

    def _usage(self, flow: Ints, flows: int, node: Ints, dataset: Ints, amount: Floats) -> Floats:
        """Use of the links [1 + N + N, flows]: store, NICs in, NICs out. Part p, of `flow[p]`, misses `amount[p]` bytes.

        The parts of a flow read one dataset. What comes from nodes comes from each in proportion to what it holds.
        """
        held, nodes = self.caches.held, len(self.caches.held)
        usage = np.zeros((1 + 2 * nodes, flows))
        store = self._from_store(node, dataset)
        usage[0] = np.bincount(flow, amount * store, minlength=flows)
        usage[1 + node, flow] = amount
        own = held[node, dataset]
        each = amount * (1 - store) / np.maximum(self.caches.copies[dataset] - own, 1.0)  # per byte that a source holds
        which = np.zeros(flows, np.int64)
        which[flow] = dataset
        usage[1 + nodes :] = held[:, which] * np.bincount(flow, each, minlength=flows)
        usage[1 + nodes + node, flow] -= each * own
        np.maximum(usage, 0.0, out=usage)
        return usage

    def _rates(self, miss: Floats, worst: Floats, seconds: float) -> tuple[Floats, list[tuple[int, int, float, float]]]:
        """Rate of each job's pods in bytes per second, and what prefetches load: node, dataset, bytes, of them from the store."""
        cluster, caches = self.workload.cluster, self.caches
        nodes = len(caches.held)
        active = np.flatnonzero(miss > 0)
        jobs = np.flatnonzero(worst > 0)
        column = np.full(len(self), -1)
        column[jobs] = np.arange(len(jobs))
        loading = list(self.prefetch)
        node = np.concatenate([self.node[active], np.array([one[0] for one in loading], np.int64)])
        dataset = np.concatenate([self.dataset[active], np.array([one[1] for one in loading], np.int64)])
        flow = np.concatenate([column[self.owner[active]], len(jobs) + np.arange(len(loading))])
        amount = np.concatenate([self.count[active] * miss[active], np.ones(len(loading))])
        usage = self._usage(flow, len(jobs) + len(loading), node, dataset, amount)
        weight = np.full(usage.shape[1], PREFETCH_WEIGHT)
        weight[: len(jobs)] = 1.0 / worst[jobs]
        cap = np.full(usage.shape[1], float(cluster.card_bytes_per_second))
        store = np.zeros(0)
        if loading:
            node, dataset = node[len(active) :], dataset[len(active) :]
            store = self._from_store(node, dataset)
            missing = np.minimum(caches.size[dataset], caches.capacity) - caches.held[node, dataset]
            cap[len(jobs) :] = np.minimum(cluster.nic_bytes_per_second, np.maximum(missing, 0.0) / seconds)
        capacity = np.full(1 + 2 * nodes, float(cluster.nic_bytes_per_second))
        capacity[0] = cluster.store_bytes_per_second
        given = share(usage, capacity, weight, cap)
        rate = np.full(len(self), float(cluster.card_bytes_per_second))
        rate[jobs] = given[: len(jobs)]
        loads = [
            (one[0], one[1], float(speed) * seconds, float(speed * part) * seconds)
            for one, speed, part in zip(loading, given[len(jobs) :], store, strict=True)
        ]
        return rate, loads

    def _load(self, loads: list[tuple[int, int, float, float]]) -> None:
        """Bytes of prefetches arrive."""
        if not loads:
            return
        node = np.array([one[0] for one in loads])
        dataset = np.array([one[1] for one in loads])
        amount = np.array([one[2] for one in loads])
        store = np.array([one[3] for one in loads])
        self.moved.prefetch_store += float(store.sum())
        self.moved.prefetch_peer += float((amount - store).sum())
        self._arrive(node, dataset, amount, store, np.zeros(len(self.owner)))

    def _read(self, miss: Floats, amount: Floats) -> None:
        """Every pod of job j reads `amount[j]` bytes, `miss` of them from elsewhere."""
        read = np.minimum(self.count * amount[self.owner], self.unread)
        fetched = read * miss
        local = read - fetched
        self.unread -= read
        self.cached = np.clip(self.cached - local, 0.0, self.unread)
        self.moved.local += float(local.sum())
        some = np.flatnonzero(fetched > 0)
        if not len(some):
            return
        node, dataset = self.node[some], self.dataset[some]
        store = fetched[some] * self._from_store(node, dataset)
        self.moved.store += float(store.sum())
        self.moved.peer += float((fetched[some] - store).sum())
        self._arrive(node, dataset, fetched[some], store, fetched)

    def _arrive(self, node: Ints, dataset: Ints, amount: Floats, store: Floats, own: Floats) -> None:
        """Bytes come to nodes. Other parts that read that dataset there find some of what they miss; `own` [P] excepted."""
        caches = self.caches
        before = caches.held[self.node, self.dataset]
        caches.add(node, dataset, amount, store)
        gain = caches.held[self.node, self.dataset] - before
        lacking = np.maximum(caches.size[self.dataset] - before, 1.0)
        found = np.maximum(gain - own, 0.0) * (self.unread - self.cached) / lacking
        self.cached = np.minimum(self.cached + np.maximum(found, 0.0), self.unread)
        for row, which, part in caches.trim():
            hit = (self.node == row) & (self.dataset == which)
            self.cached[hit] *= 1 - part

    def _drop(self, done: Bools) -> None:
        if not done.any():
            return
        stay = ~done
        parts = stay[self.owner]
        place = np.cumsum(stay) - 1
        for name in ("job", "pods", "portion", "left", "epoch", "first"):
            setattr(self, name, getattr(self, name)[stay])
        self.owner = place[self.owner[parts]]
        for name in ("node", "dataset", "count", "unread", "cached"):
            setattr(self, name, getattr(self, name)[parts])


def rate_cap(fleet: Fleet) -> float:
    """The rate no pod exceeds."""
    return float(fleet.workload.cluster.card_bytes_per_second)
