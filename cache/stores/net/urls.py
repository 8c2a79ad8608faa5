"""URLs as the transport wants them: split once, compared by origin, joined with a redirect's Location."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import quote, unquote, urljoin, urlsplit

_SAFE_TARGET = "!#$%&'()*+,/:;=?@[]~-._"
_TARGET = re.compile(r"[!-~]+\Z")


class Origin(NamedTuple):
    """Who is at the other end. Credentials stay within one origin."""

    tls: bool
    host: str  # lower case; IPv6 without brackets
    port: int

    @property
    def authority(self) -> str:
        """The `Host` header: a default port is left out, as signatures expect."""
        return _authority(self)

    @property
    def text(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self.authority}"


@lru_cache(maxsize=256)
def _authority(origin: Origin) -> str:
    host = f"[{origin.host}]" if ":" in origin.host else origin.host
    return host if origin.port == (443 if origin.tls else 80) else f"{host}:{origin.port}"


class Url(NamedTuple):
    origin: Origin
    target: str  # path and query as sent: printable ASCII, begins with "/"

    @property
    def text(self) -> str:
        """For sentences and logs. The query is left out: it may carry a signature."""
        return self.origin.text + self.target.partition("?")[0]

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]


def parse_url(text: str) -> tuple[Url, str, str]:
    """Split an http(s) URL; also returns user and password of its authority part ("" where absent).

    Raises `ValueError` with a sentence when the URL cannot be used.
    """
    parts = urlsplit(text)
    if parts.scheme not in {"http", "https"}:
        raise ValueError(
            f"{parts.scheme or 'no scheme'} is not http or https in {redact(text)!r}: write http://host or https://host"
        )
    try:
        host, port = parts.hostname or "", parts.port
    except ValueError as e:
        raise ValueError(f"bad port in {redact(text)!r}: {e}") from e
    if not host:
        raise ValueError(f"no host in {redact(text)!r}: write http://host or https://host")
    if not host.isascii():
        try:
            host = host.encode("idna").decode("ascii")
        except UnicodeError as e:
            raise ValueError(f"bad host name in {redact(text)!r}: {e}") from e
    if not _TARGET.match(host):
        raise ValueError(f"bad host name in {redact(text)!r}")
    tls = parts.scheme == "https"
    target = quote(parts.path or "/", safe=_SAFE_TARGET)
    if not target.startswith("/"):
        target = "/" + target
    if parts.query:
        target += "?" + quote(parts.query, safe=_SAFE_TARGET)
    origin = Origin(tls, host.lower(), port or (443 if tls else 80))
    return Url(origin, target), unquote(parts.username or ""), unquote(parts.password or "")


def join_location(base: Url, location: str) -> Url:
    """The URL a redirect names. Raises `ValueError` when it is no http(s) URL."""
    return parse_url(urljoin(base.origin.text + base.target, location))[0]


def redact(text: str) -> str:
    """A URL without password and query, for messages."""
    text = re.sub(r"(://)[^/@]*@", r"\1***@", text)
    return text.partition("?")[0]
