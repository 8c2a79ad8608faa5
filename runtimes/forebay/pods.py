"""Worker pods as a status speaks of them: one state each, and one sentence why it does not serve."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, get_args

import msgspec

from forebay.runtimes.engine import Object, Warned

State = Literal[
    "Ready",
    "NodeLost",
    "Leaving",
    "Crashing",
    "ImageMissing",
    "Misconfigured",
    "Evicted",
    "MountFailed",
    "Unschedulable",
    "Starting",
]
WORST: tuple[State, ...] = (
    "Crashing", "ImageMissing", "Misconfigured", "MountFailed", "Unschedulable", "NodeLost", "Evicted", "Starting", "Leaving",
)  # fmt: skip
"""Of several states the first here is told: what a person must act on before what passes by itself."""
assert {*WORST, "Ready"} == set(get_args(State))

_WAITING: dict[str, State] = {
    "CrashLoopBackOff": "Crashing",
    "ImagePullBackOff": "ImageMissing",
    "ErrImagePull": "ImageMissing",
    "ErrImageNeverPull": "ImageMissing",
    "InvalidImageName": "ImageMissing",
    "CreateContainerConfigError": "Misconfigured",
    "CreateContainerError": "Misconfigured",
    "RunContainerError": "Crashing",
}
_NO_SECRET = re.compile(r'secret "([a-z0-9.-]+)" not found')
_NO_KEY = re.compile(r"references non-existent secret key: (\S+)")
_MOUNT_EVENTS = ("FailedMount", "FailedAttachVolume")
SAID = 400
"""Characters of another's message that are passed on."""


class Pod(msgspec.Struct, frozen=True):
    name: str
    node: str  # "" until it has one
    state: State
    why: str = ""

    @property
    def serves(self) -> bool:
        return self.state == "Ready"


def read_pods(pods: Iterable[Object], nodes: Mapping[str, bool], warned: Sequence[Warned]) -> tuple[Pod, ...]:
    """By name. `nodes`: whether each is Ready; with none at all known, no pod counts as lost."""
    said = {(w.about.name, w.reason): w.message for w in warned if w.about.kind == "Pod"}
    return tuple(sorted((_read(pod, nodes, said) for pod in pods), key=lambda p: (len(p.name), p.name)))


def _read(pod: Object, nodes: Mapping[str, bool], said: Mapping[tuple[str, str], str]) -> Pod:
    name, node = pod["metadata"]["name"], (pod.get("spec") or {}).get("nodeName", "")
    state, why = _state(pod, node, nodes, said)
    return Pod(name, node, state, why[:SAID])


def _state(pod: Object, node: str, nodes: Mapping[str, bool], said: Mapping[tuple[str, str], str]) -> tuple[State, str]:
    status: Object = pod.get("status") or {}
    name = pod["metadata"]["name"]
    conditions = {c["type"]: c for c in status.get("conditions") or []}
    if node and nodes and not nodes.get(node, False):
        return "NodeLost", f"its node {node} {'is not ready' if node in nodes else 'is gone'}"
    if pod["metadata"].get("deletionTimestamp"):
        return "Leaving", "it is ending"
    if status.get("phase") in ("Failed", "Succeeded"):
        return "Evicted", ": ".join(t for t in (status.get("reason", "ended"), status.get("message", "")) if t)
    if conditions.get("Ready", {}).get("status") == "True":
        return "Ready", ""
    if not node:
        scheduled = conditions.get("PodScheduled", {})
        if scheduled.get("status") == "False":
            return "Unschedulable", _unschedulable(scheduled.get("message", "") or scheduled.get("reason", ""))
        return "Starting", "it has no node yet"
    for container in status.get("containerStatuses") or []:
        waiting = (container.get("state") or {}).get("waiting") or {}
        if (found := _WAITING.get(waiting.get("reason", ""))) is not None:
            return found, _waiting(container, waiting)
    for event in _MOUNT_EVENTS:
        if message := said.get((name, event)):
            return "MountFailed", _unmounted(message)
    return "Starting", f"it is starting on {node}"


def _unschedulable(said: str) -> str:
    """The scheduler's words; where it is our own rule that keeps the pod off, what to do about it."""
    if "pod anti-affinity" not in said:
        return said
    return (
        f"{said.partition(' no new claims to deallocate')[0]} Datasets of placement Exclusive, the default, share no node, "
        "and two workers of one dataset never do: write placement: Shared in all of them, ask for fewer workers, or add nodes"
    )


def _unmounted(said: str) -> str:
    """The kubelet's words; of a Secret that users make, what to do."""
    if found := _NO_SECRET.search(said):
        return f"{said}; make Secret {found[1]} in this namespace, or correct the encryptOptions that name it"
    if found := _NO_KEY.search(said):
        return f"{said}; give the Secret that the encryptOptions name key {found[1]}, or correct them"
    return said


def _waiting(container: Object, waiting: Object) -> str:
    """How the container ended last, if it ran at all, else what the kubelet says."""
    ended = (container.get("lastState") or {}).get("terminated") or {}
    if not ended:
        return f"{waiting['reason']}: {waiting.get('message', '')}".rstrip(": ")
    tries = container.get("restartCount", 0)
    last = (ended.get("message") or "").strip().splitlines()
    return f"exit code {ended.get('exitCode')} ({ended.get('reason', 'Error')}), {tries} restarts" + (
        f": {last[-1]}" if last else ""
    )


def worst(pods: Iterable[Pod]) -> Pod | None:
    """The pod to speak of, None when all serve."""
    bad = [pod for pod in pods if not pod.serves]
    return min(bad, key=lambda p: WORST.index(p.state), default=None)
