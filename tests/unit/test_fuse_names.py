"""Names and attributes: what is answered from the index, what the worker is asked, and what the kernel may believe."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from mountlab import FakeDoor, Lab, parse

from forebay.api import wire
from forebay.cache.disk.index import (
    COMPLETE_LIST,
    DIR,
    FILE,
    LISTING,
    NO_OID,
    UNRESOLVED,
    Dir,
    Index,
    Row,
    pack_row,
    unpack_row,
)
from forebay.fuse.names import Names
from forebay.fuse.view import View, WouldBlock

NOW = 1_800_000_000


class Case:
    def __init__(self, base: Path, mode: str = "ttl", ttl: float = 60.0) -> None:
        self.index = Index(base / "live")
        self.door = FakeDoor()
        self.now = NOW + 0.5
        self.names = Names(View(Lab(base, mode=mode, ttl=ttl).spec, self.index, self.door, lambda: self.now), (1, 2))

    def put(self, ino: int, name: bytes, parent: int = 1, **fields: object) -> None:
        row = Row(FILE, 0, 0, NOW, 5, 0, ino, b"o" * 16, name, b"v")._replace(**fields)
        with self.index.env.begin(write=True) as txn:
            self.index.put_row(txn, parent, row)

    def listed(self, state: int = COMPLETE_LIST, at: int = NOW, ino: int = 1) -> None:
        with self.index.env.begin(write=True) as txn:
            self.index.put_dir(txn, ino, Dir(state, at, 0, 1, (0,)))

    def lookup(self, name: bytes, wait: bool = False) -> tuple[int, int] | None:
        found = self.names.lookup(1, name, wait)
        return None if found is None else (unpack_row(found[0]).ino, found[1])


@pytest.fixture
def case(tmp_path: Path):
    made = Case(tmp_path)
    yield made
    made.index.close()


def test_a_fresh_row_is_answered_with_what_is_left(case: Case) -> None:
    case.put(2, b"f", checked=NOW - 20)
    assert case.lookup(b"f") == (2, 39)
    case.now += 38
    assert case.lookup(b"f") == (2, 1)
    case.now += 0.9
    assert case.lookup(b"f") == (2, 0)  # still true, and to be asked for again at the next look
    case.now += 0.7
    with pytest.raises(WouldBlock):
        case.lookup(b"f")
    assert case.door.asked == []


def test_a_stale_row_is_asked_for_and_the_new_one_answered(case: Case) -> None:
    case.put(2, b"f", checked=NOW - 100)

    def confirm(request: wire.Lookup) -> wire.Found:
        assert (request.parent, request.name) == (1, b"f")
        case.put(7, b"f", checked=NOW)
        return wire.Found(7)

    case.door.on[wire.Lookup] = confirm
    assert case.lookup(b"f", wait=True) == (7, 59)


def test_a_listing_vouches_for_rows_that_were_checked_before(case: Case) -> None:
    case.put(2, b"f", checked=NOW - 100)
    case.listed(at=NOW - 10)
    assert case.lookup(b"f") == (2, 49)


@pytest.mark.parametrize(
    ("state", "at", "ttl"), [(COMPLETE_LIST, NOW - 10, 49), (COMPLETE_LIST, NOW - 100, 0), (LISTING, NOW, 0)]
)
def test_absence_is_believed_only_from_a_whole_fresh_listing(case: Case, state: int, at: int, ttl: int) -> None:
    case.listed(state, at)
    assert case.names.absent_ttl(1) == ttl
    if ttl:
        assert case.lookup(b"absent") is None
    else:
        with pytest.raises(WouldBlock):
            case.lookup(b"absent")
        case.door.on[wire.Lookup] = lambda _: wire.Failed(errno.ENOENT, "404")
        with pytest.raises(FileNotFoundError):
            case.lookup(b"absent", wait=True)


def test_what_the_store_cannot_say_is_its_error_and_no_absence(case: Case) -> None:
    case.door.on[wire.Lookup] = lambda _: wire.Failed(errno.EACCES, "credentials")
    with pytest.raises(PermissionError):
        case.lookup(b"f", wait=True)


@pytest.mark.parametrize(("mode", "ttl"), [("immutable", 10 * 365 * 86400), ("event", 3600)])
def test_modes_that_never_expire(tmp_path: Path, mode: str, ttl: int) -> None:
    case = Case(tmp_path, mode)
    case.put(2, b"f", checked=NOW - 10**6)
    assert case.lookup(b"f") == (2, ttl)
    case.index.close()


def test_unresolved_names_are_resolved_in_growing_runs(case: Case) -> None:
    for i in range(2, 302):
        case.put(i, b"n%d" % i, flags=UNRESOLVED, size=0, oid=NO_OID)
    sizes = []

    def resolve(request: wire.Resolve) -> wire.Done:
        sizes.append(len(request.inos))
        for ino in request.inos:
            case.put(ino, b"n%d" % ino, size=ino)
        return wire.Done()

    case.door.on[wire.Resolve] = resolve
    for i in range(2, 302):
        assert case.lookup(b"n%d" % i, wait=True) == (i, 59)
    assert sizes[:7] == [1, 2, 4, 8, 16, 32, 64]
    assert sum(sizes) == 300
    assert len(sizes) < 12


def test_one_stray_look_up_resolves_one_name(case: Case) -> None:
    for i in range(2, 502):
        case.put(i, b"n%d" % i, flags=UNRESOLVED, size=0, oid=NO_OID)
    asked = []

    def resolve(request: wire.Resolve) -> wire.Done:
        asked.append(request.inos)
        for ino in request.inos:
            case.put(ino, b"n%d" % ino)
        return wire.Done()

    case.door.on[wire.Resolve] = resolve
    for i in (400, 10, 250):
        case.lookup(b"n%d" % i, wait=True)
    assert asked == [[400], [10], [250]]


def test_attributes_of_an_inode_never_expire(case: Case) -> None:
    case.put(2, b"f", checked=NOW - 1000)
    raw, ttl = case.names.getattr(2, False)
    assert (unpack_row(raw).ino, ttl) == (2, 60)
    with case.index.env.begin(write=True) as txn:
        row = case.index.row(txn, 2)
        case.index.drop_row(txn, 1, row, orphan=True)
    assert unpack_row(case.names.getattr(2, False)[0]).name == b"f"  # whoever holds it still sees it
    with pytest.raises(OSError, match="99"):
        case.names.getattr(99, False)
    assert case.door.asked == []


def test_a_whole_listing_needs_no_worker(case: Case) -> None:
    for i in range(2, 12):
        case.put(i, b"n%d" % i)
    case.listed()
    page = case.names.readdir(1, 0, 4096, True, False)
    assert [r[4] for r in parse(page.data, True)] == [b".", b"..", *(b"n%d" % i for i in range(2, 12))]
    assert not page.more
    case.now += 100  # in the middle of a pass its freshness is not asked for again
    assert len(parse(case.names.readdir(1, 7 + 2, 4096, True, False).data, True)) == 4
    with pytest.raises(WouldBlock):
        case.names.readdir(1, 0, 4096, True, False)


def test_a_listing_is_streamed_as_names_arrive(case: Case) -> None:
    arrived = iter(range(2, 1000))

    def more(request: wire.ListDir) -> wire.Listed:
        for _ in range(3):
            ino = next(arrived)
            if ino > 10:
                return wire.Listed(complete=True)
            case.put(ino, b"n%d" % ino)
        return wire.Listed(complete=False)

    case.door.on[wire.ListDir] = more
    names, cookie = [], 0
    while True:
        page = case.names.readdir(1, cookie, 4096, True, True)
        records = parse(page.data, True)
        if not records:
            break
        names += [r[4] for r in records]
        cookie = page.cookie
    assert names == [b".", b"..", *(b"n%d" % i for i in range(2, 11))]
    assert [r.after for r in case.door.asked] == [0, 4, 7, 10]


def test_a_page_without_room_for_one_entry_asks_for_more_room(case: Case) -> None:
    case.put(2, b"x" * 200)
    case.listed()
    page = case.names.readdir(1, 2, 100, True, False)
    assert (page.data, page.more) == (b"", True)


def test_the_clock_is_read_each_second(case: Case) -> None:
    for i in range(2, 10):
        case.put(i, b"n%d" % i, checked=NOW - i)
    for second in range(5):
        case.now = NOW + second + 0.9
        assert [case.lookup(b"n%d" % i)[1] for i in range(2, 10)] == [59 - i - second for i in range(2, 10)]


def test_a_root_is_shown_before_the_worker_planted_it(case: Case) -> None:
    raw, ttl = case.names.getattr(1, False)
    assert unpack_row(raw).kind == DIR
    assert ttl == 1
    with case.index.env.begin(write=True) as txn:
        root = Row(DIR, 2, 0xFFFF, 1, 0, 77, 1, NO_OID, b"", b"")
        txn.put((0).to_bytes(8, "big") + (1).to_bytes(8, "big"), pack_row(root), db=case.index.children)
    raw, ttl = case.names.getattr(1, False)
    assert unpack_row(raw).mtime_ns == 77
    assert ttl > 3600
