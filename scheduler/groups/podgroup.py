"""The family of names that share one PodGroup: ACK's labels, scheduler-plugins' label and object, Koordinator's annotations.

A pod that names `train` in any of them belongs to the gang `train` of its namespace; an object of that name describes it, and
without one the pods' own labels and annotations do. Sources: ACK's documentation "Work with gang scheduling"; scheduler-plugins'
`apis/scheduling/v1alpha1`; Koordinator's `apis/extension/coscheduling.go` and `coscheduling/core/gang.go` (the default policy
once-satisfied, `total-number` raised to the minimum, a pod's `min-available` label before its annotation). ACK writes a list of
gangs into a label, where Kubernetes allows no such value: both places are read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from forebay.api.kubernetes.core import Pod
from forebay.scheduler.groups.reading import Mistake, count, mapping, partners, policy, seconds, text, texts
from forebay.scheduler.groups.said import Naming, Object, Policy, Reference, Said

PLUGINS = "PodGroup.scheduling.x-k8s.io"
SIGS = "PodGroup.scheduling.sigs.k8s.io"
"""Koordinator's copy of the type, ACK's before 1.31, scheduler-plugins' once."""
KINDS = (PLUGINS, SIGS)

ACK = "pod-group.scheduling.sigs.k8s.io"
ACK_NAME, ACK_MINIMUM, ACK_POLICY, ACK_GROUPS = (f"{ACK}/{word}" for word in ("name", "min-available", "match-policy", "groups"))
PLUGINS_NAME = "scheduling.x-k8s.io/pod-group"
KOORDINATOR = "gang.scheduling.koordinator.sh"
NAME, MINIMUM, WAIT, TOTAL, MODE, GROUPS, MATCH = (
    f"{KOORDINATOR}/{word}"
    for word in ("name", "min-available", "waiting-time", "total-number", "mode", "groups", "match-policy")
)
MODES = ("Strict", "NonStrict")

DEFAULT: Policy = "once-satisfied"
"""Koordinator's, and so ACK's. scheduler-plugins' own object counts what waits and what runs."""


class _Named(NamedTuple):
    where: str
    key: str
    name: str


def naming(pod: Pod) -> Naming | None:
    """The gang that a pod names in this family, with a mistake where it names several; None for none."""
    meta = pod.metadata
    labels, notes = meta.labels, meta.annotations
    named = [
        _Named(where, key, texts_[key])
        for where, key, texts_ in (
            ("label", ACK_NAME, labels),
            ("label", ACK, labels),
            ("label", PLUGINS_NAME, labels),
            ("annotation", NAME, notes),
        )
        if texts_.get(key)
    ]
    if not named:
        return None
    first = named[0]
    source = f"Pod {meta.namespace}/{meta.name}"
    said = _of_pod(source, labels, notes)
    for other in named[1:]:
        if other.name != first.name:
            mistake = (
                f'{source}: {first.where} {first.key} names gang "{first.name}" and {other.where} {other.key} names '
                f'"{other.name}"; let both name the same, or remove one'
            )
            said = Said(source, mistake=mistake)
    kinds = (PLUGINS,) if all(one.key == PLUGINS_NAME for one in named) else KINDS
    needs = all(one.key in (PLUGINS_NAME, ACK) for one in named) and said.minimum is None
    return Naming("", f"{meta.namespace}/{first.name}", said, kinds, needs_object=needs)


def _of_pod(source: str, labels: Mapping[str, str], notes: Mapping[str, str]) -> Said:
    try:
        by_label = count(f"label {ACK_MINIMUM}", labels.get(ACK_MINIMUM))
        by_note = count(f"annotation {MINIMUM}", notes.get(MINIMUM))
        if by_label is not None and by_note is not None and by_label != by_note:
            raise Mistake(
                f"label {ACK_MINIMUM} says {by_label} pods and annotation {MINIMUM} {by_note}; make them equal, or remove one"
            )
        count(f"annotation {TOTAL}", notes.get(TOTAL), least=0)  # it bounds nothing here: who is there is counted
        return Said(
            source,
            by_label if by_label is not None else by_note,
            policy=_policy(labels, notes),
            partners=_partners(labels, notes),
            timeout=seconds(f"annotation {WAIT}", notes.get(WAIT)),
        )
    except Mistake as wrong:
        return Said(source, mistake=f"{source}: {wrong}")


def _policy(labels: Mapping[str, str], notes: Mapping[str, str]) -> Policy | None:
    _mode(notes)
    for where, key, value in (
        ("annotation", MATCH, notes.get(MATCH)),
        ("annotation", ACK_POLICY, notes.get(ACK_POLICY)),
        ("label", ACK_POLICY, labels.get(ACK_POLICY)),
    ):
        found = policy(f"{where} {key}", value)
        if found is not None:
            return found
    return None


def _mode(notes: Mapping[str, str]) -> None:
    """Strict or not is about what is held while a gang waits; nothing is held here, so both mean the same."""
    mode = notes.get(MODE)
    if mode is not None and mode not in MODES:
        raise Mistake(f'annotation {MODE} "{mode}" is no mode; write {" or ".join(MODES)}')


def _partners(labels: Mapping[str, str], notes: Mapping[str, str]) -> tuple[str, ...]:
    for where, key, value in (
        ("annotation", GROUPS, notes.get(GROUPS)),
        ("annotation", ACK_GROUPS, notes.get(ACK_GROUPS)),
        ("label", ACK_GROUPS, labels.get(ACK_GROUPS)),
    ):
        found = partners(f"{where} {key}", value)
        if found:
            return found
    return ()


def read(kind: str, value: Object) -> Said:
    """A PodGroup object of either group."""
    meta, spec, status = mapping(value.get("metadata")), mapping(value.get("spec")), mapping(value.get("status"))
    namespace, name = text(meta.get("namespace")), text(meta.get("name"))
    group = kind.partition(".")[2]
    source = f"PodGroup {namespace}/{name} ({group})"
    about = Reference(f"{group}/v1alpha1", "PodGroup", namespace, name, text(meta.get("uid")))
    labels, notes = texts(meta.get("labels")), texts(meta.get("annotations"))
    try:
        own = _policy(labels, notes)
        speaks = own is not None or any(key.startswith((KOORDINATOR, ACK)) for key in (*labels, *notes))
        default: Policy = DEFAULT if speaks or kind == SIGS else "waiting-and-running"
        return Said(
            source,
            count("spec.minMember", spec.get("minMember", 1)),
            policy=own or default,
            partners=_partners(labels, notes),
            timeout=seconds("spec.scheduleTimeoutSeconds", spec.get("scheduleTimeoutSeconds")),
            satisfied=text(status.get("phase")) in ("Scheduled", "Running", "Finished"),
            about=about,
        )
    except Mistake as wrong:
        return Said(source, mistake=f"{source}: {wrong}", about=about)
