"""What the core wants done, and what came of it. Plain records: no call is made here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple


class Named(NamedTuple):
    """A pod, by everything that names it."""

    namespace: str
    name: str
    uid: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class VolumeWish(NamedTuple):
    """A claim that waited for its first pod: the volume it shall get, or the node where one is made for it."""

    claim: str
    volume: str = ""
    node: str = ""


@dataclass(frozen=True, slots=True)
class ClaimWish:
    """A claim on devices: `devices` (driver, pool, device) that it has, or gets if it has none and `ours`: then `allocation` is
    written in its status."""

    claim: str
    uid: str
    devices: tuple[tuple[str, str, str], ...]
    allocation: Mapping[str, Any] = field(default_factory=dict)
    ours: bool = False


@dataclass(frozen=True, slots=True)
class Bind:
    """Put the pod on the node, with the annotations that say what it holds. `number` names this attempt in its `Outcome`.

    Binds of one `gang` that come in one answer are one attempt: all are rehearsed before the first is made. `gated`: the pod
    belongs to another scheduler and waits at our gate: it gets an affinity and loses the gate.
    """

    pod: Named
    node: str
    number: int
    annotations: Mapping[str, str] = field(default_factory=dict)
    gang: str = ""
    volumes: tuple[VolumeWish, ...] = ()
    gated: bool = False
    claims: tuple[ClaimWish, ...] = ()


@dataclass(frozen=True, slots=True)
class Cancel:
    """The attempts, if they have not been sent yet: an Outcome `withheld` says so, else what came of them."""

    numbers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Tell:
    """The pod cannot be placed: condition PodScheduled=False and an Event. `nominated`: where room is made for it, None to
    leave it as it is. `said`: the condition is False already."""

    pod: Named
    reason: Literal["Unschedulable", "SchedulerError"]
    sentence: str
    nominated: str | None = None
    said: bool = False


@dataclass(frozen=True, slots=True)
class Report:
    """A Warning about an object: a partial gang, a broken quota."""

    api_version: str
    kind: str
    namespace: str
    name: str
    uid: str
    reason: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Status:
    """Merge this into the status of a PodGroup, if it is still of this version."""

    api_version: str
    namespace: str
    name: str
    uid: str
    version: str
    status: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete the pod (graceful; only if it is still this one), after saying why on it."""

    pod: Named
    reason: str
    sentence: str


@dataclass(frozen=True, slots=True)
class FreeClaim:
    """The pod waits, nobody else uses its claim, and where its devices are it does not fit: give them back."""

    pod: Named
    claim: str
    uid: str


@dataclass(frozen=True, slots=True)
class Load:
    """A wish, written on the DatasetHints of a dataset: `nodes`, with commas, should load it; "" takes it back."""

    namespace: str
    name: str
    nodes: str


Instruction = Bind | Cancel | Tell | Report | Status | Delete | FreeClaim | Load

Result = Literal["bound", "refused", "gone", "failed", "withheld"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one Bind. `bound`: the server took it. `refused`: it never will, as things are (409: bound elsewhere, another pod of
    that name). `gone`: no such pod. `failed`: try again. `withheld`: it was not sent."""

    number: int
    uid: str
    result: Result
    sentence: str = ""
