"""One control plane for all tests of this folder, and a namespace for each."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from controllerlab import Cluster, installed
from controlplane import PROGRAMS, ControlPlane, programs
from controlplane_kit import until
from kubeproxy import KubeProxy
from webhooklab import Called

from forebay.controller.install import rights
from forebay.kube.client import Client
from forebay.kube.objects import Key
from forebay.kube.resources import MUTATING_WEBHOOKS, NAMESPACES, SERVICE_ACCOUNTS, VALIDATING_WEBHOOKS
from forebay.kube.transport import Transport

HERE = Path(__file__).parent
NUMBERS = itertools.count(1)
LONGEST = (
    "test_kube_controller_faults.py",
    "test_scheduler_filters.py",
    "test_kube_informer.py",
    "test_kube_leaving.py",
    "test_kube_controller_day.py",
    "test_kube_controller_ends.py",
    "test_kube_harness.py",
)
"""Files to begin with: where several run at once, nothing long is left to the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Two API servers share the machine with whatever else runs there: a test that hangs ends later than elsewhere."""
    for item in items:
        if item.path.is_relative_to(HERE) and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(400))
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Builds what is missing before any test's clock runs: the first time it takes minutes."""
    if not session.config.option.collectonly and any(item.path.is_relative_to(HERE) for item in session.items):
        programs((*PROGRAMS, "helm"))


@pytest.fixture(scope="session")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with ControlPlane(tmp_path_factory.mktemp("plane")) as running:
        yield running


@pytest.fixture
def transport(plane: ControlPlane) -> Iterator[Transport]:
    made = Transport(plane.endpoint)
    yield made
    made.close()


@pytest.fixture
def client(transport: Transport) -> Client:
    """An administrator's, straight to the server."""
    return Client(transport, manager="test")


@pytest.fixture
def namespace(client: Client) -> Iterator[str]:
    name = f"t{next(NUMBERS)}"
    client.create(NAMESPACES, "", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    yield name
    client.delete(NAMESPACES, Key("", name))


@pytest.fixture
def proxy(plane: ControlPlane) -> Iterator[KubeProxy]:
    with KubeProxy(plane.endpoint) as running:
        yield running


@pytest.fixture
def closing() -> Iterator[Callable[[Callable[[], object]], None]]:
    """`closing(stop)`: called at the end, the last first; must not say False."""
    stops: list[Callable[[], object]] = []
    yield stops.append
    for stop in reversed(stops):
        assert stop() is not False, f"{stop} did not end in time"


# --- a server where forebay is installed ----------------------------------------------------------------------------


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A control plane of its own for controllers: two at once would not leave each other's datasets alone."""
    with installed(tmp_path_factory.mktemp("site")) as running:
        yield running


@pytest.fixture
def cluster(site: ControlPlane) -> Iterator[Cluster]:
    """An administrator's view of it."""
    transport = Transport(site.endpoint)
    yield Cluster(Client(transport, manager="admin"))
    transport.close()


@pytest.fixture
def front(site: ControlPlane) -> Iterator[KubeProxy]:
    """Faults between the controller and its server."""
    with KubeProxy(site.endpoint) as running:
        yield running


@pytest.fixture
def space(cluster: Cluster) -> Iterator[str]:
    """A namespace, empty of ours at the end: what stays would take a part in other tests of this server."""
    name = f"s{next(NUMBERS)}"
    cluster.client.create(NAMESPACES, "", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    account = Key(name, "default")  # pods are refused without it
    until(lambda: cluster.client.transport.request("GET", SERVICE_ACCOUNTS.at(account)).code == 200, 60, "no service account")
    yield name
    cluster.clear(name)
    cluster.client.delete(NAMESPACES, Key("", name))


@pytest.fixture
def start(site: ControlPlane, cluster: Cluster) -> Iterator[Callable[[], Called]]:
    """Makes webhooks, which end with the test."""
    made: list[Called] = []

    def one() -> Called:
        made.append(Called(site, cluster.client))
        return made[-1]

    yield one
    for resource in (MUTATING_WEBHOOKS, VALIDATING_WEBHOOKS):
        cluster.client.delete(resource, Key("", rights.WEBHOOK))
    for called in made:
        called.stop()


@pytest.fixture
def called(start: Callable[[], Called]) -> Called:
    """A webhook that the API server calls."""
    made = start()
    made.start()
    made.ready()
    made.call()
    return made
