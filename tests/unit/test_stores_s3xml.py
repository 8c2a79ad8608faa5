"""S3 listings: read from XML, put in order over pages, against a model bucket."""

from __future__ import annotations

import time

import pytest
from fakes3 import fault, listing
from hypothesis import example, given
from hypothesis import strategies as st

from forebay.cache.stores.base import BadReply, Entry
from forebay.cache.stores.names import usable
from forebay.cache.stores.s3.errors import error_for
from forebay.cache.stores.s3.pages import MAX_EMPTY, Resume, decode_token, merge
from forebay.cache.stores.s3.xml import Fault, Listing, Unparsable, parse_fault, parse_listing

parts = st.one_of(
    st.sampled_from(
        [
            b"a",
            b"b",
            b"a.txt",
            b"a-b",
            b"a!",
            b"ab",
            b"",
            b".",
            b"..",
            b"sp ace+%25",
            b"\xff\xfe",
            "ü".encode(),
            b"n\0l",
            b"x" * 256,
        ]
    ),
    st.binary(min_size=1, max_size=4).map(lambda b: b.replace(b"/", b"_")),
)
keys = st.lists(parts, min_size=1, max_size=4).map(b"/".join).filter(lambda k: 0 < len(k) <= 1024)


def model(bucket: dict[bytes, int], prefix: bytes) -> tuple[set[tuple[bytes, bool]], int]:
    """Names and number of keys without one, straight from the rule: what stands directly below the prefix."""
    items = set()
    for key in bucket:
        if key.startswith(prefix) and key != prefix:
            name, slash, _ = key[len(prefix) :].partition(b"/")
            items.add((name, bool(slash)))
    shown = {item for item in items if usable(item[0]) and not (not item[1] and (item[0], True) in items)}
    return shown, len(items) - len(shown)


def walk(bucket: dict[bytes, int], prefix: bytes, size: int) -> tuple[list[Entry], int]:
    found: list[Entry] = []
    skipped, token = 0, None
    while True:
        resume = decode_token(token)
        after = bytes.fromhex(resume.token) if resume else b""
        document, _ = listing(bucket, prefix, after=after, max_keys=size)
        page = merge(prefix, parse_listing(document, prefix), resume, ordered=True)
        found += page.entries
        skipped += page.skipped
        token = page.token
        if token is None:
            return found, skipped


@given(st.dictionaries(keys, st.integers(0, 10**12), max_size=30), st.integers(1, 5), st.data())
@example({b"a": 1, b"a!": 1, b"a.txt": 1, b"a/x": 1, b"a0": 1}, 1, None)
@example({b"a//b": 1, b"a/": 0, b"a/../x": 1}, 2, None)
def test_every_directory_over_pages_equals_the_model(bucket: dict[bytes, int], size: int, data: st.DataObject | None) -> None:
    prefixes = sorted({b"", *(key[: key.rindex(b"/") + 1] for key in bucket if b"/" in key)})
    chosen = prefixes if data is None else [data.draw(st.sampled_from(prefixes))]
    for prefix in chosen:
        found, skipped = walk(bucket, prefix, size)
        names = [(entry.name, entry.is_dir) for entry in found]
        assert len(names) == len(set(names))
        assert (set(names), skipped) == model(bucket, prefix)
        for entry in found:
            if not entry.is_dir:
                assert entry.size == bucket[prefix + entry.name]
                assert entry.version.startswith(b'"')
                assert entry.mtime_ns == 1445412480 * 10**9


def page(body: str, truncated: str = "false", encoding: str = "<EncodingType>url</EncodingType>") -> bytes:
    return f"<ListBucketResult>{encoding}<IsTruncated>{truncated}</IsTruncated>{body}</ListBucketResult>".encode()


def test_without_namespace_encoding_or_tag() -> None:
    body = "<Contents><Key>a+b%41</Key><Size>3</Size><LastModified>2015-10-21T07:28:00.123Z</LastModified></Contents>"
    read = parse_listing(page(body, encoding=""), b"")
    assert read.files == [Entry(b"a+b%41", False, 3, 1445412480_123000000, b"t1445412480;3")]
    assert parse_listing(page(body), b"").files[0].name == b"a bA"


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"<ListBucketResult><IsTrunc",
        b"<html>hello</html>",
        b"\xff\xff",
        b"<ListBucketResult></ListBucketResult>",
        page("", "true"),
        page("<Contents><Size>1</Size></Contents>"),
        page("<Contents><Key>a</Key></Contents>"),
        page("<Contents><Key>a</Key><Size>-1</Size></Contents>"),
        page("<Contents><Key>b/a</Key><Size>1</Size></Contents>").replace(b"b/a", b"other"),
        page("<CommonPrefixes><Prefix>d/other/</Prefix></CommonPrefixes>"),
        page("<CommonPrefixes><Prefix>b/noslash</Prefix></CommonPrefixes>"),
    ],
)
def test_no_listing(document: bytes) -> None:
    with pytest.raises(Unparsable):
        parse_listing(document, b"b/")


def test_a_bomb_of_entities_is_refused_in_time() -> None:
    entities = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 100}">' for n in range(1, 8))
    bomb = f'<!DOCTYPE x [<!ENTITY e0 "ha">{entities}]><ListBucketResult>&e7;</ListBucketResult>'.encode()
    started = time.thread_time()  # what it costs: a machine that does other things takes longer
    with pytest.raises(Unparsable):
        parse_listing(bomb, b"")
    assert time.thread_time() - started < 2


@given(st.binary(max_size=200))
def test_any_bytes_are_a_listing_or_unparsable(document: bytes) -> None:
    try:
        parse_listing(document, b"")
    except Unparsable:
        pass
    assert isinstance(parse_fault(document), Fault)


@given(st.integers(0, 400))
def test_a_cut_listing_is_never_read_as_whole(cut: int) -> None:
    document, _ = listing({b"a": 1, b"b/c": 2, b"d": 3})
    with pytest.raises(Unparsable):
        parse_listing(document[: min(cut, len(document) - 1)], b"")


def _listing(token: str | None, *names: bytes) -> Listing:
    files = [Entry(name, False, 1, 0, b'"v"') for name in names]
    return Listing(files, [], 0, token, max(names, default=b""), len(names))


def test_a_listing_that_runs_in_circles() -> None:
    resume = Resume("t1", b"m", 0, [])
    with pytest.raises(Unparsable, match="itself"):
        merge(b"", _listing("t1", b"z"), resume, ordered=False)
    with pytest.raises(Unparsable, match="before"):
        merge(b"", _listing("t2", b"a", b"m"), resume, ordered=True)
    assert merge(b"", _listing("t2", b"a", b"m"), resume, ordered=False).entries


def test_endless_empty_pages_end() -> None:
    token = None
    for n in range(MAX_EMPTY):
        token = merge(b"", _listing(f"t{n}"), decode_token(token), ordered=True).token
    with pytest.raises(Unparsable, match="empty"):
        merge(b"", _listing("more"), decode_token(token), ordered=True)


def test_held_back_files_are_few_and_not_lost() -> None:
    first = merge(b"", _listing("t", b"a", b"a-1", b"a-1-2"), None, ordered=True)
    assert first.entries == []
    last = merge(b"", _listing(None, b"b"), decode_token(first.token), ordered=True)
    assert [entry.name for entry in last.entries] == [b"a", b"a-1", b"a-1-2", b"b"]


@given(st.binary(max_size=40))
def test_foreign_tokens(token: bytes) -> None:
    try:
        decode_token(token)
    except BadReply:
        pass


@pytest.mark.parametrize(
    ("status", "code", "kind", "says"),
    [
        (404, "NoSuchBucket", "Denied", "no such bucket"),
        (404, "NoSuchKey", "NotFound", "no such object"),
        (404, "", "NotFound", "no such object"),
        (404, "SomethingOdd", "BadReply", "404"),
        (404, "XAdminUserNotFound", "Denied", "access key"),
        (403, "InvalidAccessKeyId", "Denied", "access key"),
        (403, "SignatureDoesNotMatch", "Denied", "secret key"),
        (403, "AccessDenied", "Denied", "credentials do not allow"),
        (403, "", "Denied", "403"),
        (403, "RequestTimeTooSkewed", "Denied", "clock"),
        (400, "ExpiredToken", "Denied", "expired"),
        (503, "SlowDown", "Throttled", "fewer requests"),
        (503, "", "Throttled", "fewer requests"),
        (429, "", "Throttled", "fewer requests"),
        (500, "InternalError", "Unavailable", "500"),
        (502, "", "Unavailable", "502"),
        (400, "RequestTimeout", "Unavailable", "400"),
        (412, "PreconditionFailed", "Changed", "changed"),
        (412, "", "Changed", "changed"),
        (301, "PermanentRedirect", "BadReply", "elsewhere"),
        (400, "WhoKnows", "BadReply", "400"),
    ],
)
def test_faults(status: int, code: str, kind: str, says: str) -> None:
    error = error_for(status, parse_fault(fault(code)) if code else Fault("", "", "", ""), "s3://b/k", signed=True)
    assert type(error).__name__ == kind
    assert says in str(error)
    assert str(error).startswith("s3://b/k: ")
    if code and status != 412:
        assert code in str(error)


def test_anonymous_refusal_asks_for_keys() -> None:
    assert "no credentials were given" in str(error_for(403, Fault("AccessDenied", "", "", ""), "s3://b/", signed=False))


def test_a_thousand_keys_are_quick() -> None:
    """Target 15 ms of an idle core; the bound here leaves room for a busy machine."""
    document, _ = listing({b"prefix/object-%06d.bin" % n: n for n in range(1000)}, b"prefix/")
    best = min(_timed(document) for _ in range(5))
    assert best < 0.150


def _timed(document: bytes) -> float:
    started = time.thread_time()
    assert len(parse_listing(document, b"prefix/").files) == 1000
    return time.thread_time() - started
