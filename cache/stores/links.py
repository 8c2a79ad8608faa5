"""The names in an HTML directory index: nginx autoindex, Apache in its three shapes, Python's http.server. Pure.

A tokeniser of three patterns instead of `html.parser`, which takes 20 us a tag: 100,000 links in 0.3 s instead of 4.
"""

from __future__ import annotations

import re
from html import unescape
from urllib.parse import quote, unquote_to_bytes, urlsplit

import msgspec

from forebay.cache.stores.names import usable

_TOKEN = re.compile(
    rb"<!--.*?(?:-->|\Z)"
    rb"|<(script|style|textarea|title)\b.*?(?:</\1\s*>|\Z)"
    rb"|<a(?=[\s/>])((?:[^>\"']|\"[^\"]*\"|'[^']*')*)>",
    re.IGNORECASE | re.DOTALL,
)
_HREF = re.compile(
    rb"(?:\A|[\s/\"'])href\s*=\s*(?:\"([^\"]*)\"|'([^']*)'|([^\s\"'>]+))",
    re.IGNORECASE,
)
_INDEX = re.compile(rb"<(?:title|h1)[^>]*>\s*(?:index of|directory listing|listing of|directory:)", re.IGNORECASE)
_OPEN, _CLOSE = re.compile(rb"<html\b", re.IGNORECASE), re.compile(rb"</html\s*>", re.IGNORECASE)
_PARENT = {"../", "..", "./../"}
_SAFE_PATH = "/!$&'()*+,:;=@-._~%"


class Links(msgspec.Struct, frozen=True):
    """`names` in order of appearance; directories end in "/". `index`: whether the page looks like one at all."""

    names: list[bytes]
    skipped: int
    index: bool
    opened: bool  # an <html> begins
    closed: bool  # and ends


def names_of(page: bytes, home: str, path: str, limit: int) -> Links:
    """The links of `page`, found at `home` ("http://host") and `path` (percent-encoded, ending in "/"), that name something
    directly below it.

    Raises `ValueError` when there are more than `limit`.
    """
    seen: dict[bytes, None] = {}
    skipped = 0
    parent = False
    base = unquote_to_bytes(path)
    for match in _TOKEN.finditer(page):
        attributes = match[2]
        if attributes is None:
            continue
        found = _HREF.search(attributes)
        if found is None:
            continue
        raw = found[1] if found[1] is not None else found[2] if found[2] is not None else found[3]
        href = raw.decode("utf-8", "surrogateescape").strip(" \t\r\n\f")
        if "&" in href:
            href = unescape(href)
        if href.startswith(home) and href[len(home) : len(home) + 1] == "/":
            href = href[len(home) :]
        if href in _PARENT:
            parent = True
            continue
        relative = _below(href, base)
        if relative is None:
            if href.startswith("/") and base.startswith(unquote_to_bytes(href)):
                parent = True
            continue
        name = relative[:-1] if relative.endswith(b"/") else relative
        if not name:
            continue
        if not usable(name):
            skipped += 1
            continue
        seen[relative] = None
        if len(seen) > limit:
            raise ValueError(f"more than {limit} links")
    names = [name for name in seen if name.endswith(b"/") or name + b"/" not in seen]
    skipped += len(seen) - len(names)
    opened = _OPEN.search(page, 0, 4096) is not None
    index = bool(names) or parent or _INDEX.search(page, 0, 16384) is not None
    return Links(names, skipped, index, opened, _CLOSE.search(page, max(0, len(page) - 65536)) is not None)


def _below(href: str, base: bytes) -> bytes | None:
    """What `href` names relative to the directory `base` (decoded), None when that is not below it or is no plain path."""
    if not href or href[0] in "?#":
        return None
    if href[0] == "/" or ":" in href.partition("/")[0]:
        try:
            parts = urlsplit(href)
        except ValueError:
            return None
        if parts.scheme or parts.netloc:
            return None
        href = parts.path
        if parts.query:
            return None
        path = _bytes(href)
        return path[len(base) :] if path.startswith(base) else None
    if "?" in href:
        return None
    path = _bytes(href.partition("#")[0])
    while path.startswith(b"./"):
        path = path[2:]
    return path


def _bytes(text: str) -> bytes:
    raw = text.encode("utf-8", "surrogateescape")
    return unquote_to_bytes(raw) if b"%" in raw else raw


def encode_path(key: bytes) -> str:
    """A key as it stands in a URL's path."""
    return quote(key, safe="/-._~")
