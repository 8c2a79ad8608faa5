"""A stand-in for a CSI driver's provisioner: does what the contract with the scheduler demands, and makes volumes that are only
objects.

It waits for the annotation `volume.kubernetes.io/selected-node`, then makes a PersistentVolume for the claim that only that node
reaches, or, where it has nothing left there, takes the annotation away: the scheduler then decides anew. It says what it has left
in CSIStorageCapacity objects, where it is told to.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from types import TracebackType

from schedulerlab import Site

from forebay.api.kubernetes.storage import SELECTED_NODE, PersistentVolumeClaim, class_of
from forebay.kube.client import Client
from forebay.kube.errors import ApiError
from forebay.kube.objects import Key
from forebay.kube.resources import CLAIMS, CSI_CAPACITIES, CSI_DRIVERS, STORAGE_CLASSES, VOLUMES
from forebay.kube.transport import Transport

LOOK = 0.1


class Provisioner:
    """`name`: of driver and class. `refuses`: nodes on which it fails."""

    def __init__(self, site: Site, name: str, *, says_capacity: bool = False) -> None:
        self.site, self.name = site, name
        self.refuses: set[str] = set()
        self.refused: list[str] = []
        self._ending = threading.Event()
        self._transport = Transport(site.client.transport.endpoint)
        self._client = Client(self._transport, manager="provisioner")
        self._thread = threading.Thread(target=self._run, name="provisioner", daemon=True)
        self._volumes: list[str] = []
        self.defect = ""
        meta = {"metadata": {"name": name}}
        kind = {"provisioner": name, "volumeBindingMode": "WaitForFirstConsumer", "reclaimPolicy": "Retain"}
        self._client.create(STORAGE_CLASSES, "", {"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", **meta, **kind})
        spec = {"storageCapacity": says_capacity, "attachRequired": False}
        self._client.create(CSI_DRIVERS, "", {"apiVersion": "storage.k8s.io/v1", "kind": "CSIDriver", **meta, "spec": spec})

    def __enter__(self) -> Provisioner:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._ending.set()
        self._thread.join(60)
        for volume in self._volumes:
            self._client.delete(VOLUMES, Key("", volume))
        self._client.delete(STORAGE_CLASSES, Key("", self.name))
        self._client.delete(CSI_DRIVERS, Key("", self.name))
        self._transport.close()
        assert not self.defect, self.defect

    def left(self, node: str, amount: str) -> None:
        """What it has left on the node."""
        body = {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "CSIStorageCapacity",
            "metadata": {"name": f"left-{node}", "namespace": self.site.namespace},
            "storageClassName": self.name,
            "nodeTopology": {"matchLabels": {"kubernetes.io/hostname": node}},
            "capacity": amount,
        }
        self._client.apply(CSI_CAPACITIES, Key(self.site.namespace, f"left-{node}"), body)

    def claim(self, name: str, size: str) -> Mapping[str, object]:
        """Makes a claim; the volume of a pod that uses it."""
        spec = {"accessModes": ["ReadWriteOnce"], "storageClassName": self.name, "resources": {"requests": {"storage": size}}}
        body = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": spec}
        self._client.create(CLAIMS, self.site.namespace, body)
        return {"name": name, "persistentVolumeClaim": {"claimName": name}}

    def _run(self) -> None:
        try:
            while not self._ending.wait(LOOK):
                for claim in self._client.list_all(CLAIMS, PersistentVolumeClaim, self.site.namespace)[0]:
                    if class_of(claim) == self.name and not claim.spec.volume_name:
                        self._serve(claim)
        except ApiError as error:
            self.defect = f"the stand-in ended: {error}"

    def _serve(self, claim: PersistentVolumeClaim) -> None:
        meta, node = claim.metadata, claim.metadata.annotations.get(SELECTED_NODE)
        if node is None or f"pv-{meta.uid}" in self._volumes:
            return
        if node in self.refuses:
            self.refused.append(node)
            self._client.merge(CLAIMS, Key(meta.namespace, meta.name), {"metadata": {"annotations": {SELECTED_NODE: None}}})
            return
        here = {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}
        reference = {"kind": "PersistentVolumeClaim", "apiVersion": "v1", "namespace": meta.namespace, "name": meta.name}
        spec = {
            "capacity": {"storage": claim.spec.resources.requests["storage"]},
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": self.name,
            "persistentVolumeReclaimPolicy": "Retain",
            "claimRef": {**reference, "uid": meta.uid},
            "csi": {"driver": self.name, "volumeHandle": meta.uid},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [here]}]}},
        }
        made = {"annotations": {"pv.kubernetes.io/provisioned-by": self.name}}
        name = f"pv-{meta.uid}"
        self._client.create(
            VOLUMES, "", {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name, **made}, "spec": spec}
        )
        self._volumes.append(name)
