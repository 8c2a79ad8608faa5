"""The one record of what a pod holds, from which every other notation is written. Our own annotation holds all of it.

Other notations leave something out (container names, init containers, cores, units), so after a restart ours is read first.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from forebay.scheduler.devices.card import Part, Seat, Use, collapse

ANNOTATION = "forebay.io/devices"
VERSION = 1
"""Of the annotation. A reader refuses a newer one."""


class Record(msgspec.Struct, frozen=True):
    """What one pod holds on one node. `name` is namespace/name; `time` when that was decided, ns since 1970.

    `api`: in whose names the pod asked.
    """

    uid: str
    name: str
    node: str
    seats: tuple[Seat, ...]
    parts: tuple[Part, ...]
    api: str = "hami"
    time: int = 0

    def uses(self) -> dict[str, Use]:
        """Card id -> what the pod needs of it. Raises ValueError for parts that contradict each other."""
        return collapse(self.seats, self.parts)


class _Written(msgspec.Struct, frozen=True):
    version: int
    record: Record


def render(record: Record) -> dict[str, str]:
    """The annotation that holds the record."""
    return {ANNOTATION: msgspec.json.encode(_Written(VERSION, record)).decode()}


def read(annotations: Mapping[str, str]) -> Record | None:
    """The record of our own annotation, None where there is none. Raises ValueError, as a sentence, for an unreadable one."""
    text = annotations.get(ANNOTATION)
    if text is None:
        return None
    try:
        version = msgspec.json.decode(text, type=dict[str, msgspec.Raw]).get("version", msgspec.Raw(b"0"))
        if int(bytes(version)) > VERSION:
            raise ValueError(f"{ANNOTATION} is of version {bytes(version).decode()}, this scheduler reads {VERSION}: upgrade it")
        record = msgspec.json.decode(text, type=_Written).record
        record.uses()
    except (msgspec.MsgspecError, RecursionError) as wrong:
        raise ValueError(f"{ANNOTATION} is no record of ours ({wrong}): delete the annotation, or the pod") from wrong
    return record
