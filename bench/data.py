"""What is read: one big object, many small ones, one flat prefix. Made once, kept, and the same bytes on every machine.

The folder is the store's (a bucket is a sub-folder) and is itself the plain ext4 tree that everything is compared with.
Files are written directly, with the tag the store would have kept, because a hundred thousand PUTs measure nothing.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import random
import shutil
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path

SMALL_SIZE = 16 << 10
WARMUP = 2000  # files outside the measured tree, read first by peers that run on a JVM


@dataclass(frozen=True)
class Size:
    """How much of each kind. `small` files lie 200 to a directory."""

    big: int
    small: int
    flat: int


FULL = Size(big=2 << 30, small=20_000, flat=100_000)
QUICK = Size(big=512 << 20, small=4_000, flat=20_000)


@dataclass(frozen=True)
class Data:
    root: Path  # served by the store
    size: Size

    @property
    def big(self) -> str:
        return "big.bin"

    def small_paths(self) -> list[str]:
        """In directory order, relative to the bucket."""
        return [f"tree/d{i // 200:04d}/f{i:06d}.bin" for i in range(self.size.small)]

    def warmup_paths(self) -> list[str]:
        return [f"warmup/w{i:06d}.bin" for i in range(WARMUP)]

    def plain(self, bucket: str) -> Path:
        return self.root / bucket


def _tag(path: Path, digest: str, crc: int) -> None:
    """What the store keeps beside an object that was put: its tag, and the checksum without which some clients refuse it."""
    os.setxattr(path, b"user.etag", f'"{digest}"'.encode())
    checksum = {"Algorithm": "CRC32", "Type": "FULL_OBJECT", "CRC32": base64.b64encode(crc.to_bytes(4, "big")).decode()}
    os.setxattr(path, b"user.checksums", json.dumps(checksum).encode())


def _write(path: Path, payload: bytes) -> None:
    path.write_bytes(payload)
    _tag(path, hashlib.md5(payload, usedforsecurity=False).hexdigest(), zlib.crc32(payload))


def _big(path: Path, size: int) -> None:
    noise = bytearray(random.Random(7).randbytes(8 << 20))
    digest, crc = hashlib.md5(usedforsecurity=False), 0
    with path.open("wb") as f:
        for i in range(0, size, len(noise)):
            for k in range(0, len(noise), 4096):
                noise[k : k + 8] = (i + k).to_bytes(8, "little")  # no two pages alike, so a misplaced one shows
            f.write(noise)
            digest.update(noise)
            crc = zlib.crc32(noise, crc)
    _tag(path, digest.hexdigest(), crc)


def make(folder: Path, size: Size) -> Data:
    """Fill `folder` unless it already holds exactly this much."""
    data = Data(folder / "store", size)
    mark = folder / "made.json"
    if mark.exists() and json.loads(mark.read_text()) == asdict(size):
        return data
    shutil.rmtree(folder, ignore_errors=True)
    noise = random.Random(11).randbytes(SMALL_SIZE * 4)
    data.plain("big").mkdir(parents=True)
    _big(data.plain("big") / data.big, size.big)
    for i, name in enumerate(data.small_paths() + data.warmup_paths()):
        path = data.plain("small") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        at = (i * 16) % (3 * SMALL_SIZE)
        _write(path, i.to_bytes(8, "little") + noise[at : at + SMALL_SIZE - 8])
    flat = data.plain("flat") / "flat"
    flat.mkdir(parents=True)
    for i in range(size.flat):
        _write(flat / f"object-{i:06d}", b"%016d" % i)
    mark.write_text(json.dumps(asdict(size)))
    return data


def lists(folder: Path, paths: list[str], epochs: int, seed: int = 1) -> tuple[Path, list[Path]]:
    """Files for `reader files`: the directory order, and one shuffled order an epoch."""
    folder.mkdir(parents=True, exist_ok=True)
    ordered = folder / "ordered.txt"
    ordered.write_text("\n".join(paths))
    shuffled = []
    for e in range(epochs):
        order = paths[:]
        random.Random(seed * 1000 + e).shuffle(order)
        shuffled.append(folder / f"epoch{e}.txt")
        shuffled[-1].write_text("\n".join(order))
    return ordered, shuffled
