"""Admission and eviction: numbers in, decisions out."""

from __future__ import annotations

import pytest

from forebay.api.manifests.freshness import NO_LIMIT
from forebay.cache.disk.policy import Answer, Candidate, Lru, Space, TierState, allocation

GIB = 1 << 30


def tier(quota: int = 0, used: int = 0, free: int = 100 * GIB, total: int = 200 * GIB, **more: float) -> TierState:
    t = TierState(quota, 0.9, 0.5, 0.15, 20 * GIB, used)
    t.space = Space(free, total, int(more.get("inodes_free", 1000)), int(more.get("inodes", 1000)))
    return t


@pytest.mark.parametrize(
    ("state", "need", "answer"),
    [
        (tier(), GIB, Answer.ADMIT),
        (tier(quota=10 * GIB), 10 * GIB, Answer.ADMIT),
        (tier(quota=10 * GIB), 10 * GIB + 1, Answer.REFUSE),  # larger than the tier: evicting everything would not help
        (tier(quota=10 * GIB, used=4 * GIB), 7 * GIB, Answer.EVICT),
        (tier(quota=10 * GIB, used=10 * GIB), 1, Answer.EVICT),
        (tier(free=20 * GIB), 1, Answer.REFUSE),  # at the floor, and nothing of ours to give
        (tier(free=20 * GIB, used=GIB), 1, Answer.EVICT),  # at the floor: our own oldest make room
        (tier(free=21 * GIB), GIB, Answer.ADMIT),
        (tier(free=21 * GIB), GIB + 1, Answer.REFUSE),
        (tier(free=2 * GIB, total=10 * GIB), GIB // 2, Answer.ADMIT),  # the floor is 15 %: 1.5 GiB
        (tier(free=2 * GIB, total=10 * GIB), GIB // 2 + 1, Answer.REFUSE),
        (tier(inodes_free=149), 1, Answer.REFUSE),
        (tier(inodes_free=149, used=GIB), 1, Answer.EVICT),
        (tier(inodes=0, inodes_free=0), 1, Answer.ADMIT),  # a file system without inodes to count
    ],
)
def test_ask(state: TierState, need: int, answer: Answer) -> None:
    assert state.ask(need, 0.0) is answer


def test_a_floor_of_bytes_alone_says_nothing_of_inodes() -> None:
    t = tier(inodes_free=1)
    t.floor_ratio, t.floor_bytes = 1.0, 0  # forebay.io/free-space-floor: "0", which switches it off
    assert t.ask(GIB, 0.0) is Answer.ADMIT
    assert t.stopped("/c", 0.0) == ""


def test_memory_that_is_the_tiers_own_leaves_no_floor_to_anybody() -> None:
    """A node makes a tmpfs of just the quota for a worker's pod, and counts all of it as the pod's."""
    own = tier(quota=10 * GIB, free=10 * GIB, total=10 * GIB, inodes_free=1)
    own.private = True
    assert own.ask(10 * GIB, 0.0) is Answer.ADMIT
    assert tier(quota=10 * GIB, free=10 * GIB, total=10 * GIB).ask(10 * GIB, 0.0) is Answer.REFUSE


@pytest.mark.parametrize(
    ("state", "out"),
    [
        (tier(), False),
        (tier(free=20 * GIB), True),
        (tier(free=20 * GIB, used=GIB), False),  # its own make room for others of its own
        (tier(free=10 * GIB, used=5 * GIB), True),  # all that it has must go, and it is not enough
        (tier(inodes_free=149), True),
        (tier(inodes_free=149, used=GIB), False),
        (tier(quota=10 * GIB, used=10 * GIB), False),  # full of its own
    ],
)
def test_a_tier_is_crowded_out_by_others_alone(state: TierState, out: bool) -> None:
    assert bool(state.crowded_out("/c")) is out


def test_what_is_said_of_others_is_the_same_however_much_they_use() -> None:
    """It stands in a condition and in Events: each other word is a write, and an Event more."""
    said = {tier(free=free).crowded_out("/c") for free in (20 * GIB, 5 * GIB, 4 * GIB, 0)}
    assert len(said) == 1
    assert "others leave less than the smaller of 15% and 20.0 GiB of /c free" in said.pop()
    assert len({tier(inodes_free=n).crowded_out("/c") for n in (149, 148, 0)}) == 1


@pytest.mark.parametrize(
    ("ratio", "size", "said"),
    [(0.2, NO_LIMIT, "40.0 GiB stay free (20%)"), (0.15, 20 * GIB, "20.0 GiB stay free (the smaller of 15% and 20.0 GiB)")],
)
def test_the_floor_is_said_as_it_was_set(ratio: float, size: int, said: str) -> None:
    t = tier(free=5 * GIB)
    t.floor_ratio, t.floor_bytes = ratio, size
    assert f"/c has 5.0 GiB free and {said}: free some space" in t.stopped("/c", 0.0)


def test_what_was_promised_counts_before_statvfs_sees_it() -> None:
    t = tier(free=21 * GIB)
    t.since = GIB
    assert t.ask(1, 0.0) is Answer.REFUSE


def test_a_full_tier_rests() -> None:
    t = tier()
    t.full_until = 10.0
    assert t.ask(1, 9.9) is Answer.REFUSE
    assert t.stopped("/c", 9.9).startswith("stopped: the file system of /c is full")
    assert t.ask(1, 10.0) is Answer.ADMIT


@pytest.mark.parametrize(
    ("state", "excess"),
    [
        (tier(quota=10 * GIB, used=9 * GIB), 0),
        (tier(quota=10 * GIB, used=9 * GIB + 1), 4 * GIB + 1),  # above high: down to low
        (tier(free=19 * GIB, used=5 * GIB), GIB),  # somebody else took space: we give way to the floor
        (tier(free=10 * GIB, used=5 * GIB), 5 * GIB),
        (tier(), 0),
    ],
)
def test_excess(state: TierState, excess: int) -> None:
    assert state.excess() == excess


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (tier(free=19 * GIB), "19.0 GiB free and 20.0 GiB stay free"),
        (tier(inodes_free=10), "10 of 1000 inodes free"),
        (tier(), ""),
    ],
)
def test_stopped_says_why_and_what_to_do(state: TierState, words: str) -> None:
    said = state.stopped("/cache", 0.0)
    assert words in said
    assert bool(said) == bool(words)
    if said:
        assert ": " in said.removeprefix("stopped: ")


def test_lru_takes_the_oldest_until_it_is_enough_and_never_what_is_held() -> None:
    all_ = [Candidate(bytes([i]), 10, i == 2) for i in range(9)]
    read: list[int] = []

    def candidates():  # type: ignore[no-untyped-def]
        for c in all_:
            read.append(c.oid[0])
            yield c

    chosen = Lru().victims(candidates(), 25, {bytes([1])})
    assert [c.oid[0] for c in chosen] == [0, 3, 4]
    assert read == [0, 1, 2, 3, 4, 5], "it read further than it had to"
    assert [c.oid[0] for c in Lru().victims(all_, 1000, {bytes([1])})] == [0, 3, 4, 5, 6, 7, 8]
    assert len(Lru(most=2).victims(all_, 1000, set())) == 2


def test_allocation_rounds_up_to_pages() -> None:
    assert [allocation(n) for n in (0, 1, 4096, 4097)] == [0, 4096, 4096, 8192]
