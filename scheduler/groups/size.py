"""Whether a gang could ever start: what no waiting changes is said at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from forebay.scheduler.arrays.slots import capacity
from forebay.scheduler.arrays.state import State
from forebay.scheduler.gang import Gang, Member


def too_large(state: State, gang: Gang) -> str:
    """The sentence for a gang that the empty cluster has no room for, else "".

    Never wrong in what it says; a gang can still be too large where this says nothing, because pods of several kinds share
    nodes, and because affinity, taints and selectors are not looked at.
    """
    for name, least in ((name, least) for name, least in gang.group_minimum.items()):
        room = _room(state, [member for member in gang.members if member.group == name], least)
        if room < least:
            return _sentence(f'group "{name}" of gang {gang.name}', least, room)
    room = _room(state, gang.members, gang.minimum)
    return _sentence(f"gang {gang.name}", gang.minimum, room) if room < gang.minimum else ""


def _room(state: State, members: Sequence[Member], least: int) -> int:
    """At most how many of the members the empty cluster takes."""
    room = 0
    for request, count in Counter(member.request for member in members).items():
        room += min(count, int(capacity(state, request).sum()))
        if room >= least:
            break
    return room


def _sentence(who: str, least: int, room: int) -> str:
    return f"{who} needs {least} pods at once and the empty cluster has room for {room}: add nodes, or make the gang smaller"
