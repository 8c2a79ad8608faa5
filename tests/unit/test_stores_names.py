"""Names, times, versions and URLs as stores write them: tables and round trips."""

from __future__ import annotations

import calendar
from datetime import UTC, datetime
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.cache.stores.names import Label, http_date_ns, iso_ns, show, usable, usable_key
from forebay.cache.stores.net.urls import Origin, join_location, parse_url, redact
from forebay.cache.stores.versions import conditions, is_strong, proves, tag, timed, version_of

moments = st.datetimes(min_value=datetime(1970, 1, 1), max_value=datetime(2200, 1, 1), timezones=st.just(UTC))


@pytest.mark.parametrize(
    ("name", "good"),
    [
        (b"a", True),
        (b"a b+c%\xff\n", True),
        (b"...", True),
        (b"x" * 255, True),
        (b"x" * 256, False),
        (b"", False),
        (b".", False),
        (b"..", False),
        (b"a\0b", False),
        (b"a/b", False),
    ],
)
def test_usable(name: bytes, good: bool) -> None:
    assert usable(name) is good


@pytest.mark.parametrize(
    ("key", "good"),
    [(b"a/b", True), (b"a/b/", True), (b"a//b", False), (b"/a", False), (b"a/../b", False), (b"", False), (b"/", False)],
)
def test_usable_key(key: bytes, good: bool) -> None:
    assert usable_key(key) is good


parts = st.one_of(
    st.sampled_from([b"", b".", b"..", b"...", b"a", b".a", b"a.", b"\0", b"x" * 255, b"x" * 256]), st.binary(max_size=3)
)


@given(st.lists(parts, min_size=1, max_size=4).map(b"/".join), st.booleans())
def test_a_key_is_usable_when_all_its_parts_are(key: bytes, directory: bool) -> None:
    written = key + b"/" if directory else key
    assert usable_key(written) is all(usable(part) for part in written.removesuffix(b"/").split(b"/"))


@given(st.binary())
def test_a_label_is_one_printable_line(key: bytes) -> None:
    assert str(Label("s3://b", key)).isprintable()
    assert show(key).isprintable()


@given(moments)
def test_times(moment: datetime) -> None:
    seconds = calendar.timegm(moment.utctimetuple())
    assert http_date_ns(format_datetime(moment, usegmt=True)) == seconds * 10**9
    assert iso_ns(moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")) == seconds * 10**9 + moment.microsecond * 1000
    assert iso_ns(moment.strftime("%Y-%m-%dT%H:%M:%SZ")) == seconds * 10**9


@given(st.text())
def test_no_time_is_zero(text: str) -> None:
    assert http_date_ns("x" + text) == 0
    assert iso_ns("x" + text) == 0


@pytest.mark.parametrize(
    "text", ["", "Wed, 41 Oct 2015 07:28:00 GMT", "Wed, 21 Foo 2015 07:28:00 GMT", "Wed, 21 Oct 2015 25:28:00 GMT"]
)
def test_impossible_times(text: str) -> None:
    assert http_date_ns(text) == 0


@pytest.mark.parametrize(
    ("value", "version"),
    [
        ('"abc"', b'"abc"'),
        ("abc", b'"abc"'),
        ('W/"abc"', b'W/"abc"'),
        ("W/abc", b'W/"abc"'),
        ("", b""),
        ('""', b""),
        (' "a-2" ', b'"a-2"'),
    ],
)
def test_tag(value: str, version: bytes) -> None:
    assert tag(value) == version
    assert is_strong(version) is version.startswith(b'"')


LM = "Wed, 21 Oct 2015 07:28:00 GMT"


@pytest.mark.parametrize(
    ("version", "headers", "total", "verdict"),
    [
        (b'"a"', {"etag": '"a"'}, None, True),
        (b'"a"', {"etag": '"b"'}, 5, False),
        (b'"a"', {"last-modified": LM}, 5, None),
        (b'W/"a"', {"etag": 'W/"a"'}, None, True),
        (b'W/"a"', {"etag": '"a"'}, None, False),
        (b"t1445412480;5", {"last-modified": LM}, 5, True),
        (b"t1445412480;5", {"last-modified": LM}, 6, False),
        (b"t1445412480;5", {"last-modified": LM}, None, True),
        (b"t1445412481;5", {"last-modified": LM}, 5, False),
        (b"t1445412480;5", {}, 5, None),
        (b"t0;5", {}, 5, True),
        (b"t0;5", {}, 6, False),
        (b"t0;5", {}, None, None),
        (b"t0;5", {"last-modified": LM}, 5, False),
    ],
)
def test_proves(version: bytes, headers: dict[str, str], total: int | None, verdict: bool | None) -> None:
    assert proves(version, headers, total) is verdict


def test_version_of() -> None:
    assert version_of({"etag": '"x"', "last-modified": LM}, 5) == b'"x"'
    assert version_of({"last-modified": LM}, 5) == timed(1445412480 * 10**9 + 999, 5) == b"t1445412480;5"
    assert version_of({}, 5) == b"t0;5"


@given(st.binary(max_size=20).map(lambda b: b'"' + b + b'"'))
def test_only_a_strong_tag_becomes_a_condition(version: bytes) -> None:
    assert conditions(version).encode("latin-1") == b"If-Match: " + version + b"\r\n"
    assert conditions(b"W/" + version) == ""
    assert conditions(b"t123;4") == ""


@pytest.mark.parametrize(
    ("text", "origin", "target"),
    [
        ("http://h", Origin(False, "h", 80), "/"),
        ("https://H:8443/a b?x=ü", Origin(True, "h", 8443), "/a%20b?x=%C3%BC"),
        ("http://[::1]:9000/x%20y", Origin(False, "::1", 9000), "/x%20y"),
        ("https://user:p%40ss@h/", Origin(True, "h", 443), "/"),
        ("http://h?q", Origin(False, "h", 80), "/?q"),
    ],
)
def test_parse_url(text: str, origin: Origin, target: str) -> None:
    url, user, password = parse_url(text)
    assert (url.origin, url.target) == (origin, target)
    if "@" in text:
        assert (user, password) == ("user", "p@ss")


@pytest.mark.parametrize("text", ["ftp://h/", "h/x", "http://", "http://h:99999/", "http://h:x/", "http://a b/", "http:///x"])
def test_parse_url_refuses(text: str) -> None:
    with pytest.raises(ValueError, match=r"[a-z]"):
        parse_url(text)


def test_authority_leaves_default_ports_out() -> None:
    assert parse_url("https://h:443/")[0].origin.authority == "h"
    assert parse_url("http://h:443/")[0].origin.authority == "h:443"
    assert parse_url("http://[::1]/")[0].origin.authority == "[::1]"


def test_join_location() -> None:
    base = parse_url("http://h/a/b?q=1")[0]
    assert join_location(base, "c").text == "http://h/a/c"
    assert join_location(base, "//other/x").origin.host == "other"
    assert join_location(base, "/x y\r\nEvil: 1").target == "/x%20yEvil:%201"
    with pytest.raises(ValueError, match="not http"):
        join_location(base, "file:///etc/passwd")


@given(st.text(max_size=60))
def test_a_redirect_never_breaks_out_of_the_request_line(location: str) -> None:
    base = parse_url("http://h/a/")[0]
    try:
        url = join_location(base, location)
    except ValueError:
        return
    assert url.target.isascii()
    assert url.target.startswith("/")
    assert not set(url.target + url.origin.host) & set(" \r\n\t\0")


def test_redact() -> None:
    assert redact("http://u:secret@h/x?token=1") == "http://***@h/x"
