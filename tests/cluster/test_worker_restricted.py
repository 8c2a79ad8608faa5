"""The plan's own command line, configuration and paths under what a restricted pod has: another user, no capability, a read-only
root, and directories that its node gives."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from clusterlab import random_objects, s3_store
from podlab import Planned, Volume, forebay, manifest, s3
from servers import KEY, SECRET
from workerlab import Lab, eventually

from forebay.api import places, podconfig

UID = 65532
CODE = Path(__file__).resolve().parents[2]
ADDRESS = "127.7.40.1"  # loopback of its own: the ports are the plan's
OBJECTS = random_objects({"a": 70_000, "d/b": 9_000_003})

POD = """
set -e
top=$1; code=$2; shift 2
mount --make-rprivate /
mount --bind $code /mnt
mount -t tmpfs -o mode=755 tmpfs /var/lib
mkdir /var/lib/forebay
mount --rbind $top/state /var/lib/forebay
mount -t tmpfs -o mode=755 tmpfs /etc
for name in config credentials secret orders; do
  mkdir -p /etc/forebay/$name
  mount --bind -o ro $top/$name /etc/forebay/$name
done
mount -t tmpfs -o mode=1777,size=64m tmpfs /tmp
if [ ! -e $code/pyproject.toml ]; then  # the checkout lies in what is hidden now
  mkdir -p $code
  mount --bind /mnt $code
fi
umount /mnt
mount -o remount,ro /etc
mount -o remount,ro /var/lib
mount -o remount,bind,ro /
exec "$@"
"""
CONTAINER = ["setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all",
             "--no-new-privs", "--"]  # fmt: skip


def usable() -> str:
    if os.geteuid() != 0:
        return "needs root: it makes a mount namespace and becomes another user"
    if not shutil.which("setpriv"):
        return "setpriv is not installed"
    words = [*CONTAINER, sys.executable, "-P", "-c", "import forebay.cache.podworker"]
    if subprocess.run(words, capture_output=True, timeout=60, check=False, cwd="/").returncode:
        return "another user may not read this checkout"
    return ""


pytestmark = [pytest.mark.cluster, pytest.mark.skipif(bool(usable()), reason=usable())]


class Restricted(Lab):
    """One container with its volumes below `root`."""

    def __init__(self, root: Path, planned: Planned) -> None:
        super().__init__(root / "spare", [])
        self.top, self.planned = root, planned
        self.state = root / "state"
        for name in ("run", "index", "tiers/0"):
            (self.state / name).mkdir(parents=True, mode=0o700)
            os.chown(self.state / name, UID, UID)
        (self.state / "members").mkdir()
        (self.state / "members" / "members.yaml").write_text(f"members: [{{data: '{ADDRESS}:7401', node: node-a}}]")
        (root / "orders").mkdir()
        for name, files in (
            ("config", {podconfig.FILE: podconfig.encode(planned.config)}),
            ("credentials", {"cred/id": KEY, "cred/key": SECRET}),
            ("secret", {podconfig.SECRET_KEY: "0" * 64}),
        ):
            Volume(root / name).write(files)
            for at, _, found in os.walk(root / name):  # as fsGroup has it
                for file in found:
                    if not (path := Path(at, file)).is_symlink():
                        os.chown(path, 0, UID)
                        path.chmod(0o444 if name == "config" else 0o440)
        self.door.close()
        self.door = type(self.door)(self.state / "run" / "worker.sock", role="mount")
        self.log = root / "worker.log"

    def start(self, *args: str, wait: bool = True) -> None:
        words = forebay(self.planned.command(ADDRESS, "node-a"))
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                ["unshare", "--mount", "--", "sh", "-c", POD, "pod", str(self.top), str(CODE), *CONTAINER, *words, *args],
                stderr=log, env={"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"}, cwd="/",
            )  # fmt: skip
        if wait:
            self._wait_for_it(self.process)

    def drain(self) -> subprocess.CompletedProcess[str]:
        assert self.process is not None
        words = ["nsenter", f"--target={self.process.pid}", "--mount", "--", *CONTAINER, *forebay(self.planned.drain())]
        return subprocess.run(words, capture_output=True, text=True, timeout=60, check=False, cwd="/")


@pytest.fixture
def pod(tmp_path: Path) -> Iterator[Restricted]:
    with s3_store(tmp_path, OBJECTS) as store, Restricted(tmp_path / "pod", Planned(manifest(s3(store.url)))) as found:
        yield found


def test_a_restricted_container_serves(pod: Restricted) -> None:
    pod.start()
    assert pod.process is not None
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{pod.process.pid}/status").read_text().splitlines() if ":\t" in line
    )
    assert set(status["Uid"].split()) == {str(UID)}
    assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == int(status["CapBnd"], 16) == 0
    assert status["NoNewPrivs"] == "1"
    options = {m.split()[4]: m.split()[5] for m in Path(f"/proc/{pod.process.pid}/mountinfo").read_text().splitlines()}
    assert options["/"].startswith("ro")
    for name, data in OBJECTS.items():
        assert pod.read(f"/{name}") == data
    assert pod.stats()["config"] == {
        "revision": podconfig.revision(pod.planned.config), "places": ["/"], "error": "",
        "since": pod.stats()["config"]["since"],  # type: ignore[index]
    }  # fmt: skip
    eventually(lambda: [m["node"] for m in pod.stats()["cluster"]["members"]] == ["node-a"], 60)  # type: ignore[index]

    done = pod.drain()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    (pod.state / "members" / "leaving").write_text("")
    done = pod.drain()
    assert done.returncode == 1
    assert "no other member takes the bytes" in done.stderr
    pod.stop()
    left = [p for at, _, files in os.walk(pod.state / "run") for p in files if (Path(at, p)).exists()]
    assert left == [places.SAID], "nothing with credentials, no socket"


def test_directories_that_it_may_not_write_to_are_said(pod: Restricted) -> None:
    os.chown(pod.state / "tiers" / "0", 0, 0)
    pod.start(wait=False)
    assert pod.process is not None
    assert pod.process.wait(60) == 2
    last = pod.text().splitlines()[-1]
    assert "cache directory /var/lib/forebay/tiers/0 cannot be used (Permission denied)" in last


def test_a_container_that_is_told_to_end_while_it_starts_ends() -> None:
    """The kernel ignores a signal for which process 1 has no handler, and what the programs import takes a second before theirs
    are set. Here it waits for a signal instead of importing on: ignored, that is for ever, and the wait below fails."""
    program = "import forebay.cli, signal; print(flush=True); signal.pause()"
    command = ["unshare", "--pid", "--fork", "--kill-child", sys.executable, "-P", "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd="/") as started:
        assert started.stdout is not None
        started.stdout.readline()
        (first,) = Path(f"/proc/{started.pid}/task/{started.pid}/children").read_text().split()
        os.kill(int(first), signal.SIGTERM)
        try:
            assert started.wait(60) == 128 + signal.SIGTERM
        finally:
            started.kill()
