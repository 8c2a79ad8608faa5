"""One DataLoad as the copies have it: facts for a decision. Reads the copies and nothing else."""

from __future__ import annotations

from typing import Any

from forebay.api import loadresult
from forebay.api.loadresult import FINAL
from forebay.api.manifests.dataload import LoadSpec, LoadSpecError, after_of, dataset_of, read_load
from forebay.controller import copies as c
from forebay.controller.copies import Copies
from forebay.controller.datasets.looking import SERVING, Looker
from forebay.controller.datasets.mapping import phase_of
from forebay.controller.kinds import RESOURCES, Event, Pod, Whole, as_object
from forebay.controller.loads.deciding import ENDED, DatasetFacts, Facts, PodFacts
from forebay.controller.loads.mapping import worker_counts
from forebay.kube.objects import Key
from forebay.runtimes import registry
from forebay.runtimes.binding import refers
from forebay.runtimes.engine import Loading, Object, Ref, Subject

KIND = "DataLoad"


class LoadLooker:
    def __init__(self, copies: Copies, looker: Looker) -> None:
        self._copies, self._datasets = copies, looker

    def load(self, key: Key) -> Object | None:
        """None where there is no such DataLoad. Raises Undecodable."""
        found = self._copies.get(KIND, *key)
        return None if found is None else as_object(RESOURCES[KIND], found)

    def facts(self, load: Object) -> Facts:
        spec, refused = _read(load)
        at = dataset_of(load)
        subject = self._datasets.subject(Key(*at)) if at[1] else None
        dataset = None if subject is None else self._dataset(subject)
        loading = None
        if subject is not None and dataset is not None and not dataset.reference:
            loading = self._loading(subject, load)
        job, taken = self._job(load, loading)
        return Facts(
            load=load,
            spec=spec,
            refused=refused,
            dataset=dataset,
            dataset_key=at,
            loading=loading,
            job=job,
            taken=taken,
            pod=PodFacts() if job is None else self._pod(job),
            warned="" if job is None else self._warned(job),
            ahead=self._ahead(load, at),
            before=self._before(load),
        )

    def orphans(self, key: Key) -> list[Ref]:
        """Jobs of a DataLoad that is gone: one that was deleted without what it owns."""
        jobs: list[Whole] = self._copies.where("Job", "load", c.path(*key))
        return [Ref("Job", key.namespace, job.metadata.name) for job in jobs if not job.metadata.deletion_timestamp]

    def uid(self, ref: Ref) -> str:
        return self._datasets.uid(ref)

    # --- parts ---

    def _dataset(self, subject: Subject) -> DatasetFacts:
        meta, status = subject.dataset["metadata"], subject.dataset.get("status")
        known: dict[str, Any] = status if isinstance(status, dict) else {}
        choice = registry.choose(subject)
        ready = next((x for x in known.get("conditions") or () if isinstance(x, dict) and x.get("type") == "Ready"), {})
        counts = [self._workers(ref) for ref in choice.engine.children(subject)] if choice.engine is not None else []
        return DatasetFacts(
            uid=meta.get("uid", ""),
            ending=bool(meta.get("deletionTimestamp")),
            reference=refers(subject.dataset),
            unserved=None if choice.engine is not None else (choice.reason, choice.message),
            bound=known.get("phase") in SERVING,
            since=str(ready.get("lastTransitionTime") or ""),
            message=str(ready.get("message") or ""),
            wanted=sum(wanted for wanted, _ in counts),
            ready=sum(ready for _, ready in counts),
        )

    def _workers(self, ref: Ref) -> tuple[int, int]:
        """How many pods one of the engine's objects wants, and how many of them are ready."""
        found = self._copies.get(ref.kind, ref.namespace, ref.name) if ref.kind == "StatefulSet" else None
        return (0, 0) if found is None else worker_counts(found)

    def _loading(self, subject: Subject, load: Object) -> Loading | None:
        choice = registry.choose(subject)
        return None if choice.engine is None else choice.engine.loading(subject, load)

    def _job(self, load: Object, loading: Loading | None) -> tuple[Object | None, bool]:
        """The Job of this very DataLoad; or that there is one in its place."""
        meta = load["metadata"]
        jobs: list[Whole] = self._copies.where("Job", "load", c.path(meta.get("namespace", ""), meta["name"]))
        for job in jobs:
            if any(owner.uid == meta.get("uid") for owner in job.metadata.owner_references):
                return as_object(RESOURCES["Job"], job), False
        at = None if loading is None else self._copies.get("Job", loading.job.namespace, loading.job.name)
        return None, at is not None

    def _pod(self, job: Object) -> PodFacts:
        meta = job["metadata"]
        pods: list[Pod] = self._copies.where("Pod", "job", c.path(meta["namespace"], meta["name"]))
        if not pods:
            return PodFacts()
        newest = max(pods, key=_counts)
        for state in newest.status.container_statuses or ():
            if state.state.terminated is not None:
                said = state.state.terminated.message
                result = loadresult.decode(said)
                return PodFacts(name=newest.metadata.name, ended=newest.ended, result=result, words="" if result else said)
        return PodFacts(name=newest.metadata.name, ended=newest.ended, trouble=_trouble(newest))

    def _warned(self, job: Object) -> str:
        events: list[Event] = self._copies.where(
            "Event", "about", f"Job {c.path(job['metadata']['namespace'], job['metadata']['name'])}"
        )
        newest = max(events, key=lambda event: event.last, default=None)
        return "" if newest is None else f"{newest.reason}: {newest.note}"

    def _ahead(self, load: Object, dataset: tuple[str, str]) -> tuple[str, ...]:
        """Others of the dataset that run; and of those that only wait for their turn, the ones that were made before."""
        own = load["metadata"]["name"]
        running: list[str] = []
        waiting: list[tuple[str, str]] = []
        for other in self._copies.where(KIND, "dataset", c.path(*dataset)):
            meta, phase = other.metadata, phase_of(other)
            if meta.name == own or meta.deletion_timestamp or phase in ENDED:
                continue
            if phase == "Executing":
                running.append(meta.name)
            elif _waits_its_turn(other):
                waiting.append((meta.creation_timestamp or "", meta.name))
        mine = (load["metadata"].get("creationTimestamp") or "", own)
        return (*sorted(running), *(name for made, name in sorted(waiting) if (made, name) < mine))

    def _before(self, load: Object) -> Object | None:
        after = after_of(load)
        if after is None or after.kind != KIND:
            return None
        return self.load(Key(after.namespace, after.name))


def _read(load: Object) -> tuple[LoadSpec | None, str]:
    try:
        return read_load(load), ""
    except LoadSpecError as error:
        return None, str(error)


def _waits_its_turn(other: Whole) -> bool:
    conditions = (other.status or {}).get("conditions") or () if isinstance(other.status, dict) else ()
    return any(x.get("type") == "Waiting" and x.get("reason") == "OperationsAhead" for x in conditions if isinstance(x, dict))


def _counts(pod: Pod) -> tuple[bool, bool, bool, str]:
    """One that runs before those that have ended; of these one that ended the load, else who ended last."""
    ends = [s.state.terminated for s in pod.status.container_statuses or () if s.state.terminated is not None]
    last = max((end.finished_at or "" for end in ends), default="")
    return not pod.ended, pod.status.phase == "Succeeded", any(end.exit_code == FINAL for end in ends), last


def _trouble(pod: Pod) -> str:
    for state in pod.status.container_statuses or ():
        waiting = state.state.waiting
        if waiting is not None and waiting.reason not in ("", "ContainerCreating", "PodInitializing"):
            return f"pod {pod.metadata.name}: {waiting.reason}: {waiting.message}"
    for said in pod.status.conditions or ():
        if said.type == "PodScheduled" and said.status == "False":
            return f"pod {pod.metadata.name}: {said.reason}: {said.message}"
    return ""
