"""Claims of datasets on a node: one mount for all pods, alive while all who serve it die. Real kernel, real worker."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from csilab import CLAIM, WAIT, CsiLab, Readers, capability, until
from servers import free_port
from workerlab import file_mount

from forebay.fuse import mounting
from forebay.fuse.csi.protocol import messages as m
from forebay.fuse.csi.protocol.refusal import Refusal

pytestmark = [
    pytest.mark.mount,
    pytest.mark.timeout(300),
    pytest.mark.skipif(os.geteuid() != 0 or not os.path.exists("/dev/fuse"), reason="a CSI driver mounts: root and /dev/fuse"),
]


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[CsiLab]:
    with CsiLab(tmp_path) as lab:
        yield lab


def same(pod: Path, lab: CsiLab) -> None:
    for name, data in lab.files.items():
        assert (pod / name).read_bytes() == data, name


def shown(lab: CsiLab, volume: str, context: dict[str, str]) -> Path:
    lab.stage(volume, context=context)
    return lab.publish("two", volume, context=context)


def test_two_pods_share_one_mount_and_everything_is_idempotent(lab: CsiLab) -> None:
    lab.stage()
    one, two = lab.publish("one"), lab.publish("two")
    same(one, lab)
    same(two, lab)
    assert os.stat(one).st_dev == os.stat(two).st_dev == os.stat(lab.mount).st_dev
    with pytest.raises(OSError, match="Read-only file system"):
        (one / "new").write_text("x")
    pids = lab.pids()
    lab.stage()
    lab.publish("one")
    assert lab.mounts().count(str(one)) == 1, "a repeated publish stacks no second mount"
    assert lab.pids() == pids
    lab.unpublish("one")
    lab.unpublish("one")
    assert not one.exists()
    same(two, lab)
    with pytest.raises(Refusal, match="still published") as refused:
        lab.unstage()
    assert refused.value.code == "FAILED_PRECONDITION"
    lab.unpublish("two")
    lab.unstage()
    lab.unstage()
    assert lab.mounts() == [str(lab.mount)], "by the default policy the mount stays until the dataset is deleted"


def test_the_mount_goes_with_the_last_pod_where_the_volume_says_so(lab: CsiLab) -> None:
    context = {**CLAIM, "forebay.io/clean-policy": "OnDemand"}
    lab.stage(context=context)
    same(lab.publish("one", context=context), lab)
    lab.unpublish("one")
    lab.unstage()
    assert lab.mounts() == []
    assert lab.pids() == {}
    lab.stage(context=context)
    same(lab.publish("two", context=context), lab)


def test_other_arguments_are_refused_with_the_codes_of_the_specification(lab: CsiLab) -> None:
    lab.pod("one")
    for call, code in (
        (lambda: lab.stage(context={**CLAIM, "fluid_sub_path": "sub"}), "ALREADY_EXISTS"),
        (lambda: lab.publish("one", context={**CLAIM, "fluid_sub_path": "sub"}), "ALREADY_EXISTS"),
        (lambda: lab.publish("one", readonly=False), "ALREADY_EXISTS"),
        (lambda: lab.publish("two", volume="other"), "FAILED_PRECONDITION"),
        (lambda: lab.stage("w", context={"forebay.io/dataset": "default/nobody"}), "NOT_FOUND"),
        (lambda: lab.publish("two", volume_capability=m.VolumeCapability(m.Empty(), None, m.AccessMode(3))), "INVALID_ARGUMENT"),
    ):
        with pytest.raises(Refusal) as refused:
            call()
        assert refused.value.code == code, refused.value
    lab.stage("rwo", volume_capability=capability(m.Access.SINGLE_NODE_WRITER))
    lab.publish("three", "rwo", volume_capability=capability(m.Access.SINGLE_NODE_WRITER))
    with pytest.raises(Refusal, match="allows one target") as refused:
        lab.publish("four", "rwo", volume_capability=capability(m.Access.SINGLE_NODE_WRITER))
    assert refused.value.code == "FAILED_PRECONDITION"


def test_sub_paths_show_a_part_and_no_trick_leaves_the_tree(lab: CsiLab) -> None:
    part = {**CLAIM, "fluid_sub_path": "/sub/"}
    lab.stage("part", context=part)
    pod = lab.publish("one", "part", context=part)
    assert (pod / "b").read_bytes() == lab.files["sub/b"]
    assert sorted(os.listdir(pod)) == ["b", "deep"]
    for sub, code in (
        ("../..", "INVALID_ARGUMENT"),
        ("a", "INVALID_ARGUMENT"),
        ("nothing", "NOT_FOUND"),
    ):
        volume, context = f"v-{code}-{sub.strip('./')}", {**CLAIM, "fluid_sub_path": sub}
        with pytest.raises(Refusal) as refused:
            shown(lab, volume, context)
        assert refused.value.code == code, (sub, refused.value)
        assert not Path(lab.target("two")).exists()


def test_readers_notice_no_death_of_plugin_daemon_supervisor_or_client_tier(lab: CsiLab) -> None:
    pod = lab.pod("one")
    with Readers(pod, lab.files) as readers:
        readers.progress()
        for role in ("mount", "worker", "supervisor"):
            old = lab.pids()[role]
            os.kill(old, 9)
            until(lambda role=role, old=old: lab.pids().get(role, old) != old)
            readers.progress()
        lab.kill()
        readers.progress()
        lab.start()
        readers.progress()
        lab.publish("two")
        assert lab.mounts().count(str(pod)) == 1
    assert readers.errors == []
    same(Path(lab.target("two")), lab)


def test_a_mount_survives_everybody_who_serves_it_because_the_plugin_holds_its_device(lab: CsiLab) -> None:
    pod = lab.pod("one")
    device = mounting.find(str(lab.mount))
    with Readers(pod, lab.files) as readers:
        readers.progress()
        for _ in range(2):
            lab.kill_container()
            readers.progress()
    assert readers.errors == []
    assert mounting.find(str(lab.mount)) == device, "the same mount, not a new one"


def test_mounts_pod_and_plugin_hold_the_device_for_each_other(tmp_path: Path) -> None:
    with CsiLab(tmp_path, keeper=True) as lab:
        pod = lab.pod("one")
        device = mounting.find(str(lab.mount))
        with Readers(pod, lab.files) as readers:
            readers.progress()
            lab.kill_container()
            lab.start_keeper()
            readers.progress()
            lab.kill()
            readers.progress()
            lab.start()
            readers.progress()
            assert lab.holder is not None
            lab.holder.terminate()  # a node's update ends it in order
            assert lab.holder.wait(60) == 0
            lab.start_keeper()
            readers.progress()
        assert readers.errors == []
        assert mounting.find(str(lab.mount)) == device


def test_a_plugin_is_ready_once_it_holds_what_pods_use(lab: CsiLab) -> None:
    """Until then the other pod has the descriptors alone, and an upgrade must not go on with it."""
    pod = lab.pod("one")
    door = f"127.0.0.1:{free_port()}"  # one that no connection takes before a new plugin listens there

    def said(path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://{door}{path}", timeout=WAIT) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as e:
            return e.code, e.read().decode()

    def waits() -> bool:
        """A new plugin, while nobody can lend the descriptors: that it waits is over after 40 s."""
        lab.kill()
        lab.start("--healthz", door)
        return said("/readyz") == (503, "1 of 1 mounts are not held here yet, the first: default/lab\n")

    supervisor = lab.pids()["supervisor"]
    os.kill(supervisor, signal.SIGSTOP)
    until(waits)
    assert said("/healthz") == (200, "ok\n")
    os.kill(supervisor, signal.SIGCONT)
    until(lambda: said("/readyz") == (200, "ok\n"))
    same(pod, lab)


def test_both_pods_are_told_to_end_in_the_same_second(tmp_path: Path) -> None:
    """As an upgrade does, which changes both: one goes, the other when the first one's replacement has the descriptors."""
    with CsiLab(tmp_path, keeper=True) as lab:
        pod = lab.pod("one")
        device = mounting.find(str(lab.mount))
        with Readers(pod, lab.files) as readers:
            for first in ("driver", "mounts", "driver"):
                readers.progress()
                assert lab.holder is not None
                assert lab.driver is not None
                both = {"driver": lab.driver, "mounts": lab.holder}
                start = {"driver": lab.start, "mounts": lab.start_keeper}
                for name in sorted(both, key=lambda name: name != first):
                    both[name].terminate()
                until(lambda both=both: any(p.poll() is not None for p in both.values()))
                assert not all(p.poll() is not None for p in both.values()), "one of them waits"
                for _ in range(2):  # a DaemonSet replaces a pod that is gone
                    until(lambda both=both: any(p.poll() is not None for p in both.values()))
                    name = next(name for name, p in both.items() if p.poll() is not None)
                    assert both.pop(name).returncode == 0
                    start[name]()
                assert not both
        assert readers.errors == []
        assert mounting.find(str(lab.mount)) == device, "the same mount, not a new one"


def test_a_lost_mount_is_made_anew_and_shown_again(lab: CsiLab) -> None:
    """Also to a container that sees its host's mounts (`HostToContainer`): in a namespace of its own the volume is a slave."""
    shared = ["mount", "--bind", str(lab.kubelet), str(lab.kubelet)]
    subprocess.run(shared, check=True)
    try:
        subprocess.run(["mount", "--make-shared", str(lab.kubelet)], check=True)
        _lost_and_shown_again(lab)
    finally:
        subprocess.run(["umount", "-l", str(lab.kubelet)], check=True)


def _lost_and_shown_again(lab: CsiLab) -> None:
    pod = lab.pod("one")
    data = lab.root / "data"
    data.mkdir()
    script = f"mount --rbind {pod} {data} && mount --make-rslave {data} && echo up && exec sleep 1000"
    words = ["unshare", "--mount", "--propagation", "slave", "sh", "-c", script]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as container:
        assert container.stdout is not None
        assert container.stdout.readline() == "up\n"
        inside = Path(f"/proc/{container.pid}/root{data}")
        try:
            same(inside, lab)
            for _ in range(2):  # the second time it is the one on top that is lost
                _lost(lab, pod)
                same(inside, lab)
        finally:
            container.kill()
    lab.unpublish("one")
    assert str(pod) not in lab.mounts(), "one on top of the other"


def _lost(lab: CsiLab, pod: Path) -> None:
    before = mounting.find(str(lab.mount))
    lab.kill()  # nobody holds the device then
    lab.kill_container()
    with pytest.raises(OSError, match=r"not connected|connection abort"):
        os.listdir(pod)
    lab.start()
    until(lambda: (found := mounting.find(str(pod))) is not None and before is not None and found.device != before.device)
    same(pod, lab)


def test_a_deleted_dataset_leaves_nothing_once_nobody_reads_it(lab: CsiLab) -> None:
    pod = lab.pod("one")
    lab.config.unlink()
    time.sleep(3)  # three passes; nothing may be taken from a reader
    same(pod, lab)
    lab.unpublish("one")
    lab.unstage()
    until(lambda: not list((lab.base / "state/kept").iterdir()))
    assert lab.mounts() == []
    assert lab.pids() == {}
    for folder in ("run", "mounts", "datasets"):
        assert not list((lab.base / folder).rglob("*")), folder
    assert not list(lab.cache.rglob("lab"))


def test_after_a_reboot_what_is_left_of_the_last_boot_goes(lab: CsiLab) -> None:
    lab.pod("one")
    lab.kill()
    lab.kill_container()
    for path in reversed(lab.mounts()):
        mounting.umount(path, lazy=True)
    (lab.base / "state/boot").write_text("another boot")
    assert (lab.run / "spec.json").exists()
    lab.start()
    assert not lab.run.exists()
    assert not list((lab.base / "state/staged").iterdir())
    assert not list((lab.base / "state/published").iterdir())
    same(lab.pod("one"), lab)


def test_a_changed_mount_is_taken_over_by_the_running_client_tier(lab: CsiLab, tmp_path: Path) -> None:
    pod = lab.pod("one")
    same(pod, lab)
    before = lab.pids()
    (tmp_path / "more").mkdir()
    (tmp_path / "more/new").write_text("new")
    lab.write_config(mounts=[file_mount(tmp_path / "origin"), file_mount(tmp_path / "more", "/more")])

    def shows() -> bool:
        try:
            return "more" in os.listdir(pod)
        except OSError:
            return False  # a client tier may know of a mount before the worker that it asks

    until(shows)
    same(pod, lab)
    assert lab.pids() == before, "nobody started again"


def test_a_changed_owner_reaches_a_running_mount(lab: CsiLab) -> None:
    pod = lab.pod("one")
    same(pod, lab)
    before = lab.pids()
    lab.write_config(uid=1234)
    until(lambda: os.stat(pod / "sub/b").st_uid == 1234)
    same(pod, lab)
    assert lab.pids()["supervisor"] == before["supervisor"]


def test_stats_say_what_is_there_and_whether_it_is_well(lab: CsiLab) -> None:
    pod = lab.pod("one")
    stats = lab.ask("Node/NodeGetVolumeStats", m.NodeStats("v", str(pod)), m.Stats)
    assert {u.unit for u in stats.usage} == {m.Unit.BYTES, m.Unit.INODES}
    assert all(u.total == u.used + u.available for u in stats.usage)
    assert stats.volume_condition == m.VolumeCondition(False, "the mount answers")
    for volume, path in (("v", f"{pod}x"), ("w", str(pod))):
        with pytest.raises(Refusal) as refused:
            lab.ask("Node/NodeGetVolumeStats", m.NodeStats(volume, path), m.Stats)
        assert refused.value.code == "NOT_FOUND"


def test_a_daemon_that_hangs_keeps_no_call_waiting_for_ever(lab: CsiLab) -> None:
    pod = lab.pod("one")
    daemon = lab.pids()["mount"]
    os.kill(daemon, signal.SIGSTOP)
    try:
        two = lab.publish("two")  # a bind asks nobody
        stats = lab.ask("Node/NodeGetVolumeStats", m.NodeStats("v", str(pod)), m.Stats)
        assert stats.volume_condition.abnormal
        assert "does not answer" in stats.volume_condition.message
        part = {**CLAIM, "fluid_sub_path": "sub"}
        lab.stage("part", context=part)
        with pytest.raises(Refusal) as refused:
            lab.publish("three", "part", context=part)
        assert refused.value.code == "DEADLINE_EXCEEDED"
        lab.unpublish("one")
        assert not pod.exists()
    finally:
        os.kill(daemon, signal.SIGCONT)
    same(two, lab)


def test_kubelet_calling_twice_at_once_gets_one_mount(lab: CsiLab) -> None:
    import threading

    said: list[str] = []

    def call() -> None:
        try:
            lab.stage()
            lab.publish("one")
            said.append("OK")
        except Refusal as e:
            said.append(f"{e.code} {e}")

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert said == ["OK"] * 8
    assert sorted(lab.mounts()) == sorted([str(lab.mount), lab.target("one")])
    same(Path(lab.target("one")), lab)


def test_a_dataset_without_a_ready_worker_is_said_and_tried_again(lab: CsiLab) -> None:
    members = lab.datasets / "default/svc-lab-worker.members"
    kept = members.read_text()
    members.unlink()
    with pytest.raises(Refusal, match="no worker of dataset default/lab is ready") as refused:
        lab.stage()
    assert refused.value.code == "UNAVAILABLE"
    assert lab.mounts() == []
    members.write_text(kept)
    same(lab.pod("one"), lab)


def test_an_ordinary_user_is_told_to_be_root(tmp_path: Path) -> None:
    argv = [
        sys.executable,
        "-P",
        "-m",
        "forebay.cli.main",
        "csi",
        "--node",
        "n",
        "--kubelet",
        str(tmp_path),
        "--datasets",
        "/tmp",
    ]
    done = subprocess.run(
        ["setpriv", "--reuid", "65534", "--clear-groups", *argv], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "takes root" in done.stderr
