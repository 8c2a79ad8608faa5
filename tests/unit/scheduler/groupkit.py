"""Pods of gangs, as API servers hand them out."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from forebay.api.kubernetes.core import Pod
from forebay.scheduler.pods.request import Request

ONE = Request((1,))
ACK = "pod-group.scheduling.sigs.k8s.io"
KOORDINATOR = "gang.scheduling.koordinator.sh"


def pod(
    name: str,
    labels: Mapping[str, str] = {},
    notes: Mapping[str, str] = {},
    *,
    node: str = "",
    phase: str = "",
    leaving: bool = False,
    **spec: object,
) -> Pod:
    meta = {"name": name, "namespace": "team", "uid": name, "labels": dict(labels), "annotations": dict(notes)}
    if leaving:
        meta["deletionTimestamp"] = "2026-11-27T12:00:00Z"
    value = {"metadata": meta, "spec": {**spec, "nodeName": node}, "status": {"phase": phase}}
    return msgspec.convert(value, Pod)
