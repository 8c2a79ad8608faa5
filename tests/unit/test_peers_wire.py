"""What may be asked at the data port: every byte string is a good request or a refusal."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.cache.disk.extents import blocks_of
from forebay.cache.disk.index import BLOCK
from forebay.cache.peers import httpd, wire
from forebay.cache.peers.wire import Ask, Ref, Refused
from forebay.cache.stores.base import Changed, NotFound, StoreError, Unavailable
from forebay.cache.tree.namespace import NotADirectory

parts = st.binary(min_size=1, max_size=20).filter(lambda p: b"/" not in p and b"\0" not in p and p not in (b".", b".."))
keys = st.lists(parts, min_size=1, max_size=4).map(b"/".join)
refs = st.builds(Ref, st.text(max_size=20), keys, st.binary(max_size=40), st.integers(0, 1 << 50))


@given(refs)
def test_an_object_survives_its_header(ref: Ref) -> None:
    text = wire.encode_ref(ref)
    assert text.isascii()
    assert "\n" not in text
    assert wire.decode_ref(text) == ref


@given(
    st.one_of(st.binary(max_size=100), refs.map(wire.encode), st.builds(Ask, st.just("list"), st.text(), keys).map(wire.encode))
)
def test_any_body_is_understood_or_refused(raw: bytes) -> None:
    with contextlib.suppress(Refused):
        batch = wire.decode_batch(raw)
        assert 0 < len(batch.objects) <= wire.BATCH_FILES
    with contextlib.suppress(Refused):
        ask = wire.decode_ask(raw)
        assert b"\0" not in ask.key
        assert b".." not in ask.key.split(b"/")


@given(st.one_of(st.text(), st.binary(max_size=60).map(lambda b: b.decode("latin-1"))))
def test_any_header_is_an_object_or_refused(text: str) -> None:
    with contextlib.suppress(Refused):
        wire.decode_ref(text)


@given(st.integers(1, 1 << 40), st.data())
def test_ranges_are_blocks(size: int, data: st.DataObject) -> None:
    total = blocks_of(size)
    first = data.draw(st.integers(0, total - 1))
    count = data.draw(st.integers(1, min(total - first, 256)))
    text = wire.range_of(first, count, size)
    assert wire.blocks_of_range(text, size) == (first, count)
    end = min((first + count) * BLOCK, size)
    assert wire.framed(first, count, size) == end - first * BLOCK + 8 * count
    span = f"bytes {first * BLOCK}-{end - 1}/{size}"
    assert wire.served_blocks(span, first, count, size) == count
    assert wire.served_blocks(span, first, count, size + 1) is None
    assert wire.served_blocks(span, first + 1, count, size) is None
    if count > 1:
        assert wire.served_blocks(span, first, count - 1, size) is None, "more than was asked for"


@given(st.text(max_size=60), st.integers(0, 1 << 40))
def test_any_range_is_served_or_refused(text: str, size: int) -> None:
    for value in (text, f"bytes={text}"):
        with contextlib.suppress(Refused):
            first, count = wire.blocks_of_range(value, size)
            assert count > 0
            assert first * BLOCK < size
    assert wire.served_blocks(text, 0, 1, size) is None


@pytest.mark.parametrize(
    ("error", "name", "status"),
    [
        (NotFound("x"), "NotFound", 404),
        (NotADirectory("x"), "NotFound", 404),
        (Changed("x"), "Changed", 412),
        (Unavailable("x"), "Unavailable", 504),
        (StoreError("x"), "Unavailable", 504),
        (wire.Absent(), "Absent", 404),
        (Refused("Busy", "x"), "Busy", 503),
        (ValueError("x"), "Internal", 500),
    ],
)
def test_errors_travel_by_name(error: Exception, name: str, status: int) -> None:
    assert wire.error_name(error) == name
    assert wire.status_of(name) == status


def test_every_status_has_a_reason() -> None:
    for status in [200, 206, *(s for s, _ in wire.STORE_ERRORS.values()), *wire.PORT_ERRORS.values()]:
        assert status in httpd._REASONS


@given(st.binary(max_size=200))
def test_any_head_is_a_request_or_refused(head: bytes) -> None:
    for raw in (head, b"GET / HTTP/1.1\r\n" + head):
        with contextlib.suppress(Refused):
            request = httpd.parse_request(raw)
            assert request.target.startswith("/")
            assert 0 <= request.length <= wire.BODY_MOST
            assert "transfer-encoding" not in request.headers


@given(refs, st.integers(0, 255), st.sampled_from([0, 16, 17, 20]), st.integers(0, 8 << 20), st.binary(max_size=30), st.data())
def test_a_flipped_bit_of_a_record_shows(
    ref: Ref, index: int, status: int, length: int, text: bytes, data: st.DataObject
) -> None:
    """Or one file's bytes would be taken for another's, and a file that is there for one that is not."""
    head = bytearray(wire.record(ref, index, status, length, text))
    assert wire.RECORD.unpack(head) == (index, status, length, wire.record_sum(ref, index, status, length, text))
    bit = data.draw(st.integers(0, 8 * len(head) - 1))
    head[bit // 8] ^= 1 << bit % 8
    *numbers, told = wire.RECORD.unpack(head)
    assert wire.record_sum(ref, *numbers, text) != told
    other = Ref(ref.mount_source, ref.key + b"x", ref.version, ref.size)
    assert wire.record_sum(other, index, status, length, text) != wire.record_sum(ref, index, status, length, text)


HELLO = wire.encode(wire.Hello("identity", 1, "d", 1.0, "", 0, True)).replace(b"identity", b"id\xa7ntity")
FAILED = wire.encode(wire.Failed("Absent", "sentence")).replace(b"sentence", b"s\xa7ntence")


@pytest.mark.parametrize(
    ("decode", "raw"), [(wire.decode_hello, HELLO), (wire.decode_failed, FAILED), (wire.decode_answer, b"\xc1")]
)
def test_text_that_is_no_text_is_an_answer_that_cannot_be_read(decode: Callable[[bytes], object], raw: bytes) -> None:
    for one in (raw, b""):
        with pytest.raises(msgspec.DecodeError):
            decode(one)
