"""The resolved dataset: what a worker and a mount need to run, after YAML, runtime and secrets were read.

It is written once by whoever starts a dataset (the command line today, a controller later) to a file of mode 0600
in the run directory, because it carries secret values; nothing else may print `Mount.secrets`.
"""

from __future__ import annotations

from typing import Literal

import msgspec

SPEC_VERSION = 1
"""Version of the spec file. A reader refuses a newer one."""

FLOOR_RATIO, FLOOR_BYTES = 0.15, 20 << 30
"""The free-space floor where nothing else is said: admission to the cache stops at the smaller of the two."""

GONE = "gone"
"""`Mount.store` of a mount that was taken from the dataset: rows that still name it keep its number from another's."""

ENDPOINT_NAME = "endpoint_name"
"""Option of `Mount`: what an endpoint that only some of a dataset's nodes may know is called on all of them."""

Medium = Literal["MEM", "SSD", "HDD"]
FreshnessMode = Literal["immutable", "ttl", "validate", "event"]


class Freshness(msgspec.Struct, frozen=True):
    """How long a name may point to an inode before the store is asked again.

    `immutable`: never asked again. `ttl`: after `ttl` seconds. `validate`: at every open, names after `ttl` seconds.
    `event`: only on an explicit refresh.
    """

    mode: FreshnessMode = "ttl"
    ttl: float = 60.0  # seconds


class Mount(msgspec.Struct, frozen=True):
    """One store in the tree. `store` is the module of `forebay.cache.stores` that serves it ("s3", "http", "file")."""

    source: str  # as written: "s3://bucket/prefix", "https://host/tree/", "local:///srv/data"
    store: str
    path: str  # absolute, normalised place in the tree; "/" for the root
    name: str
    options: dict[str, str] = {}  # canonical names only, see docs/options.md
    secrets: dict[str, str] = {}  # canonical names only (access_key, secret_key, session_token, password ...)
    read_only: bool = True
    freshness: Freshness = Freshness()

    @property
    def identity(self) -> str:
        """Which store this is, for naming cached objects: buckets of one name at two endpoints hold different bytes."""
        endpoint = self.options.get(ENDPOINT_NAME) or self.options.get("endpoint")
        return f"{self.source} at {endpoint}" if endpoint else self.source

    @property
    def called(self) -> str:
        """How messages name it. Few mounts have a name; where its tree appears is known to all."""
        return self.name or self.path

    @property
    def gone(self) -> bool:
        """Whether the dataset has it no more; see `forebay.cache.tree.numbering`."""
        return self.store == GONE

    def __repr__(self) -> str:
        """Everything but the values of secrets: a spec may end up in a log or a traceback."""
        return (
            f"Mount(source={self.source!r}, store={self.store!r}, path={self.path!r}, name={self.name!r}, "
            f"options={self.options!r}, secrets={sorted(self.secrets)}, read_only={self.read_only}, freshness={self.freshness!r})"
        )


class Tier(msgspec.Struct, frozen=True):
    """One directory of the cache. `quota` in bytes, 0 = bounded by the free-space floor alone; watermarks are ratios."""

    medium: Medium
    path: str
    quota: int = 0
    high: float = 0.95
    low: float = 0.7


class Cluster(msgspec.Struct, frozen=True):
    """How the worker of one node meets the others of its dataset: docs/cluster.md."""

    members: str  # where the member list is: "file:PATH" or "dns:NAME:PORT"
    secret_file: str  # the dataset's secret, the same on every node; mode 0600
    node: str  # this node's name, for people and for `--node`
    listen: str = ""  # "host:port" of the data port, as the member list has it; "" for a client tier
    control: str = ""  # "host:port" of the control door; "" = none
    weight: float = 1.0  # share of the bytes
    owns: bool = True  # False: a client tier, which owns nothing and has no credentials of the stores


class DatasetSpec(msgspec.Struct, frozen=True):
    """Everything a worker and a mount need. Mounts are in declared order; tiers are ordered MEM, SSD, HDD."""

    namespace: str
    name: str
    mounts: list[Mount]
    tiers: list[Tier]
    index_dir: str  # directory of the index environments, on a disk unless every tier is MEM
    uid: int | None = None  # owner of every file shown; None = who runs the mount
    gid: int | None = None
    floor_ratio: float = FLOOR_RATIO  # admission stops at min(ratio, bytes) of free space
    floor_bytes: int = FLOOR_BYTES
    cluster: Cluster | None = None  # None: this node alone
    version: int = SPEC_VERSION

    @property
    def id(self) -> str:
        return f"{self.namespace}/{self.name}"


def encode_spec(spec: DatasetSpec) -> bytes:
    return msgspec.json.encode(spec)


def decode_spec(raw: bytes) -> DatasetSpec:
    """Raises `ValueError` with a sentence when the file is of a newer version or no spec at all."""
    try:
        spec = msgspec.json.decode(raw, type=DatasetSpec)
    except msgspec.DecodeError as e:
        raise ValueError(f"not a forebay spec: {e}") from e
    if spec.version > SPEC_VERSION:
        raise ValueError(f"spec version {spec.version} is newer than this build's {SPEC_VERSION}: upgrade forebay")
    return spec
