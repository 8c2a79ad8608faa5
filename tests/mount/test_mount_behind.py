"""What a sequential first reader leaves behind does not lie in memory twice, and is right when somebody comes back to it."""

from __future__ import annotations

import ctypes
import mmap
import os
import time
from collections.abc import Iterator

import pytest
from mountlab import Lab, lab

pytestmark = [
    pytest.mark.mount,
    pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="no /dev/fuse on this machine"),
    pytest.mark.skipif(os.geteuid() != 0, reason="passthrough takes root"),
]

MIB = 1 << 20
SIZE, READ = 256 * MIB, 128 * MIB
"""Read-ahead of 64 MiB leaves the end of the file absent when READ was read: it is still arriving."""


@pytest.fixture(params=[True, False], ids=["passthrough", "without"])
def mounted(request: pytest.FixtureRequest) -> Iterator[tuple[Lab, bool]]:
    with lab(mode="immutable") as made:
        block = os.urandom(MIB)
        with open(made.model / "huge", "wb") as f:
            for i in range(SIZE // MIB):
                f.write(i.to_bytes(8, "little") + block[8:])
        made.options = [] if request.param else ["--no-passthrough"]
        made.start_worker()
        made.start()
        assert made.granted()["passthrough"] is request.param
        yield made, request.param


def resident(fd: int, offset: int, length: int) -> float:
    """Share of a range's pages that the page cache has, for this mount's inode."""
    pages = length // mmap.PAGESIZE
    out = (ctypes.c_ubyte * pages)()
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    size = ctypes.c_size_t(length)
    at = ctypes.c_void_p(libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, fd, ctypes.c_long(offset)))
    try:
        assert libc.mincore(at, size, out) == 0
    finally:
        libc.munmap(at, size)
    return sum(b & 1 for b in out) / pages


def test_pages_behind_a_first_reader_go_where_later_opens_do_not_need_them(mounted: tuple[Lab, bool]) -> None:
    made, passthrough = mounted
    with open(made.model / "huge", "rb") as want, open(made.mount_point / "huge", "rb", buffering=0) as got:
        fd = got.fileno()
        for at in range(0, READ, MIB):
            assert os.pread(fd, MIB, at) == want.read(MIB)
        until = time.monotonic() + 60
        while (kept := resident(fd, 0, 64 * MIB)) > 0.1 and passthrough and time.monotonic() < until:
            time.sleep(0.02)
        assert resident(fd, READ - 16 * MIB, 16 * MIB) > 0.9, "who follows closely finds them"
        if passthrough:
            assert kept <= 0.1
        else:
            assert kept > 0.9, "here the mount's page cache is the only one that serves later reads without a copy"
        want.seek(0)
        for at in range(0, SIZE, MIB):
            assert os.pread(fd, MIB, at) == want.read(MIB), "those that went are read again"
