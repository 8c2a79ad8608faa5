"""A cache file that rots on the disk under a mount that serves reads itself: right bytes or an errno, never wrong bytes."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from mountlab import Lab, lab
from workerlab import committed, eventually

pytestmark = [
    pytest.mark.mount,
    pytest.mark.skipif(os.geteuid() != 0 or not os.path.exists("/dev/fuse"), reason="needs root and /dev/fuse"),
]

MIB = 1 << 20
SIZE = 12 * MIB + 5
ROTTEN = 9 * MIB + 100


@pytest.fixture
def mounted() -> Iterator[tuple[Lab, bytes]]:
    """A worker and a mount without passthrough; the one file is complete in the cache, and has rotten bytes there."""
    data = os.urandom(SIZE)
    with lab(mode="immutable") as made:
        (made.model / "a").write_bytes(data)
        made.options = ["--no-passthrough"]
        made.start_worker()
        made.start()
        assert made.granted()["passthrough"] is False
        path = made.mount_point / "a"
        assert path.read_bytes() == data
        eventually(lambda: committed(made.base / "index") == (1, SIZE))
        assert os.getxattr(path, "user.forebay.cached") == b"%d" % SIZE
        (cached,) = (p for p in Path(made.tier).rglob("*") if p.is_file() and p.stat().st_size == SIZE)
        with cached.open("r+b") as f:
            f.seek(ROTTEN)
            f.write(bytes(b ^ 255 for b in data[ROTTEN : ROTTEN + 10]))
        yield made, data


def read_anew(path: Path) -> bytes:
    """Through the daemon: the mount's own pages are dropped first."""
    with path.open("rb", buffering=0) as f:
        os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        found = bytearray()
        while piece := os.pread(f.fileno(), MIB, len(found)):
            found += piece
        return bytes(found)


def test_a_rotten_block_is_fetched_anew_before_it_is_read(mounted: tuple[Lab, bytes]) -> None:
    made, data = mounted
    (cached,) = (p for p in Path(made.tier).rglob("*") if p.is_file() and p.stat().st_size == SIZE)
    assert cached.read_bytes() != data
    assert read_anew(made.mount_point / "a") == data
    assert cached.read_bytes() == data, "the cache was not healed"


def test_a_rotten_block_that_cannot_be_had_again_is_an_error(mounted: tuple[Lab, bytes]) -> None:
    made, data = mounted
    os.unlink(made.model / "a")
    with (made.mount_point / "a").open("rb", buffering=0) as f:
        os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        assert os.pread(f.fileno(), MIB, 0) == data[:MIB], "what is whole is served"
        with pytest.raises(OSError, match=r"Input/output error|Stale file handle") as e:
            os.pread(f.fileno(), 10, ROTTEN)
        assert e.value.errno in {errno.EIO, errno.ESTALE}
