"""Copies: what a node keeps of bytes that belong to another. They go first when room is made, and are counted apart.

A row says by its flag whether it is a copy. The flag is set when the row is written first, and again when the members
changed (`reflag.py`).
"""

from __future__ import annotations

from collections import Counter

from forebay.cache.disk.index import COPY, Object
from forebay.cache.disk.policy import allocation


class Copies:
    """Objects that are copies, and the bytes they allocate, of each tier; and what all objects hold, copies or not.

    `held` and `content` are bytes of objects: what is allocated is rounded up for each, which matters where files are small.
    """

    def __init__(self) -> None:
        self.objects: Counter[int] = Counter()
        self.bytes: Counter[int] = Counter()
        self.content: Counter[int] = Counter()  # of copies
        self.held: Counter[int] = Counter()  # of all objects

    def changed(self, old: Object | None, new: Object | None) -> None:
        """A row became another; None where there is none."""
        for o, sign in ((old, -1), (new, 1)):
            if o is None:
                continue
            self.held[o.tier] += sign * o.present
            if o.flags & COPY:
                self.objects[o.tier] += sign
                self.bytes[o.tier] += sign * allocation(o.present)
                self.content[o.tier] += sign * o.present

    def total(self) -> dict[str, int]:
        """`objects` and `bytes` of all tiers."""
        return {"objects": self.objects.total(), "bytes": self.bytes.total()}
