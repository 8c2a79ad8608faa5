"""A scheduler that runs on a real API server is recorded, as a process, and all that it decided is decided again elsewhere."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from controlplane import ControlPlane
from controlplane_kit import until
from schedulerlab import PATIENCE, Site, live_plane, live_site
from servers import free_port

from forebay.kube.objects import Key
from forebay.kube.resources import NODES, PODS

pytestmark = pytest.mark.timeout(300)

FOREBAY = [sys.executable, "-P", "-c", "from forebay.cli.main import main; main()"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with live_plane(tmp_path_factory.mktemp("journal")) as plane:
        yield plane


@pytest.fixture
def site(world: ControlPlane) -> Iterator[Site]:
    yield from live_site(world)


def test_a_live_run_is_decided_again_to_the_byte(world: ControlPlane, site: Site, tmp_path: Path) -> None:
    first = site.node(cpu="4", **{"aliyun.com/gpu-mem": "30", "aliyun.com/gpu-count": "2"})
    site.client.merge(NODES, Key("", first), {"metadata": {"labels": {"ack.node.gpu.schedule": "cgpu"}}})
    settings, log, journal = tmp_path / "s.yaml", tmp_path / "log", tmp_path / "journal.jsonl.gz"
    settings.write_text("backoff: {firstSeconds: 0.2}\n")
    command = [*FOREBAY, "scheduler", "run", "--no-leader-elect", f"--kubeconfig={world.kubeconfig}", f"--config={settings}"]
    command += [f"--listen=127.0.0.1:{free_port()}", f"--record={journal}"]
    with log.open("wb") as out:
        process = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *command], stdout=out, stderr=out)
    try:
        shares = [site.pod(f"share{n}", limits={"aliyun.com/gpu-mem": "8"}) for n in range(2)]
        site.all_bound(shares)
        gang = site.gang("train", 3, 3)
        site.waits(gang[0], "at once")
        second = site.node(cpu="2")
        site.all_bound(gang)
        settings.write_text("policy: packing\nbackoff: {firstSeconds: 0.2}\n")
        until(lambda: "settings read anew" in log.read_text(), PATIENCE, log.read_text)
        urgent = site.pod("urgent", cpu="2", priorityClassName="system-cluster-critical")
        until(lambda: site.where([urgent])[0] or any(map(site.gone_or_leaving, [*shares, *gang])), PATIENCE)
        for key in gang:
            site.client.delete(PODS, key, grace=0)
        site.all_bound([urgent])
        site.client.delete(NODES, Key("", second))
        site.nodes.remove(second)
        late = site.pod("late", cpu="9")
        site.waits(late, "too small for cpu")
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, log.read_text()[-3000:]
    finally:
        process.kill()
        process.wait()
    said = json.loads(replayed(journal, "-o", "json").stdout)
    assert said["different"] == []
    assert said["said"]["Bind"] >= 6
    assert said["said"]["Tell"] >= 2
    assert b"decide the same, byte for byte" in replayed(journal).stderr


def replayed(journal: Path, *more: str) -> subprocess.CompletedProcess[bytes]:
    """By another process, whose sets have another order."""
    environment = {**os.environ, "PYTHONHASHSEED": "3"}
    command = [*FOREBAY, "scheduler", "replay", str(journal), *more]
    done = subprocess.run(command, env=environment, capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done
