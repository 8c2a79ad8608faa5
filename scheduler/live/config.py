"""What an administrator may set: one YAML file, each field checked and named when wrong. Pure but for `Reloader`'s reading."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec
import yaml

from forebay.api.problem import did_you_mean, show
from forebay.scheduler.devices.ecosystems.inputs import Settings as DeviceSettings
from forebay.scheduler.devices.vendors.kinds import GIB, MIB
from forebay.scheduler.pods.fill import Fill, Order
from forebay.scheduler.policies import POLICIES, unknown
from forebay.scheduler.preferences.worth import SECONDS

_FIELD = re.compile(r"`\$\.?(.*?)`")
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")


MOST_SECONDS = 1e6
"""Preferences are then worth more than anything else; beyond, differences of scores would be lost in rounding."""


class ConfigurationError(ValueError):
    """One sentence with file, field, value and remedy."""


class Backoff(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """Seconds before a job that failed is tried again: doubled by each failure. kube-scheduler's values."""

    first_seconds: float = 1.0
    longest_seconds: float = 10.0


class Gangs(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """`rehearse`: every binding of a gang is tried without effect (dry run) before the first is made. `repair_seconds`: how long
    members that could not follow those already bound are tried alone, before `partial` says what is done: `Report` tells
    it, `Delete` also deletes the members that are bound, so that their controller makes all of them anew."""

    rehearse: bool = True
    repair_seconds: float = 60.0
    partial: Literal["Report", "Delete"] = "Report"


class Events(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """`scheduled_per_second`: Events of placed pods, 0 for none; what comes beyond is counted and not written."""

    scheduled_per_second: float = 50.0


class Filling(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """How nodes, and the cards of a node, are filled where pod, queue and node label do not say; "" leaves it to the policy."""

    nodes: Order = ""
    cards: Order = ""


class Locality(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """`wait`: whether a gang may wait for room near its data, a load or its turn at the store, `longest_wait_seconds` at most,
    from when its first pod was made. `node_bytes_per_second`, `store_bytes_per_second`: of one node's link and of all stores
    together, 0 for what is usual (10 and 5 Gb/s). `publishers`: the namespace whose node plugins tell what nodes hold. `orders`:
    whether nodes are asked to load what gangs wait for.
    """

    wait: bool = True
    longest_wait_seconds: float = 600.0
    node_bytes_per_second: int = 0
    store_bytes_per_second: int = 0
    publishers: str = "forebay-system"
    orders: bool = True


class Configuration(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """`scheduler_name`: which pods are ours. `qps`, `burst`: bindings and conditions a second, 0 for no bound of ours.

    `bind_threads`: bindings under way at once. `gpu_mem_unit`: of one `aliyun.com/gpu-mem`. `mix_cores`: `core_mem` nodes take
    shares without a bound to their cores too; `mix_whole`: nodes give out whole cards and shares at a time. `preemption`: whether
    pods are deleted to make room for others. `reservations`: whether room is kept for the first jobs that find none. `gates`:
    whether pods of other schedulers that wait at our gate are placed too. `unhealthy_gpus`: namespace of the ConfigMaps in which
    gpushare says which cards are sick, "" where they are not read. `flush_seconds`: a job that waits for a change is tried after
    that long without. `preference_seconds`: what it is worth to meet all of one kind that a pod prefers, 0 for
    nothing. `volume_deadline_seconds`: until the claims of a pod that was placed must be bound.
    """

    scheduler_name: str = "forebay"
    policy: str = "forebay"
    qps: float = 0.0
    burst: int = 100
    bind_threads: int = 16
    backoff: Backoff = Backoff()
    gangs: Gangs = Gangs()
    events: Events = Events()
    locality: Locality = Locality()
    fill: Filling = Filling()
    gpu_mem_unit: Literal["GiB", "MiB"] = "GiB"
    mix_cores: bool = False
    mix_whole: bool = True
    patience_seconds: float = 3600.0
    preference_seconds: float = SECONDS
    preemption: bool = True
    reservations: bool = True
    gates: bool = False
    unhealthy_gpus: str = ""
    flush_seconds: float = 60.0
    volume_deadline_seconds: float = 600.0

    @property
    def filling(self) -> Fill:
        """What counts where pod and queue do not say; cards after their node's label (`devices`)."""
        return Fill(nodes=self.fill.nodes)

    @property
    def devices(self) -> DeviceSettings:
        unit = MIB if self.gpu_mem_unit == "MiB" else GIB
        return DeviceSettings(unit, self.mix_cores, self.mix_whole, self.fill.cards)


STARTED = ("scheduler_name", "bind_threads", "gpu_mem_unit", "unhealthy_gpus", "volume_deadline_seconds")
"""Fields that count from the start of the process: what was decided by them is in the books."""


def read(text: str, file: str) -> Configuration:
    """Raises ConfigurationError."""
    try:
        found: Any = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{file}: is no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(found, dict):
        raise ConfigurationError(f"{file}: holds no fields; write lines such as `schedulerName: forebay`")
    _known(found, Configuration, "", file)
    try:
        made = msgspec.convert(found, Configuration)
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"{file}: {_worded(str(error))}") from None
    wrong = problem(made)
    if wrong:
        raise ConfigurationError(f"{file}: {wrong}")
    return made


def problem(made: Configuration) -> str:
    """What cannot be, as a sentence; "" for nothing."""
    if not _LABEL.fullmatch(made.scheduler_name):
        return f"schedulerName {show(made.scheduler_name)} is no name that a pod can carry; write lower case, such as forebay"
    if made.scheduler_name == "default-scheduler":
        return "schedulerName default-scheduler is kube-scheduler's: two would bind the same pods; write another"
    if made.unhealthy_gpus and not _LABEL.fullmatch(made.unhealthy_gpus):
        return f"unhealthyGpus {show(made.unhealthy_gpus)} is no namespace; write one, such as kube-system"
    if made.policy not in POLICIES:
        return f"policy: {unknown(made.policy)}"
    if made.qps < 0 or (made.qps and made.burst < 1):
        return f"qps {made.qps:g} with burst {made.burst} lets nothing through; write qps 0 for no bound, or a burst of 1 or more"
    if not 1 <= made.bind_threads <= 256:
        return f"bindThreads {made.bind_threads} cannot be; write 1 to 256"
    if not 0 < made.backoff.first_seconds <= made.backoff.longest_seconds:
        first, longest = made.backoff.first_seconds, made.backoff.longest_seconds
        return f"backoff.firstSeconds {first:g} must be above 0 and at most backoff.longestSeconds {longest:g}"
    for name in ("patience_seconds", "flush_seconds", "volume_deadline_seconds"):
        if getattr(made, name) <= 0:
            return f"{_camel(name)} {getattr(made, name):g} is no time to wait; write seconds above 0"
    if not 0 <= made.preference_seconds <= MOST_SECONDS:
        return f"preferenceSeconds {made.preference_seconds:g} cannot be; write 0 to {MOST_SECONDS:g}, 0 to heed no preference"
    if made.locality.longest_wait_seconds < 0:
        return f"locality.longestWaitSeconds {made.locality.longest_wait_seconds:g} is no time to wait; write 0 or more"
    if made.locality.node_bytes_per_second < 0 or made.locality.store_bytes_per_second < 0:
        return "locality.nodeBytesPerSecond and locality.storeBytesPerSecond must be 0 or more"
    if made.gangs.repair_seconds < 0 or made.events.scheduled_per_second < 0:
        return "gangs.repairSeconds and events.scheduledPerSecond must be 0 or more"
    return ""


def changed_for_nothing(old: Configuration, new: Configuration) -> list[str]:
    """Fields that differ and count only after a restart."""
    return [_camel(name) for name in STARTED if getattr(old, name) != getattr(new, name)]


class Reloader:
    """Reads the file again when it changed. A bad one is told once, and the old configuration stays.

    `told(good, sentence)` is called for each change. Not a thread: `look` is called every few seconds. A file is compared by
    its text: a ConfigMap's is a link that is swapped, and may keep its size and time.
    """

    def __init__(self, path: Path, text: str, told: Callable[[Configuration | None, str], None]) -> None:
        self._path, self._text, self._told = path, text, told

    def look(self) -> None:
        try:
            text = self._path.read_text()
        except (OSError, UnicodeDecodeError) as error:
            text = f"\0{error}"
            if text != self._text:
                self._text = text
                why = getattr(error, "strerror", None) or str(error)
                self._told(None, f"{self._path}: cannot be read ({why}); the settings stay as they are")
            return
        if text == self._text:
            return
        self._text = text
        try:
            made = read(text, str(self._path))
        except ConfigurationError as error:
            self._told(None, f"{error}; the settings stay as they are")
        else:
            self._told(made, f"{self._path}: settings read anew")


def _known(fields: Mapping[Any, Any], kind: type[msgspec.Struct], above: str, file: str) -> None:
    """Unknown fields, with the one that was meant."""
    there = {field.encode_name: field.type for field in msgspec.structs.fields(kind)}
    for name, value in fields.items():
        if name not in there:
            hint = did_you_mean(str(name), there, "see docs/scheduler.md")
            raise ConfigurationError(f"{file}: {above}{show(name)} is no setting; {hint}")
        inner = there[name]
        if isinstance(inner, type) and issubclass(inner, msgspec.Struct) and isinstance(value, Mapping):
            _known(value, inner, f"{name}.", file)


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)


def _worded(error: str) -> str:
    match = _FIELD.search(error)
    return error if match is None else f"{match.group(1)}: {error[: match.start()].removesuffix(' - at ').rstrip()}"
