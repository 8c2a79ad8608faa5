"""Fields, attributes and what they are refused for: the specification's tables, and tricks. No mount, no socket."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from forebay.fuse.csi.protocol import attributes, checks
from forebay.fuse.csi.protocol import messages as m
from forebay.fuse.csi.protocol.attributes import ClaimVolume, HostVolume, TierRequest, WorkerVolume
from forebay.fuse.csi.protocol.proto import Empty
from forebay.fuse.csi.protocol.refusal import Refusal

POD = {"csi.storage.k8s.io/ephemeral": "true", "csi.storage.k8s.io/pod.namespace": "team"}
WORKER = {
    "forebay.io/part": "worker",
    "forebay.io/dataset": "demo",
    "forebay.io/service": "svc-demo-worker",
    "forebay.io/uid": "65532",
    "forebay.io/tier-0": "MEM 1024 /dev/shm",
    "forebay.io/tier-1": "SSD 0",
    **POD,
}
CLAIM = {"forebay.io/dataset": "team/demo", "forebay.io/config": "demo-forebay", "forebay.io/service": "svc-demo-worker"}


def refused(call: Callable[[], object], said: str = "", code: str = "INVALID_ARGUMENT") -> None:
    with pytest.raises(Refusal, match=said) as e:
        call()
    assert e.value.code == code


def test_a_worker_volume() -> None:
    tiers = (TierRequest("MEM", 1024, "/dev/shm"), TierRequest("SSD", 0, ""))
    assert attributes.read(WORKER) == WorkerVolume("team", "demo", "svc-demo-worker", 65532, tiers)
    assert attributes.read({**WORKER, "forebay.io/uid": ""}) == WorkerVolume("team", "demo", "svc-demo-worker", None, tiers)


def test_a_directory_may_hold_blanks() -> None:
    found = attributes.read({**WORKER, "forebay.io/tier-1": "HDD 7 /mnt/big disk"})
    assert isinstance(found, WorkerVolume)
    assert found.tiers[1] == TierRequest("HDD", 7, "/mnt/big disk")


def test_a_host_volume() -> None:
    context = {**POD, "forebay.io/part": "host", "forebay.io/dataset": "demo", "forebay.io/path": "/srv/data"}
    assert attributes.read(context) == HostVolume("team", "demo", "/srv/data")


def test_a_claim_with_all_that_fluid_writes_beside_it() -> None:
    fluids = {
        "fluid_path": "/runtime-mnt/cache/team/demo/cache-fuse", "mount_type": "fuse.forebay", "runtime_namespace": "team",
        "runtime_name": "demo", "mount_pod_node_selector_key": "fluid.io/f-team-demo", "fluid_sub_path": "/a//b/",
        "storage.kubernetes.io/csiProvisionerIdentity": "x", "forebay.io/clean-policy": "OnDemand",
        "csi.storage.k8s.io/ephemeral": "false", "csi.storage.k8s.io/pod.namespace": "other",
    }  # fmt: skip
    assert attributes.read({**CLAIM, **fluids}) == ClaimVolume(
        "team", "demo", "demo-forebay", "svc-demo-worker", "a/b", "OnDemand"
    )
    assert attributes.read(CLAIM) == attributes.read({"forebay.io/dataset": "team/demo"}), "names as the engine gives them"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"forebay.io/part": ""}, "use its claim"),
        ({"forebay.io/part": "all"}, "is unknown"),
        ({"forebay.io/dataset": ""}, "forebay.io/dataset is missing"),
        ({"forebay.io/dataset": "other/demo"}, "is no name"),
        ({"forebay.io/dataset": ".."}, "is no name"),
        ({"forebay.io/dataset": "A"}, "is no name"),
        ({"forebay.io/dataset": "a" * 64}, "is no name"),
        ({"forebay.io/service": ""}, "forebay.io/service is missing"),
        ({"forebay.io/service": "a/b"}, "is no name"),
        ({"forebay.io/uid": "root"}, "no user id"),
        ({"forebay.io/uid": "-1"}, "no user id"),
        ({"forebay.io/uid": "²"}, "no user id"),
        ({"forebay.io/uid": str(1 << 32)}, "no user id"),
        ({"forebay.io/tier-0": "RAM 5"}, "is no medium"),
        ({"forebay.io/tier-0": "SSD 5Gi"}, "no number of bytes"),
        ({"forebay.io/tier-0": "SSD -5"}, "no number of bytes"),
        ({"forebay.io/tier-0": "MEM 0"}, "without a quota"),
        ({"forebay.io/tier-0": "SSD 5 relative"}, "no absolute path"),
        ({"forebay.io/tier-0": "SSD 5 /a/../b"}, "no absolute path"),
        ({"forebay.io/tier-0": "SSD 5 //a"}, "no absolute path"),
        ({"forebay.io/tier-3": "SSD 5"}, "number them from 0"),
        ({f"forebay.io/tier-{i}": "SSD 5" for i in range(17)}, "at most 16"),
        ({"forebay.io/tier-0": "SSD 5 /" + "x" * 4096}, "4096 bytes"),
        ({"csi.storage.k8s.io/pod.namespace": ""}, "podInfoOnMount"),
        ({"csi.storage.k8s.io/pod.namespace": "../x"}, "is no name"),
    ],
)
def test_inline_volumes_that_are_refused(change: dict[str, str], said: str) -> None:
    refused(lambda: attributes.read({**WORKER, **change}), said)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"forebay.io/dataset": "demo"}, "NAMESPACE/NAME"),
        ({"forebay.io/dataset": ""}, "not made by forebay"),
        ({"forebay.io/dataset": "team/demo/x"}, "is no name"),
        ({"forebay.io/dataset": "../demo"}, "is no name"),
        ({"forebay.io/config": "../x"}, "no name of an object"),
        ({"forebay.io/clean-policy": "Never"}, "is no policy"),
        ({"fluid_sub_path": "a/../../etc"}, "holds '.' or '..'"),
        ({"fluid_sub_path": "./a"}, "holds '.' or '..'"),
        ({"fluid_sub_path": "a\0b"}, "plain path"),
        ({"forebay.io/part": "worker"}, "not with a persistent volume"),
    ],
)
def test_claims_that_are_refused(change: dict[str, str], said: str) -> None:
    refused(lambda: attributes.read({**CLAIM, **change}), said)


def test_an_inline_volume_never_reaches_a_dataset_of_any_namespace() -> None:
    refused(lambda: attributes.read({**CLAIM, **POD}), "use its claim")


def test_the_namespace_of_an_inline_volume_is_the_pods_whatever_its_attributes_say() -> None:
    found = attributes.read({**WORKER, "runtime_namespace": "other", "forebay.io/namespace": "other"})
    assert found.namespace == "team"


def test_equal_requests_have_equal_digests_and_others_have_not() -> None:
    one = attributes.read(CLAIM)
    assert attributes.digest(one, "v", 3) == attributes.digest(attributes.read(dict(reversed(CLAIM.items()))), "v", 3)
    others = [attributes.digest(one, "v", 4), attributes.digest(one, "w", 3)]
    others.append(attributes.digest(attributes.read({**CLAIM, "fluid_sub_path": "a"}), "v", 3))
    others.append(attributes.digest(attributes.read(WORKER), "v", 3))
    assert len({attributes.digest(one, "v", 3), *others}) == 5


def of(mode: int = 3, **mount: object) -> m.VolumeCapability:
    return m.VolumeCapability(None, m.MountVolume(**mount), m.AccessMode(mode))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("capability", "said"),
    [
        (None, "is missing"),
        (m.VolumeCapability(), "access_mode is missing"),
        (m.VolumeCapability(None, m.MountVolume()), "access_mode is missing"),
        (of(0), "missing or unknown"),
        (of(99), "missing or unknown"),
        (m.VolumeCapability(None, None, m.AccessMode(3)), "mount is missing"),
        (m.VolumeCapability(Empty(), None, m.AccessMode(3)), "volumeMode Filesystem"),
        (of(fs_type="ext4"), "'ext4' is not served"),
        (of(mount_flags=["ro", "suid"]), "'suid' is not served"),
    ],
)
def test_capabilities_that_are_refused(capability: m.VolumeCapability | None, said: str) -> None:
    refused(lambda: checks.capability(capability), said)


@pytest.mark.parametrize("mode", list(m.Access))
def test_every_access_mode_is_served_read_only(mode: m.Access) -> None:
    assert checks.capability(of(mode, mount_flags=["ro", "noexec"], fs_type="fuse")) is mode


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is missing"),
        ("relative", "no absolute path"),
        ("/k/../etc", "no absolute path"),
        ("/k/./a", "no absolute path"),
        ("/k//a", "no absolute path"),
        ("//k/a", "no absolute path"),
        ("/etc", "not below /k"),
        ("/k", "not below /k"),
        ("/kk/a", "not below /k"),
        ("/k/a\0b", "is no path"),
        ("/k/" + "a" * 4096, "is no path"),
    ],
)
def test_paths_that_are_refused(text: str, said: str) -> None:
    refused(lambda: checks.path("target_path", text, "/k"), said)


def test_paths_that_are_fine() -> None:
    assert checks.path("target_path", "/k/pods/1/mount/", "/k") == "/k/pods/1/mount"


def test_strings_have_the_length_of_the_specification() -> None:
    assert checks.needed("volume_id", "x" * 128)
    refused(lambda: checks.needed("volume_id", "x" * 129), "at most 128")
    refused(lambda: checks.needed("volume_id", "é" * 65), "at most 128")
    refused(lambda: checks.needed("volume_id", ""), "is missing")
