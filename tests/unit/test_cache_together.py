"""A hop of small files through a lane: what is written, and in which portions the trio thread is told of it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Sequence
from pathlib import Path

from forebay.cache.disk import files
from forebay.cache.disk.extents import checksum
from forebay.cache.disk.index import BLOCK, object_id, object_path
from forebay.cache.fetch import messages as m
from forebay.cache.fetch.lanes import TELL, Lanes, Meter, Source, Sums, Task
from forebay.cache.fetch.messages import Goal, Why
from forebay.cache.stores.base import Body, StoreError, Unavailable
from forebay.cache.stores.net.ranges import Held

ANSWER = tuple[int, "Body | StoreError"] | None


class Bringer:
    """A store that brings what it is told to, in one exchange, and nothing one by one."""

    strong = True

    def __init__(self) -> None:
        self.answers: list[ANSWER | threading.Event] = []

    def read_many(self, wanted: Sequence[tuple[bytes, bytes, int]]) -> Generator[ANSWER, None, None]:
        for answer in self.answers:
            if isinstance(answer, threading.Event):
                assert answer.wait(60)
            else:
                yield answer


def held(data: bytes) -> Held:
    return Held(data, b"".join(checksum(data[at : at + BLOCK]) for at in range(0, len(data), BLOCK)))


class Lane:
    """One lane with one tier, and what it tells."""

    def __init__(self, folder: Path) -> None:
        self.tier = str(folder)
        self.store = Bringer()
        self.told: queue.Queue[m.Event | Sums | list[Sums]] = queue.Queue()
        files.prepare(self.tier)
        self.lanes = Lanes(1, tiers=[self.tier], sink=self.told.put, meters=[Meter()], buffers=files.Buffers())

    def task(self, n: int, size: int, goal: Goal = Goal.AHEAD) -> Task:
        thing = m.Thing(object_id("s", b"%d" % n, b"v"), n + 1, 1, 0, size)
        fetch = m.Fetch(n, thing, 0, max((size + BLOCK - 1) // BLOCK, 1), 0, -1, goal)
        return Task(fetch, -1, Source(self.store, b"%d" % n, b"v"))  # type: ignore[arg-type]

    def next(self) -> list[int]:
        """Numbers of the files told of together."""
        told = self.told.get(timeout=60)
        assert isinstance(told, list)
        return [s.event.fetch for s in told]

    def content(self, task: Task) -> bytes:
        return Path(object_path(self.tier, task.fetch.thing.oid)).read_bytes()


def test_files_are_told_of_together_until_one_takes_a_while(tmp_path: Path) -> None:
    lane = Lane(tmp_path)
    data = [b"%d" % i * 100 for i in range(3)]
    tasks = [lane.task(i, len(d)) for i, d in enumerate(data)]
    goes_on = threading.Event()
    lane.store.answers = [(0, held(data[0])), (1, held(data[1])), None, goes_on, (2, held(data[2]))]
    lane.lanes.run(tasks)
    assert lane.next() == [0, 1]
    assert [lane.content(t) for t in tasks[:2]] == data[:2]
    assert lane.told.empty()
    goes_on.set()
    assert lane.next() == [2]
    assert lane.content(tasks[2]) == data[2]
    lane.lanes.close()


def test_who_waits_for_a_file_hears_of_it_at_once(tmp_path: Path) -> None:
    lane = Lane(tmp_path)
    tasks = [lane.task(0, 5), lane.task(1, 5, Goal.DEMAND), lane.task(2, 5)]
    goes_on = threading.Event()
    lane.store.answers = [(0, held(b"aaaaa")), (1, held(b"bbbbb")), goes_on, (2, held(b"ccccc"))]
    lane.lanes.run(tasks)
    assert lane.next() == [0, 1]
    goes_on.set()
    assert lane.next() == [2]
    lane.lanes.close()


def test_no_more_are_told_of_together_than_stated(tmp_path: Path) -> None:
    lane = Lane(tmp_path)
    tasks = [lane.task(i, 3) for i in range(TELL + 2)]
    lane.store.answers = [(i, held(b"abc")) for i in range(TELL + 2)]
    lane.lanes.run(tasks)
    assert lane.next() == list(range(TELL))
    assert lane.next() == [TELL, TELL + 1]
    lane.lanes.close()


def test_checksums_that_were_compared_are_kept_and_others_are_made(tmp_path: Path) -> None:
    lane = Lane(tmp_path)
    data = [b"k" * (BLOCK + 9), b"m" * 9]
    tasks = [lane.task(i, len(d)) for i, d in enumerate(data)]
    lane.store.answers = [(0, held(data[0])), (1, Held(data[1]))]
    lane.lanes.run(tasks)
    told = lane.told.get(timeout=60)
    assert isinstance(told, list)
    assert [s.sums for s in told] == [checksum(data[0][:BLOCK]) + checksum(data[0][BLOCK:]), checksum(data[1])]
    assert [lane.content(t) for t in tasks] == data
    lane.lanes.close()


def test_a_body_of_another_length_is_no_file(tmp_path: Path) -> None:
    lane = Lane(tmp_path)
    tasks = [lane.task(0, 10), lane.task(1, 10)]
    lane.store.answers = [(0, held(b"short")), (1, held(b"0123456789"))]
    lane.lanes.run(tasks)
    broken = lane.told.get(timeout=60)
    assert isinstance(broken, m.Broken)
    assert broken.fetch == 0
    assert lane.next() == [1]
    lane.lanes.close()


def test_what_came_before_an_exchange_broke_off_counts(tmp_path: Path) -> None:
    lane = Lane(tmp_path)
    tasks = [lane.task(i, 4) for i in range(3)]
    lane.store.answers = [(0, held(b"good")), (1, Unavailable("gone"))]
    lane.lanes.run(tasks)
    ends: dict[int, object] = {}
    while len(ends) < 2:
        told = lane.told.get(timeout=60)
        if isinstance(told, list):
            ends.update((s.event.fetch, s.sums) for s in told)
        else:
            assert isinstance(told, m.Broken)
            ends[told.fetch] = told.why
    assert ends == {0: checksum(b"good"), 1: Why.UNAVAILABLE}
    lane.lanes.close()
