"""What a worker's pod runs: the plan's command line and configuration, swapped volumes, orders, the preStop command."""

from __future__ import annotations

import re
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from clusterlab import S3Store, random_objects, s3_store
from podlab import PodLab, manifest, s3
from workerlab import MIB, Lab, Reader, eventually, file_mount, fill

from forebay.api import podconfig, wire
from forebay.api.spec import Mount, encode_spec
from forebay.cache.client import DoorError
from forebay.cache.peers.auth import Key, load_secret
from forebay.cache.peers.control_client import ControlClient

pytestmark = pytest.mark.cluster

OBJECTS = random_objects(
    {
        **{f"one/{i:02}": 30_000 + i for i in range(40)},
        "one/large": 9 * MIB + 7,
        **{f"two/{i}": 20_000 for i in range(5)},
        "two/d/x": 5,
    }
)
LONG = 60.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Store]:
    with s3_store(tmp_path_factory.mktemp("s3"), OBJECTS, any_key=True) as found:
        yield found


@pytest.fixture
def store(server: S3Store) -> Iterator[S3Store]:
    yield server
    server.link.plan = lambda request: None


def one(store: S3Store, **options: str) -> dict[str, object]:
    return s3(store.url, "/", "one/", **options)


def two(store: S3Store, path: str = "/more") -> dict[str, object]:
    return s3(store.url, path, "two/")


def test_mounts_and_credentials_are_taken_over_while_files_are_open(store: S3Store, tmp_path: Path) -> None:
    with PodLab(tmp_path / "pods", manifest(one(store))) as lab:
        a, b = lab["node-a"], lab["node-b"]
        a.start(wait=False)
        b.start()
        a._wait_for_it(a.process)  # type: ignore[arg-type]
        assert a.read("/large") == OBJECTS["one/large"]
        assert a.served() | {"since": 0} == {
            "revision": podconfig.revision(a.here(lab.planned.config)), "places": ["/"], "error": "", "since": 0,
        }  # fmt: skip
        node = a.node("/00")
        opened, fd = a.door.open(node.ino)
        reader = Reader(a.door, node.ino, opened, fd)
        pid = a.stats()["pid"]

        config = lab.apply(manifest(one(store), two(store)))
        for w in (a, b):
            eventually(lambda w=w: w.served()["places"] == ["/", "/more"], LONG)
            assert w.served()["revision"] == podconfig.revision(w.here(config))
        assert a.read("/more/3") == OBJECTS["two/3"]
        assert b.read("/more/d/x") == OBJECTS["two/d/x"]
        assert a.node("/00").ino == node.ino

        seen: set[str] = set()

        def note(request: object) -> None:
            found = re.search(r"Credential=([^/]+)/", request.headers.get("authorization", ""))  # type: ignore[attr-defined]
            seen.add(found[1] if found else "")

        store.link.plan = note  # type: ignore[assignment]
        lab.secrets["cred/id"] = "AKNEW"
        for w in (a, b):
            w.credentials.write(lab.secrets)
            eventually(lambda w=w: "took_over" in w.text().rpartition('"opened":2')[0] or '"opened": 2' in w.text(), LONG)
        seen.clear()
        assert a.read("/more/4") == OBJECTS["two/4"]
        assert b.read("/17") == OBJECTS["one/17"]
        assert seen == {"AKNEW"}

        lab.apply(manifest(two(store)))
        for w in (a, b):
            eventually(lambda w=w: w.served()["places"] == ["/more"], LONG)
            with pytest.raises(DoorError, match="no b'17'"):
                w.node("/17")
        assert reader.read(0, node.size) == OBJECTS["one/00"]  # it is open
        reader.close()
        assert a.stats()["pid"] == pid
        for w in (a, b):
            w.stop()


def test_a_worker_that_knows_a_mount_before_the_others_reads_it_itself(store: S3Store, tmp_path: Path) -> None:
    with PodLab(tmp_path / "pods", manifest(one(store))) as lab:
        a, b = lab["node-a"], lab["node-b"]
        a.start(wait=False)
        b.start()
        a._wait_for_it(a.process)  # type: ignore[arg-type]
        for w in (a, b):
            eventually(lambda w=w: len(w.cluster()["members"]) == 2, LONG)
        lab.apply(manifest(one(store), two(store)), "node-a")  # kubelets bring it up to a minute apart
        eventually(lambda: a.served()["places"] == ["/", "/more"], LONG)
        for name in (n.removeprefix("two/") for n in OBJECTS if n.startswith("two/")):
            assert a.read(f"/more/{name}") == OBJECTS[f"two/{name}"]
        assert b.served()["places"] == ["/"]
        lab.apply(manifest(one(store), two(store)), "node-b")
        eventually(lambda: b.served()["places"] == ["/", "/more"], LONG)
        assert b.read("/more/d/x") == OBJECTS["two/d/x"]
        for w in (a, b):
            w.stop()


def test_a_bad_configuration_changes_nothing_and_is_said(store: S3Store, tmp_path: Path) -> None:
    with PodLab(tmp_path / "pods", manifest(one(store)), ("node-a",)) as lab:
        a = lab["node-a"]
        a.start()
        before = a.served()
        for text, said in (
            ("{", "no configuration of a worker"),
            (podconfig.encode(a.here(lab.planned.config)).replace('"s3"', '"tape"', 1), "no store kind 'tape'"),
            (podconfig.encode(a.here(lab.planned.config)).replace("tiers/0", "tiers/9"), "more than the mounts differs"),
            (podconfig.encode(a.here(lab.planned.config)).replace("cred/id", "cred/other"), "key other of Secret cred"),
        ):
            a.config.write({podconfig.FILE: text})
            eventually(lambda said=said: said in a.served()["error"], LONG)
            assert (a.served()["revision"], a.served()["places"]) == (before["revision"], ["/"])
            assert a.read("/01") == OBJECTS["one/01"]
        a.credentials.write({**lab.secrets, "cred/other": lab.secrets["cred/id"]})  # the Secret comes after the ConfigMap
        eventually(lambda: not a.served()["error"], LONG)
        a.stop()


@pytest.mark.parametrize(
    ("break_", "said"),
    [
        (lambda w: w.config.write({podconfig.FILE: "{}"}), "no configuration of a worker"),
        (lambda w: (w.root / "config" / podconfig.FILE).unlink(), "No such file"),
        (
            lambda w: w.credentials.write({"cred/id": "x"}),
            "key key of Secret cred, which is not there: add the key to the Secret",
        ),
        (lambda w: w.secret.chmod(0o644), "is open to others"),
        (lambda w: (w.state / "index").rmdir() or (w.state / "index").write_text(""), "cannot be used"),
    ],
)
def test_what_a_restart_does_not_heal_is_said_last_with_code_2(tmp_path: Path, break_: object, said: str) -> None:
    with PodLab(tmp_path / "pods", manifest(s3("http://127.0.0.1:9")), ("node-a",)) as lab:
        a = lab["node-a"]
        assert callable(break_)
        break_(a)
        a.start(wait=False)
        assert a.process is not None
        assert a.process.wait(60) == 2
        assert said in a.text().splitlines()[-1]
        assert not list(a.run_dir.iterdir())  # nothing with credentials lies where the node looks in


def test_the_pre_stop_command_drains_only_what_is_leaving(store: S3Store, tmp_path: Path) -> None:
    with PodLab(tmp_path / "pods", manifest(one(store))) as lab:
        a, b = lab["node-a"], lab["node-b"]
        a.start(wait=False)
        b.start()
        a._wait_for_it(a.process)  # type: ignore[arg-type]
        for w in (a, b):
            eventually(lambda w=w: len(w.cluster()["members"]) == 2, LONG)
        for name in OBJECTS:
            if name.startswith("one/"):
                a.read("/" + name.removeprefix("one/"))
        before = store.link.sent["object"]
        done = a.drain()
        assert (done.returncode, done.stdout, a.cluster()["owns"]) == (0, "", True)
        (a.state / "members" / "leaving").write_text("")
        done = a.drain()
        assert done.returncode == 0, done.stderr
        assert re.match(r"drained: \d+ parts, ", done.stdout)
        assert a.cluster()["owns"] is False
        assert a.stats()["drain"]["state"] == "Done"  # type: ignore[index]
        a.stop()
        lab.list("node-b")
        eventually(lambda: [m["node"] for m in b.cluster()["members"]] == ["node-b"], LONG)
        for name, data in OBJECTS.items():
            if name.startswith("one/"):
                assert b.read("/" + name.removeprefix("one/")) == data
        assert store.link.sent["object"] == before  # what it owned is at the other's: no store was asked again
        lab.list("node-a", "node-b")
        a.start()  # a new start owns again
        assert a.cluster()["owns"] is True
        for w in (a, b):
            w.stop()


def test_an_order_to_leave_is_carried_out_then_the_worker_ends(store: S3Store, tmp_path: Path) -> None:
    with PodLab(tmp_path / "pods", manifest(one(store))) as lab:
        a, b = lab["node-a"], lab["node-b"]
        a.orders.parent.mkdir()
        a.orders.write_text("")  # as without the annotation
        a.start(wait=False)
        b.start()
        a._wait_for_it(a.process)  # type: ignore[arg-type]
        for w in (a, b):
            eventually(lambda w=w: len(w.cluster()["members"]) == 2, LONG)
        a.read("/large")
        a.orders.write_text("2026-11-27T09:00:00Z")
        assert a.process is not None
        assert a.process.wait(60) == 0, a.text()
        eventually(lambda: [m["node"] for m in b.cluster()["members"]] == ["node-b"], LONG)

        a.start(wait=False)  # the kubelet starts the container again: it serves nobody
        eventually(lambda: "stays_away" in a.text(), LONG)
        for port in a.ports:
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection((a.address, port), 2).close()
        a.orders.write_text("")  # taken back
        a._wait_for_it(a.process)
        assert a.cluster()["owns"] is True
        a.stop()

        a.orders.write_text("again")
        a.start(wait=False)
        eventually(lambda: a.text().count("stays_away") == 2, LONG)
        a.process.send_signal(signal.SIGTERM)
        assert a.process.wait(20) == 0
        b.stop()


def test_the_last_worker_refuses_to_leave_and_says_why(store: S3Store, tmp_path: Path) -> None:
    with PodLab(tmp_path / "pods", manifest(one(store)), ("node-a",)) as lab:
        a = lab["node-a"]
        a.orders.parent.mkdir()
        a.orders.write_text("now")
        a.orders.unlink()
        a.start()
        a.orders.write_text("now")
        eventually(lambda: a.stats()["drain"]["state"] == "Refused", LONG)  # type: ignore[index]
        assert "no other member takes the bytes" in a.stats()["drain"]["error"]  # type: ignore[index]
        assert a.read("/02") == OBJECTS["one/02"]
        client = ControlClient(Key(load_secret(str(a.secret)), "default/lab"))  # what members and tools are told
        stats = client.stats(f"{a.address}:{a.ports[1]}")
        client.close()
        assert stats["config"]["places"] == ["/"]
        assert isinstance(a.door.call(wire.Stats()), wire.Report)
        a.stop()


def test_a_worker_alone_that_starts_with_other_mounts_keeps_what_stayed(tmp_path: Path) -> None:
    one_, two_ = tmp_path / "one", tmp_path / "two"
    found = fill(one_, {"x": 70_000, "d/y": 10}) | fill(two_, {"z": 60_000}, seed=2)
    first, second = file_mount(one_), file_mount(two_, "/more")
    with Lab(tmp_path / "lab", [first, second]) as lab:
        lab.start()
        inodes = {name: lab.node(name).ino for name in ("/x", "/d/y", "/more/z")}
        assert lab.read("/more/z") == found["z"]
        lab.stop()

        def again(*mounts: Mount) -> None:
            lab.spec = msgspec.structs.replace(lab.spec, mounts=list(mounts))
            (lab.run_dir / "spec.json").write_bytes(encode_spec(lab.spec))
            lab.start()

        again(second)
        assert lab.read("/more/z") == found["z"]
        assert lab.node("/more/z").ino == inodes["/more/z"]
        assert [m["path"] for m in lab.stats()["mounts"]] == ["/more"]  # type: ignore[attr-defined, index]
        for gone in ("/x", "/d/y"):
            with pytest.raises(DoorError, match="no b'"):
                lab.node(gone)
        lab.stop()
        again(second, first)
        assert lab.read("/x") == found["x"]
        assert lab.node("/more/z").ino == inodes["/more/z"]
        assert lab.stats()["config"] is None
        lab.stop()
