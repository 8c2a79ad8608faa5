"""The harness itself: nodes, pods of our image, the store, faults, and that its end leaves nothing."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from botocore.exceptions import HTTPClientError
from harness import machine
from harness.cluster import Cluster
from podkit import Pods, pod, until

DEPLOY = Path(machine.__file__).resolve().parents[1]
NODES = ["node-1", "node-2"]
STAYS = [{"operator": "Exists"}]
"""Tolerations: nobody evicts it where its node is away for longer than 20 s, as a busy machine has it."""
READ = """
import hashlib, sys, urllib.request
with urllib.request.urlopen(sys.argv[1], timeout=30) as answer:
    print(hashlib.file_digest(answer, "sha256").hexdigest())
"""
ASK_API = """
import json, ssl, urllib.request
at = "/var/run/secrets/kubernetes.io/serviceaccount/"
bearer = {"Authorization": "Bearer " + open(at + "token").read()}
asked = urllib.request.Request("https://kubernetes.default.svc/version", headers=bearer)
with urllib.request.urlopen(asked, timeout=30, context=ssl.create_default_context(cafile=at + "ca.crt")) as answer:
    print(json.load(answer)["gitVersion"])
"""


def conditions(cluster: Cluster) -> dict[str, str]:
    """Ready of each node."""
    nodes = json.loads(cluster.kubectl("get", "nodes", "-o", "json"))["items"]
    return {
        node["metadata"]["name"]: each["status"]
        for node in nodes
        for each in node["status"]["conditions"]
        if each["type"] == "Ready"
    }


def test_both_nodes_are_ready_with_programs_of_one_version(cluster: Cluster) -> None:
    until(lambda: conditions(cluster) == dict.fromkeys(NODES, "True"), "not both are ready")
    nodes = json.loads(cluster.kubectl("get", "nodes", "-o", "json"))["items"]
    versions = {node["status"]["nodeInfo"]["kubeletVersion"] for node in nodes}
    server = json.loads(cluster.kubectl("version", "-o", "json"))["serverVersion"]["gitVersion"]
    assert versions == {server}
    print(f"ready after {cluster.took:.1f} s")


@pytest.mark.parametrize("node", NODES)
def test_a_restricted_pod_of_our_image_runs_on_each_node(pods: Pods, node: str) -> None:
    import forebay

    assert pods.run(pod("version", ["forebay", "--version"], node=node)).strip() == f"forebay, version {forebay.__version__}"
    assert pods.get("version")["spec"]["nodeName"] == node


def test_the_image_has_what_its_programs_import_and_no_more_rights_than_it_needs(pods: Pods) -> None:
    check = (
        "import os, ssl, sqlite3, ctypes, grpc, lmdb, msgspec, trio, xxhash, yaml\n"
        "import forebay.kube.client, forebay.cache.worker, forebay.fuse.daemon, forebay.runtimes.registry\n"
        "print(os.getuid(), os.getgid(), os.access('/', os.W_OK), ssl.get_default_verify_paths().cafile)"
    )
    said = pods.run(pod("imports", ["python3", "-P", "-c", check]))
    assert said.split() == ["65532", "65532", "False", "/usr/lib/ssl/cert.pem"]


def test_the_image_is_small_and_has_no_shell(cluster: Cluster, pods: Pods) -> None:
    """211 MB when this was written, NumPy 55 of them."""
    assert (cluster.place.images / "2-forebay.tar").stat().st_size < 240_000_000
    programs = (
        "import os; print(sorted(f for d in ('/bin', '/usr/bin', '/usr/local/bin') if os.path.isdir(d) for f in os.listdir(d)))"
    )
    (python,) = ast.literal_eval(pods.run(pod("programs", ["python3", "-P", "-c", programs])))
    assert python.startswith("python3")


@pytest.mark.parametrize("node", NODES)
def test_a_pod_reads_an_object_of_the_store_by_its_name_in_the_cluster(cluster: Cluster, pods: Pods, node: str) -> None:
    data = os.urandom(3_000_000)
    store = cluster.s3()
    store.create_bucket(Bucket=node)
    store.put_object(Bucket=node, Key="a/b.bin", Body=data)
    signed = cluster.s3("http://s3.stores.svc:9000").generate_presigned_url(
        "get_object", Params={"Bucket": node, "Key": "a/b.bin"}
    )
    said = pods.run(pod("read", ["python3", "-c", READ, signed], node=node))
    assert said.strip() == hashlib.sha256(data).hexdigest()


def test_a_pod_calls_the_api_server_by_its_service(cluster: Cluster, pods: Pods) -> None:
    server = json.loads(cluster.kubectl("version", "-o", "json"))["serverVersion"]["gitVersion"]
    assert pods.run(pod("ask", ["python3", "-c", ASK_API])).strip() == server


def test_pods_of_different_nodes_reach_each_other_and_a_service_balances_to_them(cluster: Cluster, pods: Pods) -> None:
    serve = ["sh", "-c", "mkdir /tmp/w && hostname > /tmp/w/index.html && exec httpd -f -p 8080 -h /tmp/w"]
    room = {"volumes": [{"name": "tmp", "emptyDir": {}}]}
    for node in NODES:
        thing = pod(f"serve-{node}", serve, node=node, image="busybox:dev", **room)
        thing["metadata"]["labels"] = {"app": "serve"}
        thing["spec"]["containers"][0] |= {"volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}]}
        pods.running(thing)
    ports = [{"port": 80, "targetPort": 8080}]
    named = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web"},
        "spec": {"selector": {"app": "serve"}, "ports": ports},
    }
    pods.apply(named)
    ask = ["wget", "-q", "-O", "-"]
    for ours, other in (NODES, NODES[::-1]):
        address = pods.get(f"serve-{other}")["status"]["podIP"]
        heard_of = partial(pods.exec, f"serve-{ours}", *ask, f"http://{address}:8080/")  # ready is a process, not yet a server
        until(lambda heard_of=heard_of, other=other: heard_of().strip() == f"serve-{other}", f"{ours} does not reach {other}")
    heard: set[str] = set()

    def both() -> bool:
        try:
            heard.add(pods.exec("serve-node-1", *ask, f"http://web.{pods.namespace}.svc/").strip())
        except machine.ClusterError:
            pass  # the name or the rules are not there yet
        return len(heard) == 2

    until(both, f"the service answers from {heard} alone")


def test_a_killed_kubelet_and_containerd_come_back_and_pods_do_not_notice(cluster: Cluster, pods: Pods) -> None:
    pods.running(pod("stays", ["sleep", "3600"], node="node-2", image="busybox:dev", tolerations=STAYS))
    for part in ("kubelet", "containerd"):
        pid = cluster.place.node("node-2") / "pid" / part
        was = pid.read_text()
        cluster.kill("node-2", part)
        until(lambda pid=pid, was=was: pid.read_text() not in ("", was), f"{part} does not come back")

    def answers() -> bool:
        try:
            return pods.exec("stays", "echo", "here").strip() == "here"
        except machine.ClusterError:
            return False

    until(answers, "no exec after containerd was killed")
    until(lambda: conditions(cluster)["node-2"] == "True", "node-2 is not ready again")
    assert pods.restarts("stays") == 0


def test_a_killed_api_server_and_store_come_back(cluster: Cluster) -> None:
    cluster.s3().create_bucket(Bucket="stays")
    for part in ("kube-apiserver", "versitygw"):
        log = cluster.place.logs / f"{part}.log"
        before = log.stat().st_size
        cluster.kill_plane(part)
        until(lambda log=log, before=before: log.stat().st_size > before, f"{part} is not started again")
    until(lambda: cluster.kubectl("get", "--raw", "/readyz", check=False) == "ok", "the API server is not ready again")

    def store_answers() -> bool:
        try:
            return "stays" in {bucket["Name"] for bucket in cluster.s3().list_buckets()["Buckets"]}
        except HTTPClientError:
            return False

    until(store_answers, "the store does not come back with its buckets")
    with pytest.raises(machine.ClusterError, match="no-such-part"):
        cluster.kill_plane("no-such-part")


def test_a_node_without_its_link_is_not_ready_until_it_is_mended(cluster: Cluster) -> None:
    cluster.cut("node-2")
    try:
        until(lambda: conditions(cluster)["node-2"] != "True", "nobody notices")
    finally:
        cluster.mend("node-2")
    until(lambda: conditions(cluster)["node-2"] == "True", "node-2 is not ready again")


def test_a_node_comes_back_from_a_power_cut_with_its_disk_and_its_pods(cluster: Cluster, pods: Pods) -> None:
    note = {"volumes": [{"name": "disk", "emptyDir": {}}]}
    thing = pod(
        "writer", ["sh", "-c", "cat /disk/note; echo kept > /disk/note; sleep 3600"], node="node-2", image="busybox:dev", **note
    )
    thing["spec"]["containers"][0] |= {"volumeMounts": [{"name": "disk", "mountPath": "/disk"}]}
    thing["spec"] |= {"restartPolicy": "Always", "tolerations": STAYS}
    pods.running(thing)
    until(lambda: pods.exec("writer", "cat", "/disk/note").strip() == "kept", "nothing is written")
    assert (cluster.root_of("node-2") / "var/lib/kubelet/pods").is_dir()
    cluster.run("node-2", ["sync"])
    cluster.power_off("node-2")
    until(lambda: conditions(cluster)["node-2"] != "True", "nobody notices")
    with pytest.raises(machine.ClusterError, match="node-2"):
        cluster.root_of("node-2")
    cluster.power_on("node-2")
    until(lambda: conditions(cluster)["node-2"] == "True", "node-2 is not ready again")
    until(lambda: pods.restarts("writer") == 1 and pods.is_ready("writer"), "the pod does not come back")
    until(lambda: pods.log("writer").strip() == "kept", "its disk is another")


# --- the end --------------------------------------------------------------------------------------------------------


def everything(name: str) -> dict[str, list[str]]:
    """What a cluster of that name may have left on the machine."""
    place = Cluster(name).place
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    links = os.listdir("/sys/class/net")
    routes = subprocess.run(["ip", "route"], capture_output=True, text=True, check=True).stdout.splitlines()
    return {
        "folders": [str(each) for each in (place.folder, place.lock) if each.exists()],
        "cgroups": [str(each) for hierarchy in machine.cgroups.hierarchies() for each in hierarchy.glob(f"forebay-{name}-*")],
        "mounts": [line for line in mounts if f"/{name}/" in line and "forebay" in line],
        "links": [link for link in links if link.startswith("forebay")],
        "routes": [route for route in routes if "dev forebay" in route],
    }


NOTHING: dict[str, list[str]] = {"folders": [], "cgroups": [], "mounts": [], "links": [], "routes": []}


def tree(pid: int) -> dict[int, str]:
    """The processes below `pid`, itself included, each with its start time: a number alone may be another's later."""
    parents: dict[int, list[int]] = {}
    started: dict[int, str] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(") ")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        parents.setdefault(int(fields[1]), []).append(int(entry.name))
        started[int(entry.name)] = fields[19]
    found: dict[int, str] = {}
    todo = [pid]
    while todo:
        each = todo.pop()
        found[each] = started[each]
        todo += parents.get(each, [])
    return found


def alive(processes: dict[int, str]) -> list[int]:
    """Which of them still run; a zombie does not."""
    left = []
    for pid, started in processes.items():
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if fields[19] == started and fields[0] not in "ZX":
            left.append(pid)
    return left


def sysctls() -> dict[str, str]:
    """Of the machine; what kubelets and proxies like to change."""
    names = ("vm/overcommit_memory", "kernel/panic", "kernel/panic_on_oops", "kernel/keys/root_maxkeys", "net/ipv4/ip_forward")
    more = ("net/netfilter/nf_conntrack_max", "net/ipv4/conf/all/route_localnet", "vm/panic_on_oom")
    return {name: Path("/proc/sys", name).read_text() for name in (*names, *more) if Path("/proc/sys", name).exists()}


@pytest.fixture
def name() -> Iterator[str]:
    """Of another cluster, beside the one of the other tests; ended whatever the test does."""
    yield (chosen := f"end{os.getpid()}")
    Cluster(chosen).stop()


def links_of_others() -> list[str]:
    return [link for link in os.listdir("/sys/class/net") if link.startswith("forebay")]


def test_its_end_leaves_nothing(name: str) -> None:
    before, others = sysctls(), everything(name)
    cluster = Cluster(name, nodes=1)
    with cluster:
        pods = Pods(cluster, "default")
        pods.running(pod("stays", ["sleep", "3600"], image="busybox:dev"))
        processes = tree(cluster.keeper)
        there = everything(name)
        assert len(processes) > 10
        assert there["folders"]
        assert there["cgroups"]
        assert len(there["links"]) == len(others["links"]) + 1
        began = time.monotonic()
    print(f"ended in {time.monotonic() - began:.1f} s")
    assert not alive(processes)
    assert everything(name) == others
    assert sysctls() == before


def test_what_a_killed_cluster_leaves_is_cleared_by_the_next(name: str) -> None:
    others = everything(name)
    first = Cluster(name, nodes=1)
    first.start()
    processes = tree(first.keeper)
    os.kill(first.keeper, signal.SIGKILL)
    until(lambda: not alive(processes), "processes outlive their namespace")
    assert everything(name)["cgroups"], "the case is not there: a killed keeper removes no cgroup"
    with Cluster(name, nodes=1) as second:
        assert Pods(second, "default").run(pod("version", ["forebay", "--version"]))
    assert everything(name) == others


@pytest.mark.parametrize("moment", ["keeper", "kubeconfig", "api-ready"])
def test_a_start_that_is_killed_ends_by_itself_and_the_next_works(name: str, moment: str) -> None:
    """`moment`: the file whose appearance the kill waits for."""
    others = everything(name)
    program = [sys.executable, "-P", "-m", "harness", "up", "--name", name, "--nodes", "1"]
    starter = subprocess.Popen(program, env=os.environ | {"PYTHONPATH": str(DEPLOY)}, stdout=subprocess.DEVNULL)
    cluster = Cluster(name, nodes=1)
    try:
        until((cluster.place.folder / moment).exists, f"no {moment}")
    finally:
        starter.kill()
        starter.wait()
    until(lambda: not cluster.alive, "the keeper stays without whoever started it")
    with cluster:
        until(lambda: conditions(cluster) == {"node-1": "True"}, "the node is not ready")
    assert everything(name) == others


def test_two_cannot_have_one_name(cluster: Cluster) -> None:
    with pytest.raises(machine.ClusterError, match="is up already"):
        Cluster(cluster.place.name).start()
    until(lambda: conditions(cluster) == dict.fromkeys(NODES, "True"), "not both are ready")
    with pytest.raises(machine.ClusterError, match="lower-case"):
        Cluster("No-Such")
