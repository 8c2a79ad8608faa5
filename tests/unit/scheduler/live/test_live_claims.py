"""Claims on devices as the core decides and the writer writes them: who holds what when attempts fail, cross or are late."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from forebay.api.kubernetes.core import Node, Pod
from forebay.api.kubernetes.resource import FINALIZER, DeviceClass, ResourceClaim, ResourceSlice
from forebay.api.kubernetes.storage import CSIDriver, CSIStorageCapacity, PersistentVolumeClaim, StorageClass
from forebay.kube.errors import Conflict, NotFound, Status, Unreachable
from forebay.kube.objects import Bare, Key, ObjectMeta
from forebay.scheduler.claims.pools import DeviceId
from forebay.scheduler.groups import Groups
from forebay.scheduler.live.config import Configuration
from forebay.scheduler.live.copies import ANSWERED
from forebay.scheduler.live.core import Core
from forebay.scheduler.live.effects.allocations import AllocationFailed, Allocations
from forebay.scheduler.live.instructions import Bind, ClaimWish, Delete, FreeClaim, Named, Outcome, Tell

D = "gpu.nvidia.com"


def node(name: str, cpu: int = 4, labels: dict[str, str] | None = None, **offered: str) -> Node:
    have = {"cpu": str(cpu), "memory": "64Gi", "pods": "110", **offered}
    return msgspec.convert({"metadata": {"name": name, "labels": labels or {}}, "status": {"allocatable": have}}, Node)


def pod(name: str, claim: str = "", cpu: int = 1, limits: dict[str, str] | None = None, **more: Any) -> Pod:
    resources = {"requests": {"cpu": str(cpu), **(limits or {})}, "limits": limits or {}}
    used = [{"name": "c", "resourceClaimName": claim}] if claim else []
    spec = {"schedulerName": "forebay", "containers": [{"name": "c", "resources": resources}], "resourceClaims": used, **more}
    return msgspec.convert({"metadata": {"name": name, "namespace": "n", "uid": name}, "spec": spec}, Pod)


def slice_(on: str, count: int = 1) -> ResourceSlice:
    spec = {"driver": D, "nodeName": on, "pool": {"name": on}, "devices": [{"name": f"d{n}"} for n in range(count)]}
    return msgspec.convert({"metadata": {"name": f"s-{on}"}, "spec": spec}, ResourceSlice)


def claim(name: str, *held: str, users: tuple[str, ...] = (), on: str = "a", version: int = 1) -> ResourceClaim:
    status: dict[str, Any] = {}
    if held:
        results = [{"request": "r", "driver": D, "pool": on, "device": one} for one in held]
        term = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [on]}]}
        status["allocation"] = {"devices": {"results": results}, "nodeSelector": {"nodeSelectorTerms": [term]}}
        status["reservedFor"] = [{"resource": "pods", "name": one, "uid": one} for one in users]
    meta = {"name": name, "namespace": "n", "uid": f"uid-{name}", "resourceVersion": str(version)}
    spec = {"devices": {"requests": [{"name": "r", "exactly": {"deviceClassName": "any"}}]}}
    return msgspec.convert({"metadata": meta, "spec": spec, "status": status}, ResourceClaim)


def core(*nodes: Node, slices: tuple[ResourceSlice, ...] = ()) -> Core:
    made = Core(Configuration(), Groups(), lambda: 1_700_000_000_000_000_000)
    for one in nodes:
        made.apply("Node", None, one)
    made.apply("DeviceClass", None, msgspec.convert({"metadata": {"name": "any"}}, DeviceClass))
    for each in slices:
        made.apply("ResourceSlice", None, each)
    return made


def binds(instructions: Any) -> list[Bind]:
    return [one for one in instructions if isinstance(one, Bind)]


def said(instructions: Any) -> list[str]:
    return [one.sentence for one in instructions if isinstance(one, Tell)]


def test_a_bind_carries_what_is_to_be_written() -> None:
    c = core(node("a"), slices=(slice_("a"),))
    c.apply("ResourceClaim", None, claim("x"))
    c.apply("Pod", None, pod("p", "x"))
    (bind,) = binds(c.decide(0))
    (wish,) = bind.claims
    assert (wish.claim, wish.uid, wish.devices, wish.ours) == ("x", "uid-x", (DeviceId(D, "a", "d0"),), True)
    assert msgspec.json.decode(msgspec.json.encode(wish.allocation)) == {
        "devices": {"results": [{"request": "r", "driver": D, "pool": "a", "device": "d0"}]},
        "nodeSelector": {"nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["a"]}]}]},
    }


def test_a_claim_from_a_template_that_is_seen_before_its_pods_word_of_it() -> None:
    c = core(node("a"), slices=(slice_("a"),))
    spec = pod("p", resourceClaims=[{"name": "c", "resourceClaimTemplateName": "one"}])
    c.apply("Pod", None, spec)
    assert "a ResourceClaim is not made from its template yet" in said(c.decide(0))[0]
    c.apply("ResourceClaim", None, claim("p-c"))
    assert not binds(c.decide(20))
    named = msgspec.convert({"resourceClaimStatuses": [{"name": "c", "resourceClaimName": "p-c"}]}, type(spec.status))
    c.apply("Pod", spec, msgspec.structs.replace(spec, status=named))
    assert [one.pod.name for one in binds(c.decide(20.1))] == ["p"]


def test_a_device_waits_for_the_outcome_of_the_attempt_that_writes_it() -> None:
    c = core(node("a"), slices=(slice_("a"),))
    for name in ("x", "y"):
        c.apply("ResourceClaim", None, claim(name))
    first = pod("p", "x")
    c.apply("Pod", None, first)
    (bind,) = binds(c.decide(0))
    c.apply("Pod", first, None)
    c.apply("Pod", None, pod("q", "y"))
    done = c.decide(1)
    assert not binds(done)
    assert "too few free devices for request r" in said(done)[0]
    c.apply(ANSWERED, None, claim("x", "d0", users=("p",), version=2))
    c.outcome(Outcome(bind.number, "p", "gone"), 2)
    assert not binds(c.decide(3))
    c.apply(ANSWERED, None, claim("x", version=3))
    (late,) = binds(c.decide(100))
    assert late.pod.name == "q"


def test_a_failed_binding_gives_the_device_to_the_next() -> None:
    c = core(node("a"), slices=(slice_("a"),))
    for name in ("x", "y"):
        c.apply("ResourceClaim", None, claim(name))
        c.apply("Pod", None, pod(f"p{name}", name))
    (bind,) = binds(c.decide(0))
    c.outcome(Outcome(bind.number, bind.pod.uid, "refused", "somebody else"), 1)
    (other,) = binds(c.decide(1))
    assert other.pod.uid != bind.pod.uid
    assert set(c.books.cluster.claims.taken.values()) == {2}  # by the decision and by its attempt


def test_a_claim_that_keeps_its_pod_from_where_there_is_room_is_given_back_once_nobody_else_has_it() -> None:
    c = core(node("a", cpu=1), node("b", cpu=8), slices=(slice_("a"), slice_("b")))
    c.apply("ResourceClaim", None, claim("x", "d0", users=("p", "other"), version=1))
    c.apply("Pod", None, pod("p", "x", cpu=4))
    assert not [one for one in c.decide(0) if isinstance(one, FreeClaim)]
    c.apply("ResourceClaim", None, claim("x", "d0", users=("p",), version=2))
    assert FreeClaim(Named("n", "p", "p"), "x", "uid-x") in c.decide(100)
    c.apply(ANSWERED, None, claim("x", version=3))
    (bind,) = binds(c.decide(200))
    assert bind.node == "b"


def test_claims_of_pods_that_another_scheduler_binds_are_not_written() -> None:
    c = Core(Configuration(gates=True), Groups(), lambda: 1_700_000_000_000_000_000)
    c.apply("Node", None, node("a"))
    c.apply("DeviceClass", None, msgspec.convert({"metadata": {"name": "any"}}, DeviceClass))
    c.apply("ResourceSlice", None, slice_("a"))
    c.apply("ResourceClaim", None, claim("x"))
    c.apply("Pod", None, pod("p", "x", schedulerName="other", schedulingGates=[{"name": "forebay.io/placement"}]))
    (bind,) = binds(c.decide(0))
    assert bind.gated
    assert not bind.claims
    assert set(c.books.cluster.claims.taken) == {DeviceId(D, "a", "d0")}


def test_cards_that_a_device_plugin_counts_are_not_given_out_by_the_driver_too() -> None:
    c = core(node("a", **{"nvidia.com/gpu": "1"}), slices=(slice_("a"),))
    c.apply("ResourceClaim", None, claim("x"))
    c.apply("Pod", None, pod("p", "x"))
    done = c.decide(0)
    assert not binds(done)
    assert f"handed out without driver {D} too" in said(done)[0]
    c.apply("Node", node("a"), node("a"))  # the plugin is gone
    assert [bind.pod.name for bind in binds(c.decide(100))] == ["p"]


def test_an_extended_resource_that_a_class_maps_is_refused_and_one_that_nodes_offer_is_not() -> None:
    c = core(node("a"), slices=(slice_("a"),))
    mapping = {"metadata": {"name": "mapped"}, "spec": {"extendedResourceName": "example.com/card"}}
    c.apply("DeviceClass", None, msgspec.convert(mapping, DeviceClass))
    c.apply("Pod", None, pod("p", limits={"example.com/card": "1"}))
    c.apply("Pod", None, pod("q", limits={"deviceclass.resource.kubernetes.io/any": "1"}))
    done = c.decide(0)
    assert not binds(done)
    assert ["DeviceClass mapped maps" in one or "DeviceClass any maps" in one for one in said(done)] == [True, True]
    c.apply("Node", None, node("b", **{"example.com/card": "1"}))
    assert [bind.pod.name for bind in binds(c.decide(100))] == ["p"]


def test_koordinators_device_says_which_cards_a_node_has() -> None:
    amounts = {"koordinator.sh/gpu-core": "100", "koordinator.sh/gpu-memory": "80Gi", "koordinator.sh/gpu-memory-ratio": "100"}

    def device(*well: bool) -> dict[str, Any]:
        listed = [{"type": "gpu", "minor": n, "id": f"GPU-{n}", "health": h, "resources": amounts} for n, h in enumerate(well)]
        labels = {"node.koordinator.sh/gpu-vendor": "nvidia"}
        return {"kind": "Device", "metadata": {"name": "a", "labels": labels}, "spec": {"devices": listed}}

    c = core()
    c.apply("Device", None, device(False))  # it may come before its node
    c.apply("Node", None, node("a", **{"koordinator.sh/gpu-core": "100", "koordinator.sh/gpu-memory-ratio": "100"}))
    c.apply("Pod", None, pod("p", limits={"koordinator.sh/gpu-core": "50", "koordinator.sh/gpu-memory-ratio": "50"}))
    assert "card health" in said(c.decide(0))[0]
    c.apply("Device", device(False), device(True))
    done = c.decide(100)
    (bind,) = binds(done)
    assert "GPU-0" in bind.annotations["scheduling.koordinator.sh/device-allocated"]
    c.apply("Device", device(True), None)
    assert not [one for one in c.books.devices.devices("a") if one.healthy]


def test_what_is_said_of_a_claim_that_comes_later_is_said_anew() -> None:
    """A pod is often seen before its claim; a claim changes no row of a node."""
    c = core(node("a"))
    c.apply("Pod", None, pod("p", volumes=[{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]))
    assert "claim n/data does not exist" in said(c.decide(0))[0]
    spec = {"accessModes": ["ReadWriteOnce"], "storageClassName": "none", "resources": {"requests": {"storage": "10Gi"}}}
    data = {"metadata": {"name": "data", "namespace": "n"}, "spec": spec}
    c.apply("PersistentVolumeClaim", None, msgspec.convert(data, PersistentVolumeClaim))
    (told,) = said(c.decide(10))
    assert "claim n/data does not exist" not in told


def test_storage_capacity_decides_where_a_volume_can_be_made() -> None:
    c = core(node("a", labels={"kubernetes.io/hostname": "a"}), node("b", labels={"kubernetes.io/hostname": "b"}))
    kind = {"metadata": {"name": "fast"}, "provisioner": "csi.example.com", "volumeBindingMode": "WaitForFirstConsumer"}
    c.apply("StorageClass", None, msgspec.convert(kind, StorageClass))
    driver = {"metadata": {"name": "csi.example.com"}, "spec": {"storageCapacity": True}}
    c.apply("CSIDriver", None, msgspec.convert(driver, CSIDriver))
    spec = {"accessModes": ["ReadWriteOnce"], "storageClassName": "fast", "resources": {"requests": {"storage": "10Gi"}}}
    data = {"metadata": {"name": "data", "namespace": "n"}, "spec": spec}
    c.apply("PersistentVolumeClaim", None, msgspec.convert(data, PersistentVolumeClaim))
    c.apply("Pod", None, pod("p", volumes=[{"name": "d", "persistentVolumeClaim": {"claimName": "data"}}]))
    assert "too little storage of class fast left for claim n/data" in said(c.decide(0))[0]

    def left(name: str, **more: Any) -> CSIStorageCapacity:
        topology = {"matchLabels": {"kubernetes.io/hostname": name}}
        body = {"metadata": {"name": f"left-{name}", "namespace": "csi"}, "storageClassName": "fast", "nodeTopology": topology}
        return msgspec.convert({**body, **more}, CSIStorageCapacity)

    c.apply("CSIStorageCapacity", None, left("a", capacity="100Gi", maximumVolumeSize="9Gi"))
    c.apply("CSIStorageCapacity", None, left("b", capacity="9Gi"))
    assert not binds(c.decide(100))
    c.apply("CSIStorageCapacity", left("b", capacity="9Gi"), left("b", capacity="10Gi"))
    assert [bind.node for bind in binds(c.decide(200))] == ["b"]


# --- what is written --------------------------------------------------------------------------------------------------


class Server:
    """One claim as an API server keeps it: versions, and a writer in between where `meanwhile` says so. A stand-in for failures
    that a real one does not make at will."""

    def __init__(self, one: ResourceClaim | None) -> None:
        self.claim = one
        self.meanwhile: list[ResourceClaim | None] = []
        self.writes = 0
        self.broken = False

    def get(self, resource: Any, key: Key, type_: Any) -> ResourceClaim:
        if self.claim is None:
            raise NotFound(f"GET {key}", Status(code=404))
        return self.claim

    def merge(self, resource: Any, key: Key, body: Any, *, sub: str = "") -> Bare:
        if self.meanwhile:
            self.claim = self.meanwhile.pop(0)
        if self.broken:
            raise Unreachable(f"PATCH {key}", "cut", sent=True)
        assert self.claim is not None
        if body["metadata"]["resourceVersion"] != self.claim.metadata.resource_version:
            raise Conflict(f"PATCH {key}", Status(code=409))
        self.writes += 1
        plain = msgspec.to_builtins(self.claim)
        plain["metadata"] |= {**body["metadata"], "resourceVersion": str(int(self.claim.metadata.resource_version) + 1)}
        status = {**plain.get("status", {}), **body.get("status", {})}
        plain["status"] = {key: value for key, value in status.items() if value is not None}
        self.claim = msgspec.convert(plain, ResourceClaim)
        return Bare(ObjectMeta(name=key.name, resource_version=self.claim.metadata.resource_version))


def writer(server: Server) -> tuple[Allocations, list[ResourceClaim]]:
    told: list[ResourceClaim] = []
    return Allocations(server, told.append), told  # type: ignore[arg-type]


ALLOCATION = msgspec.to_builtins(claim("x", "d0").status.allocation)
WISH = ClaimWish("x", "uid-x", (DeviceId(D, "a", "d0"),), ALLOCATION, ours=True)


def bind(*wishes: ClaimWish, name: str = "p") -> Bind:
    return Bind(Named("n", name, name), "a", 1, claims=wishes or (WISH,))


def test_reserve_and_release_leave_the_claim_as_it_was() -> None:
    server = Server(claim("x"))
    allocations, told = writer(server)
    allocations.reserve(bind())
    assert server.claim == told[-1]
    assert server.claim is not None
    assert FINALIZER in server.claim.metadata.finalizers
    assert server.claim.status == claim("x", "d0", users=("p",)).status
    allocations.release(bind())
    assert server.claim == told[-1]
    assert server.claim.status == claim("x").status


def test_a_conflict_is_looked_at_anew_and_two_pods_of_one_claim_are_both_reserved() -> None:
    server = Server(claim("x"))
    allocations, _ = writer(server)
    server.meanwhile = [claim("x", "d0", users=("q",), version=9)]
    allocations.reserve(bind())
    assert server.claim is not None
    assert {one.uid for one in server.claim.status.reserved_for} == {"p", "q"}
    allocations.release(bind())
    assert {one.uid for one in server.claim.status.reserved_for} == {"q"}
    assert server.claim.status.allocation is not None
    allocations.release(bind())
    assert {one.uid for one in server.claim.status.reserved_for} == {"q"}


@pytest.mark.parametrize(
    ("there", "wish", "sentence"),
    [
        (claim("x", "d1", users=("q",)), WISH, "allocated otherwise"),
        (claim("x"), ClaimWish("x", "uid-x", WISH.devices), "has lost its devices"),
        (claim("x"), ClaimWish("x", "another", WISH.devices, ALLOCATION, ours=True), "another one by now"),
        (claim("x", "d0", users=tuple(f"u{n}" for n in range(256))), WISH, "has 256 users"),
    ],
)
def test_a_claim_that_is_not_as_it_was_decided_is_left_alone(there: ResourceClaim, wish: ClaimWish, sentence: str) -> None:
    server = Server(there)
    allocations, _ = writer(server)
    with pytest.raises(AllocationFailed, match=sentence):
        allocations.reserve(bind(wish))
    assert server.claim == there
    assert not server.writes


def test_what_somebody_else_allocated_is_not_taken_back() -> None:
    there = claim("x", "d1", users=("p",))
    server = Server(there)
    allocations, _ = writer(server)
    allocations.release(bind())
    assert server.claim == there
    allocations.free(FreeClaim(Named("n", "p", "p"), "x", "uid-x"))
    assert server.claim.status.allocation is None


def test_what_cannot_be_given_back_is_left_and_what_is_gone_is_nothing() -> None:
    server = Server(claim("x", "d0", users=("p",)))
    allocations, told = writer(server)
    server.broken = True
    allocations.release(bind())
    assert not told
    gone, _ = writer(Server(None))
    gone.release(bind())
    gone.free(FreeClaim(Named("n", "p", "p"), "x", "uid-x"))


def bound(one: Pod, where: str = "a") -> Pod:
    return msgspec.structs.replace(one, spec=msgspec.structs.replace(one.spec, node_name=where))


def test_pods_of_lower_priority_give_their_devices() -> None:
    """No more of them than are needed, and none twice: until the claim's controller has freed what a deleted pod had, its devices
    count as coming."""
    c = core(node("a", 8), slices=(slice_("a", 2),))
    low = {name: bound(pod(name, f"c-{name}", priority=number)) for number, name in enumerate(("low", "lower"))}
    for n, (name, one) in enumerate(low.items()):
        c.apply("ResourceClaim", None, claim(f"c-{name}", f"d{n}", users=(name,)))
        c.apply("Pod", None, one)
    c.apply("ResourceClaim", None, claim("mine"))
    c.apply("Pod", None, pod("high", "mine", priority=9))
    done = c.decide(0)
    assert [one.pod.name for one in done if isinstance(one, Delete)] == ["low"]  # priority 0
    assert not binds(done)
    c.apply("Pod", low["low"], None)
    done = c.decide(20)  # its claim is still allocated, and reserved for it
    assert not [one for one in done if isinstance(one, Delete)]
    assert not binds(done)
    c.apply("ResourceClaim", claim("c-low", "d0", users=("low",)), claim("c-low", version=2))
    (bind,) = binds(c.decide(60))
    assert bind.claims[0].devices == (DeviceId(D, "a", "d0"),)
    assert c.books.cluster.claims.taken == {DeviceId(D, "a", "d0"): 2, DeviceId(D, "a", "d1"): 1}  # decided, and in flight


def test_a_claim_that_others_use_too_frees_nothing_with_one_of_them() -> None:
    c = core(node("a", 8), slices=(slice_("a", 1),))
    c.apply("ResourceClaim", None, claim("shared", "d0", users=("low", "higher")))
    c.apply("Pod", None, bound(pod("low", "shared")))
    c.apply("Pod", None, bound(pod("higher", "shared", priority=20)))
    c.apply("ResourceClaim", None, claim("mine"))
    c.apply("Pod", None, pod("high", "mine", priority=9))
    assert not [one for one in c.decide(0) if isinstance(one, Delete)]
    assert c.books.cluster.claims.taken == {DeviceId(D, "a", "d0"): 1}


def test_a_place_is_held_for_who_waits_for_devices() -> None:
    c = core(node("a", 8), slices=(slice_("a", 1),))
    job = {"restartPolicy": "Never"}
    c.apply("ResourceClaim", None, claim("held", "d0", users=("old",)))
    old = bound(pod("old", "held", **job))
    c.apply("Pod", None, old)
    for name in ("mine", "other"):
        c.apply("ResourceClaim", None, claim(name))
    c.apply("Pod", None, pod("first", "mine", **job))
    assert said(c.decide(0))[0].endswith("it is reserved on a, nobody knows when what runs there ends")
    c.apply("Pod", None, pod("plain", **job))
    c.apply("Pod", None, pod("second", "other", **job))
    assert [one.pod.name for one in binds(c.decide(2))] == ["plain"]  # it takes no device from it
    c.apply("Pod", old, None)
    c.apply("ResourceClaim", claim("held", "d0", users=("old",)), None)
    assert [one.pod.name for one in binds(c.decide(100))] == ["first"]
