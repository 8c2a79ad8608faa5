"""Which loads are asked for: order, bounds, nodes, and when they end."""

from __future__ import annotations

import numpy as np
import pytest

from forebay.scheduler.locality import prefetch
from forebay.scheduler.locality.prefetch import Loads, Outlook, copies, from_store, loadable, review

NONE = np.zeros(8, np.bool_)


def outlook(
    ratio: list[list[float]],
    *,
    size: list[int],
    waits: list[float] | None = None,
    pods: list[int] | None = None,
    free: list[int] | None = None,
    capacity: int = 1000,
    now: float = 0.0,
) -> Outlook:
    """`ratio` by node; sizes and capacity in GB."""
    share, sizes = np.array(ratio, np.float64), np.array(size, np.int64) * 10**9
    wide = len(size)
    return Outlook(
        now,
        share,
        share.max(axis=0) < prefetch.WARM,
        sizes,
        np.array(waits or [0.0] * wide),
        np.array(pods or [0] * wide, np.int64),
        np.array(free or [0] * len(ratio), np.bool_),
        loadable(sizes, capacity * 10**9),
        8,
    )


@pytest.mark.parametrize(
    ("size", "waits", "pods", "asked"),
    [
        ([100, 200, 300], [10, 10, 10], [1, 1, 1], [0, 1]),  # the shortest first
        ([100, 200, 300], [1, 100, 300], [1, 1, 1], [2, 1]),  # unless others waited longer for its bytes
        ([100, 200, 300], [10, 10, 10], [0, 0, 1], [2]),  # what nobody waits for is not loaded
        ([100, 2000, 300], [1, 9e9, 1], [1, 1, 1], [0, 2]),  # nor what no cache holds
        ([0, 200, 300], [9, 9, 9], [1, 1, 1], [1, 2]),  # nor what nobody knows the size of
    ],
)
def test_the_store_serves_the_longest_waits_for_its_bytes_first(
    size: list[int], waits: list[float], pods: list[int], asked: list[int]
) -> None:
    loads = Loads()
    see = outlook([[0, 0, 0]] * 4, size=size, waits=waits, pods=pods)
    from_store(loads, see)
    assert [column for _, column in loads.since] == asked
    assert len({row for row, _ in loads.since}) == len(asked)
    before = dict(loads.since)
    from_store(loads, see)
    assert loads.since == before  # the bound holds from pass to pass


def test_a_part_that_is_there_counts() -> None:
    loads = Loads()
    from_store(loads, outlook([[0.0, 0.8, 0], [0, 0, 0]], size=[100, 200, 90], waits=[9, 9, 9], pods=[1, 1, 1]))
    assert list(loads.since) == [(0, 1), (1, 2)]  # 40 GB, then 90; where most of it is


@pytest.mark.parametrize(
    ("ratio", "free", "pods", "row"),
    [
        ([[0, 0], [0, 0], [0, 0]], [0, 1, 1], [1, 0], 1),  # a node with free slots
        ([[0, 1], [0, 0], [0, 1]], [0, 0, 0], [1, 8], 1),  # one with nothing to do for what it holds
        ([[0, 0], [0, 0], [0.5, 0]], [0, 0, 0], [1, 0], 2),  # one that holds a part
    ],
)
def test_where(ratio: list[list[float]], free: list[int], pods: list[int], row: int) -> None:
    loads = Loads()
    from_store(loads, outlook(ratio, size=[100, 100], pods=pods, waits=[5, 0], free=free))
    assert list(loads.since) == [(row, 0)]


@pytest.mark.parametrize(
    ("pods", "nodes", "asked"),
    [([8, 0], 4, 0), ([9, 0], 4, 1), ([24, 0], 4, 2), ([24, 0], 2, 1), ([99, 0], 4, 3), ([9, 9], 4, 1)],
)
def test_a_crowd_is_given_copies(pods: list[int], nodes: int, asked: int) -> None:
    """One more node whenever more pods wait than its nodes, loading ones included, have slots. Nobody holds the second."""
    loads = Loads()
    see = outlook([[1, 0]] + [[0, 0]] * (nodes - 1), size=[100, 100], pods=pods)
    for _ in range(3):
        copies(loads, see)
    assert len(loads.since) == asked
    assert all(column == 0 and row > 0 for row, column in loads.since)


@pytest.mark.parametrize(
    ("ratio", "pods", "running", "now", "stays"),
    [
        (0.5, 1, False, 10.0, True),
        (0.5, 0, True, 10.0, True),
        (0.5, 0, False, 10.0, False),
        (0.995, 1, True, 10.0, False),
        (0.5, 1, True, prefetch.TIMEOUT + 1, False),
    ],
)
def test_when_a_load_ends(ratio: float, pods: int, running: bool, now: float, stays: bool) -> None:
    loads = Loads()
    loads.ask(0, 0, 0.0, started=False)
    review(loads, outlook([[ratio]], size=[100], pods=[pods], now=now), np.array([running]))
    assert ((0, 0) in loads.since) is stays
    assert ((0, 0) in loads.seen) is stays


def test_growth_is_seen() -> None:
    loads = Loads()
    loads.ask(0, 0, 5.0, started=False)
    assert loads.grown == 5
    for now, ratio, grown in ((10, 0.1, 10), (20, 0.1, 10), (30, 0.05, 10), (40, 0.2, 40)):
        review(loads, outlook([[ratio]], size=[100], pods=[1], now=now), NONE)
        assert loads.grown == grown
