"""Kueue's ResourceFlavor (`kueue.x-k8s.io`): nodes by their labels, with the taints that they have and the tolerations that come
with it. Pure.

Source: `apis/kueue/v1beta2/resourceflavor_types.go`: who tolerates a flavor's taints, by tolerations of its own or the flavor's,
may use it; PreferNoSchedule keeps nobody out; the flavor's tolerations are given to its pods. Nobody writes them into a pod here,
and a taint NoExecute drives out whoever has no toleration of it written down, so against that the pod's own count alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from forebay.api.kubernetes.core import Taint, Toleration
from forebay.api.problem import show
from forebay.scheduler.arrays.node_rows import TaintOf
from forebay.scheduler.filters.taints import tolerates
from forebay.scheduler.pods.classes import Tolerated

T = TypeVar("T", Taint, Toleration)

EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")
OPERATORS = ("", "Equal", "Exists")


@dataclass(frozen=True)
class Flavor:
    """`tolerations`: what of them holds without being written into a pod. `mistake`: a sentence, and then nothing else counts."""

    labels: Mapping[str, str]
    taints: tuple[TaintOf, ...] = ()
    tolerations: tuple[Toleration, ...] = ()
    mistake: str = ""

    def refusing(self, own: tuple[Toleration, ...], *, given: bool = True) -> TaintOf | None:
        """The first taint that keeps a pod with these tolerations out; `given`: it gets the flavor's."""
        have = [_tolerated(one) for one in (*own, *(self.tolerations if given else ()))]
        return next((taint for taint in self.taints if not any(tolerates(one, taint) for one in have)), None)


def read_flavor(name: str, value: Mapping[str, Any]) -> Flavor:
    """Whatever an object says."""
    spec = value.get("spec") or {}
    try:
        labels = msgspec.convert(spec.get("nodeLabels") or {}, dict[str, str])
        taints = _listed(name, "nodeTaints", spec.get("nodeTaints"), Taint)
        tolerations = _listed(name, "tolerations", spec.get("tolerations"), Toleration)
    except msgspec.ValidationError as wrong:
        return Flavor({}, mistake=f"ResourceFlavor {name}: {wrong}; correct it, or take it out of the queue")
    for at, taint in enumerate(taints):
        if taint.effect not in EFFECTS:
            return Flavor({}, mistake=_no(name, f"nodeTaints[{at}].effect", taint.effect, EFFECTS))
    for at, one in enumerate(tolerations):
        if one.effect not in ("", *EFFECTS):
            return Flavor({}, mistake=_no(name, f"tolerations[{at}].effect", one.effect, EFFECTS))
        if one.operator not in OPERATORS:
            return Flavor({}, mistake=_no(name, f"tolerations[{at}].operator", one.operator, OPERATORS[1:]))
    keep_out = tuple(TaintOf(one.key, one.value, one.effect) for one in taints if one.effect != "PreferNoSchedule")
    return Flavor(labels, keep_out, tuple(two for one in tolerations for two in _holding(one)))


def _holding(one: Toleration) -> list[Toleration]:
    """Without what drives pods out."""
    effects = EFFECTS[:2] if not one.effect else (one.effect,) if one.effect != "NoExecute" else ()
    return [msgspec.structs.replace(one, effect=effect) for effect in effects]


def _tolerated(one: Toleration) -> Tolerated:
    return Tolerated(one.key, one.operator or "Equal", one.value, one.effect)


def _listed(name: str, field: str, value: object, kind: type[T]) -> list[T]:
    try:
        return msgspec.convert(value or [], list[kind])  # type: ignore[valid-type]
    except msgspec.ValidationError as wrong:
        raise msgspec.ValidationError(f"spec.{field}: {wrong}") from wrong


def _no(name: str, field: str, value: str, words: tuple[str, ...]) -> str:
    said = f"spec.{field} {show(value)} is none of {', '.join(words)}"
    return f"ResourceFlavor {name}: {said}; correct it, or take it out of the queue"
