"""NodeCache: what one node's cache holds, published by that node for schedulers, the pod webhook and people.

One object a node, named as the node and owned by it, without a spec. The node's plugin writes it: on real change, at most
every 10 s, and not at all where nothing changes. So `observedTime` is when it last had something new to say, not when it was last
alive: what it says holds while the node is Ready and the plugin's pod on it too. It is a hint: bytes may have gone since.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from forebay.api.conditions import Conditions
from forebay.api.crd.structs import Written, listing, moment, size, told
from forebay.api.hints.said import TROUBLE
from forebay.api.spec import Medium

MAX_DATASETS = 512
"""Datasets of one object, the largest first: 216 KiB with names of 6 and 13 characters, a worker and readers of each."""
MAX_PLACES = 32


class TierBytes(Written, frozen=True):
    """One medium of the node, all its directories together."""

    medium: Annotated[Medium, told("MEM, SSD or HDD.")]
    capacity_bytes: Annotated[
        int, size("Bytes that tiers on this medium may hold: quotas, less what the free-space floor keeps.")
    ]
    used_bytes: Annotated[int, size("Bytes that they hold.")]


class HeldBytes(Written, frozen=True):
    """Bytes of one dataset on one medium."""

    medium: Annotated[Medium, told("MEM, SSD or HDD.")]
    bytes: Annotated[int, size("Bytes of the dataset that lie there.")]


class Warming(Written, frozen=True):
    """A load that runs on the node."""

    remaining_bytes: Annotated[int, size("Bytes of the load that this node still has to fetch.")]
    bytes_per_second: Annotated[int, size("Rate over the last interval.")] = 0
    eta_seconds: Annotated[int, size("Seconds to the end at this rate; absent while nothing is known of it.")] = 0


class Served(Written, frozen=True):
    """What the dataset's worker on the node says of itself. Counters run since it started."""

    owned_bytes: Annotated[int, size("Bytes here that belong here; the others are copies of what other workers own.")]
    capacity_bytes: Annotated[int, size("Bytes that its tiers may hold.")]
    total_bytes: Annotated[int, size("Bytes of the dataset in its stores, as far as they are listed.")] = 0
    files: Annotated[int, size("Files of the dataset, as far as they are listed.")] = 0
    listed: Annotated[bool, told("Whether the stores are listed whole.")] = False
    store_bytes: Annotated[int, size("Bytes that came from the stores.")] = 0
    loaded_bytes: Annotated[int, size("Bytes that loads fetched, which nobody waited for.")] = 0
    revision: Annotated[str, told("Revision of the configuration that it serves.", max_length=64)] = ""
    places: Annotated[
        tuple[str, ...], told("Paths of the mounts that it serves, while there are at most 32.", max_length=MAX_PLACES)
    ] = ()
    drain: Annotated[Literal["", "Running", "Done", "Refused"], told("How far it is with giving away what it owns.")] = ""
    trouble: Annotated[str, told("Why a store of the dataset gives nothing; empty while all do.", max_length=TROUBLE)] = ""
    full: Annotated[
        str, told("Why its tiers keep nothing: what others left free of their disks; empty while they do.", max_length=TROUBLE)
    ] = ""


class Read(Written, frozen=True):
    """What the node's own cache for readers says of the dataset. Counters run since it started."""

    bytes: Annotated[int, size("Bytes that it holds.")]
    local_bytes: Annotated[
        int, size("Bytes of files that were opened again and lay there whole, at most once a second each.")
    ] = 0
    missed_bytes: Annotated[int, size("Bytes that it had to get from workers.")] = 0


class HeldDataset(Written, frozen=True):
    namespace: Annotated[str, told("Namespace of the dataset.", min_length=1, max_length=63)]
    name: Annotated[str, told("Name of the dataset.", min_length=1, max_length=63)]
    role: Annotated[
        Literal["Owner", "Client"],
        told("Owner: a worker that owns a share of the bytes; Client: a cache beside readers that owns nothing."),
    ]
    tiers: Annotated[
        tuple[HeldBytes, ...],
        listing("What the node holds of it, by medium; what lies in both its caches counts once.", "medium", max_length=3),
    ] = ()
    version: Annotated[str, told("Version of the dataset that the bytes are of.", max_length=128)] = ""
    mounted: Annotated[bool, told("Whether the node shows the dataset to pods now.")] = False
    silent: Annotated[bool, told("Pods of the node ask for the dataset, and its mount there does not answer.")] = False
    warming: Annotated[Warming | msgspec.UnsetType, told("A load in progress.")] = msgspec.UNSET
    worker: Annotated[Served | msgspec.UnsetType, told("What the worker on the node says.")] = msgspec.UNSET
    reader: Annotated[Read | msgspec.UnsetType, told("What the cache beside readers says.")] = msgspec.UNSET


class Bandwidth(Written, frozen=True):
    """The best rates of any 5 s of real traffic, in bytes per second, fading by 1 % with each 5 s of traffic; absent where there
    was none yet."""

    store_bytes_per_second: Annotated[int, size("From stores into this node's cache.")] = 0
    peer_bytes_per_second: Annotated[int, size("From other nodes into this node's cache.")] = 0
    read_bytes_per_second: Annotated[int, size("From this node's cache to its readers.")] = 0


class NodeCacheStatus(Written, frozen=True):
    observed_time: Annotated[str, moment("When the node last had something new to say.")]
    tiers: Annotated[tuple[TierBytes, ...], listing("What the node's tiers hold, by medium.", "medium", max_length=3)]
    cached_bytes: Annotated[int, size("Bytes of all datasets on this node.")]
    capacity_bytes: Annotated[int, size("Bytes that all its tiers may hold.")]
    cached: Annotated[str, told("The same for people: 1.50TiB.")]
    capacity: Annotated[str, told("The same for people: 3.00TiB.")]
    dataset_count: Annotated[int, size("Datasets that have bytes here, those left out below included.")]
    datasets: Annotated[
        tuple[HeldDataset, ...],
        listing("The largest first.", "namespace", "name", max_length=MAX_DATASETS),
    ] = ()
    bandwidth: Annotated[Bandwidth | msgspec.UnsetType, told("Measured rates.")] = msgspec.UNSET
    conditions: Conditions = ()
    version: Annotated[str, told("Version of forebay on the node.", max_length=64)] = ""
