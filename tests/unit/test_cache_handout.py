"""Parts handed out to members, and the progress of several nodes as one."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from forebay.cache.members import handout as module
from forebay.cache.members.fanned import fanned
from forebay.cache.members.handout import Handout
from forebay.cache.members.roster import Member
from forebay.cache.peers.controlwire import ControlError, Part, Progress, Taken
from forebay.cache.peers.wire import Ref
from forebay.cache.stores.base import Unavailable

A, B, C = (Member(x, f"{x}:1", node=x) for x in "abc")


def part(n: int, size: int = 100) -> Part:
    return Part(Ref("s3://b", b"k%d" % n, b"v", size), 0, size)


class Takers:
    """What members say to orders. `says`: member -> how, by the parts of an order."""

    def __init__(self) -> None:
        self.got: list[tuple[str, list[int]]] = []
        self.refuse: set[str] = set()
        self.full: set[str] = set()
        self.silent: set[str] = set()
        self.hold = threading.Event()
        self.hold.set()
        self.closed = 0

    def take(self, member: Member, parts: list[Part]) -> Iterator[Taken]:
        self.got.append((member.id, [int(p.ref.key[1:]) for p in parts]))
        if member.id in self.refuse:
            raise ControlError(f"{member.id} does not answer")
        try:
            while not self.hold.wait(0.02):
                yield Taken()
            if member.id in self.silent:
                return
            if member.id in self.full:
                yield Taken([], dict.fromkeys(range(len(parts)), f"{member.id} is full"))
                return
            yield Taken(list(range(0, len(parts), 2)))
            yield Taken(list(range(len(parts))))  # said twice counts once
        finally:
            self.closed += 1

    def parts_of(self, member: str) -> list[int]:
        return sorted(n for who, numbers in self.got if who == member for n in numbers)


@pytest.fixture
def takers() -> Takers:
    return Takers()


@pytest.fixture
def handout(takers: Takers) -> Iterator[Handout]:
    made = Handout(takers.take)
    yield made
    made.close()


def test_every_part_is_taken_once_by_the_first(takers: Takers, handout: Handout) -> None:
    for n in range(1000):
        assert handout.give(part(n), [A, B] if n % 2 else [B, A])
    assert handout.idle(60)
    assert takers.parts_of("a") == list(range(1, 1000, 2))
    assert takers.parts_of("b") == list(range(0, 1000, 2))
    p = handout.progress(walked=True, finished=True)
    assert (p.files, p.files_total, p.bytes, p.bytes_total, p.failed, p.error, p.eta) == (
        1000,
        1000,
        100_000,
        100_000,
        0,
        "",
        0.0,
    )


@pytest.mark.parametrize("way", ["refuse", "full", "silent"])
def test_who_cannot_take_a_part_is_followed_by_the_next(takers: Takers, handout: Handout, way: str) -> None:
    getattr(takers, way).add("a")
    for n in range(50):
        handout.give(part(n), [A, B, C])
    assert handout.idle(60)
    assert takers.parts_of("b") == list(range(50))
    assert takers.parts_of("c") == []
    assert handout.progress(walked=True, finished=False).failed == 0


def test_a_part_nobody_takes_has_failed_and_says_why(takers: Takers, handout: Handout) -> None:
    takers.refuse.add("a")
    takers.full.add("b")
    handout.give(part(1), [A, B])
    handout.give(part(2), [])
    handout.give(part(3), [C])
    assert handout.idle(60)
    p = handout.progress(walked=True, finished=True, failures=["a walk"])
    assert (p.files, p.failed) == (1, 3)
    assert p.error in {"b is full", "a does not answer", "no other member is known: correct the member list"}


def test_a_shut_door_is_left_alone_while_there_is_another(takers: Takers, handout: Handout) -> None:
    takers.refuse.add("a")
    handout.give(part(0), [A, B])
    assert handout.idle(60)
    for n in range(1, 20):
        handout.give(part(n), [A, B])
    assert handout.idle(60)
    assert takers.parts_of("a") == [0]
    handout.give(part(99), [A])
    assert handout.idle(60)
    assert takers.parts_of("a") == [0, 99]


def test_orders_are_bounded(takers: Takers, handout: Handout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PARTS", 7)
    takers.hold.clear()
    for n in range(100):
        handout.give(part(n), [A])
    handout.give(part(100, module.PART_BYTES), [A])
    handout.give(part(101, module.PART_BYTES), [A])
    takers.hold.set()
    assert handout.idle(60)
    assert max(len(numbers) for _, numbers in takers.got) <= 7
    assert [100] in [numbers[-1:] for _, numbers in takers.got]
    assert not any({100, 101} <= set(numbers) for _, numbers in takers.got)


def test_giving_waits_while_many_wait_and_ends_when_closed(
    takers: Takers, handout: Handout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WAITING", 3)
    takers.hold.clear()
    for n in range(3):
        assert handout.give(part(n), [A])
    answers: list[bool] = []
    giver = threading.Thread(target=lambda: answers.append(handout.give(part(3), [A])))
    giver.start()
    giver.join(0.3)
    assert giver.is_alive()
    assert not handout.idle(0)
    handout.close()
    giver.join(60)
    assert answers == [False]
    assert handout.idle(0)
    until = time.monotonic() + 60
    while not takers.closed:  # an order on its way is closed at the next thing its member says
        assert time.monotonic() < until
        time.sleep(0.01)


# --- several nodes


def steps(*progress: Progress) -> Iterator[Progress]:
    yield from progress


def test_the_progress_of_several_is_their_sum() -> None:
    done = Progress(3, 3, 30, 30, 5.0, 0.0, walked=True, finished=True)
    got = list(fanned({"a": lambda: steps(done), "b": lambda: steps(Progress(1, 2), done)}))
    assert got[-1] == Progress(6, 6, 60, 60, 10.0, 0.0, walked=True, finished=True)
    assert [p.finished for p in got[:-1]] == [False] * (len(got) - 1)


def test_a_node_that_fails_does_not_stop_the_others() -> None:
    def breaks() -> Iterator[Progress]:
        yield Progress(1, 9, failed=1, error="a file")
        raise Unavailable("its store is away")

    done = Progress(3, 3, walked=True, finished=True)
    last = list(fanned({"a": breaks, "b": lambda: steps(done), "c": lambda: steps(Progress(1, 1))}))[-1]
    assert last.finished
    assert (last.files, last.failed) == (5, 3)
    assert last.error in {"a: its store is away", "c: its progress ended without a result"}


def test_nodes_stop_when_nobody_listens() -> None:
    ended = threading.Event()

    def endless() -> Iterator[Progress]:
        try:
            while True:
                time.sleep(0.02)
                yield Progress(1)
        finally:
            ended.set()

    stream = fanned({"a": endless})
    assert not next(stream).finished
    stream.close()  # type: ignore[attr-defined]
    assert ended.wait(60)


def test_a_file_counts_once_and_is_done_with_its_last_part(takers: Takers, handout: Handout) -> None:
    takers.full.add("b")
    assert handout.give_file([(part(0), A), (part(1), A), (part(2), C)])
    assert handout.give_file([(part(3), A), (part(4), B)])
    assert handout.idle(60)
    p = handout.progress(walked=True, finished=True)
    assert (p.files, p.files_total, p.failed, p.bytes, p.bytes_total) == (1, 2, 1, 400, 500)
    assert p.error == "b is full"
