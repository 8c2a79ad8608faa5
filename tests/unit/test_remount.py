"""Mounts come and go while the tree lives: numbers, directories of mount paths, what readers see and keep."""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
import trio

from forebay.api.spec import Freshness, Mount
from forebay.cache.disk.index import DIR, FILE, FIXED
from forebay.cache.stores.base import NotFound
from forebay.cache.stores.gone import GoneStore
from forebay.cache.tree import numbering

sys.path.insert(0, str(Path(__file__).parent))
from namespace_world import MemoryStore, World, run


def mount(name: str, path: str = "/", freshness: Freshness | None = None, **options: str) -> Mount:
    return Mount(f"s3://{name}", "s3", path, name, options, {"secret_key": "x"}, freshness=freshness or Freshness())


A, B, C = mount("a"), mount("b"), mount("c", "/sub")


# --- numbers


@pytest.mark.parametrize(
    ("known", "wanted", "names"),
    [
        ([], [A, B], "a b"),
        ([A, B], [A, B], "a b"),
        ([A], [A, B, C], "a b c"),
        ([A, B, C], [A, C], "a - c"),
        ([A, C], [C, A], "a c"),  # other paths: their order means nothing
        ([A, B], [B, A], "- b a"),  # one path: the order is precedence
        ([A, B], [mount("n"), A, B], "- - n a b"),
        ([A, numbering.gone(B)], [A, B], "a b"),  # it comes back
        ([A, A], [A], "a -"),
        ([A], [A, A], "a a"),
    ],
)
def test_numbers(known: list[Mount], wanted: list[Mount], names: str) -> None:
    got = numbering.numbered(known, wanted)
    assert " ".join("-" if m.gone else m.name for m in got) == names
    assert numbering.continues(known, got)
    assert not any(m.secrets for m in got if m.gone)


def test_what_has_no_place_any_more_begins_anew() -> None:
    assert not numbering.continues([A, B], [A])
    assert not numbering.continues([A, B], [A, C])


def test_options_and_credentials_do_not_make_another_mount() -> None:
    changed = mount("a", region="eu-1")
    assert numbering.numbered([A], [changed]) == [changed]
    assert numbering.numbered([A], [mount("a", endpoint="http://other")])[0].gone


# --- trees


Stores = dict[str, MemoryStore]


def world(directory: Path, stores: Stores, mounts: Sequence[Mount]) -> World:
    w = World(directory, *(stores[m.name] for m in mounts))
    w.spec.mounts[:] = mounts
    w.ns.core.depth.clear()
    w.ns.core.reach.clear()
    w.ns.core.grow()
    return w


async def remount(w: World, stores: Stores, wanted: Sequence[Mount]) -> None:
    w.spec.mounts[:] = numbering.numbered(w.spec.mounts, wanted)
    w.ns.core.stores = [GoneStore(m) if m.gone else stores[m.name] for m in w.spec.mounts]
    w.ns.remount()
    await settled(w)


async def settled(w: World) -> None:
    """Until all that was to be asked for again is."""
    with trio.fail_after(60):
        while True:
            with w.index.env.begin() as txn:
                if not numbering.pending(w.index, txn):
                    return
            await trio.sleep(0.005)


def shown(tree: dict[bytes, object]) -> dict[bytes, tuple[int, bytes]]:
    return {path: (row.kind, row.version) for path, row in tree.items()}  # type: ignore[attr-defined]


def test_a_mount_on_its_own_path_comes_and_goes(tmp_path: Path) -> None:
    stores = {"a": MemoryStore({b"x": b"1", b"sub/y": b"2"}), "c": MemoryStore({b"z": b"3"})}

    async def body(w: World) -> None:
        before = await w.tree()
        await remount(w, stores, [A, C])
        during = await w.tree()
        assert set(during) == {b"/x", b"/sub", b"/sub/z"}
        assert during[b"/x"] == before[b"/x"]
        held = before[b"/sub/y"].ino  # somebody has it open: its row and its place are still known
        assert w.ns.locate(held).key == b"sub/y"
        assert w.events[-1].parent == 0  # the kernel is told to look again
        await remount(w, stores, [A])
        after = await w.tree()
        assert set(after) == {b"/x", b"/sub", b"/sub/y"}
        assert after[b"/x"] == before[b"/x"]
        assert w.ns.locate(during[b"/sub/z"].ino).key == b"z"

    run(world(tmp_path, stores, [A]), body)


def test_what_a_mount_that_left_showed_counts_no_longer(tmp_path: Path) -> None:
    """At any depth, and also where the process was killed before it had looked at all of it."""
    deep = MemoryStore({b"p/q/r/%d" % i: b"%d" % i for i in range(20)})
    stores = {"a": MemoryStore({b"x": b"1"}), "c": deep}

    async def body(w: World) -> None:
        alone = w.ns.core.counts
        await remount(w, stores, [A, C])
        tree = await w.tree()
        assert w.ns.core.counts.files == alone.files + 20
        await remount(w, stores, [A])
        with trio.fail_after(60):
            while w.ns.core.counts != alone:
                await trio.sleep(0.005)
        held = tree[b"/sub/p/q/r/7"].ino  # who has it open reads on
        assert (w.row(held).version, w.ns.locate(held).key) == (b"7", b"p/q/r/7")
        with w.index.env.begin() as txn:
            assert w.index.verify(txn) == []

    async def first(w: World) -> None:
        await w.tree()
        await body(w)

    run(world(tmp_path, stores, [A]), first)


def test_directories_that_a_killed_process_left_are_emptied_by_the_next(tmp_path: Path) -> None:
    stores = {"a": MemoryStore({b"x": b"1"}), "c": MemoryStore({b"p/q/z": b"3"})}

    async def first(w: World) -> None:
        await w.tree()
        w.spec.mounts[:] = numbering.numbered(w.spec.mounts, [A])
        w.ns.core.stores = [stores["a"], GoneStore(C)]
        w.ns.core.grow()
        w.ns.core.plant_mounts(w.ns.core.now())
        assert w.ns.core.counts.files == 2, "killed before any of it was emptied"

    run(world(tmp_path, stores, [A, C]), first)

    async def second(w: World) -> None:
        with trio.fail_after(60):
            while w.ns.core.counts.files != 1:
                await trio.sleep(0.005)

    again = world(tmp_path, stores, [A])
    again.spec.mounts[:] = numbering.of(again.index, [A])
    again.ns.core.stores = [stores["a"], GoneStore(C)]
    again.ns.core.depth.clear()
    again.ns.core.reach.clear()
    again.ns.core.grow()
    run(again, second)


def test_directories_that_lead_to_a_mount_path_keep_their_inodes(tmp_path: Path) -> None:
    stores = {"a": MemoryStore({b"p/q/x": b"1", b"p/o": b"2"}), "d": MemoryStore({b"z": b"3"})}
    deep = mount("d", "/p/q/r")

    async def body(w: World) -> None:
        before = await w.tree()
        await remount(w, stores, [A, deep])
        during = await w.tree()
        assert {p: r.ino for p, r in during.items() if p in before} == {p: r.ino for p, r in before.items()}
        assert during[b"/p/q"].flags & FIXED
        assert during[b"/p/q/r/z"].version == b"3"
        await remount(w, stores, [A])
        after = await w.tree()
        assert {p: r.ino for p, r in after.items()} == {p: r.ino for p, r in before.items()}
        assert not any(r.flags & FIXED for r in after.values())
        stores["a"].objects = {b"w": b"9"}  # and nothing holds them any longer
        w.clock.now += 61
        assert set(await w.tree()) == {b"/w"}

    run(world(tmp_path, stores, [A]), body)


@pytest.mark.parametrize("mode", ["ttl", "immutable"])
def test_a_second_store_on_a_path_shows_at_every_depth(tmp_path: Path, mode: str) -> None:
    kind = Freshness(mode)  # type: ignore[arg-type]
    one, two = mount("a", "/", kind), mount("b", "/", kind)
    stores = {
        "a": MemoryStore({b"both": b"a", b"d/e/x": b"a"}),
        "b": MemoryStore({b"both": b"b", b"d/e/y": b"b", b"n": b"b"}),
    }

    async def body(w: World) -> None:
        before = await w.tree()
        with pytest.raises(NotFound):
            await w.ns.path(b"/n")
        await remount(w, stores, [one, two])
        assert (await w.ns.path(b"/n")).version == b"b"
        assert (await w.ns.path(b"/d/e/y")).version == b"b"
        during = await w.tree()
        assert {p: r.ino for p, r in during.items() if p in before} == {p: r.ino for p, r in before.items()}
        await remount(w, stores, [one])
        for gone in (b"/n", b"/d/e/y"):
            with pytest.raises(NotFound):
                await w.ns.path(gone)
        assert {p: r.ino for p, r in (await w.tree()).items()} == {p: r.ino for p, r in before.items()}

    run(world(tmp_path, stores, [one]), body)


def test_a_restart_knows_the_numbers_and_what_was_still_to_be_asked(tmp_path: Path) -> None:
    stores = {"a": MemoryStore({b"x": b"1"}), "b": MemoryStore({b"y": b"2"}), "c": MemoryStore({b"z": b"3"})}
    kept: dict[bytes, int] = {}

    async def first(w: World) -> None:
        kept.update({p: r.ino for p, r in (await w.tree()).items()})
        w.spec.mounts[:] = numbering.numbered(w.spec.mounts, [B, C])
        w.ns.core.stores = [GoneStore(A), stores["b"], stores["c"]]
        w.ns.core.grow()
        w.ns.core.plant_mounts(w.ns.core.now())  # killed before any of it was asked for again

    run(world(tmp_path, stores, [A, B]), first)

    async def second(w: World) -> None:
        await settled(w)
        tree = await w.tree()
        assert set(tree) == {b"/y", b"/sub", b"/sub/z"}
        assert tree[b"/y"].ino == kept[b"/y"]

    again = world(tmp_path, stores, [B])
    again.spec.mounts[:] = numbering.of(again.index, [C, B])
    assert [m.name for m in again.spec.mounts if not m.gone] == ["b", "c"]
    again.ns.core.stores = [GoneStore(A), stores["b"], stores["c"]]
    again.ns.core.depth.clear()
    again.ns.core.reach.clear()
    again.ns.core.grow()
    run(again, second)


def test_new_options_are_asked_with(tmp_path: Path) -> None:
    forever = Freshness("immutable")
    stores = {"a": MemoryStore({b"x": b"1"})}

    async def body(w: World) -> None:
        before = await w.tree()
        stores["a"].objects = {b"x": b"2"}
        await remount(w, stores, [msgspec.structs.replace(mount("a", "/", forever), secrets={"secret_key": "y"})])
        assert (await w.ns.path(b"/x")).version == b"1"  # other credentials, the same tree
        await remount(w, stores, [mount("a", "/", forever, region="eu")])
        after = await w.ns.path(b"/x")
        assert (after.version, after.ino == before[b"/x"].ino) == (b"2", False)

    run(world(tmp_path, stores, [mount("a", "/", forever)]), body)


PATHS = ["/", "/", "/d", "/d/e", "/m/n"]
KEYS = [b"x", b"d/x", b"d/y", b"d/e/x", b"d/e/f/z", b"e", b"m", b"m/n/x", b"e/x"]


@pytest.mark.parametrize("seed", range(30))
def test_any_change_ends_in_the_tree_of_a_new_start(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    mode = rng.choice([Freshness(), Freshness("immutable")])
    names = "abcdef"
    stores = {n: MemoryStore({k: n.encode() + k for k in rng.sample(KEYS, rng.randint(0, 5))}) for n in names}
    mounts = {n: mount(n, rng.choice(PATHS), mode) for n in names}
    lists = [[mounts[n] for n in rng.sample(names, rng.randint(1, 4))] for _ in range(6)]
    fresh: list[dict[bytes, tuple[int, bytes]]] = []
    for n, wanted in enumerate(lists):

        async def alone(w: World) -> None:
            fresh.append(shown(await w.tree()))  # type: ignore[arg-type]

        run(world(tmp_path / f"fresh{n}", stores, wanted), alone)

    async def body(w: World) -> None:
        known = await w.tree()
        assert shown(known) == fresh[0]  # type: ignore[arg-type]
        for wanted, expected in zip(lists[1:], fresh[1:], strict=True):
            await remount(w, stores, wanted)
            w.sound()
            for path, (kind, version) in sorted(expected.items()):
                row = await w.ns.path(path)
                assert (row.kind, row.version if kind == FILE else b"") == (kind, version), path
            # a listing that is being made again shows directories until its end that led to a mount path before
            first = {p: v for p, v in shown(await w.tree()).items() if p in expected or v[0] == FILE}  # type: ignore[arg-type]
            assert first == expected
            assert shown(await w.tree()) == expected  # type: ignore[arg-type]
            for path, row in known.items():
                assert w.row(row.ino).version == row.version, path  # who has it open can still read its row
            known = {p: r for p, r in (await w.tree()).items() if r.kind != DIR}

    run(world(tmp_path / "live", stores, lists[0]), body)
