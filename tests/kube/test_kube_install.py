"""What `deploy/install` has, on a real API server: every object is taken, each component may do what it must and no more, and
the command runs as the Deployment runs it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from controllerlab import INSTALLED, MANIFESTS, SMALL, SPACE, Cluster, Command, Running, as_account, key_of, may
from controlplane import ControlPlane
from controlplane_kit import until

from forebay.controller.install import parts as install
from forebay.controller.install import rights
from forebay.controller.kinds import RESOURCES
from forebay.kube import resources as r
from forebay.kube.client import Client
from forebay.kube.errors import Forbidden, NotFound
from forebay.kube.objects import Bare, Key
from forebay.kube.transport import Transport
from forebay.runtimes.engine import Installation

pytestmark = pytest.mark.timeout(400)


@pytest.mark.parametrize("roots", [(), ("/mnt/data",)], ids=["plain", "with-host-paths"])
def test_the_server_takes_every_object(cluster: Cluster, roots: tuple[str, ...]) -> None:
    """Strictly: an unknown field is an error."""
    for objects in install.parts(install.Install(host_roots=roots)).values():
        for obj in objects:
            cluster.client.apply(INSTALLED[obj["kind"]], key_of(obj), obj, dry_run=True)


def test_pods_of_the_controller_are_restricted(cluster: Cluster) -> None:
    """Pod Security says so: the privileged namespace is for the node's parts."""
    space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "strict"}}
    space["metadata"]["labels"] = {"pod-security.kubernetes.io/enforce": "restricted"}  # type: ignore[index]
    cluster.client.apply(r.NAMESPACES, Key("", "strict"), space)
    cluster.client.apply(
        r.SERVICE_ACCOUNTS,
        Key("strict", rights.CONTROLLER),
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": rights.CONTROLLER}},
    )
    (deployment,) = [o for o in install.parts(install.Install())["40-controller.yaml"] if o["kind"] == "Deployment"]
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "c"}, "spec": deployment["spec"]["template"]["spec"]}
    cluster.client.create(r.PODS, "strict", pod, dry_run=True)
    cluster.client.delete(r.NAMESPACES, Key("", "strict"))


@pytest.fixture
def account(site: ControlPlane) -> Iterator[Client]:
    transport = Transport(as_account(site.endpoint))
    yield Client(transport)
    transport.close()


def test_the_controller_reads_no_secret_and_enters_no_pod(cluster: Cluster, account: Client, space: str) -> None:
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", "namespace": space}, "stringData": {"k": "v"}}
    account.create(r.SECRETS, space, secret)
    at = Key(space, "s")
    empty = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}}
    for forbidden in (
        lambda: account.get(r.SECRETS, at, Bare),
        lambda: account.list_all(r.SECRETS, Bare),
        lambda: account.list_all(r.SECRETS, Bare, space),
        lambda: account.apply(r.SECRETS, at, empty),  # its answer would be the whole Secret
        lambda: account.merge(r.SECRETS, at, {"metadata": {"labels": {"a": "b"}}}),
        lambda: account.replace(r.SECRETS, at, empty),
        lambda: account.delete(r.SECRETS, at),
        lambda: account.get(r.LEASES, Key(space, "x"), Bare),
        lambda: account.create(r.PODS, space, {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}}),
        lambda: account.create(RESOURCES["Dataset"], space, yaml.safe_load(SMALL.split("---")[0].replace("SPACE", space))),
        lambda: account.delete(RESOURCES["Dataset"], Key(space, "d")),
    ):
        with pytest.raises(Forbidden):
            forbidden()
    for resource in ("pods/exec", "pods/attach", "pods/portforward", "pods/ephemeralcontainers", "nodes/proxy"):
        assert not may(account, "create", resource, space), resource


def test_the_node_plugin_reads_configurations_and_members_and_no_secret(site: ControlPlane, space: str) -> None:
    transport = Transport(as_account(site.endpoint, rights.NODE))
    client = Client(transport)
    for verb, resource in (("watch", "configmaps"), ("watch", "endpointslices.discovery.k8s.io"), ("watch", "nodes")):
        assert may(client, verb, resource, space), resource
    for verb, resource in (
        ("get", "secrets"),
        ("list", "secrets"),
        ("get", "pods"),
        ("patch", "nodes"),
        ("create", "pods/exec"),
    ):
        assert not may(client, verb, resource, space), resource
    transport.close()


def test_without_a_default_engine_the_missing_one_is_named(cluster: Cluster, site: ControlPlane) -> None:
    text = next(p for p in MANIFESTS if p.stem == "01-web-alluxio").read_text()
    key = Key("default", "corpus")
    with Running(site.endpoint, Installation()) as running:
        cluster.apply(text)
        until(lambda: cluster.condition(key).get("reason") == "EngineNotDriven", 60, lambda: cluster.status(key))
        assert "alluxio" in cluster.condition(key)["message"]
        assert "kubectl annotate dataset corpus -n default forebay.io/engine=native" in cluster.condition(key)["message"]
        running.settle()
        assert cluster.left(key) == []
        cluster.annotate("Dataset", key, {"forebay.io/engine": "native"})
        until(lambda: cluster.pods(key), 60, "workers of a dataset that was given to our engine")
        cluster.delete("Dataset", key)
        until(lambda: cluster.gone("Dataset", key) and not cluster.left(key), 60, lambda: cluster.left(key))


# --- the command ----------------------------------------------------------------------------------------------------


@pytest.fixture
def commands(site: ControlPlane, tmp_path: Path) -> Iterator[Any]:
    made: list[Command] = []

    def start() -> Command:
        made.append(Command(site, tmp_path))
        return made[-1]

    yield start
    for command in made:
        if command.process.poll() is None:
            command.kill(signal.SIGKILL)


def test_the_command_serves_ends_in_order_and_another_takes_over(cluster: Cluster, commands: Any, space: str) -> None:
    first = commands()
    until(lambda: first.ask("/readyz")[0] == 200 and first.leads(), 120, first.log.read_text)
    assert first.ask("/healthz") == (200, "ok\n")
    assert first.ask("/other")[0] == 404
    second = commands()
    key = Key(space, "d")
    cluster.apply(SMALL.replace("SPACE", space))
    cluster.serve(key, 2)
    until(lambda: cluster.phase(key) == "Bound", 60, lambda: cluster.status(key))
    counted = 'forebay_datasets{phase="Bound"} 1.0'  # once the copies have what was written
    until(lambda: counted in first.ask("/metrics")[1], 60, lambda: first.ask("/metrics")[1])
    assert "forebay_pass_seconds_count" in first.ask("/metrics")[1]
    until(lambda: second.ask("/readyz")[0] == 200, 120, second.log.read_text)
    assert not second.leads()
    assert first.kill(signal.SIGTERM) == 0, first.log.read_text()
    cluster.delete("Dataset", key)  # nobody leads at this moment: the next one does it
    until(second.leads, 60, second.log.read_text)
    until(lambda: cluster.gone("Dataset", key) and not cluster.left(key), 60, lambda: cluster.left(key))
    assert "Traceback" not in first.log.read_text() + second.log.read_text()
    assert ": 403:" not in first.log.read_text() + second.log.read_text()


def test_killed_without_a_word_its_lease_runs_out_and_the_next_goes_on(cluster: Cluster, commands: Any, space: str) -> None:
    first = commands()
    until(first.leads, 120, first.log.read_text)
    key = Key(space, "d")
    cluster.apply(SMALL.replace("SPACE", space))
    first.kill(signal.SIGKILL)
    began = time.monotonic()
    second = commands()
    cluster.serve(key, 2, 120)
    until(lambda: cluster.phase(key) == "Bound", 60, lambda: cluster.status(key))
    assert second.leads()
    assert time.monotonic() - began > 5, "a lease that nobody gave back was taken at once"
    assert cluster.client.get(r.LEASES, Key(SPACE, rights.LEASE), Bare)
    cluster.delete("Dataset", key)
    until(lambda: cluster.gone("Dataset", key) and not cluster.left(key), 60, lambda: cluster.left(key))


def test_a_wrong_setting_is_named(site: ControlPlane, tmp_path: Path) -> None:
    settings = tmp_path / "s.yaml"
    for text, words in (
        ("defaultEngin: native\n", 'did you mean "defaultEngine"'),
        ("dataPort: big\n", "dataPort: Expected `int`"),
        ("memoryLimit: 10 GB\n", "write 10G"),
    ):
        settings.write_text(text)
        done = subprocess.run(
            [sys.executable, "-P", "-m", "forebay.cli.main", "controller", f"--config={settings}"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 2
        assert words in done.stderr, done.stderr
    with pytest.raises(NotFound):
        Cluster(Client(Transport(site.endpoint))).client.get(r.SECRETS, Key(SPACE, "nothing"), Bare)
