"""The whole line: apply a dataset, pods on both nodes read its bytes, everything of ours is killed under them, nothing stays."""

from __future__ import annotations

import json
import os
from functools import partial

from harness.cluster import Cluster
from harness.machine import ClusterError
from lakekit import SYSTEM, Lake, caches_of, mounts_of
from podkit import Pods, until

NODES = ["node-1", "node-2"]
PROGRAMS = (
    "forebay.fuse.daemon",
    "forebay.fuse.supervision.supervisor",
    "forebay.cache.worker",
    "bin/forebay csi",
    "bin/forebay worker run",
)


def ours(pods: Pods, name: str) -> list[str]:
    """Which pods of the installation are on which node: `name` is the component."""
    found = json.loads(pods.cluster.kubectl("-n", SYSTEM, "get", "pods", "-l", f"forebay.io/component={name}", "-o", "json"))
    return [item["metadata"]["name"] for item in found["items"]]


def failures(pods: Pods, reader: str) -> list[str]:
    """What a steady reader complains about."""
    return [line for line in pods.log(reader).splitlines() if not line.startswith("reads")]


def test_a_dataset_comes_to_bound_and_cold_pods_on_both_nodes_read_it_at_once(lake: Lake, pods: Pods) -> None:
    before = pods.cluster.store_sent()
    lake.apply()
    lake.bound()
    for node in NODES:
        pods.apply(lake.reader(f"reader-{node}", node))
    for node in NODES:
        assert json.loads(pods.run(lake.reader(f"reader-{node}", node))) == lake.hashes
    sent = pods.cluster.store_sent() - before
    assert lake.bytes < sent < lake.bytes * 1.1, "each byte once for both nodes, with the headers and two listings"
    print(f"the store sent {sent / lake.bytes:.3f} of the dataset's bytes")


def test_a_pod_may_be_there_before_its_dataset(lake: Lake, pods: Pods) -> None:
    pods.apply(lake.reader("early"))
    lake.apply()
    assert json.loads(pods.run(lake.reader("early"))) == lake.hashes


def test_runtime_before_dataset_and_dataset_without_runtime(lake: Lake, pods: Pods) -> None:
    pods.apply(lake.secret())
    pods.apply(lake.dataset())
    until(lambda: lake.status().get("phase") == "NotBound", "no status without a runtime")
    assert {c["type"]: c["reason"] for c in lake.status()["conditions"]}["Ready"] == "NoRuntime"
    pods.delete("dataset", lake.name)
    pods.apply(lake.runtime())
    pods.apply(lake.dataset())
    lake.bound()


class Readers:
    """Pods that read and verify without end."""

    def __init__(self, lake: Lake, nodes: list[str]) -> None:
        self.pods, self.names = lake.pods, [f"steady-{i}" for i in range(len(nodes))]
        for i, (name, node) in enumerate(zip(self.names, nodes, strict=True)):
            self.pods.running(lake.steady(name, node, i))

    def read_on(self, after: str) -> None:
        """Each of them has read more, and none complains."""
        before = self._counts()
        until(lambda: all(now > before[name] for name, now in self._counts().items()), f"readers stand still after {after}")
        wrong = {name: lines for name in self.names if (lines := failures(self.pods, name))}
        assert not wrong, f"after {after}: {wrong}"

    def _counts(self) -> dict[str, int]:
        return {name: self.pods.log(name).count("reads") for name in self.names}


def test_readers_see_no_error_while_everything_of_ours_is_killed_one_after_another(lake: Lake, pods: Pods) -> None:
    """SIGKILL to each process, then whole pods, then the nodes' own parts."""
    lake.apply()
    lake.bound()
    readers = Readers(lake, [NODES[i % 2] for i in range(6)])
    readers.read_on("nothing at all")
    for program in (
        "forebay.fuse.daemon",
        "forebay.fuse.supervision.supervisor",
        "forebay.cache.worker",
        "forebay csi",
        "forebay worker run",
    ):
        for node in NODES:
            struck = partial(kill_all, pods.cluster, node, program)
            until(struck, f"{program} of {node} is not there again")  # it may be one that the last kill took with it
            readers.read_on(f"{program} of {node} was killed")
    for component in ("node", "mounts", "controller"):
        for name in ours(pods, component):
            until(lambda: all(plugin_holds(pods, node) for node in NODES), "a plugin has not taken the device again")
            pods.cluster.kubectl("-n", SYSTEM, "delete", "pod", name, "--grace-period=0", "--force")
            readers.read_on(f"pod {name} was killed")
    for i in range(2):
        pods.kubectl("delete", "pod", f"{lake.name}-worker-{i}", "--grace-period=0", "--force")
        readers.read_on(f"worker {i} was deleted")
        until(lambda i=i: pods.is_ready(f"{lake.name}-worker-{i}"), "the worker does not come back")
    for node in NODES:
        pods.cluster.kill(node, "kubelet")
        until(lambda node=node: answers(pods, readers.names[NODES.index(node)]), f"the kubelet of {node} does not answer again")
    readers.read_on("the kubelets were killed")


def kill_all(cluster: Cluster, node: str, program: str) -> bool:
    """Whether there were any. One of them may end by itself between the look and the signal: that is no failure."""
    found = cluster.run(node, ["pgrep", "-f", program], check=False).split()
    if found:
        cluster.run(node, ["kill", "-9", *found], check=False)
    return bool(found)


def plugin_holds(pods: Pods, node: str) -> bool:
    """Whether the plugin has the mount's device. Until then it is the pod of mounts alone that keeps the mount alive."""
    root = pods.cluster.root_of(node)
    for process in pods.cluster.processes(node, "forebay csi"):
        try:
            held = [os.stat(each).st_rdev for each in (root / "proc" / str(process) / "fd").iterdir()]
        except OSError:
            continue  # it closed one meanwhile, or has ended: the next look tells
        if os.makedev(10, 229) in held:  # /dev/fuse, under whatever name another mount namespace has it
            return True
    return False


def answers(pods: Pods, name: str) -> bool:
    """Whether the kubelet of the pod's node does."""
    try:
        pods.log(name)
    except ClusterError:
        return False
    return True


def test_readers_of_one_node_see_no_error_when_the_other_is_cut_off_or_loses_power(lake: Lake, pods: Pods) -> None:
    lake.apply()
    lake.bound()
    readers = Readers(lake, ["node-1", "node-1"])
    readers.read_on("nothing at all")
    pods.cluster.cut("node-2")
    try:
        readers.read_on("node-2 was cut off")
    finally:
        pods.cluster.mend("node-2")
    readers.read_on("node-2 was there again")
    pods.cluster.power_off("node-2")
    try:
        readers.read_on("node-2 lost its power")
    finally:
        pods.cluster.power_on("node-2")
    until(
        lambda: pods.cluster.kubectl("get", "node", "node-2", "--no-headers").split()[1] == "Ready", "node-2 is not ready again"
    )
    readers.read_on("node-2 was started again")
    assert json.loads(pods.run(lake.reader("afterwards", "node-2"))) == lake.hashes


def test_readers_of_the_node_itself_go_on_without_its_link_and_come_back_after_a_power_cut(lake: Lake, pods: Pods) -> None:
    """What its cache has is read on while nobody is reached; a boot without any of our processes mounts by itself."""
    lake.apply()
    lake.bound()
    reader = lake.steady("there", "node-2", 1)
    reader["spec"] |= {"restartPolicy": "Always", "tolerations": [{"operator": "Exists"}]}  # nobody evicts it meanwhile
    pods.running(reader)
    until(lambda: "reads 200\n" in pods.log("there"), "it has not read every file")
    pods.cluster.cut("node-2")
    try:
        until(lambda: not node_ready(pods, "node-2"), "nobody notices the cut")
        read_on(pods, "while its node is cut off")
    finally:
        pods.cluster.mend("node-2")
    until(lambda: node_ready(pods, "node-2"), "node-2 is not ready again")
    read_on(pods, "after its node was mended")

    pods.cluster.power_off("node-2")
    try:
        until(lambda: not node_ready(pods, "node-2"), "nobody notices that node-2 has no power")
    finally:
        pods.cluster.power_on("node-2")
    until(lambda: node_ready(pods, "node-2"), "node-2 is not ready again")
    until(lambda: pods.restarts("there") == 1 and pods.is_ready("there"), f"the pod does not come back: {pods.trouble('there')}")
    until(lambda: len(on_disk(pods, "there")) > 2, "it does not read after the boot")
    read_on(pods, "after the boot")
    assert pods.restarts("there") == 1


def node_ready(pods: Pods, node: str) -> bool:
    return pods.cluster.kubectl("get", "node", node, "--no-headers").split()[1] == "Ready"


def on_disk(pods: Pods, name: str) -> list[str]:
    """The newest log of a pod of node-2, by the node's own files: its kubelet may be out of reach."""
    kept = pods.cluster.root_of("node-2") / "var/log/pods"
    logs = sorted(kept.glob(f"{pods.namespace}_{name}_*/main/*.log"), key=lambda log: int(log.stem))
    return [line.split(" ", 3)[3] for line in logs[-1].read_text().splitlines()] if logs else []


def read_on(pods: Pods, when: str) -> None:
    """The reader of node-2 gets on by a hundred files, and complains of nothing."""
    seen = len(on_disk(pods, "there"))
    until(lambda: len(on_disk(pods, "there")) > seen + 5, f"the reader stands still {when}: {on_disk(pods, 'there')[-3:]}")
    wrong = [line for line in on_disk(pods, "there") if not line.startswith("reads")]
    assert not wrong, f"{when}: {wrong}"


def test_deleting_leaves_nothing_in_the_cluster_or_on_its_nodes(lake: Lake, pods: Pods) -> None:
    lake.apply()
    lake.bound()
    for node in NODES:
        pods.run(lake.reader(f"reader-{node}", node))
    assert any(mounts_of(pods.cluster, node) for node in NODES), "the case is not there: nothing is mounted"
    pods.delete("pod", "--all")
    pods.delete("cacheruntime", lake.name)
    pods.delete("dataset", lake.name)
    kinds = "statefulset,service,configmap,persistentvolumeclaim,poddisruptionbudget,pod"

    def left() -> list[str]:
        of = pods.kubectl("get", kinds, "-o", "name").split()
        volumes = pods.cluster.kubectl("get", "pv", "-o", "name").split()
        return [x for x in [*of, *volumes] if x != "configmap/kube-root-ca.crt" and (pods.namespace in x or x in of)]

    until(lambda: not left(), f"objects stay: {left()}")
    inside = f"/{pods.namespace}/"
    for look in (mounts_of, caches_of):
        for node in NODES:
            here = partial(look, pods.cluster, node)
            until(lambda here=here: not [x for x in here() if inside in x], f"{look.__name__} {node} stay: {here()}")


def test_a_dataset_that_is_deleted_under_a_reading_pod_goes_when_the_pod_does(lake: Lake, pods: Pods) -> None:
    lake.apply()
    lake.bound()
    pods.running(lake.steady("steady", "node-1", 1))
    pods.kubectl("delete", "dataset", lake.name, "--wait=false")
    seen = pods.log("steady").count("reads")
    until(lambda: pods.log("steady").count("reads") > seen + 2, "the pod does not read on")
    assert not failures(pods, "steady")
    pods.delete("pod", "steady")
    until(lambda: not pods.kubectl("get", "dataset,persistentvolumeclaim", "-o", "name").strip(), "dataset or claim stay")


def test_scaling_out_and_in_while_pods_read(lake: Lake, pods: Pods) -> None:
    """A worker that has handed out is gone at once: it does not sit out a grace period that goes by what it might have held."""
    runtime = lake.runtime(workers=1)
    runtime["spec"]["worker"]["tieredStore"]["levels"][0]["hostPath"]["quotas"] = ["100Gi"]  # 18 minutes at 100 MB/s
    for thing in (lake.secret(), lake.dataset(), runtime):
        pods.apply(thing)
    lake.bound()
    pods.running(lake.steady("steady", "node-2", 1))
    for count in (2, 1):
        change = {"spec": {"worker": {"replicas": count}}}
        pods.kubectl("patch", "cacheruntime", lake.name, "--type=merge", "-p", json.dumps(change))

        def workers() -> list[str]:
            return pods.kubectl("get", "pods", "-l", "forebay.io/component=worker", "-o", "name").split()

        until(lambda count=count: len(workers()) == count, f"not {count} workers: {workers()}")
        seen = pods.log("steady").count("reads")
        until(lambda seen=seen: pods.log("steady").count("reads") > seen + 2, "the pod does not read on")
    assert not failures(pods, "steady")
