"""A real control plane for tests: etcd, API server, controller manager, as processes on loopback that end with the test.

    with ControlPlane(folder) as plane:            # ready in seconds, once the programs are built (deploy/harness)
        transport = Transport(plane.endpoint)      # as an administrator
        plane.kill_api_server(); plane.start_api_server()

Its own authority, ports and folder: several may run at once. Nothing is left behind, whatever way the test ends: the
processes are told by the kernel to end with the thread that started them.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from harness import pki, plane
from servers import free_port

from forebay.kube.config import Endpoint
from forebay.kube.errors import Unreachable
from forebay.kube.transport import Transport

BUILD = Path(__file__).resolve().parents[2] / "deploy" / "harness" / "build.py"
PROGRAMS = ("etcd", "kube-apiserver", "kube-controller-manager")
READY = 240.0
"""Seconds until the API server must be ready. 2 s are usual; a machine that runs other tests needs more."""
SERVICES = "10.96.0.0/16"


def programs(names: Sequence[str] = PROGRAMS) -> dict[str, str]:
    """Paths of the programs; builds what is missing, which takes minutes the first time."""
    done = subprocess.run([sys.executable, "-P", str(BUILD), *names], stdout=subprocess.PIPE, check=False, text=True)
    if done.returncode:
        raise RuntimeError(f"{BUILD.name} could not build {', '.join(names)}; its words are above")
    found: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return found


def _post(url: str, body: dict[str, Any]) -> dict[str, Any]:
    with urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode()), timeout=10) as answer:
        said: dict[str, Any] = json.load(answer)
        return said


class ControlPlane:
    """See the module. `api_flags`, `manager_flags`: added to the programs'; `controllers` False: without the manager,
    until `start_controllers`."""

    def __init__(
        self, folder: Path, *, api_flags: Sequence[str] = (), manager_flags: Sequence[str] = (), controllers: bool = True
    ) -> None:
        self.folder = folder
        self._paths = programs(PROGRAMS if controllers or manager_flags else PROGRAMS[:2])
        self._api_flags, self._manager_flags, self._controllers = list(api_flags), list(manager_flags), controllers
        self._etcd_port, self._peer_port, self._api_port = free_port(), free_port(), free_port()
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        folder.mkdir(parents=True, exist_ok=True)
        self._who = pki.identities(folder, ("127.0.0.1", "10.96.0.1"))
        self.endpoint = self._endpoint(self._who.admin)
        self.kubeconfig = self._kubeconfig("admin", self._who.admin)

    # --- life ---

    def __enter__(self) -> ControlPlane:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def start(self) -> None:
        """All of it, until the API server and the default service account are there."""
        self._start_etcd()
        self.start_api_server()
        if self._controllers:
            self.start_controllers()

    def start_controllers(self) -> None:
        """The manager, which may be kept from starting first (`controllers` False): kinds that are installed before it starts
        its garbage collector knows from the beginning. Others it looks for every 30 s, and what they own stays until then."""
        self._start_manager()
        self._wait_for_account()

    def stop(self) -> None:
        """Ends everything and removes the folder; the last process first. Not in order, since nothing is kept: an API server
        would wait 5 s for its watches."""
        for name in reversed(list(self._running)):
            self._end(name, signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)

    def kill_api_server(self) -> None:
        """As a power cut would: no connection is ended in order."""
        self._end("kube-apiserver", signal.SIGKILL)

    def stop_api_server(self) -> None:
        """In order, as in an upgrade."""
        self._end("kube-apiserver", signal.SIGTERM)

    def start_api_server(self) -> None:
        """Returns when it is ready."""
        self._launch("kube-apiserver", self._api_server_flags())
        self._wait_ready()

    def compact(self) -> None:
        """etcd forgets all versions but the newest: what the API server does every five minutes with those that are older."""
        base = f"http://127.0.0.1:{self._etcd_port}/v3/kv"
        head = _post(f"{base}/range", {"key": base64.b64encode(b"/registry").decode()})
        _post(f"{base}/compaction", {"revision": head["header"]["revision"], "physical": True})

    # --- the programs ---

    def _start_etcd(self) -> None:
        self._launch("etcd", plane.etcd(self.folder / "etcd", self._etcd_port, self._peer_port))

    def _api_server_flags(self) -> list[str]:
        return [
            *plane.api_server(self._who, self.folder, self._etcd_port, self._api_port, SERVICES),
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            "--endpoint-reconciler-type=none",  # nothing runs in this cluster that could reach 127.0.0.1
            *self._api_flags,
        ]

    def _start_manager(self) -> None:
        """Only after the API server is ready: before, it ends for good."""
        config = self._kubeconfig("controller-manager", self._who.manager)
        flags = plane.controller_manager(self._who, config, self.folder, free_port())
        self._launch("kube-controller-manager", [*flags, *self._manager_flags])

    def _launch(self, name: str, flags: list[str]) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self._running[name] = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", self._paths[name], *flags],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env={"PATH": os.environ["PATH"], "HOME": str(self.folder)},
            )

    def _end(self, name: str, how: signal.Signals) -> None:
        process = self._running.pop(name, None)
        if process is None:
            return
        process.send_signal(how)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:  # an API server waits for its watches
            process.kill()
            process.wait(60)

    def words(self, name: str) -> str:
        """The end of a program's log."""
        path = self.folder / f"{name}.log"
        return path.read_bytes()[-3000:].decode("utf-8", "replace") if path.exists() else ""

    # --- waiting ---

    def _wait_ready(self) -> None:
        transport = Transport(self.endpoint)
        try:
            self._poll("kube-apiserver", lambda: transport.request("GET", "/readyz", deadline=5).code == 200)
        finally:
            transport.close()

    def _wait_for_account(self) -> None:
        """Pods are refused in a namespace without it."""
        transport = Transport(self.endpoint)
        path = "/api/v1/namespaces/default/serviceaccounts/default"
        try:
            self._poll("kube-controller-manager", lambda: transport.request("GET", path, deadline=5).code == 200)
        finally:
            transport.close()

    def _poll(self, name: str, there: object) -> None:
        assert callable(there)
        until = time.monotonic() + READY
        while True:
            for each, process in self._running.items():
                if process.poll() is not None:
                    raise RuntimeError(f"{each} ended with {process.returncode}: {self.words(each)}")
            try:
                if there():
                    return
            except Unreachable:
                pass  # it does not listen yet
            if time.monotonic() > until:
                raise RuntimeError(f"{name} is not ready after {READY:.0f} s: {self.words(name)}")
            time.sleep(0.02)

    # --- who is who ---

    def user(self, common: str, organisation: str = "") -> Endpoint:
        """As another user, who may do what RBAC says."""
        return self._endpoint(self._who.ca.sign(f"user-{common}", common, organisation))

    def _endpoint(self, who: pki.Pair) -> Endpoint:
        return Endpoint(
            server=f"https://127.0.0.1:{self._api_port}",
            ca=self._who.ca.crt.read_bytes(),
            certificate=who.crt.read_bytes(),
            key=who.key.read_bytes(),
        )

    def _kubeconfig(self, name: str, who: pki.Pair) -> Path:
        path = self.folder / f"{name}.kubeconfig"
        return pki.kubeconfig(path, f"https://127.0.0.1:{self._api_port}", self._who.ca, who, name)
