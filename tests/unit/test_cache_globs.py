"""Paths with patterns in the dataset's tree."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from forebay.cache.stores.base import NotFound, Unavailable
from forebay.cache.tree import globs
from forebay.cache.tree.core import NotADirectory
from forebay.cache.tree.globs import matching

sys.path.insert(0, str(Path(__file__).parent))
from namespace_world import MemoryStore, World, run

TREE = {
    b"a/x1": b"v", b"a/x2": b"v", b"a/deep/x3": b"v", b"a/deep/er/x4": b"v", b"a/.hid": b"v", b"a/.dot/x5": b"v",
    b"b/x1": b"v", b"b/st*r": b"v", b"b/[q]": b"v", b"c": b"v", b"\xff\xfe": b"v",
}  # fmt: skip


@pytest.mark.parametrize(
    ("path", "names"),
    [
        (b"/", [b""]),
        (b"/c", [b"c"]),
        (b"/a/x*", [b"x1", b"x2"]),
        (b"/*/x1", [b"x1", b"x1"]),
        (b"/?/x[2-9]", [b"x2"]),
        (b"/?", [b"a", b"b", b"c"]),
        (b"/*", [b"a", b"b", b"c", b"\xff\xfe"]),
        (b"/**/x?", [b"x1", b"x1", b"x2", b"x3", b"x4"]),
        (b"/a/**", [b"a", b"deep", b"er"]),
        (b"/**/**/x3", [b"x3"]),
        (b"/a/.*/x5", [b"x5"]),
        (b"/a/.h*", [b".hid"]),
        (b"/b/st*r", [b"st*r"]),
        (b"/b/[q]", [b"[q]"]),
        (b"/\xff*", [b"\xff\xfe"]),
    ],
)
def test_what_matches(tmp_path: Path, path: bytes, names: list[bytes]) -> None:
    async def body(w: World) -> None:
        rows = await matching(w.ns, path)
        assert sorted(row.name for row in rows) == names
        assert len({row.ino for row in rows}) == len(rows)

    run(World(tmp_path, MemoryStore(dict(TREE), page=2)), body)


@pytest.mark.parametrize(
    ("path", "error"),
    [(b"/nix", NotFound), (b"/nix*", NotFound), (b"/*/nix", NotFound), (b"/c/*", NotFound), (b"/c/x", NotADirectory)],
)
def test_what_matches_nothing_is_an_error(tmp_path: Path, path: bytes, error: type[Exception]) -> None:
    async def body(w: World) -> None:
        with pytest.raises(error):
            await matching(w.ns, path)

    run(World(tmp_path, MemoryStore(dict(TREE))), body)


def test_a_pattern_that_matches_everything_is_refused_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(globs, "MATCHES_MOST", 5)

    async def body(w: World) -> None:
        for path in (b"/many/*", b"/deep/**"):
            with pytest.raises(Unavailable, match="name a directory"):
                await matching(w.ns, path)

    tree = {b"many/%d" % n: b"v" for n in range(9)} | {b"deep/%d/f" % n: b"v" for n in range(9)}
    run(World(tmp_path, MemoryStore(tree)), body)
