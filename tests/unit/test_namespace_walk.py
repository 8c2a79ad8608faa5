"""Walks: the background walk that fills the tree, and the walk over one subtree."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from forebay.cache.disk.index import FILE, ROOT, UNRESOLVED, Row
from forebay.cache.stores.base import Denied, NotFound, Unavailable
from forebay.cache.tree import walk

sys.path.insert(0, str(Path(__file__).parent))
from namespace_world import MemoryStore, World, run


def forest(dirs: int = 12, files: int = 5) -> dict[bytes, bytes]:
    return {b"d%02d/e%d/f%d" % (d, e, f): b"v1" for d in range(dirs) for e in range(2) for f in range(files)} | {b"top": b"v1"}


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(60):
        while not condition():
            await trio.sleep(0.005)


async def collect(w: World, start: int = ROOT, **options: object) -> list[Row]:
    rows: list[Row] = []
    async for batch in w.ns.walk(start, **options):  # type: ignore[arg-type]
        assert batch
        assert len(batch) <= walk.BATCH
        assert all(row.kind == FILE for row in batch)
        rows += batch
    return rows


def test_the_walk_fills_the_tree_and_rests(tmp_path: Path) -> None:
    store = MemoryStore(forest(), page=3)

    async def body(w: World) -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(w.ns.run_walk)
            await until(lambda: w.ns.progress.done)
            p = w.ns.progress
            assert (p.dirs_listed, p.dirs_known, p.files, p.bytes, p.failed, p.error) == (37, 37, 121, 121 * 102, 0, "")
            n = store.count("list")
            w.clock.now += 10_000  # every listing expired: nobody looks, nobody lists
            await trio.sleep(0.05)
            assert store.count("list") == n
            store.objects[b"new/deep/er"] = b"v1"
            await w.drain(ROOT)
            await until(lambda: w.ns.progress.files == 122 and w.ns.progress.done)
            nursery.cancel_scope.cancel()
        assert {r.name for r in (await w.tree()).values()} >= {b"er"}

    run(World(tmp_path, store), body)


def test_a_walk_cut_short_goes_on_where_it_was(tmp_path: Path) -> None:
    """Cut while 60 of 121 listings are recorded and more are under way: none of the 60 is asked for again."""
    store = MemoryStore(forest(40))
    permits = threading.BoundedSemaphore(60)
    real = store.list

    def ending(prefix: bytes, token: bytes | None = None, limit: int = 1000) -> object:
        if not permits.acquire(blocking=False):
            trio.from_thread.run(trio.sleep_forever)  # until the walk is cut short
        return real(prefix, token, limit)

    async def first(w: World) -> None:
        store.list = ending  # type: ignore[method-assign, assignment]
        async with trio.open_nursery() as nursery:
            await nursery.start(w.ns.run_walk)
            await until(lambda: w.ns.progress.dirs_listed == 60)
            nursery.cancel_scope.cancel()
        store.list = real  # type: ignore[method-assign]
        assert store.count("list") == 60

    async def second(w: World) -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(w.ns.run_walk)
            await until(lambda: w.ns.progress.done)
            assert w.ns.progress.dirs_listed == w.ns.progress.dirs_known == 121
            nursery.cancel_scope.cancel()
        assert store.count("list") == 121

    run(World(tmp_path, store), first)
    run(World(tmp_path, store), second)


def test_the_walk_is_parallel_and_bounded(tmp_path: Path) -> None:
    store = MemoryStore(forest(30))
    now = [0]
    most = [0]
    real = store.list

    def slow(prefix: bytes, token: bytes | None = None, limit: int = 1000) -> object:
        now[0] += 1
        most[0] = max(most[0], now[0])
        try:
            trio.from_thread.run(trio.sleep, 0.003)
            return real(prefix, token, limit)
        finally:
            now[0] -= 1

    store.list = slow  # type: ignore[method-assign, assignment]

    async def body(w: World) -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(w.ns.run_walk)
            await until(lambda: w.ns.progress.done)
            nursery.cancel_scope.cancel()
        assert 4 <= most[0] <= walk.PARALLEL

    run(World(tmp_path, store), body)


def test_the_walk_tries_again_where_a_store_did_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore(forest())
    monkeypatch.setattr(walk, "RETRY_FIRST", 0.2)
    store.fault = lambda op, key, token: Unavailable("d03 is slow today") if key.startswith(b"d03/") else None

    async def body(w: World) -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(w.ns.run_walk)
            await until(lambda: w.ns.progress.failed > 0 and not w.ns.lister.flights)
            assert w.ns.progress.error == "d03 is slow today"
            assert not w.ns.progress.done
            store.fault = lambda op, key, token: None
            await until(lambda: w.ns.progress.done)
            assert w.ns.progress.error == ""
            assert w.ns.progress.files == 121
            nursery.cancel_scope.cancel()

    run(World(tmp_path, store), body)


def test_the_walk_ends_where_a_store_refuses_and_says_so(tmp_path: Path) -> None:
    store = MemoryStore(forest())
    store.fault = lambda op, key, token: Denied("d03 is forbidden") if key.startswith(b"d03/") else None

    async def body(w: World) -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(w.ns.run_walk)
            await until(lambda: w.ns.progress.done)
            p = w.ns.progress
            assert (p.failed, p.error, p.dirs_listed, p.dirs_known) == (1, "d03 is forbidden", 34, 35)
            asked = store.count("list")
            await trio.sleep(0.05)
            assert store.count("list") == asked
            store.fault = lambda op, key, token: None
            await w.ns.refresh(b"/d03")
            await until(lambda: w.ns.progress.files == 121 and w.ns.progress.done)
            assert w.ns.progress.failed == 0
            nursery.cancel_scope.cancel()

    run(World(tmp_path, store), body)


def test_what_failed_is_tried_again_without_anybody_asking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever corrects a bucket's policy tells nobody here."""
    store = MemoryStore(forest())
    monkeypatch.setattr(walk, "RETRY_MOST", 0.1)
    store.fault = lambda op, key, token: Denied("forbidden")

    async def body(w: World) -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(w.ns.run_walk)
            await until(lambda: w.ns.progress.done and w.ns.progress.failed == 1)
            (reach,) = w.ns.core.reach
            assert reach.silent
            w.clock.now += 1
            store.fault = lambda op, key, token: None
            await until(lambda: w.ns.progress.files == 121 and w.ns.progress.done)
            assert not reach.silent
            nursery.cancel_scope.cancel()

    run(World(tmp_path, store), body)


def test_a_subtree_gives_each_of_its_files_once(tmp_path: Path) -> None:
    store = MemoryStore(forest() | {b"d01/%04d" % i: b"v" for i in range(2500)}, page=400)

    async def body(w: World) -> None:
        d = (await w.ns.path(b"/d01")).ino
        rows = await collect(w, d)
        assert sorted(w.ns.locate(r.ino).key for r in rows) == sorted(k for k in store.objects if k.startswith(b"d01/"))
        assert not any(key.startswith(b"d02") for op, key in store.calls)
        rows = await collect(w)
        assert sorted(w.ns.locate(r.ino).key for r in rows) == sorted(store.objects)
        n = len(store.calls)
        w.clock.now += 100  # expired, yet young enough for a walk
        assert len(await collect(w)) == len(rows)
        assert len(store.calls) == n
        w.clock.now += 1000
        store.objects[b"d05/late"] = b"v"
        assert len(await collect(w)) == len(rows) + 1
        file = await w.ns.path(b"/top")
        assert await collect(w, file.ino) == [file]
        with pytest.raises(NotFound):
            await collect(w, 987_654)

    run(World(tmp_path, store), body)


def test_a_subtree_with_a_broken_directory(tmp_path: Path) -> None:
    store = MemoryStore(forest())
    store.fault = lambda op, key, token: Unavailable("down") if key.startswith(b"d03/e1") else None

    async def body(w: World) -> None:
        with pytest.raises(Unavailable):
            await collect(w)
        errors: list[tuple[int, Exception]] = []
        rows = await collect(w, on_error=lambda ino, e: errors.append((ino, e)))
        assert len(rows) == 121 - 5
        ((ino, error),) = errors
        assert str(error) == "down"
        assert w.ns.locate(ino).key == b"d03/e1/"

    run(World(tmp_path, store), body)


def test_a_subtree_of_names_only_is_resolved_unless_metadata_is_all(tmp_path: Path) -> None:
    store = MemoryStore(forest(3), versions=False)

    async def body(w: World) -> None:
        rows = await collect(w, metadata_only=True)
        assert len(rows) == 31
        assert all(r.flags & UNRESOLVED for r in rows)
        store.fault = lambda op, key, token: Denied("403") if op == "stat" and key == b"top" else None
        rows = await collect(w)
        assert [r.name for r in rows if r.flags & UNRESOLVED] == [b"top"]
        assert sum(r.size for r in rows) == 30 * 102
        assert store.count("stat") == 31

    run(World(tmp_path, store), body)


def test_known_directories_cost_no_question(tmp_path: Path) -> None:
    store = MemoryStore(forest(3))

    async def body(w: World) -> None:
        tree = await w.tree()
        n = len(store.calls)
        inos = [ino async for ino in walk.known_dirs(w.ns.core, ROOT)]
        assert len(inos) == len(set(inos)) == 1 + sum(1 for r in tree.values() if r.kind != FILE)
        assert len(store.calls) == n

    run(World(tmp_path, store), body)
