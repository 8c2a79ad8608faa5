"""Inline volumes: what a worker pod keeps on its node, directories of the node, and what nobody gets. Real mounts."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from csilab import CsiLab, until

from forebay.fuse import mounting
from forebay.fuse.csi.protocol import messages as m
from forebay.fuse.csi.protocol.refusal import Refusal
from forebay.fuse.csi.volumes import inline

pytestmark = [
    pytest.mark.mount,
    pytest.mark.timeout(300),
    pytest.mark.skipif(os.geteuid() != 0, reason="a CSI driver mounts: root"),
]
UID = 65532


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[CsiLab]:
    (tmp_path / "srv/data").mkdir(parents=True)
    (tmp_path / "srv/data/x").write_text("x")
    (tmp_path / "srv/out").symlink_to("/etc")
    with CsiLab(tmp_path, options=("--host-path-root", str(tmp_path / "srv"))) as lab:
        yield lab


def worker(lab: CsiLab, **more: str) -> dict[str, str]:
    """Attributes as `runtimes/forebay/workers.py` writes them."""
    return {
        "forebay.io/dataset": "lab",
        "forebay.io/part": "worker",
        "forebay.io/service": "svc-lab-worker",
        "forebay.io/uid": str(UID),
        "forebay.io/tier-0": f"MEM {8 << 20} /dev/shm",
        "forebay.io/tier-1": f"SSD {1 << 30} {lab.root}/roots/nvme",
        "forebay.io/tier-2": "HDD 0",
        **{f"forebay.io/{k.replace('_', '-')}": v for k, v in more.items()},
    }


def as_pod(pod: Path, *argv: str, uid: int = UID) -> subprocess.CompletedProcess[str]:
    """What a process of the pod's user may do. It starts inside of the volume: the folders above are not its to enter."""
    return subprocess.run(
        ["setpriv", "--reuid", str(uid), "--regid", str(uid), "--clear-groups", *argv],
        capture_output=True, text=True, timeout=60,
        check=False, cwd=pod,
    )  # fmt: skip


def test_a_worker_gets_its_tree_and_may_write_where_it_has_to_and_nowhere_else(lab: CsiLab) -> None:
    pod = lab.inline("w", worker(lab))
    assert sorted(os.listdir(pod)) == ["index", "members", "run", "tiers"]
    assert sorted(os.listdir(pod / "tiers")) == ["0", "1", "2"]
    for place in ("run", "index", "tiers/0", "tiers/1", "tiers/2"):
        done = as_pod(pod, "touch", f"{place}/mine")
        assert done.returncode == 0, done.stderr
    for place in ("members/mine", "mine", "tiers/mine"):
        assert as_pod(pod, "touch", place).returncode != 0, place
    memory = mounting.find(str(pod / "tiers/0"))
    assert memory is not None
    assert memory.fstype == "tmpfs"
    assert os.statvfs(pod / "tiers/0").f_blocks * os.statvfs(pod / "tiers/0").f_frsize == (8 << 20) + inline.BESIDE
    own = "forebay/default/lab"
    assert (lab.root / f"roots/nvme/{own}/tier-1/mine").exists()
    assert (lab.cache / f"{own}/tier-2/mine").exists()
    assert (lab.cache / f"{own}/index/mine").exists()
    until((pod / "members/members.yaml").exists)
    listed = json.loads((pod / "members/members.yaml").read_text())
    assert [one["data"] for one in listed] == [lab.cluster.nodes["node-1"].address]
    assert as_pod(pod, "cat", "members/members.yaml").returncode == 0


def test_what_a_worker_kept_on_disk_outlives_its_pod(lab: CsiLab) -> None:
    pod = lab.inline("w1", worker(lab))
    (pod / "tiers/1/object").write_text("kept")
    (pod / "index/identity").write_text("me")
    (pod / "tiers/0/memory").write_text("not kept")
    lab.unpublish("w1", "csi-w1")
    lab.unpublish("w1", "csi-w1")
    assert not pod.exists()
    assert lab.mounts() == []
    again = lab.inline("w2", worker(lab))
    assert (again / "tiers/1/object").read_text() == "kept"
    assert (again / "index/identity").read_text() == "me"
    assert list((again / "tiers/0").iterdir()) == []


def test_without_a_known_user_the_tree_is_open_below_private_parents(lab: CsiLab) -> None:
    pod = lab.inline("w", worker(lab, uid=""))
    for place in ("run", "index", "tiers/0", "tiers/1", "tiers/2"):
        assert os.stat(pod / place).st_mode & 0o777 == 0o777, place
    assert os.stat(lab.cache / "forebay").st_mode & 0o077 == 0
    assert os.stat(lab.root / "roots/nvme/forebay").st_mode & 0o077 == 0


def test_another_user_of_the_same_worker_gets_what_is_there(lab: CsiLab) -> None:
    pod = lab.inline("w1", worker(lab))
    (pod / "tiers/1/sub").mkdir()
    (pod / "tiers/1/sub/object").write_text("x")
    (pod / "tiers/1/sub/link").symlink_to("/etc/passwd")
    lab.unpublish("w1", "csi-w1")
    again = lab.inline("w2", worker(lab, uid="70000"))
    assert os.stat(again / "tiers/1/sub/object").st_uid == 70000
    assert os.stat("/etc/passwd").st_uid == 0, "a link leads nowhere"


def test_giving_a_tree_away_follows_no_link_that_its_user_puts_there_meanwhile(tmp_path: Path) -> None:
    tree, victim = tmp_path / "tier", tmp_path / "victim"
    for folder in (tree / "sub", victim):
        folder.mkdir(parents=True)
        for i in range(2000):
            (folder / str(i)).touch()
    ended = threading.Event()

    def swap() -> None:
        while not ended.is_set():
            (tree / "sub").rename(tree / "was")
            (tree / "sub").symlink_to(victim)
            time.sleep(0.0005)
            (tree / "sub").unlink()
            (tree / "was").rename(tree / "sub")
            time.sleep(0.0005)

    swapping = threading.Thread(target=swap)
    swapping.start()
    try:
        for _ in range(20):
            os.chown(tree, 70001, 70001)
            inline._give(str(tree), 70000)
    finally:
        ended.set()
        swapping.join()
    assert {os.stat(victim / str(i)).st_uid for i in range(2000)} == {0}


def test_a_tree_that_a_worker_uses_is_not_made_anew_when_its_record_is_lost(lab: CsiLab) -> None:
    pod = lab.inline("w", worker(lab))
    (pod / "run/worker.sock").touch()
    (pod / "tiers/0/object").touch()
    mounts = lab.mounts()
    lab.kill()
    for record in (lab.base / "state/published").iterdir():
        record.unlink()
    lab.start()
    lab.inline("w", worker(lab))
    assert (pod / "run/worker.sock").exists()
    assert (pod / "tiers/0/object").exists()
    assert lab.mounts() == mounts
    lab.kill()
    for record in (lab.base / "state/published").iterdir():
        record.unlink()
    mounting.umount(str(pod / "tiers/2"))  # half of a tree, as of a process that died while it made it
    lab.start()
    lab.inline("w", worker(lab))
    assert sorted(lab.mounts()) == sorted(mounts)


def test_members_follow_the_list_after_a_restart_of_the_plugin_too(lab: CsiLab) -> None:
    pod = lab.inline("w", worker(lab))
    listed = pod / "members/members.yaml"
    until(listed.exists)
    lab.kill()
    lab.start()
    (lab.datasets / "default/svc-lab-worker.members").write_text("- 10.1.2.3:7401\n- 10.1.2.4:7401\n")
    until(lambda: [one["data"] for one in json.loads(listed.read_text())] == ["10.1.2.3:7401", "10.1.2.4:7401"])
    assert lab.inline("w", worker(lab)) == pod
    assert lab.mounts().count(str(pod)) == 1


def test_a_pod_that_is_root_cannot_lead_the_plugin_astray(lab: CsiLab) -> None:
    pod = lab.inline("w", worker(lab))
    until((pod / "members/members.yaml").exists)
    victim = lab.root / "victim"
    victim.mkdir()
    os.rename(pod / "members", pod / "elsewhere")
    (pod / "members").symlink_to(victim)
    (lab.datasets / "default/svc-lab-worker.members").write_text("- 10.1.2.3:7401\n")
    until(lambda: "tending_failed" in (lab.root / "csi.log").read_text())
    assert list(victim.iterdir()) == []
    os.unlink(pod / "members")
    (pod / "elsewhere/members.yaml.new").symlink_to(victim / "written")  # before the plugin finds its folder again
    os.rename(pod / "elsewhere", pod / "members")
    until(lambda: "10.1.2.3" in (pod / "members/members.yaml").read_text())
    assert not (victim / "written").exists()


def test_a_directory_of_the_node_is_read_only_and_only_below_what_is_allowed(lab: CsiLab) -> None:
    def host(path: str) -> dict[str, str]:
        return {"forebay.io/dataset": "lab", "forebay.io/part": "host", "forebay.io/path": path}

    pod = lab.inline("h", host(f"{lab.root}/srv/data"), namespace="other")
    assert (pod / "x").read_text() == "x"
    with pytest.raises(OSError, match="Read-only"):
        (pod / "y").write_text("y")
    for path, code, said in (
        ("/etc", "PERMISSION_DENIED", "--host-path-root"),
        (f"{lab.root}/srv/../../etc", "INVALID_ARGUMENT", "no absolute path"),
        (f"{lab.root}/srvx", "PERMISSION_DENIED", "allowed are"),
        (f"{lab.root}/srv/out", "INVALID_ARGUMENT", "symbolic link"),
        (f"{lab.root}/srv/out/ssh", "INVALID_ARGUMENT", "symbolic link"),
        (f"{lab.root}/srv/nothing", "NOT_FOUND", "is not there"),
        (f"{lab.root}/srv/data/x", "INVALID_ARGUMENT", "no directory"),
    ):
        with pytest.raises(Refusal, match=said) as refused:
            lab.inline("h2", host(path))
        assert refused.value.code == code, path
        assert not Path(lab.target("h2")).exists()
    assert lab.mounts() == [str(pod)]


def test_what_a_worker_may_not_ask_for(lab: CsiLab) -> None:
    (lab.root / "roots/link").symlink_to("/etc")
    for change, code, said in (
        ({"tier_1": "SSD 5 /etc"}, "PERMISSION_DENIED", "--tier-root"),
        ({"tier_1": f"SSD 5 {lab.root}/roots/../x"}, "INVALID_ARGUMENT", "no absolute path"),
        ({"tier_1": f"SSD 5 {lab.root}/roots/link"}, "INVALID_ARGUMENT", "symbolic link"),
        ({"tier_0": "MEM 0"}, "INVALID_ARGUMENT", "quota"),
        ({"dataset": "../other"}, "INVALID_ARGUMENT", "is no name"),
        ({"dataset": "other/lab"}, "INVALID_ARGUMENT", "is no name"),
        ({"part": "everything"}, "INVALID_ARGUMENT", "is unknown"),
        ({"part": ""}, "INVALID_ARGUMENT", "use its claim"),
        ({"uid": "-1"}, "INVALID_ARGUMENT", "no user id"),
    ):
        with pytest.raises(Refusal, match=said) as refused:
            lab.inline("w", worker(lab, **change))
        assert refused.value.code == code, change
        assert not Path(lab.target("w")).exists(), change
    assert lab.mounts() == []


def test_a_deleted_dataset_takes_its_directories_along_once_its_workers_are_gone(lab: CsiLab) -> None:
    pod = lab.inline("w", worker(lab))
    (pod / "tiers/1/object").write_text("x")
    lab.config.unlink()
    until((pod / "members/members.yaml").exists)
    assert (pod / "tiers/1/object").exists()
    lab.unpublish("w", "csi-w")
    until(lambda: not list((lab.base / "state/kept").iterdir()))
    assert not (lab.root / "roots/nvme/forebay").exists()
    assert not (lab.cache / "forebay").exists()
    assert (lab.root / "roots/nvme").exists(), "not ours"


def test_stats_of_a_worker_are_of_its_first_tier(lab: CsiLab) -> None:
    pod = lab.inline("w", worker(lab))
    (pod / "tiers/0/object").write_bytes(bytes(1 << 20))
    stats = lab.ask("Node/NodeGetVolumeStats", m.NodeStats("csi-w", str(pod)), m.Stats)
    of_bytes = next(u for u in stats.usage if u.unit == m.Unit.BYTES)
    assert of_bytes.total == (8 << 20) + inline.BESIDE
    assert 1 << 20 <= of_bytes.used <= 2 << 20
