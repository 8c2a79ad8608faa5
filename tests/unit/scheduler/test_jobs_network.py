"""Shared links: none carries more than it can, and nobody could get more without another getting less."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forebay.scheduler.jobs.network import share


@pytest.mark.parametrize(
    ("usage", "capacity", "weight", "cap", "rates"),
    [
        ([[1, 1]], [10], [1, 1], [20, 20], [5, 5]),
        ([[1, 1]], [10], [1, 1], [2, 20], [2, 8]),  # what one cannot use goes to the other
        ([[1, 1]], [10], [1, 3], [20, 20], [2.5, 7.5]),
        ([[1, 1]], [10], [1, 1], [4, 4], [4, 4]),
        ([[0.5, 1]], [9], [1, 1], [20, 20], [6, 6]),  # a job that hits its cache half of the time uses half a byte a byte
        ([[1, 1, 0], [0, 1, 1]], [10, 4], [1, 1, 1], [20, 20, 20], [8, 2, 2]),
        ([[1, 0]], [10], [1, 1], [20, 7], [10, 7]),  # the second uses no link that is full
        ([[1, 1]], [10], [1, 1], [0, 20], [0, 10]),
    ],
)
def test_shares(
    usage: list[list[float]], capacity: list[float], weight: list[float], cap: list[float], rates: list[float]
) -> None:
    given_rates = share(*(np.array(part, np.float64) for part in (usage, capacity, weight, cap)))
    assert given_rates == pytest.approx(rates)


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 4), st.integers(1, 7), st.randoms(use_true_random=False))
def test_max_min(links: int, flows: int, random: object) -> None:
    rng = np.random.default_rng(random.getrandbits(32))  # type: ignore[attr-defined]
    usage = rng.random((links, flows)) * (rng.random((links, flows)) < 0.7)
    capacity, weight, cap = rng.random(links) * 5 + 0.1, rng.random(flows) + 0.1, rng.random(flows) * 5
    rate = share(usage, capacity, weight, cap)
    assert (rate >= 0).all()
    assert (rate <= cap * (1 + 1e-9)).all()
    load = (usage * rate).sum(axis=1)
    assert (load <= capacity * (1 + 1e-6)).all()
    full = load >= capacity * (1 - 1e-6)
    level = rate / weight
    for flow in np.flatnonzero(rate < cap * (1 - 1e-6)):
        # a flow below its cap crosses a full link on which nobody has a higher level
        assert any(full[at] and usage[at, flow] > 0 and level[flow] >= level[usage[at] > 0].max() - 1e-6 for at in range(links))
