"""Other stores, other orders: one tree of three kinds of store, deletion from either end, a namespace that goes, uninstalling."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.cluster import Cluster
from harness.machine import ClusterError
from lakekit import HOST_ROOT, SYSTEM, VERIFY, Lake, deploy, installed, mounts_of
from podkit import Pods, pod, until
from servers import free_port, nginx

NODES = ["node-1", "node-2"]
CLAIMS = "dataset,cacheruntime,statefulset,persistentvolumeclaim,poddisruptionbudget,pod"


@pytest.fixture
def pages(cluster: Cluster, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """An HTTP server that pods reach: its URL, and its folder."""
    port = free_port()
    root = tmp_path / "pages"
    root.mkdir()
    for folder in (tmp_path, *list(tmp_path.parents)[:2]):
        folder.chmod(0o755)
    with nginx(root, tmp_path / "nginx", f"listen {cluster.net.outside}:{port};"):
        yield f"http://{cluster.net.outside}:{port}/", root


def gone(pods: Pods) -> None:
    """Waits until the namespace and the nodes have nothing of a dataset any more."""
    until(lambda: not left(pods), f"stays: {left(pods)}")
    inside = f"/{pods.namespace}/"
    for node in NODES:
        until(lambda node=node: not [m for m in mounts_of(pods.cluster, node) if inside in m], f"a mount stays on {node}")


def volumes(pods: Pods) -> list[str]:
    return [each for each in pods.cluster.kubectl("get", "pv", "-o", "name").split() if pods.namespace in each]


def left(pods: Pods) -> list[str]:
    return [*pods.kubectl("get", CLAIMS, "-o", "name").split(), *volumes(pods)]


def test_one_tree_of_s3_http_and_a_directory_of_a_node(lake: Lake, pods: Pods, pages: tuple[str, Path]) -> None:
    """The directory is a copy on each node's own disk: other inodes and ctimes, one size and mtime."""
    url, root = pages
    (root / "page.txt").write_text("from a server of pages")
    for node in NODES:
        here = pods.cluster.root_of(node) / HOST_ROOT[1:] / "here"
        here.mkdir(parents=True, exist_ok=True)
        here.chmod(0o755)
        (here / "disk.txt").write_text("from the nodes' disks")
        os.utime(here / "disk.txt", (1_700_000_000, 1_700_000_000))
    web, disk = {"name": "web", "mountPoint": url}, {"name": "disk", "mountPoint": f"local://{HOST_ROOT}/here"}
    pods.apply(lake.secret())
    pods.apply(lake.mounts_also(web, disk))
    pods.apply(lake.runtime(workers=2))
    lake.bound()
    wanted = dict(lake.hashes)
    wanted["web/page.txt"] = hashlib.sha256(b"from a server of pages").hexdigest()
    wanted["disk/disk.txt"] = hashlib.sha256(b"from the nodes' disks").hexdigest()
    for node in NODES:
        assert json.loads(pods.run(lake.reader(f"reader-{node}", node))) == wanted


def test_a_pod_reads_two_datasets_over_stores_of_three_kinds(lake: Lake, pods: Pods, pages: tuple[str, Path]) -> None:
    """Which share their nodes: one over the S3 store and a server of pages, one over the same store and nodes' directories."""
    url, root = pages
    (root / "page.txt").write_text("of the first")
    for node in NODES:
        here = pods.cluster.root_of(node) / HOST_ROOT[1:] / "two"
        here.mkdir(parents=True, exist_ok=True)
        here.chmod(0o755)
        (here / "disk.txt").write_text("of the second")
        os.utime(here / "disk.txt", (1_700_000_000, 1_700_000_000))
    pond = Lake(pods, "pond", seed=2)
    mounts = {"lake": {"name": "web", "mountPoint": url}, "pond": {"name": "disk", "mountPoint": f"local://{HOST_ROOT}/two"}}
    for each in (lake, pond):
        dataset = each.mounts_also(mounts[each.name])
        dataset["spec"]["placement"] = "Shared"
        for thing in (each.secret(), dataset, each.runtime(workers=2)):
            pods.apply(thing)
    for each in (lake, pond):
        each.bound()
    wanted = {f"{each.name}/{path}": said for each in (lake, pond) for path, said in each.hashes.items()}
    wanted["lake/web/page.txt"] = hashlib.sha256(b"of the first").hexdigest()
    wanted["pond/disk/disk.txt"] = hashlib.sha256(b"of the second").hexdigest()
    for node in NODES:
        both = pod(f"both-{node}", ["python3", "-c", VERIFY], node=node)
        both["spec"]["volumes"] = [{"name": n, "persistentVolumeClaim": {"claimName": n}} for n in ("lake", "pond")]
        both["spec"]["containers"][0]["volumeMounts"] = [{"name": n, "mountPath": f"/data/{n}"} for n in ("lake", "pond")]
        assert json.loads(pods.run(both)) == wanted
    pods.delete("pod", "--all")
    pods.delete("dataset", "lake")
    assert json.loads(pods.run(pond.reader("left", "node-1"))).keys() == {*pond.hashes, "disk/disk.txt"}, (
        "one goes, the other does not notice"
    )


ORDERS = list(itertools.permutations(("pod", "dataset", "cacheruntime")))


def test_everything_goes_in_every_order(pods: Pods, installation: Cluster, words: None) -> None:
    """A dataset and a reading pod for each order, all at once; nothing waits for what was told before it."""
    lakes = [Lake(pods, f"order-{at}", sizes=[4096]) for at, _ in enumerate(ORDERS)]
    for each in lakes:
        dataset = each.dataset()
        dataset["spec"]["placement"] = "Shared"
        for thing in (each.secret(), dataset, each.runtime(workers=1), each.steady(each.name, "", 1)):
            pods.apply(thing)
    for each in lakes:
        each.bound()
        until(lambda each=each: pods.is_ready(each.name), f"nobody reads {each.name}")
        until(lambda each=each: "reads" in pods.log(each.name), f"{each.name} is not read")
    for each, order in zip(lakes, ORDERS, strict=True):
        for kind in order:
            pods.kubectl("delete", kind, each.name, "--wait=false", "--ignore-not-found")  # a dataset takes its runtime along
    gone(pods)


def test_a_mount_that_is_added_and_removed_appears_and_goes_in_a_running_pod(
    lake: Lake, pods: Pods, pages: tuple[str, Path]
) -> None:
    url, root = pages
    (root / "page.txt").write_text("later")
    lake.apply()
    lake.bound()
    pods.running(lake.steady("steady", "node-1", 1))
    look = ("python3", "-c", "import os; print(sorted(os.listdir('/data')))")
    assert pods.exec("steady", *look).strip() == "['docs']"
    pods.apply(lake.mounts_also({"name": "web", "mountPoint": url}))
    until(lambda: pods.exec("steady", *look).strip() == "['docs', 'web']", "the new mount does not appear")
    until(lambda: reads(pods, "steady", "/data/web/page.txt") == "later", "the new mount's file is not read")
    pods.apply(lake.dataset())
    until(lambda: pods.exec("steady", *look).strip() == "['docs']", "the removed mount does not go")
    assert all(line.startswith("reads") for line in pods.log("steady").splitlines())


def reads(pods: Pods, name: str, path: str) -> str:
    """What a running pod reads there; "" while it cannot: workers learn of a mount when their kubelet looks, within a minute."""
    try:
        return pods.exec(name, "python3", "-c", f"print(open({path!r}).read())").strip()
    except ClusterError:
        return ""


@pytest.mark.parametrize("first", ["dataset", "cacheruntime", "persistentvolumeclaim"])
def test_everything_goes_whatever_is_deleted_first(lake: Lake, pods: Pods, first: str) -> None:
    lake.apply()
    lake.bound()
    pods.running(lake.steady("steady", "node-1", 1))
    pods.kubectl("delete", first, lake.name, "--wait=false")
    pods.delete("pod", "steady")
    for kind in ("dataset", "cacheruntime"):
        pods.kubectl("delete", kind, lake.name, "--ignore-not-found", "--timeout=100s")
    gone(pods)


def test_pods_that_have_ended_hold_no_dataset_up(lake: Lake, pods: Pods) -> None:
    """Such as those of a Job, which stay until somebody deletes the Job: Kubernetes keeps a claim for them."""
    lake.apply(workers=1)
    lake.bound()
    pods.run(lake.reader("done", "node-1"))
    pods.kubectl("delete", "dataset", lake.name, "--timeout=100s")
    assert pods.phase("done") == "Succeeded"
    pods.delete("pod", "done")
    gone(pods)


def test_a_namespace_with_a_reading_pod_goes(lake: Lake, pods: Pods) -> None:
    lake.apply()
    lake.bound()
    pods.running(lake.steady("steady", "node-2", 1))
    pods.cluster.kubectl("delete", "namespace", pods.namespace, "--timeout=110s")
    until(
        lambda: not [v for v in pods.cluster.kubectl("get", "pv", "-o", "name").split() if pods.namespace in v], "a volume stays"
    )
    until(lambda: not [m for m in mounts_of(pods.cluster, "node-2") if f"/{pods.namespace}/" in m], "a mount stays")


def test_a_claim_of_another_namespace_gives_no_data(lake: Lake, pods: Pods) -> None:
    """A volume of one's own that names a foreign dataset is refused by the node, and says why."""
    lake.apply()
    lake.bound()
    other = f"{pods.namespace}x"
    pods.cluster.kubectl("create", "namespace", other)
    try:
        foreign = Pods(pods.cluster, other)
        thief = pod("thief", ["sleep", "600"], image="busybox:dev")
        stolen = {"forebay.io/dataset": f"{pods.namespace}/{lake.name}", "forebay.io/config": f"{lake.name}-forebay"}
        thief["spec"]["volumes"] = [{"name": "data", "csi": {"driver": "forebay.io", "volumeAttributes": stolen}}]
        thief["spec"]["containers"][0]["volumeMounts"] = [{"name": "data", "mountPath": "/data"}]
        until(
            lambda: foreign.kubectl("get", "serviceaccount", "default", "--ignore-not-found", "-o", "name").strip(), "no account"
        )
        foreign.apply(thief)
        until(lambda: "FailedMount" in foreign.kubectl("get", "events"), "nobody says no")
        assert not foreign.is_ready("thief")
    finally:
        pods.cluster.kubectl("delete", "namespace", other, "--timeout=110s")


def test_uninstalling_leaves_nothing(installation: Cluster, words: None) -> None:
    cluster = installation
    until(lambda: not cluster.kubectl("get", "dataset", "-A", "-o", "name").strip(), "datasets of other tests stay")
    try:
        cluster.kubectl("delete", "-f", "-", "--timeout=100s", text=installed(), seconds=200)
        kinds = "deployment,daemonset,clusterrole,clusterrolebinding,csidriver,serviceaccount,configmap,lease"
        everywhere = ("get", kinds, "-A", "-o", "name")
        stays = [x for x in cluster.kubectl(*everywhere).split() if "forebay" in x]
        assert not stays
        assert SYSTEM not in cluster.kubectl("get", "namespace", "-o", "name")
        for node in NODES:
            assert not cluster.processes(node, "bin/forebay ")
            assert not mounts_of(cluster, node)
            until(lambda node=node: not registered(cluster, node), f"the kubelet of {node} still knows the driver")
    finally:
        deploy(cluster)


def registered(cluster: Cluster, node: str) -> bool:
    found = json.loads(cluster.kubectl("get", "csinode", node, "-o", "json"))
    return any(driver["name"] == "forebay.io" for driver in found["spec"]["drivers"] or ())
