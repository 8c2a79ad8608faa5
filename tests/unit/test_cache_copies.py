"""Copies and pins: flags of rows, the order in which objects go, and what is counted."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from forebay.cache.disk.durable import by_tier
from forebay.cache.disk.extents import SUM
from forebay.cache.disk.index import BLOCK, BLOCKS_PER_SEGMENT, COMPLETE, COPY, PINNED, SEGMENT, Index, IndexError_, Object, turn
from forebay.cache.disk.policy import Lru
from forebay.cache.disk.records import Records
from forebay.cache.disk.reflag import SETTLE, Reflag
from forebay.cache.fetch import messages as m

BOOT = 77
NOW = 1_800_000_000


def sums(*numbers: int) -> bytes:
    return b"".join(n.to_bytes(SUM, "little") for n in numbers)


def thing(number: int, size: int = 5 * BLOCK, *, ino: int | None = None) -> m.Thing:
    return m.Thing(bytes([number]) * 16, number if ino is None else ino, 1, 0, size)


def odd(oid: bytes, size: int) -> bool:
    return oid[0] % 2 == 1


def records(tmp_path: Path, tiers: int = 2) -> Records:
    return Records(Index(tmp_path / "index" / "live"), BOOT, tiers, odd)


def whole(r: Records, t: m.Thing, tier: int = 0, *, bulk: bool = True) -> None:
    if bulk:
        assert r.object(t.oid) is None  # now it is known to be absent, and is inserted in bulk
    r.arrived(t, tier, 0, sums(*range(5)))
    r.complete(t, tier)
    assert r.commit()


def row(r: Records, oid: bytes) -> Object:
    with r.index.env.begin() as txn:
        o = r.index.object(txn, oid)
    assert o is not None
    return o


def order(r: Records, tier: int = 0) -> list[int]:
    with r.index.env.begin() as txn:
        return [c.oid[0] for c in r.oldest(txn, tier)]


def test_rows_say_whether_they_are_copies(tmp_path: Path) -> None:
    r = records(tmp_path)
    for number in (1, 2, 3, 4):
        whole(r, thing(number), number // 3, bulk=number % 2 == 0)
    assert [row(r, thing(n).oid).flags for n in (1, 2, 3, 4)] == [COPY, 0, COPY, 0]
    assert dict(r.held_copies.objects) == {0: 1, 1: 1}
    assert r.copies == {"objects": 2, "bytes": 10 * BLOCK}


def test_what_grows_is_counted_by_what_it_allocates(tmp_path: Path) -> None:
    r = records(tmp_path)
    t = thing(1)
    r.arrived(t, 0, 0, sums(1, 2))
    r.commit()
    assert r.copies == {"objects": 1, "bytes": 2 * BLOCK}
    r.arrived(t, 0, 2, sums(3))
    r.commit()
    assert r.copies == {"objects": 1, "bytes": 3 * BLOCK}
    r.damaged(t.oid, [1])
    assert r.copies == {"objects": 1, "bytes": 2 * BLOCK}
    r.arrived(t, 1, 0, sums(1, 2, 3, 4, 5))
    r.complete(t, 1)
    r.commit()
    assert (r.held_copies.bytes[0], r.held_copies.bytes[1]) == (0, 5 * BLOCK)
    assert (r.count[0], r.count[1]) == (0, 1)
    r.drop([t.oid])
    assert r.copies == {"objects": 0, "bytes": 0}


def test_copies_go_first_and_the_oldest_of_each_kind(tmp_path: Path) -> None:
    r = records(tmp_path)
    with r.index.env.begin(write=True) as txn:
        for number, used in ((1, NOW + 5), (2, NOW - 100), (3, NOW + 2), (4, NOW), (6, NOW - 1000)):
            flags = COPY if number % 2 else PINNED if number == 6 else 0
            r.index.put_object(txn, bytes([number]) * 16, Object(COMPLETE, 0, flags, used, 5000, 5000, BOOT, number))
    assert order(r) == [3, 1, 2, 4]
    with r.index.env.begin() as txn:
        gone = Lru().victims(r.oldest(txn, 0), 3 * 8192, {bytes([1]) * 16})
    assert [v.oid[0] for v in gone] == [3, 2, 4]
    with r.index.env.begin(write=True) as txn:
        used_now = row(r, bytes([3]) * 16)._replace(used=NOW + 9)
        r.index.put_object(txn, bytes([3]) * 16, used_now)
        assert txn.stat(r.index.recency)["entries"] == 5, "an object has two turns"
    assert order(r) == [1, 3, 2, 4]
    with r.index.env.begin(write=True) as txn:
        for number in (1, 2, 3, 4, 6):
            r.index.drop_object(txn, bytes([number]) * 16)
        assert txn.stat(r.index.recency)["entries"] == 0


@given(st.integers(1_500_000_000, 2_500_000_000), st.integers(1_500_000_000, 2_500_000_000))
def test_every_copy_comes_before_every_other(a: int, b: int) -> None:
    assert turn(a, COPY) < turn(b, 0) < turn(a, PINNED) == turn(b, PINNED | COPY)
    assert (turn(a, COPY) < turn(b, COPY)) == (turn(a, 0) < turn(b, 0)) == (a < b)


def test_a_row_without_an_inode_gets_one(tmp_path: Path) -> None:
    r = records(tmp_path)
    waits, written, lately, early = (thing(n, ino=0) for n in (1, 2, 3, 4))
    whole(r, written)
    r._recent.clear()
    whole(r, lately)
    r.arrived(waits, 0, 0, sums(*range(5)))
    r.complete(waits, 0)
    r.adopt(early.oid, 104)
    for t in (waits, written, lately):
        assert r.object(t.oid).ino == 0  # type: ignore[union-attr]
        r.adopt(t.oid, 100 + t.oid[0])
    assert r.object(waits.oid).ino == 101  # type: ignore[union-attr]
    assert r.object(lately.oid).ino == 103  # type: ignore[union-attr]
    r.arrived(early, 0, 0, sums(*range(5)))
    r.commit()
    assert not r.waiting()
    assert [row(r, t.oid).ino for t in (waits, written, lately, early)] == [101, 102, 103, 104]
    r.adopt(waits.oid, 999)
    r.commit()
    assert row(r, waits.oid).ino == 101, "a row that has an inode got another"


def test_another_nodes_request_does_not_take_an_inode_away(tmp_path: Path) -> None:
    r = records(tmp_path)
    r.arrived(thing(1), 0, 0, sums(1))
    r.commit()
    r.arrived(thing(1, ino=0), 0, 1, sums(2, 3, 4, 5))
    r.complete(thing(1, ino=0), 0)
    r.commit()
    assert row(r, thing(1).oid).ino == 1
    assert r.object(thing(1).oid).ino == 1  # type: ignore[union-attr]


def test_checksums_of_blocks_whether_committed_or_not(tmp_path: Path) -> None:
    r = records(tmp_path)
    t = thing(1, SEGMENT + 4 * BLOCK)
    edge = BLOCKS_PER_SEGMENT
    r.arrived(t, 0, edge - 2, sums(1, 2, 3))
    r.commit()
    r.arrived(t, 0, edge + 1, sums(4, 5, 6))
    assert r.block_sums(t.oid, t.size, edge - 2, 6) == sums(1, 2, 3, 4, 5, 6)
    assert r.block_sums(t.oid, t.size, edge - 1, 3) == sums(2, 3, 4)
    assert r.block_sums(t.oid, t.size, edge + 2, 1) == sums(5)
    assert r.block_sums(t.oid, t.size, edge - 3, 3) is None
    assert r.block_sums(t.oid, t.size + BLOCK, edge, 1) is None, "a row of another size proved something"
    r.commit()
    assert r.block_sums(t.oid, t.size, edge - 2, 6) == sums(1, 2, 3, 4, 5, 6)
    r.damaged(t.oid, [edge])
    assert r.block_sums(t.oid, t.size, edge - 2, 6) is None
    assert r.block_sums(t.oid, t.size, edge + 1, 3) == sums(4, 5, 6)
    full = thing(2, SEGMENT)
    r.arrived(full, 0, 0, sums(*range(edge)))
    r.commit()
    assert r.block_sums(full.oid, full.size, 3, 200) == sums(*range(3, 203))
    r.arrived(full, 0, 4, sums(1000))  # what came last holds
    assert r.block_sums(full.oid, full.size, 3, 3) == sums(3, 1000, 5)
    assert r.block_sums(full.oid, full.size, edge - 2, 9) is None, "blocks beyond the end"
    assert r.block_sums(full.oid, full.size, edge + 2, 9) is None


def test_pinned_objects_stay_until_they_are_unpinned(tmp_path: Path) -> None:
    r = records(tmp_path)
    for number in (1, 2, 4):
        whole(r, thing(number))
    r.dirty.clear()
    assert r.pin([thing(1).oid, thing(2).oid, thing(9).oid]) == {thing(1).oid, thing(2).oid}
    assert r.dirty == {thing(1).oid, thing(2).oid}, "a pin would not outlive the boot"
    assert order(r) == [4]
    r.touch([thing(1).oid])
    r.arrived(thing(2), 1, 0, sums(*range(5)))  # it moves to another tier
    r.complete(thing(2), 1)
    r.commit()
    assert order(r, 1) == []
    assert row(r, thing(1).oid).flags == COPY | PINNED
    assert r.copies["objects"] == 1
    assert r.unpin([thing(1).oid, thing(9).oid]) == {thing(1).oid}
    assert r.unpin([thing(2).oid]) == {thing(2).oid}
    assert order(r) == [1, 4]
    assert order(r, 1) == [2]


def test_flags_follow_the_members_in_steps(tmp_path: Path) -> None:
    r = records(tmp_path)
    for number in range(1, 101):
        whole(r, thing(number))
    r.pin([thing(7).oid])
    asked: list[bytes] = []

    def third(oid: bytes, size: int) -> bool:
        asked.append(oid)
        return oid[0] % 3 == 0

    r.is_copy = third
    steps, after = 0, b""
    while after or not steps:
        after = r.reflag(after, 0.0)
        steps += 1
    assert steps == 100, "a step went on after its time"
    assert sorted(asked) == [thing(n).oid for n in range(1, 101)]
    r.touch([thing(3).oid])
    flags = {n: row(r, thing(n).oid).flags for n in range(1, 101)}
    assert flags == {n: (0 if n % 3 else COPY) | (PINNED if n == 7 else 0) for n in range(1, 101)}
    assert r.copies == {"objects": 33, "bytes": 33 * 5 * BLOCK}
    assert {n % 3 for n in order(r)[:33]} == {0}
    with r.index.env.begin() as txn:
        assert txn.stat(r.index.recency)["entries"] == 100
    assert r.object(thing(3).oid).flags == COPY  # type: ignore[union-attr]
    r.is_copy = None
    r.reflag(b"", math.inf)
    assert r.copies == {"objects": 0, "bytes": 0}


def test_counts_are_found_again_after_a_start(tmp_path: Path) -> None:
    r = records(tmp_path)
    for number in range(1, 8):
        whole(r, thing(number), number % 2)
    r.arrived(thing(11), 0, 0, sums(1))
    r.commit()
    r.index.close()
    again = records(tmp_path)
    used, count = by_tier(again.index, 2, again.held_copies)
    assert used == [15 * BLOCK + BLOCK, 20 * BLOCK]
    assert count == [4, 4]
    assert again.copies == r.copies == {"objects": 5, "bytes": 21 * BLOCK}
    assert again.held_copies.bytes == r.held_copies.bytes
    assert again.held_copies.held == r.held_copies.held == {0: 16 * BLOCK, 1: 20 * BLOCK}
    assert again.held_copies.content == r.held_copies.content == {0: BLOCK, 1: 20 * BLOCK}


def test_bytes_of_objects_are_counted_not_what_files_allocate(tmp_path: Path) -> None:
    r = records(tmp_path)
    small = [thing(n, 100) for n in range(2, 8)]
    for n, t in enumerate(small):
        if n % 2:
            assert r.object(t.oid) is None  # known to be absent: inserted in bulk
        r.arrived(t, 0, 0, sums(n))
        r.complete(t, 0)
    assert r.commit()
    assert (r.held_copies.held[0], r.held_copies.content[0], r.copies["bytes"]) == (600, 300, 3 * 4096)
    r.arrived(thing(9), 1, 0, sums(1, 2))
    assert r.commit()
    assert r.held_copies.held[1] == 2 * BLOCK, "of an incomplete one what is there"
    r.arrived(thing(9), 1, 2, sums(3, 4, 5))
    r.complete(thing(9), 1)
    assert r.commit()
    assert r.held_copies.held[1] == 5 * BLOCK
    r.damaged(thing(9).oid, [1])
    assert r.held_copies.held[1] == 4 * BLOCK
    r.drop([thing(9).oid, small[0].oid, small[1].oid])
    assert (r.held_copies.held[0], r.held_copies.held[1], r.held_copies.content[0]) == (400, 0, 200)


def test_rows_are_looked_at_after_a_start_and_after_each_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    r = records(tmp_path)
    r.is_copy = None
    for number in range(1, 11):
        whole(r, thing(number))
    reflag = Reflag(r)
    real, failed = r.reflag, 0

    def failing(after: bytes) -> bytes:
        nonlocal failed
        failed += 1
        if failed == 1:
            raise IndexError_("the disk is full")
        return real(after, 0.0)

    monkeypatch.setattr(r, "reflag", failing)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            r.is_copy = odd
            nursery.start_soon(reflag.run)
            await trio.sleep(60)
            assert (reflag.passes, r.copies["objects"]) == (1, 5)
            r.is_copy = lambda oid, size: True
            await trio.sleep(60)
            assert reflag.passes == 1, "rows were looked at for nothing"
            await trio.to_thread.run_sync(reflag.wake)
            await trio.sleep(SETTLE + 0.1)
            reflag.wake()  # in the middle of a pass: that one ends, and another follows
            await trio.sleep(60)
            assert (reflag.passes, r.copies["objects"]) == (3, 10)
            nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    reflag.wake()  # the worker ended meanwhile


def test_a_mebibyte_of_a_large_object_is_due_and_of_small_ones_eight(tmp_path: Path) -> None:
    r = records(tmp_path)
    large = thing(1, 100 << 20)
    r.arrived(large, 0, 0, sums(1, 2, 3))
    assert not r.due()
    r.arrived(large, 0, 3, sums(4))
    assert r.due()
    r.commit()
    assert not r.due()
    for number in range(2, 33):
        r.arrived(thing(number, 5), 0, 0, sums(1))
    assert not r.due()
    r.arrived(thing(40, 5), 0, 0, sums(1))
    assert r.due()
