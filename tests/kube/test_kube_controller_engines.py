"""Where the installation serves nothing by default: what is said of datasets whose engine is not here. A module of its own: a
controller of another installation must not run beside."""

from __future__ import annotations

from controllerlab import SMALL, Cluster, Running
from controlplane import ControlPlane
from controlplane_kit import until

from forebay.kube.objects import Key
from forebay.runtimes.engine import Installation

DATASET = SMALL.split("---", maxsplit=1)[0].strip()


def says(cluster: Cluster, key: Key, reason: str, part: str) -> str:
    """The message of the Ready condition, once it has the reason and says so much; the Event says it too."""
    until(lambda: cluster.condition(key).get("reason") == reason, 60, lambda: cluster.status(key))
    until(lambda: part in cluster.condition(key)["message"], 60, lambda: cluster.status(key))
    assert cluster.phase(key) == "NotBound"
    until(lambda: any(e["reason"] == reason and part in e["note"] for e in cluster.events(key)), 60, lambda: cluster.events(key))
    return str(cluster.condition(key)["message"])


def goes(cluster: Cluster, key: Key) -> None:
    cluster.delete("Dataset", key)
    until(lambda: cluster.gone("Dataset", key), 60, lambda: cluster.read("Dataset", key))
    until(lambda: not cluster.left(key), 60, lambda: cluster.left(key))


def test_every_kind_says_which_engine_it_waits_for_and_how_it_is_served(cluster: Cluster, site: ControlPlane, space: str) -> None:
    key = Key(space, "d")
    kinds = {"AlluxioRuntime": "alluxio", "JindoRuntime": "jindo", "JuiceFSRuntime": "juicefs", "EFCRuntime": "efc"}
    with Running(site.endpoint, Installation()) as running:
        for kind, engine in kinds.items():
            cluster.apply(DATASET.replace("SPACE", space))
            head = f"apiVersion: data.fluid.io/v1alpha1\nkind: {kind}\nmetadata: {{name: d, namespace: {space}}}"
            cluster.apply(f"{head}\nspec: {{replicas: 1}}")
            assert "forebay.io/engine=native" in says(cluster, key, "EngineNotDriven", f"{engine} of kind {kind}")

            def said(kind: str = kind, engine: str = engine) -> bool:
                status = (cluster.read(kind, key) or {}).get("status") or {}
                remedy = "forebay.io/engine=native" in status.get("workerReason", "")
                return (status.get("workerPhase"), status.get("engine"), remedy) == ("NotReady", engine, True)

            until(said, 60, lambda: cluster.read(kind, key))  # noqa: B023 - called at once
            running.settle()
            cluster.delete(kind, key)
            until(lambda: cluster.gone(kind, key), 60, lambda: cluster.read(kind, key))  # noqa: B023
            goes(cluster, key)


def test_a_class_that_nobody_made(cluster: Cluster, site: ControlPlane, space: str) -> None:
    """Where the installation serves by default what asks for no engine that is here, it serves that too."""
    key = Key(space, "d")
    with Running(site.endpoint, Installation()) as running:
        cluster.apply(SMALL.replace("SPACE", space).replace("runtimeClassName: forebay", "runtimeClassName: nope"))
        assert "anew with forebay" in says(cluster, key, "ClassUnknown", '"nope"')
        running.settle()
        goes(cluster, key)
