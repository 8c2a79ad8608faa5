"""Changes of a state that are kept together or undone together."""

from __future__ import annotations

from types import TracebackType

from forebay.scheduler.arrays.state import State
from forebay.scheduler.devices.card import Part
from forebay.scheduler.pods.request import Request


class Transaction:
    """`with Transaction(state) as t: ...; t.commit()`. Without the commit, whatever ends the block undoes all, last first.

    The undone arrays are bit-identical to those before; only the stamps of the touched rows have grown.
    """

    def __init__(self, state: State) -> None:
        self.state = state
        self.done: list[tuple[int, Request, tuple[int, ...], tuple[Part, ...]]] = []

    def __enter__(self) -> Transaction:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.undo()

    def place(self, row: int, request: Request, cards: tuple[int, ...], parts: tuple[Part, ...] = ()) -> None:
        """As `State.place`, remembered."""
        self.state.place(row, request, cards, parts)
        self.done.append((row, request, cards, parts))

    def undo(self, to: int = 0) -> None:
        """Give back all but the first `to` placements."""
        while len(self.done) > to:
            self.state.release(*self.done.pop())

    def commit(self) -> None:
        """Keep what was placed; nothing of it can be undone here any more."""
        self.done.clear()
