"""What the cluster has beside the object in question: copies, and what is looked up in them. Nothing here asks the server."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

import msgspec

from forebay.api.fluid.blocks import OPERATIONS
from forebay.api.fluid.names import node_label
from forebay.api.hints.nodecache import NodeCacheStatus
from forebay.controller import copies as c
from forebay.controller.admission.locality import HOSTNAME, Holder, Locality
from forebay.controller.admission.review import Object
from forebay.controller.kinds import RESOURCES, Whole, as_object
from forebay.kube.informer import Informer
from forebay.kube.objects import Bare, Key, ObjectMeta
from forebay.kube.store import Store, Undecodable
from forebay.kube.transport import Transport
from forebay.runtimes.engine import Installation, Source, Subject
from forebay.runtimes.forebay import reference

_LABELS = ("fluid.io/s-", "fluid.io/f-")
_CLASSES = {"CacheRuntime": "CacheRuntimeClass", "ThinRuntime": "ThinRuntimeProfile"}


class NodeCache(msgspec.Struct, frozen=True):
    metadata: ObjectMeta
    status: NodeCacheStatus | None = None


def _held(cache: NodeCache) -> Iterable[str]:
    return [c.path(d.namespace, d.name) for d in cache.status.datasets] if cache.status else []


def _marks(node: Bare) -> Iterable[str]:
    return [key for key, value in node.metadata.labels.items() if key.startswith(_LABELS) and value == "true"]


_SPACE = {"namespace": lambda thing: [thing.metadata.namespace]}
COPIED: Mapping[str, c.Copied] = MappingProxyType(
    {
        "Dataset": c.Copied(Whole),
        **{kind: c.Copied(Whole) for kind in c.RUNTIMES},
        "CacheRuntimeClass": c.Copied(Whole),
        "ThinRuntimeProfile": c.Copied(Whole),
        "DatasetGrant": c.Copied(Whole, indexers=_SPACE),
        "Namespace": c.Copied(Bare),
        "Node": c.Copied(Bare, indexers={"mark": _marks}),
        "NodeCache": c.Copied(NodeCache, indexers={"dataset": _held}),
    }
)
"""No claim, no pod and no Secret: a claim has its dataset's name, and a Secret's absence is a condition."""


class Knowledge:
    """One store a kind. Kept by `informers`, once they are started; a test fills the stores itself."""

    def __init__(self, installation: Installation) -> None:
        self._installation = installation
        self.stores: dict[str, Store[Any]] = {kind: Store(copied.indexers) for kind, copied in COPIED.items()}

    def informers(self, transport: Transport) -> dict[str, Informer[Any]]:
        return {
            kind: Informer(transport, RESOURCES[kind], copied.type_, self.stores[kind], copied.selection)
            for kind, copied in COPIED.items()
        }

    def _get(self, kind: str, namespace: str, name: str) -> Any:
        """None also for what cannot be read: nothing can be said of it."""
        try:
            return self.stores[kind].get(Key(namespace, name))
        except Undecodable:
            return None

    def _object(self, kind: str, namespace: str, name: str) -> Object | None:
        found = self._get(kind, namespace, name) if name else None
        if found is None or found.metadata.deletion_timestamp:
            return None
        return as_object(RESOURCES[kind], found)

    # --- for objects ---

    def around(self, new: Object) -> list[Object]:
        """What belongs to `new` and is not being deleted."""
        kind, meta = str(new.get("kind", "")), new.get("metadata") or {}
        namespace, name = str(meta.get("namespace", "")), str(meta.get("name", ""))
        found: list[Object | None] = []
        if kind == "Dataset":
            runtimes = [self._object(k, namespace, name) for k in c.RUNTIMES]
            found += [*runtimes, *(self._described(r) for r in runtimes if r is not None)]
            target = c.target(_whole(new))
            if target and target != c.path(namespace, name):
                found.append(self._object("Dataset", *target.split("/", 1)))
        elif kind in c.RUNTIMES:
            found += [self._object(k, namespace, name) for k in c.RUNTIMES if k != kind]
            found += [self._object("Dataset", namespace, name), self._described(new)]
        elif kind in OPERATIONS:
            found += [self._object("Dataset", namespace, named) for named in _datasets(new)]
        return [obj for obj in found if obj is not None]

    def _described(self, runtime: Object) -> Object | None:
        """The class or profile that a runtime names."""
        class_ = _CLASSES.get(runtime["kind"])
        return self._object(class_, "", c.named_class(_whole(runtime))) if class_ else None

    def waits(self, dataset: Object) -> str:
        """Why a reference could not be served now, "" for one that could and for what is none."""
        try:
            target = reference.target_of(dataset)
        except ValueError:
            return ""  # refused by its own field
        if target is None:
            return ""
        meta = dataset["metadata"]
        source = self._get("Dataset", target.namespace, target.name)
        grants = self.stores["DatasetGrant"].where("namespace", target.namespace)
        space = self._get("Namespace", "", meta.get("namespace", ""))
        subject = Subject(
            dataset=dataset,
            runtimes=(),
            namespace={"metadata": {}} if space is None else as_object(RESOURCES["Namespace"], space),
            classes=(),
            installation=self._installation,
            source=None
            if source is None
            else Source(
                subject=self._alone(as_object(RESOURCES["Dataset"], source)),
                grants=tuple(as_object(RESOURCES["DatasetGrant"], grant) for grant in grants),
                bound=False,
            ),
        )
        finding = reference.refused(subject, target, datetime.now(UTC).isoformat())
        return "" if finding is None else f"spec.mounts[0].mountPoint is not served yet: {finding.message}"

    def _alone(self, dataset: Object) -> Subject:
        return Subject(dataset=dataset, runtimes=(), namespace={"metadata": {}}, classes=(), installation=self._installation)

    # --- for pods ---

    def locality(self, namespace: str, claim: str) -> Locality | None:
        """Where the data of the claim's dataset is; None where there is no such dataset."""
        dataset = self._get("Dataset", namespace, claim)
        if dataset is None:
            return None
        target = c.target(dataset)
        space, name = target.split("/", 1) if target else (namespace, claim)
        source = self._get("Dataset", space, name) if target else dataset
        if source is None:
            return None  # its reference has no bytes
        held, shown = (node_label(letter, space, name, source.metadata.uid) for letter in ("s", "f"))
        nodes = self.stores["Node"]
        return Locality(
            claim=claim,
            namespace=space,
            name=name,
            held=held,
            shown=shown,
            marked=frozenset(key for key in (held, shown) if nodes.where("mark", key)),
            holders=tuple(self._holders(space, name, held)),
            bound=self._bound(space, name),
        )

    def _holders(self, namespace: str, name: str, mark: str) -> Iterable[Holder]:
        """By NodeCaches; nodes that only carry the label count for their zones."""
        seen = set[str]()
        for cache in self.stores["NodeCache"].where("dataset", c.path(namespace, name)):
            node = self._get("Node", "", cache.metadata.name)
            if node is None:
                continue  # its object outlived it
            entries = [d for d in cache.status.datasets if (d.namespace, d.name) == (namespace, name)]
            amount = sum(tier.bytes for entry in entries for tier in entry.tiers)
            labels = node.metadata.labels
            if amount and labels.get(HOSTNAME):
                seen.add(node.metadata.name)
                yield Holder(labels[HOSTNAME], amount, any(e.role == "Owner" for e in entries), labels)
        for node in self.stores["Node"].where("mark", mark):
            labels = node.metadata.labels
            if node.metadata.name not in seen and labels.get(HOSTNAME):
                yield Holder(labels[HOSTNAME], 0, True, labels)

    def _bound(self, namespace: str, name: str) -> Mapping[str, tuple[str, ...]]:
        """What the runtime's `status.cacheAffinity` demands of workers' nodes, by key."""
        found: dict[str, tuple[str, ...]] = {}
        for kind in c.RUNTIMES:
            runtime = self._get(kind, namespace, name)
            status = runtime.status if runtime is not None and isinstance(runtime.status, dict) else {}
            demanded = _dig(status, "cacheAffinity", "requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms")
            for term in demanded if isinstance(demanded, list) else ():
                for expression in term.get("matchExpressions") or ():
                    if expression.get("operator") == "In":
                        values = tuple(map(str, expression.get("values") or ()))
                        found[expression["key"]] = (*found.get(expression["key"], ()), *values)
        return found


def _dig(value: Any, *path: str) -> Any:
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _whole(obj: Object) -> Whole:
    """As the copies have objects: enough of it for their look-ups."""
    return Whole(metadata=ObjectMeta(), spec=obj.get("spec", msgspec.UNSET))


def _datasets(operation: Object) -> list[str]:
    """Names of the datasets that an operation works on."""
    spec = operation.get("spec")
    named = [_dig(spec, "dataset"), _dig(spec, "dataset", "name")]
    named += [_dig(spec, end, "dataset", "name") for end in ("from", "to")]
    return [name for name in named if isinstance(name, str) and name]
