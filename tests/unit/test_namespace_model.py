"""The namespace against a model: random changes of the stores, looks, faults, restarts and kills between two commits.

Checked after every step: the index is sound; an inode is one version of one object at one place, for ever; every name that
came to point elsewhere was told in an event; a resolved file was in its store within the time to live. Checked in the end,
and whenever the sequence says so: once everything expired and every store answers, the tree is exactly the merged stores.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from forebay.api.spec import Freshness
from forebay.cache.disk.index import DIR, FILE, ROOT, UNRESOLVED, Index, Row
from forebay.cache.stores.base import BadReply, Denied, NotFound, StoreError, Unavailable
from forebay.cache.tree import listing, namespace
from forebay.cache.tree.mounts import components

sys.path.insert(0, str(Path(__file__).parent))
from namespace_world import MemoryStore, World

TTL = 60.0
NAMES = [b"a", b"a-", b"\xff"]  # few, so that they meet; "a-" sorts between "a" and "a/"
keys = st.lists(st.sampled_from(NAMES), min_size=1, max_size=3).map(b"/".join)
stores_ = st.integers(0, 2)
faults = st.sampled_from([None, Unavailable("down"), Denied("403"), BadReply("nonsense")])
ops = st.one_of(
    st.tuples(st.just("put"), stores_, keys, st.sampled_from([b"1", b"2", b"33"])),
    st.tuples(st.just("put"), stores_, keys, st.sampled_from([b"1", b"2", b"33"])),
    st.tuples(st.just("del"), stores_, keys),
    st.tuples(st.just("tick"), st.sampled_from([0.5, 1.0, 20.0, 59.0, 61.0])),
    st.tuples(st.just("look"), keys),
    st.tuples(st.just("look"), keys),
    st.tuples(st.just("list"), keys),
    st.tuples(st.just("tree")),
    st.tuples(st.just("fault"), stores_, faults, st.integers(0, 3)),
    st.tuples(st.just("refresh"), keys),
    st.tuples(st.just("reap")),
    st.tuples(st.just("restart")),
    st.tuples(st.just("kill"), st.integers(1, 6)),
    st.tuples(st.just("check")),
)

Shape = dict[bytes, tuple[int, int, bytes]]  # path -> kind, mount, version


def merged(stores: list[dict[bytes, bytes]], mounts: list[tuple[bytes, ...]]) -> Shape:
    """The tree the stores make, said as plainly as possible."""
    shape: Shape = {}

    def fill(path: tuple[bytes, ...], sources: list[int]) -> None:
        own = [i for i, m in enumerate(mounts) if m == path]
        sources = own or sources
        fixed = {m[len(path)] for m in mounts if len(m) > len(path) and m[: len(path)] == path}
        names: dict[bytes, list[tuple[int, int]]] = {}
        for s in sources:
            prefix = b"".join(part + b"/" for part in path[len(mounts[s]) :])
            mine: dict[bytes, int] = {}
            for key in stores[s]:
                if key.startswith(prefix):
                    head, slash, _ = key[len(prefix) :].partition(b"/")
                    if slash or head not in mine:
                        mine[head] = DIR if slash else FILE
            for name, kind in mine.items():
                names.setdefault(name, []).append((s, kind))
        for name in fixed | set(names):
            at = (*path, name)
            full = b"/" + b"/".join(at)
            has = names.get(name, [])
            if name in fixed:
                shape[full] = (DIR, -1, b"")
                fill(at, sources)
            elif has[0][1] == FILE:
                s = has[0][0]
                shape[full] = (FILE, s, stores[s][b"/".join(at[len(mounts[s]) :])])
            else:
                shape[full] = (DIR, -1, b"")  # which of its stores a directory is filed under says nothing
                fill(at, [s for s, kind in has if kind == DIR])

    fill((), [])
    return shape


class Run:
    def __init__(self, directory: Path, mounts: list[str], versions: bool, page: int) -> None:
        self.directory = directory
        self.mounts = mounts
        self.parts = [components(m) for m in mounts]
        self.stores = [MemoryStore(page=page, versions=versions) for _ in mounts]
        self.versions = versions
        self.faulty = False
        self.history: list[list[tuple[bytes, bytes, float, float]]] = [[] for _ in mounts]  # key, version, from, to
        self.inos: dict[int, tuple[object, ...]] = {}
        self.names: dict[tuple[int, bytes], int] = {}
        self.told = 0
        self.shapes: list[tuple[float, set[bytes]]] = []  # since when which paths existed
        self.world = self._open(None)
        self.changed()

    def _open(self, old: World | None) -> World:
        world = World(
            self.directory, *self.stores, paths=self.mounts, freshness=Freshness("ttl", TTL), clock=old.clock if old else None
        )
        self.told = 0
        return world

    def changed(self) -> None:
        shape = merged([store.objects for store in self.stores], self.parts)
        self.shapes.append((self.world.clock.now, set(shape)))

    def lately_without(self, path: bytes) -> bool:
        """Whether the path was missing at some moment of the last time to live."""
        ends = [since for since, _ in self.shapes[1:]] + [float("inf")]
        return any(
            path not in shape for (_, shape), end in zip(self.shapes, ends, strict=True) if end >= self.world.clock.now - TTL - 1
        )

    # what is observed

    def heard(self) -> None:
        for event in self.world.events[self.told :]:
            known = self.names.pop((event.parent, event.name), event.old)
            assert known == event.old, "an event tells of another inode than was there"
            if event.new:
                self.names[event.parent, event.name] = event.new
        self.told = len(self.world.events)

    def saw(self, path: bytes, row: Row, parent: int, *, listed: bool = False) -> None:
        self.heard()
        assert self.names.setdefault((parent, row.name), row.ino) == row.ino, "a name changed its inode without an event"
        if row.flags & UNRESOLVED:
            return
        what = (path, row.kind) if row.kind == DIR else (path, row.kind, row.mount, row.version)
        assert self.inos.setdefault(row.ino, what) == what, "an inode became another object"
        if row.kind == FILE and not self.faulty and (self.versions or not listed):  # a listing of names confirms no version
            key = b"/".join(components(path)[len(self.parts[row.mount]) :])
            now = self.world.clock.now
            assert any(k == key and v == row.version and to >= now - TTL - 1 for k, v, _, to in self.history[row.mount]), (
                f"{path!r} shows what its store has not had for longer than the time to live"
            )

    async def look(self, path: bytes) -> Row | None:
        row = self.world.row(ROOT)
        at = b""
        for name in components(path):
            parent = row.ino
            try:
                ino = await self.world.ns.lookup(parent, name)
            except NotFound:
                self.heard()
                return None
            row = self.world.row(ino)
            at += b"/" + name
            self.saw(at, row, parent)
        return row

    async def tree(self, ino: int = ROOT, path: bytes = b"") -> dict[bytes, Row]:
        found: dict[bytes, Row] = {}
        try:
            rows = await self.world.drain(ino)
        except NotFound:
            return found
        for row in rows:
            with self.world.index.env.begin() as txn:
                current = self.world.index.child(txn, ino, row.ino)
            if current is None:
                continue  # replaced while the listing went on
            at = path + b"/" + row.name
            self.saw(at, current, ino, listed=True)
            found[at] = current
            if row.kind == DIR:
                found |= await self.tree(row.ino, at)
        return found

    # steps

    async def step(self, op: tuple[Any, ...]) -> None:
        w = self.world
        what = op[0]
        now = w.clock.now
        try:
            if what in ("put", "del"):
                s = op[1] % len(self.stores)
                store, key = self.stores[s], op[2]
                if key in store.objects:
                    k, v, since, _ = next(h for h in reversed(self.history[s]) if h[0] == key)
                    self.history[s].remove((k, v, since, float("inf")))
                    self.history[s].append((k, v, since, now))
                    del store.objects[key]
                if what == "put":
                    store.objects[key] = op[3]
                    self.history[s].append((key, op[3], now, float("inf")))
                self.changed()
            elif what == "tick":
                w.clock.now += op[1]
            elif what == "look":
                row = await self.look(b"/" + op[1])
                if row is None and len(self.mounts) == 1:  # in a union, names of two moments may meet
                    assert self.lately_without(b"/" + op[1]), "a name that was there all the time was not found"
            elif what == "list":
                row = await self.look(b"/" + op[1])
                if row is not None and row.kind == DIR:
                    await w.drain(row.ino)
            elif what == "tree":
                await self.tree()
            elif what == "fault":
                self.fail(op[1] % len(self.stores), op[2], op[3])
            elif what == "refresh":
                await w.ns.refresh(b"/" + op[1])
            elif what == "reap":
                while w.ns.reaper.reap(now + 1):
                    pass
                self.names = {name: ino for name, ino in self.names.items() if self.alive(ino)}
            elif what == "check":
                await self.check()
        except NotFound:
            pass
        except StoreError:
            if not self.faulty:
                raise
        self.heard()
        self.world.sound()

    def alive(self, ino: int) -> bool:
        with self.world.index.env.begin() as txn:
            return self.world.index.row(txn, ino) is not None

    def fail(self, s: int, error: StoreError | None, after: int) -> None:
        left = [after]

        def fault(op: str, key: bytes, token: bytes | None) -> StoreError | None:
            left[0] -= 1
            return error if left[0] < 0 else None

        self.stores[s].fault = fault
        self.faulty = self.faulty or error is not None

    async def check(self) -> None:
        for s in range(len(self.stores)):
            self.fail(s, None, 0)
        self.world.clock.now += TTL + 1
        self.faulty = False
        tree = await self.tree()
        for path in tree:
            if not self.versions:
                row = await self.look(path)
                assert row is not None
                tree[path] = row
        shape = merged([store.objects for store in self.stores], self.parts)
        assert {p: (r.kind, r.mount if r.kind == FILE else -1, r.version) for p, r in tree.items()} == shape
        self.world.clock.now += TTL + 1
        again = await self.tree()
        assert {p: r.ino for p, r in again.items()} == {p: r.ino for p, r in tree.items()}, "a relisting changed inodes"
        self.world.clock.now += TTL + 1  # now by names alone
        for path, (kind, mount, version) in shape.items():
            row = await self.look(path)
            assert row is not None
            assert row.kind == kind
            assert mount == -1 or (row.mount, row.version) == (mount, version)
            assert row.ino == tree[path].ino, "an unchanged object changed its inode"
        for path in (b"/zz", b"/a/zz", b"/a", b"/a/a", b"/a-/a"):
            assert (await self.look(path) is None) == (path not in shape)


async def _play(run: Run, sequence: list[tuple[Any, ...]]) -> None:
    i = 0
    sequence = [*sequence, ("check",)]
    while i < len(sequence):
        async with trio.open_nursery() as nursery:
            await nursery.start(run.world.ns.run)
            while i < len(sequence):
                op = sequence[i]
                i += 1
                if op[0] == "restart":
                    break
                if op[0] == "kill":
                    await _kill(run, op[1])
                    break
                await run.step(op)
            nursery.cancel_scope.cancel()
        if i < len(sequence):
            run.world.index.close()
            run.world = run._open(run.world)
            run.world.ns.start()
            run.world.sound()
            run.names = {name: ino for name, ino in run.names.items() if run.alive(ino)}


async def _kill(run: Run, calls: int) -> None:
    """Stop everything in the middle of a walk over the tree, at the given store call."""
    left, reached, go = [calls], threading.Event(), threading.Event()

    def stop(op: str, key: bytes, token: bytes | None) -> None:
        left[0] -= 1
        if left[0] < 0:
            reached.set()
            go.wait(60)

    for store in run.stores:
        store.fault = stop
    run.world.clock.now += TTL + 1
    async with trio.open_nursery() as nursery:

        async def walk() -> None:
            try:
                await run.tree()
            except StoreError:
                pass
            reached.set()

        nursery.start_soon(walk)
        while not reached.is_set():
            await trio.sleep(0)
        run.heard()
        nursery.cancel_scope.cancel()
    go.set()
    for s in range(len(run.stores)):
        run.fail(s, None, 0)


def play(mounts: list[str], sequence: list[tuple[Any, ...]], versions: bool, page: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        run = Run(Path(directory), mounts, versions, page)
        run.world.ns.start()
        failure: list[BaseException] = []

        async def main() -> None:
            with trio.fail_after(60):
                try:
                    await _play(run, sequence)
                except BaseExceptionGroup as group:
                    failure.append(leaf(group))

        try:
            trio.run(main)
            if failure:
                raise failure[0]
            run.world.sound()
        finally:
            run.world.index.close()


def leaf(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


layouts = st.sampled_from([["/"], ["/", "/"], ["/", "/a"], ["/", "/", "/a/a-"], ["/a", "/a-/c"], ["/", "/a/a", "/a/a"]])


@pytest.fixture
def _no_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(namespace, "STALE_GRACE", 0.0)
    monkeypatch.setattr(listing, "STALE_GRACE", 0.0)
    monkeypatch.setattr(listing, "ERROR_GRACE", 0.0)


@pytest.mark.usefixtures("_no_grace")
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(layouts, st.lists(ops, min_size=15, max_size=40), st.booleans(), st.sampled_from([1, 2, 100]))
def test_against_the_model(mounts: list[str], sequence: list[tuple[Any, ...]], versions: bool, page: int) -> None:
    play(mounts, sequence, versions, page)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.usefixtures("_no_grace")
@settings(max_examples=2500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(layouts, st.lists(ops, min_size=40, max_size=80), st.booleans(), st.sampled_from([1, 2, 100]))
def test_against_the_model_long(mounts: list[str], sequence: list[tuple[Any, ...]], versions: bool, page: int) -> None:
    play(mounts, sequence, versions, page)


LISTER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import trio
from namespace_world import MemoryStore, World
store = MemoryStore({b"%d/f%04d" % (i % 7, i): b"v" for i in range(3000)}, page=20)
world = World(Path(sys.argv[2]), store)
world.clock.now += int(sys.argv[3])
async def main():
    async with trio.open_nursery() as nursery:
        await nursery.start(world.ns.run)
        print("up", flush=True)
        n = 0
        while True:
            await world.tree()
            n += 1
            for i in range(n % 5, 3000, 5):
                store.objects[b"%d/f%04d" % (i % 7, i)] = b"v%d" % n
            world.clock.now += 61
trio.run(main)
"""


def worked(pid: int) -> float:
    """Seconds of processor time: how far it has come, whatever else the machine does."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_killed_at_any_moment_the_index_is_sound(tmp_path: Path) -> None:
    last = 0
    for turn in range(4):
        with subprocess.Popen(
            [sys.executable, "-P", "-c", LISTER, str(Path(__file__).parent), str(tmp_path), str(1000 * turn)],
            stdout=subprocess.PIPE,
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"up\n"
            until = worked(process.pid) + 0.11 + 0.23 * turn
            while worked(process.pid) < until:
                time.sleep(0.005)
            os.kill(process.pid, signal.SIGKILL)
        index = Index(tmp_path / "live")
        with index.env.begin() as txn:
            assert index.verify(txn) == []
            assert index.counts(txn).files >= last > 0 or turn == 0
            last = index.counts(txn).files
        index.close()
    assert last > 20
