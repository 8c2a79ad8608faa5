"""What was decided and what came of it, for metrics: since the start."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Counts:
    """`attempts` in kube-scheduler's words; `outcomes` of bindings."""

    attempts: dict[str, int] = field(default_factory=lambda: {"scheduled": 0, "unschedulable": 0, "error": 0})
    outcomes: dict[str, int] = field(default_factory=dict)
    races: int = 0
