"""Volumes: tables of cases, and that what is decided for a claim holds for whoever comes next."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from filterlab import cluster, node, pod, where

from forebay.api.kubernetes.core import Pod
from forebay.api.kubernetes.resource import ResourceClaim
from forebay.api.kubernetes.storage import CSINode, PersistentVolume, PersistentVolumeClaim, StorageClass
from forebay.scheduler.arrays.cluster import Cluster
from forebay.scheduler.arrays.storage import Chosen, ClaimKey
from forebay.scheduler.gang import Gang, Member, plan
from forebay.scheduler.planner import Planner
from forebay.scheduler.policies import Setting, make

ZONE = "topology.kubernetes.io/zone"
BOUND = {"pv.kubernetes.io/bind-completed": "yes"}


def volume(name: str, zone: str = "", **more: Any) -> PersistentVolume:
    """10Gi of the class local, free, where `zone` is; `more` goes into its spec, `labels` and `phase` to their places."""
    labels, phase = more.pop("labels", {}), more.pop("phase", "Available")
    terms = [{"matchExpressions": [{"key": ZONE, "operator": "In", "values": [zone]}]}]
    affinity = {"nodeAffinity": {"required": {"nodeSelectorTerms": terms}}} if zone else {}
    spec = {"capacity": {"storage": "10Gi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": "local", **affinity, **more}
    return msgspec.convert(
        {"metadata": {"name": name, "labels": labels}, "spec": spec, "status": {"phase": phase}}, PersistentVolume
    )


def claim(
    name: str = "c", to: str = "", kind: str = "local", notes: dict[str, str] | None = None, **more: Any
) -> PersistentVolumeClaim:
    """5Gi, bound to the volume `to`, or waiting."""
    made = {
        "storageClassName": kind,
        "volumeName": to,
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "5Gi"}},
    }
    meta = {"name": name, "namespace": "default", "annotations": (BOUND if to else {}) if notes is None else notes}
    phase = more.pop("phase", "Bound" if to else "Pending")
    if "deletionTimestamp" in more:
        meta["deletionTimestamp"] = more.pop("deletionTimestamp")
    return msgspec.convert({"metadata": meta, "spec": {**made, **more}, "status": {"phase": phase}}, PersistentVolumeClaim)


def kind(name: str, provisioner: str, mode: str = "WaitForFirstConsumer", zones: list[str] | None = None) -> StorageClass:
    allowed = [{"matchLabelExpressions": [{"key": ZONE, "values": zones}]}] if zones else []
    made = {"metadata": {"name": name}, "provisioner": provisioner, "volumeBindingMode": mode, "allowedTopologies": allowed}
    return msgspec.convert(made, StorageClass)


def limit(name: str, count: int | None) -> CSINode:
    drivers = [{"name": "disk", "allocatable": {"count": count}}]
    return msgspec.convert({"metadata": {"name": name}, "spec": {"drivers": drivers}}, CSINode)


def uses(*claims: str, on: str = "", **spec: Any) -> Pod:
    made = [{"name": f"v{at}", "persistentVolumeClaim": {"claimName": name}} for at, name in enumerate(claims)]
    return pod(on, volumes=made, **spec)


def world(objects: list[PersistentVolume | PersistentVolumeClaim], pods: list[Pod] | None = None) -> Cluster:
    made = cluster([node("a", {ZONE: "a"}), node("b", {ZONE: "b"}), node("none")])
    for one in (kind("local", "kubernetes.io/no-provisioner"), kind("disk", "disk"), kind("zonal", "disk", zones=["a"])):
        made.storage.set_class(one)
    made.storage.set_class(kind("soon", "disk", "Immediate"))
    for each in objects:
        if isinstance(each, PersistentVolume):
            made.storage.set_volume(each)
        else:
            made.storage.set_claim(each)
    for there in pods or []:
        made.set_pod(there)
    return made


CASES: list[tuple[str, list[PersistentVolume | PersistentVolumeClaim], str]] = [
    ("bound to a volume of a zone", [claim(to="v"), volume("v", "a")], "a"),
    ("bound to one that is everywhere", [claim(to="v"), volume("v")], "a b none"),
    ("zone labels; a node without zone passes", [claim(to="v"), volume("v", labels={ZONE: "b"})], "b none"),
    ("several zones", [claim(to="v"), volume("v", labels={ZONE: "b__a"})], "a b none"),
    ("the old zone label", [claim(to="v"), volume("v", labels={"failure-domain.beta.kubernetes.io/zone": "a"})], "a none"),
    ("bound to a volume that is gone", [claim(to="v")], ""),
    ("no claim", [], ""),
    ("a claim that is being deleted", [claim(to="v", deletionTimestamp="now"), volume("v")], ""),
    ("a lost claim", [claim(to="v", phase="Lost"), volume("v")], ""),
    ("not bound, and its class does not wait", [claim(kind="soon"), volume("v", storageClassName="soon")], ""),
    ("half bound", [claim(to="v", notes={}), volume("v")], ""),
    ("no class", [claim(kind="")], ""),
    ("a class that is gone", [claim(kind="gone")], ""),
    ("free volumes where they are", [claim(), volume("v", "a"), volume("w", "b")], "a b"),
    ("one of another class", [claim(), volume("v", "a", storageClassName="disk")], ""),
    ("too small", [claim(), volume("v", capacity={"storage": "4Gi"})], ""),
    ("of another mode", [claim(), volume("v", volumeMode="Block")], ""),
    ("of other access modes", [claim(), volume("v", accessModes=["ReadOnlyMany"])], ""),
    ("not available", [claim(), volume("v", phase="Released")], ""),
    ("another's", [claim(), volume("v", claimRef={"name": "other", "namespace": "default"})], ""),
    (
        "reserved for it, whatever else fits",
        [claim(), volume("v", "a"), volume("w", "b", claimRef={"name": "c", "namespace": "default"})],
        "b",
    ),
    ("by selector", [claim(selector={"matchLabels": {"x": "y"}}), volume("v", "a"), volume("w", "b", labels={"x": "y"})], "b"),
    ("made anywhere", [claim(kind="disk")], "a b none"),
    ("made in a zone", [claim(kind="zonal")], "a"),
    ("made in a zone, or a volume elsewhere", [claim(kind="zonal"), volume("v", "b", storageClassName="zonal")], "a b"),
    ("being made on a node", [claim(kind="disk", notes={"volume.kubernetes.io/selected-node": "b"})], "b"),
]


@pytest.mark.parametrize(("objects", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_one_claim(objects: list[PersistentVolume | PersistentVolumeClaim], expected: str) -> None:
    assert where(world(objects), uses("c")) == expected


def test_an_ephemeral_claim_is_found_by_pod_and_volume() -> None:
    one = pod(volumes=[{"name": "scratch", "ephemeral": {"volumeClaimTemplate": {}}}])
    made = world([claim(f"{one.metadata.name}-scratch", to="v"), volume("v", "b")])
    assert where(made, one) == "b"


def test_two_claims_do_not_get_one_volume() -> None:
    both = [claim("c"), claim("d")]
    assert where(world([*both, volume("v", "a")]), uses("c", "d")) == ""
    assert where(world([*both, volume("v", "a"), volume("w", "a"), volume("x", "b")]), uses("c", "d")) == "a"


def test_the_smallest_claim_takes_the_smallest_volume_first() -> None:
    small, large = claim("d", resources={"requests": {"storage": "1Gi"}}), claim("c")
    made = world([large, small, volume("v", "a"), volume("w", "a", capacity={"storage": "2Gi"})])
    request = made.request(uses("c", "d"))
    Planner(made, make("bestfit", Setting())).place(request)
    assert made.storage.chosen == {ClaimKey("default", "c"): Chosen("v"), ClaimKey("default", "d"): Chosen("w")}


def test_what_a_gang_takes_is_gone_for_its_other_members_and_free_again_if_it_is_refused() -> None:
    made = world([claim("c"), claim("d"), claim("e"), volume("v", "a"), volume("w", "b")])
    planner = Planner(made, make("packing", Setting()))
    members = [Member(name, made.request(uses(name))) for name in "cde"]
    refused = plan(planner, Gang("g", members, 3))
    assert (refused.reason, made.storage.chosen, made.storage.users) == ("the gang needs 3 pods at once, 2 fit", {}, {})
    done = plan(planner, Gang("g", members, 2))
    assert {one.node for one in done.placements} == {"a", "b"}
    assert {one.volume for one in made.storage.chosen.values()} == {"v", "w"}


def test_pods_that_share_a_claim_to_be_made_go_to_one_node() -> None:
    made = world([claim("c", kind="disk")])
    planner = Planner(made, make("packing", Setting()))
    first = planner.place(made.request(uses("c")))
    assert first is not None
    assert where(made, uses("c")) == made.names[first.row]
    made.release(first.row, made.request(uses("c")), ())
    assert where(made, uses("c")) == "a b none"


def test_one_pod_at_a_time() -> None:
    once = claim(to="v", accessModes=["ReadWriteOncePod"])
    holder = uses("c", on="b")
    made = world([once, volume("v")], [holder])
    assert where(made, uses("c")) == ""
    made.remove_pod(holder.metadata.uid)
    assert where(made, uses("c")) == "a b none"


def test_a_pod_on_a_node_that_is_not_known_holds_its_claim_too() -> None:
    once = claim(to="v", accessModes=["ReadWriteOncePod"])
    made = world([once, volume("v")], [uses("c", on="later")])
    assert where(made, uses("c")) == ""
    made.set_node(node("later"))
    made.remove_node("later")
    assert where(made, uses("c")) == ""


def csi(name: str) -> PersistentVolume:
    return volume(name, storageClassName="disk", csi={"driver": "disk", "volumeHandle": f"handle-{name}"})


ATTACHED: list[tuple[str, int | None, tuple[str, ...], str]] = [
    ("room for one more", 3, ("e",), "a b none"),
    ("no room", 2, ("e",), "b none"),
    ("what is attached already takes no room", 2, ("c",), "a b none"),
    ("of two one is new", 2, ("c", "e"), "b none"),
    ("two claims on one volume are one", 3, ("e", "same"), "a b none"),
    ("no limit is known", None, ("e",), "a b none"),
    ("one that is still to be made counts", 2, ("fresh",), "b none"),
]


@pytest.mark.parametrize(("count", "claims", "expected"), [case[1:] for case in ATTACHED], ids=[case[0] for case in ATTACHED])
def test_attach_limits(count: int | None, claims: tuple[str, ...], expected: str) -> None:
    objects = [csi(name) for name in "vwx"] + [
        claim("c", "v"),
        claim("d", "w"),
        claim("e", "x"),
        claim("same", "x"),
        claim("fresh", kind="disk"),
    ]
    made = world(objects, [uses("c", "d", on="a"), uses("c", on="a"), uses("fresh", on="later")])
    made.set_driver_limits(limit("a", count))
    assert where(made, uses(*claims)) == expected


def test_a_claim_that_is_bound_meanwhile_is_counted_as_its_volume() -> None:
    made = world([csi("v"), claim("c", kind="disk"), claim("d", "v", kind="disk")], [uses("c", on="a")])
    made.set_driver_limits(limit("a", 1))
    assert where(made, uses("d")) == "b none"
    made.storage.set_claim(claim("c", "v", kind="disk"))
    assert where(made, uses("d")) == "a b none"


DEVICES: list[tuple[str, dict[str, Any] | None, str]] = [
    (
        "allocated on a node",
        {
            "allocation": {
                "nodeSelector": {
                    "nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["b"]}]}]
                }
            }
        },
        "b",
    ),
    ("allocated, usable everywhere", {"allocation": {}}, "a b none"),
    ("not allocated", {}, ""),
    ("not there", None, ""),
]


@pytest.mark.parametrize(("status", "expected"), [case[1:] for case in DEVICES], ids=[case[0] for case in DEVICES])
def test_resource_claims(status: dict[str, Any] | None, expected: str) -> None:
    made = world([])
    if status is not None:
        asked = {"devices": {"requests": [{"name": "one", "exactly": {"deviceClassName": "gpu.example.com"}}]}}
        claimed = {"metadata": {"name": "gpu", "namespace": "default"}, "spec": asked, "status": status}
        made.claims.set_claim(msgspec.convert(claimed, ResourceClaim))
    assert where(made, pod(resourceClaims=[{"name": "g", "resourceClaimName": "gpu"}])) == expected
    assert where(made, pod(resourceClaims=[{"name": "g", "resourceClaimTemplateName": "t"}])) == ""
