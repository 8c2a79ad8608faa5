"""The node for CSI tests leaves nothing behind, however its test ends."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from csilab import CsiLab

pytestmark = [
    pytest.mark.mount,
    pytest.mark.timeout(300),
    pytest.mark.skipif(os.geteuid() != 0 or not os.path.exists("/dev/fuse"), reason="a CSI driver mounts: root and /dev/fuse"),
]


def below(root: Path) -> list[str]:
    """Processes that name something below it, and mounts there."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and entry.name != str(os.getpid()):
            try:
                words = (entry / "cmdline").read_bytes()
            except OSError:
                continue  # ended meanwhile
            if os.fsencode(root) in words:
                found.append(words.replace(b"\0", b" ").decode())
    return found + [line for line in Path("/proc/self/mounts").read_text().splitlines() if f" {root}/" in line]


def test_a_driver_that_does_not_start_takes_the_worker_with_it(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="no-such-option"), CsiLab(tmp_path, options=("--no-such-option",)):
        pass
    assert below(tmp_path) == []


def test_a_test_that_fails_while_everything_stands_still_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        fail(tmp_path)
    assert below(tmp_path) == []


def fail(root: Path) -> None:
    with CsiLab(root) as lab:
        lab.pod("one")
        assert lab.driver is not None
        for pid in (lab.driver.pid, *lab.pids().values()):
            os.kill(pid, signal.SIGSTOP)
        raise ZeroDivisionError
