"""Parts of the driver that need no mount: members, records, busy keys, allowed roots, the Controller, registration, liveness."""

from __future__ import annotations

import errno
import os
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path

import grpc
import msgspec
import pytest
from csilab import until

from forebay.api import podconfig
from forebay.api.spec import DatasetSpec, Mount, Tier
from forebay.cache.members.roster import Listed, parse_members
from forebay.fuse.csi.health import Health
from forebay.fuse.csi.protocol import messages as m
from forebay.fuse.csi.protocol import rpc
from forebay.fuse.csi.protocol.proto import Empty
from forebay.fuse.csi.protocol.refusal import Refusal
from forebay.fuse.csi.services.controller import Controller
from forebay.fuse.csi.services.identity import Identity
from forebay.fuse.csi.services.registration import Registration
from forebay.fuse.csi.volumes import child, inline
from forebay.fuse.csi.volumes import members as lists
from forebay.fuse.csi.volumes.agreement import Agreement
from forebay.fuse.csi.volumes.known import Known
from forebay.fuse.csi.volumes.members import Conditions, Endpoint, Members, Port, Slice
from forebay.fuse.csi.volumes.records import Published, Records, Staged
from forebay.fuse.csi.volumes.roots import Roots
from forebay.fuse.csi.volumes.site import Layout, client_spec
from forebay.fuse.csi.volumes.source import FolderSource, spec_of
from forebay.fuse.supervision import processes
from forebay.kube.objects import ObjectMeta

PORTS = [Port("data", 7401), Port("control", 7402)]


def endpoint(host: str, ready: bool | None = True, terminating: bool | None = None) -> Endpoint:
    return Endpoint([host], Conditions(ready, terminating), f"node-{host[-1]}")


def pieces(*endpoints: Endpoint, ports: list[Port] | None = PORTS) -> list[Slice]:
    return [Slice(ObjectMeta(name="s"), list(endpoints), ports)]


# --- members


def test_a_member_is_who_was_ready_once_and_is_still_listed() -> None:
    members = Members()

    def seen(*endpoints: Endpoint) -> list[str]:
        return [one.data for one in members.listed(pieces(*endpoints))]

    assert seen(endpoint("10.0.0.1"), endpoint("10.0.0.2", ready=False)) == ["10.0.0.1:7401"]
    assert seen(endpoint("10.0.0.1", ready=False), endpoint("10.0.0.2")) == ["10.0.0.1:7401", "10.0.0.2:7401"]
    assert seen(endpoint("10.0.0.1", ready=False, terminating=True), endpoint("10.0.0.2")) == ["10.0.0.2:7401"]
    assert seen(endpoint("10.0.0.1", ready=False), endpoint("10.0.0.2", ready=None)) == ["10.0.0.2:7401"], "it starts anew"
    assert seen() == []


def test_who_was_ready_before_the_plugin_started_again_stays() -> None:
    listed = Members(["10.0.0.1:7401"]).listed(pieces(endpoint("10.0.0.1", ready=False), endpoint("10.0.0.2", ready=False)))
    assert [one.data for one in listed] == ["10.0.0.1:7401"]


def test_a_list_is_written_as_workers_read_it() -> None:
    listed = Members().listed([*pieces(endpoint("10.0.0.2")), *pieces(endpoint("fd00::1"), endpoint("10.0.0.2"))])
    found = parse_members(lists.encode(listed))
    assert [(one.data, one.control, one.node) for one in found] == [
        ("10.0.0.2:7401", "10.0.0.2:7402", "node-2"),
        ("[fd00::1]:7401", "[fd00::1]:7402", "node-1"),
    ]


def test_slices_without_ports_or_addresses_name_nobody() -> None:
    members = Members()
    assert members.listed(pieces(endpoint("10.0.0.1"), ports=None)) == []
    assert members.listed(pieces(Endpoint(), ports=[Port("data", None)])) == []
    assert msgspec.json.decode(b'{"metadata": {"name": "s"}, "endpoints": null, "ports": null}', type=Slice).endpoints is None


# --- records


def test_records_are_there_after_a_restart_and_broken_ones_are_dropped(tmp_path: Path) -> None:
    records = Records(str(tmp_path / "r"), Staged)
    one = Staged("/k/staging", "v", "d", "ns", "ds", "c", "s", "OnDemand")
    records.put(one)
    (tmp_path / "r/torn.json").write_text('{"key": "/x", "vol')
    (tmp_path / "r/cut.json.new").write_text("{")
    again = Records(str(tmp_path / "r"), Staged)
    assert again.all() == [one]
    assert len(list((tmp_path / "r").iterdir())) == 1
    again.drop(one.key)
    again.drop(one.key)
    assert Records(str(tmp_path / "r"), Staged).all() == []


def test_another_boot_forgets_what_was_mounted_and_keeps_what_lies_on_disk(tmp_path: Path) -> None:
    known = Known(str(tmp_path))
    assert known.rebooted, "nobody can say: as after a reboot"
    known.published.put(Published("/k/t", "v", "d", "claim", "ns", "ds"))
    known.staged.put(Staged("/k/s", "v", "d", "ns", "ds", "c", "s", "OnDemand"))
    assert known.used("ns/ds")
    same = Known(str(tmp_path))
    assert not same.rebooted
    assert same.mounts("ns/ds")
    (tmp_path / "boot").write_text("another")
    after = Known(str(tmp_path))
    assert after.rebooted
    assert not after.used("ns/ds")


def test_a_second_call_for_a_key_in_flight_is_aborted() -> None:
    busy = rpc.Busy()
    with busy.hold("volume v"):
        with pytest.raises(Refusal, match="another call for volume v") as e, busy.hold("volume w", "volume v"):
            pass
        assert e.value.code == "ABORTED"
        with busy.hold("volume w"):
            pass
    with busy.hold("volume v"):
        pass


# --- directories of the node


def test_nothing_outside_of_the_roots_and_nothing_through_a_link(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "a/b").mkdir(parents=True)
    (root / "out").symlink_to("/etc")
    (root / "file").write_text("x")
    roots = Roots([str(root)], "--tier-root")
    for path in (root, root / "a/b"):
        fd = roots.open(str(path))
        assert os.fstat(fd).st_ino == path.stat().st_ino
        os.close(fd)
    for path, code in (
        (tmp_path, "PERMISSION_DENIED"),
        (tmp_path / "rootx", "PERMISSION_DENIED"),
        (root / "out", "INVALID_ARGUMENT"),
        (root / "out/ssh", "INVALID_ARGUMENT"),
        (root / "file", "INVALID_ARGUMENT"),
        (root / "nothing", "NOT_FOUND"),
    ):
        with pytest.raises(Refusal) as e:
            roots.open(str(path))
        assert e.value.code == code, path
    with pytest.raises(Refusal):
        roots.open(str(root / "out/made"), make=True)
    os.close(roots.open(str(root / "x/y/z"), make=True))
    assert (root / "x").stat().st_mode & 0o777 == 0o700
    roots.remove(str(root / "x/y"))
    roots.remove(str(root / "x/y"))
    assert list((root / "x").iterdir()) == []
    with pytest.raises(Refusal, match="none is allowed"):
        Roots([], "--host-path-root").open("/etc")


def test_a_sub_path_is_opened_through_no_link(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/link").symlink_to("/etc")
    (tmp_path / "a/file").write_text("x")
    fd = child.open_below(str(tmp_path), "a/b")
    assert os.fstat(fd).st_ino == (tmp_path / "a/b").stat().st_ino
    os.close(fd)
    for sub, error in (
        ("a/link", NotADirectoryError),
        ("a/link/ssh", NotADirectoryError),
        ("a/file", NotADirectoryError),
        ("x", FileNotFoundError),
    ):
        with pytest.raises(error):
            child.open_below(str(tmp_path), sub)


def test_the_deadline_counts_from_when_the_process_has_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that takes long to start a program says nothing of a mount by that."""

    def run(does: str) -> str:
        monkeypatch.setattr(processes, "python", lambda *_: [sys.executable, "-c", f"import sys, time; {does}"])
        return child.run("statvfs", "/somewhere", deadline=4)

    assert run(r"time.sleep(5); print('\n1 2 3')") == "1 2 3"
    with pytest.raises(Refusal, match="/somewhere does not answer within 4 s"):
        run("print(flush=True); time.sleep(600)")
    with pytest.raises(Refusal, match=r"^a sentence$"):
        run("print(flush=True); print('a sentence'); sys.exit(3)")
    with pytest.raises(Refusal, match="statvfs failed: it never began"):
        run("sys.exit('it never began')")


def test_leaving_is_a_file_beside_the_list(tmp_path: Path) -> None:
    (tmp_path / "members").mkdir()
    inline.say_leaving(str(tmp_path), True)
    inline.say_leaving(str(tmp_path), True)
    assert (tmp_path / "members/leaving").exists()
    inline.say_leaving(str(tmp_path), False)
    inline.say_leaving(str(tmp_path), False)
    assert not (tmp_path / "members/leaving").exists()


# --- the client tier


def test_a_client_tier_owns_nothing_and_has_no_credentials() -> None:
    mounts = [Mount("s3://b/", "s3", "/", "b", secrets={"access_key": "AK"})]
    spec = DatasetSpec("ns", "ds", mounts, [Tier("MEM", "/var/lib/forebay/tiers/0", 5)], "/var/lib/forebay/index", uid=7)
    site = Layout("/k/plugins/forebay.io", "/c").site("ns", "ds")
    found = client_spec((spec, 0), site, "n1", 1 << 30)
    assert found.cluster is not None
    assert not found.cluster.owns
    assert found.cluster.listen == ""
    assert found.mounts[0].secrets == {}
    assert found.tiers == [Tier("SSD", "/c/clients/ns/ds/tier", 1 << 30)]
    assert (found.index_dir, found.uid, found.id) == ("/c/clients/ns/ds/index", 7, "ns/ds")
    assert client_spec((spec, 5 << 30), site, "n1", 1 << 30).tiers[0].quota == 5 << 30, "the dataset's own word"


def test_a_configuration_that_is_newer_or_none_is_refused() -> None:
    spec = DatasetSpec("ns", "ds", [], [], "/i")
    newer = msgspec.json.encode({"spec": spec, "files": [], "version": 99})
    for raw, said in ((b"{", "no configuration"), (b'{"spec": 5, "files": []}', "no configuration"), (newer, "newer")):
        with pytest.raises(Refusal, match=said) as e:
            spec_of(raw)
        assert e.value.code == "FAILED_PRECONDITION"
    assert spec_of(msgspec.json.encode({"spec": spec, "files": []})) == (spec, 0), "one of an older version says nothing"
    assert spec_of(msgspec.json.encode({"spec": spec, "files": [], "reader_quota": 7})) == (spec, 7)


def test_a_client_asks_for_a_mount_by_the_name_that_its_worker_gives_it() -> None:
    mount = Mount("s3://b/", "s3", "/", "b")
    config = podconfig.Config(DatasetSpec("ns", "ds", [mount], [], "/i"), [podconfig.Files(options={"endpoint": "cred/where"})])
    worker = podconfig.fill(config, {"cred/where": "http://s3"}.__getitem__)
    client, _ = spec_of(podconfig.encode(config).encode())
    assert client.mounts[0].identity == worker.mounts[0].identity


# --- changed configurations


def test_a_change_is_shown_when_every_worker_that_answers_serves_it() -> None:
    site = Layout("/k", "/c").site("ns", "ds")
    says: dict[str, str | None] = {"a:2": "old", "b:2": "old", "c:2": None}
    agreement = Agreement(lambda _, door: says[door], every=0.01)
    members = [Listed("a:1", control="a:2"), Listed("b:1", control="b:2"), Listed("c:1", control="c:2"), Listed("d:1")]
    assert not agreement.reached(site, "new", members)
    says["a:2"] = "new"
    assert not agreement.reached(site, "new", members)
    says["b:2"] = "new"
    until(lambda: agreement.reached(site, "new", members))
    assert not agreement.reached(site, "newer", members), "each revision is asked for"


def test_a_worker_that_never_takes_a_change_over_is_not_waited_for_without_end() -> None:
    site = Layout("/k", "/c").site("ns", "ds")
    agreement = Agreement(lambda *_: "old", patience=0.05, every=0.01)
    members = [Listed("a:1", control="a:2")]
    assert not agreement.reached(site, "new", members)
    until(lambda: agreement.reached(site, "new", members))


# --- the Controller


@pytest.fixture
def controller(tmp_path: Path) -> Controller:
    (tmp_path / "datasets/ns").mkdir(parents=True)
    (tmp_path / "datasets/ns/ds-forebay.json").write_text("{}")
    return Controller(FolderSource(str(tmp_path / "datasets")), str(tmp_path / "volumes"))


def create(name: str = "pvc-1", dataset: str = "ns/ds", size: m.CapacityRange | None = None, **more: str) -> m.CreateVolume:
    capability = m.VolumeCapability(None, m.MountVolume(), m.AccessMode(3))
    return m.CreateVolume(name, size, [capability], {"forebay.io/dataset": dataset, **more})


def test_a_volume_is_made_once_and_compared_then(controller: Controller) -> None:
    made = controller.create(create(size=m.CapacityRange(5))).volume
    assert made is not None
    assert made.capacity_bytes == 5
    assert len(made.volume_id) <= 128
    assert made.volume_context["forebay.io/dataset"] == "ns/ds"
    assert controller.create(create(size=m.CapacityRange(5))).volume == made
    with pytest.raises(Refusal) as e:
        controller.create(create(size=m.CapacityRange(6)))
    assert e.value.code == "ALREADY_EXISTS"
    other = controller.create(create("pvc-2")).volume
    assert other is not None
    assert other.volume_id != made.volume_id, "two volumes with one id would share a staging path"
    controller.delete(m.DeleteVolume(made.volume_id))
    controller.delete(m.DeleteVolume(made.volume_id))
    assert controller.create(create(size=m.CapacityRange(6))).volume is not None


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (m.CreateVolume(), "INVALID_ARGUMENT"),
        (m.CreateVolume("x"), "INVALID_ARGUMENT"),
        (create("x" * 129), "INVALID_ARGUMENT"),
        (create(dataset="nobody/ds"), "NOT_FOUND"),
        (create(dataset="../ds"), "INVALID_ARGUMENT"),
        (create(colour="red"), "INVALID_ARGUMENT"),
        (create(fluid_sub_path="../x"), "INVALID_ARGUMENT"),
        (create(size=m.CapacityRange(6, 5)), "OUT_OF_RANGE"),
        (create(size=m.CapacityRange(-6)), "INVALID_ARGUMENT"),
        (msgspec.structs.replace(create(), volume_content_source=Empty()), "INVALID_ARGUMENT"),
    ],
)
def test_volumes_that_are_not_made(controller: Controller, request_: m.CreateVolume, code: str) -> None:
    with pytest.raises(Refusal) as e:
        controller.create(request_)
    assert e.value.code == code


def test_capabilities_are_confirmed_or_the_reason_is_said(controller: Controller) -> None:
    made = controller.create(create()).volume
    assert made is not None
    good = create().volume_capabilities
    assert controller.validate(m.Validate(made.volume_id, made.volume_context, good)).confirmed is not None
    block = [m.VolumeCapability(Empty(), None, m.AccessMode(3))]
    answer = controller.validate(m.Validate(made.volume_id, {}, block))
    assert answer.confirmed is None
    assert "Filesystem" in answer.message
    assert controller.validate(m.Validate(made.volume_id, {"x": "y"}, good)).confirmed is None
    for request, code in (
        (m.Validate("", {}, good), "INVALID_ARGUMENT"),
        (m.Validate("v"), "INVALID_ARGUMENT"),
        (m.Validate("v", {}, good), "NOT_FOUND"),
    ):
        with pytest.raises(Refusal) as e:
            controller.validate(request)
        assert e.value.code == code


# --- sockets


def test_kubelet_finds_the_driver_and_a_refusal_ends_it(tmp_path: Path) -> None:
    refused: list[str] = []
    registration = Registration("forebay.io", "/k/plugins/forebay.io/csi.sock", str(tmp_path), refused.append)
    registration.start()
    path = str(tmp_path / "forebay.io-reg.sock")
    try:
        assert os.stat(path).st_mode & 0o777 == 0o600
        info = rpc.ask(path, f"{m.REGISTRATION}/GetInfo", Empty(), m.RegistrationInfo, 10)
        assert info == m.RegistrationInfo("CSIPlugin", "forebay.io", "/k/plugins/forebay.io/csi.sock", ["1.0.0"])
        rpc.ask(path, f"{m.REGISTRATION}/NotifyRegistrationStatus", m.RegistrationStatus(True), Empty, 10)
        assert registration.registered
        assert refused == []
        rpc.ask(path, f"{m.REGISTRATION}/NotifyRegistrationStatus", m.RegistrationStatus(False, "no"), Empty, 10)
        assert refused == ["no"]
    finally:
        registration.stop()
    assert not os.path.exists(path)


def test_liveness_asks_the_drivers_own_socket(tmp_path: Path) -> None:
    trouble = [""]
    path = str(tmp_path / "csi.sock")
    server = rpc.Server(path, Identity("forebay.io", lambda: trouble[0], controller=False).methods())
    missing = [""]
    health = Health("127.0.0.1", 0, path, lambda: missing[0])
    health.start()

    def get(where: str = "/healthz") -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{health.port}{where}", timeout=20) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as e:
            return e.code, e.read().decode()

    try:
        code, said = get()
        assert code == 503
        assert "does not answer" in said
        server.start()
        assert get() == (200, "ok\n")
        assert get("/")[0] == 404
        assert get("/readyz") == (200, "ok\n")
        missing[0] = "1 of 2 mounts are not held here yet"
        assert get("/readyz") == (503, "1 of 2 mounts are not held here yet\n")
        assert get()[0] == 200, "it lives"
        trouble[0] = "mounts were not looked after"
        assert get()[0] == 503
    finally:
        server.stop(0.1)
        health.stop()


def test_an_answer_is_of_now_whatever_another_connection_of_this_process_met(tmp_path: Path) -> None:
    path = str(tmp_path / "csi.sock")
    server = rpc.Server(path, Identity("forebay.io", lambda: "", controller=False).methods())
    with grpc.insecure_channel(f"unix:{path}") as earlier:  # gRPC lets channels share connections that rest after a failure
        with pytest.raises(grpc.RpcError):
            earlier.unary_unary(f"/{m.IDENTITY}/Probe")(b"", timeout=10)
        server.start()
        try:
            assert rpc.ask(path, f"{m.IDENTITY}/GetPluginInfo", Empty(), m.PluginInfo, 10).name == "forebay.io"
        finally:
            server.stop(0.1)


def test_a_socket_in_use_is_not_taken_and_a_left_one_is(tmp_path: Path) -> None:
    path = str(tmp_path / "csi.sock")
    methods = Identity("forebay.io", lambda: "", controller=True).methods()
    first = rpc.Server(path, methods)
    first.start()
    try:
        with pytest.raises(OSError, match="another process serves"):
            rpc.Server(path, methods).start()
        assert rpc.ask(path, f"{m.IDENTITY}/GetPluginInfo", Empty(), m.PluginInfo, 10).name == "forebay.io"
    finally:
        first.stop(0.1)
    (tmp_path / "csi.sock").write_text("left")
    second = rpc.Server(path, methods)
    second.start()
    second.stop(0.1)


def test_errors_carry_the_code_and_defects_are_internal(tmp_path: Path) -> None:
    def refuse(_: Empty) -> Empty:
        raise Refusal("FAILED_PRECONDITION", "not now")

    def fail(_: Empty) -> Empty:
        raise KeyError("x")

    def full(_: Empty) -> Empty:
        raise OSError(errno.ENOSPC, "No space left on device", "/var/lib/kubelet/x")

    path = str(tmp_path / "s.sock")
    server = rpc.Server(
        path, {"t/Full": rpc.Method(Empty, full), "t/Refuse": rpc.Method(Empty, refuse), "t/Fail": rpc.Method(m.AccessMode, fail)}
    )
    server.start()
    try:
        for method, request, code, said in (
            ("t/Refuse", Empty(), "FAILED_PRECONDITION", "not now"),
            ("t/Full", Empty(), "RESOURCE_EXHAUSTED", "/var/lib/kubelet/x; make room"),
            ("t/Fail", m.AccessMode(1), "INTERNAL", "KeyError"),
            ("t/Fail", m.PluginInfo("text"), "INVALID_ARGUMENT", "cannot be read"),
            ("t/Nothing", Empty(), "UNIMPLEMENTED", "Method not found"),
        ):
            with pytest.raises(Refusal, match=said) as e:
                rpc.ask(path, method, request, Empty, 10)
            assert e.value.code == code
    finally:
        server.stop(0.1)


def test_many_calls_at_once_are_all_answered(tmp_path: Path) -> None:
    path = str(tmp_path / "s.sock")
    server = rpc.Server(path, Identity("forebay.io", lambda: "", controller=False).methods())
    server.start()
    answers: list[m.Probed] = []
    threads = [
        threading.Thread(target=lambda: answers.append(rpc.ask(path, f"{m.IDENTITY}/Probe", Empty(), m.Probed, 60)))
        for _ in range(48)
    ]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert answers == [m.Probed(m.BoolValue(True))] * 48
    finally:
        server.stop(0.1)
