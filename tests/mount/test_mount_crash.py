"""kill -9 of the daemon under readers, again and again: a pause, never an error and never a wrong byte."""

from __future__ import annotations

import errno
import multiprocessing
import os
import random
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mountlab import Lab, lab
from workerlab import eventually

from forebay.fuse import record

pytestmark = [
    pytest.mark.mount,
    pytest.mark.skipif(os.geteuid() != 0 or not os.path.exists("/dev/fuse"), reason="needs root and /dev/fuse"),
    pytest.mark.timeout(180),
]

SMALL = 60
LARGE = 24 << 20


def content(name: str, size: int) -> bytes:
    return random.Random(name).randbytes(size)


def grow(model: Path) -> None:
    for i in range(SMALL):
        (model / f"s{i}").write_bytes(content(f"s{i}", 20_000 + i))
    (model / "large").write_bytes(content("large", LARGE))
    (model / "folder").mkdir()
    for i in range(300):
        (model / "folder" / f"n{i}").touch()


class Reader:
    """A process that repeats `step` until told to stop and reports what went wrong and its longest pause. `steps` counts."""

    def __init__(self, made: Lab, step: Callable[[random.Random], None], seed: int) -> None:
        context = multiprocessing.get_context("fork")
        self.stop = context.Event()
        self.ours, theirs = context.Pipe()
        self.steps = context.Value("q", 0)

        def run() -> None:
            os.close(made.device)  # else a reader that hangs keeps its own mount alive
            os.close(made.state)
            pick, longest, wrong = random.Random(seed), 0.0, []
            while not self.stop.is_set() and len(wrong) < 5:
                began = time.monotonic()
                try:
                    step(pick)
                except BaseException:  # noqa: BLE001 - reported to the test
                    wrong.append(traceback.format_exc())
                longest = max(longest, time.monotonic() - began)
                self.steps.value += 1
            theirs.send((longest, wrong))

        self.process = context.Process(target=run, daemon=True)
        self.process.start()

    def result(self) -> tuple[float, list[str]]:
        self.stop.set()
        assert self.ours.poll(60), "a reader hangs"
        out = self.ours.recv()
        self.process.join(60)
        return out


def all_go_on(readers: list[Reader], count: int = 4) -> None:
    """Until each has made so many steps more; one with too many errors makes none."""
    before = [reader.steps.value for reader in readers]
    eventually(
        lambda: all(
            now.steps.value >= was + count or not now.process.is_alive() for now, was in zip(readers, before, strict=True)
        )
    )


def steps(made: Lab) -> list[Callable[[random.Random], None]]:
    m = made.mount_point
    large = content("large", LARGE)
    small = {f"s{i}": content(f"s{i}", 20_000 + i) for i in range(SMALL)}
    held: list[int] = []  # opened by the reader's process, so that the mount is free when it ends
    buffer = bytearray(1 << 20)

    def open_file(pick: random.Random) -> None:
        """An open file, read at random places; its pages are dropped, so that requests are in flight at any time."""
        offset = pick.randrange(LARGE - (1 << 20))
        if not held:
            held.append(os.open(m / "large", os.O_RDONLY))
        os.posix_fadvise(held[0], 0, 0, os.POSIX_FADV_DONTNEED)
        assert os.pread(held[0], 1 << 20, offset) == large[offset : offset + (1 << 20)]

    def new_opens(pick: random.Random) -> None:
        name = f"s{pick.randrange(SMALL)}"
        assert (m / name).read_bytes() == small[name]

    def both(pick: random.Random) -> None:
        """Opens of the inode that others hold open in the same mode."""
        fd = os.open(m / "large", os.O_RDONLY)
        offset = pick.randrange(LARGE - (1 << 20)) & ~4095
        n = os.preadv(fd, [buffer], offset)
        assert buffer[:n] == large[offset : offset + n]
        os.close(fd)

    def names(pick: random.Random) -> None:
        found = os.listdir(m / "folder")
        assert len(found) == 300, len(found)
        assert os.stat(m / "folder" / f"n{pick.randrange(300)}").st_size == 0
        with pytest.raises(FileNotFoundError):
            os.stat(m / f"absent{pick.randrange(10**9)}")

    return [open_file, new_opens, both, names]


@pytest.fixture(params=["passthrough", "without", "worker", "worker-without"])
def mounted(request: pytest.FixtureRequest) -> Iterator[Lab]:
    with lab(mode="ttl" if "worker" in request.param else "immutable", ttl=1.0) as made:
        grow(made.model)
        made.options = ["--no-passthrough"] if "without" in request.param else []
        if "worker" in request.param:
            made.start_worker()
        else:
            made.fill()
        made.start()
        assert made.granted()["resend"] is True, "this kernel has no RESEND: a killed daemon costs the requests it held"
        yield made


def test_fifty_kills_under_readers(mounted: Lab) -> None:
    pick = random.Random(7)
    readers = [Reader(mounted, step, i) for i, step in enumerate(steps(mounted))]
    for _ in range(50):
        time.sleep(pick.random() * 0.12)
        mounted.kill_daemon()
        mounted.start_daemon()
        if pick.random() < 0.5:
            mounted.granted()  # else it is killed again wherever its start has come to
    mounted.granted()
    all_go_on(readers)
    results = [reader.result() for reader in readers]
    assert [wrong for _, wrong in results] == [[], [], [], []], mounted.worker_log() + mounted.log()[-3000:]
    lines = mounted.log_lines()
    assert [line for line in lines if line["message"] in {"defect", "malformed request", "thread died"}] == []
    assert lines[-1].get("restarts") or any(line.get("restarts") for line in lines)


def test_the_pause_of_one_kill(mounted: Lab) -> None:
    readers = [Reader(mounted, step, i) for i, step in enumerate(steps(mounted))]
    all_go_on(readers)
    mounted.kill_daemon()
    killed = time.monotonic()
    mounted.start_daemon()
    mounted.granted()
    resumed = time.monotonic() - killed
    all_go_on(readers)
    longest = max(longest for longest, _ in (r.result() for r in readers))
    print(f"serving again after {resumed:.2f} s, longest pause of a reader {longest:.2f} s")
    assert longest < 8.0 + resumed, "a request that the killed daemon had read was waited for, up to a deadline"


def mode(mounted: Lab, ino: int) -> str:
    """In which mode an inode is open now, by what the daemon keeps for its successor."""
    kept = record.Record(mounted.state)
    at = kept.slots.get(ino)
    word = kept.words[at] if at is not None else 0
    kept.close()
    return "passthrough" if word & record.PASS else "cached" if word else "none"


def test_open_files_are_read_while_no_daemon_lives(mounted: Lab) -> None:
    """Passthrough needs no daemon at all; a cached file waits for the next one."""
    large, passthrough = content("large", LARGE), bool(mounted.granted()["passthrough"])
    (mounted.mount_point / "large").read_bytes()  # complete from here on
    fd = os.open(mounted.mount_point / "large", os.O_RDONLY)
    until = time.monotonic() + 60
    while passthrough and mode(mounted, os.fstat(fd).st_ino) != "passthrough":  # the open came before the last release was read
        assert time.monotonic() < until
        os.close(fd)
        time.sleep(0.1)
        fd = os.open(mounted.mount_point / "large", os.O_RDONLY)
    mounted.kill_daemon()
    if passthrough:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        assert os.pread(fd, 1 << 20, 3 << 20) == large[3 << 20 : 4 << 20]
    mounted.start_daemon()
    assert os.pread(fd, 1 << 20, 5 << 20) == large[5 << 20 : 6 << 20]
    os.close(fd)


@pytest.mark.parametrize("options", [[], ["--no-passthrough"]], ids=["passthrough", "without"])
def test_a_kernel_without_resend(options: list[str]) -> None:
    """The profile of kernels before 6.9: the successor finds what its predecessor had read in the keeper record."""
    with lab(mode="immutable") as made:
        grow(made.model)
        made.fill()
        made.options = options
        made.env = {"FOREBAY_NO_RESEND": "1"}
        made.start()
        assert made.granted()["resend"] is False
        readers = [Reader(made, step, i) for i, step in enumerate(steps(made) * 2)]
        pick = random.Random(3)
        for _ in range(40):
            time.sleep(pick.random() * 0.1)
            made.kill_daemon()
            made.start_daemon()
            if pick.random() < 0.5:
                made.granted()
        made.granted()
        all_go_on(readers)
        results = [reader.result() for reader in readers]
        assert [wrong for _, wrong in results] == [[]] * 8, made.log()[-3000:]


def test_closed_for_good_the_mount_says_so(mounted: Lab) -> None:
    """Both holders let go of the device: an error, not a hang."""
    mounted.kill_daemon()
    os.close(mounted.device)
    mounted.device = -1
    with pytest.raises(OSError, match=os.strerror(errno.ENOTCONN)):
        os.stat(mounted.mount_point / "s1")
