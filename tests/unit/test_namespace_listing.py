"""Directories over stores in memory: pages, relistings, errors half way, endless and hostile listings."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest
import trio
import trio.testing

from forebay.api import wire
from forebay.api.spec import Freshness
from forebay.cache.disk import index
from forebay.cache.disk.index import COMPLETE_LIST, DIR, FILE, LISTING, ROOT, UNRESOLVED, Dir, IndexError_
from forebay.cache.stores.base import BadReply, Denied, Entry, NotFound, Page, StoreError, Unavailable
from forebay.cache.tree import listing

sys.path.insert(0, str(Path(__file__).parent))
from namespace_world import MemoryStore, World, run

EVENT = Freshness("event")
IMMUTABLE = Freshness("immutable")


def objects(*keys: bytes) -> dict[bytes, bytes]:
    return {key: b"v1-" + key for key in keys}


def down(op: str, key: bytes, token: bytes | None) -> StoreError | None:
    return Unavailable("the store is down")


# listings


def test_the_first_page_is_there_after_one_round_trip(tmp_path: Path) -> None:
    store = MemoryStore(objects(*(b"f%03d" % i for i in range(35))), page=10)
    store.gate = threading.Event()

    async def body(w: World) -> None:
        try:
            assert await w.ns.list_dir(ROOT) is False
            assert len(w.names()) == 10
            assert await w.ns.list_dir(ROOT) is False
            assert w.ns.lister.state(ROOT)[0].state == LISTING
        finally:
            assert store.gate is not None
            store.gate.set()
        assert len(await w.drain(ROOT)) == 35
        assert store.count("list") == 4
        assert await w.ns.list_dir(ROOT) is True

    run(World(tmp_path, store), body)


def test_a_relisting_adds_changes_and_removes_and_rewrites_nothing_else(tmp_path: Path) -> None:
    store = MemoryStore(objects(b"a", b"b", b"c", b"d/x", b"e/y"), page=2)

    async def body(w: World) -> None:
        before = {row.name: row for row in await w.drain(ROOT)}
        await w.drain(before[b"d"].ino)
        w.clock.now += 61
        store.objects |= {b"b": b"v2", b"n": b"v1"}
        del store.objects[b"c"], store.objects[b"e/y"]
        after = {row.name: row for row in await w.drain(ROOT)}
        assert sorted(after) == [b"a", b"b", b"d", b"n"]
        assert after[b"a"] == before[b"a"]
        assert after[b"d"] == before[b"d"]
        assert after[b"b"].ino not in {row.ino for row in before.values()}
        assert {(e.name, e.old, e.new) for e in w.events} == {
            (b"b", before[b"b"].ino, after[b"b"].ino), (b"c", before[b"c"].ino, 0), (b"e", before[b"e"].ino, 0),
        }  # fmt: skip
        d = w.ns.lister.state(ROOT)[0]
        assert d == Dir(COMPLETE_LIST, int(w.clock.now), 4, 2, (0,))
        store.calls.clear()
        assert w.row(await w.ns.lookup(ROOT, b"a")) == before[b"a"]  # the listing vouches for a row it did not rewrite
        assert store.calls == []

    run(World(tmp_path, store), body)


@pytest.mark.parametrize("error", [Unavailable("cut"), Denied("403"), BadReply("nonsense")])
def test_a_listing_that_breaks_keeps_everything(tmp_path: Path, error: StoreError) -> None:
    store = MemoryStore(objects(*(b"f%d" % i for i in range(6))), page=2)

    async def body(w: World) -> None:
        before = await w.drain(ROOT)
        w.clock.now += 61
        store.objects = {b"f0": store.objects[b"f0"]} | objects(b"new1", b"new2")
        store.page = 1
        store.fault = lambda op, key, token: error if token is not None else None
        if isinstance(error, Unavailable):
            assert [r.name for r in await w.drain(ROOT)] == [r.name for r in before]  # stale but whole
            assert w.ns.core.stale_answers > 0
        else:
            with pytest.raises(type(error)):
                await w.drain(ROOT)
        assert [r.ino for r in before] == [i.ino for i in map(w.row, [r.ino for r in before])]
        assert sorted(w.names()) == [b"f%d" % i for i in range(6)]
        assert w.events == []
        assert w.ns.core.reach[0].listing_errors == 1
        assert w.ns.core.reach[0].error == str(error)

    run(World(tmp_path, store), body)


def test_what_arrived_before_an_error_is_shown_and_the_error_too(tmp_path: Path) -> None:
    store = MemoryStore(objects(*(b"f%d" % i for i in range(6))), page=2)
    store.fault = lambda op, key, token: Unavailable("cut") if token == b"f3" else None

    async def body(w: World) -> None:
        with pytest.raises(Unavailable, match="cut"):
            await w.drain(ROOT)
        assert len(w.names()) == 4
        assert w.ns.lister.state(ROOT)[0].state == LISTING
        store.fault = lambda op, key, token: None
        await trio.sleep(listing.ERROR_GRACE)
        assert len(await w.drain(ROOT)) == 6

    run(World(tmp_path, store), body)


def test_an_endless_listing_is_refused_and_drops_nothing(tmp_path: Path) -> None:
    store = MemoryStore(objects(*(b"f%d" % i for i in range(6))), page=2)

    async def body(w: World) -> None:
        await w.drain(ROOT)
        w.clock.now += 61
        turn = iter(range(10**6))
        store.answer = lambda prefix, token: Page([Entry(b"f0", False, 1, 1, b"v")], b"%d" % (next(turn) % 7))
        with pytest.raises(BadReply, match="in circles"):
            await w.ns.list_dir(ROOT)
        assert store.count("list") < 40
        store.calls.clear()
        store.answer = lambda prefix, token: Page([], b"%d" % next(turn))
        await trio.sleep(listing.ERROR_GRACE)
        with pytest.raises(BadReply, match="in circles"):
            await w.ns.list_dir(ROOT)
        assert store.count("list") < 40
        assert sorted(w.names()) == [b"f%d" % i for i in range(6)]

    run(World(tmp_path, store), body)


def test_hostile_names_never_enter(tmp_path: Path) -> None:
    good = [b"\xff\xfe", b"a\nb", b"quote'\"", b"...", b"x" * 255, b"\xe2\x80\xae", b"-rf", b"%2e"]
    bad = [b"", b".", b"..", b"a/b", b"nul\0", b"x" * 256]
    store = MemoryStore()
    store.answer = lambda prefix, token: Page(
        [Entry(n, n == b"..", 3, 1, b"v") for n in [*good, *bad]] + [Entry(b"ok", False, 1, 1, b"v" * 2000)], None, 5
    )

    async def body(w: World) -> None:
        assert {row.name for row in await w.drain(ROOT)} == set(good)
        assert w.ns.lister.skipped == len(bad) + 1 + 5
        assert (await w.ns.path(b"/a\nb")).kind == FILE
        assert w.ns.stats()["names_skipped"] == w.ns.lister.skipped

    run(World(tmp_path, store), body)


def test_absurd_numbers_from_a_store_are_clamped(tmp_path: Path) -> None:
    store = MemoryStore()
    store.answer = lambda prefix, token: Page(
        [Entry(b"big", False, 2**70, 2**80, b"v"), Entry(b"old", False, 1, -(2**80), b"v"), Entry(b"a", False, -5, 0, b"v")], None
    )

    async def body(w: World) -> None:
        rows = {row.name: row for row in await w.drain(ROOT)}
        assert rows[b"big"].size == 2**63 - 1
        assert rows[b"a"].flags & UNRESOLVED

    run(World(tmp_path, store), body)


def test_flips_between_file_and_directory(tmp_path: Path) -> None:
    store = MemoryStore({b"a": b"v1"})

    async def body(w: World) -> None:
        inos = set()
        for turn in range(4):
            store.objects = {b"a": b"v1"} if turn % 2 == 0 else {b"a/b": b"v1"}
            w.clock.now += 61
            (row,) = await w.drain(ROOT)
            assert row.kind == (FILE if turn % 2 == 0 else DIR)
            assert row.ino not in inos
            inos.add(row.ino)
            if row.kind == DIR:
                assert [r.name for r in await w.drain(row.ino)] == [b"b"]
            w.sound()

    run(World(tmp_path, store), body)


def test_a_directory_that_vanished_goes_when_it_is_listed(tmp_path: Path) -> None:
    store = MemoryStore(objects(b"d/a", b"x"))

    async def body(w: World) -> None:
        d = await w.ns.lookup(ROOT, b"d")
        await w.drain(d)
        del store.objects[b"d/a"]
        w.clock.now += 61
        with pytest.raises(NotFound):
            await w.ns.list_dir(d)
        assert wire.Changed(ROOT, b"d", d, 0) in w.events
        with pytest.raises(NotFound):
            await w.ns.lookup(ROOT, b"d")

    run(World(tmp_path, store), body)


def test_a_mount_whose_root_is_gone_keeps_its_rows(tmp_path: Path) -> None:
    store = MemoryStore(objects(b"a", b"b"))

    async def body(w: World) -> None:
        await w.drain(ROOT)
        w.clock.now += 61
        store.fault = lambda op, key, token: NotFound("no such directory: is its disk mounted?")
        with pytest.raises(NotFound, match="disk"):
            await w.ns.list_dir(ROOT)
        assert w.names() == [b"a", b"b"]

    run(World(tmp_path, store), body)


def test_a_newer_lookup_survives_an_older_page(tmp_path: Path) -> None:
    store = MemoryStore(objects(b"a", b"b"), page=1)
    store.gate = threading.Event()

    async def body(w: World) -> None:
        stale_page = Page([Entry(b"b", False, 100, 1, b"old")], None)
        store.answer = lambda prefix, token: stale_page if token is not None else None
        await w.ns.list_dir(ROOT)
        await trio.testing.wait_all_tasks_blocked(0.05)
        w.clock.now += 5
        row = await w.ns.path(b"/b")
        assert store.gate is not None
        store.gate.set()
        rows = {r.name: r for r in await w.drain(ROOT)}
        assert rows[b"b"] == row

    run(World(tmp_path, store), body)


def test_a_name_looked_up_while_its_directory_is_listed_stays(tmp_path: Path) -> None:
    store = MemoryStore(objects(b"a", b"b"), page=1)
    store.gate = threading.Event()

    async def body(w: World) -> None:
        await w.ns.list_dir(ROOT)
        store.objects[b"0new"] = b"v"  # before the page already delivered
        row = await w.ns.path(b"/0new")
        assert store.gate is not None
        store.gate.set()
        assert row in await w.drain(ROOT)

    run(World(tmp_path, store), body)


def test_a_directory_asked_for_name_by_name_is_listed(tmp_path: Path) -> None:
    store = MemoryStore(objects(*(b"f%d" % i for i in range(30))))

    async def body(w: World) -> None:
        for i in range(30):
            await w.ns.lookup(ROOT, b"f%d" % i)
            await trio.testing.wait_all_tasks_blocked(0.01)
            while w.ns.lister.flights:
                await trio.sleep(0.005)
        assert store.count("list") == 1
        assert store.count("stat") < 8

    run(World(tmp_path, store), body)


def test_a_full_index_is_an_error_with_a_remedy_and_breaks_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore(objects(b"a") | {b"d/%05d" % i: b"v" for i in range(8000)})
    monkeypatch.setattr(index, "MAP_SIZE", 1 << 20)

    async def body(w: World) -> None:
        a = await w.ns.lookup(ROOT, b"a")
        d = await w.ns.lookup(ROOT, b"d")
        with pytest.raises(IndexError_, match="free space"):
            await w.ns.lister.complete(d)
        n = len(w.names(d))
        assert n >= 1000
        w.sound()
        assert await w.ns.lookup(ROOT, b"a") == a
        async with trio.open_nursery() as nursery:
            await nursery.start(w.ns.run_walk)
            while not w.ns.progress.failed:
                await trio.sleep(0.01)
            assert "free space" in w.ns.progress.error
            nursery.cancel_scope.cancel()

    run(World(tmp_path, store), body)


def test_one_page_with_everything_does_not_hold_up_the_others(tmp_path: Path) -> None:
    store = MemoryStore()
    store.answer = lambda prefix, token: Page([Entry(b"f%06d" % i, False) for i in range(20_000)], None)

    async def body(w: World) -> None:
        flight = w.ns.lister.begin(ROOT)
        seen = set()
        while not flight.done:
            await trio.sleep(0)
            seen.add(w.ns.core.counts.files)
        assert len(seen) > 20_000 // listing.APPLY_SLICE // 2  # the loop turned while the page was applied
        assert len(w.names()) == 20_000

    run(World(tmp_path, store), body)
