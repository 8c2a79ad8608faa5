"""Reads the openb trace: nodes, pods and recorded arrival sequences. The only module of the planner that opens files.

The data is not part of this project: docs/scheduler.md says where it comes from.
"""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from forebay.scheduler.arrays.state import Card, Node, State
from forebay.scheduler.pods.request import FULL, Request

COLUMNS = ("cpu_milli", "memory_mib")
MOST_CARDS = 64


class TraceError(ValueError):
    """A file that is not what it should be; `str()` names file, line, field, value and remedy."""

    def __init__(  # noqa: PLR0917 - the parts of its sentence, in their order
        self, path: Path, line: int, field: str, value: object, message: str, remedy: str
    ) -> None:
        where = f"{path}:{line}" if line else str(path)
        subject = " ".join(part for part in (field, "" if value is None else repr(value)[:80], message) if part)
        super().__init__(f"{where}: {subject}; {remedy}")


@dataclass(frozen=True, slots=True)
class TracePod:
    """One line of a pod list. `models` are the accepted card models by name, () for any."""

    name: str
    cpu_milli: int
    memory_mib: int
    cards: int
    milli: int  # of each card
    models: tuple[str, ...]

    def request(self, state: State) -> Request:
        """What it asks, by the state's columns and models. Models that no node has are accepted by no card."""
        models = state.model_indexes(self.models) if self.models and self.cards else None
        return Request((self.cpu_milli, self.memory_mib), self.cards, self.milli, 0, models)


class Arrivals(msgspec.Struct, frozen=True):
    """One recorded order of arrivals: `rows` of the pod list, and each node's tie-break rank, nodes in file order."""

    seed: int
    originals: int
    demand_milli_gpu: int
    rows: list[int]
    node_rank: list[int]


def read_nodes(path: Path) -> list[Node]:
    """Nodes of a CSV with the columns sn, cpu_milli, memory_mib, gpu, model, in file order."""
    nodes = list[Node]()
    seen = dict[str, int]()
    for line, row in _rows(path, ("sn", *COLUMNS, "gpu", "model")):
        name, cards = row["sn"], _number(path, line, "gpu", row["gpu"], MOST_CARDS)
        if not name:
            raise TraceError(path, line, "sn", name, "is empty", "give every node a name")
        if name in seen:
            raise TraceError(path, line, "sn", name, f"is on line {seen[name]} too", "give every node a name of its own")
        if cards and not row["model"]:
            raise TraceError(path, line, "model", "", f"is empty for {cards} cards", "name the model")
        seen[name] = line
        resources = {column: _number(path, line, column, row[column]) for column in COLUMNS}
        nodes.append(Node(name, resources, (Card(row["model"]),) * cards))
    if not nodes:
        raise TraceError(path, 0, "", None, "has no nodes", "give a file with at least one line below its header")
    return nodes


def read_pods(path: Path) -> list[TracePod]:
    """Pods of a CSV with the columns name, cpu_milli, memory_mib, num_gpu, gpu_milli, perhaps gpu_spec; others are not read."""
    pods = list[TracePod]()
    for line, row in _rows(path, ("name", *COLUMNS, "num_gpu", "gpu_milli")):
        cards = _number(path, line, "num_gpu", row["num_gpu"], MOST_CARDS)
        milli = _number(path, line, "gpu_milli", row["gpu_milli"], FULL)
        if (cards == 0) != (milli == 0):
            raise TraceError(
                path, line, "gpu_milli", row["gpu_milli"], f"does not go with num_gpu {cards}", "write both or neither"
            )
        if cards > 1 and milli != FULL:
            raise TraceError(path, line, "gpu_milli", row["gpu_milli"], "is a share of several cards", "write 1000")
        models = tuple(sorted({name for name in (row.get("gpu_spec") or "").split("|") if name}))
        cpu, memory = (_number(path, line, column, row[column]) for column in COLUMNS)
        pods.append(TracePod(row["name"], cpu, memory, cards, milli, models))
    if not pods:
        raise TraceError(path, 0, "", None, "has no pods", "give a file with at least one line below its header")
    return pods


def read_arrivals(path: Path, pods: int, nodes: int) -> list[Arrivals]:
    """Sequences of a JSON lines file, gzipped or not, checked against the number of pods and nodes they speak of."""
    found = list[Arrivals]()
    for line, text in enumerate(_lines(path), 1):
        if not text.strip():
            continue
        try:
            one = msgspec.json.decode(text, type=Arrivals)
        except msgspec.ValidationError as e:
            raise TraceError(path, line, "", None, f"is no sequence: {e}", "see docs/scheduler.md for the fields") from e
        except msgspec.DecodeError as e:
            raise TraceError(path, line, "", None, f"is no JSON: {e}", "write one JSON object a line") from e
        _check(path, line, one, pods, nodes)
        if any(one.seed == other.seed for other in found):
            raise TraceError(path, line, "seed", one.seed, "is there twice", "write one line a seed")
        found.append(one)
    if not found:
        raise TraceError(path, 0, "", None, "has no sequences", "write one JSON object a line")
    return found


def _check(path: Path, line: int, one: Arrivals, pods: int, nodes: int) -> None:
    for row in one.rows:
        if not 0 <= row < pods:
            raise TraceError(
                path, line, "rows", row, f"is outside the pod list of {pods}", "use the list that the sequences were made for"
            )
    if sorted(one.node_rank) != list(range(nodes)):
        remedy = "use the node list that the sequences were made for"
        raise TraceError(path, line, "node_rank", f"{len(one.node_rank)} ranks", f"is no order of {nodes} nodes", remedy)
    if not 0 <= one.originals <= len(one.rows):
        raise TraceError(
            path, line, "originals", one.originals, f"is outside 0..{len(one.rows)}", "write how many rows are no clones"
        )


def _rows(path: Path, needed: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Lines of a CSV by column, with their line number."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file, restkey="(too many)", strict=True)
            missing = [column for column in needed if column not in (reader.fieldnames or ())]
            if missing:
                raise TraceError(
                    path, 1, "", None, f"has no column {', '.join(missing)}", f"write a header with {', '.join(needed)}"
                )
            for row in reader:
                if "(too many)" in row:
                    raise TraceError(
                        path, reader.line_num, "", None, "has more values than the header", "quote values with commas"
                    )
                if any(row[column] is None for column in needed):
                    raise TraceError(path, reader.line_num, "", None, "has fewer values than the header", "complete the line")
                yield reader.line_num, row
    except UnicodeDecodeError as e:
        raise TraceError(path, 0, "", None, f"is no UTF-8 text: byte {e.start}", "give a CSV file, not compressed") from e
    except csv.Error as e:
        raise TraceError(path, 0, "", None, f"is no CSV: {e}", "give a CSV file with a header") from e


def _number(path: Path, line: int, field: str, text: str, most: int = 1 << 53) -> int:
    try:
        value = int(text)
    except ValueError:
        raise TraceError(path, line, field, text, "is no whole number", "write digits only") from None
    if not 0 <= value <= most:
        raise TraceError(path, line, field, text, f"is outside 0..{most}", "write a number inside")
    return value


def _lines(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as plain:
            packed = plain.read(2) == b"\x1f\x8b"
            plain.seek(0)
            with gzip.open(plain) if packed else plain as file:
                yield from file
    except (gzip.BadGzipFile, EOFError, zlib.error) as e:
        raise TraceError(path, 0, "", None, f"is no whole gzip file: {e}", "copy it again") from e
