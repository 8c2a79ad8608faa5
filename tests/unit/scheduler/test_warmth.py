"""Hints: what they say, and that none of them can break anything."""

from __future__ import annotations

import math
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forebay.api.hints.datasethints import DatasetHintsStatus, NodeHint
from forebay.api.hints.nodecache import HeldBytes, HeldDataset, NodeCacheStatus, Warming
from forebay.scheduler.locality.warmth import STALE, Warmth, seconds

NOW = 1_800_000_000.0


def moment(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def node(*held: HeldDataset, at: float = NOW) -> NodeCacheStatus:
    return NodeCacheStatus(moment(at), (), 0, 0, "", "", len(held), held)


def holds(name: str, *amounts: int, eta: int | None = None) -> HeldDataset:
    tiers = tuple(HeldBytes(medium, amount) for medium, amount in zip(("MEM", "SSD", "HDD"), amounts, strict=False))
    warming = {} if eta is None else {"warming": Warming(1, eta_seconds=eta)}
    return HeldDataset("ns", name, "Owner", tiers, **warming)


def dataset(total: int, *nodes: NodeHint, at: float = NOW, store: int = 0) -> DatasetHintsStatus:
    return DatasetHintsStatus(moment(at), total, 0, "", "", 0, len(nodes), nodes, store_bytes_per_second=store)


@pytest.fixture
def warmth() -> Warmth:
    one = Warmth(["a", "b"], 5, 10)
    one.resize("ns/d", 100)
    return one


def test_what_a_node_says(warmth: Warmth) -> None:
    assert warmth.node_says("a", node(holds("d", 20, 30, eta=7), holds("e", 5)), NOW)
    assert warmth.believed(NOW).tolist() == [[50, 5], [0, 0]]
    assert warmth.remaining(0, NOW + 3).tolist() == [4, math.inf]
    assert warmth.remaining(0, NOW + 8).tolist() == [math.inf, math.inf]  # should be done and is not: nobody counts on it
    warmth.node_says("a", node(holds("e", 6)), NOW)  # what it no longer names it no longer holds
    assert warmth.believed(NOW).tolist() == [[0, 6], [0, 0]]


def test_a_quiet_node_that_lives_stays_warm_and_its_load_goes_on(warmth: Warmth) -> None:
    warmth.node_says("a", node(holds("d", 20, eta=300)), NOW)
    later = NOW + 2 * STALE
    assert warmth.believed(later).tolist() == [[0], [0]]
    for seconds_ in range(0, int(2 * STALE) + 1, 60):
        warmth.still("a", NOW + seconds_)
    warmth.still("b", later)  # it never spoke
    warmth.still("unknown", later)
    assert warmth.believed(later).tolist() == [[20], [0]]
    assert warmth.remaining(0, later).tolist() == [300 - 2 * STALE, math.inf]
    warmth.still("a", later + 100)
    assert warmth.remaining(0, later + 100).tolist() == [math.inf, math.inf], "late by now"
    warmth.still("a", later)
    assert warmth.believed(later + 100).tolist() == [[20], [0]], "nobody goes back in time"


def test_what_a_dataset_says(warmth: Warmth) -> None:
    warmth.node_says("a", node(holds("d", 60), at=NOW), NOW)
    hints = dataset(80, NodeHint("a", 10), NodeHint("b", 40, eta_seconds=9), NodeHint("gone", 99), at=NOW - 5, store=77)
    warmth.dataset_says("ns/d", hints, NOW)
    assert (int(warmth.size[0]), warmth.store) == (80, 77)
    assert warmth.believed(NOW).tolist() == [[60], [40]]  # the node itself spoke later
    assert warmth.remaining(0, NOW).tolist() == [math.inf, 4]


def test_a_load_of_a_node_that_fell_silent_is_none(warmth: Warmth) -> None:
    warmth.node_says("a", node(holds("d", 20, eta=10**9)), NOW)
    assert warmth.remaining(0, NOW + STALE).tolist() == [10**9 - STALE, math.inf]
    assert warmth.remaining(0, NOW + STALE + 1).tolist() == [math.inf, math.inf]


def test_hints_of_one_dataset_do_not_put_off_the_end_of_another_load(warmth: Warmth) -> None:
    warmth.node_says("a", node(holds("d", 60, eta=100), holds("e", 5)), NOW)
    warmth.dataset_says("ns/e", dataset(80, NodeHint("a", 10), at=NOW + 30), NOW + 30)
    assert warmth.remaining(0, NOW + 40).tolist() == [60, math.inf]


@pytest.mark.parametrize(
    ("held", "believed"),
    [
        (holds("d", 10**18), 100),  # more than there is
        (holds("d", -5), 0),
        (holds("d", -5, 7), 7),
        (holds("d"), 0),
        (holds("d", 2**70), 100),
    ],
)
def test_bytes_that_cannot_be(warmth: Warmth, held: HeldDataset, believed: int) -> None:
    warmth.node_says("a", node(held), NOW)
    assert warmth.believed(NOW)[0, 0] == believed


def test_a_size_that_shrinks_cuts_what_is_held(warmth: Warmth) -> None:
    warmth.node_says("a", node(holds("d", 90)), NOW)
    warmth.resize("ns/d", 40)
    assert warmth.believed(NOW)[0, 0] == 40
    warmth.resize("ns/d", -3)
    assert warmth.size[0] == 0


@pytest.mark.parametrize(
    ("at", "asked", "fresh"),
    [
        (NOW, NOW + STALE, True),
        (NOW, NOW + STALE + 1, False),
        (NOW + 9000, NOW + STALE, True),  # from the future: taken as of when it came
        (NOW + 9000, NOW + STALE + 1, False),
        (NOW - 5000, NOW, False),
    ],
)
def test_age(warmth: Warmth, at: float, asked: float, fresh: bool) -> None:
    warmth.node_says("a", node(holds("d", 50), at=at), NOW)
    assert warmth.believed(asked)[0, 0] == (50 if fresh else 0)


def test_a_clock_that_jumps_back_makes_no_hint_stale(warmth: Warmth) -> None:
    warmth.node_says("a", node(holds("d", 50)), NOW)
    assert warmth.believed(NOW - 86_400)[0, 0] == 50


@pytest.mark.parametrize("text", ["", "yesterday", "2026-13-45T00:00:00Z"])
def test_a_time_that_is_none_is_never(text: str) -> None:
    assert seconds(text, NOW) == -math.inf


def test_a_node_that_vanishes_or_is_unknown(warmth: Warmth) -> None:
    warmth.node_says("a", node(holds("d", 50)), NOW)
    warmth.forget("a")
    assert not warmth.believed(NOW).any()
    assert not warmth.node_says("elsewhere", node(holds("d", 50)), NOW)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from("ab"), st.sampled_from("de"), st.integers(-(2**70), 2**70), st.floats(-1e9, 1e9)), max_size=8
    )
)
def test_whatever_is_said_what_is_believed_is_possible(said: list[tuple[str, str, int, float]]) -> None:
    one = Warmth(["a", "b"])
    one.resize("ns/d", 1000)
    for name, which, amount, age in said:
        one.node_says(name, node(holds(which, amount), at=NOW + age), NOW)
        believed = one.believed(NOW)
        assert (believed >= 0).all()
        assert (believed[:, 0] <= 1000).all()
        assert (one.observed <= NOW).all()
        assert not np.isnan(one.remaining(0, NOW)).any()
