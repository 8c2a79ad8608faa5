"""`forebay uninstall` on a real API server, with the rights of its account; the test is the kubelet of what has to end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import yaml
from controllerlab import SMALL, Cluster, as_account
from controlplane import ControlPlane
from controlplane_kit import until

from forebay.controller.install import rights
from forebay.kube.objects import Key


class Uninstall:
    """`forebay uninstall` as its Job runs it."""

    def __init__(self, site: ControlPlane, folder: Path) -> None:
        document = yaml.safe_load(site.kubeconfig.read_text())
        endpoint, user = as_account(site.endpoint, rights.UNINSTALL), document["users"][0]["user"]
        user["as"] = endpoint.impersonate[0][1]
        user["as-groups"] = [value for header, value in endpoint.impersonate if header == "Impersonate-Group"]
        config = folder / "uninstall.kubeconfig"
        config.write_text(yaml.safe_dump(document))
        self._command = [sys.executable, "-P", "-m", "forebay.cli.main", "uninstall", f"--kubeconfig={config}"]
        self.log = folder / "uninstall.log"
        self._environment = {"PATH": os.environ["PATH"], "HOME": str(folder)}

    def start(self, seconds: int = 200) -> subprocess.Popen[bytes]:
        command = ["setpriv", "--pdeathsig", "KILL", *self._command, f"--timeout={seconds}"]
        with self.log.open("wb") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, env=self._environment)

    def run(self, cluster: Cluster, *keys: Key, seconds: int = 200) -> tuple[int, str]:
        """Exit code and words. Pods that are to end do, as kubelets have it: those of datasets `keys`."""
        return self.finish(self.start(seconds), cluster, *keys)

    def finish(self, process: subprocess.Popen[bytes], cluster: Cluster, *keys: Key) -> tuple[int, str]:
        try:
            while process.poll() is None:
                for key in keys:
                    for pod in cluster.pods(key):
                        if pod["metadata"].get("deletionTimestamp"):
                            cluster.kill(Key(key.namespace, pod["metadata"]["name"]))
                try:
                    process.wait(0.2)
                except subprocess.TimeoutExpired:
                    continue
            return process.returncode, self.log.read_text()
        finally:
            process.kill()
            process.wait()


def bound(cluster: Cluster, space: str, name: str = "d") -> Key:
    key = Key(space, name)
    cluster.apply(SMALL.replace("SPACE", space).replace("name: d,", f"name: {name},"))
    cluster.serve(key, 2)
    until(lambda: cluster.phase(key) == "Bound", 60, lambda: cluster.status(key))
    return key


def finalizers(cluster: Cluster, kind: str, key: Key) -> list[str]:
    found = cluster.read(kind, key)
    assert found is not None, f"{kind} {key} is gone"
    return found["metadata"].get("finalizers") or []
