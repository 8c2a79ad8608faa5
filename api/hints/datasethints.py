"""DatasetHints: where one dataset is warm, summed up from the NodeCaches for those who place pods.

One object a dataset whose claim is named by pods that have no node yet, or that is annotated `forebay.io/watch: "true"`; of its
name and in its namespace, owned by it, without a spec. It is bounded: the nodes with most bytes stand by name, all others in
sums. The controller writes it on real change, at most every 10 s, and takes it away ten minutes after it was wanted last.
"""

from __future__ import annotations

from typing import Annotated

from forebay.api.conditions import Conditions
from forebay.api.crd.structs import Written, listing, moment, size, told

MAX_NODES = 100
"""Nodes by name: a gang larger than that is placed by the sums of its zone."""
MAX_ZONES = 64
LOAD_ON = "forebay.io/load-on"
"""Annotation of a DatasetHints, written by the scheduler: names of nodes, with commas, that should load the dataset because pods
that wait will likely run there. A wish: nothing depends on its being followed."""
WATCH = "forebay.io/watch"
"""Annotation of a Dataset: `true` for hints although no pod waits."""


class NodeHint(Written, frozen=True):
    name: Annotated[str, told("Name of the node.", min_length=1, max_length=253)]
    bytes: Annotated[int, size("Bytes of the dataset that the node holds.")]
    mounted: Annotated[bool, told("Whether the node shows the dataset to pods now.")] = False
    eta_seconds: Annotated[int, size("Seconds until its load is done; absent where none runs or nothing is known.")] = 0
    read_bytes_per_second: Annotated[int, size("Measured rate from its cache to its readers.")] = 0


class ZoneHint(Written, frozen=True):
    name: Annotated[str, told("Value of topology.kubernetes.io/zone.", min_length=1, max_length=63)]
    bytes: Annotated[int, size("Bytes of the dataset in the zone, each counted once.")]
    nodes: Annotated[int, size("Nodes of the zone that hold some.")]


class DatasetHintsStatus(Written, frozen=True):
    observed_time: Annotated[str, moment("When this was written.")]
    total_bytes: Annotated[int, size("Bytes of the dataset in its stores, as far as they are listed.")]
    cached_bytes: Annotated[int, size("Bytes that at least one node holds.")]
    total: Annotated[str, told("The total for people: 1.50TiB.")]
    cached: Annotated[str, told("The cached bytes for people: 0.75TiB.")]
    cached_percent: Annotated[int, told("The share of the two; 0 while the total is unknown.", ge=0, le=100)]
    node_count: Annotated[int, size("Nodes that hold some, those left out below included.")]
    nodes: Annotated[tuple[NodeHint, ...], listing("The nodes with most bytes.", "name", max_length=MAX_NODES)] = ()
    other_bytes: Annotated[int, size("Bytes of the nodes that are left out.")] = 0
    zones: Annotated[tuple[ZoneHint, ...], listing("The same by zone.", "name", max_length=MAX_ZONES)] = ()
    store_bytes_per_second: Annotated[int, size("Measured rate from the stores, all nodes together.")] = 0
    eta_seconds: Annotated[int, size("Seconds until the loads in progress are done; absent where nothing is known.")] = 0
    version: Annotated[str, told("Version of the dataset that the bytes are of.", max_length=128)] = ""
    conditions: Conditions = ()
