"""Places that are held for pods which preemption has made room for (`status.nominatedNodeName`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from forebay.scheduler.arrays.storage import NOWHERE
from forebay.scheduler.pods.request import Request


class Nomination(NamedTuple):
    uid: str
    node: str
    priority: int
    request: Request


class Nominations:
    """Against a pod of priority p, those of priority p and higher count. Who decides for a nominated pod drops its own first."""

    def __init__(self) -> None:
        self._all: dict[str, tuple[Nomination, int]] = {}

    def __len__(self) -> int:
        return len(self._all)

    def put(self, nomination: Nomination, row: int) -> None:
        """`row` is NOWHERE while the node is not known."""
        self._all[nomination.uid] = (nomination, row)

    def get(self, uid: str) -> Nomination | None:
        """The pod's own nomination."""
        return self._all[uid][0] if uid in self._all else None

    def drop(self, uid: str) -> None:
        self._all.pop(uid, None)

    def arrive(self, node: str, row: int) -> None:
        self._at(node, row)

    def leave(self, node: str) -> None:
        self._at(node, NOWHERE)

    def _at(self, node: str, row: int) -> None:
        self._all = {uid: (one, row if one.node == node else at) for uid, (one, at) in self._all.items()}

    def ahead(self, priority: int) -> dict[int, list[Nomination]]:
        """Row -> nominations that a pod of this priority gives way to, the highest first."""
        found: dict[int, list[Nomination]] = {}
        if self._all:
            for one, row in sorted(self._all.values(), key=lambda each: (-each[0].priority, each[0].uid)):
                if row != NOWHERE and one.priority >= priority:
                    found.setdefault(row, []).append(one)
        return found

    def classes(self) -> set[int]:
        return {one.request.constraints for one, _ in self._all.values()}

    def renew(self, change: Callable[[Request], Request]) -> None:
        """Requests in their new form."""
        self._all = {uid: (one._replace(request=change(one.request)), row) for uid, (one, row) in self._all.items()}
