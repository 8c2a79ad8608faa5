"""Gangs by ACK's labels alone: `pod-group.scheduling.sigs.k8s.io/{name, min-available}`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from forebay.api.corev1 import Pod
from forebay.scheduler.cluster import ENDED
from forebay.scheduler.gang import Gang, Member

NAME, MINIMUM = "pod-group.scheduling.sigs.k8s.io/name", "pod-group.scheduling.sigs.k8s.io/min-available"


class Source(NamedTuple):
    group: str
    versions: tuple[str, ...]
    plural: str
    kind: str


SOURCES: tuple[Source, ...] = ()


class Membership(NamedTuple):
    gang: str
    group: str = ""


class Groups:
    def set(self, kind: str, value: Mapping[str, object]) -> None:
        pass

    def remove(self, kind: str, namespace: str, name: str) -> None:
        pass

    def membership(self, pod: Pod) -> Membership | None:
        name = pod.metadata.labels.get(NAME)
        return Membership(f"{pod.metadata.namespace}/{name}") if name else None

    def gather(self, gang: str, waiting: Sequence[tuple[Pod, Member]], bound: Sequence[Pod]) -> Gang | str:
        texts = {pod.metadata.labels.get(MINIMUM, "1") for pod, _ in waiting}
        if len(texts) != 1 or not (text := texts.pop()).isdecimal():
            return f"its pods' labels {MINIMUM} are no one number: write the same on all"
        minimum = int(text)
        running = sum(pod.status.phase not in ENDED and not pod.metadata.deletion_timestamp for pod in bound)
        if len(waiting) + running < minimum:
            return f"{len(waiting) + running} of {minimum} pods exist: create the others, or lower {MINIMUM}"
        return Gang(gang, [member for _, member in waiting], max(0, minimum - running))

    def regarding(self, gang: str) -> tuple[str, str, str, str, str] | None:
        return None
