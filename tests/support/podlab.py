"""Workers as their pods run them, without pods: the plan's own configuration and command line, volumes that are swapped as the
kubelet swaps them, one loopback address for each.

    with s3_store(tmp_path, objects) as store, PodLab(tmp_path / "pods", manifest(store.url)) as lab:
        lab.start("node-a")
        lab.apply(manifest(store.url, more))         # a new ConfigMap, and new Secrets
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec
import yaml
from servers import KEY, SECRET, ports_for
from workerlab import Lab

from forebay.api import podconfig
from forebay.api.podconfig import Config
from forebay.api.spec import Tier
from forebay.cache.peers.auth import make_secret
from forebay.runtimes import registry
from forebay.runtimes.engine import Found, Installation, Object, Subject

NOW = "2026-11-27T05:00:00Z"
META = {"namespace": "default", "uid": "00000000-0000-4000-8000-000000000001", "generation": 1, "creationTimestamp": NOW}


def manifest(*mounts: Mapping[str, Any], **annotations: str) -> Object:
    """A Dataset as the API server has it."""
    meta = {**META, "name": "lab", "annotations": {"forebay.io/free-space-floor": "0.1%", **annotations}}
    return {"apiVersion": "data.fluid.io/v1alpha1", "kind": "Dataset", "metadata": meta, "spec": {"mounts": list(mounts)}}


def s3(url: str, path: str = "/", prefix: str = "", secret: str = "cred", **options: str) -> dict[str, Any]:
    """A mount whose credentials lie in a Secret."""
    return {
        "mountPoint": f"s3://bucket/{prefix}",
        "name": (path.strip("/") or "data").replace("/", "-"),
        "path": path,
        "options": {"endpoint": url, "region": "us-east-1", "path_style": "true", **options},
        "encryptOptions": [
            {"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}}
            for name, key in (("access_key", "id"), ("secret_key", "key"))
        ],
    }


class Planned:
    """What the engine plans for a Dataset, as far as a worker's pod sees it."""

    def __init__(self, dataset: Object) -> None:
        runtime = {
            "apiVersion": "data.fluid.io/v1alpha1",
            "kind": "AlluxioRuntime",
            "metadata": {**META, "name": "lab", "uid": "00000000-0000-4000-8000-000000000002"},
            "spec": {
                "replicas": 2,
                "tieredstore": {"levels": [{"mediumtype": "SSD", "path": "/var/cache/ssd", "quota": "2Gi"}]},
            },
        }
        subject = Subject(
            dataset=dataset, runtimes=(runtime,), namespace={"metadata": {"name": "default"}},
            installation=Installation(default_engine="native"),
        )  # fmt: skip
        plan = registry.plan(subject, {"forebay": Found(fresh_secret="0" * 64)}, NOW)
        assert not [f for f in plan.findings if f.severity == "error"], plan.findings
        kinds = {o["kind"]: o for o in plan.apply}
        self.config = podconfig.decode(kinds["ConfigMap"]["data"][podconfig.FILE].encode())
        self.pod: Object = kinds["StatefulSet"]["spec"]["template"]["spec"]

    def command(self, address: str, node: str) -> list[str]:
        """The container's command line, with what the kubelet fills in."""
        (container,) = self.pod["containers"]
        words = [*container["command"], *container["args"]]
        return [w.replace("$(POD_IP)", address).replace("$(NODE_NAME)", node) for w in words]

    def drain(self) -> list[str]:
        found: list[str] = self.pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
        return found


def forebay(words: list[str]) -> list[str]:
    """A command line of an image as one of this checkout."""
    assert words[0] == "forebay"
    return [sys.executable, "-P", "-m", "forebay.cli.main", *words[1:]]


class Volume:
    """A volume of the kubelet: files are links through `..data`, which one rename turns to new contents."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.turn = 0
        folder.mkdir(parents=True)

    def write(self, files: Mapping[str, bytes | str]) -> None:
        self.turn += 1
        fresh = self.folder / f"..{self.turn:04}"
        for name, data in files.items():
            at = fresh / name
            at.parent.mkdir(parents=True, exist_ok=True)
            at.write_bytes(data.encode() if isinstance(data, str) else data)
        link = self.folder / "..data_tmp"
        link.symlink_to(fresh.name)
        link.rename(self.folder / "..data")
        for name in {n.partition("/")[0] for n in files}:
            if not (self.folder / name).is_symlink():
                (self.folder / name).symlink_to(f"..data/{name}")


class PodWorker(Lab):
    """One worker's pod below `root`: `state` is what its node gives, the rest what the kubelet mounts."""

    def __init__(self, root: Path, planned: Planned, node: str, address: str, ports: tuple[int, int], secret: Path) -> None:
        super().__init__(root / "spare", [])  # its readers and its process; the spec of a run directory is not used
        self.root, self.node_name, self.address, self.ports, self.secret = root, node, address, ports, secret
        self.state = root / "state"
        for name in ("run", "index", "tiers/0", "members"):
            (self.state / name).mkdir(parents=True)
        self.orders = root / "orders" / podconfig.LEAVING
        self.config, self.credentials = Volume(root / "config"), Volume(root / "credentials")
        self.run_dir, self.index_dir = self.state / "run", self.state / "index"
        self.door.close()
        self.door = type(self.door)(self.run_dir / "worker.sock", role="mount")
        self.log = root / "worker.log"
        self.planned = planned

    def here(self, config: Config) -> Config:
        """The plan's configuration with this directory in the place of the pod's."""
        assert config.spec.cluster is not None
        spec = msgspec.structs.replace(
            config.spec,
            tiers=[
                Tier(t.medium, str(self.state / f"tiers/{i}"), t.quota, t.high, t.low) for i, t in enumerate(config.spec.tiers)
            ],
            index_dir=str(self.index_dir),
            cluster=msgspec.structs.replace(
                config.spec.cluster, members=f"file:{self.state}/members/members.yaml", secret_file=str(self.secret)
            ),
        )
        return msgspec.structs.replace(config, spec=spec)

    def configure(self, config: Config) -> None:
        self.config.write({podconfig.FILE: podconfig.encode(self.here(config))})

    def start(self, *args: str, wait: bool = True) -> None:
        words = self.planned.command(self.address, self.node_name)
        places = {
            "--config": str(self.root / "config" / podconfig.FILE), "--credentials": str(self.root / "credentials"),
            "--run-dir": str(self.run_dir), "--data-port": str(self.ports[0]), "--control-port": str(self.ports[1]),
        }  # fmt: skip
        words = [
            f"{w.partition('=')[0]}={places.get(w.partition('=')[0], w.partition('=')[2])}" if "=" in w else w for w in words
        ]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen([*forebay(words), f"--orders={self.orders}", *args], stderr=log)
        if wait:
            self._wait_for_it(self.process)

    def drain(self) -> subprocess.CompletedProcess[str]:
        """What the kubelet calls before it ends the container."""
        words = [f"--run-dir={self.run_dir}" if w.startswith("--run-dir=") else w for w in self.planned.drain()]
        return subprocess.run(forebay(words), capture_output=True, text=True, timeout=120, check=False)

    def served(self) -> dict[str, Any]:
        found = self.stats()["config"]
        assert isinstance(found, dict)
        return found

    def cluster(self) -> dict[str, Any]:
        found = self.stats()["cluster"]
        assert isinstance(found, dict)
        return found


class PodLab:
    """Two workers' pods of one dataset."""

    def __init__(self, root: Path, dataset: Object, nodes: tuple[str, ...] = ("node-a", "node-b")) -> None:
        root.mkdir()
        secret = root / "secret"
        make_secret(str(secret))
        self.planned = Planned(dataset)
        ports = ports_for(2 * len(nodes))
        self.workers = {
            name: PodWorker(root / name, self.planned, name, "127.0.0.1", (ports[2 * i], ports[2 * i + 1]), secret)
            for i, name in enumerate(nodes)
        }
        self.secrets: dict[str, str] = {"cred/id": KEY, "cred/key": SECRET}
        for worker in self.workers.values():
            worker.credentials.write(self.secrets)
            worker.configure(self.planned.config)
        self.list(*nodes)

    def list(self, *nodes: str) -> None:
        """The member list as the nodes' plugins write it, by rename."""
        rows = [{"data": f"{w.address}:{w.ports[0]}", "node": n} for n, w in self.workers.items() if n in nodes]
        for worker in self.workers.values():
            path = worker.state / "members" / "members.yaml"
            fresh = path.with_suffix(".new")
            fresh.write_text(yaml.safe_dump({"members": rows}))
            fresh.rename(path)

    def apply(self, dataset: Object, *nodes: str) -> Config:
        """Have the kubelets of some nodes (all) bring a new configuration."""
        config = Planned(dataset).config
        for name in nodes or self.workers:
            self.workers[name].configure(config)
        return config

    def __getitem__(self, name: str) -> PodWorker:
        return self.workers[name]

    def __enter__(self) -> PodLab:
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        for worker in self.workers.values():
            worker.__exit__(kind, e, tb)


__all__ = ["NOW", "Planned", "PodLab", "PodWorker", "forebay", "manifest", "s3"]
