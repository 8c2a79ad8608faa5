"""Volumes of claims that wait for their first pod: chosen ones are bound to the claim, others are asked for on the pod's node,
and the pod waits for them."""

from __future__ import annotations

import threading
import time

from forebay.api.kubernetes.storage import BIND_COMPLETED, SELECTED_NODE, PersistentVolume, PersistentVolumeClaim
from forebay.kube.client import Client
from forebay.kube.objects import Key
from forebay.kube.resources import CLAIMS
from forebay.kube.resources import VOLUMES as PERSISTENT_VOLUMES
from forebay.scheduler.live.instructions import Bind

LOOK = 1.0
"""Seconds between two looks at a claim."""


class VolumesFailed(Exception):
    """A claim was not bound in time, or cannot be. One sentence."""


class Volumes:
    """Carries out what a Bind wishes. `deadline`: seconds until all claims of one pod must be bound."""

    def __init__(self, client: Client, deadline: float) -> None:
        self._client, self.deadline = client, deadline
        self._ending = threading.Event()

    def stop(self) -> None:
        self._ending.set()

    def carry_out(self, bind: Bind) -> None:
        """Returns when every claim is bound. Raises VolumesFailed, and what the client raises."""
        namespace = bind.pod.namespace
        for wish in bind.volumes:
            claim = self._client.get(CLAIMS, Key(namespace, wish.claim), PersistentVolumeClaim)
            if claim.spec.volume_name:
                continue
            if wish.volume:
                self._reserve(wish.volume, claim)
            else:
                note = {"metadata": {"annotations": {SELECTED_NODE: wish.node}}}
                self._client.merge(CLAIMS, Key(namespace, wish.claim), note)
        self._wait(bind)

    def _reserve(self, volume: str, claim: PersistentVolumeClaim) -> None:
        """The controller that binds volumes completes it, as it does for kube-scheduler."""
        meta = claim.metadata
        reference = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": meta.namespace, "name": meta.name}
        reference |= {"uid": meta.uid, "resourceVersion": meta.resource_version}
        found = self._client.get(PERSISTENT_VOLUMES, Key("", volume), PersistentVolume)
        other = found.spec.claim_ref
        if other is not None and other.uid not in ("", meta.uid):
            raise VolumesFailed(f"volume {volume} went to another claim: {other.namespace}/{other.name}")
        body = {"metadata": {"resourceVersion": found.metadata.resource_version}, "spec": {"claimRef": reference}}
        self._client.merge(PERSISTENT_VOLUMES, Key("", volume), body)

    def _wait(self, bind: Bind) -> None:
        end = time.monotonic() + self.deadline
        for wish in bind.volumes:
            while True:
                claim = self._client.get(CLAIMS, Key(bind.pod.namespace, wish.claim), PersistentVolumeClaim)
                if claim.spec.volume_name and BIND_COMPLETED in claim.metadata.annotations:
                    break
                if not wish.volume and claim.metadata.annotations.get(SELECTED_NODE) != wish.node:
                    raise VolumesFailed(f"claim {wish.claim}: its provisioner cannot make a volume for node {wish.node}")
                if time.monotonic() > end:
                    what = f"volume {wish.volume}" if wish.volume else f"a new volume on node {wish.node}"
                    late = f"was not bound to {what} within {self.deadline:.0f} s"
                    raise VolumesFailed(f"claim {wish.claim} {late}: look at its events")
                if self._ending.wait(LOOK):
                    raise VolumesFailed("the scheduler is ending")
