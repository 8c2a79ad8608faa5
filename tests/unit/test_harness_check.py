"""What a machine must allow before a cluster is started on it: said in one sentence, before anything is built."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import cgroups, machine


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine where all but one thing is there: root, a device that opens, folders of cgroups."""
    fuse, groups = tmp_path / "fuse", tmp_path / "cgroup"
    fuse.touch()
    for controller in cgroups.KUBELET:
        (groups / controller).mkdir(parents=True)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(machine, "FUSE", fuse)
    monkeypatch.setattr(cgroups, "ROOT", groups)
    return tmp_path


@pytest.fixture
def nobody() -> Iterator[None]:
    me = os.geteuid()
    if me == 0:
        os.seteuid(65534)
    yield
    os.seteuid(me)


def test_an_ordinary_user_is_told_that_root_is_needed(nobody: None) -> None:
    with pytest.raises(machine.ClusterError, match="needs root"):
        machine.check()


def test_without_fuse(root: Path) -> None:
    (root / "fuse").unlink()
    with pytest.raises(
        machine.ClusterError, match=r"by which its nodes mount datasets \(No such file or directory\): modprobe fuse"
    ):
        machine.check()


def test_a_controller_that_a_kubelet_needs_is_missing(root: Path) -> None:
    (root / "cgroup/memory").rmdir()
    with pytest.raises(machine.ClusterError, match="controller memory is not there"):
        machine.check()


def test_of_version_2_the_list_of_controllers_counts(root: Path) -> None:
    (root / "cgroup/cgroup.controllers").write_text("cpuset cpu io memory\n")
    with pytest.raises(machine.ClusterError, match="controller pids is not there"):
        machine.check()


def test_no_cgroup_may_be_made(root: Path) -> None:
    cgroups.probe()
    (root / f"cgroup/pids/forebay-probe-{os.getpid()}").touch()  # stands for a hierarchy that is only read
    with pytest.raises(machine.ClusterError, match=r"needs to make cgroups, one for each node .*File exists.* writable"):
        machine.check()
    assert not (root / f"cgroup/cpu/forebay-probe-{os.getpid()}").exists()
