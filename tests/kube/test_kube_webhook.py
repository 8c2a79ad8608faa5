"""The webhook, called by a real API server: what it refuses, where pods go by it, its own rights, and without it."""

from __future__ import annotations

import http.client
import json
import signal
import ssl
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from controllerlab import SPACE, Cluster, Command, Running, as_account
from controlplane import ControlPlane, programs
from controlplane_kit import until
from servers import free_port
from webhooklab import CONFIGURATIONS, LABEL, Called, dataset, pod, secret_data

from forebay.controller.admission import certificates
from forebay.controller.admission.preferences import ZONE
from forebay.controller.install import rights
from forebay.controller.kinds import RESOURCES
from forebay.kube import resources as r
from forebay.kube.client import Client
from forebay.kube.errors import Forbidden, Invalid, NotFound
from forebay.kube.objects import Bare, Key
from forebay.kube.resources import MUTATING_WEBHOOKS as MUTATING
from forebay.kube.resources import VALIDATING_WEBHOOKS as VALIDATING
from forebay.kube.transport import Transport

pytestmark = pytest.mark.timeout(400)

Object = dict[str, Any]


def runtime(kind: str, name: str, space: str, spec: Object | None = None) -> Object:
    return {
        "apiVersion": "data.fluid.io/v1alpha1",
        "kind": kind,
        "metadata": {"name": name, "namespace": space},
        "spec": spec or {},
    }


def made(cluster: Cluster, space: str, wanted: Object) -> Object:
    """The pod as the server took it."""
    cluster.client.create(r.PODS, space, wanted)
    found = cluster.read("Pod", Key(space, wanted["metadata"]["name"]))
    assert found is not None
    return found


def affinity(found: Object) -> Object:
    node: Object = found["spec"].get("affinity", {}).get("nodeAffinity", {})
    return node


def answered(site: ControlPlane, path: str, body: Object) -> tuple[int, Object, list[str]]:
    """Code, body and the `Warning` headers, which a person's kubectl shows."""
    end = site.endpoint
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for name, part in (("crt", end.certificate), ("key", end.key), ("ca", end.ca)):
            files.append(part if isinstance(part, Path) else Path(folder, name))
            if not isinstance(part, Path):
                files[-1].write_bytes(part or b"")
        context = ssl.create_default_context(cafile=str(files[2]))
        context.load_cert_chain(files[0], files[1])
        host = end.server.removeprefix("https://").rstrip("/")
        connection = http.client.HTTPSConnection(host, context=context, timeout=60)
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        said = json.loads(answer.read())
        warnings = [value for name, value in answer.getheaders() if name == "Warning"]
        connection.close()
    return answer.status, said, warnings


# --- datasets' objects ----------------------------------------------------------------------------------------------


def test_bad_objects_are_refused_with_the_sentence(called: Called, cluster: Cluster, space: str) -> None:
    create = cluster.client.create
    bad = [
        (
            dataset("d", space, "bucket/x"),
            'spec.mounts[0].mountPoint "bucket/x" has no scheme; write one such as s3://bucket/prefix/',
        ),
        (dataset("d", space, f"dataset://{space}/d"), "is a reference to itself; name the dataset that holds the data"),
        (dataset("d", space, "s3://bucket/x", options={"forebay.io/freshness": "soon"}), '"soon" is no freshness'),
    ]
    for obj, words in bad:
        with pytest.raises(Invalid) as caught:
            create(RESOURCES["Dataset"], space, obj)
        assert 'admission webhook "objects.forebay.io" denied the request' in str(caught.value)
        assert words in str(caught.value)
        assert caught.value.causes
    create(RESOURCES["Dataset"], space, dataset("d", space))
    create(RESOURCES["AlluxioRuntime"], space, runtime("AlluxioRuntime", "d", space))
    key = Key(space, "d")
    until(lambda: called.webhook.knowledge.stores["AlluxioRuntime"].get(key), 60, "the copy has the first runtime")
    with pytest.raises(Invalid, match="is a second runtime for one dataset"):
        create(RESOURCES["JindoRuntime"], space, runtime("JindoRuntime", "d", space))
    changed = {"spec": {"mounts": [{"mountPoint": "nothing", "name": "m"}]}}
    with pytest.raises(Invalid, match="has no scheme"):
        cluster.client.merge(RESOURCES["Dataset"], key, changed)


def test_what_may_still_come_is_taken_and_said(called: Called, cluster: Cluster, site: ControlPlane, space: str) -> None:
    path = RESOURCES["Dataset"].path(space)
    code, _, warnings = answered(site, path, dataset("ref", space, "dataset://lake/corpus"))
    assert code == 201
    assert "there is no Dataset lake/corpus to refer to" in "".join(warnings)
    encrypted = [{"name": "secret_key", "valueFrom": {"secretKeyRef": {"name": "later", "key": "k"}}}]
    code, _, warnings = answered(site, path, dataset("d", space, "s3://bucket/x", encryptOptions=encrypted))
    assert (code, warnings) == (201, [])


def test_what_stands_wrong_can_be_edited_finalized_and_deleted(
    start: Callable[[], Called], cluster: Cluster, space: str, site: ControlPlane
) -> None:
    """It was made while nobody looked."""
    key = Key(space, "d")
    cluster.client.create(RESOURCES["Dataset"], space, dataset("d", space, "bucket/x"))
    one = start()
    one.start()
    one.ready()
    one.call()
    cluster.annotate("Dataset", key, {"a": "b"})
    with Running(site.endpoint) as running:
        until(lambda: cluster.condition(key), 60, "the controller says nothing")
        cluster.delete("Dataset", key)
        until(lambda: cluster.gone("Dataset", key), 60, lambda: cluster.read("Dataset", key))
        running.settle()


# --- pods -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def nodes(cluster: Cluster, space: str) -> Iterator[None]:
    """Two nodes, one of which holds dataset `d` of the namespace."""
    for name in ("w-1", "w-2"):
        labels = {"kubernetes.io/hostname": name, ZONE: f"zone-{name}"}
        if name == "w-1":
            labels[f"fluid.io/s-{space}-d"] = "true"
        cluster.client.create(r.NODES, "", {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}})
    yield
    for name in ("w-1", "w-2"):
        cluster.client.delete(r.NODES, Key("", name))


def test_a_labelled_pod_is_steered_to_its_data(called: Called, cluster: Cluster, space: str, nodes: None) -> None:
    cluster.client.create(RESOURCES["Dataset"], space, dataset("d", space))
    stores = called.webhook.knowledge.stores
    until(lambda: stores["Dataset"].get(Key(space, "d")) and stores["Node"].where("mark", f"fluid.io/s-{space}-d"), 60)
    found = made(cluster, space, pod("p", "d"))
    terms = affinity(found)["preferredDuringSchedulingIgnoredDuringExecution"]
    held = {"key": f"fluid.io/s-{space}-d", "operator": "In", "values": ["true"]}
    assert [(t["weight"], t["preference"]["matchExpressions"]) for t in terms] == [
        (100, [held]),
        (50, [{"key": ZONE, "operator": "In", "values": ["zone-w-1"]}]),
    ]
    assert found["spec"]["containers"][0]["volumeMounts"][0]["mountPropagation"] == "HostToContainer"
    assert found["metadata"]["annotations"]["fluid.io/datasets-in-use"] == "d"
    hard = made(cluster, space, pod("q", "d", labels={**LABEL, "fluid.io/dataset.d.sched": "required"}))
    required = affinity(hard)["requiredDuringSchedulingIgnoredDuringExecution"]
    assert required == {"nodeSelectorTerms": [{"matchExpressions": [held]}]}


def test_only_pods_that_ask_for_it_pass_through(called: Called, cluster: Cluster, space: str) -> None:
    cluster.client.create(RESOURCES["Dataset"], space, dataset("d", space))
    until(lambda: called.webhook.knowledge.stores["Dataset"].get(Key(space, "d")), 60)
    assert not affinity(made(cluster, space, pod("unlabelled", "d", labels={"a": "b"})))
    assert not affinity(made(cluster, space, pod("out", "d", labels={**LABEL, "fluid.io/enable-injection": "false"})))
    assert affinity(made(cluster, space, pod("sidecar", "d", labels={"serverless.fluid.io/inject": "true"})))
    cluster.client.merge(r.NAMESPACES, Key("", space), {"metadata": {"labels": {"fluid.io/enable-injection": "true"}}})
    until(lambda: affinity(made(cluster, space, pod(f"n{time.monotonic_ns()}", "d", labels={"a": "b"}))), 60, "by its namespace")
    for name in ("kube-system", SPACE):
        key = Key(name, "d")
        cluster.client.create(RESOURCES["Dataset"], name, dataset("d", name))
        until(lambda key=key: called.webhook.knowledge.stores["Dataset"].get(key), 60)  # type: ignore[misc]
        assert not affinity(made(cluster, name, pod("system", "d"))), name
        cluster.kill(Key(name, "system"))
        cluster.delete("Dataset", key)


# --- where kube-scheduler puts them ---------------------------------------------------------------------------------


@pytest.fixture
def scheduler(site: ControlPlane, tmp_path: Path) -> Iterator[None]:
    program = programs(["kube-scheduler"])["kube-scheduler"]
    flags = [f"--kubeconfig={site.kubeconfig}", "--leader-elect=false", f"--secure-port={free_port()}", f"--cert-dir={tmp_path}"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", program, *flags], stdout=log, stderr=log)
    yield
    ended = process.poll()
    process.kill()
    process.wait()
    assert ended is None, (tmp_path / "log").read_text()[-3000:]


def holding(cluster: Cluster, name: str, **datasets: int) -> None:
    """A node with room for pods and a cache: `space__dataset`: bytes, as the node's plugin says them. No label of Fluid's."""
    offered = {"cpu": "8", "memory": "16Gi", "pods": "50"}
    meta = {"name": name, "labels": {"kubernetes.io/hostname": name}}
    cluster.client.create(r.NODES, "", {"apiVersion": "v1", "kind": "Node", "metadata": meta})
    said = {"conditions": [{"type": "Ready", "status": "True"}], "allocatable": offered, "capacity": offered}
    cluster.client.merge(r.NODES, Key("", name), {"status": said}, sub="status")
    cluster.client.merge(r.NODES, Key("", name), {"spec": {"taints": None}})  # no controller takes the one of new nodes
    caches, total = RESOURCES["NodeCache"], sum(datasets.values())
    cluster.client.create(caches, "", {"apiVersion": caches.api_version, "kind": "NodeCache", "metadata": {"name": name}})
    held = []
    for path, amount in datasets.items():
        space, _, dataset_name = path.partition("__")
        tiers = [{"medium": "SSD", "bytes": amount}]
        held.append({"namespace": space, "name": dataset_name, "role": "Owner", "tiers": tiers})
    status = {"observedTime": "2026-11-27T12:00:00Z", "datasets": held, "datasetCount": len(held), "cached": "", "capacity": ""}
    status |= {"tiers": [], "cachedBytes": total, "capacityBytes": total}
    cluster.client.merge(caches, Key("", name), {"status": status}, sub="status")


def claimed(cluster: Cluster, space: str, name: str) -> None:
    """A dataset with the claim that the controller would make for it."""
    cluster.client.create(RESOURCES["Dataset"], space, dataset(name, space))
    common = {"accessModes": ["ReadOnlyMany"], "storageClassName": "fluid"}
    shown = {"claimRef": {"namespace": space, "name": name}, "csi": {"driver": "forebay.io", "volumeHandle": f"{space}-{name}"}}
    volume = {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": f"{space}-{name}"}}
    cluster.client.create(r.VOLUMES, "", {**volume, "spec": {**common, **shown, "capacity": {"storage": "1Gi"}}})
    wanted = {**common, "volumeName": f"{space}-{name}", "resources": {"requests": {"storage": "1Gi"}}}
    cluster.client.create(
        r.CLAIMS, space, {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": wanted}
    )


def landed(cluster: Cluster, space: str, wanted: Object) -> str:
    """The node that kube-scheduler gives it, "" where it says that there is none."""
    key = Key(space, wanted["metadata"]["name"])
    made(cluster, space, wanted)

    def look() -> tuple[str, str]:
        found = cluster.read("Pod", key)
        assert found is not None
        reasons = [c.get("reason", "") for c in found["status"].get("conditions", ()) if c["type"] == "PodScheduled"]
        return found["spec"].get("nodeName", ""), "".join(reasons)

    until(lambda: any(look()), 120, lambda: cluster.read("Pod", key))
    return look()[0]


def known(cluster: Cluster, space: str, node: str) -> None:
    """Until kube-scheduler, which follows nodes and pods each by itself, has the node: it puts a pod there that may go nowhere
    else. The pod stays, one on each node."""
    probe = pod(f"known-{node}", labels={"x": "y"})
    probe["spec"]["nodeSelector"] = {"kubernetes.io/hostname": node}
    made(cluster, space, probe)
    key = Key(space, f"known-{node}")
    until(lambda: (cluster.read("Pod", key) or {})["spec"].get("nodeName"), 120, lambda: cluster.read("Pod", key))


def test_kube_scheduler_puts_pods_where_most_of_their_data_is(
    called: Called, scheduler: None, cluster: Cluster, space: str
) -> None:
    """Node labels are off: NodeCaches alone say it. Unlabelled pods go elsewhere: the full node is the busiest."""
    for name in ("a", "b"):
        claimed(cluster, space, name)
    nodes = {"h-full": {"a": 900, "b": 10}, "h-some": {"a": 100, "b": 500}, "h-none": {}}
    for name, held in nodes.items():
        holding(cluster, name, **{f"{space}__{of}": amount for of, amount in held.items()})
    caches = called.webhook.knowledge.stores["NodeCache"]
    until(lambda: all(len(caches.where("dataset", f"{space}/{of}")) == 2 for of in "ab"), 60, "the copies of NodeCaches")
    for name in nodes:
        known(cluster, space, name)
    for i in range(5):
        assert landed(cluster, space, pod(f"a{i}", "a")) == "h-full"
    for i in range(3):
        assert landed(cluster, space, pod(f"b{i}", "b")) == "h-some"
    assert landed(cluster, space, pod("free", "a", labels={"x": "y"})) == "h-none"
    both = {**LABEL, "fluid.io/dataset.a.sched": "required", "fluid.io/dataset.b.sched": "required"}
    assert landed(cluster, space, pod("both", "a", "b", labels=both)) in ("h-full", "h-some")
    claimed(cluster, space, "c")
    holding(cluster, "h-other", **{f"{space}__c": 7})
    until(lambda: caches.where("dataset", f"{space}/c"), 60, "the copies of NodeCaches")
    apart = {**LABEL, "fluid.io/dataset.a.sched": "required", "fluid.io/dataset.c.sched": "required"}
    assert landed(cluster, space, pod("apart", "a", "c", labels=apart)) == "", "one of two is not enough"
    for name in (*nodes, "h-other"):
        cluster.client.delete(r.NODES, Key("", name))
        cluster.client.delete(RESOURCES["NodeCache"], Key("", name))
    for name in ("a", "b", "c"):
        cluster.client.delete(r.VOLUMES, Key("", f"{space}-{name}"))


# --- without it -----------------------------------------------------------------------------------------------------


def test_a_webhook_that_is_down_blocks_nothing(called: Called, cluster: Cluster, space: str) -> None:
    called.stop()
    began = time.monotonic()
    assert not affinity(made(cluster, space, pod("p", "d")))
    cluster.client.create(RESOURCES["Dataset"], space, dataset("d", space, "bucket/x"))
    cluster.client.merge(RESOURCES["Dataset"], Key(space, "d"), {"metadata": {"labels": {"a": "b"}}})
    cluster.delete("Dataset", Key(space, "d"))
    assert time.monotonic() - began < 60
    hooks = [hook for obj in CONFIGURATIONS for hook in obj["webhooks"]]
    assert {hook["failurePolicy"] for hook in hooks} == {"Ignore"}
    assert max(hook["timeoutSeconds"] for hook in hooks) == 5
    assert max(hook["timeoutSeconds"] for hook in hooks if "pods" in hook["name"]) == 2


def test_the_command_serves_and_ends_in_order(site: ControlPlane, cluster: Cluster, tmp_path: Path) -> None:
    command = Command(site, tmp_path, "webhook", rights.WEBHOOK, [f"--serve=127.0.0.1:{free_port()}", "--host=localhost"])
    try:
        until(lambda: command.ask("/readyz") == (200, "ok\n"), 120, command.log.read_text)
        assert command.ask("/healthz") == (200, "ok\n")
        metrics = command.ask("/metrics")[1].splitlines()
        (said,) = (line for line in metrics if line.startswith("forebay_webhook_certificate_expiry_seconds "))
        assert float(said.split()[1]) == certificates.expiry(secret_data(cluster)).timestamp()
        status = Path(f"/proc/{command.process.pid}/status").read_text()
        print(next(line for line in status.splitlines() if line.startswith("RssAnon")))
    finally:
        code = command.kill(signal.SIGTERM)
    assert code == 0, command.log.read_text()
    assert "Traceback" not in command.log.read_text()
    assert ": 403:" not in command.log.read_text()


def test_it_may_read_what_it_judges_by_and_write_nothing_else(site: ControlPlane, cluster: Cluster, space: str) -> None:
    transport = Transport(as_account(site.endpoint, rights.WEBHOOK))
    account = Client(transport)
    empty = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}}
    cluster.client.create(r.SECRETS, SPACE, {**empty, "stringData": {"a": "b"}})
    for forbidden in (
        lambda: account.get(r.SECRETS, Key(SPACE, "s"), Bare),
        lambda: account.list_all(r.SECRETS, Bare, SPACE),
        lambda: account.create(r.SECRETS, SPACE, {**empty, "metadata": {"name": "t"}}),
        lambda: account.list_all(r.PODS, Bare, space),
        lambda: account.merge(RESOURCES["Dataset"], Key(space, "d"), {"metadata": {"labels": {"a": "b"}}}),
        lambda: account.merge(MUTATING, Key("", "another"), {"metadata": {"labels": {"a": "b"}}}),
        lambda: account.list_all(MUTATING, Bare),
        lambda: account.delete(MUTATING, Key("", rights.WEBHOOK)),
    ):
        with pytest.raises(Forbidden):
            forbidden()
    with pytest.raises(NotFound):
        account.get(VALIDATING, Key("", rights.WEBHOOK), Bare)
    cluster.client.delete(r.SECRETS, Key(SPACE, "s"))
    transport.close()
