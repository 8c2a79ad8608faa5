"""A tree that a web server shows as HTML directory indexes (nginx, Apache, Python's http.server), or one file at a URL.

Plain HTTP is a zoo, so: no coding is asked for and none accepted unless it is the stored file's own; sizes come from HEAD,
else from a one-byte range, else from the body; a range answered with 200 is read as the whole; every try starts at the URL as
written; credentials stay with its origin. A listing gives names only: sizes and versions come from `stat`.
"""

from __future__ import annotations

import base64
import threading
import time
from urllib.parse import unquote_to_bytes

import msgspec
import xxhash

from forebay.api.spec import Mount
from forebay.cache.stores.base import BadReply, Body, Changed, Entry, NotFound, Page, StoreError, Unavailable
from forebay.cache.stores.config import plain, transport_for
from forebay.cache.stores.http.facts import error_for, stored_coding
from forebay.cache.stores.http.links import Links, encode_path, names_of
from forebay.cache.stores.names import Label, http_date_ns, show, usable, usable_key
from forebay.cache.stores.net.ranges import Empty, Held, Window, coding_of, open_range, refused_coding, total_of
from forebay.cache.stores.net.response import Response, content_length
from forebay.cache.stores.net.retry import Retrier
from forebay.cache.stores.net.streams import Streams
from forebay.cache.stores.net.transport import Timeouts, Transport
from forebay.cache.stores.net.urls import Url, parse_url, redact
from forebay.cache.stores.versions import conditions, is_strong, proves, version_of

MAX_PAGE_BYTES = 64 << 20
MAX_LINKS = 1_000_000
MAX_HELD_BYTES = 64 << 20
"""A body without a stated size is taken into memory up to here: nothing else tells a cut one from a whole one."""
KEPT_PAGES = 4
HTML = ("text/html", "application/xhtml+xml")


class _Token(msgspec.Struct, frozen=True, array_like=True):
    page: int  # hash of the page's bytes
    position: int


class HttpStore:
    """One URL and what lies below it. Thread-safe."""

    def __init__(self, url: Url, transport: Transport, secret: str = "") -> None:
        self._transport = transport
        self._retrier = Retrier(transport.timeouts.answer)
        self._secret = secret
        self._origin = url.origin
        self._path, _, self._query = url.target.partition("?")
        self._base = redact(url.text).rstrip("/")
        self._file: bytes | None = None  # the one file's name, where the source is no tree
        self._known = self._path.endswith("/")  # whether it is settled which of the two it is
        self._settling = threading.Lock()
        self._unsettled: tuple[float, StoreError] | None = None  # the last failure to settle it, and when
        self._tags = [False, False]  # whether a weak, a strong version was seen
        self._streams = Streams(max_age=transport.timeouts.stall)
        self._pages: dict[int, Links] = {}
        self._pages_lock = threading.Lock()

    @property
    def strong(self) -> bool:
        """Whether every version seen so far was a strong entity tag. (nginx's hold a time in seconds and the size, no more.)"""
        return self._tags == [False, True]

    # -- the interface --

    def list(self, prefix: bytes, token: bytes | None = None, limit: int = 1000) -> Page:
        if self._single() is not None:
            if prefix:
                raise NotFound(f"{self._label(prefix)}: the source is one file, no tree")
            return Page([self.stat(self._single() or b"")], None)
        label = self._label(prefix)
        if prefix and not usable_key(prefix):
            raise NotFound(f"{label}: no directory in the tree can have this name")
        at = _Token(0, 0)
        links: Links | None = None
        if token is not None:
            try:
                at = msgspec.msgpack.decode(token, type=_Token)
            except (msgspec.DecodeError, ValueError) as e:
                raise BadReply(f"{label}: resumed with a token that is none of ours; list the directory from its start") from e
            with self._pages_lock:
                links = self._pages.get(at.page)
        page = at.page
        if links is None:
            page, links = self._retrier.run(lambda deadline: self._index(prefix, label, deadline))
            if token is not None and page != at.page:
                raise Changed(f"{label}: the index changed while it was read; list the directory from its start")
        end = at.position + max(limit, 1)
        entries = [Entry(name.removesuffix(b"/"), name.endswith(b"/")) for name in links.names[at.position : end]]
        more = end < len(links.names)
        with self._pages_lock:
            if more:
                self._pages[page] = links
                while len(self._pages) > KEPT_PAGES:
                    del self._pages[next(iter(self._pages))]
            else:
                self._pages.pop(page, None)
        following = msgspec.msgpack.encode(_Token(page, end)) if more else None
        return Page(entries, following, links.skipped if token is None else 0)

    def stat(self, key: bytes) -> Entry:
        self._check(key)
        return self._retrier.run(lambda deadline: self._stat(key, deadline))

    def is_dir(self, key: bytes) -> bool:
        if self._single() is not None or not usable_key(key):
            return False
        label = self._label(key + b"/")
        return self._retrier.run(lambda deadline: self._is_dir(key, label, deadline))

    def read(self, key: bytes, version: bytes, offset: int, length: int) -> Body:
        self._check(key)
        if length <= 0:
            if self.stat(key).version != version:
                raise Changed(f"{self._label(key)}: the object has changed since it was listed; list it again")
            return Empty()
        parked = self._streams.take(key, version, offset)
        if parked is not None:
            response, position = parked
            return Window(response, offset - position, length, self._streams.parker(key, version, offset + length))
        return self._retrier.run(lambda deadline: self._read(key, version, offset, length, deadline=deadline))

    def whole(self, key: bytes) -> tuple[Entry, Body]:
        self._check(key)
        return self._retrier.run(lambda deadline: self._whole(key, deadline))

    def probe(self) -> None:
        if self._single() is not None:
            self.stat(self._single() or b"")
        else:
            self.list(b"", None, 1)

    def close(self) -> None:
        self._streams.close()
        self._transport.close()

    # -- one exchange each --

    def _index(self, prefix: bytes, label: object, deadline: float) -> tuple[int, Links]:
        url = self._url(prefix, directory=True)
        response = self._get("GET", url, "", label, deadline)
        self._ok(response, label)
        kind = response.headers.get("content-type", HTML[0]).partition(";")[0].strip().lower()
        if kind not in HTML:
            response.close()
            raise BadReply(f"{label}: {kind[:60]!r} where an HTML index had to come; switch the server's directory index on")
        if coding_of(response):
            response.close()
            raise BadReply(f"{label}: {refused_coding(response)}")
        final = response.url or url
        tail = url.path.rstrip("/").rpartition("/")[2]
        if not final.path.endswith("/") or final.path.rstrip("/").rpartition("/")[2] != tail:
            response.close()
            raise BadReply(f"{label}: redirected to {final.text}, which is another place; correct the address")
        framed = response.framed
        page = response.read(MAX_PAGE_BYTES)
        try:
            links = names_of(page, final.origin.text, final.path, MAX_LINKS)
        except ValueError as e:
            raise BadReply(f"{label}: the index has {e}; split the directory") from e
        if not links.closed and (links.opened or not framed):
            raise Unavailable(f"{label}: the index ends before its closing tag; try again")
        if not links.index:
            raise BadReply(
                f"{label}: the page is no directory index; switch the server's directory index on, or correct the address"
            )
        return xxhash.xxh3_64_intdigest(page), links

    def _stat(self, key: bytes, deadline: float) -> Entry:
        label = self._label(key)
        response = self._get("HEAD", self._url(key), "", label, deadline)
        if response.status in {200, 206}:
            self._no_directory(response, key, label)
            coding = coding_of(response)
            if "content-length" in response.headers and (not coding or stored_coding(key, coding)):
                size = content_length(response.headers, label)
                if size:  # a zero may only mean that this answer has no body
                    return self._entry(key, response, size)
        elif response.status not in {403, 405, 501}:
            self._ok(response, label)
        return self._stat_by_range(key, label, deadline)

    def _stat_by_range(self, key: bytes, label: object, deadline: float) -> Entry:
        """HEAD was refused, or silent about the size, or said zero."""
        response = self._get("GET", self._url(key), "Range: bytes=0-0\r\n", label, deadline)
        try:
            total = total_of(response)
            if response.status == 416 and not total:  # there is no first byte
                return self._entry(key, response, 0)
            self._ok(response, label)
            self._no_directory(response, key, label)
            self._plain(key, response)
            if response.status == 200:
                total = response.length if response.length is not None else len(response.read(MAX_HELD_BYTES))
            if total is None:
                raise BadReply(f"{label}: the server does not tell the size; serve it as a plain file")
            return self._entry(key, response, total)
        finally:
            response.discard()

    def _is_dir(self, key: bytes, label: object, deadline: float) -> bool:
        response = self._get("HEAD", self._url(key, directory=True), "", label, deadline)
        if response.status in {405, 501}:
            response = self._get("GET", self._url(key, directory=True), "", label, deadline)
            response.close()
        if response.status in {404, 410}:
            return False
        self._ok(response, label)
        kind = response.headers.get("content-type", HTML[0]).partition(";")[0].strip().lower()
        return kind in HTML and response.url is not None and response.url.path.endswith("/")

    def _read(self, key: bytes, version: bytes, offset: int, length: int, *, deadline: float) -> Body:
        label = self._label(key)
        lines = f"Range: bytes={offset}-{offset + length - 1}\r\n{conditions(version)}"
        response = self._get("GET", self._url(key), lines, label, deadline)
        self._ok(response, label)
        self._no_directory(response, key, label)
        proven = proves(version, response.headers, total_of(response) if response.status == 206 else response.length)
        if not proven:
            response.close()
            if proven is None:
                raise BadReply(f"{label}: the answer proves no version; check what stands between this host and the server")
            raise Changed(f"{label}: the object has changed since it was listed; list it again")
        park = self._streams.parker(key, version, offset + length) if response.status == 200 else None
        return open_range(response, offset, length, coding=stored_coding(key, coding_of(response)), park=park)

    def _whole(self, key: bytes, deadline: float) -> tuple[Entry, Body]:
        label = self._label(key)
        response = self._get("GET", self._url(key), "", label, deadline)
        self._ok(response, label)
        self._no_directory(response, key, label)
        if response.status != 200:
            response.close()
            raise BadReply(f"{label}: status {response.status} for a whole object")
        self._plain(key, response)
        if response.length is not None:
            return self._entry(key, response, response.length), response
        if not response.framed:
            response.close()
            raise BadReply(
                f"{label}: neither a size nor an end is stated, so a cut body would not show; serve it as a plain file"
            )
        data = response.read(MAX_HELD_BYTES)
        return self._entry(key, response, len(data)), Held(data)

    # -- helpers --

    def _get(self, method: str, url: Url, lines: str, label: object, deadline: float) -> Response:
        return self._transport.request(method, url, lines, self._secret, label=label, deadline=deadline)

    def _ok(self, response: Response, label: object) -> None:
        if response.status in {200, 206}:
            return
        response.discard()
        raise error_for(response.status, label, signed=bool(self._secret), retry_after=response.headers.get("retry-after", ""))

    def _plain(self, key: bytes, response: Response) -> None:
        coding = coding_of(response)
        if coding and not stored_coding(key, coding):
            response.close()
            raise BadReply(f"{response.label}: {refused_coding(response)}")

    def _no_directory(self, response: Response, key: bytes, label: object) -> None:
        """A key without a final slash that leads to a URL with one is a directory, and no object."""
        if response.url is not None and response.url.path.endswith("/"):
            response.close()
            raise NotFound(f"{label}: a directory, no object ({show(key)}/)")

    def _entry(self, key: bytes, response: Response, size: int) -> Entry:
        version = version_of(response.headers, size)
        self._tags[is_strong(version)] = True
        return Entry(key.rpartition(b"/")[2], False, size, http_date_ns(response.headers.get("last-modified", "")), version)

    def _url(self, key: bytes, *, directory: bool = False) -> Url:
        if self._file is not None:
            path = self._path
        else:
            path = self._path if self._path.endswith("/") else self._path + "/"
            path += encode_path(key)
            if directory and not path.endswith("/"):
                path += "/"
        return Url(self._origin, f"{path}?{self._query}" if self._query else path)

    def _single(self) -> bytes | None:
        """The one file's name when the source is a file. A source that ends in "/" is a tree; any other is asked, once."""
        if not self._known:
            asked = time.monotonic()
            with self._settling:
                if not self._known:
                    if self._unsettled is not None and self._unsettled[0] >= asked:
                        raise self._unsettled[1]  # told while this thread waited: not each of them asks for 10 s in turn
                    try:
                        self._file = self._retrier.run(self._settle)
                    except StoreError as e:
                        self._unsettled = (time.monotonic(), e)
                        raise
                    self._known = True
        return self._file

    def _settle(self, deadline: float) -> bytes | None:
        label = self._label(b"")
        name = unquote_to_bytes(self._path.rpartition("/")[2])
        url = Url(self._origin, f"{self._path}?{self._query}" if self._query else self._path)
        response = self._get("HEAD", url, "", label, deadline)
        if response.status in {403, 405, 501}:
            response = self._get("GET", url, "Range: bytes=0-0\r\n", label, deadline)
            response.discard()
        if response.status in {404, 410}:
            return None  # only its form with a slash can answer; listing it will say
        if response.status != 416:
            self._ok(response, label)
        if response.url is not None and response.url.path.endswith("/"):
            return None
        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind in HTML:
            try:
                self._index(b"", label, deadline)
            except (NotFound, BadReply):
                pass  # a web page by itself
            else:
                return None
        if not usable(name):
            raise BadReply(f"{label}: the last part of the address cannot be a file's name; correct the address")
        return name

    def _check(self, key: bytes) -> None:
        if not usable_key(key) or key.endswith(b"/") or self._single() not in {None, key}:
            raise NotFound(f"{self._label(key)}: no object in the tree can have this name")

    def _label(self, key: bytes) -> Label:
        return Label(self._base, b"" if self._file is not None else key)


def open_mount(mount: Mount, timeouts: Timeouts | None = None) -> HttpStore:
    try:
        url, user, password = parse_url(mount.source)
    except ValueError as e:
        raise ValueError(f"mount {mount.called!r}: {e}") from e
    user = mount.secrets.get("username") or mount.options.get("username") or user
    password = mount.secrets.get("password") or password
    token = mount.secrets.get("token", "")
    secret = ""
    if token:
        secret = f"Authorization: Bearer {plain(mount, 'token', token)}\r\n"
    elif user or password:
        pair = f"{user}:{password}".encode()
        secret = f"Authorization: Basic {base64.b64encode(pair).decode()}\r\n"
    return HttpStore(url, transport_for(mount, timeouts or Timeouts()), secret)
