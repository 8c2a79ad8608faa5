"""What tests with real kubelets share: pods of our image, waiting for what they become."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from typing import Any

from harness.cluster import Cluster
from harness.machine import ClusterError

from forebay.kube.config import from_files
from forebay.kube.errors import Unreachable
from forebay.kube.transport import Transport

PATIENCE = 120.0
"""Seconds for anything that a healthy cluster does. 1 to 3 are usual."""


def until(condition: Callable[[], object], what: str, seconds: float = PATIENCE) -> None:
    """Polls. Raises with `what` when it does not hold in time. An API server or a kubelet that is too busy to answer is asked
    again: what it said last stands in the sentence."""
    end = time.monotonic() + seconds
    while True:
        refused = ""
        try:
            if condition():
                return
        except ClusterError as error:
            refused = f" ({error})"
        assert time.monotonic() < end, f"not after {seconds:.0f} s: {what}{refused}"
        time.sleep(0.1)


def pod(name: str, command: Sequence[str], *, node: str = "", image: str = "forebay:dev", **more: Any) -> dict[str, Any]:
    """A pod of the restricted profile that runs once. `more`: further fields of its spec."""
    container: dict[str, Any] = {
        "name": "main",
        "image": image,
        "imagePullPolicy": "Never",
        "command": list(command),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }
    if image.startswith("busybox"):
        container["securityContext"]["runAsUser"] = 65532
    spec: dict[str, Any] = {"restartPolicy": "Never", "terminationGracePeriodSeconds": 0, "containers": [container], **more}
    if node:
        spec["nodeSelector"] = {"kubernetes.io/hostname": node}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


class Pods:
    """The pods of one namespace."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self.cluster, self.namespace = cluster, namespace

    def kubectl(self, *arguments: str, text: str | None = None, check: bool = True) -> str:
        """In the namespace."""
        return self.cluster.kubectl("-n", self.namespace, *arguments, text=text, check=check)

    def apply(self, thing: dict[str, Any]) -> None:
        self.kubectl("apply", "-f", "-", text=json.dumps(thing))

    def delete(self, *what: str) -> None:
        """Returns when it is gone."""
        self.kubectl("delete", *what, "--timeout=100s")

    def read(self, path: str) -> bytes:
        """What the API server has below the namespace. Waiting asks ten times a second: a kubectl each time is 80 ms of a core
        that pods want, this is 5. Raises ClusterError."""
        where = path.replace("NAMESPACE", f"namespaces/{self.namespace}")
        try:
            answer = Transport(from_files([self.cluster.place.kubeconfig]), kept=0).request("GET", where, deadline=60)
        except Unreachable as error:
            raise ClusterError(str(error)) from None
        if answer.code != 200:
            raise ClusterError(f"GET {where}: {answer.code}: {answer.body.decode('utf-8', 'replace')}")
        return answer.body

    def get(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.read(f"/api/v1/NAMESPACE/pods/{name}"))
        return found

    def phase(self, name: str) -> str:
        return str(self.get(name)["status"].get("phase"))

    def log(self, name: str) -> str:
        return self.read(f"/api/v1/NAMESPACE/pods/{name}/log").decode("utf-8", "replace")

    def run(self, thing: dict[str, Any]) -> str:
        """What a pod that runs once says. Raises with its words and events when it fails."""
        name = thing["metadata"]["name"]
        self.apply(thing)
        try:
            until(lambda: self.phase(name) in ("Succeeded", "Failed"), f"pod {name} has not ended")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.trouble(name)}") from None
        assert self.phase(name) == "Succeeded", self.trouble(name)
        return self.log(name)

    def running(self, thing: dict[str, Any]) -> None:
        """Starts a pod that stays, and returns when it is ready."""
        name = thing["metadata"]["name"]
        self.apply(thing)
        try:
            until(lambda: self.is_ready(name), f"pod {name} is not ready")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.trouble(name)}") from None

    def is_ready(self, name: str) -> bool:
        conditions = self.get(name)["status"].get("conditions", [])
        return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)

    def exec(self, name: str, *command: str) -> str:
        return self.kubectl("exec", name, "--", *command)

    def restarts(self, name: str) -> int:
        return sum(each["restartCount"] for each in self.get(name)["status"].get("containerStatuses", []))

    def trouble(self, name: str) -> str:
        """What one wants to know of a pod that went wrong."""
        said = self.kubectl("logs", name, check=False)
        return f"{self.kubectl('describe', 'pod', name, check=False)}\nlog: {said[-2000:]}"
