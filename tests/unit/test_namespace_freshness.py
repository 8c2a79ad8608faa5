"""Table of freshness: what may be answered from the index, for how long."""

from __future__ import annotations

import pytest

from forebay.api.spec import Freshness, Mount
from forebay.cache.disk.index import (
    COMPLETE_LIST,
    FILE,
    FIXED,
    LISTING,
    NO_MOUNT,
    NO_OID,
    UNCONFIRMED,
    UNLISTED,
    UNRESOLVED,
    Dir,
    Row,
)  # fmt: skip
from forebay.cache.tree.freshness import (
    CLOCK_SLACK,
    FOREVER,
    KERNEL_LIMIT,
    TEN_YEARS,
    absent_ttl,
    entry_ttl,
    fresh,
    listed_of,
    listing_fresh,
    mount_freshness,
    sources_freshness,
)

TTL = Freshness("ttl", 60.0)
NONE = Freshness("ttl", 0.0)
VALIDATE = Freshness("validate", 5.0)
IMMUTABLE = Freshness("immutable")
EVENT = Freshness("event")
NOW = 10_000.0


def row(checked: int = 9_990, flags: int = 0, mount: int = 0) -> Row:
    return Row(FILE, flags, mount, checked, 1, 1, 5, NO_OID, b"a", b"v")


@pytest.mark.parametrize(
    ("row", "freshness", "listed", "left", "kernel"),
    [
        (row(9_990), TTL, 0, 50.0, 50.0),
        (row(9_940), TTL, 0, None, 0.0),
        (row(9_941), TTL, 0, 1.0, 1.0),
        (row(9_940), TTL, 9_950, 10.0, 10.0),  # the listing vouches
        (row(9_990), TTL, 9_000, 50.0, 50.0),  # the later of the two counts
        (row(9_940, UNCONFIRMED), TTL, 9_990, None, 0.0),  # a listing without versions does not
        (row(9_990, UNCONFIRMED), TTL, 0, 50.0, 50.0),
        (row(10_000), NONE, 10_000, None, 0.0),
        (row(9_996), VALIDATE, 0, 1.0, 1.0),
        (row(9_000), VALIDATE, 0, None, 0.0),
        (row(1), IMMUTABLE, 0, FOREVER, TEN_YEARS),
        (row(1), EVENT, 0, FOREVER, KERNEL_LIMIT),
        (row(0), IMMUTABLE, 0, None, 0.0),  # forgotten by a refresh
        (row(0), EVENT, 0, None, 0.0),
        (row(0), TTL, 9_999, 59.0, 59.0),
        (row(9_999, UNRESOLVED), TTL, 9_999, None, 0.0),
        (row(9_999, UNRESOLVED), IMMUTABLE, 9_999, None, 0.0),
        (row(0, FIXED), TTL, 0, FOREVER, TEN_YEARS),
        (row(0, mount=NO_MOUNT), None, 0, FOREVER, TEN_YEARS),
        (row(10_010), TTL, 0, 60.0, 60.0),  # a clock a little behind
        (row(10_001 + CLOCK_SLACK), TTL, 0, None, 0.0),  # another clock's future counts for nothing
        (row(9_999), Freshness("ttl", 1e6), 0, 1e6 - 1, KERNEL_LIMIT),
    ],
)
def test_rows(row: Row, freshness: Freshness | None, listed: int, left: float | None, kernel: float) -> None:
    assert fresh(row, freshness, NOW, listed) == left
    assert entry_ttl(row, freshness, NOW, listed) == kernel


def directory(state: int = COMPLETE_LIST, listed: int = 9_990, sources: tuple[int, ...] = (0,)) -> Dir:
    return Dir(state, listed, 3, 1, sources)


@pytest.mark.parametrize(
    ("d", "freshness", "left"),
    [
        (directory(), [TTL], 50.0),
        (directory(), [TTL, VALIDATE], None),  # the strictest counts
        (directory(listed=9_996), [TTL, VALIDATE, IMMUTABLE], 1.0),
        (directory(), [IMMUTABLE, EVENT], FOREVER),
        (directory(listed=0), [IMMUTABLE], None),
        (directory(LISTING), [IMMUTABLE], None),
        (directory(UNLISTED, 0), [TTL], None),
        (directory(listed=1, sources=()), [], FOREVER),
    ],
)
def test_listings(d: Dir, freshness: list[Freshness], left: float | None) -> None:
    assert listing_fresh(d, freshness, NOW) == left
    assert absent_ttl(d, freshness, NOW) == (0.0 if left is None else min(left, KERNEL_LIMIT))


def test_what_vouches_for_a_row() -> None:
    assert listed_of(None) == 0
    assert listed_of(directory(LISTING)) == 0
    assert listed_of(directory()) == 9_990


def test_freshness_of_mounts() -> None:
    mounts = [Mount("s3://a", "s3", "/", "a", freshness=EVENT), Mount("s3://b", "s3", "/", "b", freshness=TTL)]
    assert mount_freshness(mounts, 1) == TTL
    assert mount_freshness(mounts, NO_MOUNT) is None
    assert sources_freshness(mounts, directory(sources=(0, 1))) == [EVENT, TTL]
