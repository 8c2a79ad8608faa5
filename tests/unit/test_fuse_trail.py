"""Which pages a sequential first reader leaves behind."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from forebay.fuse.files import KEEP_BEHIND, STEP_BEHIND, STRAY, Trail

MIB = 1 << 20


def read(trail: Trail, offsets: list[int], size: int = MIB) -> list[tuple[int, int]]:
    return [gone for at in offsets if (gone := trail.read(at, size)) is not None]


def test_what_lies_well_behind_goes_in_steps() -> None:
    gone = read(Trail(), list(range(0, 128 * MIB, MIB)))
    assert gone[0] == (0, STEP_BEHIND)
    assert all(a + n == b for (a, n), (b, _) in pairwise(gone)), "each byte once, without a gap"
    assert gone[-1][0] + gone[-1][1] <= 128 * MIB - KEEP_BEHIND


def test_read_ahead_arrives_out_of_order() -> None:
    order = [at for pair in range(0, 128 * MIB, 2 * MIB) for at in (pair + MIB, pair)]
    assert read(Trail(), order)


def test_a_random_reader_keeps_all() -> None:
    assert read(Trail(), [at * 37 * MIB % (1 << 30) for at in range(500)]) == []


def test_two_readers_in_turns_keep_all_for_each_other() -> None:
    order = [at for step in range(0, 128 * MIB, MIB) for at in (step + 512 * MIB, step)]
    assert read(Trail(), order) == []


@given(st.lists(st.integers(0, 300), max_size=400))
def test_what_goes_was_read_past(places: list[int]) -> None:
    trail, most = Trail(), 0
    for place in places:
        most = max(most, place * MIB + MIB)
        gone = trail.read(place * MIB, MIB)
        if gone is not None:
            assert gone[0] >= 0
            assert gone[1] >= STEP_BEHIND
            assert gone[0] + gone[1] <= most - KEEP_BEHIND
            assert gone[0] + gone[1] <= place * MIB + MIB + STRAY - KEEP_BEHIND + MIB
