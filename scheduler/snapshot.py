"""All that a pass decides from, as one record: written where it matters, restored anywhere, decided again bit for bit.

A dump is a file of JSON lines, gzipped if its name ends in `.gz`: a `Head`, then one `Record` for each pass that was kept.
"""

from __future__ import annotations

import gzip
import math
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec
import numpy as np

from forebay.scheduler.arrays.slots import Shapes
from forebay.scheduler.arrays.state import NO_CARD, Card, Node, State
from forebay.scheduler.decision import Ask, Decision
from forebay.scheduler.dispatcher import Dispatcher, Running
from forebay.scheduler.locality.warmth import Warmth
from forebay.scheduler.plan import Plan

VERSION = 1
"""Of a dump. A reader refuses a newer one."""


class Waiter(msgspec.Struct, frozen=True):
    """A gang in the queue, and how many younger pods started before it."""

    ask: Ask
    passed: int


class Runner(msgspec.Struct, frozen=True):
    """A gang that runs, where, and on which dataset ("" for none)."""

    ask: Ask
    plan: Plan


class Load(msgspec.Struct, frozen=True):
    """A load that was asked for."""

    node: str
    dataset: str
    since: float
    started: bool
    seen: float = 0.0


class Belief(msgspec.Struct, frozen=True):
    """`Warmth`, without what is nothing: `held` and `eta` are (row, column, value); `observed` is None for never."""

    datasets: list[str]
    sizes: list[int]
    held: list[tuple[int, int, int]]
    eta: list[tuple[int, int, float]]
    observed: list[float | None]
    store: int
    nic: int


class Snapshot(msgspec.Struct, frozen=True):
    """Before a pass. `asked` were submitted since the last one."""

    now: float
    columns: list[str]
    nodes: list[Node]
    capacity: int
    running: list[Runner]
    waiting: list[Waiter]
    asked: list[Ask]
    loads: list[Load]
    grown: float | None
    """When a load was last seen to grow, None for never."""
    shapes: list[float] | None
    belief: Belief


class Head(msgspec.Struct, frozen=True):
    """The first line of a dump: its version, and what it is of, for people."""

    version: int
    about: str


class Record(msgspec.Struct, frozen=True):
    """A pass: what it saw, and what it said."""

    snapshot: Snapshot
    decision: Decision


class DumpError(ValueError):
    """A file that is no dump, or one that this version cannot read."""


def nodes_of(state: State) -> list[Node]:
    """What the nodes offer, from the arrays."""
    found = list[Node]()
    for row, name in enumerate(state.names):
        cards = tuple(
            Card(state.models[state.card_model[row, place]], int(state.card_memory[row, place]))
            for place in range(state.card_model.shape[1])
            if state.card_model[row, place] != NO_CARD
        )
        found.append(Node(name, dict(zip(state.columns, state.allocatable[row].tolist(), strict=True)), cards))
    return found


def believe(warmth: Warmth) -> Belief:
    """The hints as they are."""
    rows, columns = np.nonzero(warmth.held)
    held = list(zip(rows.tolist(), columns.tolist(), warmth.held[rows, columns].tolist(), strict=True))
    rows, columns = np.nonzero(~np.isnan(warmth.eta))
    eta = list(zip(rows.tolist(), columns.tolist(), warmth.eta[rows, columns].tolist(), strict=True))
    observed = [None if math.isinf(at) else at for at in warmth.observed.tolist()]
    return Belief(list(warmth.datasets), warmth.size.tolist(), held, eta, observed, warmth.store, warmth.nic)


def capture(dispatcher: Dispatcher, warmth: Warmth, now: float) -> Snapshot:
    """Everything the next pass will look at."""
    loads = dispatcher.loads
    return Snapshot(
        now,
        list(dispatcher.state.columns),
        nodes_of(dispatcher.state),
        dispatcher.capacity,
        [Runner(one.ask, one.plan) for one in dispatcher.running.values()],
        [Waiter(entry.ask, dispatcher.waiting.passed(entry)) for entry in dispatcher.waiting],
        list(dispatcher.asked),
        [
            Load(
                dispatcher.state.names[row],
                warmth.datasets[column],
                since,
                loads.started[row, column],
                loads.seen.get((row, column), 0.0),
            )
            for (row, column), since in loads.since.items()
        ],
        None if math.isinf(loads.grown) else loads.grown,
        None if dispatcher.shapes is None else dispatcher.shapes.weight.tolist(),
        believe(warmth),
    )


def restore(snapshot: Snapshot) -> tuple[Dispatcher, Warmth]:
    """A dispatcher and hints that decide what the captured ones decided."""
    state = State(snapshot.nodes, snapshot.columns)
    belief = snapshot.belief
    warmth = Warmth(state.names, belief.store, belief.nic)
    for name, size in zip(belief.datasets, belief.sizes, strict=True):
        warmth.resize(name, size)
    for row, column, amount in belief.held:
        warmth.held[row, column] = amount
    for row, column, left in belief.eta:
        warmth.eta[row, column] = left
    warmth.observed[:] = [-math.inf if at is None else at for at in belief.observed]
    dispatcher = Dispatcher(state, snapshot.capacity)
    dispatcher.adopt(
        warmth, snapshot.now, [Running(one.ask, one.plan, _column(warmth, one.ask.dataset)) for one in snapshot.running]
    )
    for waiter in snapshot.waiting:
        entry = dispatcher.waiting.add(waiter.ask, _column(warmth, waiter.ask.dataset))
        dispatcher.waiting.set_passed(entry, waiter.passed)
    dispatcher.asked.extend(snapshot.asked)
    loads = dispatcher.loads
    for load in snapshot.loads:
        where = state.row_of[load.node], warmth.column(load.dataset)
        loads.since[where], loads.started[where], loads.seen[where] = load.since, load.started, load.seen
    loads.grown = -math.inf if snapshot.grown is None else snapshot.grown
    if snapshot.shapes is not None:
        dispatcher.shapes = Shapes(len(snapshot.shapes) - 1)
        dispatcher.shapes.weight[:] = snapshot.shapes
    return dispatcher, warmth


def _column(warmth: Warmth, dataset: str) -> int:
    return warmth.column(dataset) if dataset else -1


def _open(path: Path) -> gzip.GzipFile | BinaryIO:
    return gzip.GzipFile(path, "wb", compresslevel=6, mtime=0) if path.suffix == ".gz" else path.open("wb")


class Writer:
    """Writes a dump: `with Writer(path, about) as writer: writer.add(record)`."""

    def __init__(self, path: Path, about: str) -> None:
        self._file: gzip.GzipFile | BinaryIO = _open(path)
        self._encode = msgspec.json.Encoder().encode
        self._file.write(self._encode(Head(VERSION, about)) + b"\n")

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, record: Record) -> None:
        self._file.write(self._encode(record) + b"\n")


def read(path: Path) -> Iterator[Record]:
    """The passes of a dump. Raises DumpError with file and line."""
    record = msgspec.json.Decoder(Record)
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    if number > 1:
                        yield record.decode(line)
                        continue
                    head = msgspec.json.decode(line, type=Head)
                except msgspec.DecodeError as e:
                    raise DumpError(f"{path}:{number}: is no line of a dump ({e}): give a file that --dump wrote") from None
                if head.version > VERSION:
                    raise DumpError(f"{path}: has version {head.version}, this forebay reads up to {VERSION}: use a newer one")
    except (EOFError, gzip.BadGzipFile) as e:
        raise DumpError(f"{path}: is cut or not gzipped ({e}): write it again") from None


def again(record: Record) -> bool:
    """Whether deciding once more from the snapshot says the same, byte for byte."""
    dispatcher, warmth = restore(record.snapshot)
    decision = dispatcher.decide(record.snapshot.now, warmth)
    encode = msgspec.json.Encoder().encode
    return encode(decision) == encode(record.decision)
