"""The door and the directories: who may come in, what is refused, and with which sentence."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

import msgspec
import pytest
from workerlab import Lab, eventually, file_mount, fill

from forebay.api import wire
from forebay.api.spec import Tier
from forebay.cache.client import Door, DoorError

pytestmark = pytest.mark.cluster


@pytest.fixture
def lab(tmp_path: Path):  # type: ignore[no-untyped-def]
    fill(tmp_path / "src", {"a": 1000, b"\xff\xfe".decode("utf-8", "surrogateescape"): 10})
    with Lab(tmp_path / "lab", [file_mount(tmp_path / "src")]) as lab:
        yield lab


def refused(lab: Lab, *args: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "forebay.cache.worker", "--run-dir", str(lab.run_dir), *args],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    return done.returncode, done.stderr.strip()


def test_a_second_worker_is_refused_in_one_sentence(lab: Lab) -> None:
    lab.start()
    assert lab.process is not None
    code, said = refused(lab)
    assert code == 2
    assert said == (
        f"cache directory {lab.index_dir} in use by pid {lab.process.pid}: stop that worker (`forebay down`), "
        "or give another --cache-dir"
    )
    lab.read("/a")


def test_a_tier_in_use_by_another_dataset_is_refused(lab: Lab, tmp_path: Path) -> None:
    lab.start()
    with Lab(tmp_path / "other", [file_mount(tmp_path / "src")], [Tier("SSD", lab.tiers[0].path)]) as other:
        code, said = refused(other)
    assert code == 2
    assert said.startswith(f"cache directory {lab.tiers[0].path} in use by pid ")


def test_what_a_newer_forebay_wrote_is_refused(lab: Lab) -> None:
    lab.start()
    lab.stop()
    version = Path(lab.tiers[0].path, "VERSION")
    assert version.read_text() == "1\n"
    version.write_text("2\n")
    code, said = refused(lab)
    assert code == 2
    assert "version 2, newer than this build's 1: upgrade forebay" in said
    assert "\n" not in said


@pytest.mark.parametrize(
    ("text", "sentence"),
    [(b"{", "not a forebay spec"), (None, "cannot be read"), (b'{"version": 99}', "not a forebay spec")],
)
def test_a_bad_spec_is_one_sentence(lab: Lab, text: bytes | None, sentence: str) -> None:
    spec = lab.run_dir / "spec.json"
    if text is None:
        spec.unlink()
    else:
        spec.write_bytes(text)
    code, said = refused(lab)
    assert code == 2
    assert sentence in said
    assert "\n" not in said


def test_metrics_are_served_on_loopback_only(lab: Lab) -> None:
    code, said = refused(lab, "--metrics", "0.0.0.0:9180")
    assert (code, "only loopback" in said) == (2, True)
    lab.start("--metrics", "127.0.0.1:0")
    lab.read("/a")
    eventually(lambda: '"metrics"' in lab.text())
    port = int(lab.text().split('"what": "metrics", "port": ')[1].split("}")[0])
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as reply:
        text = reply.read().decode()
    assert 'forebay_opens_total{result="miss"} 1.0' in text
    assert f'forebay_tier_objects{{medium="SSD",tier="{lab.tiers[0].path}"}}' in text
    answer = lab.door.call(wire.Stats(metrics=True))
    assert isinstance(answer, wire.Report)
    assert "forebay_store_bytes_total" in str(answer.values["metrics"])


def packets(lab: Lab, *sent: bytes) -> list[bytes]:
    """What comes back on a raw connection until it is closed or silent for 20 s."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as s:
        s.connect(str(lab.run_dir / "worker.sock"))
        s.settimeout(20)
        for packet in sent:
            s.send(packet)
        got = []
        try:
            while data := s.recv(wire.MAX_PACKET):
                got.append(data)
        except TimeoutError:
            got.append(b"still open")
        return got


def test_what_is_no_request_is_refused_and_harms_nobody(lab: Lab) -> None:
    lab.start()
    hello = wire.encode(wire.Hello("cli"))
    for sent in ([b"nonsense"], [hello, b"\xc1"], [hello, msgspec.msgpack.encode({"type": "Open", "ino": "x"})]):
        replies = [wire.decode_reply(p) for p in packets(lab, *sent)]
        assert isinstance(replies[-1], wire.Failed)
        assert replies[-1].errno == errno.EPROTO
    assert packets(lab, wire.encode(wire.Stats()))[-1] != b"still open", "a request before Hello was served"
    old = wire.decode_reply(packets(lab, wire.encode(wire.Hello("cli", protocol=0)))[0])
    assert isinstance(old, wire.Failed)
    assert "same version" in old.message
    with pytest.raises(DoorError) as e:
        lab.door.call(wire.Ensure(lab.node("/a").ino, 0, 1 << 40))
    assert e.value.errno == errno.EINVAL
    lab.read("/a")


def test_the_door_takes_so_many_connections_and_no_more(lab: Lab) -> None:
    lab.start()
    lab.door.close()
    held = []
    try:
        for _ in range(256):
            s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            s.connect(str(lab.run_dir / "worker.sock"))
            s.send(wire.encode(wire.Hello("cli")))
            s.settimeout(60)
            assert isinstance(wire.decode_reply(s.recv(65536)), wire.Welcome)
            held.append(s)
        with Door(lab.run_dir / "worker.sock") as late, pytest.raises(DoorError) as e:
            late.call(wire.Stats(), 60)
        assert e.value.errno == errno.EAGAIN
    finally:
        for s in held:
            s.close()
    with Door(lab.run_dir / "worker.sock") as late:
        eventually(lambda: isinstance(late.call(wire.Stats(), 60), wire.Report))


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to become another user")
def test_another_user_is_refused(lab: Lab) -> None:
    lab.start()
    sock = lab.run_dir / "worker.sock"
    assert sock.stat().st_mode & 0o777 == 0o600
    # the mode alone keeps others out; with it opened, the peer's credentials do
    os.chmod(sock, 0o666)
    script = (
        "import os, socket, sys; s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET);"
        f"os.chdir({str(lab.run_dir)!r}); os.setuid(65534); s.connect('worker.sock'); sys.stdout.buffer.write(s.recv(65536))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=60, check=True)
    reply = wire.decode_reply(done.stdout)
    assert isinstance(reply, wire.Failed)
    assert reply.errno == errno.EACCES


def test_names_that_are_not_utf8_go_through(lab: Lab) -> None:
    lab.start()
    node = lab.door.call(wire.Stat(b"/\xff\xfe"))
    assert isinstance(node, wire.Node)
    assert (node.name, node.size) == (b"\xff\xfe", 10)


def test_a_closed_door_lets_its_waiters_go(lab: Lab) -> None:
    lab.start()
    ended = threading.Event()

    def listen() -> None:
        for _ in lab.door.subscribe():
            pass
        ended.set()

    threading.Thread(target=listen, daemon=True).start()
    eventually(lambda: lab.stats()["requests"].get("Subscribe"))  # type: ignore[attr-defined]
    lab.door.close()
    assert ended.wait(60)
    with pytest.raises(DoorError):
        lab.door.call(wire.Stats())


def test_without_a_worker_the_sentence_says_what_to_do(tmp_path: Path) -> None:
    with Door(tmp_path / "worker.sock") as door, pytest.raises(DoorError) as e:
        door.call(wire.Stats(), 0.3)
    assert e.value.errno == errno.ENOTCONN
    assert "forebay up" in str(e.value)
