"""What a pass of the dispatcher is asked and what it says: who starts where, and what is to be loaded. `why` says the rest."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from forebay.scheduler.gang import Gang
from forebay.scheduler.plan import Plan


@dataclass(frozen=True, slots=True)
class Ask:
    """A gang in the queue. `dataset` is `namespace/name`, "" for none; `since` seconds of its submission."""

    gang: Gang
    dataset: str
    since: float


class Order(msgspec.Struct, frozen=True, order=True):
    """Have the node load the dataset. Advice: nothing depends on its being followed."""

    node: str
    dataset: str


@dataclass(frozen=True, slots=True)
class Decision:
    """`prefetch` is all that should be loading now: what is not among it need not go on."""

    plans: tuple[Plan, ...] = ()
    prefetch: tuple[Order, ...] = ()
