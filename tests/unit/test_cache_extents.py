"""Rows of extents, and what is written of them in batches."""

from __future__ import annotations

import os
from pathlib import Path

import xxhash
from hypothesis import given
from hypothesis import strategies as st

from forebay.cache.disk.extents import SUM, Extent, blocks_in_segment, blocks_of, checksum, segments_of, split
from forebay.cache.disk.index import BLOCK, BLOCKS_PER_SEGMENT, COMPLETE, PARTIAL, SEGMENT, Index, Object
from forebay.cache.disk.ledger import Ledger, sync_files
from forebay.cache.disk.records import Records
from forebay.cache.fetch import messages as m
from forebay.cache.fetch.motion import HERE

BOOT = 77


def sums(*numbers: int) -> bytes:
    return b"".join(n.to_bytes(SUM, "little") for n in numbers)


def test_a_checksum_is_xxh3() -> None:
    data = os.urandom(BLOCK)
    assert checksum(data) == xxhash.xxh3_64_intdigest(data).to_bytes(8, "little")


@given(st.integers(1, BLOCKS_PER_SEGMENT), st.lists(st.tuples(st.integers(0, 255), st.integers(1, 9)), max_size=20))
def test_rows_keep_what_was_put(n: int, puts: list[tuple[int, int]]) -> None:
    extent = Extent(n)
    model: dict[int, bytes] = {}
    for at, count in puts:
        first = at % n
        count = min(count, n - first)
        extent.put(first, sums(*range(at, at + count)))
        model.update({first + i: sums(at + i) for i in range(count)})
    again = Extent(n, extent.pack())
    assert {i: again.sum(i) for i in range(n) if again.has(i)} == model
    assert again.count() == len(model)
    for block in list(model)[:3]:
        again.drop(block)
        assert not again.has(block)


def test_a_row_of_another_shape_proves_nothing() -> None:
    extent = Extent(3)
    extent.put(0, sums(1, 2, 3))
    assert Extent(4, extent.pack()).count() == 0


@given(st.integers(0, 2000), st.integers(1, 700))
def test_split_by_segment_loses_nothing(first: int, count: int) -> None:
    got = []
    for segment, within, part in split(first, sums(*range(count))):
        assert within + len(part) // SUM <= BLOCKS_PER_SEGMENT
        got += [(segment * BLOCKS_PER_SEGMENT + within + i, part[i * SUM : i * SUM + SUM]) for i in range(len(part) // SUM)]
    assert got == [(first + i, sums(i)) for i in range(count)]


def test_sizes() -> None:
    assert [blocks_of(n) for n in (0, 1, BLOCK, BLOCK + 1)] == [0, 1, 1, 2]
    assert [segments_of(n) for n in (0, 1, SEGMENT, SEGMENT + 1)] == [0, 1, 1, 2]
    assert blocks_in_segment(SEGMENT + 5 * BLOCK, 1) == 5


def records(tmp_path: Path, boot: int = BOOT, tiers: int = 1) -> Records:
    return Records(Index(tmp_path / "index" / "live"), boot, tiers)


def thing(number: int, size: int) -> m.Thing:
    return m.Thing(bytes([number]) * 16, number, 1, 0, size)


def test_records_are_ahead_of_the_index_and_then_in_it(tmp_path: Path) -> None:
    r = records(tmp_path)
    t = thing(1, SEGMENT + 3 * BLOCK)
    assert r.object(t.oid) is None
    r.arrived(t, 0, 0, sums(1, 2))
    r.arrived(t, 0, BLOCKS_PER_SEGMENT - 1, sums(3, 4))
    assert r.commit()
    o = r.object(t.oid)
    assert o is not None
    assert (o.state, o.present, o.boot) == (PARTIAL, 4 * BLOCK, BOOT)
    known, doubts = r.known(t) or (None, None)
    assert known is not None
    assert doubts == {}
    assert [i for i, b in enumerate(known.blocks) if b == HERE] == [0, 1, BLOCKS_PER_SEGMENT - 1, BLOCKS_PER_SEGMENT]
    r.complete(t, 0)
    assert r.object(t.oid).state == COMPLETE  # type: ignore[union-attr]
    with r.index.env.begin() as txn:
        assert r.index.object(txn, t.oid).state == PARTIAL, "a record was written before its commit"  # type: ignore[union-attr]
    r.commit()
    with r.index.env.begin() as txn:
        assert r.index.object(txn, t.oid).state == COMPLETE  # type: ignore[union-attr]
    assert r.count[0] == 1


def test_bulk_and_single_rows_are_the_same(tmp_path: Path) -> None:
    r = records(tmp_path)
    seen, unseen = thing(1, 100), thing(2, 100)
    assert r.object(seen.oid) is None  # now it is known to be absent, and is inserted in bulk
    for t in (seen, unseen):
        r.arrived(t, 0, 0, sums(9))
        r.complete(t, 0)
    r.commit()
    with r.index.env.begin() as txn:
        a, b = r.index.object(txn, seen.oid), r.index.object(txn, unseen.oid)
        assert a is not None
        assert b is not None
        assert a._replace(ino=0) == b._replace(ino=0)
        assert [bytes(k[4:]) for k, _ in txn.cursor(db=r.index.recency)] == [seen.oid, unseen.oid]
    assert r.count[0] == 2


def test_another_boots_rows_are_doubts(tmp_path: Path) -> None:
    t = thing(1, 3 * BLOCK)
    r = records(tmp_path, boot=1)
    r.arrived(t, 0, 0, sums(1, 2, 3))
    r.complete(t, 0)
    r.commit()
    r.index.close()
    r = records(tmp_path, boot=2)
    known, doubts = r.known(t) or (None, None)
    assert known is not None
    assert doubts is not None
    assert known.blocks == bytes(3)
    assert known.spare == 3 * BLOCK
    assert [doubts[0].sum(i) for i in range(3)] == [sums(1), sums(2), sums(3)]
    assert r.object(t.oid).state == PARTIAL, "a row of another boot could be opened before it was checked"  # type: ignore[union-attr]
    again = r.known(t)
    assert again is not None
    assert again[1] == {}


def test_rows_of_a_tier_that_is_no_longer_configured_count_as_absent(tmp_path: Path) -> None:
    t = thing(1, 3 * BLOCK)
    r = records(tmp_path, tiers=2)
    r.arrived(t, 1, 0, sums(1, 2, 3))
    r.complete(t, 1)
    r.commit()
    r.index.close()
    r = records(tmp_path, tiers=1)
    assert r.object(t.oid) is None
    assert r.known(t) is None
    r.arrived(t, 0, 0, sums(4))
    r.commit()
    o = r.object(t.oid)
    assert o is not None
    assert (o.tier, o.present) == (0, BLOCK)


def test_dropped_objects_leave_nothing(tmp_path: Path) -> None:
    r = records(tmp_path)
    t = thing(1, SEGMENT + 1)
    r.arrived(t, 0, 0, sums(*range(blocks_of(t.size))))
    r.complete(t, 0)
    rows = r.drop([t.oid])
    assert [(oid, o.present) for oid, o in rows] == [(t.oid, t.size)]
    assert r.object(t.oid) is None
    with r.index.env.begin() as txn:
        for db in (r.index.objects, r.index.extents, r.index.recency):
            assert txn.stat(db)["entries"] == 0
    assert r.count[0] == 0


def test_damaged_blocks_are_absent(tmp_path: Path) -> None:
    r = records(tmp_path)
    t = thing(1, 3 * BLOCK + 5)
    r.arrived(t, 0, 0, sums(1, 2, 3, 4))
    r.complete(t, 0)
    r.commit()
    r.damaged(t.oid, [1, 3])
    o = r.object(t.oid)
    assert o is not None
    assert (o.state, o.present) == (PARTIAL, 2 * BLOCK)
    known = r.known(t)
    assert known is not None
    assert known[0].blocks == bytes((HERE, 0, HERE, 0))


def test_the_ledger_gives_back_what_it_was_given_and_forgets_what_went(tmp_path: Path) -> None:
    r = records(tmp_path)
    ledger = Ledger(str(tmp_path / "ledger"))
    things = [thing(i, i * BLOCK) for i in range(1, 6)]
    for t in things:
        r.arrived(t, 0, 0, sums(*range(blocks_of(t.size))))
        r.complete(t, 0)
    r.commit()
    tier = tmp_path / "t"
    for t in things[:-1]:  # the last one's file is missing: it must not be called durable
        path = tier / "objects" / t.oid.hex()[:2] / t.oid.hex()
        path.parent.mkdir(parents=True)
        path.write_bytes(bytes(t.size))
    changes = r.changes([t.oid for t in things])
    ready = sync_files(changes, {0: str(tier)})
    assert {c.oid for c in ready} == {t.oid for t in things[:-1]}
    ledger.write(ready)
    r.drop([things[0].oid])
    ledger.write(sync_files(r.changes([things[0].oid]), {0: str(tier)}))
    got = [c for batch in ledger.batches() for c in batch]
    assert {c.oid for c in got} == {t.oid for t in things[1:-1]}
    assert sorted(got) == sorted(c for c in changes if c.oid in {t.oid for t in things[1:-1]})
    assert sync_files(changes, {}) == [], "a tier that is not durable came into the ledger"
    ledger.close()
    assert len([c for b in Ledger(str(tmp_path / "ledger")).batches() for c in b]) == 3


def test_candidates_come_oldest_first(tmp_path: Path) -> None:
    r = records(tmp_path)
    with r.index.env.begin(write=True) as txn:
        for i, used in enumerate((300, 100, 200)):
            r.index.put_object(txn, bytes([i]) * 16, Object(COMPLETE, i % 2, 0, used, 5000, 5000, BOOT, i))
    with r.index.env.begin() as txn:
        assert [(c.oid[0], c.allocated) for c in r.oldest(txn, 0)] == [(2, 8192), (0, 8192)]
