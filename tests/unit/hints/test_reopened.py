"""Which opens count as bytes that the cache had."""

from __future__ import annotations

from forebay.cache.reopened import MISSES_MOST, MOST, Reopened


def test_the_first_open_counts_nothing_and_every_further_one_its_size() -> None:
    r = Reopened()
    r.missed(7)
    r.used(7, 100, whole=True)  # fetched for this open
    r.used(8, 50, whole=True)  # fetched ahead
    assert r.bytes == 0
    r.used(7, 100, whole=True)
    r.used(8, 50, whole=True)
    r.used(8, 50, whole=True)
    assert r.bytes == 200
    r.used(11, 1000, whole=False)  # a large file, of which the rest comes while it is read
    r.used(11, 1000, whole=False)
    assert r.bytes == 200
    r.used(11, 1000, whole=True)
    assert r.bytes == 1200


def test_what_was_evicted_begins_anew() -> None:
    r = Reopened()
    for _ in range(2):
        r.used(9, 10, whole=True)
        r.used(10, 1, whole=True)
    r.evicted([9, 123456, -1])
    r.used(9, 10, whole=True)
    r.used(10, 1, whole=True)
    assert r.bytes == 12


def test_memory_is_bounded_whatever_numbers_come() -> None:
    r = Reopened()
    for ino in (MOST, MOST + 5, 1 << 60, -1):
        r.used(ino, 10, whole=True)
        r.used(ino, 10, whole=True)
    for ino in range(MISSES_MOST + 5):
        r.missed(ino)
    assert r.bytes == 0
    r.used(MOST - 1, 5, whole=True)
    r.used(MOST - 1, 5, whole=True)
    assert r.bytes == 5
