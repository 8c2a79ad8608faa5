"""What tests of gangs on real nodes share: cards that are only counted, our scheduler as a process, gangs of readers."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness import cards
from harness.cluster import Cluster
from lakekit import VERIFY, Lake
from podkit import pod, until
from servers import free_port

GIB = 8
"""Of each card."""
CARDS = 2
"""Of each node."""
NAME, MINIMUM = "pod-group.scheduling.sigs.k8s.io/name", "pod-group.scheduling.sigs.k8s.io/min-available"
UNTIL_DELETED = "import signal as s; s.pthread_sigmask(s.SIG_BLOCK, [s.SIGTERM]); s.sigwait([s.SIGTERM])"
"""Waits for nothing but the end that a deletion asks for: it is a first process, to which SIGTERM means nothing by itself."""
STAY = f"{VERIFY}\nimport sys\nsys.stdout.flush()\n{UNTIL_DELETED}\n"
"""Says the hash of every file, and stays."""


def give_cards(cluster: Cluster) -> None:
    """Two counted cards of 8 GiB on each node; returns when nodes show them."""
    cluster.kubectl("apply", "-f", "-", text=cards.listed(CARDS, GIB))
    until(lambda: all(offers(cluster, node) == (str(CARDS * GIB), str(CARDS)) for node in cluster.nodes), "no cards on the nodes")


def offers(cluster: Cluster, node: str) -> tuple[str, str]:
    """Card memory and cards that a node gives out."""
    found = json.loads(cluster.kubectl("get", "node", node, "-o", "json"))["status"]["allocatable"]
    return found.get(cards.MEMORY, ""), found.get(cards.COUNT, "")


@contextmanager
def scheduling(cluster: Cluster, folder: Path, settings: str = "") -> Iterator[Path]:
    """Our scheduler beside the cluster's own, as a process of this machine; its log. It must not end by itself."""
    config = folder / "scheduler.yaml"
    config.write_text(settings or "schedulerName: forebay\n")
    log = folder / "scheduler.log"
    command = [sys.executable, "-P", "-m", "forebay.cli.main", "scheduler", "run", "--no-leader-elect", "--config", str(config)]
    command += ["--kubeconfig", str(cluster.place.kubeconfig), "--listen", f"127.0.0.1:{free_port()}"]
    with log.open("wb") as out:
        process = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *command], stdout=out, stderr=out)
        try:
            yield log
            assert process.poll() is None, log.read_text()[-3000:]
        finally:
            process.terminate()
            process.wait(60)


class Crew:
    """A gang of pods that read a dataset and hold part of a card each."""

    def __init__(self, lake: Lake, name: str, count: int, gib: int, minimum: int = 0, **spec: Any) -> None:
        self.lake, self.pods, self.name = lake, lake.pods, name
        self.names = [f"{name}-{at}" for at in range(count)]
        self.manifests = [self._member(lake, one, gib, minimum or count, spec) for one in self.names]

    def _member(self, lake: Lake, name: str, gib: int, minimum: int, spec: dict[str, Any]) -> dict[str, Any]:
        made = pod(name, ["python3", "-c", STAY], **{"schedulerName": "forebay", **spec})
        made["metadata"]["labels"] = {NAME: self.name, MINIMUM: str(minimum)}
        container = made["spec"]["containers"][0]
        container["resources"] = {"limits": {cards.MEMORY: str(gib)}}
        container["volumeMounts"] = [{"name": "data", "mountPath": "/data"}]
        made["spec"]["volumes"] = [{"name": "data", "persistentVolumeClaim": {"claimName": lake.name}}]
        return made

    def apply(self) -> None:
        """All at once."""
        self.pods.kubectl("apply", "-f", "-", text=json.dumps({"apiVersion": "v1", "kind": "List", "items": self.manifests}))

    def objects(self) -> list[dict[str, Any]]:
        listed = json.loads(self.pods.kubectl("get", "pods", "-l", f"{NAME}={self.name}", "-o", "json"))["items"]
        return sorted(listed, key=lambda one: str(one["metadata"]["name"]))

    def nodes(self) -> list[str]:
        """Of those that have one."""
        return sorted(one["spec"]["nodeName"] for one in self.objects() if one["spec"].get("nodeName"))

    def said(self) -> str:
        """Why the first pod waits."""
        for condition in self.objects()[0]["status"].get("conditions", []):
            if condition["type"] == "PodScheduled" and condition["status"] == "False":
                return str(condition["message"])
        return ""

    def waits(self, words: str) -> None:
        until(lambda: words in self.said(), f"{self.name} does not say {words!r}: {self.said()!r}")

    def all_run(self, log: Path) -> None:
        """Returns when all are ready."""
        try:
            until(lambda: all(self.pods.is_ready(name) for name in self.names), f"{self.name} does not run")
        except AssertionError as error:
            trouble = "\n".join(self.pods.trouble(name) for name in self.names)
            raise AssertionError(f"{error}\n{trouble}\n{log.read_text()[-5000:]}") from None

    def hashes(self) -> list[dict[str, str]]:
        """What each pod has read."""
        until(lambda: all(self.pods.log(name).strip() for name in self.names), "not all have read")
        return [json.loads(self.pods.log(name).splitlines()[0]) for name in self.names]

    def allocations(self) -> list[tuple[str, dict[str, int]]]:
        """Node and card memory by card, of each pod, as its annotations say."""
        key = "scheduler.framework.gpushare.allocation"
        return [(one["spec"]["nodeName"], json.loads(one["metadata"]["annotations"][key])["0"]) for one in self.objects()]

    def delete(self) -> None:
        self.pods.delete("pod", "-l", f"{NAME}={self.name}")


def told(lake: Lake, node: str) -> int:
    """Bytes of the dataset that the node's NodeCache tells of, 0 for none."""
    found = lake.cluster.kubectl("get", "nodecache", node, "--ignore-not-found", "-o", "json")
    listed = json.loads(found).get("status", {}).get("datasets", []) if found else []
    of = [one for one in listed if (one["namespace"], one["name"]) == (lake.pods.namespace, lake.name)]
    return sum(tier["bytes"] for one in of for tier in one.get("tiers", []))


def publish(lake: Lake, node: str, amount: int, moment: str = "") -> None:
    """A NodeCache by hand: a lie."""
    of = {"namespace": lake.pods.namespace, "name": lake.name, "role": "Owner", "tiers": [{"medium": "SSD", "bytes": amount}]}
    status = {
        "observedTime": moment or datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "tiers": [],
        "cachedBytes": amount,
        "capacityBytes": 1 << 30,
        "cached": "",
        "capacity": "",
        "datasetCount": 1,
        "datasets": [of],
    }
    meta = {"apiVersion": "forebay.io/v1alpha1", "kind": "NodeCache", "metadata": {"name": node}}
    apply = ("apply", "--server-side", "--force-conflicts", "--field-manager=test", "-f", "-")
    lake.cluster.kubectl(*apply, text=json.dumps(meta))
    lake.cluster.kubectl(*apply, "--subresource=status", text=json.dumps({**meta, "status": status}))
