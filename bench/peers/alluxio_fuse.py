"""Alluxio 2.9.3: master, worker and FUSE as three JVMs, out of Maven artifacts."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import stores
from peers.base import Peer


class Alluxio(Peer):
    name = "alluxio"
    ttl = "client metadata 1 day, kernel 1 h"
    keeps_pages = True
    jvm = True

    @classmethod
    def missing(cls, build: Path) -> str | None:
        if not shutil.which("java"):
            return "apt-get install default-jre-headless"
        return (
            None if any((build / "alluxio/lib").glob("alluxio-integration-fuse-*.jar")) else "mvn could not fetch its artifacts"
        )

    def properties(self) -> dict[str, str]:
        cache, tier = self.place.cache, "alluxio.worker.tieredstore.level0"
        hosts = {f"alluxio.{who}.hostname": "127.0.0.1" for who in ("master", "worker", "user")}
        doors = ("master.rpc", "master.web", "worker.rpc", "worker.web")
        ports = {f"alluxio.{door}.port": str(port) for door, port in zip(doors, self.ports, strict=True)}
        return {
            **hosts,
            **ports,
            "alluxio.home": str(self.place.folder),
            "alluxio.logs.dir": str(self.place.folder / "logs"),
            "alluxio.master.journal.type": "UFS",
            "alluxio.master.journal.folder": str(cache / "journal"),
            "alluxio.master.metastore.dir": str(cache / "metastore"),
            "alluxio.master.update.check.enabled": "false",
            "alluxio.master.mount.table.root.ufs": f"s3://{self.bucket}/",
            "alluxio.master.mount.table.root.readonly": "true",
            "s3a.accessKeyId": self.store.key,
            "s3a.secretKey": self.store.secret,
            "alluxio.underfs.s3.endpoint": self.store.url,
            "alluxio.underfs.s3.endpoint.region": "us-east-1",
            "alluxio.underfs.s3.disable.dns.buckets": "true",
            "alluxio.underfs.s3.inherit.acl": "false",
            "alluxio.worker.tieredstore.levels": "1",
            f"{tier}.alias": "SSD",
            f"{tier}.dirs.path": str(cache / "blocks"),
            f"{tier}.dirs.quota": "20GB",
            "alluxio.user.file.readtype.default": "CACHE",
            "alluxio.user.short.circuit.enabled": "true",
            "alluxio.user.metadata.cache.enabled": "true",
            "alluxio.user.metadata.cache.max.size": "1000000",
            "alluxio.user.metadata.cache.expiration.time": "1day",
            "alluxio.user.file.metadata.sync.interval": "-1",
            "alluxio.fuse.jnifuse.libfuse.version": "2",
        }

    def java(self, heap: str, main: str, *args: str) -> list[str]:
        settings = [f"-D{k}={v}" for k, v in self.properties().items()]
        return ["java", f"-Xmx{heap}", "-cp", f"{self.place.build}/alluxio/lib/*", *settings, main, *args]

    def command(self) -> list[str]:
        options = "kernel_cache,entry_timeout=3600,attr_timeout=3600,max_read=131072,allow_other,ro"
        mount = ("--mount-point", str(self.place.dir), "--alluxio-path", "/", "-o", options)
        return self.java("4g", "alluxio.fuse.AlluxioFuse", *mount)

    # Master and worker are services: they outlive a remount, and restart where the cache is emptied.

    def prepare(self, plain: Path) -> None:
        self.ports = [stores.free_port() for _ in range(4)]
        self.services: list[subprocess.Popen[bytes]] = []
        self._start()

    @property
    def service_token(self) -> str:
        return f"{self.place.token}.service"

    def _start(self) -> None:
        (self.place.cache / "blocks").mkdir(parents=True, exist_ok=True)
        done = stores.launch(
            self.java("1g", "alluxio.cli.Format", "master"), self.service_token, self.place.log, self.environment()
        )
        if done.wait(90):
            raise RuntimeError(f"alluxio format failed: {self.tail()}")
        for main, port in (("alluxio.master.AlluxioMaster", self.ports[0]), ("alluxio.worker.AlluxioWorker", self.ports[2])):
            service = stores.launch(self.java("2g", main), self.service_token, self.place.log, self.environment())
            self.services.append(service)
            stores.wait_port("127.0.0.1", port, service, 90)

    def _stop(self) -> None:
        for service in reversed(self.services):
            stores.stop(service)
        self.services.clear()

    def forget(self) -> None:
        self._stop()
        super().forget()
        self._start()

    def finish(self) -> None:
        self._stop()
