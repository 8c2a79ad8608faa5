"""Mounts come and go under a kernel mount whose files are open: no process starts again, no inode changes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from up_nodes import Nodes
from up_place import Place, make_place
from workerlab import eventually

from forebay.api.spec import Freshness, Mount, decode_spec, encode_spec
from forebay.fuse.supervision import rundir

pytestmark = [pytest.mark.mount, pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="no /dev/fuse on this machine")]
LONG = 60.0


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    for place in make_place():
        yield Nodes(place)


def respec(place: Place, mounts: list[Mount]) -> None:
    """What whoever started the nodes writes: the owner first, for a client tier asks it."""
    for node in ("node-1", "client-1"):
        path = place.run / "default" / f"data@{node}" / "spec.json"
        rundir.replace_file(str(path), encode_spec(msgspec.structs.replace(decode_spec(path.read_bytes()), mounts=mounts)))


def pids(nodes: Nodes) -> dict[str, list[int]]:
    return {name: sorted(p["pid"] for p in r["processes"]) for name, r in nodes.reports().items()}


@pytest.mark.parametrize(("said", "freshness"), [("ttl=60s", Freshness()), ("immutable", Freshness("immutable"))])
def test_mounts_come_and_go_under_open_files(nodes: Nodes, said: str, freshness: Freshness) -> None:
    place = nodes.place
    noted = f"{{name: data, annotations: {{forebay.io/freshness: {said}}}}}"
    place.yaml.write_text(place.yaml.read_text().replace("{name: data}", noted))
    more = place.top / "more"
    (more / "sub").mkdir(parents=True)
    for name in ("a", "sub/b"):
        (more / name).write_bytes(os.urandom(100_000))
    done = nodes.up(1, 2)
    assert done.returncode == 0, done.stderr
    nodes.read(0, 1)
    before = pids(nodes)
    shown = nodes.mounts[:2]
    held = [os.open(m / "big", os.O_RDONLY) for m in shown]
    inodes = [os.stat(m / "sub" / "f01").st_ino for m in shown]
    for m in shown:
        assert not (m / "more").exists()  # and the kernel may remember that
    first = Mount(f"local://{place.origin}", "file", "/", "data", freshness=freshness)
    second = Mount(f"local://{more}", "file", "/more", "more", freshness=freshness)

    def same(m: Path, name: str) -> bool:
        try:
            return (m / "more" / name).read_bytes() == (more / name).read_bytes()
        except OSError:
            return False  # it comes within seconds

    def listed(m: Path) -> list[str]:
        try:
            return sorted(os.listdir(m))
        except OSError:
            return []  # a client tier may know of a mount before those that it asks

    respec(place, [first, second])
    for m, ino in zip(shown, inodes, strict=True):
        eventually(lambda m=m: same(m, "a") and same(m, "sub/b"), LONG)
        eventually(lambda m=m: listed(m) == ["big", "more", "sub"], LONG)
        assert os.stat(m / "sub" / "f01").st_ino == ino

    respec(place, [second])
    for m, fd in zip(shown, held, strict=True):
        eventually(lambda m=m: listed(m) == ["more"], LONG)
        for gone in ("big", "sub/f01"):
            eventually(lambda m=m, gone=gone: not (m / gone).exists(), LONG)  # the kernel is told by a message of its own
        assert os.pread(fd, 1 << 26, 0) == (place.origin / "big").read_bytes()  # it is open
        os.close(fd)
        assert same(m, "a")

    respec(place, [second, first])
    for i, m in enumerate(shown):
        eventually(lambda m=m: listed(m) == ["big", "more", "sub"], LONG)
        assert same(m, "a")
        assert (m / "sub" / "f01").read_bytes() == (place.origin / "sub" / "f01").read_bytes(), i
    assert pids(nodes) == before
    assert nodes.place("down").returncode == 0
    place.assert_nothing_left()
