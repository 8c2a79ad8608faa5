"""Unions and nested mounts over stores in memory."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from forebay.api.spec import Freshness
from forebay.cache.disk.index import DIR, FILE, FIXED, NO_MOUNT, ROOT
from forebay.cache.stores.base import NotFound, StoreError, Unavailable

sys.path.insert(0, str(Path(__file__).parent))
from namespace_world import MemoryStore, World, run

EVENT = Freshness("event")
IMMUTABLE = Freshness("immutable")


def objects(*keys: bytes) -> dict[bytes, bytes]:
    return {key: b"v1-" + key for key in keys}


def down(op: str, key: bytes, token: bytes | None) -> StoreError | None:
    return Unavailable("the store is down")


# unions and nested mounts


def test_union_first_in_order_wins_and_directories_merge(tmp_path: Path) -> None:
    one = MemoryStore(
        {b"both": b"one", b"d/x": b"one", b"d/only1": b"one", b"file-first": b"one", b"dir-first/z": b"one"}, page=1
    )
    two = MemoryStore({b"both": b"two", b"d/x": b"two", b"d/only2": b"two", b"file-first/y": b"two", b"dir-first": b"two",
                       b"two": b"two"}, page=1)  # fmt: skip

    async def body(w: World) -> None:
        looked = await w.ns.path(b"/both")
        tree = await w.tree()
        assert {path: (row.kind, row.version) for path, row in tree.items()} == {
            b"/both": (FILE, b"one"), b"/d": (DIR, b""), b"/d/x": (FILE, b"one"), b"/d/only1": (FILE, b"one"),
            b"/d/only2": (FILE, b"two"), b"/file-first": (FILE, b"one"), b"/dir-first": (DIR, b""),
            b"/dir-first/z": (FILE, b"one"), b"/two": (FILE, b"two"),
        }  # fmt: skip
        assert tree[b"/both"] == looked
        assert tree[b"/two"].mount == 1
        assert w.ns.locate(tree[b"/d/only2"].ino).mount == 1
        with w.index.env.begin() as txn:
            d = w.index.dir(txn, tree[b"/d"].ino)
        assert d is not None
        assert d.sources == (0, 1)

    run(World(tmp_path, one, two), body)


def test_union_precedence_follows_what_the_stores_have_now(tmp_path: Path) -> None:
    one, two = MemoryStore({b"a": b"one", b"d/x": b"one"}), MemoryStore({b"a": b"two", b"d/y": b"two", b"e/z": b"two"})

    async def body(w: World) -> None:
        before = await w.tree()
        one.objects = {b"e/w": b"one"}
        w.clock.now += 61
        after = await w.tree()
        assert {p: r.version for p, r in after.items() if r.kind == FILE} == {
            b"/a": b"two", b"/d/y": b"two", b"/e/z": b"two", b"/e/w": b"one",
        }  # fmt: skip
        assert after[b"/d"].ino == before[b"/d"].ino
        assert after[b"/a"].ino != before[b"/a"].ino
        one.objects = {b"a": b"one"}
        w.clock.now += 61
        assert (await w.ns.path(b"/a")).version == b"one"
        with pytest.raises(NotFound):
            await w.ns.path(b"/e/w")

    run(World(tmp_path, one, two), body)


def test_union_with_a_store_down_never_shows_what_it_may_hide(tmp_path: Path) -> None:
    one, two = MemoryStore({b"a": b"one"}), MemoryStore({b"a": b"two", b"b": b"two"})

    async def body(w: World) -> None:
        one.fault = down
        with pytest.raises(Unavailable):
            await w.ns.lookup(ROOT, b"b")
        with pytest.raises(Unavailable):
            await w.ns.list_dir(ROOT)
        assert w.names() == []
        one.fault = lambda op, key, token: None
        two.fault = down
        assert (await w.ns.path(b"/a")).version == b"one"  # nothing behind it could hide it
        with pytest.raises(Unavailable):
            await w.ns.lookup(ROOT, b"b")

    run(World(tmp_path, one, two), body)


def test_union_second_source_down_at_relisting_keeps_its_names(tmp_path: Path) -> None:
    one, two = MemoryStore({b"a": b"one"}), MemoryStore({b"b": b"two", b"c/d": b"two"})

    async def body(w: World) -> None:
        before = await w.drain(ROOT)
        w.clock.now += 61
        two.fault = down
        assert await w.drain(ROOT) == before
        assert w.events == []

    run(World(tmp_path, one, two), body)


def test_nested_mounts(tmp_path: Path) -> None:
    outer = MemoryStore(objects(b"a/b/hidden", b"a/shown", b"x", b"file", b"a/b"))
    inner = MemoryStore(objects(b"one", b"deep/two"))
    other = MemoryStore(objects(b"three"))

    async def body(w: World) -> None:
        tree = await w.tree()
        assert {p: (r.mount, r.version) for p, r in tree.items() if r.kind == FILE} == {
            b"/a/b/one": (1, b"v1-one"), b"/a/b/deep/two": (1, b"v1-deep/two"), b"/a/shown": (0, b"v1-a/shown"),
            b"/file/sub/three": (2, b"v1-three"), b"/x": (0, b"v1-x"),
        }  # fmt: skip
        assert tree[b"/a"].flags & FIXED
        assert tree[b"/a"].mount == NO_MOUNT
        assert tree[b"/a/b"].mount == 1
        assert w.ns.locate(tree[b"/a/b/deep/two"].ino).key == b"deep/two"
        assert w.ns.locate(tree[b"/a/b"].ino).key == b""
        assert w.ns.locate(tree[b"/a"].ino).mount == NO_MOUNT
        with pytest.raises(NotFound):
            await w.ns.path(b"/a/b/hidden")
        outer.objects.clear()
        w.clock.now += 61
        again = await w.tree()  # an outer store that lost everything takes no mount along
        assert {p for p in again if again[p].kind == FILE} == {b"/a/b/one", b"/a/b/deep/two", b"/file/sub/three"}
        assert all(again[p].ino == tree[p].ino for p in again)
        for store in (outer, inner, other):
            store.fault = down
        w.clock.now += 61
        assert (await w.ns.path(b"/file/sub")).ino == tree[b"/file/sub"].ino  # mount paths need no store

    run(World(tmp_path, outer, inner, other, paths=["/", "/a/b", "/file/sub"]), body)


def test_a_dataset_without_a_root_mount(tmp_path: Path) -> None:
    one, two = MemoryStore(objects(b"a")), MemoryStore(objects(b"b"))

    async def body(w: World) -> None:
        assert [r.name for r in await w.drain(ROOT)] == [b"one", b"two"]
        assert one.calls == two.calls == []
        with pytest.raises(NotFound):
            await w.ns.lookup(ROOT, b"three")
        assert sorted(await w.tree()) == [b"/one", b"/one/a", b"/two", b"/two/b"]
        w.clock.now += 10**6
        assert len(await w.drain(ROOT)) == 2

    run(World(tmp_path, one, two, paths=["/one", "/two"]), body)
