"""Which datasets a change of any object is about. Pure, over what the copies hold."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from forebay.api.hints.datasethints import LOAD_ON
from forebay.controller import copies as c
from forebay.controller.copies import Copies
from forebay.controller.kinds import Event, Node, NodeCache, Pod, Whole
from forebay.kube.objects import Bare, Key
from forebay.kube.store import Change, Undecodable


def key_of(text: str) -> Key | None:
    """The key of "namespace/name", None where either is missing."""
    namespace, _, name = text.partition("/")
    return Key(namespace, name) if namespace and name else None


def datasets(kind: str, change: Change[Any], copies: Copies) -> set[Key]:
    """Keys that need a pass. What an object was about before the change counts as well as what it is about now."""
    found: set[Key] = set()
    for thing in (change.old, change.new):
        if thing is not None:
            found.update(_of(kind, thing, change, copies))
    if kind == "Dataset" or kind in c.RUNTIMES:
        found.add(change.key)  # a broken one too
    return found


def _of(kind: str, thing: Any, change: Change[Any], copies: Copies) -> Iterable[Key]:
    if kind == "Dataset":
        return _around_dataset(thing, copies)
    if kind in c.RUNTIMES:
        return ()
    if kind in ("CacheRuntimeClass", "ThinRuntimeProfile"):
        return _users_of_class(kind, thing, copies)
    if kind == "DatasetGrant":
        given = key_of(c.granted(thing))
        return [*([given] if given else []), *_keys(copies.where("Dataset", "target", c.granted(thing)))]
    if kind == "NodeCache":
        return _cached(change, copies)
    if kind == "DatasetHints":
        # what is written comes back; what somebody took away is made again; what the scheduler wishes for is news
        wishes = [None if one is None else one.metadata.annotations.get(LOAD_ON, "") for one in (change.old, change.new)]
        return [] if change.new and wishes[0] == wishes[1] else _held(change.key, copies)
    if kind == "Namespace":
        return _in_namespace(change, copies)
    if kind == "Node":
        return _on_node(change, copies)
    if kind == "Pod":
        return _of_pod(thing, copies)
    if kind == "Event":
        return _of_event(thing, copies)
    if kind == "DataLoad":
        return _of_load(change)
    if kind == "Job" or kind in c.UNDRIVEN:
        return ()
    if kind == "PersistentVolume":
        return [key for text in (c.claim_of(thing), c.data_of(thing)) if (key := key_of(text))]
    return _of_child(thing)


def _keys(datasets_: Iterable[Whole]) -> list[Key]:
    return [Key(d.metadata.namespace, d.metadata.name) for d in datasets_]


def _around_dataset(dataset: Whole, copies: Copies) -> list[Key]:
    """Those that refer to it: whether they are Bound hangs on it."""
    meta = dataset.metadata
    return _keys(copies.where("Dataset", "target", c.path(meta.namespace, meta.name)))


def _users_of_class(kind: str, thing: Whole, copies: Copies) -> list[Key]:
    runtime = "CacheRuntime" if kind == "CacheRuntimeClass" else "ThinRuntime"
    return _keys(copies.where(runtime, "class", thing.metadata.name))


def _in_namespace(change: Change[Bare], copies: Copies) -> list[Key]:
    """Its labels decide on grants, its annotations on engines; the rest of it changes nothing."""

    def counts(space: Bare | None) -> Any:
        return space and (space.metadata.labels, space.metadata.annotations, space.metadata.deletion_timestamp)

    if counts(change.old) == counts(change.new):
        return []
    return _keys(copies.where("Dataset", "namespace", change.key.name))


def _on_node(change: Change[Node], copies: Copies) -> list[Key]:
    """Nodes say every few seconds that they live; only whether they are Ready is news."""
    if (change.old and change.old.ready) == (change.new and change.new.ready) and change.old and change.new:
        return []
    pods: list[Pod] = copies.where("Pod", "node", change.key.name)
    at = ("NodeCache", "", change.key.name)
    said = [Key(h.namespace, h.name) for h in copies.get(*at).datasets] if copies.readable(*at) else []
    return [*(key for pod in pods if (key := key_of(c.worker_of(pod)))), *(k for at in said for k in _held(at, copies))]


def _cached(change: Change[NodeCache], copies: Copies) -> list[Key]:
    """Datasets of which the node says something else than before, and who refers to them. The others are not woken."""
    before, after = ({(h.namespace, h.name): h for h in c.datasets} if c else {} for c in (change.old, change.new))
    differ = [at for at in before.keys() | after.keys() if before.get(at) != after.get(at)]
    found = [key for at in differ for key in _held(Key(*at), copies)]
    return [*found, *(key for at in differ for key in _keys(copies.where("Dataset", "target", c.path(*at))))]


def _held(key: Key, copies: Copies) -> list[Key]:
    return [key] if copies.holds("Dataset", *key) else []


def _of_pod(pod: Pod, copies: Copies) -> list[Key]:
    """The dataset whose worker it is, and those whose claims it names."""
    found = [key for name in pod.claims if copies.holds("Dataset", *(key := Key(pod.metadata.namespace, name)))]
    worker = key_of(c.worker_of(pod))
    return [*found, worker] if worker else found


def _of_event(event: Event, copies: Copies) -> list[Key]:
    namespace, name = event.regarding.namespace, event.regarding.name
    if event.regarding.kind == "PersistentVolumeClaim":
        return [Key(namespace, name)] if copies.holds("Dataset", namespace, name) else []
    if event.regarding.kind not in ("Pod", "StatefulSet") or not copies.holds(event.regarding.kind, namespace, name):
        return []
    try:
        thing = copies.get(event.regarding.kind, namespace, name)
    except Undecodable:
        return []  # what it is about comes when it can be read
    if thing is None:
        return []
    return _of_pod(thing, copies) if isinstance(thing, Pod) else _of_child(thing)


def _of_load(change: Change[Whole]) -> list[Key]:
    """The dataset says which operations are in progress: only a phase that changes is news."""
    phases = [None if load is None else phase_of(load) for load in (change.old, change.new)]
    if phases[0] == phases[1]:
        return []
    return [key for load in (change.old, change.new) if load for text in c.loaded(load) if (key := key_of(text))]


def phase_of(load: Whole) -> str:
    """Of a data operation."""
    return str(load.status.get("phase") or "") if isinstance(load.status, dict) else ""


def _of_child(child: Whole) -> list[Key]:
    meta = child.metadata
    name = meta.labels.get(c.DATASET_LABEL, "")
    return [Key(meta.namespace, name)] if name and meta.namespace else []
