"""A random walk: datasets, references, grants, loads, readers, nodes and namespaces that come and go, edits by hand, API faults,
kills; then calm, and the truth: no status says what is not so, nothing hangs, nothing is left.

FOREBAY_STEPS=2000 FOREBAY_SEED=1 .venv/bin/pytest -m long -s tests/kube/test_kube_controller_walk.py
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable

import pytest
from controllerlab import SMALL, Cluster
from controlplane import ControlPlane
from controlplane_kit import until
from kubeproxy import KubeProxy
from walkkit import LOADS, NAMES, NODES, Walk
from walktruth import Truth, hints_missing

from forebay.controller.copies import UNDRIVEN
from forebay.kube import resources as r
from forebay.kube.errors import ApiError
from forebay.kube.objects import Key

pytestmark = [pytest.mark.long, pytest.mark.timeout(7200)]

STEPS = int(os.environ.get("FOREBAY_STEPS", "2000"))
SEED = int(os.environ.get("FOREBAY_SEED", "1"))
PART = 250
"""Steps between two looks at the truth."""


def test_a_random_walk_ends_in_truth(cluster: Cluster, site: ControlPlane, front: KubeProxy, space: str) -> None:
    walk = Walk(cluster, site, front, space, SEED)
    told: Counter[str] = Counter()
    began = time.monotonic()
    try:
        for start in range(0, STEPS, PART):
            for _ in range(min(PART, STEPS - start)):
                told[walk.step()] += 1
            stormy, _ = walk.faults, walk.calm()
            true(walk, f"after {sum(told.values())} steps")
            print(f"{sum(told.values())} steps in {time.monotonic() - began:.0f} s", flush=True)
            walk.faults = stormy
        walk.faults = False
        done = sum(count for what, count in told.items() if ":" not in what)
        print(f"\nseed {SEED}: {STEPS} steps, {done} of them done, {sum(front.counts.values())} faults, {told['killed']} kills")
        print(dict(sorted(told.items())))
        mended(walk)
        true(walk, "mended")
        deleted(walk)
        true(walk, "deleted")
    finally:
        walk.stop()
        walk.close()


def true(walk: Walk, when: str) -> None:
    """Comes to rest, and then nothing is untrue, hangs or is left."""
    truth = Truth(walk.cluster, walk.spaces)

    def untrue() -> list[str]:
        walk.reap()
        return [*truth.untrue(), *hints_missing(truth, walk.nodes)]

    until(lambda: not untrue(), 240, lambda: f"{when}: " + "\n".join(untrue()))
    walk.running.settle(2.0, 120.0)


def mended(walk: Walk) -> None:
    """What people broke they mend: then every dataset is served by both its workers."""
    cluster = walk.cluster
    keys = [Key(walk.space, f"d{i}") for i in range(NAMES)]
    for at in range(3):
        cluster.kill(Key(walk.space, f"reader-{at}"))
        cluster.kill(Key(walk.other, f"reader-{at}"))
    for key in keys:
        cluster.delete("AlluxioRuntime", key)
        until(lambda: applied(walk, key), 180, lambda: (key, cluster.read("Dataset", key)))  # noqa: B023 - called at once
    for key in keys:
        until(lambda: serves(walk, key), 240, lambda: (key, cluster.status(key), cluster.runtime(key)))  # noqa: B023


def applied(walk: Walk, key: Key) -> bool:
    """As it was first, without what was asked for by hand."""
    walk.reap()
    text = SMALL.replace("SPACE", key.namespace).replace("name: d,", f"name: {key.name},")
    try:
        walk.cluster.apply(text)
        walk.merge("Dataset", key, {"metadata": {"annotations": {"forebay.io/engine": None}}})
    except ApiError:
        return False
    found = walk.cluster.read("Dataset", key)
    return found is not None and not found["metadata"].get("deletionTimestamp")


def serves(walk: Walk, key: Key) -> bool:
    """Kubelets do their part until the dataset is Bound by both workers."""
    cluster = walk.cluster
    if cluster.gone("Dataset", key) or cluster.gone("CacheRuntime", key):  # its deletion was on the way
        applied(walk, key)
    walk.reap()
    for n, pod in enumerate(cluster.pods(key)):
        try:
            cluster.run(pod, NODES[n % len(NODES)])
        except ApiError:
            continue
    return cluster.phase(key) in ("Bound", "Updating") and cluster.runtime(key)["worker"].get("readyReplicas") == 2


def deleted(walk: Walk) -> None:
    """All that users made, in any order; a namespace with what is in it."""
    cluster, todo = walk.cluster, list[Callable[[], object]]()
    for i in range(NAMES):
        for kind in ("Dataset", "CacheRuntime"):
            todo.append(lambda kind=kind, i=i: cluster.delete(kind, Key(walk.space, f"d{i}")))  # type: ignore[misc]
    for i in range(2):
        todo.append(lambda i=i: cluster.delete("Dataset", Key(walk.other, f"v{i}")))  # type: ignore[misc]
        todo.append(lambda i=i: cluster.delete("DatasetGrant", Key(walk.space, f"g{i}")))  # type: ignore[misc]
    for i in range(LOADS):
        todo.append(lambda i=i: cluster.delete("DataLoad", Key(walk.space, f"l{i}")))  # type: ignore[misc]
    todo += [lambda kind=kind: cluster.delete(kind, Key(walk.space, "o")) for kind in UNDRIVEN]  # type: ignore[misc]
    todo.append(lambda: cluster.client.delete(r.NAMESPACES, Key("", walk.doomed)))
    walk.random.shuffle(todo)
    for each in todo:
        each()
    truth = Truth(cluster, walk.spaces)

    def left() -> list[str]:
        walk.reap()
        kinds = (
            "Dataset",
            "CacheRuntime",
            "AlluxioRuntime",
            "DataLoad",
            *UNDRIVEN,
            "Job",
            "StatefulSet",
            "PersistentVolumeClaim",
        )
        return [f"{kind} {x['metadata']['name']}" for kind in kinds for x in truth.all(kind)]

    for i in range(NAMES):  # of datasets whose CacheRuntime alone went in the walk
        cluster.delete("AlluxioRuntime", Key(walk.space, f"d{i}"))
    until(lambda: not left(), 240, left)
    until(lambda: cluster.gone("Namespace", Key("", walk.doomed)), 240, lambda: cluster.read("Namespace", Key("", walk.doomed)))
    cluster.client.delete(r.NAMESPACES, Key("", walk.other))
