"""What is written on the objects of gangs (PodGroups) about their pods, and when. Pure: the caller says what time it is.

Written is what differs from what stands there, each time naming the version of the object that it was made from: whoever writes
in between makes it fail, and the newer object, which the watch brings, is looked at anew. Who writes over what we have written
has the last word until there is something new to say, so that no two write in turn. A group with a pod of another scheduler is
that scheduler's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

from forebay.api.kubernetes.core import Pod
from forebay.api.moments import rfc3339
from forebay.scheduler.groups import Groups
from forebay.scheduler.groups.reading import mapping, text
from forebay.scheduler.groups.status import Reason, Shown, Standing, Tally, Why, coarse, cut, differs, patch, shown
from forebay.scheduler.live.instructions import Status

QUIET = 1.0
"""Seconds from what is new to its being written: a gang whose pods are made one by one and then start is written once."""
PAUSE = 10.0
"""Seconds between two writes of one object for counts and sentences alone."""

WAITING = "waiting"
PHASES = {"Running": "running", "Succeeded": "succeeded", "Failed": "failed"}


class _Of(NamedTuple):
    """A pod: its group, its task, its state as in `Tally`, whether it is ours."""

    key: str
    task: str
    state: str
    ours: bool


@dataclass(slots=True)
class _Group:
    """Pods by state; tasks of those with a node; how many are another scheduler's; whether one was ours; why it waits."""

    states: Counter[str] = field(default_factory=Counter)
    tasks: Counter[str] = field(default_factory=Counter)
    others: int = 0
    ours: bool = False
    why: Why | None = None


@dataclass(slots=True)
class _Object:
    """An object as it stands, and what we asked for last, of which version and when; `landed`: it has stood there since."""

    standing: Standing
    uid: str
    version: str
    asked: Shown | None = None
    asked_of: str = ""
    asked_at: float = float("-inf")
    landed: bool = False


class Statuses:
    """Objects by kind and full name, groups by `Groups.named`."""

    def __init__(self, groups: Groups) -> None:
        self._groups = groups
        self._objects: dict[tuple[str, str], _Object] = {}
        self._pods: dict[str, _Of] = {}
        self._there: dict[str, _Group] = {}
        self._new: dict[str, None] = {}
        self._at: dict[str, float] = {}  # groups that are looked at, and when

    # --- what comes in ---

    def object(self, kind: str, namespace: str, short: str, new: Mapping[str, Any] | None) -> None:
        """An object as it is now, None for one that is gone; its kind is a `Source.name`, and `Groups` knows of it already."""
        name = f"{namespace}/{short}"
        key = self._groups.key(kind, name)
        self._new[key] = None
        if new is None:
            self._objects.pop((kind, name), None)
            self._tidy(key)
            return
        meta = mapping(new.get("metadata"))
        generation, status = meta.get("generation"), mapping(new.get("status"))
        standing = Standing(kind, text(new.get("apiVersion")), generation if isinstance(generation, int) else 0, status)
        uid, version = text(meta.get("uid")), text(meta.get("resourceVersion"))
        one = self._objects.get((kind, name))
        if one is None or one.uid != uid:
            one = self._objects[kind, name] = _Object(standing, uid, version)
        one.standing, one.version = standing, version
        one.landed = one.landed or (one.asked is not None and not differs(one.asked, status))

    def pod(self, pod: Pod, *, ours: bool) -> None:
        """A pod as it is now."""
        uid, state = pod.metadata.uid, _state(pod)
        key, task = self._groups.named(pod)
        now = _Of(key, task, state, ours) if key and state else None
        if now != self._pods.get(uid):
            self.gone(uid)
            if now is not None:
                self._pods[uid] = now
                self._count(now, 1)

    def gone(self, uid: str) -> None:
        """A pod that is no more. Unknown ones are no mistake."""
        before = self._pods.pop(uid, None)
        if before is not None:
            self._count(before, -1)

    def waits(self, pods: Iterable[Pod], reason: Reason, sentence: str) -> None:
        """A job was tried in vain: why."""
        why = Why(reason, cut(sentence))
        for pod in pods:
            of = self._pods.get(pod.metadata.uid)
            if of is not None and of.state == WAITING and self._there[of.key].why != why:
                self._there[of.key].why = why
                self._new[of.key] = None

    def again(self) -> None:
        """What was asked for and has not stood there since, however that came, is asked for once more."""
        for (kind, name), one in self._objects.items():
            if one.asked is not None and not one.landed:
                one.asked = None
                self._new[self._groups.key(kind, name)] = None

    # --- what goes out ---

    def due(self, now: float, wall: float) -> list[Status]:
        """What is to be written. `now`: monotonic seconds; `wall`: of the epoch."""
        for key in self._new:
            self._at[key] = min(self._at.get(key, now + QUIET), now + QUIET)
        self._new.clear()
        done = list[Status]()
        for key in [key for key, at in self._at.items() if at <= now]:
            del self._at[key]
            done += self._look(key, now, wall)
        return done

    def _look(self, key: str, now: float, wall: float) -> Iterable[Status]:
        found, group = self._groups.described(key), self._there.get(key)
        if found is None or found[1].mistake or group is None or group.others or not group.ours:
            return ()
        kind, said = found
        name = key.rpartition(":")[2]
        one = self._objects[kind, name]
        states = group.states
        tally = Tally(group.tasks, states[WAITING], states["placed"], states["running"], states["succeeded"], states["failed"])
        wanted = shown(one.standing, said, tally, group.why)
        if not differs(wanted, one.standing.status):
            return ()
        if wanted == one.asked and (one.landed or one.version == one.asked_of):
            return ()  # somebody wrote over it, or it is under way
        if now < one.asked_at + PAUSE and not coarse(wanted, one.standing.status):
            self._at[key] = one.asked_at + PAUSE
            return ()
        one.asked, one.asked_of, one.asked_at, one.landed = wanted, one.version, now, False
        namespace, _, short = name.partition("/")
        body = patch(one.standing, wanted, rfc3339(datetime.fromtimestamp(wall, UTC)))
        return (Status(one.standing.api_version, namespace, short, one.uid, one.version, body),)

    # --- how ---

    def _count(self, of: _Of, by: int) -> None:
        group = self._there.setdefault(of.key, _Group())
        group.states[of.state] += by
        if of.state != WAITING:
            group.tasks[of.task] += by
        group.others += 0 if of.ours else by
        group.ours = group.ours or of.ours
        if not group.states[WAITING]:
            group.why = None
        self._new[of.key] = None
        self._tidy(of.key)

    def _tidy(self, key: str) -> None:
        """A group without pods and without an object is forgotten."""
        group = self._there.get(key)
        if group is not None and not group.states.total() and self._groups.described(key) is None:
            del self._there[key]


def full_name(value: Mapping[str, Any]) -> tuple[str, str]:
    """Namespace and name of an object."""
    meta = mapping(value.get("metadata"))
    return text(meta.get("namespace")), text(meta.get("name"))


def _state(pod: Pod) -> str:
    """ "" for one that counts for nobody: it ended, or is being deleted, and never had a node."""
    phase = PHASES.get(pod.status.phase, "")
    if pod.spec.node_name:
        return phase or "placed"
    return "" if phase in ("succeeded", "failed") or pod.metadata.deletion_timestamp else WAITING
