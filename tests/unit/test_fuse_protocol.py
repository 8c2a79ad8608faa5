from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.fuse import protocol as p


def init(major: int, minor: int, flags: int, unique: int = 7) -> bytes:
    low, high = flags & 0xFFFFFFFF, flags >> 32
    if minor >= 36:
        body = p.INIT_IN.pack(major, minor, 1 << 17, low, high, *([0] * 11))
    else:
        body = p.INIT_IN_OLD.pack(major, minor, 1 << 17, low)
    return p.IN.pack(40 + len(body), p.INIT, unique, 0, 0, 0, 0, 0, 0) + body


def test_layouts_have_the_header_files_sizes() -> None:
    assert {s.format: s.size for s in p.SIZES} == {s.format: n for s, n in p.SIZES.items()}
    assert (p.ENTRY_REPLY.size, p.ATTR_REPLY.size, p.OPEN_REPLY.size, p.BACKING_MAP.size) == (144, 120, 32, 16)


OLD = p.ASYNC_READ | p.BIG_WRITES | p.DO_READDIRPLUS | p.READDIRPLUS_AUTO | p.PARALLEL_DIROPS | (1 << 12) | (1 << 16)
ALL = (1 << 43) - 1


@pytest.mark.parametrize(
    ("kernel", "minor", "offered", "granted", "depth"),
    [
        ("3.15", 23, OLD, OLD & p.WANTED, 0),
        ("4.20", 28, OLD | p.MAX_PAGES, (OLD | p.MAX_PAGES) & p.WANTED, 0),
        ("6.1", 38, (ALL & ~p.PASSTHROUGH & ~p.HAS_RESEND), p.WANTED & ~p.PASSTHROUGH & ~p.HAS_RESEND, 0),
        ("6.1 that offers by mistake", 38, ALL, p.WANTED & ~p.PASSTHROUGH & ~p.HAS_RESEND, 0),
        ("6.9", 40, ALL, p.WANTED, 1),
        ("6.18", 45, ALL, p.WANTED, 1),
        ("later", 60, ALL, p.WANTED, 1),
        ("without INIT_EXT", 45, ALL & ~p.INIT_EXT, p.WANTED & 0xFFFFFFFF & ~p.INIT_EXT, 0),
    ],
)
def test_init(kernel: str, minor: int, offered: int, granted: int, depth: int) -> None:
    reply, agreed = p.answer_init(init(7, minor, offered))
    assert agreed is not None
    assert agreed.flags == granted
    assert agreed.minor == min(minor, 45)
    length, error, unique = p.OUT.unpack_from(reply)
    assert (length, error, unique) == (len(reply), 0, 7) == (80, 0, 7)
    out = p.INIT_OUT.unpack_from(reply, 16)
    assert out[0] == 7
    assert out[3] | out[10] << 32 == granted
    assert out[11] == depth
    assert out[8] == (256 if granted & p.MAX_PAGES else 0)
    assert agreed.max_read == (1 << 20 if granted & p.MAX_PAGES else 128 << 10)


@given(st.integers(0, ALL), st.integers(0, ALL), st.integers(23, 60))
def test_init_never_grants_what_was_not_offered_or_wanted(offered: int, wanted: int, minor: int) -> None:
    _, agreed = p.answer_init(init(7, minor, offered), wanted=wanted)
    assert agreed is not None
    assert agreed.flags & ~(offered & wanted) == 0
    assert not (agreed.passthrough and minor < 40)


def test_writeback_is_never_wanted_because_it_switches_passthrough_off() -> None:
    assert not p.WANTED & (1 << 16)
    assert not p.WANTED & (1 << 12)  # AUTO_INVAL_DATA wins over EXPLICIT_INVAL_DATA


def test_a_larger_major_is_answered_and_asked_again() -> None:
    reply, agreed = p.answer_init(init(8, 1, ALL))
    assert agreed is None
    assert p.INIT_OUT.unpack_from(reply, 16)[0] == 7


@pytest.mark.parametrize("raw", [init(7, 22, OLD), init(6, 0, OLD), p.IN.pack(40, p.LOOKUP, 1, 1, 0, 0, 0, 0, 0) + bytes(24)])
def test_what_cannot_be_spoken_is_refused(raw: bytes) -> None:
    with pytest.raises(p.Unusable):
        p.answer_init(raw)


def test_names_need_their_nul() -> None:
    assert p.name_of(bytes(40) + b"\xffodd\0rest") == b"\xffodd"
    with pytest.raises(OSError, match="NUL"):
        p.name_of(bytes(40) + b"odd")


def test_notices() -> None:
    assert p.resend_notice() == p.OUT.pack(16, 7, 0)
    raw = p.inval_entry_notice(5, b"name")
    assert p.INVAL_ENTRY.unpack_from(raw) == (16 + 16 + 5, 3, 0, 5, 4, 0)
    assert raw[32:] == b"name\0"
