"""Cache files: what is open stays whole, whatever is written anew."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from random import Random

import pytest

from forebay.cache.disk import files
from forebay.cache.disk.extents import SUM, blocks_of, checksum
from forebay.cache.disk.index import BLOCK, object_path

OID = bytes(range(16))


def test_a_file_that_is_there_is_never_emptied(tmp_path: Path) -> None:
    files.prepare(str(tmp_path))
    fd, beside = files.create_small(str(tmp_path), OID)
    assert beside is None
    os.write(fd, b"whole")
    os.close(fd)
    reader = files.open_read(str(tmp_path), OID)

    again, beside = files.create_small(str(tmp_path), OID)
    assert beside is not None
    assert os.pread(reader, 10, 0) == b"whole", "an open reader saw the file emptied"
    os.write(again, b"who")
    assert Path(object_path(str(tmp_path), OID)).read_bytes() == b"whole", "a new reader saw half a file"
    os.write(again, b"le")
    os.close(again)
    files.put(str(tmp_path), OID, beside)

    assert os.pread(reader, 10, 0) == b"whole"
    assert Path(object_path(str(tmp_path), OID)).read_bytes() == b"whole"
    assert not os.path.exists(beside)
    os.close(reader)


def test_remains_beside_a_cache_file_are_removed_once_nobody_can_write_them(tmp_path: Path, monkeypatch) -> None:
    from forebay.api.spec import Tier
    from forebay.cache.disk import tiers

    files.prepare(str(tmp_path))
    Path(object_path(str(tmp_path), OID)).write_bytes(b"whole")
    remains = Path(object_path(str(tmp_path), OID) + files.BESIDE)
    remains.write_bytes(b"wh")
    place = tiers.TierDir(0, Tier("SSD", str(tmp_path)))
    assert [f.oid for page in place.scan() for f in page] == [OID]
    assert remains.exists(), "it may still be written"
    later = time.time() + files.BESIDE_AGE + 1
    monkeypatch.setattr(tiers.time, "time", lambda: later)
    assert [f.oid for page in place.scan() for f in page] == [OID]
    assert not remains.exists()
    place.close()


class Answer:
    """A store's answer that comes in pieces of any length."""

    def __init__(self, data: bytes, seed: int) -> None:
        self.left, self.rng = memoryview(data), Random(seed)

    def readinto(self, buffer: memoryview) -> int:
        n = min(len(buffer), len(self.left), self.rng.choice((1, 999, BLOCK - 1, BLOCK, 700_001, 8 << 20)))
        buffer[:n] = self.left[:n]
        self.left = self.left[n:]
        return n

    def close(self) -> None:
        pass


class ProvedInPart(Answer):
    """Tells checksums of whole chunks only now and then, like an answer that was partly the own store's."""

    def proved(self, blocks: int) -> bytes:
        return self.rng.choice((b"", b"\1" * SUM * blocks))


def received(body: Answer, whole: bytes, path: Path, first: int, count: int, buffer: int) -> tuple[list[tuple[int, int]], bytes]:
    """What was written, as (offset, length), and the checksums that were told."""
    wrote: list[tuple[int, int]] = []
    told: dict[int, bytes] = {}
    pwrite = os.pwrite

    def noted(fd: int, data: memoryview, offset: int) -> int:
        wrote.append((offset, len(data)))
        return pwrite(fd, data, offset)

    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        os.ftruncate(fd, len(whole))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(files.os, "pwrite", noted)
            room, lock = memoryview(bytearray(buffer)), threading.Lock()
            files.receive(body, fd, len(whole), first, count, buffer=room, lock=lock, arrived=told.__setitem__)
    finally:
        os.close(fd)
    assert [at * BLOCK for at in told] == [offset for offset, _ in wrote]
    return wrote, b"".join(told[at] for at in sorted(told))


@pytest.mark.parametrize("first", [0, 1, 7, 8, 11])
@pytest.mark.parametrize("size", [5 * files.CHUNK, 5 * files.CHUNK + 1, 4 * files.CHUNK + BLOCK + 77])
def test_chunks_end_on_their_multiples_in_the_file_wherever_a_run_begins(tmp_path: Path, first: int, size: int) -> None:
    whole = Random(size).randbytes(size)
    count = blocks_of(size) - first
    wrote, sums = received(Answer(whole[first * BLOCK :], first), whole, tmp_path / "f", first, count, files.CHUNK)
    assert all((offset + length) % files.CHUNK == 0 or offset + length == size for offset, length in wrote)
    inner = [length for offset, length in wrote if offset % files.CHUNK == 0 and offset + files.CHUNK <= size]
    assert set(inner) == {files.CHUNK}, "the kernel caches a write in one folio only if it is aligned to its length"
    assert (tmp_path / "f").read_bytes()[first * BLOCK :] == whole[first * BLOCK :]
    blocks = range(first * BLOCK, size, BLOCK)
    assert sums == b"".join(checksum(memoryview(whole)[at : at + BLOCK]) for at in blocks)


def test_checksums_that_a_body_did_not_prove_are_computed(tmp_path: Path) -> None:
    whole = Random(1).randbytes(6 * files.CHUNK + 5)
    _, sums = received(ProvedInPart(whole, 3), whole, tmp_path / "f", 0, blocks_of(len(whole)), files.CHUNK)
    told = [sums[i : i + SUM] for i in range(0, len(sums), SUM)]
    right = [checksum(memoryview(whole)[at : at + BLOCK]) for at in range(0, len(whole), BLOCK)]
    assert len(told) == len(right)
    assert all(a in (b, b"\1" * SUM) for a, b in zip(told, right, strict=True))
    assert any(a == b for a, b in zip(told, right, strict=True))
    assert b"\1" * SUM in told
