"""What goes wrong for users and administrators, on real nodes: refused when it is applied, or said where they look, with the
remedy; readers of other datasets never notice, and when the cause is gone nothing has to be started by hand.

What an API server alone decides is in tests/kube (test_crds, test_kube_webhook), what the driver answers to any call in
tests/mount/test_csi_claims.py and csi-sanity.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from harness.cluster import Cluster
from harness.machine import ClusterError
from lakekit import SYSTEM, Lake, deploy, mounts_of
from podkit import Pods, pod, until

NODE, OTHER = "node-1", "node-2"


@pytest.fixture(scope="module", autouse=True)
def installation(cluster: Cluster) -> None:
    deploy(cluster)


def dataset(spec: str, name: str = "d") -> str:
    return f"apiVersion: data.fluid.io/v1alpha1\nkind: Dataset\nmetadata: {{name: {name}}}\nspec: {spec}\n"


def cache(spec: str, name: str = "d", kind: str = "CacheRuntime") -> str:
    return f"apiVersion: data.fluid.io/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {spec}\n"


REFUSED = {
    "a field of no kind": (dataset("{foo: bar}"), 'unknown field "spec.foo"'),
    "a wrong enum": (dataset("{placement: exclusive, mounts: [{mountPoint: 'https://h/x'}]}"), '"Exclusive", "", "Shared"'),
    "a quota that is none": (
        cache("{tieredstore: {levels: [{mediumtype: MEM, path: /dev/shm, quota: 1 Gb}]}}", kind="AlluxioRuntime"),
        "spec.tieredstore.levels[0].quota",
    ),
    "two mounts of one name": (
        dataset("{mounts: [{mountPoint: 'https://h/x', name: a}, {mountPoint: 'https://h/x', name: a}]}"),
        "stands twice on one path; remove one of the two",
    ),
    "a name with a trick": (dataset("{mounts: [{mountPoint: 'https://h/x', name: ../../etc}]}"), "write a plain name"),
    "a path with a trick": (dataset("{mounts: [{mountPoint: 'https://h/x', path: /a/../../b}]}"), "without"),
    "a directory with a trick": (dataset("{mounts: [{mountPoint: 'local:///srv/../etc', name: a}]}"), "part"),
    "a reference with a trick": (
        dataset("{mounts: [{mountPoint: 'dataset://a/b/../../c', name: a}]}"),
        "write the path without it",
    ),
    "a name of no Service": (dataset("{mounts: [{mountPoint: 'https://h/x', name: a}]}", "1st"), "is no DNS-1035 label"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_can_never_be_right_is_refused_when_it_is_applied(pods: Pods, case: str) -> None:
    text, why = REFUSED[case]
    answers: list[str] = []

    def refused() -> bool:
        """The webhook's part is there seconds after an installation, and nobody waits for it longer than 5 s."""
        try:
            pods.kubectl("apply", "--dry-run=server", "-f", "-", text=text)
        except ClusterError as error:
            answers.append(str(error))
        return bool(answers)

    until(refused, f"{case} is accepted")
    assert why in answers[-1]


def ready(pods: Pods, name: str) -> dict[str, Any]:
    status = json.loads(pods.kubectl("get", "dataset", name, "-o", "json")).get("status") or {}
    found: dict[str, Any] = next((c for c in status.get("conditions", ()) if c["type"] == "Ready"), {})
    return found


def because(pods: Pods, name: str, reason: str) -> str:
    until(lambda: ready(pods, name).get("reason") == reason, f"{name} is not {reason}: {ready(pods, name)}")
    return str(ready(pods, name)["message"])


def said(pods: Pods, name: str) -> str:
    """Messages of the pod's Events."""
    events = json.loads(pods.kubectl("get", "events", "--field-selector", f"involvedObject.name={name}", "-o", "json"))
    return "\n".join(event["message"] for event in events["items"])


def test_a_class_a_runtime_and_a_secret_that_are_not_there(lake: Lake, pods: Pods) -> None:
    """Each is said, and each is mended by what the message asks for."""
    unknown = lake.runtime(workers=1)
    unknown["spec"]["runtimeClassName"] = "nope"
    pods.apply(unknown)
    alone = ("get", "cacheruntime", lake.name, "-o", "jsonpath={.status.worker.message}")
    until(lambda: "apply it, or rename one of the two" in pods.kubectl(*alone), "a runtime without a Dataset is not told so")
    pods.apply(lake.dataset())
    assert '"nope" is no CacheRuntimeClass' in because(pods, lake.name, "ClassUnknown")
    assert "anew" in because(pods, lake.name, "ClassUnknown"), "the class of a runtime cannot be changed"
    pods.delete("cacheruntime", lake.name)
    pods.apply(lake.runtime(workers=1))
    assert f'secret "{lake.name}-cred" not found; make Secret {lake.name}-cred' in because(pods, lake.name, "MountFailed")
    until(lambda: "make Secret" in said(pods, lake.name), f"no Event with the remedy: {said(pods, lake.name)}")
    worker = f"{lake.name}-worker-0"
    assert pods.restarts(worker) == 0, "no crash loop"
    pods.apply(lake.secret())
    lake.bound()


def test_wrong_credentials_are_a_condition_and_corrected_by_the_secret(lake: Lake, pods: Pods) -> None:
    wrong = lake.secret()
    wrong["stringData"]["key"] = "something-else"
    for thing in (wrong, lake.dataset(), lake.runtime(workers=1)):
        pods.apply(thing)
    lake.bound()

    def answer() -> dict[str, Any]:
        found: dict[str, Any] = next((c for c in lake.status()["conditions"] if c["type"] == "StoresAnswer"), {})
        return found

    until(lambda: answer().get("reason") == "StoreFails", f"nobody says that the store refuses: {lake.status()}", 240.0)
    message = answer()["message"]
    assert "1 of 1 workers get nothing from a store" in message
    assert "something-else" not in json.dumps(lake.status())
    assert message.split("; ")[0] in ready(pods, lake.name)["message"], "where people look first"
    assert pods.restarts(f"{lake.name}-worker-0") == 0
    pods.apply(lake.secret())
    until(lambda: answer().get("reason") == "Listed", f"the corrected Secret is not taken over: {answer()}", 240.0)
    assert json.loads(pods.run(lake.reader("after"))) == lake.hashes


@pytest.fixture
def served(lake: Lake) -> Lake:
    lake.apply(workers=1)
    lake.bound()
    return lake


def volume_of(lake: Lake) -> dict[str, Any]:
    name = lake.pods.kubectl("get", "pvc", lake.name, "-o", "jsonpath={.spec.volumeName}")
    found: dict[str, Any] = json.loads(lake.cluster.kubectl("get", "pv", name, "-o", "json"))
    return found


WRONG: dict[str, tuple[dict[str, str], str]] = {
    "a sub path that leaves": ({"fluid_sub_path": "../../.."}, "fluid_sub_path"),
    "a sub path that is not there": ({"fluid_sub_path": "docs/nowhere"}, "docs/nowhere"),
    "a dataset that is not there": ({"forebay.io/dataset": "nobody/nothing", "forebay.io/config": "nothing-forebay"}, "nothing"),
    "no attributes": ({}, "forebay.io/dataset"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_volume_by_hand_with_wrong_attributes(served: Lake, pods: Pods, case: str) -> None:
    """Who may write volumes may write wrong ones: an Event of the pod says which attribute, and others read on."""
    changes, why = WRONG[case]
    of = volume_of(served)["spec"]
    name = f"{pods.namespace}-wrong"
    of["csi"] = {
        **{k: v for k, v in of["csi"].items() if k != "nodeStageSecretRef" or case != "no attributes"},
        "volumeHandle": name,
        "volumeAttributes": {**of["csi"]["volumeAttributes"], **changes} if changes else {},
    }
    of["claimRef"] = {"name": "wrong", "namespace": pods.namespace}
    of["persistentVolumeReclaimPolicy"] = "Retain"
    claim = {
        "accessModes": of["accessModes"], "storageClassName": of["storageClassName"], "volumeName": name,
        "resources": {"requests": {"storage": "1Gi"}},
    }  # fmt: skip
    pods.cluster.kubectl(
        "apply", "-f", "-",
        text=yaml.safe_dump_all([
            {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": of},
            {
                "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "wrong", "namespace": pods.namespace},
                "spec": claim,
            },
        ]),
    )  # fmt: skip
    try:
        curious = pod("curious", ["sleep", "1000"], node=NODE, image="busybox:dev")
        curious["spec"]["volumes"] = [{"name": "data", "persistentVolumeClaim": {"claimName": "wrong"}}]
        curious["spec"]["containers"][0]["volumeMounts"] = [{"name": "data", "mountPath": "/data"}]
        pods.apply(curious)
        until(lambda: "MountVolume" in said(pods, "curious") and why in said(pods, "curious"), f"no Event with {why!r}")
        assert pods.phase("curious") == "Pending"
        pods.delete("pod", "curious")
        assert json.loads(pods.run(served.reader("reader", NODE))) == served.hashes
    finally:
        pods.kubectl("delete", "pod,pvc", "curious", "wrong", "--ignore-not-found", "--timeout=60s", check=False)
        pods.cluster.kubectl("delete", "pv", name, "--ignore-not-found", "--timeout=60s")


def test_a_sub_path_of_a_container(served: Lake, pods: Pods) -> None:
    """The kubelet's own `subPath`, beside the volume's: a part of the tree, or an Event."""
    part = served.reader("part", NODE)
    part["spec"]["containers"][0]["volumeMounts"][0]["subPath"] = "docs/d1"
    wanted = {k.removeprefix("docs/d1/"): v for k, v in served.hashes.items() if k.startswith("docs/d1/")}
    assert json.loads(pods.run(part)) == wanted
    trick = served.reader("trick", NODE)
    trick["spec"]["containers"][0]["volumeMounts"][0]["subPath"] = "../.."
    with pytest.raises(ClusterError, match=r"subPath.*\.\."):
        pods.apply(trick)
    missing = served.reader("missing", NODE)
    missing["spec"]["containers"][0]["volumeMounts"][0]["subPath"] = "docs/nowhere"
    pods.apply(missing)
    until(lambda: "subPath" in said(pods, "missing"), f"no Event names the sub path: {said(pods, 'missing')}")
    pods.delete("pod", "missing")


def test_two_pods_at_the_same_instant_on_a_node_that_has_no_mount_yet(served: Lake, pods: Pods) -> None:
    """The kubelet stages and publishes for each at once."""
    names = [f"at-once-{i}" for i in range(6)]
    objects = [served.reader(name, OTHER) for name in names]
    pods.kubectl("apply", "-f", "-", text=yaml.safe_dump_all(objects))
    for name in names:
        until(lambda name=name: pods.phase(name) in ("Succeeded", "Failed"), f"{name} has not ended")
        assert json.loads(pods.log(name)) == served.hashes
    inside = f"forebay:{pods.namespace}/{served.name}"
    rows = [line.split() for line in pods.cluster.run(OTHER, ["cat", "/proc/self/mountinfo"]).splitlines()]
    assert len({row[2] for row in rows if inside in row}) == 1, "one file system"


@pytest.fixture
def without_fuse(cluster: Cluster) -> Iterator[None]:
    """The other node has no /dev/fuse: a plain file lies over it, which no container gets."""
    cluster.run(OTHER, ["sh", "-c", "touch /run/no-fuse && mount --bind /run/no-fuse /dev/fuse"])
    restart(cluster, OTHER, "mounts", "node")
    yield
    cluster.run(OTHER, ["umount", "/dev/fuse"])
    restart(cluster, OTHER, "mounts", "node")


def restart(cluster: Cluster, node: str, *components: str) -> None:
    for component in components:
        of = ("-l", f"forebay.io/component={component}", f"--field-selector=spec.nodeName={node}")
        cluster.kubectl("-n", SYSTEM, "delete", "pod", *of, "--timeout=100s")
        cluster.kubectl("-n", SYSTEM, "rollout", "status", f"daemonset/forebay-{component}", "--timeout=240s", seconds=300)


def test_a_node_without_fuse_says_so_in_the_pod_and_serves_others(served: Lake, pods: Pods, without_fuse: None) -> None:
    pods.apply(served.reader("there", OTHER))
    until(lambda: "modprobe fuse" in said(pods, "there"), f"no Event with the remedy: {said(pods, 'there')}")
    assert pods.phase("there") == "Pending"
    assert json.loads(pods.run(served.reader("here", NODE))) == served.hashes
    pods.delete("pod", "there")


def test_a_node_whose_disk_is_full_reads_all_the_same(pods: Pods) -> None:
    """A disk of 12 MiB for worker and readers together, and a dataset of 30: what does not fit is read past the cache."""
    lake = Lake(pods, sizes=[3_000_000] * 10)
    small = "/var/cache/jindo"
    pods.cluster.run(NODE, ["sh", "-c", f"mkdir -p {small} && mount -t tmpfs -o size=12m,mode=755 tmpfs {small}"])
    try:
        restart(pods.cluster, NODE, "node")  # a mount of the host that is made later is seen by later containers
        runtime = lake.runtime(workers=1)
        runtime["spec"]["worker"]["tieredStore"]["levels"][0]["hostPath"]["paths"] = [small]
        runtime["spec"]["worker"]["nodeSelector"] = {"kubernetes.io/hostname": NODE}
        for thing in (lake.secret(), lake.dataset(), runtime):
            pods.apply(thing)
        lake.bound()
        for attempt in ("first", "again"):
            assert json.loads(pods.run(lake.reader(attempt, NODE))) == lake.hashes
        assert pods.restarts(f"{lake.name}-worker-0") == 0
        pods.delete("pod", "--all")
        pods.delete("dataset", lake.name)
    finally:
        until(lambda: not pods.kubectl("get", "pods", "-o", "name").strip(), "a worker stays")
        pods.cluster.run(NODE, ["umount", "-l", small])
        restart(pods.cluster, NODE, "node")


def test_a_disk_that_others_have_filled_is_said_until_there_is_room(served: Lake, pods: Pods) -> None:
    """By a floor that no disk of a test keeps free. Readers get every byte meanwhile."""

    def admits() -> dict[str, Any]:
        found: dict[str, Any] = next((c for c in served.status()["conditions"] if c["type"] == "CacheAdmits"), {})
        return found

    floor = "forebay.io/free-space-floor"
    pods.kubectl("annotate", "dataset", served.name, f"{floor}=99.9%", "--overwrite")
    until(lambda: admits().get("reason") == "DiskFull", f"nobody says that the disk is full: {served.status()}", 240.0)
    assert f"1 of 1 workers cache nothing; {served.name}-worker-0 on node-" in admits()["message"]
    assert "free some space, or lower the floor" in ready(pods, served.name)["message"], "where people look first"
    until(lambda: "workers cache nothing" in said(pods, served.name), f"no Event says so: {said(pods, served.name)}")
    assert json.loads(pods.run(served.reader("meanwhile"))) == served.hashes
    assert not served.status()["measured"].get("cachedBytes")
    pods.kubectl("annotate", "dataset", served.name, f"{floor}=0", "--overwrite")
    until(lambda: admits().get("reason") == "RoomLeft", f"it stays said: {admits()}", 240.0)


LOOK = ["sh", "-c", "while :; do if ls /data/docs >/dev/null 2>&1; then echo well; else echo lost; fi; sleep 0.3; done"]


def test_both_pods_of_a_node_die_at_once_and_what_is_lost_comes_back(served: Lake, pods: Pods) -> None:
    """Nobody holds the mount's device then. Pods that see their host's mounts have a new one within seconds, new pods too; one
    that does not must be started again, and can be."""
    for name, how in (("seeing", "HostToContainer"), ("blind", "None")):
        looking = served._with_data(pod(name, LOOK, node=NODE, image="busybox:dev"))
        looking["spec"]["containers"][0]["volumeMounts"][0]["mountPropagation"] = how
        pods.running(looking)
        until(lambda name=name: pods.log(name).strip().endswith("well"), f"{name} does not read")
    for _ in range(2):  # the second time it is the mount that was made anew
        found = list[str]()
        until(lambda found=found: both_pods(pods, found), "the node's pods have not started again")
        lost = {name: pods.log(name).count("lost") for name in ("seeing", "blind")}
        pods.cluster.run(NODE, ["kill", "-9", *found], check=False)  # one may have ended by itself since
        until(lambda lost=lost: pods.log("blind").count("lost") > lost["blind"], "the mount was not lost: the case is not there")
        until(lambda: pods.log("seeing").strip().endswith("well"), "who sees the host's mounts does not see the new one")
        until(lambda: len(set(devices(served))) == 1, f"more than one file system: {devices(served)}")
    assert json.loads(pods.run(served.reader("new", NODE))) == served.hashes
    pods.delete("pod", "blind")
    again = served._with_data(pod("blind", LOOK, node=NODE, image="busybox:dev"))
    pods.running(again)
    until(lambda: pods.log("blind").strip().endswith("well"), "started again it does not read")
    pods.delete("pod", "--all")
    pods.delete("dataset", served.name)
    until(lambda: not [m for m in mounts_of(pods.cluster, NODE) if f"/{pods.namespace}/" in m], "a mount stays")


def both_pods(pods: Pods, found: list[str]) -> bool:
    """Whether both of the node's processes are there; `found` has their ids then."""
    try:
        ids = [pods.cluster.run(NODE, ["pgrep", "-f", word]).split() for word in ("forebay csi", "forebay mounts")]
    except ClusterError:
        return False  # pgrep has found none of one kind
    found[:] = [pid for each in ids for pid in each]
    return True


def devices(lake: Lake) -> list[str]:
    """Devices that the dataset's mount and pods' targets on the node show: of each place the uppermost, the last one listed. A
    new mount lies on the dead one, since into containers that see it it spreads from there."""
    rows = [line.split() for line in lake.cluster.run(NODE, ["cat", "/proc/self/mountinfo"]).splitlines()]
    return list({row[4]: row[2] for row in rows if f"forebay:{lake.pods.namespace}/{lake.name}" in row}.values())
