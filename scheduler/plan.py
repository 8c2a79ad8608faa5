"""The only result of scheduling: where each pod of a gang goes, or why none does. Binder, simulator and `why` read it."""

from __future__ import annotations

import msgspec

from forebay.scheduler.devices.card import Part

VERSION = 1
"""Of the record. A reader refuses a newer one."""


class Placement(msgspec.Struct, frozen=True):
    """One pod on one node, with the cards it takes there by index; () for none.

    `devices`: what each of its containers gets of them, for pods that ask for devices by name.
    """

    pod: str
    node: str
    cards: tuple[int, ...] = ()
    devices: tuple[Part, ...] = ()


class Plan(msgspec.Struct, frozen=True):
    """The decision for one gang; a single pod is a gang of one.

    `placements` is empty exactly if `reason` is not: all that must run get a place, or nothing is held. `waiting` names the pods
    without a place, in a placed gang those above its minimum. `failed` counts nodes by what keeps the first pod that did not fit
    from them; a node counts for each of its reasons.
    """

    gang: str
    placements: tuple[Placement, ...] = ()
    waiting: tuple[str, ...] = ()
    reason: str = ""
    failed: dict[str, int] = {}
    version: int = VERSION

    @property
    def placed(self) -> bool:
        return not self.reason
