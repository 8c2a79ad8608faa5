"""A node as kubelet has it, on this machine: a real driver process, real mounts, and a real worker that owns the dataset.

    with CsiLab(tmp_path) as lab:
        pod = lab.pod("reader")              # staged and published, as kubelet does it
        assert (pod / "a").read_bytes() == lab.files["a"]

The dataset is `default/lab`. What kubelet does is done by `stage`, `publish` and so on, over the driver's own socket. Everything
of the node lies below `root`; `close` ends what lives there, and says what it was.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec
from clusterlab import ClusterLab, random_objects
from workerlab import file_mount

from forebay.api.spec import encode_spec
from forebay.fuse import mounting
from forebay.fuse.csi.protocol import messages as m
from forebay.fuse.csi.protocol import rpc
from forebay.fuse.csi.protocol.attributes import EPHEMERAL, POD_NAMESPACE
from forebay.fuse.csi.protocol.proto import Empty, Message
from forebay.fuse.supervision import leftovers, rundir

SIZES = {"a": 3_000, "sub/b": 70_000, "sub/deep/c": 9, "big": 24 << 20}
CLAIM = {"forebay.io/dataset": "default/lab"}
WAIT = 60.0


def until(what: Callable[[], object], seconds: float = WAIT, said: Callable[[], object] = lambda: "") -> None:
    """Wait for a condition; the machine may be slow."""
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, said()
        time.sleep(0.05)


def capability(mode: int = m.Access.MULTI_NODE_READER_ONLY, **mount: Any) -> m.VolumeCapability:
    return m.VolumeCapability(None, m.MountVolume(**mount), m.AccessMode(int(mode)))


class CsiLab:
    """See the module. `keeper`: mounts are kept by a `forebay mounts` process of its own."""

    def __init__(self, root: Path, *, keeper: bool = False, options: tuple[str, ...] = ()) -> None:
        self.root = root
        self.kubelet = root / "kubelet"
        self.cache = root / "cache"
        self.datasets = root / "datasets"
        self.base = self.kubelet / "plugins/forebay.io"
        self.socket = str(root / "csi.sock")
        for folder in (
            self.kubelet / "plugins_registry",
            self.datasets / "default",
            root / "origin",
            root / "roots",
            root / "cluster",
        ):
            folder.mkdir(parents=True)
        self.files = random_objects(SIZES)
        for name, data in self.files.items():
            (root / "origin" / name).parent.mkdir(parents=True, exist_ok=True)
            (root / "origin" / name).write_bytes(data)
        self.cluster = ClusterLab(root / "cluster", [file_mount(root / "origin")], workers=1)
        self.secret = (root / "cluster/secret").read_text()
        self.keeper = keeper
        self.options = options
        self.driver: subprocess.Popen[bytes] | None = None
        self.holder: subprocess.Popen[bytes] | None = None
        self.write_config()

    # --- the dataset

    @property
    def config(self) -> Path:
        return self.datasets / "default/lab-forebay.json"

    def write_config(self, **spec: object) -> None:
        """What the controllers' ConfigMap has. Changed mounts reach the owner too, as they do in its pod."""
        owner = self.cluster.nodes["node-1"]
        if "mounts" in spec:
            owner.spec = msgspec.structs.replace(owner.spec, mounts=spec["mounts"])  # type: ignore[arg-type]
            rundir.replace_file(str(owner.run_dir / "spec.json"), encode_spec(owner.spec))
        made = msgspec.structs.replace(owner.spec, cluster=None, **spec)
        fresh = self.config.with_suffix(".part")
        fresh.write_bytes(msgspec.json.encode({"spec": made, "files": [{}] * len(made.mounts), "version": 1}))
        fresh.replace(self.config)
        shutil.copy(self.cluster.list_path, self.datasets / "default/svc-lab-worker.members")

    # --- processes

    def __enter__(self) -> CsiLab:
        try:
            self.cluster.start()
            if self.keeper:
                self.start_keeper()
            self.start()
        except BaseException as e:
            self._end(e)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        self._end(e)
        left = [f"{p.role} {p.pid}" for p in self._processes()] + self.mounts()
        if kind is None:
            assert not left, left

    def _end(self, e: BaseException | None) -> None:
        """All three steps, whichever of them fails; the worker that owns the dataset last."""
        with ExitStack() as ending:
            ending.callback(self.cluster.__exit__, None if e is None else type(e), e, None)
            ending.callback(self.close)
            if e is not None:
                logs = self.base.glob("run/*/*/*.log")  # looking into the mounts would wait for whoever serves them
                for log in (*self.root.glob("*.log"), *logs):
                    print(f"--- {log}\n{log.read_text()[-3000:]}")

    def start(self, *more: str) -> None:
        """A driver process; returns when it answers."""
        argv = [sys.executable, "-P", "-m", "forebay.cli.main", "csi", "--node", "n1", "--kubelet", str(self.kubelet)]
        argv += ["--endpoint", f"unix:{self.socket}", "--cache", str(self.cache), "--datasets", str(self.datasets)]
        argv += ["--tier-root", str(self.cache), "--tier-root", str(self.root / "roots"), *self.options, *more]
        if self.keeper:
            argv += ["--mounts", str(self.base / "mounts.sock")]
        with (self.root / "csi.log").open("ab") as log:
            self.driver = subprocess.Popen(argv, stderr=log, stdout=log)
        until(self._answers, said=lambda: (self.root / "csi.log").read_text()[-2000:])

    def _answers(self) -> bool:
        assert self.driver is not None
        assert self.driver.poll() is None, (self.root / "csi.log").read_text()[-2000:]
        try:
            probed = self.ask("Identity/Probe", Empty(), m.Probed)
        except rpc.Refusal:
            return False
        return probed.ready is not None and probed.ready.value

    def kill(self) -> None:
        assert self.driver is not None
        self.driver.kill()
        self.driver.wait()

    def start_keeper(self) -> None:
        argv = [
            sys.executable,
            "-P",
            "-m",
            "forebay.cli.main",
            "mounts",
            "--kubelet",
            str(self.kubelet),
            "--cache",
            str(self.cache),
            "--endpoint",
            f"unix:{self.socket}",
        ]
        with (self.root / "mounts.log").open("ab") as log:
            self.holder = subprocess.Popen(argv, stderr=log)
        until((self.base / "mounts.sock").exists)

    def kill_container(self) -> None:
        """Everything that runs in the keeper's container ends at once, by SIGKILL; nothing is told."""
        if self.holder is not None:
            self.holder.kill()
            self.holder.wait()
            (self.base / "mounts.sock").unlink()
        pids = [p.pid for p in leftovers.processes_of(str(self.run))]
        assert len(pids) >= 3, pids
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)  # none sees another die
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        until(lambda: not set(pids) & {p.pid for p in leftovers.processes_of(str(self.run))})

    @property
    def run(self) -> Path:
        return self.base / "run/default/lab"

    @property
    def mount(self) -> Path:
        return self.base / "mounts/default/lab"

    def pids(self) -> dict[str, int]:
        """Processes of the dataset's mount, by role."""
        return {p.role: p.pid for p in leftovers.processes_of(str(self.run))}

    # --- kubelet

    def ask(self, method: str, request: Message, type_: Any = Empty) -> Any:
        return rpc.ask(self.socket, f"csi.v1.{method}", request, type_, WAIT)

    def staging(self, volume: str = "v") -> str:
        path = self.kubelet / "plugins/kubernetes.io/csi/forebay.io" / hashlib.sha256(volume.encode()).hexdigest() / "globalmount"
        path.mkdir(parents=True, exist_ok=True)
        return str(path)

    def target(self, pod: str) -> str:
        path = self.kubelet / "pods" / pod / "volumes/kubernetes.io~csi/v/mount"
        path.parent.mkdir(parents=True, exist_ok=True)
        return str(path)

    def stage(self, volume: str = "v", context: dict[str, str] | None = None, **more: Any) -> None:
        """As kubelet: ABORTED is tried again."""
        fields: dict[str, Any] = {
            "volume_id": volume, "staging_target_path": self.staging(volume), "volume_capability": capability(),
            "secrets": {"secret": self.secret}, "volume_context": CLAIM if context is None else context,
        }  # fmt: skip
        self._patient("Node/NodeStageVolume", m.NodeStage(**(fields | more)))

    def publish(self, pod: str, volume: str = "v", context: dict[str, str] | None = None, **more: Any) -> Path:
        fields: dict[str, Any] = {
            "volume_id": volume, "staging_target_path": self.staging(volume), "target_path": self.target(pod),
            "volume_capability": capability(), "readonly": True, "secrets": {"secret": self.secret},
            "volume_context": CLAIM if context is None else context,
        }  # fmt: skip
        self._patient("Node/NodePublishVolume", m.NodePublish(**(fields | more)))
        return Path(self.target(pod))

    def _patient(self, method: str, request: Message) -> None:
        deadline = time.monotonic() + WAIT
        while True:
            try:
                self.ask(method, request)
            except rpc.Refusal as e:
                if e.code != "ABORTED" or time.monotonic() > deadline:
                    raise
                time.sleep(0.2)
            else:
                return

    def unpublish(self, pod: str, volume: str = "v") -> None:
        self.ask("Node/NodeUnpublishVolume", m.NodeUnpublish(volume, self.target(pod)))

    def unstage(self, volume: str = "v") -> None:
        self.ask("Node/NodeUnstageVolume", m.NodeUnstage(volume, self.staging(volume)))

    def pod(self, pod: str) -> Path:
        self.stage()
        return self.publish(pod)

    def inline(self, pod: str, context: dict[str, str], namespace: str = "default", **more: Any) -> Path:
        """An inline volume of a pod."""
        info = {EPHEMERAL: "true", POD_NAMESPACE: namespace}
        return self.publish(pod, f"csi-{pod}", {**context, **info}, staging_target_path="", readonly=False, secrets={}, **more)

    # --- what is there

    def mounts(self) -> list[str]:
        """Mount points below the root, in mount order."""
        return [e.path for e in mounting.entries() if e.path.startswith(f"{self.root}/")]

    def _processes(self) -> list[leftovers.Process]:
        """Of every dataset that a test mounted."""
        runs = {self.run, *self.base.glob("run/*/*")}
        return [p for run in sorted(runs) for p in leftovers.processes_of(str(run))]

    def close(self) -> None:
        """End everything, the mounts that live on by design included, whatever state a failed test left it in."""
        started = [p for p in (self.driver, self.holder) if p is not None and p.poll() is None]
        for pid in (*(p.pid for p in started), *(p.pid for p in self._processes())):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)  # a test may have stopped it, and one waits for another
        for process in started:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(WAIT)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
        for _ in range(3):  # one that was being started meanwhile
            leftovers.end(self._processes())
        for path in reversed(self.mounts()):
            mounting.umount(path, lazy=True)


class Readers:
    """Threads that read whole files of a pod again and again, and hold one open; what went wrong is in `errors`."""

    def __init__(self, pod: Path, files: dict[str, bytes], count: int = 6) -> None:
        self.errors: list[str] = []
        self.rounds = [0] * count
        self._pod = pod
        self._files = files
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._read, args=(i,), daemon=True) for i in range(count)]

    def __enter__(self) -> Readers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(WAIT)
            assert not thread.is_alive(), "a reader hangs"

    def progress(self, rounds: int = 2) -> None:
        """Until each has read all of it so many times more."""
        before = list(self.rounds)
        until(lambda: all(now >= was + rounds for now, was in zip(self.rounds, before, strict=True)), said=lambda: self.errors)

    def _read(self, number: int) -> None:
        try:
            with open(self._pod / "big", "rb") as kept:
                while not self._stop.is_set():
                    for name, data in self._files.items():
                        if (self._pod / name).read_bytes() != data:
                            self.errors.append(f"{name} differs")
                    kept.seek(number << 20)
                    if kept.read(4096) != self._files["big"][number << 20 : (number << 20) + 4096]:
                        self.errors.append("the open file differs")
                    self.rounds[number] += 1
        except OSError as e:
            self.errors.append(f"reader {number}: {e}")
