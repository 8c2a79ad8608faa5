"""A real Kubernetes on this machine: control plane, nodes with kubelet and containerd, an S3 server, our image.

    make cluster            # for people: __main__.py
    make cluster-down

    with Cluster("mine") as cluster:              # ends with the test, however that ends
        cluster.kubectl("get", "nodes")
        cluster.run("node-1", ["mount"])

Nothing of it is on the machine itself but one link with one route, the nodes' cgroups, and the folder
`/var/tmp/forebay-clusters/NAME`. Names are lower-case letters and digits. Several clusters may run at once. Needs root.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from harness import build, image, machine
from harness.keeper import S3_KEY, S3_SECRET
from harness.layout import API_PORT, S3_PORT, Net, Place
from harness.machine import ClusterError

PROGRAMS = (
    *("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubelet", "kubectl"),
    *("coredns", "versitygw", "containerd", "ctr", "containerd-shim-runc-v2", "runc", "cni", "busybox", "pause"),
)


class Cluster:
    """See the module. `base`: the folder that clusters are in; flags are added to the programs'."""

    def __init__(
        self,
        name: str = "dev",
        *,
        nodes: int = 2,
        base: Path = machine.BASE,
        api_flags: Sequence[str] = (),
        manager_flags: Sequence[str] = (),
        scheduler_flags: Sequence[str] = (),
    ) -> None:
        if not re.fullmatch(r"[a-z0-9]{1,16}", name):
            raise ClusterError(f"cluster name {name!r}: wants 1 to 16 lower-case letters and digits")
        self.place, self.nodes = Place(base / name), [f"node-{i}" for i in range(1, nodes + 1)]
        self._flags = {"api_flags": [*api_flags], "manager_flags": [*manager_flags], "scheduler_flags": [*scheduler_flags]}
        self._line: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self.took = 0.0
        """Seconds that the start took, images included."""

    # --- life ---

    def __enter__(self) -> Cluster:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    @property
    def alive(self) -> bool:
        """Whether it is there, whoever started it."""
        return machine.alive(self.place)

    def start(self) -> None:
        """Returns when nodes are Ready and images are there. Clears what an aborted run left. Raises ClusterError."""
        machine.check()
        programs = _programs()
        began = time.monotonic()
        machine.wait_until(lambda: self.alive or not machine.held(self.place), machine.ENDING, f"{self.place.lock} stays held")
        machine.clear(self.place.folder.parent)
        with machine.claimed(self.place, self.nodes, programs, self._flags) as lock:
            _write_images(self.place, programs)
            try:
                self._launch(lock)
            except BaseException:
                self._abandon()
                raise
        self.took = time.monotonic() - began

    def stay(self) -> None:
        """The cluster lives on after this process."""
        assert self._line is not None
        self._say(self._line, {"do": "stay"})
        self._line.close()
        self._line = None

    def stop(self) -> None:
        """Ends it, whoever started it; nothing is left. Not there: nothing happens."""
        if self.alive:
            try:
                self.order("stop")
            except ClusterError:
                self._kill()  # it does not answer any more
            machine.wait_until(
                lambda: not machine.held(self.place), machine.ENDING, f"the keeper of {self.place.folder} does not end"
            )
        if self._line is not None:
            self._line.close()
            self._line = None
        if self._process is not None:
            self._process.wait(machine.ENDING)
            self._process = None
        machine.clear(self.place.folder.parent)

    def _launch(self, lock: IO[str]) -> None:
        ours, theirs = socket.socketpair()
        own = ["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        program = [sys.executable, "-P", "-m", "harness.keeper", str(self.place.folder), str(theirs.fileno())]
        environment = dict(os.environ) | {"PYTHONPATH": str(Path(__file__).resolve().parents[1])}
        with (self.place.folder / "keeper.log").open("ab") as log, theirs:
            self._process = subprocess.Popen(
                ["unshare", *own, *program],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                pass_fds=(theirs.fileno(), lock.fileno()),
                start_new_session=True,  # ^C is for us; we end it in order
            )
        self._line = ours
        pid = _child(self._process.pid)
        (self.place.folder / "keeper").write_text(str(pid))
        machine.ip(self.net.for_machine(pid))
        said = self._hear(ours)
        if "failed" in said:
            raise ClusterError(f"{said['failed']} (logs: {self.place.folder})")

    def _abandon(self) -> None:
        """A start that failed: the keeper sees the line close, and ends all that it had begun."""
        if self._line is not None:
            self._line.close()
            self._line = None
        if self._process is not None:
            try:
                self._process.wait(machine.ENDING)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(machine.ENDING)
            self._process = None

    def _kill(self) -> None:
        os.kill(self.keeper, signal.SIGKILL)

    # --- orders ---

    def order(self, what: str, **more: str) -> None:
        """Tells the keeper; see there. Raises ClusterError where it says no or is not there."""
        with socket.socket(socket.AF_UNIX) as caller:
            caller.settimeout(120)
            try:
                caller.connect(str(self.place.control))
                said = self._say(caller, {"do": what, **more})
            except OSError as error:
                raise ClusterError(f"{self.place.control}: {error.strerror or error}; `make cluster` starts one") from None
        if "failed" in said:
            raise ClusterError(said["failed"])

    def _say(self, line: socket.socket, what: dict[str, Any]) -> dict[str, Any]:
        line.sendall(json.dumps(what).encode() + b"\n")
        return self._hear(line)

    def _hear(self, line: socket.socket) -> dict[str, Any]:
        said = line.makefile("rb").readline()
        if not said:
            log = self.place.folder / "keeper.log"
            words = log.read_bytes()[-2000:].decode("utf-8", "replace") if log.exists() else ""
            raise ClusterError(f"the keeper of {self.place.folder} ended: {words.strip()}")
        heard: dict[str, Any] = json.loads(said)
        return heard

    def power_off(self, node: str) -> None:
        """As if its plug were pulled."""
        self.order("power-off", node=node)

    def power_on(self, node: str) -> None:
        """With the disk that it had."""
        self.order("power-on", node=node)

    def cut(self, node: str) -> None:
        """Its link is down, it goes on by itself."""
        self.order("cut", node=node)

    def mend(self, node: str) -> None:
        self.order("mend", node=node)

    def kill(self, node: str, part: str) -> None:
        """SIGKILL to `kubelet`, `containerd` or `kube-proxy` of a node; it is started again unless `hold` says no."""
        pid = (self.place.node(node) / "pid" / part).read_text().strip()
        self.run(node, ["kill", "-9", pid])

    def kill_plane(self, part: str) -> None:
        """SIGKILL to a program of the control plane (`etcd`, `kube-apiserver`, ...) or `versitygw`; it is started again."""
        self.order("kill", part=part)

    def hold(self, node: str, part: str, held: bool = True) -> None:
        """Whether a part of a node that ends stays ended."""
        mark = self.place.node(node) / "hold" / part
        mark.touch() if held else mark.unlink(missing_ok=True)

    # --- looking ---

    @property
    def net(self) -> Net:
        return Net(json.loads(self.place.plan.read_text())["octet"])

    @property
    def keeper(self) -> int:
        """The process id of its process 1, as the machine counts."""
        return int((self.place.folder / "keeper").read_text())

    @property
    def server(self) -> str:
        return f"https://{self.net.bridge}:{API_PORT}"

    @property
    def store(self) -> str:
        """The S3 server's URL, for this machine and for pods; in pods it is http://s3.stores.svc:9000 too."""
        return f"http://{self.net.bridge}:{S3_PORT}"

    def s3(self, url: str = "") -> Any:
        """A boto3 client of the store; under another `url` for what is signed here and used there."""
        import boto3
        from botocore.config import Config

        own = {"aws_access_key_id": S3_KEY, "aws_secret_access_key": S3_SECRET, "region_name": "us-east-1"}
        config = Config(s3={"addressing_style": "path"}, signature_version="s3v4")  # it signs URLs the old way by itself
        return boto3.client("s3", endpoint_url=url or self.store, config=config, **own)

    def store_sent(self) -> int:
        """Bytes that the store has sent, headers included: its access log names none for objects."""
        listed = self._inside_keeper("nft", "-j", "list", "counter", "inet", "harness", "store")
        sent: int = json.loads(listed)["nftables"][1]["counter"]["bytes"]
        return sent

    def _inside_keeper(self, *command: str) -> str:
        prefix = ["nsenter", "-t", str(self.keeper), "-m", "-n", "-p"]
        done = subprocess.run([*prefix, *command], capture_output=True, text=True, check=False, timeout=120)
        if done.returncode:
            raise ClusterError(f"{' '.join(command)}: exit {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def kubectl(self, *arguments: str, text: str | None = None, check: bool = True, seconds: float = 120) -> str:
        """What kubectl prints. Raises ClusterError with its words."""
        done = subprocess.run(
            [str(build.place("kubectl")), f"--kubeconfig={self.place.kubeconfig}", *arguments],
            input=text,
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds,
        )
        if check and done.returncode:
            raise ClusterError(f"kubectl {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def run(self, node: str, command: Sequence[str], check: bool = True) -> str:
        """What a command prints that runs on a node, with the machine's programs. Raises ClusterError with its words."""
        done = subprocess.run([*self.inside(node), *command], capture_output=True, text=True, check=False, timeout=120)
        if check and done.returncode:
            raise ClusterError(f"{node}: {' '.join(command)}: exit {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def inside(self, node: str) -> list[str]:
        """What a command is prefixed with to run on a node."""
        first = (self.place.node(node) / "first").read_text()
        return ["nsenter", "-t", str(self.keeper), "-m", "-n", "-p", "nsenter", "-t", first, "-m", "-n", "-p", "-u", "-i"]

    def root_of(self, node: str) -> Path:
        """The files of a node, its mounts included."""
        first = (self.place.node(node) / "first").read_text()
        for holder in machine.children(self.keeper):
            for each in machine.children(holder):
                if first in Path(f"/proc/{each}/status").read_text().partition("NSpid:")[2].split("\n")[0].split()[1:-1]:
                    return Path(f"/proc/{each}/root")
        raise ClusterError(f"{node} is off")

    def processes(self, node: str, words: str) -> list[int]:
        """Numbers, as the node counts, of the processes on it whose command line has `words`, those of its pods included."""
        found = []
        for each in (self.root_of(node) / "proc").glob("[0-9]*/cmdline"):
            try:
                line = each.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
            except (FileNotFoundError, ProcessLookupError):
                continue  # it has just ended
            if words in line:
                found.append(int(each.parent.name))
        return found

    def load(self, archive: Path) -> None:
        """Imports a docker-archive on every node."""
        for node in self.nodes:
            self.run(node, [str(build.place("ctr")), "-n", "k8s.io", "images", "import", str(archive)])

    def load_forebay(self) -> None:
        """The working tree's image, as it is now."""
        image.forebay(self.place.images / "2-forebay.tar")
        self.load(self.place.images / "2-forebay.tar")


def _programs() -> dict[str, str]:
    try:
        return {name: str(path) for name, path in build.get(list(PROGRAMS)).items()}
    except build.BuildError as error:
        raise ClusterError(str(error)) from None


def _write_images(place: Place, programs: dict[str, str]) -> None:
    """In the order in which nodes load them."""
    busybox = Path(programs["busybox"])
    applets = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True, timeout=120).stdout.split()
    image.small(place.images / "1-pause.tar", "pause:dev", Path(programs["pause"]))
    image.forebay(place.images / "2-forebay.tar")
    image.small(place.images / "3-busybox.tar", "busybox:dev", busybox, applets)


def _child(pid: int) -> int:
    """The process that `unshare` forked, once there is one."""
    machine.wait_until(lambda: machine.children(pid), 30, "unshare started nothing")
    return machine.children(pid)[0]
