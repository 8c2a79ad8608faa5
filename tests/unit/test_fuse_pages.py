"""Directory pages, read back by a plain parser."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mountlab import parse

from forebay.cache.disk.index import DIR, FILE, UNRESOLVED, Index, Row
from forebay.fuse import pages


def fill(index: Index, rows: list[Row]) -> None:
    with index.env.begin(write=True) as txn:
        for row in rows:
            index.put_row(txn, 1, row)
        index.put_row(txn, 2, Row(FILE, 0, 0, 0, 0, 0, 9999, b"o" * 16, b"of another directory", b""))


def read_all(index: Index, room: int, plus: bool, ttl: int = 60) -> list[tuple[dict[str, int], int, int, int, bytes]]:
    out, cookie = [], 0
    for _ in range(10_000):
        with index.env.begin() as txn:
            cursor = txn.cursor(db=index.children)
            page = pages.build(cursor, (1, 1), pages.Place(cookie, room, plus), (10, 20), lambda _: ttl)
        assert len(page.data) <= room
        records = parse(page.data, plus)
        if not records:
            assert not page.more
            return out
        assert page.cookie == records[-1][2]
        out += records
        cookie = page.cookie
    raise AssertionError("the listing does not end")


def row(ino: int, name: bytes, **fields: object) -> Row:
    base = Row(FILE, 0, 0, 100, 5, 1_700_000_000_123_456_789, ino, b"o" * 16, name, b"etag")
    return base._replace(**fields)


names = st.lists(st.binary(min_size=1, max_size=255).filter(lambda n: b"\0" not in n and b"/" not in n), unique=True, max_size=60)


@settings(deadline=None, max_examples=60)
@given(names, st.integers(450, 9000), st.booleans())
def test_every_entry_comes_once_whatever_the_room(found: list[bytes], room: int, plus: bool) -> None:
    with tempfile.TemporaryDirectory() as d:
        index = Index(Path(d) / "live")
        fill(index, [row(2 + 3 * i, name) for i, name in enumerate(found)])
        records = read_all(index, room, plus)
        assert [r[4] for r in records] == [b".", b"..", *found]
        offs = [r[2] for r in records]
        assert offs == sorted(set(offs))
        index.close()


@pytest.fixture
def index(tmp_path: Path):
    index = Index(tmp_path / "live")
    yield index
    index.close()


def test_attributes(index: Index) -> None:
    fill(
        index,
        [
            row(2, b"file", size=513),
            row(3, b"folder", kind=DIR),
            row(4, b"before 1970", mtime_ns=-1),
            row(5, b"unresolved", flags=UNRESOLVED, size=0),
        ],
    )
    dot, up, file, folder, early, unresolved = read_all(index, 4096, True)
    assert (dot[0]["nodeid"], dot[1], dot[2], dot[3]) == (0, 1, 1, 4)
    assert (up[0]["nodeid"], up[2]) == (0, 2)
    assert file[0] == {
        "nodeid": 2, "entry_ttl": 60, "attr_ttl": 60, "ino": 2, "size": 513, "blocks": 2, "mtime": 1_700_000_000,
        "nsec": 123_456_789, "mode": 0o100444, "nlink": 1, "uid": 10, "gid": 20, "blksize": 4096,
    }  # fmt: skip
    assert (folder[0]["mode"], folder[0]["nlink"], folder[3]) == (0o040555, 2, 4)
    assert (early[0]["mtime"], early[0]["nsec"]) == (2**64 - 1, 999_999_999)
    assert (unresolved[0]["nodeid"], unresolved[1], unresolved[3]) == (0, 5, 8)


def test_what_may_not_be_believed_goes_out_without_attributes(index: Index) -> None:
    fill(index, [row(2, b"file")])
    assert read_all(index, 4096, True, ttl=0)[2][0]["nodeid"] == 0
