"""One Kubernetes with two nodes for all tests of this folder, and a namespace for each test."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import build, machine
from harness.cluster import PROGRAMS, Cluster
from lakekit import Lake, deploy, trouble
from podkit import Pods, until

HERE = Path(__file__).parent
NUMBERS = itertools.count(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.e2e)
            item.add_marker(pytest.mark.timeout(600))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Builds what is missing before any test's clock runs: the first time it takes ten minutes.

    Where the machine forbids a cluster nothing is skipped: the run ends with the sentence that says why.
    """
    if not session.config.option.collectonly and any(item.path.is_relative_to(HERE) for item in session.items):
        try:
            machine.check()
        except machine.ClusterError as error:
            pytest.exit(f"tests/e2e cannot run here: {error}", returncode=1)
        build.get([*PROGRAMS, "helm"])


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    with Cluster(f"e2e{os.getpid()}") as running:
        yield running


@pytest.fixture(scope="session")
def installation(cluster: Cluster) -> Cluster:
    """The cluster with forebay on it."""
    deploy(cluster)
    return cluster


@pytest.fixture
def words(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[None]:
    """What the installation says, beside what fails."""
    failed = request.session.testsfailed
    yield
    if request.session.testsfailed > failed:
        print(trouble(cluster))


@pytest.fixture
def lake(installation: Cluster, words: None, pods: Pods) -> Lake:
    return Lake(pods)


@pytest.fixture
def pods(cluster: Cluster) -> Iterator[Pods]:
    """The pods of a namespace of the test's own, where only the restricted profile is let in."""
    name = f"t{next(NUMBERS)}"
    cluster.kubectl("create", "namespace", name)
    cluster.kubectl("label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted")
    account = ("-n", name, "get", "serviceaccount", "default", "--ignore-not-found", "-o", "name")
    until(lambda: cluster.kubectl(*account).strip(), "no default service account")
    yield Pods(cluster, name)
    cluster.kubectl("delete", "namespace", name, "--wait=false", "--ignore-not-found")
