"""Claims on devices as the deciding thread sees them: what a placed pod's claims get, and which a waiting pod gives back."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from forebay.api.kubernetes.core import Pod
from forebay.scheduler.arrays.cluster import Cluster
from forebay.scheduler.arrays.storage import ClaimKey
from forebay.scheduler.claims.written import held
from forebay.scheduler.devices.card import Device as Card
from forebay.scheduler.devices.ecosystems.dra import rows
from forebay.scheduler.live.copies import ANSWERED, CLAIM_KINDS
from forebay.scheduler.live.instructions import ClaimWish, FreeClaim, Named
from forebay.scheduler.live.intentions import gated
from forebay.scheduler.pods.classes import read_devices


class Claims:
    """Of one cluster: its book, told and asked."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster, self._book = cluster, cluster.claims

    def change(self, kind: str, old: Any, new: Any) -> bool:
        """Claims, classes, slices: `new` None for what is gone. Whether the kind is one of these."""
        if kind not in (*CLAIM_KINDS, ANSWERED):
            return False
        book, before = self._book, self._book.version
        name, namespace = (new if new is not None else old).metadata.name, (new if new is not None else old).metadata.namespace
        if kind == "ResourceSlice":
            book.set_slice(new) if new is not None else book.remove_slice(name)
        elif kind == "DeviceClass":
            book.set_class(new) if new is not None else book.remove_class(name)
        elif new is not None:
            book.set_claim(new, answered=kind == ANSWERED)
        else:
            book.remove_claim(namespace, name)
        if book.version != before:
            self._cluster.noted()
        return True

    def counted(self, node: str, cards: Iterable[Card]) -> None:
        """Cards that the node hands out otherwise (device plugin, HAMi, Koordinator). A driver of the same kind would give them a
        second time: its devices on that node are not used."""
        kinds = {card.kind for card in cards}
        if self._book.set_counted(node, {dra.driver for kind, dra in rows() if kind.name in kinds}):
            self._cluster.noted()

    def take_off(self, pod: Pod, number: int) -> tuple[ClaimWish, ...]:
        """What is to be written before the pod is bound in that attempt. Of a pod that another scheduler binds that one's claims
        are not ours to write."""
        if not pod.spec.resource_claims:
            return ()
        keys = [ClaimKey(pod.metadata.namespace, name) for name in read_devices(pod) if name]
        if not keys or gated(pod):
            return ()
        self._book.take_off(number, keys)
        return tuple(self._wish(key) for key in dict.fromkeys(keys))

    def landed(self, number: int) -> None:
        """The attempt's outcome is here."""
        self._book.landed(number)

    def _wish(self, key: ClaimKey) -> ClaimWish:
        claim, chosen = self._book.claims[key], self._book.chosen.get(key)
        if claim.status.allocation is not None or chosen is None:
            return ClaimWish(key.name, claim.metadata.uid, held(claim.status.allocation))
        return ClaimWish(key.name, claim.metadata.uid, chosen.devices, chosen.body, ours=True)

    def give_back(self, pods: Iterable[Pod]) -> list[FreeClaim]:
        """Of pods that found no room: claims that are allocated already, for nobody else."""
        found = list[FreeClaim]()
        for pod in pods:
            meta = pod.metadata
            for name in read_devices(pod):
                claim = self._book.claims.get(ClaimKey(meta.namespace, name))
                if claim is None or claim.status.allocation is None or self._book.users[ClaimKey(meta.namespace, name)]:
                    continue
                if all(one.uid == meta.uid for one in claim.status.reserved_for):
                    found.append(FreeClaim(Named(meta.namespace, meta.name, meta.uid), name, claim.metadata.uid))
        return found

    def mapped(self, names: Iterable[str]) -> str:
        """Why a pod that asks for these resources cannot be placed, "" if that is no reason: a DeviceClass stands for one that no
        node offers."""
        for name in names:
            kind = self._book.mapped(name) if name not in self._cluster.columns else ""
            if kind:
                return (
                    f"it asks for {name}, which DeviceClass {kind} maps to devices: that is not done here; "
                    "write a ResourceClaim of that class"
                )
        return ""
