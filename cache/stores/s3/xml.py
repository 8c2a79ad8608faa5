"""What S3 says in XML: one page of ListObjectsV2, and errors. Pure.

Parsed by ElementTree's C builder (expat): 1000 keys in about 6 ms. expat >= 2.4.1 bounds entity expansion by itself.
"""

from __future__ import annotations

from urllib.parse import unquote_to_bytes
from xml.etree.ElementTree import Element, ParseError, fromstring

import msgspec

from forebay.cache.stores.base import Entry
from forebay.cache.stores.names import iso_ns, usable
from forebay.cache.stores.versions import tag, timed


class Unparsable(ValueError):
    """Not the document it has to be."""


class Listing(msgspec.Struct, frozen=True):
    """One page: usable entries, keys without a name, where to go on (None at the end), greatest key seen."""

    files: list[Entry]
    dirs: list[Entry]
    skipped: int
    token: str | None
    last: bytes
    keys: int  # keys and common prefixes of the page, whatever their names


class Fault(msgspec.Struct, frozen=True):
    code: str
    message: str
    region: str
    endpoint: str


def parse_listing(document: bytes, prefix: bytes) -> Listing:
    """Read one page of the listing of `prefix` ("" or ending in "/"). Raises `Unparsable`."""
    root, space = _root(document)
    if root.tag != space + "ListBucketResult":
        raise Unparsable(f"a {root.tag.rpartition('}')[2][:40]} where a ListBucketResult had to come")
    encoded = root.findtext(space + "EncodingType") == "url"
    files: list[Entry] = []
    dirs: list[Entry] = []
    skipped = keys = 0
    last = b""
    key_tag, size_tag, time_tag, etag_tag = space + "Key", space + "Size", space + "LastModified", space + "ETag"
    start = len(prefix)
    for item in root.iterfind(space + "Contents"):
        fields = {child.tag: child.text for child in item}
        key = _decode(fields.get(key_tag), encoded)
        if not key.startswith(prefix):
            raise Unparsable("a key outside the prefix asked for")
        keys += 1
        last = max(last, key)
        name = key[start:]
        if not name:
            continue  # the marker of this directory itself
        text = fields.get(size_tag) or ""
        if not text.isdecimal():
            raise Unparsable("a key without a size")
        size = int(text)
        if not usable(name):
            skipped += 1
            continue
        mtime = iso_ns(fields.get(time_tag) or "")
        files.append(Entry(name, False, size, mtime, tag(fields.get(etag_tag) or "") or timed(mtime, size)))
    prefix_tag = space + "Prefix"
    for item in root.iterfind(space + "CommonPrefixes"):
        for child in item:
            if child.tag != prefix_tag:
                continue
            key = _decode(child.text, encoded)
            if not key.startswith(prefix) or not key.endswith(b"/"):
                raise Unparsable("a common prefix outside the prefix asked for")
            keys += 1
            last = max(last, key)
            name = key[start:-1]
            if usable(name):
                dirs.append(Entry(name, True))
            else:
                skipped += 1
    token: str | None = None
    truncated = root.findtext(space + "IsTruncated")
    if truncated == "true":
        token = root.findtext(space + "NextContinuationToken")
        if not token:
            raise Unparsable("a truncated page that does not say where to go on")
    elif truncated != "false":
        raise Unparsable("a page that does not say whether it is the last")
    return Listing(files, dirs, skipped, token, last, keys)


def parse_fault(document: bytes) -> Fault:
    """Read an error document; empty fields where it is none."""
    try:
        root, space = _root(document)
    except Unparsable:
        return Fault("", "", "", "")

    def text(name: str) -> str:
        return (root.findtext(space + name) or "").strip()[:300]

    return Fault(text("Code"), text("Message"), text("Region"), text("Endpoint"))


def _root(document: bytes) -> tuple[Element, str]:
    try:
        root = fromstring(document)
    except (ParseError, ValueError, LookupError) as e:
        raise Unparsable(f"no whole XML document ({e})") from e
    space = root.tag[: root.tag.find("}") + 1]
    return root, space


def _decode(text: str | None, encoded: bool) -> bytes:
    if text is None:
        raise Unparsable("an entry without a key")
    if not encoded:
        return text.encode()
    if "+" in text:
        text = text.replace("+", " ")  # S3 writes a space as "+" and a plus sign as %2B
    return unquote_to_bytes(text) if "%" in text else text.encode()
