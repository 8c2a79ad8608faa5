"""Nodes, pods and cores for tests of the live scheduler without a server."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from forebay.api.corev1 import Node, Pod
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
