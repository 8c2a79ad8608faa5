"""The wire format against bytes that other implementations write, and against itself."""

from __future__ import annotations

from typing import Annotated

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.fuse.csi.protocol import messages as m
from forebay.fuse.csi.protocol.proto import Empty, decode, encode


class Everything(msgspec.Struct, frozen=True):
    text: Annotated[str, 1] = ""
    number: Annotated[int, 2] = 0
    flag: Annotated[bool, 3] = False
    names: Annotated[list[str], 4] = []
    map: Annotated[dict[str, str], 5] = {}
    inner: Annotated[m.AccessMode | None, 6] = None
    many: Annotated[list[m.AccessMode], 16] = []


@pytest.mark.parametrize(
    ("message", "raw"),
    [
        (Everything(), ""),
        (Everything(text="testing"), "0a0774657374696e67"),  # the example of the encoding's own documentation, as field 1
        (Everything(number=150), "109601"),
        (Everything(number=-1), "10ffffffffffffffffff01"),
        (Everything(flag=True), "1801"),
        (Everything(names=["a", ""]), "22016122 00"),
        (Everything(map={"k": "v"}), "2a06 0a016b 120176"),
        (Everything(inner=m.AccessMode()), "3200"),
        (Everything(inner=m.AccessMode(3)), "32020803"),
        (Everything(many=[m.AccessMode(1)]), "820102 0801"),
        (m.Probed(m.BoolValue(True)), "0a020801"),
    ],
)
def test_bytes_of_the_wire(message: msgspec.Struct, raw: str) -> None:
    assert encode(message) == bytes.fromhex(raw)
    assert decode(type(message), bytes.fromhex(raw)) == message


texts = st.text(max_size=20)
whole = st.builds(
    Everything,
    text=texts,
    number=st.integers(-(1 << 63), (1 << 63) - 1),
    flag=st.booleans(),
    names=st.lists(texts, max_size=4),
    map=st.dictionaries(texts, texts, max_size=4),
    inner=st.none() | st.builds(m.AccessMode, st.integers(0, 9)),
    many=st.lists(st.builds(m.AccessMode, st.integers(0, 9)), max_size=3),
)


@given(whole)
def test_what_is_written_is_read(message: Everything) -> None:
    assert decode(Everything, encode(message)) == message


@given(whole)
def test_fields_that_are_not_known_are_skipped(message: Everything) -> None:
    assert decode(Empty, encode(message)) == Empty()
    assert decode(m.BoolValue, encode(Everything(names=message.names, map=message.map))) == m.BoolValue()


def test_fixed_fields_of_a_newer_message_are_skipped() -> None:
    assert decode(m.AccessMode, bytes.fromhex("91010000000000000000 9d0100000000 0803")) == m.AccessMode(3)


@given(st.binary(max_size=60))
def test_no_bytes_do_anything_but_be_read_or_refused(raw: bytes) -> None:
    try:
        found = decode(m.NodePublish, raw)
    except ValueError:
        return
    assert decode(m.NodePublish, encode(found)) == found


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ("0a05 61", "cut off"),
        ("10", "cut off"),
        ("10ffffffffffffffffffff01", "64 bits"),
        ("0a01ff", "no UTF-8"),
        ("0801", "wire type 0"),
        ("1201 61", "wire type 2"),
        ("0b", "wire type 3"),
    ],
)
def test_what_is_no_message_is_refused_with_a_sentence(raw: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        decode(Everything, bytes.fromhex(raw))


def test_a_request_shows_no_secret_in_a_trace() -> None:
    for request in (m.NodeStage("v", secrets={"secret": "hunter2"}), m.NodePublish("v", secrets={"secret": "hunter2"})):
        assert "hunter2" not in repr(request)
        assert "hunter2" not in f"{request}"
