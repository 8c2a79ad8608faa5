"""Cache files: what is open stays whole, whatever is written anew."""

from __future__ import annotations

import os
import time
from pathlib import Path

from forebay.cache.disk import files
from forebay.cache.disk.index import object_path

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
