"""What a mount shows when objects change, leave the cache, or the worker dies: new names, old handles, no stale byte."""

from __future__ import annotations

import ctypes
import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from mountlab import Lab, lab
from workerlab import committed

from forebay.api import wire
from forebay.cache.client import Door

pytestmark = [
    pytest.mark.mount,
    pytest.mark.skipif(os.geteuid() != 0 or not os.path.exists("/dev/fuse"), reason="needs root and /dev/fuse"),
]


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not come true in time"
        time.sleep(0.02)


def start(made: Lab) -> Path:
    made.start_worker()
    made.start()
    made.granted()
    return made.mount_point


@pytest.fixture(params=["passthrough", "without"])
def options(request: pytest.FixtureRequest) -> list[str]:
    return ["--no-passthrough"] if request.param == "without" else []


@pytest.mark.parametrize("size", [1000, 12 << 20])
def test_a_changed_object_is_a_new_inode_and_the_old_handle_reads_the_old_bytes(options: list[str], size: int) -> None:
    old, new = random.Random(1).randbytes(size), random.Random(2).randbytes(size + 5)
    with lab(ttl=1.0) as made:
        made.options = options
        (made.model / "f").write_bytes(old)
        (made.model / "other").write_bytes(b"other")
        m = start(made)
        assert (m / "f").read_bytes() == old
        with open(m / "f", "rb", buffering=0) as held:
            (made.model / "fresh").write_bytes(new)
            os.rename(made.model / "fresh", made.model / "f")
            until(lambda: (m / "f").stat().st_size == size + 5)
            assert (m / "f").read_bytes() == new
            assert os.fstat(held.fileno()).st_size == size
            assert os.pread(held.fileno(), size + 100, 0) == old
            assert os.stat(m / "f").st_ino != os.fstat(held.fileno()).st_ino
        assert (m / "other").read_bytes() == b"other"


def test_names_come_and_go_within_the_ttl() -> None:
    with lab(ttl=1.0) as made:
        (made.model / "folder").mkdir()
        (made.model / "folder" / "a").touch()
        m = start(made)
        assert os.listdir(m / "folder") == ["a"]
        with pytest.raises(FileNotFoundError):
            os.stat(m / "folder" / "b")
        (made.model / "folder" / "b").write_bytes(b"b")
        (made.model / "folder" / "a").unlink()
        until(lambda: os.listdir(m / "folder") == ["b"])
        until(lambda: not (m / "folder" / "a").exists())
        assert (m / "folder" / "b").read_bytes() == b"b"


def test_immutable_never_asks_again() -> None:
    with lab(mode="immutable") as made:
        (made.model / "f").write_bytes(b"first")
        m = start(made)
        assert (m / "f").read_bytes() == b"first"
        assert os.listdir(m) == ["f"]
        (made.model / "f").write_bytes(b"second, longer")
        (made.model / "g").touch()
        time.sleep(1.5)
        assert (m / "f").read_bytes() == b"first"
        assert os.listdir(m) == ["f"]


def test_validate_shows_a_change_at_the_next_open(options: list[str]) -> None:
    """OPEN answers ESTALE, the kernel walks again, the program sees the new file only."""
    with lab(mode="validate", ttl=3600.0) as made:
        made.options = options
        (made.model / "f").write_bytes(b"first")
        m = start(made)
        for content in (b"first", b"second, longer", b"3"):
            fresh = made.model / "fresh"
            fresh.write_bytes(content)
            os.rename(fresh, made.model / "f")
            assert (m / "f").read_bytes() == content
            assert (m / "f").stat().st_size == len(content)


def test_a_direct_open_forces_the_check() -> None:
    with lab(ttl=3600.0) as made:
        (made.model / "f").write_bytes(b"a" * 4096)
        m = start(made)
        assert (m / "f").read_bytes() == b"a" * 4096
        (made.model / "fresh").write_bytes(b"b" * 4096)
        os.rename(made.model / "fresh", made.model / "f")
        assert (m / "f").read_bytes() == b"a" * 4096
        os.close(os.open(m / "f", os.O_RDONLY | os.O_DIRECT))
        assert (m / "f").read_bytes() == b"b" * 4096


def test_a_refresh_reaches_the_kernel() -> None:
    """Changed events drop the kernel's entries, which a long timeout would keep."""
    with lab(mode="event") as made:
        (made.model / "f").write_bytes(b"first")
        (made.model / "gone").write_bytes(b"gone")
        m = start(made)
        assert (m / "f").read_bytes() == b"first"
        assert sorted(os.listdir(m)) == ["f", "gone"]
        assert not (m / "new").exists(), "the kernel holds from now on that it is absent"
        (made.model / "fresh").write_bytes(b"second, longer")
        os.rename(made.model / "fresh", made.model / "f")
        (made.model / "gone").unlink()
        (made.model / "new").touch()
        assert (m / "f").read_bytes() == b"first"
        with Door(made.run / "worker.sock") as door:
            door.call(wire.Refresh(path=b"/"))
        until((m / "new").exists)  # before a listing, which would bring the name by itself
        until(lambda: sorted(os.listdir(m)) == ["f", "new"])
        until(lambda: (m / "f").read_bytes() == b"second, longer")
        until(lambda: not (m / "gone").exists())


def test_what_vanished_while_the_daemon_was_dead_is_gone_afterwards() -> None:
    """The worker had nobody to tell, and nothing else would end the kernel's entry where names never expire."""
    with lab(mode="event") as made:
        (made.model / "gone").write_bytes(b"gone")
        (made.model / "stays").write_bytes(b"stays")
        m = start(made)
        assert (m / "gone").read_bytes() == b"gone"
        with Door(made.run / "worker.sock") as door:
            until(lambda: door.call(wire.Stat(b"/gone")).size == 4)
            made.kill_daemon()
            (made.model / "gone").unlink()
            door.call(wire.Refresh(path=b"/"))
            page = door.call(wire.Children(b"/"))
            assert isinstance(page, wire.Page)
            assert [n.name for n in page.nodes] == [b"stays"]
        made.start_daemon()
        until(lambda: not (m / "gone").exists())
        assert (m / "stays").read_bytes() == b"stays"


def test_evicted_files_give_their_space_back(options: list[str], tmp_path: Path) -> None:
    """The tier is a tmpfs of its own: what idle backing ids kept alive would show as used blocks."""
    libc = ctypes.CDLL(None, use_errno=True)
    with lab(ttl=3600.0, quota=16 << 20) as made:
        assert libc.mount(b"tmpfs", os.fsencode(made.tier), b"tmpfs", 0, b"size=64m") == 0
        try:
            made.options = options
            for i in range(24):
                (made.model / f"f{i}").write_bytes(random.Random(i).randbytes(2 << 20))
            m = start(made)
            with open(m / "f0", "rb", buffering=0) as held:
                for _ in range(2):
                    for i in range(24):
                        assert (m / f"f{i}").read_bytes() == (made.model / f"f{i}").read_bytes()
                assert held.read() == (made.model / "f0").read_bytes()

            def used() -> int:
                st = os.statvfs(made.tier)
                return (st.f_blocks - st.f_bfree) * st.f_frsize

            until(lambda: used() <= (16 << 20) + (3 << 20))
        finally:
            made.halt()
            libc.umount2(os.fsencode(made.tier), 2)


def test_the_worker_is_killed_under_a_reader(options: list[str]) -> None:
    size = 64 << 20
    with lab(ttl=3600.0) as made:
        made.options = options
        whole = random.Random(3).randbytes(size)
        (made.model / "large").write_bytes(whole)
        for i in range(50):
            (made.model / f"s{i}").write_bytes(b"%d" % i * 1000)
        m = start(made)
        with open(m / "large", "rb", buffering=0) as f:
            for at in range(0, size, 1 << 20):
                if at in {5 << 20, 30 << 20}:
                    made.worker.kill()
                    made.worker.wait(60)
                    made.start_worker()
                assert f.read(1 << 20) == whole[at : at + (1 << 20)]
        for i in range(50):
            assert (m / f"s{i}").read_bytes() == b"%d" % i * 1000


def test_without_a_worker_what_is_cached_stays_and_the_rest_is_an_error() -> None:
    with lab(ttl=3600.0) as made:
        (made.model / "seen").write_bytes(b"seen")
        (made.model / "unseen").write_bytes(b"unseen" * 10)
        m = start(made)
        assert (m / "seen").read_bytes() == b"seen"
        assert len(os.listdir(m)) == 2
        until(lambda: committed(made.base / "index") == (1, 4))
        made.worker.kill()
        made.worker.wait(60)
        assert (m / "seen").read_bytes() == b"seen"
        assert (m / "unseen").stat().st_size == 60
        began = time.monotonic()
        with pytest.raises(OSError, match="Input/output error"):
            (m / "unseen").read_bytes()
        assert time.monotonic() - began < 40
        assert (m / "seen").read_bytes() == b"seen"
        made.start_worker()
        until(lambda: (m / "unseen").read_bytes() == b"unseen" * 10)


def test_a_killed_reader_does_not_wait_for_a_dead_worker() -> None:
    with lab(ttl=3600.0) as made:
        (made.model / "f").write_bytes(b"x")
        m = start(made)
        assert os.stat(m / "f").st_size == 1
        made.worker.kill()
        made.worker.wait(60)
        pid = os.fork()
        if pid == 0:
            try:
                (m / "f").read_bytes()
            finally:
                os._exit(0)
        time.sleep(0.5)
        os.kill(pid, 9)
        began = time.monotonic()
        _, status = os.waitpid(pid, 0)
        assert os.WTERMSIG(status) == 9
        assert time.monotonic() - began < 8, "a request for a worker that is gone waits 10 s"
