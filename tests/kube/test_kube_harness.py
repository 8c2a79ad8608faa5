"""The control plane of the tests itself: quick to start, and gone without a trace however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from controlplane import ControlPlane, programs
from controlplane_kit import until

from forebay.kube.transport import Transport

SUPPORT = Path(__file__).resolve().parents[1] / "support"
DEPLOY = Path(__file__).parents[2] / "deploy"


def processes(folder: Path) -> list[str]:
    """Command lines of living processes that name `folder`."""
    out = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or entry.name == str(os.getpid()):
            continue
        try:
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
            state = (entry / "stat").read_text().rsplit(")", 1)[1].split()[0]
        except (OSError, IndexError):
            continue  # it ended meanwhile
        if str(folder) in line and state != "Z":
            out.append(line[:100])
    return out


def test_it_becomes_ready_and_leaves_nothing(tmp_path: Path) -> None:
    programs()
    folder = tmp_path / "plane"
    began = time.monotonic()
    with ControlPlane(folder) as plane:
        took = time.monotonic() - began
        assert Transport(plane.endpoint).request("GET", "/version").code == 200
        assert len(processes(folder)) >= 2  # etcd and the API server name it
    assert not processes(folder)
    assert not folder.exists()
    print(f"ready after {took:.1f} s")


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_an_aborted_run_leaves_no_process(tmp_path: Path, how: signal.Signals) -> None:
    folder = tmp_path / "plane"
    code = (
        f"import sys, time; sys.path[:0] = [{str(SUPPORT)!r}, {str(DEPLOY)!r}]\n"
        "from pathlib import Path; from controlplane import ControlPlane\n"
        f"plane = ControlPlane(Path({str(folder)!r}), controllers=False); plane.start(); print('up', flush=True); time.sleep(60)"
    )
    child = subprocess.Popen([sys.executable, "-P", "-c", code], stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == b"up\n"
        assert processes(folder)
        child.send_signal(how)
        child.wait(60)
        until(lambda: not processes(folder))
    finally:
        child.kill()
        child.wait()
        if child.stdout is not None:
            child.stdout.close()
