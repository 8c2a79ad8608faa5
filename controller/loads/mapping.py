"""Which DataLoads a change of any object is about. Pure, over what the copies hold."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from forebay.controller import copies as c
from forebay.controller.copies import Copies
from forebay.controller.datasets.mapping import phase_of
from forebay.controller.kinds import Pod, Whole
from forebay.kube.objects import Key
from forebay.kube.store import Change


def loads(kind: str, change: Change[Any], copies: Copies) -> set[Key]:
    """Keys that need a pass."""
    found: set[Key] = set()
    if kind == "DataLoad":
        found.add(change.key)  # a broken one too
        if _phase(change.old) != _phase(change.new):
            for thing in (change.old, change.new):
                if thing is not None:
                    found.update(_beside(thing, copies))
    elif kind == "Dataset":
        found.update(_keys(copies.where("DataLoad", "dataset", c.path(*change.key))))
    elif kind == "StatefulSet":
        found.update(_waiting_for(change, copies))
    elif kind in ("Job", "Pod", "Event"):
        for thing in (change.old, change.new):
            if thing is not None:
                found.update(_of(kind, thing, copies))
    return found


def _phase(load: Whole | None) -> Any:
    return load and (phase_of(load), bool(load.metadata.deletion_timestamp))


def _beside(load: Whole, copies: Copies) -> Iterable[Key]:
    """A load that begins or ends makes room, or lets another begin that is to run after it."""
    meta = load.metadata
    yield from _keys(copies.where("DataLoad", "after", c.path(meta.namespace, meta.name)))
    for text in c.loaded(load):
        yield from _keys(copies.where("DataLoad", "dataset", text))


def _waiting_for(change: Change[Whole], copies: Copies) -> list[Key]:
    """Loads that have not begun wait for workers to be ready; nothing else of what makes workers is news."""
    if (change.old and worker_counts(change.old)) == (change.new and worker_counts(change.new)):
        return []
    meta = (change.new or change.old).metadata  # type: ignore[union-attr] # one of the two is there
    of = c.path(meta.namespace, meta.labels.get(c.DATASET_LABEL, ""))
    return _keys(load for load in copies.where("DataLoad", "dataset", of) if phase_of(load) in ("", "Pending"))


def worker_counts(set_: Whole) -> tuple[int, int]:
    """Of a StatefulSet: pods that are wanted, pods that are ready."""
    spec, status = (part if isinstance(part, dict) else {} for part in (set_.spec, set_.status))
    return int(spec.get("replicas", 1)), int(status.get("readyReplicas") or 0)


def _of(kind: str, thing: Any, copies: Copies) -> Iterable[Key]:
    if kind == "Job":
        return _owners(thing)
    if kind == "Pod":
        return _of_job(thing, copies) if isinstance(thing, Pod) else ()
    if thing.regarding.kind != "Job" or not copies.holds("Job", thing.regarding.namespace, thing.regarding.name):
        return ()
    job = copies.get("Job", thing.regarding.namespace, thing.regarding.name)
    return _owners(job)


def _of_job(pod: Pod, copies: Copies) -> Iterable[Key]:
    for text in c.job_of(pod):
        namespace, _, name = text.partition("/")
        if copies.holds("Job", namespace, name):
            yield from _owners(copies.get("Job", namespace, name))


def _owners(job: Whole) -> list[Key]:
    return [Key(job.metadata.namespace, owner.name) for owner in job.metadata.owner_references if owner.kind == "DataLoad"]


def _keys(things: Iterable[Whole]) -> list[Key]:
    return [Key(t.metadata.namespace, t.metadata.name) for t in things]
