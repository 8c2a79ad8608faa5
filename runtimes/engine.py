"""The seam between the controllers and the engines: what goes in, what comes out, what an engine must provide.

An engine is pure: it is given what is wanted (`Subject`) and what exists (`Found`) and answers with the objects that
should exist (`Plan`) and the status that follows from what does (`Observed`). Same input, same output, byte for byte.
It reads no clock (`now` is given), keeps nothing between two calls, and sees no Secret's value.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, Protocol

import msgspec

from forebay.api.fluid.engine_class import IMAGE
from forebay.api.fluid.status import CacheRuntimeStatus, DatasetStatus, RuntimeStatus

Object = dict[str, Any]
"""A Kubernetes object as JSON has it."""


class Ref(msgspec.Struct, frozen=True, order=True):
    """Names an object. `namespace` is "" for cluster-scoped kinds."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"


class Installation(msgspec.Struct, frozen=True, kw_only=True):
    """What the administrator decided once for the cluster. Sizes marked as guesses have not been measured in pods yet."""

    image: str = IMAGE
    pull_policy: str = "IfNotPresent"
    pull_secrets: tuple[str, ...] = ()
    namespace: str = "forebay-system"  # where the privileged parts run
    default_engine: str = ""  # "native": our engine serves what asks for no engine; "" leaves it NotBound, as in Fluid
    driver: str = "forebay.io"  # the CSI driver of inline volumes and claims
    storage_class: str = "fluid"
    uid: int | None = 65532  # of worker processes; None where the platform gives each namespace its own
    data_port: int = 7401
    control_port: int = 7402
    cpu_request: str = "100m"  # guess
    memory_request: str = "256Mi"  # guess; MEM tiers are added
    memory_limit: str = "1Gi"  # guess; MEM tiers are added
    # what caches leave free of a node's disk: unless told otherwise kubelets remove images and evict pods below 15 % of the disk
    # that has images, and below 10 % of others; 5 % of margin
    free_space_floor: str = "20%"
    drain_rate: int = 100_000_000  # bytes per second that a worker is believed to hand out when it leaves; guess
    priority_class: str = ""
    fluid_node_labels: bool = False  # nodes get Fluid's labels, for which the controller may change nodes
    network_policy: bool = False  # only where node plugins have pod addresses: a policy cannot select the host's network


class WorkerFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What one worker says of itself. Bytes are bytes; counters count since its start."""

    owned_bytes: int = 0
    capacity_bytes: int = 0
    total_bytes: int = 0  # of the dataset, as far as this worker knows the listing
    files: int = 0
    listed: bool = False
    local_bytes: int = 0
    remote_bytes: int = 0
    store_bytes: int = 0
    loaded_bytes: int = 0  # of what came from stores, what loads asked for
    revision: str = ""  # of the configuration that it serves; "" = it did not say
    places: tuple[str, ...] = ()  # of the mounts that it serves
    trouble: str = ""  # why a store gives it nothing
    full: str = ""  # why it keeps nothing: a disk that others have filled
    drain: Literal["", "Running", "Done", "Refused"] = ""
    overdue: bool = False  # the drain has taken longer than its bound
    silent: bool = False  # it said nothing itself: of it is known only how its drain goes


class ReaderFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What a node's cache for readers says. Counters count since its start."""

    local_bytes: int = 0  # of reads that it had
    missed_bytes: int = 0  # of reads that it had to get from workers


class Warned(msgspec.Struct, frozen=True):
    """An Event of type Warning that still counts."""

    about: Ref
    reason: str
    message: str


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What exists. Facts that nobody reports yet are left at their defaults."""

    objects: Mapping[Ref, Object] = {}  # children of the names that the engine gives (`Engine.children`)
    pods: tuple[Object, ...] = ()  # worker pods
    nodes: Mapping[str, bool] = {}  # node -> whether it is Ready; one that is missing is gone
    warned: tuple[Warned, ...] = ()
    workers: Mapping[str, WorkerFacts] = {}  # by pod name
    readers: Mapping[str, ReaderFacts] = {}  # by node
    mounted: Mapping[str, bool] = {}  # node that shows the dataset -> whether its mount answers
    users: tuple[str, ...] = ()  # pods that use the claim and have not completed
    completed: tuple[str, ...] = ()  # pods that name it still, and have
    referrers: tuple[str, ...] = ()  # datasets that refer to this one: namespace/name
    operations: Mapping[str, str] = {}  # kind -> names of data operations in progress, separated by commas
    fresh_secret: str = ""  # text for a dataset secret, should one be needed; made anew by whoever calls


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """The dataset that a reference (`dataset://`) names."""

    subject: Subject
    grants: tuple[Object, ...] = ()  # DatasetGrants of its namespace
    bound: bool = False


class Subject(msgspec.Struct, frozen=True, kw_only=True):
    """One dataset and what was said about it, as the API server has it."""

    dataset: Object
    runtimes: tuple[Object, ...] = ()  # of the dataset's name and namespace, any kind
    namespace: Object = {}  # the Namespace, for its labels and annotations
    classes: tuple[Object, ...] = ()  # the CacheRuntimeClass or ThinRuntimeProfile that a runtime names
    installation: Installation = Installation()
    source: Source | None = None  # of a reference; None where there is no such dataset, too

    @property
    def key(self) -> tuple[str, str]:
        meta = self.dataset["metadata"]
        return meta.get("namespace", "default"), meta["name"]


class Finding(msgspec.Struct, frozen=True):
    """Something to be said, as an Event and in a condition. An error keeps the object from being served."""

    severity: Literal["error", "warning"]
    reason: str  # one word for programs
    message: str  # one sentence with field, value and remedy


LEAVING = "forebay.io/leaving"
"""Annotation of a worker's pod that carries out a `Drain`: since when it is to leave (RFC 3339). The pod has it as a file."""


PROTECTION = "kubernetes.io/pvc-protection"
"""Finalizer of Kubernetes: it keeps a claim while any pod names it, one that has ended too, of which a Job may leave many."""
REVISION = "forebay.io/config-revision"
"""Annotation of a dataset's ConfigMap: which configuration it holds. On a worker's pod it carries out a `Nudge`: what changes a
pod makes its kubelet look at its volumes."""


class Drain(msgspec.Struct, frozen=True):
    """Tell a worker to give away what it owns and to stop serving then."""

    pod: str


class Nudge(msgspec.Struct, frozen=True):
    """Have a worker's kubelet look at the pod's ConfigMaps now; by itself it does once a minute or so."""

    pod: str
    revision: str  # of the configuration that was applied


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What to do, in this order: `create`, `apply`, `nudge`, `drain`, `delete`, `unprotect`, then `release`.

    With errors among the findings nothing is made or changed: a bad edit does not take data from readers. Only a claim that
    must not be used any longer (a grant was taken back) is deleted then.
    """

    create: tuple[Object, ...] = ()  # POST; that it exists already is no failure, and it is never written again
    apply: tuple[Object, ...] = ()  # server-side apply; those with a uid only add to an object that somebody else made
    nudge: tuple[Nudge, ...] = ()  # one that is lost costs a minute, so none is made up for
    drain: tuple[Drain, ...] = ()
    delete: tuple[Ref, ...] = ()
    unprotect: tuple[Ref, ...] = ()  # claims that are being deleted, and that Kubernetes keeps for pods which have ended
    release: bool = False  # our finalizers may go
    findings: tuple[Finding, ...] = ()


class Observed(msgspec.Struct, frozen=True, kw_only=True):
    dataset: DatasetStatus
    runtime: RuntimeStatus | CacheRuntimeStatus | None  # None where no runtime serves the dataset
    mountable: bool  # a pod that names the claim now will read
    findings: tuple[Finding, ...] = ()


class Loading(msgspec.Struct, frozen=True, kw_only=True):
    """What carries a DataLoad out: objects that are made once, in this order, the Job last. All belong to the DataLoad.

    The Job's first container ends with code 2 where another try meets the same, and leaves a `LoadResult` as its message.
    """

    objects: tuple[Object, ...] = ()
    job: Ref
    findings: tuple[Finding, ...] = ()  # an error refuses the load


class Engine(Protocol):
    """What a module of this room provides as `ENGINE`."""

    @property
    def name(self) -> str:
        """What annotations, conditions and `status.engine` call it."""

    @property
    def drives(self) -> frozenset[str]:
        """Runtime kinds whose own engine this is: it serves them without being asked."""

    @property
    def classes(self) -> frozenset[str]:
        """CacheRuntimeClasses that are this engine."""

    @property
    def adopts(self) -> bool:
        """Whether it can stand in for every other kind's engine, where an annotation says so."""

    def children(self, subject: Subject) -> Iterable[Ref]:
        """Every object that it may own for this dataset: what the caller looks up for `Found.objects`."""

    def plan(self, subject: Subject, found: Found, now: str) -> Plan:
        """What should exist. `now` is an RFC 3339 time."""

    def retire(self, subject: Subject, found: Found) -> Plan:
        """Take away what it made for a dataset that another engine, or none, serves now."""

    def observe(self, subject: Subject, found: Found, now: str) -> Observed:
        """The status by what exists."""

    def loading(self, subject: Subject, load: Object) -> Loading | None:
        """What carries a DataLoad of this dataset out; None where the engine loads nothing ahead."""
