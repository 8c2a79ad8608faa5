"""Names over stores in memory: lookups, versions, validation, and every way a store can fail to answer."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest
import trio
import trio.testing

from forebay.api import wire
from forebay.api.spec import Freshness
from forebay.cache.disk.index import DIR, FILE, ROOT, UNRESOLVED
from forebay.cache.stores.base import BadReply, Denied, Entry, NotFound, StoreError, Unavailable
from forebay.cache.tree import core as nscore
from forebay.cache.tree.namespace import NotADirectory

sys.path.insert(0, str(Path(__file__).parent))
from namespace_world import MemoryStore, World, run

EVENT = Freshness("event")
IMMUTABLE = Freshness("immutable")


def objects(*keys: bytes) -> dict[bytes, bytes]:
    return {key: b"v1-" + key for key in keys}


def down(op: str, key: bytes, token: bytes | None) -> StoreError | None:
    return Unavailable("the store is down")


# lookups


def test_a_known_path_costs_a_head_and_a_list_a_name(tmp_path: Path) -> None:
    store = MemoryStore(objects(b"a/b/c.bin", b"a/b/d.bin", b"top"))

    async def body(w: World) -> None:
        row = await w.ns.path(b"/a/b/c.bin")
        assert (row.kind, row.size, row.version, row.name) == (FILE, 100 + len(b"v1-a/b/c.bin"), b"v1-a/b/c.bin", b"c.bin")
        assert sorted(store.calls) == sorted([(op, key) for key in (b"a", b"a/b", b"a/b/c.bin") for op in ("stat", "is_dir")])
        assert (await w.ns.path(b"/a/b/c.bin")) == row
        assert len(store.calls) == 6  # answered from the index
        at = w.ns.locate(row.ino)
        assert (at.mount, at.key, at.path) == (0, b"a/b/c.bin", (b"a", b"b", b"c.bin"))
        assert w.ns.locate((await w.ns.path(b"/a/b")).ino).key == b"a/b/"
        assert w.ns.locate(ROOT).key == b""

    run(World(tmp_path, store), body)


def test_absent_is_a_definite_answer_and_is_remembered_as_long_as_a_name_would_be(tmp_path: Path) -> None:
    store = MemoryStore(objects(b"a"))

    async def body(w: World) -> None:
        for _ in range(3):
            with pytest.raises(NotFound):
                await w.ns.lookup(ROOT, b"nothing")
        assert len(store.calls) == 2
        store.objects[b"nothing"] = b"now"
        w.clock.now += 61
        assert w.row(await w.ns.lookup(ROOT, b"nothing")).version == b"now"

    run(World(tmp_path, store), body)


def test_a_complete_listing_answers_for_what_it_does_not_hold(tmp_path: Path) -> None:
    store = MemoryStore(objects(b"a", b"b"))

    async def body(w: World) -> None:
        await w.drain(ROOT)
        before = len(store.calls)
        with pytest.raises(NotFound):
            await w.ns.lookup(ROOT, b"c")
        assert w.row(await w.ns.lookup(ROOT, b"a")).name == b"a"
        assert len(store.calls) == before

    run(World(tmp_path, store), body)


@pytest.mark.parametrize("error", [Unavailable("down"), Denied("403"), BadReply("nonsense")])
def test_an_error_makes_no_name_absent(tmp_path: Path, error: StoreError) -> None:
    store = MemoryStore()
    store.fault = lambda op, key, token: error if op == "stat" else None

    async def body(w: World) -> None:
        with pytest.raises(type(error)):
            await w.ns.lookup(ROOT, b"a")
        store.fault = lambda op, key, token: None
        store.objects[b"a"] = b"v"
        assert await w.ns.lookup(ROOT, b"a")  # no negative entry stood in the way
        assert w.ns.core.reach[0].error == str(error)

    run(World(tmp_path, store), body)


def test_a_store_that_forbids_listing_still_shows_keys_by_name(tmp_path: Path) -> None:
    store = MemoryStore(objects(b"a"))
    store.fault = lambda op, key, token: Denied("no ListBucket") if op in ("is_dir", "list") else None

    async def body(w: World) -> None:
        assert w.row(await w.ns.lookup(ROOT, b"a")).kind == FILE
        with pytest.raises(Denied):
            await w.ns.lookup(ROOT, b"b")

    run(World(tmp_path, store), body)


def test_a_directory_hides_a_file_of_its_name(tmp_path: Path) -> None:
    store = MemoryStore(objects(b"a", b"a/b", b"a-", b"a.txt"), page=1)

    async def body(w: World) -> None:
        assert w.row(await w.ns.lookup(ROOT, b"a")).kind == DIR
        ino = await w.ns.lookup(ROOT, b"a")
        for _ in range(3):  # the page with the file comes before the page with the directory: the inode stays
            w.clock.now += 61
            await w.drain(ROOT)
            assert await w.ns.lookup(ROOT, b"a") == ino
        assert sorted(w.names()) == [b"a", b"a-", b"a.txt"]
        assert w.events == []

    run(World(tmp_path, store), body)


def test_many_who_ask_at_once_cost_one_question(tmp_path: Path) -> None:
    store = MemoryStore(objects(b"a"))

    async def body(w: World) -> None:
        got: list[int] = []

        async def one() -> None:
            got.append(await w.ns.lookup(ROOT, b"a"))

        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(one)
        assert len(set(got)) == 1
        assert store.calls in ([("stat", b"a"), ("is_dir", b"a")], [("is_dir", b"a"), ("stat", b"a")])

    run(World(tmp_path, store), body)


def test_who_stops_waiting_does_not_stop_the_others(tmp_path: Path) -> None:
    store = MemoryStore(objects(b"a"))
    gate = threading.Event()

    def slow(op: str, key: bytes, token: bytes | None) -> None:
        assert gate.wait(60)

    store.fault = slow

    async def body(w: World) -> None:
        got: list[int] = []

        async def other() -> None:
            got.append(await w.ns.lookup(ROOT, b"a"))

        async with trio.open_nursery() as nursery:
            with trio.move_on_after(0.05) as scope:
                await w.ns.lookup(ROOT, b"a")
            assert scope.cancelled_caught
            nursery.start_soon(other)
            await trio.sleep(0.05)
            gate.set()
        assert got
        assert len(store.calls) == 2

    run(World(tmp_path, store), body)


def test_a_wait_has_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore(objects(b"a"))
    gate = threading.Event()

    def hang(op: str, key: bytes, token: bytes | None) -> None:
        gate.wait(60)

    store.fault = hang
    monkeypatch.setattr(nscore, "CALL_DEADLINE", 0.1)

    async def body(w: World) -> None:
        try:
            with pytest.raises(Unavailable, match="no answer within"):
                await w.ns.lookup(ROOT, b"a")
            with pytest.raises(Unavailable, match="no answer within"):
                await w.ns.list_dir(ROOT)
        finally:
            gate.set()

    run(World(tmp_path, store), body)


def test_a_fault_of_a_store_module_is_an_errno_not_a_dead_worker(tmp_path: Path) -> None:
    store = MemoryStore(objects(b"a"))

    def broken(op: str, key: bytes, token: bytes | None) -> StoreError | None:
        raise KeyError("surprise")

    store.fault = broken

    async def body(w: World) -> None:
        with pytest.raises(BadReply, match="KeyError"):
            await w.ns.lookup(ROOT, b"a")
        store.fault = lambda op, key, token: None
        assert await w.ns.lookup(ROOT, b"a")

    run(World(tmp_path, store), body)


@pytest.mark.parametrize("name", [b"", b".", b"..", b"a/b", b"a\0b", b"x" * 256])
def test_impossible_names_ask_nobody(tmp_path: Path, name: bytes) -> None:
    store = MemoryStore(objects(b"a/b"))

    async def body(w: World) -> None:
        with pytest.raises(NotFound):
            await w.ns.lookup(ROOT, name)
        assert store.calls == []

    run(World(tmp_path, store), body)


def test_a_path_through_a_file(tmp_path: Path) -> None:
    async def body(w: World) -> None:
        with pytest.raises(NotADirectory):
            await w.ns.path(b"/a/b")
        ino = await w.ns.lookup(ROOT, b"a")
        with pytest.raises(NotADirectory):
            await w.ns.lookup(ino, b"b")
        with pytest.raises(NotADirectory):
            await w.ns.list_dir(ino)
        with pytest.raises(NotFound):
            await w.ns.list_dir(987_654)
        with pytest.raises(NotFound):
            await w.ns.lookup(987_654, b"a")

    run(World(tmp_path, MemoryStore(objects(b"a"))), body)


# versions


def test_a_changed_object_has_a_new_inode_and_the_old_one_stays_readable(tmp_path: Path) -> None:
    store = MemoryStore(objects(b"d/a"))

    async def body(w: World) -> None:
        old = (await w.ns.path(b"/d/a")).ino
        store.objects[b"d/a"] = b"v2"
        assert (await w.ns.path(b"/d/a")).ino == old  # fresh: nobody asked
        w.clock.now += 61
        new = await w.ns.path(b"/d/a")
        assert new.ino != old
        assert new.version == b"v2"
        parent = (await w.ns.path(b"/d")).ino
        assert w.events == [wire.Changed(parent, b"a", old, new.ino)]
        was = w.ns.locate(old)
        assert (was.key, was.row.version) == (b"d/a", b"v1-d/a")
        with w.index.env.begin() as txn:
            assert w.index.row(txn, new.ino) == new  # committed before it was told

    run(World(tmp_path, store), body)


def test_an_unchanged_object_keeps_its_inode_over_lookups_listings_and_restarts(tmp_path: Path) -> None:
    store = MemoryStore(objects(b"d/a", b"d/b", b"e"), page=1)
    seen: list[dict[bytes, int]] = []

    async def body(w: World) -> None:
        await w.ns.path(b"/d/b")
        for _ in range(2):
            seen.append({path: row.ino for path, row in (await w.tree()).items()})
            w.clock.now += 61
            await w.ns.path(b"/d/b")
        assert w.events == []

    run(World(tmp_path, store), body)
    run(World(tmp_path, store), body)
    assert len(seen[0]) == 4
    assert all(s == seen[0] for s in seen)


def test_the_same_bytes_under_a_new_inode_have_the_same_identity(tmp_path: Path) -> None:
    store = MemoryStore({b"a": b"v1"})

    async def body(w: World) -> None:
        first = await w.ns.path(b"/a")
        store.objects[b"a"] = b"v2"
        w.clock.now += 61
        second = await w.ns.path(b"/a")
        store.objects[b"a"] = b"v1"
        w.clock.now += 61
        third = await w.ns.path(b"/a")
        assert len({first.ino, second.ino, third.ino}) == 3
        assert first.oid == third.oid != second.oid

    run(World(tmp_path, store), body)


def test_a_new_time_of_the_same_version_keeps_the_inode(tmp_path: Path) -> None:
    store = MemoryStore({b"a": b"v1"})

    async def body(w: World) -> None:
        row = await w.ns.path(b"/a")
        assert w.ns.settle(row.ino, Entry(b"a", False, row.size, 99, b"v1")) == row.ino
        assert w.row(row.ino) == row._replace(mtime_ns=99)

    run(World(tmp_path, store), body)


def test_validate_asks_whatever_the_row_says(tmp_path: Path) -> None:
    store = MemoryStore({b"a": b"v1"})

    async def body(w: World) -> None:
        ino = await w.ns.lookup(ROOT, b"a")
        store.calls.clear()
        assert await w.ns.validate(ino) == ino
        assert store.calls == [("stat", b"a")]  # one HEAD
        store.objects[b"a"] = b"v2"
        new = await w.ns.validate(ino)
        assert new != ino
        assert await w.ns.validate(ino) == new  # by its name, also from the old inode
        del store.objects[b"a"]
        with pytest.raises(NotFound):
            await w.ns.validate(new)
        assert w.events[-1] == wire.Changed(ROOT, b"a", new, 0)
        assert await w.ns.validate(ROOT) == ROOT

    run(World(tmp_path, store, freshness=Freshness("validate", 60.0)), body)


def test_validate_does_not_take_an_answer_asked_for_before_it_was_called(tmp_path: Path) -> None:
    store = MemoryStore({b"a": b"v1"})
    gate = threading.Event()

    async def body(w: World) -> None:
        ino = await w.ns.lookup(ROOT, b"a")
        old_entry = store._entry(b"a", b"a")
        real = store.stat
        first = [True]

        def stat(key: bytes) -> Entry:
            if first.pop() if first else False:
                assert gate.wait(60)
                return old_entry
            return real(key)

        store.stat = stat  # type: ignore[method-assign]
        got: list[int] = []

        async def opener() -> None:
            got.append(await w.ns.validate(ino))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(opener)
            while first:  # its thread has asked the store
                await trio.sleep(0.01)
            store.objects[b"a"] = b"v2"
            nursery.start_soon(opener)
            await trio.testing.wait_all_tasks_blocked(0.05)
            gate.set()
        assert w.row(got[1]).version == b"v2"

    run(World(tmp_path, store), body)


def test_settle_fills_what_a_read_told(tmp_path: Path) -> None:
    store = MemoryStore(objects(b"d/a"), versions=False)

    async def body(w: World) -> None:
        d = await w.ns.lookup(ROOT, b"d")
        (row,) = await w.drain(d)
        assert row.flags & UNRESOLVED
        assert w.ns.settle(row.ino, Entry(b"a", False, 5, 6, b"e1")) == row.ino
        now = w.row(row.ino)
        assert (now.size, now.mtime_ns, now.version, now.flags & UNRESOLVED) == (5, 6, b"e1", 0)
        new = w.ns.settle(row.ino, Entry(b"a", False, 5, 6, b"e2"))
        assert new != row.ino
        assert w.ns.settle(row.ino, Entry(b"a", False, 5, 6, b"e3")) == new  # an old inode settles nothing
        assert w.row(new).version == b"e2"
        assert w.ns.settle(987_654, Entry(b"a", False, 5, 6, b"e3")) == 0

    run(World(tmp_path, store), body)
