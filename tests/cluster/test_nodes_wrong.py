"""Workers that meet what they should not: refused or routed around, logged, counted; readers go on, and every byte is right."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import msgspec
import pytest
from clusterlab import ClusterLab, NodeLab, random_objects
from faultlink import Fault
from faultserver import FaultServer, Request, Wire
from peerkit import read_answer, signed
from servers import ports_for
from workerlab import MIB, eventually, file_mount

from forebay.cache.client import DoorError
from forebay.cache.disk.index import BLOCK
from forebay.cache.members import placement
from forebay.cache.members.membership import identity
from forebay.cache.members.roster import Member
from forebay.cache.peers import wire
from forebay.cache.peers.auth import Key, Signer, load_secret, make_secret
from forebay.cache.peers.wire import Ref

pytestmark = pytest.mark.cluster

SIZES = {f"s/{i:02}": 500 + 997 * i for i in range(40)} | {f"m/{i}": 3 * MIB + 77 * i for i in range(3)} | {"large": 66 * MIB + 5}
DATA = random_objects(SIZES)
TOTAL = sum(SIZES.values())


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("source")
    for name, data in DATA.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(data)
    return root


def read_all(*nodes: NodeLab) -> None:
    for node in nodes:
        for name, want in DATA.items():
            assert node.read(f"/{name}") == want, f"{node.cluster.node}: {name}"


# --- who may ask


def send(node: NodeLab, request: bytes) -> tuple[int, str, bytes]:
    host, _, port = node.cluster.listen.rpartition(":")
    with socket.create_connection((host, int(port)), 10) as sock:
        sock.sendall(request)
        return read_answer(sock)


def test_no_secret_no_byte(tmp_path: Path, source: Path) -> None:
    """Unsigned, signed with another secret, for another dataset, late, or a second time: not a byte of what is cached."""
    with ClusterLab(tmp_path, [file_mount(source)], workers=1) as lab:
        lab.start()
        (node,) = lab.workers
        read_all(node)
        mount = node.spec.mounts[0].identity
        name = "m/0"
        ref = Ref(mount, name.encode(), node.node(f"/{name}").version, SIZES[name])
        headers = (wire.encode_ref(ref), wire.range_of(0, 2, ref.size), "fetch", "")
        right = Key(load_secret(str(lab.secret)), node.spec.id)

        def request(key: Key = right, clock: float = 0.0, **more: object) -> bytes:
            return signed("/v1/blob", headers=headers, signer=Signer(key, lambda: time.time() + clock), **more)  # type: ignore[arg-type]

        good = request()
        status, _, body = send(node, good)
        assert status == 206
        assert body[8 : 8 + BLOCK] == DATA[name][:BLOCK], "the request itself is right"
        bare = b"\r\n".join(line for line in request().split(b"\r\n") if not line.startswith(b"x-forebay-auth"))
        wrong = [
            good,  # replayed
            bare,
            request(Key(os.urandom(32), node.spec.id)),
            request(Key(load_secret(str(lab.secret)), "default/other")),
            request(clock=-60),
            request(clock=60),
            request().replace(b"range: bytes=0-", b"range: bytes=262144-"),
        ]
        for each in wrong:
            status, error, body = send(node, each)
            assert (status, error) == (401, "Unauthorised")
            assert DATA[name][:100] not in body
        assert send(node, request(protocol="2"))[:2] == (505, "Protocol")
        assert send(node, request(extra=f"x: {'y' * wire.HEAD_MOST}\r\n"))[:2] == (431, "HeadTooLarge")
        for key in (b"../lab.secret", b"a/../../b", b"m/0\0", b"/etc/passwd"):
            evil = (wire.encode_ref(Ref(mount, key, ref.version, ref.size)), headers[1], "fetch", "")
            assert send(node, signed("/v1/blob", headers=evil, signer=Signer(right, time.time)))[:2] == (400, "Malformed")
        refused = node.report()["port"]["refused"]
        assert refused["Unauthorised"] == len(wrong)
        assert refused["Malformed"] == 4
        read_all(node)
        assert not any(load_secret(str(lab.secret)) in p.read_bytes() for p in node.root.rglob("*.log"))


def test_a_node_with_another_secret_is_no_member_and_gets_nothing(tmp_path: Path, source: Path) -> None:
    with ClusterLab(tmp_path, [file_mount(source)], workers=3, clients=1) as lab:
        stranger, client = lab.nodes["node-3"], lab.nodes["client-1"]
        for node in (stranger, client):
            make_secret(str(node.root / "other"))
            node.respec(secret_file=str(node.root / "other"))
        lab.start("node-1", "node-2", members=2)
        lab.start("node-3", members=1)
        client.start()
        read_all(lab.nodes["node-1"], lab.nodes["node-2"])
        assert sum(lab.nodes[n].report()["bytes"]["store"] for n in ("node-1", "node-2")) == TOTAL
        read_all(stranger)
        assert stranger.report()["bytes"] == {"store": TOTAL}
        began = time.monotonic()
        with pytest.raises(DoorError) as e:
            client.read("/m/0")
        assert e.value.errno in (errno.EIO, errno.ENOENT, errno.EACCES)
        assert time.monotonic() - began < 59, "the door gave up, not who asks the members"
        for node in lab.workers:
            assert node.members() == (1 if node is stranger else 2)
        refused = lab.nodes["node-1"].report()["port"]["refused"]
        assert refused["Unauthorised"] >= 2


def test_two_workers_with_one_identity(tmp_path: Path, source: Path) -> None:
    with ClusterLab(tmp_path, [file_mount(source)], workers=3) as lab:
        twin = lab.nodes["node-3"]
        lab.start("node-1", "node-2", members=2)
        shutil.copytree(lab.nodes["node-1"].index_dir, twin.index_dir, dirs_exist_ok=True, ignore=shutil.ignore_patterns("lock*"))
        assert twin.identity() == lab.nodes["node-1"].identity()
        twin.start()
        second = lab.nodes["node-2"]
        eventually(lambda: "duplicate_identity" in second.text())
        read_all(*lab.workers)
        found = {m["data"] for m in second.report()["members"]}
        assert found == {lab.nodes["node-1"].address, second.address}, "the later of two is refused"
        # who takes the identity away is a member like any other
        twin.stop()
        (twin.index_dir / "identity").unlink()
        twin.start()
        eventually(lambda: second.members() == 3)
        read_all(*lab.workers)


# --- the list


def test_a_list_that_flaps_breaks_and_vanishes(tmp_path: Path, source: Path) -> None:
    """One member in and out every 0.4 s, then rubbish, nothing, no file: readers go on, and the bytes do not wander."""
    with ClusterLab(tmp_path, [file_mount(source)], workers=3, clients=1) as lab:
        lab.start()
        stop = threading.Event()

        def flap() -> None:
            n = 0
            while not stop.is_set():
                n += 1
                lab.write_list(without="node-3" if n % 2 else "")
                stop.wait(0.4)

        flapping = threading.Thread(target=flap)
        flapping.start()
        try:
            read_all(*lab.nodes.values())
            time.sleep(3)
        finally:
            stop.set()
            flapping.join(10)
        assert TOTAL <= lab.store_bytes() <= 1.2 * TOTAL
        first = lab.nodes["node-1"]
        assert first.text().count('"changed"') < 8, "each flap moved the bytes"
        lab.write_list()
        eventually(lambda: all(n.members() == 3 for n in lab.nodes.values()))
        for rubbish in (b"\x00\xff", b"[]", b"- data: 127.0.0.1:1\n  wieght: 2\n"):
            lab.list_path.write_bytes(rubbish)
            eventually(lambda: first.report()["list_error"])
            assert first.members() == 3
        lab.list_path.unlink()
        time.sleep(3)
        assert {n.members() for n in lab.nodes.values()} == {3}
        read_all(*lab.nodes.values())
        lab.write_list()
        eventually(lambda: not first.report()["list_error"])


def test_a_list_with_dead_addresses(tmp_path: Path, source: Path) -> None:
    """One that nobody knows is no member; one that is stated in full is a member, and is stood in for."""
    dead = [f"127.0.0.1:{p}" for p in ports_for(2)]
    with ClusterLab(tmp_path, [file_mount(source)], workers=2, clients=1) as lab:
        ghost = str(uuid.uuid4())
        lab.write_list({"data": dead[0]}, {"data": dead[1], "id": ghost, "weight": 1.0})
        lab.start(members=3)
        began = time.monotonic()
        read_all(*lab.nodes.values())
        assert time.monotonic() - began < 60
        report = lab.nodes["node-1"].report()
        assert {m["id"]: m["down"] for m in report["members"]}[ghost]
        assert report["events"]["refused"] > 0
        assert dead[0] not in {m["data"] for m in report["members"]}
        assert lab.store_bytes() == TOTAL, "who stands in fetches once as well"


# --- members that misbehave


def speaks_another_protocol(r: Request, w: Wire) -> None:
    w.reply(505, {}, msgspec.msgpack.encode(wire.Failed("Protocol", "protocol 2 is spoken here")))


def answers_rubbish(r: Request, w: Wire) -> None:
    w.reply(200, {"Content-Type": wire.BLOCKS_TYPE}, os.urandom(5000))


def is_no_worker(r: Request, w: Wire) -> None:
    w.reply(404, {"Content-Type": "text/html"}, b"<html>not found</html>")


def hangs_up(r: Request, w: Wire) -> None:
    w.close()


def test_members_that_are_something_else(tmp_path: Path, source: Path) -> None:
    """Four of six members are none, each in its own way; two workers and a client tier do without them."""
    with ExitStack() as undo:
        strange = [
            undo.enter_context(FaultServer(acts)) for acts in (speaks_another_protocol, answers_rubbish, is_no_worker, hangs_up)
        ]
        lab = undo.enter_context(ClusterLab(tmp_path, [file_mount(source)], workers=2, clients=1))
        lab.write_list(*({"data": s.url.removeprefix("http://"), "id": str(uuid.uuid4()), "weight": 1.0} for s in strange))
        lab.start(members=6)
        read_all(*lab.nodes.values())
        for node in lab.nodes.values():
            events = node.report()["events"]
            assert events["shut"] > 0, events
            assert events["broken"] > 0, events
        assert lab.store_bytes() == TOTAL, "who stands in fetches once as well"
        assert all(s.requests for s in strange)


@pytest.fixture
def linked(tmp_path: Path, source: Path) -> Iterator[ClusterLab]:
    with ClusterLab(tmp_path, [file_mount(source)], workers=3, clients=1, links=True) as lab:
        lab.start()
        yield lab


def test_a_member_whose_bytes_arrive_wrong(linked: ClusterLab) -> None:
    """Every answer with bytes of node-2 has a flipped bit somewhere: nobody sees it, it is counted, and node-2 is told."""
    turn = iter(range(1 << 30))
    linked.links["node-2"].plan = lambda r: (
        Fault("corrupt", 999_983 * next(turn)) if r.path in ("/v1/blob", "/v1/batch") else None
    )
    read_all(*linked.nodes.values())
    assert linked.links["node-2"].counts["corrupt"] > 0
    events = [n.report()["events"] for n in linked.nodes.values() if n.cluster.node != "node-2"]
    assert sum(e.get("wrong_checksum", 0) + e.get("batch_failed", 0) + e.get("broken", 0) + e.get("shut", 0) for e in events) > 0
    assert sum(e.get("wrong_checksum", 0) for e in events) > 0
    eventually(lambda: '"suspect"' in linked.nodes["node-2"].text())
    assert linked.nodes["node-2"].stats()["scrub"]["bad_blocks"] == 0, "its own bytes are right"  # type: ignore[index]


def owner_of_a_large_one(lab: ClusterLab) -> NodeLab:
    """Of four large files one node owns none in one of sixteen runs: what it has is then asked of nobody."""
    nodes = {identity(str(n.index_dir))[0]: n for n in lab.workers}
    members = [Member(i, "") for i in nodes]
    (path, *_) = (p for p in (lab.workers[0].root / "tier0" / "objects").rglob("*") if p.is_file() and p.stat().st_size > MIB)
    owner = placement.owner(bytes.fromhex(path.name), 0, members)
    assert owner is not None
    return nodes[owner.id]


def test_a_member_whose_disk_flips_bits(tmp_path: Path, source: Path) -> None:
    """What it sends has a wrong checksum then: readers take the bytes from elsewhere, it looks again and mends its copy."""
    with ClusterLab(tmp_path, [file_mount(source)], workers=2, clients=1) as lab:
        lab.start()
        read_all(lab.nodes["node-1"], lab.nodes["node-2"])
        flipped = 0
        bad = owner_of_a_large_one(lab)
        for path in (bad.root / "tier0" / "objects").rglob("*"):
            if path.is_file() and path.stat().st_size > MIB:
                with path.open("r+b") as f:
                    f.seek(MIB + 5)
                    byte = f.read(1)
                    f.seek(MIB + 5)
                    f.write(bytes((byte[0] ^ 1,)))
                flipped += 1
        assert flipped == 4
        client = lab.nodes["client-1"]
        read_all(client)
        assert client.report()["events"]["wrong_checksum"] > 0
        eventually(lambda: bad.stats()["scrub"]["bad_blocks"] > 0)  # type: ignore[index]


@pytest.mark.long
def test_members_behind_slow_and_breaking_links(linked: ClusterLab) -> None:
    """Each in its own way, all at once; a turn later, with no fault left, everybody has everything."""
    turns = {name: iter(range(1 << 30)) for name in linked.links}
    acts = {
        "node-1": lambda n: Fault("stall", 100_000 * n, 1.5),
        "node-2": lambda n: Fault("reset", 300_007 * n) if n % 2 else Fault("truncate", 300_007 * n),
        "node-3": lambda n: Fault("busy") if n % 2 else Fault("delay", seconds=1.2),
    }
    for name, link in linked.links.items():
        link.plan = lambda r, name=name: acts[name](n) if (n := next(turns[name])) % 3 == 0 else None  # type: ignore[misc]
    began = time.monotonic()
    read_all(linked.nodes["client-1"], linked.nodes["node-1"])
    assert time.monotonic() - began < 90
    assert all(link.counts for link in linked.links.values())
    for link in linked.links.values():
        link.plan = lambda r: None
    read_all(*linked.nodes.values())


@pytest.mark.long
def test_an_owner_that_falls_silent_is_stood_in_for(linked: ClusterLab) -> None:
    """Stopped, not killed: it accepts connections and says nothing. Readers wait 10 s for it once, not for each file."""
    linked.links["node-2"].plan = lambda r: Fault("stall", -1, 60)
    began = time.monotonic()
    read_all(linked.nodes["client-1"])
    assert 9 < time.monotonic() - began < 60
    assert linked.nodes["client-1"].report()["events"]["silent"] > 0
