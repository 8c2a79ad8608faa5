"""What the baselines divide by: the largest node."""

from __future__ import annotations

from forebay.scheduler.arrays.state import State


def largest(state: State) -> tuple[float, float]:
    """The most CPU (first column) and the most card milli that any node offers, at least 1 each."""
    return float(max(state.allocatable[:, 0].max(), 1)), float(max(state.card_milli.sum(axis=1).max(), 1))
