"""The index's packed rows, and its check: every contradiction between its databases is found."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.cache.disk.index import (
    DIR,
    FILE,
    FIXED,
    NO_OID,
    ROOT,
    SCHEMA,
    Counts,
    Dir,
    Index,
    IndexError_,
    Row,
    object_id,
    pack_dir,
    pack_file,
    pack_row,
    unchanged,
    unpack_dir,
    unpack_row,
)
from forebay.cache.tree.changes import Writer

U64 = struct.Struct(">Q")

rows = st.builds(
    Row,
    kind=st.sampled_from([FILE, DIR]),
    flags=st.integers(0, 7),
    mount=st.integers(0, 0xFFFF),
    checked=st.integers(0, 2**32 - 1),
    size=st.integers(0, 2**64 - 1),
    mtime_ns=st.integers(-(2**63), 2**63 - 1),
    ino=st.integers(1, 2**64 - 1),
    oid=st.binary(min_size=16, max_size=16),
    name=st.binary(max_size=255),
    version=st.binary(max_size=1024),
)


@given(rows)
def test_rows_survive_packing(row: Row) -> None:
    assert unpack_row(pack_row(row)) == row


@given(rows)
def test_the_short_cuts_agree_with_the_row(row: Row) -> None:
    plain = row._replace(kind=FILE, flags=0)
    attributes = (plain.flags, plain.mount, plain.checked, plain.size, plain.mtime_ns, plain.ino)
    assert pack_file(attributes, plain.oid, plain.name, plain.version) == pack_row(plain)
    raw = pack_row(row)
    same = row.kind == FILE and row.flags == 0
    tail = row.name + row.version
    size = min(row.size, 2**63 - 1)
    if size == row.size:
        assert unchanged(raw, row.mount, size, row.mtime_ns, tail) is same
        assert not unchanged(raw, row.mount ^ 1, size, row.mtime_ns, tail)
        assert not unchanged(raw, row.mount, size ^ 1, row.mtime_ns, tail)
        assert not unchanged(raw, row.mount, size, row.mtime_ns ^ 1, tail)
        assert not unchanged(raw, row.mount, size, row.mtime_ns, tail + b"x")


def test_a_name_and_version_that_run_together_are_told_apart() -> None:
    raw = pack_file((0, 0, 1, 5, 6, 7), NO_OID, b"ab", b"c")
    # the name is the key the row was found under, so an equal tail has an equal version
    assert unchanged(raw, 0, 5, 6, b"ab" + b"c")
    assert not unchanged(raw, 0, 5, 6, b"ab" + b"cc")


@given(st.builds(Dir, st.integers(0, 2), st.integers(0, 2**32 - 1), st.integers(0, 2**63), st.integers(0, 2**32 - 1),
                 st.lists(st.integers(0, 0xFFFF), max_size=20).map(tuple)))  # fmt: skip
def test_directories_survive_packing(d: Dir) -> None:
    assert unpack_dir(pack_dir(d)) == d


def test_identity_has_no_collisions_by_concatenation() -> None:
    ids = {object_id("s", b"ab", b"c"), object_id("s", b"a", b"bc"), object_id("sa", b"b", b"c"), object_id("s", b"abc", b"")}
    assert len(ids) == 4
    assert object_id("s3://b", b"k", b"v").hex() == "ef141047cbe157930e23ca31a103b3af"  # what is on disk depends on it


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    index = Index(tmp_path / "live")
    with index.env.begin(write=True) as txn:
        index.check_schema(txn)
        w = Writer(index, txn)
        w.add(0, Row(DIR, FIXED, 0, 1, 0, 0, ROOT, NO_OID, b"", b""), (0,))
        for name in (b"a", b"b", b"c"):
            ino = index.next_ino(txn)
            w.add(ROOT, Row(FILE, 0, 0, 1, 10, 0, ino, object_id("s", name, b"v"), name, b"v"))
        w.add(ROOT, Row(DIR, 0, 0, 1, 0, 0, index.next_ino(txn), NO_OID, b"d", b""), (0,))
        w.add(5, Row(FILE, 0, 0, 1, 5, 0, index.next_ino(txn), object_id("s", b"d/x", b"v"), b"x", b"v"))
        w.remove(ROOT, index.find(txn, ROOT, b"c"), 2)  # type: ignore[arg-type]
        w.finish()
    yield index
    index.close()


def test_a_sound_tree(index: Index) -> None:
    with index.env.begin() as txn:
        assert index.verify(txn) == []
        assert index.counts(txn) == Counts(2, 3, 25)
        assert index.parent(txn, ROOT) == ROOT
        assert index.parent(txn, 6) == 5
        assert [ino for ino, _ in index.scan_raw(txn, ROOT, 0)] == [2, 3, 5]
        assert [ino for ino, _ in index.scan_raw(txn, ROOT, 3)] == [5]
        gone = index.row(txn, 4)
        assert gone is not None
        assert gone.name == b"c"
        assert index.find(txn, ROOT, b"c") is None


def key(*numbers: int) -> bytes:
    return b"".join(U64.pack(n) for n in numbers)


BREAKS: list[tuple[str, Callable[[Index, Any], object]]] = [
    ("name without a child", lambda i, t: t.delete(key(ROOT, 2), db=i.children)),
    ("child without a name", lambda i, t: t.delete(key(ROOT) + b"a", db=i.names)),
    ("name of another child", lambda i, t: t.put(key(ROOT) + b"a", key(3), db=i.names)),
    ("name nobody has", lambda i, t: t.put(key(ROOT) + b"z", key(99), db=i.names)),
    ("inode without a row", lambda i, t: t.put(key(7), key(ROOT), db=i.inodes)),
    ("inode of another parent", lambda i, t: t.put(key(2), key(5), db=i.inodes)),
    ("orphan without an inode", lambda i, t: t.delete(key(4), db=i.inodes)),
    ("child and orphan", lambda i, t: t.put(key(2), t.get(key(ROOT, 2), db=i.children), db=i.orphans)),
    ("row under another number", lambda i, t: t.put(key(ROOT, 3), t.get(key(ROOT, 2), db=i.children), db=i.children)),
    ("directory without a state", lambda i, t: t.delete(key(5), db=i.dirs)),
    ("file with a state", lambda i, t: t.put(key(2), pack_dir(Dir(0, 0, 0, 0, ())), db=i.dirs)),
    ("state of nothing", lambda i, t: t.put(key(77), pack_dir(Dir(0, 0, 0, 0, ())), db=i.dirs)),
    ("wrong number of entries", lambda i, t: t.put(key(5), pack_dir(Dir(0, 0, 2, 0, (0,))), db=i.dirs)),
    ("wrong counts", lambda i, t: i.put_counts(t, Counts(2, 3, 26))),
    ("numbers to be given again", lambda i, t: t.put(b"next_ino", key(6), db=i.meta)),
    ("children of a file",
     lambda i, t: t.put(key(2, 90), pack_row(Row(FILE, 0, 0, 1, 1, 1, 90, NO_OID, b"q", b"")), db=i.children)),
]  # fmt: skip


@pytest.mark.parametrize("broken", [b[1] for b in BREAKS], ids=[b[0] for b in BREAKS])
def test_every_contradiction_is_found(index: Index, broken: Callable[[Index, Any], object]) -> None:
    with index.env.begin(write=True) as txn:
        broken(index, txn)
        assert index.verify(txn) != []
        txn.abort()


def test_a_newer_schema_is_refused_and_left_alone(index: Index) -> None:
    with index.env.begin(write=True) as txn:
        txn.put(b"schema", struct.pack(">I", SCHEMA + 1), db=index.meta)
    with index.env.begin(write=True) as txn, pytest.raises(IndexError_, match="newer than this build"):
        index.check_schema(txn)


def test_forgetting_the_tree_keeps_numbers_and_objects(index: Index) -> None:
    with index.env.begin(write=True) as txn:
        before = index.next_ino(txn)
        txn.put(b"x" * 16, b"object", db=index.objects)
        index.forget_tree(txn)
    with index.env.begin(write=True) as txn:
        assert index.verify(txn) == []
        assert index.counts(txn) == Counts()
        assert index.next_ino(txn) == before + 1
        assert txn.get(b"x" * 16, db=index.objects) == b"object"
