"""Nodes, pods and cores for tests of the live scheduler without a server."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from forebay.api.kubernetes.core import Node, Pod
from forebay.scheduler.groups import Groups
from forebay.scheduler.live.config import Configuration
from forebay.scheduler.live.core import Core
from forebay.scheduler.live.instructions import Bind

GANG, MINIMUM = "pod-group.scheduling.sigs.k8s.io/name", "pod-group.scheduling.sigs.k8s.io/min-available"


def node(name: str, cpu: int = 4, **offered: str) -> Node:
    have = {"cpu": str(cpu), "memory": "64Gi", "pods": "110", **offered}
    labels = {"ack.node.gpu.schedule": "cgpu"} if "aliyun.com/gpu-mem" in offered else {}
    return msgspec.convert(
        {"metadata": {"name": name, "labels": labels}, "status": {"allocatable": have, "capacity": have}}, Node
    )


def pod(
    name: str, cpu: int = 1, gang: tuple[str, int] | None = None, limits: Mapping[str, str] = MappingProxyType({}), **more: Any
) -> Pod:
    labels = {GANG: gang[0], MINIMUM: str(gang[1])} if gang else {}
    resources = {"requests": {"cpu": str(cpu), **limits}, "limits": dict(limits)}
    spec = {"schedulerName": "forebay", "containers": [{"name": "c", "resources": resources}], **more}
    meta = {"name": name, "namespace": "n", "uid": name, "labels": labels, "creationTimestamp": "2026-01-01T00:00:00Z"}
    return msgspec.convert({"metadata": meta, "spec": spec}, Pod)


def bound(one: Pod, where: str, annotations: Any = None) -> Pod:
    meta = msgspec.structs.replace(one.metadata, annotations=dict(annotations or {}))
    return msgspec.structs.replace(one, metadata=meta, spec=msgspec.structs.replace(one.spec, node_name=where))


def ending(one: Pod) -> Pod:
    return msgspec.structs.replace(one, metadata=msgspec.structs.replace(one.metadata, deletion_timestamp="2026-01-01T01:00:00Z"))


def core(**settings: Any) -> Core:
    return Core(Configuration(**settings), Groups(), lambda: 1_700_000_000_000_000_000)


def binds(instructions: Any) -> dict[str, str]:
    return {one.pod.name: one.node for one in instructions if isinstance(one, Bind)}


# --- a core under a clock of its own ---

T0 = 1_767_225_600.0  # 2026-01-01, when the pods of test_live_core are made
JOB = {"restartPolicy": "Never"}


class World:
    """A core under a clock of its own; whatever it binds is bound at once."""

    def __init__(self, nodes: dict[str, int], **settings: Any) -> None:
        self.now = 0.0
        self.core = Core(Configuration(**{"preemption": False, **settings}), Groups(), lambda: int((T0 + self.now) * 1e9))
        for name, cpu in nodes.items():
            self.core.apply("Node", None, node(name, cpu))
        self.pods: dict[str, Pod] = {}
        self.started: dict[str, float] = {}

    def arrive(self, *pods: Pod) -> None:
        for one in pods:
            self.pods[one.metadata.uid] = one
            self.core.apply("Pod", None, one)

    def run(self, name: str, where: str) -> None:
        """A pod that somebody has put there."""
        self.arrive(bound(self.pods.pop(name, None) or pod(name, **JOB), where))

    def end(self, name: str) -> None:
        self.core.apply("Pod", self.pods.pop(name), None)

    def decide(self) -> dict[str, str]:
        done = self.core.decide(self.now)
        for one in done:
            if isinstance(one, Bind):
                old = self.pods[one.pod.uid]
                self.pods[one.pod.uid] = bound(old, one.node)
                self.core.apply("Pod", old, self.pods[one.pod.uid])
                self.started[one.pod.uid] = self.now
        return binds(done)

    def reason(self, name: str) -> str:
        return next(job.reason for job in self.core.queue.jobs.values() if name in job.pods)


def aged(one: Pod, seconds: float) -> Pod:
    """Made that long after the others."""
    meta = msgspec.structs.replace(
        one.metadata, creation_timestamp=f"2026-01-01T00:{int(seconds) // 60:02}:{int(seconds) % 60:02}Z"
    )
    return msgspec.structs.replace(one, metadata=meta)


def gang(name: str, size: int, cpu: int = 1, seconds: float = 0.0, **more: Any) -> list[Pod]:
    return [aged(pod(f"{name}{n}", cpu, gang=(name, size), **JOB, **more), seconds) for n in range(size)]
