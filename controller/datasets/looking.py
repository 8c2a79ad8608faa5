"""One dataset as the copies have it: what is wanted (`Subject`), what exists (`Found`), and when time alone changes that."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import msgspec

from forebay.api.grant import Reference
from forebay.api.hints.datasethints import WATCH
from forebay.api.hints.nodecache import Bandwidth, HeldDataset, Read, Served
from forebay.api.moments import moment
from forebay.controller import copies as c
from forebay.controller.copies import Copies
from forebay.controller.datasets.granting import Shown
from forebay.controller.datasets.hinting import Situation
from forebay.controller.datasets.hints import ZONE, Place
from forebay.controller.datasets.mapping import phase_of
from forebay.controller.kinds import RESOURCES, Event, NodeCache, Pod, Whole, as_object
from forebay.controller.loads import ahead
from forebay.kube.objects import Key, ObjectMeta
from forebay.runtimes import registry
from forebay.runtimes.engine import LEAVING, Found, Installation, Object, ReaderFacts, Ref, Source, Subject, Warned, WorkerFacts
from forebay.runtimes.forebay.reference import target_of

FRESH = timedelta(minutes=5)
"""How long an Event counts as a fact: the kubelet repeats what still holds within two minutes."""
SERVING = ("Bound", "Updating")
LINGER = timedelta(seconds=30)
"""How long a claim that is told to go is left to Kubernetes, which keeps it for pods that have ended, too, until somebody deletes
those. Fluid waits as long."""


class Looked(NamedTuple):
    """`found` by engine. `until`: when the next fact comes or goes by time alone, None if none does."""

    found: Mapping[str, Found]
    until: datetime | None


class Looker:
    """Reads the copies and nothing else."""

    def __init__(self, copies: Copies, installation: Installation) -> None:
        self._copies, self._installation = copies, installation

    # --- what is wanted ---

    def subject(self, key: Key) -> Subject | None:
        """None where there is no such Dataset. Raises Undecodable."""
        dataset = self._copies.get("Dataset", *key)
        return None if dataset is None else self._subject(key, dataset, deep=True)

    def runtimes(self, key: Key) -> tuple[Object, ...]:
        """Runtimes of that name, of any kind."""
        found = ((kind, self._copies.get(kind, *key)) for kind in c.RUNTIMES)
        return tuple(self._object(kind, thing) for kind, thing in found if thing is not None)

    def _subject(self, key: Key, dataset: Whole, *, deep: bool) -> Subject:
        runtimes = self.runtimes(key)
        space = self._copies.get("Namespace", "", key.namespace)
        return Subject(
            dataset=self._object("Dataset", dataset),
            runtimes=runtimes,
            namespace={"metadata": {"name": key.namespace}} if space is None else self._object("Namespace", space),
            classes=tuple(self._classes(key)),
            installation=self._installation,
            source=self._source(dataset) if deep else None,
        )

    def _classes(self, key: Key) -> Iterable[Object]:
        for kind, class_ in (("CacheRuntime", "CacheRuntimeClass"), ("ThinRuntime", "ThinRuntimeProfile")):
            runtime = self._copies.get(kind, *key)
            name = c.named_class(runtime) if runtime is not None else ""
            found = self._copies.get(class_, "", name) if name else None
            if found is not None:
                yield self._object(class_, found)

    def _source(self, dataset: Whole) -> Source | None:
        namespace, _, name = c.target(dataset).partition("/")
        held = self._copies.get("Dataset", namespace, name) if name else None
        if held is None:
            return None
        grants = self._copies.where("DatasetGrant", "namespace", namespace)
        return Source(
            subject=self._subject(Key(namespace, name), held, deep=False),
            grants=tuple(self._object("DatasetGrant", g) for g in grants),
            bound=(held.status or {}).get("phase") in SERVING if isinstance(held.status, dict) else False,
        )

    # --- what exists ---

    def look(self, subject: Subject, now: datetime) -> Looked:
        key = Key(*subject.key)
        pods: list[Pod] = self._copies.where("Pod", "worker", c.path(*key))
        naming: list[Pod] = self._copies.where("Pod", "claim", c.path(*key))
        drains, times = _drains(pods, now)
        held = self._held(key)
        common: dict[str, Any] = {
            "pods": tuple(self._object("Pod", pod) for pod in pods),
            "nodes": self._copies.readiness,
            "workers": _facts(pods, held, drains),
            "readers": {node: _reader(h.reader) for node, h in held.items() if isinstance(h.reader, Read)},
            "mounted": {node: h.mounted for node, h in held.items() if h.mounted or h.silent},
            "users": tuple(sorted(p.metadata.name for p in naming if not p.ended)),
            "completed": tuple(sorted(p.metadata.name for p in naming if p.ended)),
            "referrers": self._referrers(key),
            "operations": self._operations(key),
        }
        found: dict[str, Found] = {}
        for name, engine in registry.engines().items():
            children = {ref: thing for ref in engine.children(subject) if (thing := self._child(ref)) is not None}
            warned, ends = self._warned((*children, *(Ref("Pod", key.namespace, p.metadata.name) for p in pods)), now)
            found[name] = Found(objects=children, warned=warned, fresh_secret=secrets.token_hex(32), **common)
            times += ends
        times += [at for grant in (subject.source.grants if subject.source else ()) if (at := expiry(grant)) and at > now]
        return Looked(found, min(times, default=None))

    def _held(self, key: Key) -> dict[str, HeldDataset]:
        """What nodes say of the dataset, by node. A node that is not Ready cannot take back what it said last."""
        caches: list[NodeCache] = self._copies.where("NodeCache", "dataset", c.path(*key))
        lives = [cache for cache in caches if self._copies.readiness.get(cache.metadata.name) is not False]
        return {cache.metadata.name: h for cache in lives for h in cache.datasets if (h.namespace, h.name) == key}

    def _child(self, ref: Ref) -> Object | None:
        thing = self._copies.get(ref.kind, ref.namespace, ref.name)
        return None if thing is None else self._object(ref.kind, thing)

    def _referrers(self, key: Key) -> tuple[str, ...]:
        """Who shows its bytes under another claim: by the volumes, so that who was never granted it holds nothing up."""
        mine = c.path(*key)
        shown = (c.claim_of(volume) for volume in self._copies.where("PersistentVolume", "data", mine))
        return tuple(sorted({claim for claim in shown if claim != mine}))

    def grants(self, key: Key) -> tuple[Object, ...]:
        """Those of the dataset, whether it is there or not."""
        return tuple(self._object("DatasetGrant", g) for g in self._copies.where("DatasetGrant", "dataset", c.path(*key)))

    def shown(self, key: Key) -> tuple[Shown, ...]:
        """Who shows its bytes in other namespaces, with what they ask for."""
        found = []
        for text in self._referrers(key):
            namespace, _, name = text.partition("/")
            dataset, space = self._copies.get("Dataset", namespace, name), self._copies.get("Namespace", "", namespace)
            try:
                asked = None if dataset is None else target_of(self._object("Dataset", dataset))
            except ValueError:
                continue
            if asked is not None and namespace != key.namespace:
                labels = {} if space is None else space.metadata.labels
                found.append(Shown(name, Reference(asked.name, namespace, labels, asked.path)))
        return tuple(found)

    def _operations(self, key: Key) -> dict[str, str]:
        """Data operations in progress: kind to names, as Fluid has it."""
        loads: list[Whole] = self._copies.where("DataLoad", "dataset", c.path(*key))
        names = sorted(x.metadata.name for x in loads if phase_of(x) == "Executing" and not x.metadata.deletion_timestamp)
        return {"DataLoad": ",".join(names)} if names else {}

    def _warned(self, refs: Iterable[Ref], now: datetime) -> tuple[tuple[Warned, ...], list[datetime]]:
        """What Events say of these objects, the newest first, and when each ceases to count."""
        counted: list[tuple[datetime, Warned]] = []
        for ref in refs:
            events: list[Event] = self._copies.where("Event", "about", f"{ref.kind} {c.path(ref.namespace, ref.name)}")
            for event in events:
                last = moment(event.last)
                if last is not None and last + FRESH > now:
                    counted.append((last, Warned(ref, event.reason, event.note)))
        counted.sort(key=lambda pair: pair[0], reverse=True)
        return tuple(warned for _, warned in counted), [last + FRESH for last, _ in counted]

    # --- hints ---

    def situation(self, subject: Subject) -> Situation:
        """What its hints are made from. A reference shows its source's bytes, once its owner has granted it."""
        key = Key(*subject.key)
        waiting = sum(not p.ended and not p.spec.node_name for p in self._copies.where("Pod", "claim", c.path(*key)))
        live = self._child(Ref("DatasetHints", *key)) if self._copies.readable("DatasetHints", *key) else None
        of = key
        if subject.source is not None and (subject.dataset.get("status") or {}).get("phase") in SERVING:
            of = Key(*subject.source.subject.key)
        places = []
        if waiting or live is not None or WATCH in (subject.dataset["metadata"].get("annotations") or {}):
            places = [Place(node, self._zone(node), h, self._bandwidth(node)) for node, h in self._held(of).items()]
        return Situation(subject.dataset, places, waiting, live)

    def _zone(self, node: str) -> str:
        known = self._copies.readable("Node", "", node)
        return str(self._copies.get("Node", "", node).metadata.labels.get(ZONE, "")) if known else ""

    def _bandwidth(self, node: str) -> Bandwidth | None:
        said = self._copies.get("NodeCache", "", node)
        bandwidth = said.status.bandwidth if said is not None and said.status is not None else None
        return bandwidth if isinstance(bandwidth, Bandwidth) else None

    def ahead(self, subject: Subject) -> ahead.Step:
        """What is to be done about loads that the scheduler wishes for."""
        key = Key(*subject.key)
        loads: list[Whole] = self._copies.where("DataLoad", "dataset", c.path(*key))
        made = [x for x in loads if ahead.AHEAD in x.metadata.labels and not x.metadata.deletion_timestamp]
        known = [ahead.Known(x.metadata.name, x.metadata.uid, phase_of(x) in ("Complete", "Failed")) for x in made]
        live = self._child(Ref("DatasetHints", *key)) if self._copies.readable("DatasetHints", *key) else None
        pods: list[Pod] = self._copies.where("Pod", "worker", c.path(*key))
        return ahead.step(subject.dataset, live, {p.spec.node_name for p in pods if p.ready}, known)

    # --- what goes ---

    def lingering(self, key: Key, now: datetime) -> tuple[Object | None, datetime | None]:
        """Our claim, where it is kept for pods of which none runs any more; or when that has to be looked at."""
        claim: Whole | None = self._copies.get("PersistentVolumeClaim", *key)
        since = None if claim is None else moment(claim.metadata.deletion_timestamp or "")
        if claim is None or since is None or any(not p.ended for p in self._copies.where("Pod", "claim", c.path(*key))):
            return None, None
        end = since + LINGER
        return (self._object("PersistentVolumeClaim", claim), None) if end <= now else (None, end)

    # --- orphans ---

    def volumes_of(self, key: Key) -> tuple[Object, ...]:
        """Volumes whose claim would be the dataset's."""
        return tuple(self._object("PersistentVolume", v) for v in self._copies.where("PersistentVolume", "claim", c.path(*key)))

    def uid(self, ref: Ref) -> str:
        """The uid of an object that the copies hold, "" of one that they do not."""
        thing = self._copies.get(ref.kind, ref.namespace, ref.name) if ref.kind in self._copies.stores else None
        return "" if thing is None else str(thing.metadata.uid)

    def _object(self, kind: str, thing: msgspec.Struct) -> Object:
        return as_object(RESOURCES[kind], thing)


def _facts(pods: Iterable[Pod], held: Mapping[str, HeldDataset], drains: Mapping[str, WorkerFacts]) -> dict[str, WorkerFacts]:
    """By pod, as its node says: two workers of a dataset are never on one. Of one of which nothing is said, how its drain is."""
    found = dict(drains)
    for pod in pods:
        said = held[pod.spec.node_name].worker if pod.spec.node_name in held and not pod.ended else None
        if isinstance(said, Served):
            drain = drains.get(pod.metadata.name, WorkerFacts())
            found[pod.metadata.name] = WorkerFacts(
                owned_bytes=said.owned_bytes,
                capacity_bytes=said.capacity_bytes,
                total_bytes=said.total_bytes,
                files=said.files,
                listed=said.listed,
                store_bytes=said.store_bytes,
                loaded_bytes=said.loaded_bytes,
                revision=said.revision,
                places=said.places,
                trouble=said.trouble,
                full=said.full,
                drain=drain.drain,
                overdue=drain.overdue,
            )
    return found


def _reader(said: Read) -> ReaderFacts:
    return ReaderFacts(local_bytes=said.local_bytes, missed_bytes=said.missed_bytes)


def _drains(pods: Iterable[Pod], now: datetime) -> tuple[dict[str, WorkerFacts], list[datetime]]:
    """What the order to leave has come to. A worker that has handed out stops to serve, so its kubelet says so for it."""
    facts: dict[str, WorkerFacts] = {}
    times: list[datetime] = []
    for pod in pods:
        since = moment(pod.metadata.annotations.get(LEAVING, ""))
        if since is None:
            continue
        end = since + timedelta(seconds=pod.spec.termination_grace_period_seconds)
        facts[pod.metadata.name] = WorkerFacts(drain="Running" if pod.ready else "Done", overdue=end <= now, silent=True)
        times += [end] if end > now else []
    return facts, times


def expiry(grant: Object) -> datetime | None:
    return moment(str((grant.get("spec") or {}).get("expires") or ""))


def meta_of(obj: Object) -> ObjectMeta:
    return msgspec.convert(obj["metadata"], ObjectMeta)
