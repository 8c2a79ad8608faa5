"""Tables of the namespace's pure decisions: names, precedence, versions, endless listings, mount paths."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.api.spec import Mount
from forebay.cache.disk.index import DIR, FILE, NO_OID, UNRESOLVED, Row
from forebay.cache.stores.base import Denied, Entry, Unavailable
from forebay.cache.tree.merge import Answer, EndlessGuard, InoSet, Shown, Step, decide, merge, valid_name, worth_listing
from forebay.cache.tree.mounts import components, mount_tree

FILE_ENTRY = Entry(b"a", False, 10, 5, b"v1")
DIR_ENTRY = Entry(b"a", True)


def row(kind: int = FILE, mount: int = 0, checked: int = 100, version: bytes = b"v1", size: int = 10, flags: int = 0) -> Row:
    return Row(kind, flags, mount, checked, size, 5, 7, NO_OID, b"a", version)


@pytest.mark.parametrize(
    ("name", "good"),
    [
        (b"a", True), (b"...", True), (b".a", True), (b"\xff\xfe", True), (b"a\nb", True), (b"\n", True), (b"'\"\\", True),
        (b"x" * 255, True), (b"x" * 256, False), (b"", False), (b".", False), (b"..", False), (b"a/b", False), (b"a\0", False),
        (b".\n", True), (b"..\n", True),
    ],
)  # fmt: skip
def test_names_a_tree_can_have(name: bytes, good: bool) -> None:
    assert valid_name(name) is good


@pytest.mark.parametrize(
    ("old", "entry", "mount", "seen", "step"),
    [
        # nothing there
        (None, FILE_ENTRY, 0, False, Step.NEW),
        (None, DIR_ENTRY, 0, False, Step.NEW),
        # the same object
        (row(), FILE_ENTRY, 0, False, Step.KEEP),
        (row(), Entry(b"a", False, 10, 6, b"v1"), 0, False, Step.UPDATE),
        (row(flags=UNRESOLVED, version=b""), FILE_ENTRY, 0, False, Step.UPDATE),
        (row(), Entry(b"a", False), 0, False, Step.NAMED),
        (row(flags=UNRESOLVED, version=b""), Entry(b"a", False), 0, False, Step.NAMED),
        # another object
        (row(), Entry(b"a", False, 10, 5, b"v2"), 0, False, Step.REPLACE),
        (row(), Entry(b"a", False, 11, 5, b"v1"), 0, False, Step.REPLACE),
        (row(mount=1), FILE_ENTRY, 0, False, Step.REPLACE),
        (row(mount=0), FILE_ENTRY, 1, False, Step.REPLACE),
        (row(mount=0), Entry(b"a", False), 1, False, Step.REPLACE),
        # an earlier source has it in this listing
        (row(mount=0), FILE_ENTRY, 1, True, Step.SKIP),
        (row(mount=0), DIR_ENTRY, 1, True, Step.SKIP),
        (row(DIR, mount=0), FILE_ENTRY, 1, True, Step.SKIP),
        (row(DIR, mount=0), DIR_ENTRY, 1, True, Step.JOIN),
        # one store has both `a` and `a/...`: the directory hides the file, whichever comes first
        (row(mount=0), DIR_ENTRY, 0, True, Step.REPLACE),
        (row(DIR, mount=0), FILE_ENTRY, 0, True, Step.SKIP),
        (row(DIR, mount=0), FILE_ENTRY, 0, False, Step.DEFER),
        # kinds change
        (row(), DIR_ENTRY, 0, False, Step.REPLACE),
        (row(DIR), DIR_ENTRY, 0, False, Step.JOIN),
        # confirmed after this answer was asked for (200): the answer is the older news
        (row(checked=201, version=b"v9"), FILE_ENTRY, 0, False, Step.KEEP),
        (row(checked=200, version=b"v9"), FILE_ENTRY, 0, False, Step.REPLACE),
        (row(DIR, checked=201), FILE_ENTRY, 0, False, Step.KEEP),
        (row(checked=201), DIR_ENTRY, 0, False, Step.KEEP),
        # an earlier source's row confirmed since the listing began (150) keeps precedence
        (row(mount=0, checked=150), FILE_ENTRY, 1, False, Step.KEEP),
        (row(mount=0, checked=150), DIR_ENTRY, 1, False, Step.KEEP),
        (row(mount=0, checked=149), DIR_ENTRY, 1, False, Step.REPLACE),
    ],
)  # fmt: skip
def test_step(old: Row | None, entry: Entry, mount: int, seen: bool, step: Step) -> None:
    assert decide(old, entry, mount, seen=seen, asked=200, began=150) is step


DOWN = Unavailable("down")


@pytest.mark.parametrize(
    ("answers", "shown"),
    [
        ([], None),
        ([Answer(0, None), Answer(1, None)], None),
        ([Answer(0, FILE_ENTRY), Answer(1, DIR_ENTRY)], Shown(0, FILE_ENTRY, ())),
        ([Answer(0, None), Answer(1, FILE_ENTRY)], Shown(1, FILE_ENTRY, ())),
        ([Answer(0, DIR_ENTRY), Answer(1, FILE_ENTRY), Answer(2, DIR_ENTRY)], Shown(0, DIR_ENTRY, (0, 2))),
        ([Answer(0, FILE_ENTRY), Answer(1, None, DOWN)], Shown(0, FILE_ENTRY, ())),
        ([Answer(0, DIR_ENTRY), Answer(1, None, DOWN)], Shown(0, DIR_ENTRY, (0, 1))),
        ([Answer(0, None, DOWN), Answer(1, FILE_ENTRY)], DOWN),
        ([Answer(0, None), Answer(1, None, DOWN)], DOWN),
        ([Answer(0, None, Denied("no")), Answer(1, None)], Denied),
    ],
)
def test_one_name_of_several_answers(answers: list[Answer], shown: object) -> None:
    if shown is None or isinstance(shown, Shown):
        assert merge(answers) == shown
    else:
        with pytest.raises(shown if isinstance(shown, type) else type(shown)):
            merge(answers)


@given(st.lists(st.one_of(st.integers(0, 9000), st.integers(0, 2**63))))
def test_ino_set_is_a_set(inos: list[int]) -> None:
    ours, model = InoSet(), set()
    for ino in inos:
        assert (ino in ours) == (ino in model)
        ours.add(ino)
        model.add(ino)
        assert len(ours) == len(model)
    assert all((ino + 1 in ours) == (ino + 1 in model) for ino in inos)


@given(st.integers(0, 40), st.integers(1, 40))
def test_circles_of_tokens_are_found(lead: int, length: int) -> None:
    guard = EndlessGuard()
    for i in range(lead + 4 * (lead + length) + 8):
        at = i if i < lead else lead + (i - lead) % length
        if guard.endless(b"%d" % at, [b"name%d" % i]):
            return
    pytest.fail("a circle went unnoticed")


@given(st.integers(0, 40), st.integers(1, 40))
def test_circles_of_pages_are_found_though_tokens_differ(lead: int, length: int) -> None:
    guard = EndlessGuard()
    for i in range(lead + 4 * (lead + length) + 8):
        at = i if i < lead else lead + (i - lead) % length
        if guard.endless(b"token%d" % i, [b"name%d" % at]):
            return
    pytest.fail("a circle went unnoticed")


def test_a_long_listing_is_no_circle() -> None:
    guard = EndlessGuard()
    assert not any(guard.endless(b"%d" % i, [b"%d-0" % i, b"%d-9" % i]) for i in range(20_000))


def test_empty_pages_are_borne_for_a_while() -> None:
    guard = EndlessGuard()
    fed = [guard.endless(b"%d" % i, []) for i in range(EndlessGuard.EMPTY_PAGES)]
    assert fed == [False] * (EndlessGuard.EMPTY_PAGES - 1) + [True]
    guard = EndlessGuard()
    assert not any(guard.endless(b"%d" % i, [b"n%d" % i] if i % 10 == 0 else []) for i in range(200))


@pytest.mark.parametrize(
    ("misses", "listed", "entries", "worth"),
    [(3, False, 0, False), (4, False, 0, True), (15, True, 0, False), (16, True, 16_000, True), (16, True, 16_001, False),
     (4, False, 10_000, False), (10_000, True, 10_000_000, True)],
)  # fmt: skip
def test_when_a_listing_is_cheaper(misses: int, listed: bool, entries: int, worth: bool) -> None:
    assert worth_listing(misses, listed, entries) is worth


def mounts(*paths: str) -> list[Mount]:
    return [Mount(f"s3://b{i}", "s3", path, f"m{i}") for i, path in enumerate(paths)]


def test_mount_paths_nest_unite_and_shadow() -> None:
    root = mount_tree(mounts("/", "/a/b", "/", "/a/b/c/d", "/x"))
    assert root.own == root.sources == (0, 2)
    a = root.children[b"a"]
    assert (a.own, a.sources) == ((), (0, 2))  # on the way: the outer stores show through
    b = a.children[b"b"]
    assert (b.own, b.sources) == ((1,), (1,))  # a mount shadows them
    assert b.children[b"c"].sources == (1,)
    assert b.children[b"c"].children[b"d"].sources == (3,)
    assert root.children[b"x"].sources == (4,)


def test_a_tree_without_a_root_mount_has_an_empty_parent() -> None:
    root = mount_tree(mounts("/data/one", "/data/two"))
    assert root.sources == root.children[b"data"].sources == ()
    assert sorted(root.children[b"data"].children) == [b"one", b"two"]


@pytest.mark.parametrize(
    ("path", "parts"),
    [("/", ()), (b"", ()), ("/a/b/", (b"a", b"b")), (b"//a//\xff", (b"a", b"\xff")), ("/\udcff", (b"\xff",))],
)
def test_components(path: str | bytes, parts: tuple[bytes, ...]) -> None:
    assert components(path) == parts
