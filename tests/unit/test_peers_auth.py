"""Signatures, proofs, replay windows and secrets."""

from __future__ import annotations

import os
import random
import stat
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forebay.cache.peers.auth import (
    EMPTY,
    WINDOW,
    AuthError,
    Key,
    ReplayWindow,
    Signed,
    Signer,
    Verifier,
    body_of,
    load_secret,
    make_secret,
    sha256,
)

SECRET = b"s" * 32
KEY = Key(SECRET, "ns/d")
NOW = 1_700_000_000.0
BLOB = Signed("GET", "/v1/blob", ("object", "bytes=0-1", "fetch", "me"))


def test_a_signed_request_is_good_once() -> None:
    signer, verifier = Signer(KEY, lambda: NOW), Verifier(Key(SECRET, "ns/d"), lambda: NOW)
    header, signature = signer.header(BLOB)
    assert verifier.check(header, BLOB) == signature
    assert body_of(header) == EMPTY == sha256(b"")
    with pytest.raises(AuthError, match="seen before"):
        verifier.check(header, BLOB)
    again, other = signer.header(BLOB)
    assert verifier.check(again, BLOB) == other != signature


@pytest.mark.parametrize(
    "changed",
    [
        Signed("POST", "/v1/blob", BLOB.headers),
        Signed("GET", "/v1/hello", BLOB.headers),
        *(Signed("GET", "/v1/blob", (*BLOB.headers[:i], BLOB.headers[i] + "x", *BLOB.headers[i + 1 :])) for i in range(4)),
        Signed("GET", "/v1/blob", ("objectbytes=0-1", "", "fetch", "me")),
    ],
)
def test_everything_that_matters_is_signed(changed: Signed) -> None:
    header, _ = Signer(KEY, lambda: NOW).header(BLOB)
    with pytest.raises(AuthError, match="signature is wrong"):
        Verifier(KEY, lambda: NOW).check(header, changed)


@pytest.mark.parametrize("key", [Key(b"x" * 32, "ns/d"), Key(SECRET, "ns/e")])
def test_another_secret_or_dataset_does_not_do(key: Key) -> None:
    header, signature = Signer(key, lambda: NOW).header(BLOB)
    with pytest.raises(AuthError, match="same secret file"):
        Verifier(KEY, lambda: NOW).check(header, BLOB)
    assert not KEY.check_proof(key.proof(signature, 200, "f"), signature, 200, "f")


@given(st.integers(0, 400), st.characters(min_codepoint=32, max_codepoint=126))
@settings(max_examples=300)
def test_no_change_of_a_header_passes(at: int, char: str) -> None:
    header, _ = Signer(KEY, lambda: NOW).header(BLOB)
    at %= len(header)
    changed = header[:at] + char + header[at + 1 :]
    if changed == header:
        return
    verifier = Verifier(KEY, lambda: NOW)
    with pytest.raises(AuthError):
        verifier.check(changed, BLOB)
    assert len(verifier._used) == 0, "who does not prove itself takes no place in the replay window"


@pytest.mark.parametrize(
    "header", ["", "FB1", "Bearer x", "FB2 t=1", "FB1 t=1,n=" + "0" * 32 + ":1,b=" + "0" * 64 + ",s=" + "é" * 64]
)
def test_no_signature_at_all(header: str) -> None:
    with pytest.raises(AuthError, match="not signed"):
        Verifier(KEY, lambda: NOW).check(header, BLOB)


@pytest.mark.parametrize(("skew", "says"), [(WINDOW + 1, "ahead of"), (-WINDOW - 1, "behind")])
def test_skewed_clocks(skew: float, says: str) -> None:
    header, _ = Signer(KEY, lambda: NOW + skew).header(BLOB)
    with pytest.raises(AuthError, match=says):
        Verifier(KEY, lambda: NOW).check(header, BLOB)


def test_a_proof_is_of_one_answer() -> None:
    proof = KEY.proof("sig", 206, "9|bytes 0-0/1|")
    assert KEY.check_proof(proof, "sig", 206, "9|bytes 0-0/1|")
    for signature, status, framing in [
        ("gis", 206, "9|bytes 0-0/1|"),
        ("sig", 200, "9|bytes 0-0/1|"),
        ("sig", 206, "9|bytes 0-0/2|"),
    ]:
        assert not KEY.check_proof(proof, signature, status, framing)
    assert not KEY.check_proof("", "sig", 206, "9|bytes 0-0/1|")
    assert not KEY.check_proof("é", "sig", 206, "9|bytes 0-0/1|")


# --- replay


@given(st.lists(st.integers(1, 60), max_size=200))
def test_no_number_is_used_twice_and_none_in_the_window_is_lost(numbers: list[int]) -> None:
    w = ReplayWindow(numbers=16)
    used: set[int] = set()
    top = 0
    for n in numbers:
        fresh = w.use("c", n, 0.0)
        assert not (fresh and n in used)
        if n not in used and top - n < 16:
            assert fresh
        if fresh:
            used.add(n)
            top = max(top, n)


def test_requests_may_overtake_each_other() -> None:
    w = ReplayWindow()
    numbers = list(range(1, 3000))
    random.Random(1).shuffle(numbers)
    assert all(w.use("c", n, 0.0) for n in numbers)
    assert not any(w.use("c", n, 0.0) for n in numbers)
    assert w.use("c", 10**17, 0.0)
    assert not w.use("c", 1, 0.0)


def test_callers_are_bounded_and_the_live_ones_are_kept() -> None:
    w = ReplayWindow(callers=3, keep=60.0)
    assert all(w.use(f"c{i}", 1, float(i)) for i in range(3))
    assert not w.use("c3", 1, 50.0), "nobody may be forgotten yet: a number of theirs could come again"
    assert len(w) == 3
    assert w.use("c2", 2, 60.0)
    assert w.use("c3", 1, 61.5)
    assert len(w) == 2
    assert not w.use("c2", 1, 61.6)


# --- secrets


def test_a_secret_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    path = str(tmp_path / "secret")
    made = make_secret(path)
    assert len(made) == 64
    assert make_secret(path) == made == load_secret(path)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600


@pytest.mark.parametrize(
    ("mode", "good"), [(0o600, True), (0o400, True), (0o640, True), (0o644, False), (0o660, False), (0o604, False)]
)
def test_modes(tmp_path: Path, mode: int, good: bool) -> None:
    path = tmp_path / "secret"
    path.write_bytes(b"k" * 40 + b"\n")
    path.chmod(mode)
    if good:
        assert load_secret(str(path)) == b"k" * 40
    else:
        with pytest.raises(ValueError, match="chmod 600"):
            load_secret(str(path))


@pytest.mark.parametrize("raw", [b"", b"k" * 31, b"k" * 31 + b"\n", b"k" * 5000])
def test_secrets_that_are_refused(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "secret"
    path.write_bytes(raw)
    path.chmod(0o600)
    with pytest.raises(ValueError, match="32 to 4096") as e:
        load_secret(str(path))
    assert "kkk" not in str(e.value)


def test_a_missing_secret_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="make one with"):
        load_secret(str(tmp_path / "none"))


def test_a_key_shows_nothing_of_itself() -> None:
    assert "ssss" not in repr(KEY)
    assert repr(KEY) == "Key(dataset='ns/d')"
    with pytest.raises(ValueError, match="32 random"):
        Key(b"short", "ns/d")
