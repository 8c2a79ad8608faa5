"""Look-ahead: windows of sequential readers, small files in order, and how wide a store is asked."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.cache.disk.files import CHUNK
from forebay.cache.disk.index import BLOCK
from forebay.cache.fetch.ahead import (
    FILES_MOST,
    RANGE,
    SWEEP_FILES,
    SWEEP_FROM,
    SWEEP_PAYS,
    WIDTH_MOST,
    WINDOW_FIRST,
    WINDOW_MOST,
    Order,
    Scan,
    Streams,
    Width,
    cut,
)  # fmt: skip

MIB = 1 << 20
SIZE = 1 << 30


def test_a_sequential_reader_gets_a_doubling_window_up_to_64_mib() -> None:
    s = Streams()
    asked = 0
    widest = 0
    for offset in range(0, 200 * MIB, MIB):
        begin, end = s.window(offset, offset + MIB, SIZE)
        assert begin <= end
        if end > begin:
            assert begin >= asked or asked == 0
            asked = end
        asked = max(asked, offset + MIB)
        widest = max(widest, asked - offset - MIB)
    assert 56 * MIB <= widest <= WINDOW_MOST


def test_once_wide_whole_ranges_are_asked() -> None:
    s = Streams()
    sizes = []
    for offset in range(0, 300 * MIB, MIB):
        begin, end = s.window(offset, offset + MIB, SIZE)
        if end > begin and offset > 64 * MIB:
            sizes.append(end - begin)
    assert sizes
    assert all(n % RANGE == 0 for n in sizes)


@pytest.mark.parametrize("read", [128 << 10, 1 << 20, 3 << 20])
def test_a_sequential_readers_ranges_are_written_in_whole_chunks(read: int) -> None:
    """Only what is written as an aligned CHUNK stays whole in the page cache (`files.CHUNK`)."""
    size, streams, here, whole = 256 << 20, Streams(), 0, 0
    for at in range(0, size, read):
        _, upto = streams.window(at, min(at + read, size), size)
        for first, count in cut(here // BLOCK, upto // BLOCK):
            begin, end = first * BLOCK, (first + count) * BLOCK
            whole += max(end // CHUNK * CHUNK - -(-begin // CHUNK) * CHUNK, 0)
        here = max(here, upto // BLOCK * BLOCK)
    assert here == size
    assert whole >= 0.95 * size


def test_a_random_reader_gets_no_window() -> None:
    s = Streams()
    for offset in (500 * MIB, 20 * MIB, 900 * MIB, 300 * MIB, 100 * MIB):
        begin, end = s.window(offset, offset + 4096, SIZE)
        assert begin == end


def test_the_second_step_in_a_row_is_sequential_and_disorder_is_forgiven() -> None:
    s = Streams()
    assert s.window(100 * MIB, 101 * MIB, SIZE) == (101 * MIB, 101 * MIB)
    begin, end = s.window(101 * MIB, 102 * MIB, SIZE)
    assert end - begin == WINDOW_FIRST
    wide = s.window(104 * MIB, 105 * MIB, SIZE)  # the kernel's read-ahead overtook itself
    assert wide[1] > wide[0]
    late = s.window(103 * MIB, 104 * MIB, SIZE)
    assert late[0] == late[1] or late[0] >= 105 * MIB


def test_several_readers_of_one_object_do_not_disturb_each_other() -> None:
    s = Streams()
    for step in range(12):
        for base in (0, 300 * MIB, 600 * MIB):
            at = base + step * MIB
            begin, end = s.window(at, at + MIB, SIZE)
            if step > 8 and end > begin:
                assert end <= base + step * MIB + MIB + WINDOW_MOST


def test_who_was_told_goes_on_from_there() -> None:
    s = Streams()
    s.window(0, MIB, SIZE)
    s.told(0, 8 * MIB)
    begin, end = s.window(8 * MIB, 9 * MIB, SIZE)
    assert begin >= 9 * MIB
    assert end > begin


@given(st.lists(st.tuples(st.integers(0, 1000), st.integers(1, 64)), max_size=60), st.integers(1, 1000))
def test_windows_stay_within_the_object(wants: list[tuple[int, int]], size: int) -> None:
    s = Streams()
    for at, length in wants:
        start = at * BLOCK % (size * BLOCK)
        stop = min(start + length * BLOCK, size * BLOCK)
        begin, end = s.window(start, stop, size * BLOCK)
        assert begin <= end <= max(size * BLOCK, stop)


@given(st.integers(0, 500), st.integers(0, 500))
def test_cut_covers_exactly_and_ends_on_ranges(first: int, n: int) -> None:
    pieces = cut(first, first + n)
    assert [b for at, count in pieces for b in range(at, at + count)] == list(range(first, first + n))
    per = RANGE // BLOCK
    assert all(count <= per and (at + count) % per == 0 for at, count in pieces[:-1])


def walk(order: Order, inos: list[int], directory: list[int]) -> list[Scan]:
    scans = []
    for ino in inos:
        scan = order.opened(1, ino)
        if scan is not None:
            scans.append(scan)
            order.scanned(1, [i for i in directory if i > scan.after][: scan.count])
    return scans


def test_files_opened_in_order_are_fetched_ahead_with_a_doubling_window() -> None:
    directory = list(range(100, 600))
    scans = walk(Order(), directory, directory)
    assert not any(s.spare for s in scans)
    assert [s.count for s in scans[:6]] == [8, 16, 32, 64, 128, 256]
    covered: set[int] = set()
    for s in scans:
        new = {i for i in directory if i > s.after and i not in covered}
        covered |= set(sorted(new)[: s.count])
    assert covered == set(directory[2:])
    assert len(scans) < 20


def test_files_opened_in_disorder_are_not() -> None:
    directory = list(range(100, 10_000))
    assert walk(Order(), [500, 3000, 200, 9000, 4000, 100], directory) == []


def test_readers_at_their_own_pace_are_told_apart() -> None:
    order = Order()
    directory = list(range(100, 10_000))
    places = [100, 2000, 4000, 6000]
    scans = walk(order, [at + step for step in range(300) for at in places], directory)
    for at in places:
        assert max(s.count for s in scans if at <= s.after < at + 1500) == FILES_MOST


def test_a_reader_takes_his_window_to_the_next_directory() -> None:
    order = Order()
    walk(order, list(range(100, 300)), list(range(100, 300)))
    assert order.opened(2, 1000) is None
    assert order.opened(2, 1001) == Scan(2, 1001, FILES_MOST)


def test_the_first_files_of_the_next_directory_are_known_to_be_fetched() -> None:
    order = Order()
    walk(order, list(range(100, 300)), list(range(100, 300)))
    order.entered(2, list(range(1000, 1100)))
    assert [order.opened(2, i) for i in range(1000, 1050)] == [None] * 50
    scan = order.opened(2, 1050)
    assert scan is not None
    assert scan.after == 1099


def test_a_directory_read_in_no_order_is_fetched_as_it_shows_to_be_read_whole() -> None:
    directory = list(range(100, 100 + 40 * 97, 40))  # too far apart to be an order
    shuffled = directory[:]
    random.Random(3).shuffle(shuffled)
    order = Order()
    seen: set[int] = set()
    bought = []
    for n, ino in enumerate(shuffled, 1):
        scan = order.opened(1, ino, missed=ino not in seen)
        if scan is not None:
            assert scan.spare, "who opens them next is a guess: nobody has to make room for it"
            found = [i for i in directory if i > scan.after][: scan.count]
            order.scanned(1, found)
            seen.update(found)
            bought.append((n, len(found)))
    assert bought[0][0] == SWEEP_FROM + 1, "not before"
    assert seen == set(directory)
    assert bought[-1][0] < len(directory) * 2 // 3, "and soon after"


def test_who_takes_a_sample_gets_no_more_than_a_few_files_for_each() -> None:
    directory = list(range(100, 400_000, 40))
    sample = random.Random(5).sample(directory, 200)
    got = sum(s.count for s in walk(Order(), sample, directory) if s.spare)
    assert got <= SWEEP_PAYS * (len(sample) - SWEEP_FROM) + SWEEP_FILES


def test_what_is_here_already_is_not_looked_for() -> None:
    order = Order()
    shuffled = list(range(100, 100 + 40 * 200, 40))
    random.Random(3).shuffle(shuffled)
    assert [order.opened(1, i, missed=False) for i in shuffled] == [None] * len(shuffled)


def test_a_jump_starts_over() -> None:
    order = Order()
    directory = list(range(100, 10_000))
    assert walk(order, [100, 101, 102], directory)
    assert walk(order, [5000], directory) == []
    assert walk(order, [5001], directory) == [Scan(1, 5001, 8)]


def test_readers_in_parallel_overtake_each_other() -> None:
    directory = list(range(100, 900))
    shuffled = [i for at in range(0, 400, 4) for i in (directory[at + 1], directory[at], directory[at + 3], directory[at + 2])]
    assert max(s.count for s in walk(Order(), shuffled, directory)) == FILES_MOST


def test_one_scan_at_a_time() -> None:
    order = Order()
    assert order.opened(1, 100) is None
    assert order.opened(1, 101) is not None
    assert order.opened(1, 102) is None
    order.scanned(1, [])
    assert order.opened(1, 103) is not None


def throughput(store: object, epochs: int = 40) -> Width:
    """Drive a width with a store whose rate depends on it: `store(width)` bytes/s."""
    assert callable(store)
    w = Width()
    now = 0.0
    for _ in range(epochs):
        for _ in range(2 * w.width + 1):
            now += RANGE / store(w.width)
            w.finished(RANGE, now)
    return w


def test_a_distant_store_is_asked_widely_and_a_near_one_is_not() -> None:
    assert throughput(lambda width: 50e6 * width).width == WIDTH_MOST
    assert throughput(lambda width: 1e9).width <= 4
    assert throughput(lambda width: 100e6 * min(width, 4), 60).width in (4, 8)
