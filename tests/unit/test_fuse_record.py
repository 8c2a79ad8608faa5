from __future__ import annotations

import os
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.fuse.record import FIRST_SLOTS, HEADER, MAGIC, ONE, PASS, POOL_SLOTS, Record, RecordError, create_memfd, is_record


@pytest.fixture
def fd():
    fd = create_memfd()
    yield fd
    os.close(fd)


def test_a_successor_reads_what_its_predecessor_wrote(fd: int) -> None:
    first = Record(fd)
    assert first.init is None
    assert first.started() == 0
    first.remember_init(b"request" * 10, b"reply" * 9)
    first.take(2, ONE | PASS | 7)
    first.take(3, 5 * ONE)
    first.take(4, ONE)
    first.drop(3)
    first.close()
    second = Record(fd)
    assert second.init == (b"request" * 10, b"reply" * 9)
    assert dict(second.items()) == {2: ONE | PASS | 7, 4: ONE}
    assert second.started() == 1
    second.take(9, 2 * ONE)  # into the slot that was freed
    assert dict(Record(fd).items()) == {2: ONE | PASS | 7, 4: ONE, 9: 2 * ONE}


def test_the_table_grows_and_keeps_everything(fd: int) -> None:
    record = Record(fd)
    n = FIRST_SLOTS + 10
    for ino in range(2, n + 2):
        record.take(ino, ino * ONE)
    assert os.fstat(fd).st_size > HEADER + FIRST_SLOTS * 16
    assert dict(Record(fd).items()) == {ino: ino * ONE for ino in range(2, n + 2)}


@given(st.lists(st.tuples(st.booleans(), st.integers(2, 30), st.integers(1, 2**60 - 1))))
def test_a_record_is_a_dictionary(steps: list[tuple[bool, int, int]]) -> None:
    fd = create_memfd()
    record, model = Record(fd), {}
    for take, ino, word in steps:
        if take and ino not in model:
            record.take(ino, word)
            model[ino] = word
        elif not take and ino in model:
            record.drop(ino)
            del model[ino]
        assert dict(Record(fd).items()) == model
    record.close()
    os.close(fd)


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (struct.pack("<8sII", MAGIC, 2, HEADER).ljust(HEADER, b"\0"), "newer"),
        (b"something else".ljust(HEADER, b"\0"), "no keeper record"),
        (b"short", "5 bytes"),
    ],
)
def test_what_is_no_record_of_ours_is_refused(raw: bytes, says: str) -> None:
    fd = os.memfd_create("test")
    os.write(fd, raw)
    with pytest.raises(RecordError, match=says):
        Record(fd)
    os.close(fd)


def test_an_init_that_does_not_fit_is_refused(fd: int) -> None:
    with pytest.raises(RecordError):
        Record(fd).remember_init(b"x" * 513, b"")


def test_is_record(fd: int, tmp_path) -> None:
    assert is_record(fd)
    other = os.open(tmp_path / "f", os.O_CREAT | os.O_RDWR)
    assert not is_record(other)
    os.close(other)


def request(unique: int, size: int = 40) -> bytes:
    return struct.pack("<IIQ", size, 1, unique).ljust(size, b"n")


def test_requests_in_hand_are_known_to_the_successor_once(fd: int) -> None:
    first = Record(fd)
    places = [first.note(request(unique, 40 + unique)) for unique in range(100, 110)]
    first.done(places[3])
    first.buffer[:60] = request(105, 60)  # the last one read is also waiting
    second = Record(fd)
    found = {raw[8]: raw for raw in second.unanswered()}
    assert sorted(found) == [100, 101, 102, 104, 105, 106, 107, 108, 109]
    assert all(raw == request(unique, 40 + unique) for unique, raw in found.items())
    assert second.unanswered() == []


def test_more_requests_in_hand_than_places(fd: int) -> None:
    record = Record(fd)
    places = [record.note(request(unique)) for unique in range(1, 401)]
    assert places.count(0) == 400 - POOL_SLOTS
    assert record.note(request(1, 321)) == 0
    for at in places:
        record.done(at)
    assert record.unanswered() == []
    assert record.note(request(5)) != 0
