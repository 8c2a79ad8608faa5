"""Volumes: where a pod's claims can be had.

A bound claim is where its volume's node affinity and zone labels say. A claim whose class waits for the first consumer is where a
free volume fits it, the smallest first, or where its class may make one (`allowedTopologies`); with several claims volumes are
given out smallest claim first, as the binder of kube-scheduler does. Anything else that is not bound, missing or being deleted
keeps the pod from everywhere. What was decided for a claim in an earlier placement holds for the next pod that uses it.

Where the driver says how much it has left (CSIStorageCapacity), a volume is made only where that suffices. What other claims were
promised meanwhile is not subtracted: the driver refuses then, and the claim is decided anew.

Not read: VolumeAttachments of volumes that no pod uses, in-tree volumes, inline ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from forebay.api.kubernetes.storage import (
    BIND_COMPLETED,
    DELAYED,
    NO_PROVISIONER,
    ONCE_POD,
    SELECTED_NODE,
    CSIStorageCapacity,
    PersistentVolume,
    PersistentVolumeClaim,
    StorageClass,
    class_of,
)
from forebay.scheduler.arrays.labels import NAME
from forebay.scheduler.arrays.node_rows import NodeRows
from forebay.scheduler.arrays.state import Overcommit
from forebay.scheduler.arrays.storage import Chosen, ClaimKey, Handle, Storage
from forebay.scheduler.arrays.types import Bools, Ints
from forebay.scheduler.filters.base import Check, NodeMask
from forebay.scheduler.lack import Lack
from forebay.scheduler.pods.classes import NodeRule
from forebay.scheduler.pods.selectors import Requirement, ordered, read_expressions, read_selector, selects
from forebay.scheduler.quota.amounts import parse_amount

ZONES = {
    "topology.kubernetes.io/zone": "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region": "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone": "topology.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region": "topology.kubernetes.io/region",
}
"""Labels of a volume that a node must share, and the label that stands in on the node."""

MaskOf = Callable[[NodeRule, str], NodeMask]
"""The mask of a rule about nodes, and what it is called in a sentence."""


class ZoneCheck(NodeMask):
    """A volume's zone labels, `a__b` for several. A node without any zone label passes: it may be a cluster of one zone."""

    def __init__(self, nodes: NodeRows, volume: str, zones: dict[str, str]) -> None:
        super().__init__(nodes)
        self._volume, self._zones = volume, zones

    def compute(self, rows: Ints) -> Bools:
        labels = self.nodes.labels
        zoned = np.zeros(len(rows), np.bool_)
        for key in ZONES:
            zoned |= labels.satisfy(Requirement(key, "Exists"), rows)
        passed = np.ones(len(rows), np.bool_)
        for key, text in self._zones.items():
            values = tuple(one.strip() for one in text.split("__"))
            here = labels.satisfy(Requirement(key, "Exists"), rows)
            passed &= np.where(
                here,
                labels.satisfy(Requirement(key, "In", values), rows),
                labels.satisfy(Requirement(ZONES[key], "In", values), rows),
            )
        return passed | ~zoned

    def lack(self) -> Lack:
        zones = ", ".join(f"{key}={value}" for key, value in self._zones.items())
        return Lack(f"volume {self._volume} is in another zone ({zones})", "move the data or use a node of its zone")


class CapacityCheck(NodeMask):
    """Nodes where the driver of the class has enough left for a claim."""

    def __init__(self, nodes: NodeRows, key: ClaimKey, kind: StorageClass, enough: list[NodeMask]) -> None:
        super().__init__(nodes)
        self._key, self._class, self._enough = key, kind.metadata.name, enough

    def compute(self, rows: Ints) -> Bools:
        passed = np.zeros(len(rows), np.bool_)
        for mask in self._enough:
            passed |= mask.passes(rows)
        return passed

    def lack(self) -> Lack:
        return Lack(f"too little storage of class {self._class} left for claim {self._key}", "free storage or ask for less")


@dataclass(slots=True)
class _Waiting:
    """A claim that is not bound yet: volumes that fit it, the best first, and where one can be made for it."""

    key: ClaimKey
    size: int
    volumes: list[tuple[str, NodeMask | None]] = field(default_factory=list)
    made: bool = False
    made_where: list[NodeMask] = field(default_factory=list)


class VolumeCheck(Check):
    """The claims of one class of pods. Recomputed when an object of the storage changed (`Storage.version`)."""

    def __init__(self, nodes: NodeRows, storage: Storage, mask_of: MaskOf, claims: tuple[ClaimKey, ...]) -> None:
        self._nodes, self._storage, self._mask_of, self._claims = nodes, storage, mask_of, claims
        self._version = -1
        self._blocked: Lack | None = None
        self._masks: list[NodeMask] = []
        self._waiting: list[_Waiting] = []

    # --- answers ---

    def passes(self, rows: Ints) -> Bools:
        self._read()
        if self._blocked is not None:
            return np.zeros(len(rows), np.bool_)
        passed = np.ones(len(rows), np.bool_)
        for mask in self._masks:
            passed &= mask.passes(rows)
        return passed & self._served(rows)

    def choose(self, row: int) -> dict[ClaimKey, Chosen]:
        """Which volume each waiting claim gets on the row; one that is to be made has the row only.

        Raises Overcommit for a row that does not pass.
        """
        self._read()
        served = self._serve(row) if self._blocked is None else None
        if served is None:
            node, claims = self._nodes.labels.get(row).get(NAME), ", ".join(map(str, self._claims))
            raise Overcommit(f"node {node} serves not all of the claims {claims}")
        return served

    def _served(self, rows: Ints) -> Bools:
        if not self._waiting:
            return np.ones(len(rows), np.bool_)
        if len(self._waiting) > 1:  # volumes are given out one after the other
            return np.array([self._serve(row) is not None for row in rows.tolist()], np.bool_)
        (one,) = self._waiting
        served = self._made(one, rows)
        for _, mask in one.volumes:
            served |= np.ones(len(rows), np.bool_) if mask is None else mask.passes(rows)
        return served

    @staticmethod
    def _made(one: _Waiting, rows: Ints) -> Bools:
        made = np.full(len(rows), one.made, np.bool_)
        for mask in one.made_where:
            made &= mask.passes(rows)
        return made

    def _serve(self, row: int) -> dict[ClaimKey, Chosen] | None:
        given: dict[ClaimKey, Chosen] = {}
        taken: set[str] = set()
        for one in self._waiting:
            for name, mask in one.volumes:
                if name not in taken and (mask is None or mask.mask[row]):
                    given[one.key] = Chosen(name)
                    taken.add(name)
                    break
            else:
                if not self._made(one, np.array([row]))[0]:
                    return None
                given[one.key] = Chosen(row=row)
        return given

    def lacks(self, rows: Ints) -> list[tuple[Lack, Bools]]:
        self._read()
        if self._blocked is not None:
            return [(self._blocked, np.ones(len(rows), np.bool_))]
        found = [(mask.lack(), ~mask.passes(rows)) for mask in self._masks]
        if self._waiting:
            names = ", ".join(one.key.name for one in self._waiting)
            lack = Lack(f"no volume for claim {names}", "add a PersistentVolume there or a class that makes one")
            short = ~self._served(rows)
            for mask in (mask for one in self._waiting for mask in one.made_where if isinstance(mask, CapacityCheck)):
                full = short & ~mask.passes(rows)
                found.append((mask.lack(), full))
                short = short & ~full
            found.append((lack, short))
        return found

    def lack(self) -> Lack:
        return Lack("volumes")

    # --- reading objects ---

    def _read(self) -> None:
        if self._version == self._storage.version:
            return
        self._version = self._storage.version
        self._blocked, self._masks, self._waiting = None, [], []
        for key in self._claims:
            self._read_claim(key)
        self._waiting.sort(key=lambda one: (one.size, one.key))

    def _read_claim(self, key: ClaimKey) -> None:
        claim = self._storage.claims.get(key)
        if claim is None:
            self._block(f"claim {key} does not exist", "create it")
        elif claim.status.phase == "Lost":
            self._block(f"claim {key} has lost its volume", "delete and restore it")
        elif claim.metadata.deletion_timestamp is not None:
            self._block(f"claim {key} is being deleted", "use another claim")
        elif claim.spec.volume_name and BIND_COMPLETED in claim.metadata.annotations:
            self._read_bound(key, claim)
        else:
            kind = self._storage.classes.get(class_of(claim))
            if class_of(claim) and kind is None:
                self._block(f"claim {key}: StorageClass {class_of(claim)} does not exist", "create the class")
            elif kind is None or kind.volume_binding_mode != DELAYED or claim.spec.volume_name:
                self._block(f"claim {key} is not bound yet", "look at the claim's events")
            else:
                self._waiting.append(self._read_waiting(key, claim, kind))

    def _block(self, what: str, remedy: str) -> None:
        self._blocked = self._blocked or Lack(what, remedy)

    def _read_bound(self, key: ClaimKey, claim: PersistentVolumeClaim) -> None:
        volume = self._storage.volumes.get(claim.spec.volume_name)
        if volume is None:
            self._block(f"claim {key}: volume {claim.spec.volume_name} does not exist", "restore the volume")
            return
        if (mask := self._affinity(volume)) is not None:
            self._masks.append(mask)
        zones = {label: value for label, value in volume.metadata.labels.items() if label in ZONES}
        if zones:
            self._masks.append(ZoneCheck(self._nodes, volume.metadata.name, zones))

    def _affinity(self, volume: PersistentVolume) -> NodeMask | None:
        required = volume.spec.node_affinity.required if volume.spec.node_affinity else None
        if required is None:
            return None
        terms = tuple(ordered(read_expressions(term.match_expressions)) for term in required.node_selector_terms)
        return self._mask_of(NodeRule((), terms), f"node affinity of volume {volume.metadata.name}")

    def _read_waiting(self, key: ClaimKey, claim: PersistentVolumeClaim, kind: StorageClass) -> _Waiting:
        size = parse_amount("storage", claim.spec.resources.requests.get("storage", 0))
        one = _Waiting(key, size, made=kind.provisioner not in ("", NO_PROVISIONER))
        if kind.allowed_topologies:
            terms = tuple(
                ordered(Requirement(label.key, "In", tuple(sorted(label.values))) for label in term.match_label_expressions)
                for term in kind.allowed_topologies
            )
            one.made_where.append(self._mask_of(NodeRule((), terms), f"allowedTopologies of class {kind.metadata.name}"))
        capacities = self._storage.capacities(kind)
        if capacities is not None:
            enough = [self._reached(each) for each in capacities if each.node_topology is not None and _left(each) >= size]
            one.made_where.append(CapacityCheck(self._nodes, key, kind, enough))
        chosen = self._storage.chosen.get(key)
        selected = claim.metadata.annotations.get(SELECTED_NODE)
        if chosen is not None and not chosen.volume:
            selected = self._nodes.labels.get(chosen.row).get(NAME, "")
        if selected is not None:
            one.made_where.append(self._mask_of(NodeRule((Requirement(NAME, "In", (selected,)),)), f"node of claim {key}"))
        else:
            one.volumes = self._fitting(key, claim, size, chosen)
        return one

    def _reached(self, one: CSIStorageCapacity) -> NodeMask:
        return self._mask_of(NodeRule(read_selector(one.node_topology) or ()), "reach of storage")

    def _fitting(
        self, key: ClaimKey, claim: PersistentVolumeClaim, size: int, chosen: Chosen | None
    ) -> list[tuple[str, NodeMask | None]]:
        """Free volumes for the claim, smallest first. One that is reserved for it, by whomever, is the only one."""
        taken = {other.volume for claimed, other in self._storage.chosen.items() if claimed != key}
        selector = read_selector(claim.spec.selector)
        found: list[tuple[int, str, NodeMask | None]] = []
        for volume in self._storage.of_class(class_of(claim)):
            name = volume.metadata.name
            capacity = parse_amount("storage", volume.spec.capacity.get("storage", 0))
            if name in taken or capacity < size or volume.metadata.deletion_timestamp is not None:
                continue
            if volume.spec.volume_mode != claim.spec.volume_mode:
                continue
            if (volume.spec.volume_attributes_class_name or "") != (claim.spec.volume_attributes_class_name or ""):
                continue
            if _reserved(volume, key, claim) or (chosen is not None and chosen.volume == name):
                return [(name, self._affinity(volume))]
            if volume.spec.claim_ref is not None or volume.status.phase != "Available":
                continue
            if selector is not None and not selects(selector, volume.metadata.labels):
                continue
            if set(claim.spec.access_modes) <= set(volume.spec.access_modes):
                found.append((capacity, name, self._affinity(volume)))
        found.sort(key=lambda each: each[:2])
        return [(name, mask) for _, name, mask in found]


def _left(one: CSIStorageCapacity) -> int:
    """The largest volume that can be made; 0 where nobody says."""
    said = one.capacity if one.maximum_volume_size is None else one.maximum_volume_size
    return 0 if said is None else parse_amount("storage", said)


def _reserved(volume: PersistentVolume, key: ClaimKey, claim: PersistentVolumeClaim) -> bool:
    ref = volume.spec.claim_ref
    return ref is not None and (ref.namespace, ref.name) == key and ref.uid in ("", claim.metadata.uid)


class OncePodCheck(Check):
    """A claim that one pod at a time may use (ReadWriteOncePod) keeps the next one from everywhere."""

    def __init__(self, storage: Storage, claims: tuple[ClaimKey, ...]) -> None:
        self._storage, self._claims = storage, claims

    def _held(self) -> ClaimKey | None:
        for key in self._claims:
            claim = self._storage.claims.get(key)
            if claim is not None and ONCE_POD in claim.spec.access_modes and self._storage.users.get(key):
                return key
        return None

    def passes(self, rows: Ints) -> Bools:
        return np.full(len(rows), self._held() is None, np.bool_)

    def lack(self) -> Lack:
        return Lack(f"claim {self._held()} is ReadWriteOncePod and in use", "wait for the pod that uses it to end")


class AttachCheck(Check):
    """How many volumes of a driver a node can attach (CSINode); one that is attached there already takes no further place."""

    def __init__(self, storage: Storage, claims: tuple[ClaimKey, ...]) -> None:
        self._storage, self._claims = storage, claims

    def _needed(self) -> dict[str, list[Handle]]:
        needed: dict[str, list[Handle]] = {}
        for handle in dict.fromkeys(self._storage.handle(key) for key in self._claims):
            if handle is not None and self._storage.limit(handle.driver) is not None:
                needed.setdefault(handle.driver, []).append(handle)
        return needed

    def _fits(self, driver: str, handles: list[Handle], rows: Ints) -> Bools:
        limit = self._storage.limit(driver)
        assert limit is not None  # `_needed` left out the others
        more = np.full(len(limit), len(handles), np.int64)
        for handle in handles:
            more[self._storage.rows_with(handle)] -= 1
        fits: Bools = (more[rows] <= 0) | (self._storage.attached(driver)[rows] + more[rows] <= limit[rows])
        return fits

    def passes(self, rows: Ints) -> Bools:
        passed = np.ones(len(rows), np.bool_)
        for driver, handles in self._needed().items():
            passed &= self._fits(driver, handles, rows)
        return passed

    def lacks(self, rows: Ints) -> list[tuple[Lack, Bools]]:
        return [
            (Lack(f"no more volumes of driver {driver} can be attached", "end pods with such volumes there"), failed)
            for driver, handles in self._needed().items()
            if (failed := ~self._fits(driver, handles, rows)).any()
        ]

    def lack(self) -> Lack:
        return Lack("attach limit")
