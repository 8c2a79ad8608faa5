"""Where a dataset lies on this node, and the spec of the client tier that shows it. Pure but for `Site.make`.

<kubelet>/plugins/<driver>/
    csi.sock                                the kubelet's way in
    mounts.sock                             the way to whoever holds the mounts
    state/{staged,published,kept}/          records (`forebay.fuse.csi.volumes.records`)
    boot                                    of which boot they are
    datasets/<namespace>/<name>/            secret, members.yaml
    run/<namespace>/<name>/                 run directory of the supervisor
    mounts/<namespace>/<name>               the dataset's one mount of this node
<cache>/clients/<namespace>/<name>/         index and cache of its client tier
"""

from __future__ import annotations

import os
from typing import NamedTuple

import msgspec

from forebay.api import places
from forebay.api.spec import Cluster, DatasetSpec, Tier


class Layout(NamedTuple):
    """`base` is the driver's folder below the kubelet's, `cache` a directory on a disk."""

    base: str
    cache: str

    @property
    def state(self) -> str:
        return f"{self.base}/state"

    @property
    def runs(self) -> str:
        return f"{self.base}/run"

    @property
    def keeper(self) -> str:
        return f"{self.base}/mounts.sock"

    def site(self, namespace: str, dataset: str) -> Site:
        tail = f"{places.escape(namespace)}/{places.escape(dataset)}"
        return Site(
            namespace,
            dataset,
            folder=f"{self.base}/datasets/{tail}",
            run=f"{self.runs}/{tail}",
            mount=f"{self.base}/mounts/{tail}",
            cache=f"{self.cache}/clients/{namespace}/{dataset}",
        )


class Site(NamedTuple):
    """One dataset's places."""

    namespace: str
    dataset: str
    folder: str
    run: str
    mount: str
    cache: str

    @property
    def id(self) -> str:
        return f"{self.namespace}/{self.dataset}"

    @property
    def secret(self) -> str:
        return f"{self.folder}/secret"

    @property
    def members(self) -> str:
        return f"{self.folder}/members.yaml"

    def make(self) -> None:
        """The directories that are there before a mount is."""
        os.makedirs(self.folder, mode=0o700, exist_ok=True)
        for folder in (self.cache, f"{self.cache}/tier", f"{self.cache}/index"):
            os.makedirs(folder, mode=0o700, exist_ok=True)


def client_spec(public: tuple[DatasetSpec, int], site: Site, node: str, usual: int) -> DatasetSpec:
    """What this node runs: a client tier, which owns nothing, talks to no store and holds none of their credentials.

    `public`: as `source.spec_of` gives it; `usual`: bytes of the cache where that says nothing of it.
    """
    spec, quota = public
    cluster = Cluster(members=f"file:{site.members}", secret_file=site.secret, node=node, owns=False)
    return msgspec.structs.replace(
        spec,
        namespace=site.namespace,
        name=site.dataset,
        mounts=[msgspec.structs.replace(m, secrets={}) for m in spec.mounts],
        tiers=[Tier("SSD", f"{site.cache}/tier", quota or usual)],
        index_dir=f"{site.cache}/index",
        cluster=cluster,
    )
