"""The machine's memory in the state a figure needs: what a write into the page cache costs depends on where its pages come from.

In a virtual machine whose host takes free pages back (free page reporting) a fresh page is found by the host first: 2 GiB
are written at 300 to 700 MB/s, and at 2.9 GB/s where the same pages were used a moment ago. On a machine that has run for a
day each fresh page takes the place of one that was read before: 1.0 GB/s. Neither is what a figure about bytes between nodes
asks for.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CHUNK = 256 << 20
SPARE = 2 << 30
"""Free bytes that are kept at hand: few enough that the host, which takes a sixteenth every two seconds, takes little."""


@contextmanager
def memory_at_hand(folder: Path) -> Iterator[None]:
    """Inside, free pages are pages that were in use a moment before: neither the host nor reclaim is in the way of who writes.

    The page cache is filled with holes of a sparse file, and a thread drops as much of them as is used up. The same for
    whatever is timed, one thing after the other.
    """
    path = folder / "holes"
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    stop = threading.Event()

    def supply(filled: int) -> None:
        at = 0
        while at < filled and not stop.wait(0.01):
            while _memory()[1] < SPARE and at < filled:
                os.posix_fadvise(fd, at, CHUNK, os.POSIX_FADV_DONTNEED)
                at += CHUNK

    try:
        thread = threading.Thread(target=supply, args=(_fill(fd),))
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
    finally:
        os.close(fd)
        path.unlink()


def _fill(fd: int) -> int:
    """Read holes until a tenth of the memory is free, or until the kernel keeps more than that by itself; bytes read."""
    total, _ = _memory()
    buffer = bytearray(8 << 20)
    os.ftruncate(fd, 2 * total)
    for at in range(0, 2 * total, len(buffer)):
        if _memory()[1] < total // 10:
            return at
        os.preadv(fd, [buffer], at)
    return 2 * total


def _memory() -> tuple[int, int]:
    """Bytes in all, and free."""
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return int(lines["MemTotal"].split()[0]) << 10, int(lines["MemFree"].split()[0]) << 10
