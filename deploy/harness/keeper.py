"""Process 1 of a cluster: starts the control plane and the nodes in namespaces of its own, and stays as long as they do.

Its death, however it comes, ends everything but cgroups and the folder: processes, mounts, links are the namespaces'. It ends
by itself when told to by the control socket, by SIGTERM, or when the `line` closes, whose other end is held by whoever
wants the cluster to live: a test for as long as it runs, `make cluster` until the cluster is ready.

Control socket and line speak lines of JSON: {"do": "stop"}, {"do": "stay"}, {"do": "power-off", "node": "node-1"},
{"do": "power-on", ...}, {"do": "cut", ...}, {"do": "mend", ...}, {"do": "kill", "part": "kube-apiserver"}; the answer is
{"done": true} or {"failed": "..."}.
"""

from __future__ import annotations

import http.client
import json
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from harness import cgroups, node, pki, plane
from harness.calls import Api, Object, Refused
from harness.layout import API_PORT, S3_PORT, Net, Place

READY = 240.0
"""Seconds until all must be ready. 9 are usual; a machine that does other things at the same time needs more."""
S3_KEY, S3_SECRET = "forebay", "forebay-secret"  # of a server that only this machine reaches
STORES = "stores"


class Failed(Exception):
    """The cluster cannot be; the sentence says why."""


class Stopped(Exception):
    """Somebody wants an end."""


class Keeper:
    """See the module. `plan`: what `cluster.py` wrote (octet, nodes, programs, flags)."""

    def __init__(self, place: Place, line: socket.socket | None) -> None:
        self.place, self.plan = place, json.loads(place.plan.read_text())
        self.net, self.programs = Net(self.plan["octet"]), self.plan["programs"]
        names = self.plan["nodes"]
        self.nodes = {name: node.Node(name, i, len(names)) for i, name in enumerate(names, 1)}
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self._flags: dict[str, list[str]] = {}
        self._line = line
        self._selector = selectors.DefaultSelector()
        self._told_to_stop = self._up = False

    # --- life ---

    def run(self) -> None:
        """Returns when the cluster is gone."""
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the terminal: whoever started us ends us in order
        began = time.monotonic()
        try:
            self._listen()
            self._start()
            self._up = True
            self._tell({"ready": round(time.monotonic() - began, 1)})
            while True:
                self._serve(0.5)
        except Stopped:
            self._stop()
            shutil.rmtree(self.place.folder, ignore_errors=True)
        except BaseException as error:  # the folder stays, with the logs, until the next start
            self._stop()
            self._tell({"failed": f"{error}" if isinstance(error, Failed) else f"the keeper: {error!r}"})
            raise

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._told_to_stop = True

    def _listen(self) -> None:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self.place.control))
        listener.listen()
        self._selector.register(listener, selectors.EVENT_READ)
        self._listener = listener
        if self._line is not None:
            self._selector.register(self._line, selectors.EVENT_READ)

    def _tell(self, what: Object) -> None:
        if self._line is None:
            return
        try:
            self._line.sendall(json.dumps(what).encode() + b"\n")
        except OSError as error:  # nobody is there any more
            raise Stopped from error

    def _serve(self, seconds: float) -> None:
        """Answers for up to `seconds`. Raises Stopped when it is time to go."""
        for key, _ in self._selector.select(seconds):
            if key.fileobj is self._listener:
                with self._listener.accept()[0] as caller:
                    caller.settimeout(5)
                    self._answer(caller)
            elif self._line is not None:
                self._answer(self._line)
        if self._told_to_stop:
            raise Stopped
        if self._up:
            self._look_after()

    def _look_after(self) -> None:
        """Reaps. A part of the control plane that ends is started again, as a machine would; a node stays off until told."""
        for name, process in list(self.running.items()):
            if process.poll() is None:
                continue
            del self.running[name]
            if name not in self.nodes:
                time.sleep(0.3)
                self._launch(name, self._flags[name])

    def _answer(self, caller: socket.socket) -> None:
        try:
            said = caller.makefile("rb").readline()
        except OSError:
            said = b""
        if not said:
            if caller is self._line:
                raise Stopped
            return
        order = json.loads(said)
        try:
            self._do(order)
            reply: Object = {"done": True}
        except (Failed, KeyError, OSError, subprocess.SubprocessError) as error:
            reply = {"failed": f"{order}: {error}"}
        try:
            caller.sendall(json.dumps(reply).encode() + b"\n")
        except OSError:
            if caller is self._line:
                raise Stopped from None
        if order["do"] == "stop":
            raise Stopped

    def _do(self, order: Object) -> None:
        what = order["do"]
        if what == "stay":
            assert self._line is not None
            self._selector.unregister(self._line)
            self._line = None
        elif what == "power-off":
            self._power_off(order["node"])
        elif what == "power-on":
            self._power_on(self.nodes[order["node"]])
        elif what in ("cut", "mend"):
            number = self.nodes[order["node"]].number
            self._ip(f"link set node{number} {'down' if what == 'cut' else 'up'}\n")
        elif what == "kill":
            self.running[order["part"]].kill()
        elif what != "stop":
            raise Failed("nobody knows how to do that")

    # --- start ---

    def _start(self) -> None:
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
        self._wait("the link to the machine", self._has_link)
        self._ip(self.net.for_cluster())
        self._sign()
        self.place.logs.mkdir(exist_ok=True)
        self._launch("etcd", plane.etcd(self.place.folder / "etcd", 2379, 2380))
        self._start_api_server()
        for each in self.nodes.values():
            self._configure(each)
            self._power_on(each)
        self._start_store()
        self._wait("kube-apiserver", lambda: self.api.there("/readyz"))
        self.place.api_ready.touch()
        self._start_manager()
        self._start_scheduler()
        self._start_names()
        self._introduce()
        self._wait("the default service account", lambda: self.api.there("/api/v1/namespaces/default/serviceaccounts/default"))
        self._wait("the nodes", lambda: self.api.ready_nodes() == set(self.nodes))

    def _has_link(self) -> bool:
        """/sys is the machine's here; the namespace's own links are told by netlink."""
        return any(name == "out0" for _, name in socket.if_nameindex())

    def _sign(self) -> None:
        folder, net = self.place.secrets, self.net
        folder.mkdir(mode=0o700, exist_ok=True)
        self.who = pki.identities(folder, ("127.0.0.1", net.bridge, net.first_service))
        server = f"https://{net.bridge}:{API_PORT}"
        pki.kubeconfig(self.place.kubeconfig, server, self.who.ca, self.who.admin, "admin")
        for name, common in (("kube-proxy", "system:kube-proxy"), ("scheduler", "system:kube-scheduler")):
            self._config(name, self.who.ca.sign(name, common))
        self._config("manager", self.who.manager)
        self._config("dns", self.who.admin)
        for each in self.nodes.values():
            hosts = (each.name, net.node(each.number))
            self._config(each.name, self.who.ca.sign(each.name, f"system:node:{each.name}", "system:nodes", hosts))
        admin = self.who.admin
        self.api = Api(net.bridge, API_PORT, self.who.ca.crt, admin.crt, admin.key)

    def _config(self, name: str, who: pki.Pair) -> None:
        path = self.place.secrets / f"{name}.kubeconfig"
        pki.kubeconfig(path, f"https://{self.net.bridge}:{API_PORT}", self.who.ca, who, name)

    def _start_api_server(self) -> None:
        flags = plane.api_server(self.who, self.place.secrets, 2379, API_PORT, self.net.services)
        self._launch("kube-apiserver", [*flags, *plane.for_nodes(self.who, self.net.bridge), *self.plan["api_flags"]])

    def _start_manager(self) -> None:
        config = self.place.secrets / "manager.kubeconfig"
        flags = plane.controller_manager(self.who, config, self.place.folder / "manager", 10257)
        self._launch("kube-controller-manager", [*flags, *plane.NODE_WATCH, *self.plan["manager_flags"]])

    def _start_scheduler(self) -> None:
        config = self.place.secrets / "scheduler.kubeconfig"
        self._launch("kube-scheduler", [*plane.scheduler(config, self.place.folder / "manager"), *self.plan["scheduler_flags"]])

    def _start_names(self) -> None:
        corefile = self.place.folder / "Corefile"
        corefile.write_text(plane.corefile(self.net.bridge, self.place.secrets / "dns.kubeconfig"))
        self._launch("coredns", ["-conf", str(corefile)])

    def _start_store(self) -> None:
        """S3 over the sub-folders of `buckets`."""
        keys = ["--access", S3_KEY, "--secret", S3_SECRET, "--access-log", str(self.place.logs / "s3-access.log")]
        counted = f"tcp sport {S3_PORT} counter name store"
        table = "table inet harness { counter store { }; chain out { type filter hook output priority 0; " + counted + "; }; }"
        self._run(["nft", "-f", "-"], table)
        self._launch("versitygw", ["--port", f"0.0.0.0:{S3_PORT}", *keys, "--keep-alive", "posix", str(self.place.buckets)])

    def _introduce(self) -> None:
        """The store has a name in the cluster: http://s3.stores.svc:9000."""
        of = {"name": "s3", "namespace": STORES}
        port = {"name": "http", "port": S3_PORT, "protocol": "TCP"}
        labels = {"kubernetes.io/service-name": "s3"}
        core, base = "/api/v1/namespaces", "/apis/discovery.k8s.io/v1"
        self.api.call("POST", core, {"metadata": {"name": STORES}})
        self.api.call("POST", f"{core}/{STORES}/services", {"metadata": of, "spec": {"ports": [port]}})
        slice_: Object = {
            "metadata": {**of, "labels": labels},
            "addressType": "IPv4",
            "ports": [port],
            "endpoints": [{"addresses": [self.net.bridge], "conditions": {"ready": True}}],
        }
        self.api.call("POST", f"{base}/namespaces/{STORES}/endpointslices", slice_)

    def _launch(self, name: str, flags: list[str]) -> None:
        self._flags[name] = flags
        with (self.place.logs / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                [self.programs[name], *flags],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.place.folder,
                env={"PATH": os.environ["PATH"], "HOME": str(self.place.folder)},
            )

    # --- nodes ---

    def _configure(self, each: node.Node) -> None:
        folder = self.place.node(each.name)
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        for name, content in node.files(each, self.net, self.place, self.plan, memory).items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(content)

    def _power_on(self, each: node.Node) -> None:
        """Starts its process 1, on the disk that it had."""
        if each.name in self.running:
            raise Failed(f"{each.name} is on")
        folder = self.place.node(each.name)
        cgroups.make(self.place.cgroup(each.name))
        (folder / "log").mkdir(exist_ok=True)
        own = ["--net", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child", "--mount-proc"]
        script = Path(__file__).with_name("node.sh")
        with (folder / "log/node.log").open("ab") as log:
            process = subprocess.Popen(
                ["unshare", *own, "bash", str(script), str(folder), str(self.place.folder)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.running[each.name] = process
        self._wait(f"process 1 of {each.name}", lambda: self._first_of(process) is not None)
        first = self._first_of(process)
        assert first is not None
        (folder / "first").write_text(str(first))
        self._ip(self.net.link_node(each.number, first))
        inside = self.net.for_node(each.number, each.count)
        self._run(["nsenter", "-t", str(first), "-n", "ip", "-batch", "-"], inside)

    @staticmethod
    def _first_of(process: subprocess.Popen[bytes]) -> int | None:
        """The node's process 1, as it is called here; None until it is in its namespaces."""
        try:
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            if children and os.readlink(f"/proc/{children[0]}/ns/net") != os.readlink("/proc/self/ns/net"):
                return int(children[0])
        except FileNotFoundError:
            pass
        return None

    def _power_off(self, name: str) -> None:
        """All at once. The cgroup is emptied, as a reboot would."""
        process = self.running.pop(name)
        first = self._first_of(process)
        if first is not None:
            os.kill(first, signal.SIGKILL)
        process.wait(30)
        cgroups.remove(self.place.cgroup(name))
        number = self.nodes[name].number
        until = time.monotonic() + 10
        while any(link == f"node{number}" for _, link in socket.if_nameindex()) and time.monotonic() < until:
            time.sleep(0.02)  # its namespace goes a moment after its processes

    # --- end ---

    def _stop(self) -> None:
        """Everything was made for the occasion: nothing is ended in order."""
        for process in self.running.values():
            first = self._first_of(process)
            os.kill(first or process.pid, signal.SIGKILL)
        for process in self.running.values():
            process.wait(30)
        cgroups.remove(self.place.cgroup(""))
        if self._has_link():
            self._ip("link del out0\n")  # the kernel would, but a moment after the last process

    # --- means ---

    def _ip(self, batch: str) -> None:
        self._run(["ip", "-batch", "-"], batch)

    @staticmethod
    def _run(command: list[str], text: str) -> None:
        done = subprocess.run(command, input=text, text=True, capture_output=True, check=False, timeout=60)
        if done.returncode:
            raise Failed(f"{' '.join(command)}: {done.stderr.strip()}")

    def _wait(self, what: str, there: Callable[[], object]) -> None:
        """Until it is there; serves meanwhile, so that nobody waits for an end in vain."""
        until = time.monotonic() + READY
        while True:
            try:
                if there():
                    return
            except (OSError, http.client.HTTPException, Refused):
                pass  # not yet
            for name, process in self.running.items():
                if process.poll() is not None:
                    raise Failed(f"{name} ended with {process.returncode}: {self._words(name)}")
            if time.monotonic() > until:
                raise Failed(f"{what}: not ready after {READY:.0f} s; the logs are in {self.place.folder}")
            self._serve(0.05)

    def _words(self, name: str) -> str:
        path = self.place.node(name) / "log/node.log" if name in self.nodes else self.place.logs / f"{name}.log"
        return path.read_bytes()[-2000:].decode("utf-8", "replace").strip() if path.exists() else ""


def main() -> int:
    folder, line = Path(sys.argv[1]), int(sys.argv[2])
    Keeper(Place(folder), socket.socket(fileno=line)).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
