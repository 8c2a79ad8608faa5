"""Any endpoint that speaks S3: listing by ListObjectsV2, conditional ranged GETs, signed by ourselves or anonymous.

Versions are entity tags. A strong one goes into `If-Match` and is compared with the answer's as well, because some servers
ignore the condition; a weak one is only compared. A gateway without tags is read by time and size.
"""

from __future__ import annotations

import time
from urllib.parse import quote

from forebay.api.spec import Mount
from forebay.cache.stores.base import BadReply, Body, Changed, Denied, Entry, NotFound, Page
from forebay.cache.stores.config import transport_for
from forebay.cache.stores.names import Label, http_date_ns, usable_key
from forebay.cache.stores.net.ranges import Empty, coding_of, open_range, total_of
from forebay.cache.stores.net.response import Response, content_length
from forebay.cache.stores.net.retry import Retrier
from forebay.cache.stores.net.transport import Timeouts, Transport
from forebay.cache.stores.net.urls import Url, parse_url
from forebay.cache.stores.s3.config import Settings, region_endpoint, settings_of
from forebay.cache.stores.s3.errors import error_for
from forebay.cache.stores.s3.pages import decode_token, merge
from forebay.cache.stores.s3.sigv4 import Signer, encode_query
from forebay.cache.stores.s3.xml import Fault, Unparsable, parse_fault, parse_listing
from forebay.cache.stores.versions import conditions, is_strong, proves, version_of

MAX_PAGE_BYTES = 16 << 20
"""1000 keys of 1 KiB, each byte as %XX, with their fields, are 4 MiB."""
MAX_FAULT_BYTES = 64 << 10
PROOF = 60.0
"""Seconds for which one answer of the bucket proves that it is there: a HEAD's 404 does not say which of the two is missing."""


class S3Store:
    """One bucket, or the keys of a bucket below a prefix. Thread-safe."""

    def __init__(self, settings: Settings, transport: Transport) -> None:
        self.strong = True  # until the store shows a weak tag or none
        self._settings = settings
        self._transport = transport
        self._signer = Signer(settings.credentials) if settings.credentials else None
        self._retrier = Retrier(transport.timeouts.answer)
        self._region = settings.region
        self._name = f"s3://{settings.bucket}"
        self._proven = float("-inf")
        self._ordered = not settings.bucket.endswith("--x-s3")  # directory buckets list in no order
        self._place(settings.endpoint)

    def _place(self, endpoint: str) -> None:
        url, _, _ = parse_url(endpoint)
        base = url.path.rstrip("/")
        if self._settings.path_style:
            self._origin, self._base = url.origin, f"{base}/{quote(self._settings.bucket, safe='')}"
        else:
            self._origin, self._base = url.origin._replace(host=f"{self._settings.bucket}.{url.origin.host}"), base

    # -- the interface --

    def list(self, prefix: bytes, token: bytes | None = None, limit: int = 1000) -> Page:
        resume = decode_token(token)
        full = self._settings.prefix + prefix
        label = self._label(prefix)
        pairs: list[tuple[str, str | bytes]] = [
            ("list-type", "2"),
            ("encoding-type", "url"),
            ("delimiter", "/"),
            ("max-keys", str(max(1, min(limit, 1000)))),
            ("prefix", full),
        ]
        if resume is not None:
            pairs.append(("continuation-token", resume.token))
        query = encode_query(pairs)
        for last_try in (False, True):
            body = self._retrier.run(lambda deadline: self._document(query, label, deadline))
            try:
                page = merge(full, parse_listing(body, full), resume, ordered=self._ordered)
                if self.strong and not all(is_strong(entry.version) for entry in page.entries if not entry.is_dir):
                    self.strong = False
                return page
            except Unparsable as e:
                if last_try:
                    raise BadReply(f"{label}: the listing makes no sense, twice: {e}; check that the endpoint speaks S3") from e
        raise AssertionError("unreachable")

    def stat(self, key: bytes) -> Entry:
        self._check(key)
        return self._retrier.run(lambda deadline: self._stat(key, deadline))

    def is_dir(self, key: bytes) -> bool:
        self._check(key)
        full = self._settings.prefix + key + b"/"
        query = encode_query([("list-type", "2"), ("encoding-type", "url"), ("max-keys", "1"), ("prefix", full)])
        label = self._label(key + b"/")
        for last_try in (False, True):
            body = self._retrier.run(lambda deadline: self._document(query, label, deadline))
            try:
                return parse_listing(body, full).keys > 0
            except Unparsable as e:
                if last_try:
                    raise BadReply(f"{label}: the listing makes no sense, twice: {e}; check that the endpoint speaks S3") from e
        raise AssertionError("unreachable")

    def read(self, key: bytes, version: bytes, offset: int, length: int) -> Body:
        self._check(key)
        if length <= 0:
            if self.stat(key).version != version:
                raise Changed(f"{self._label(key)}: the object has changed since it was listed; list it again")
            return Empty()
        lines = f"Range: bytes={offset}-{offset + length - 1}\r\n{conditions(version)}"
        return self._retrier.run(lambda deadline: self._read(key, version, lines, deadline, offset=offset, length=length))

    def whole(self, key: bytes) -> tuple[Entry, Body]:
        self._check(key)
        return self._retrier.run(lambda deadline: self._whole(key, deadline))

    def probe(self) -> None:
        query = encode_query([("list-type", "2"), ("encoding-type", "url"), ("max-keys", "1"), ("prefix", self._settings.prefix)])
        label = f"{self._label(b'')} at {self._origin.text}"
        body = self._retrier.run(lambda deadline: self._document(query, label, deadline))
        try:
            parse_listing(body, self._settings.prefix)
        except Unparsable as e:
            raise BadReply(f"{label}: the listing makes no sense: {e}; check that the endpoint speaks S3") from e

    def close(self) -> None:
        self._transport.close()

    # -- one exchange each --

    def _document(self, query: str, label: object, deadline: float) -> bytes:
        response = self._ask("GET", b"", query, label=label, deadline=deadline)
        if response.status != 200:
            response.close()
            raise BadReply(f"{label}: status {response.status} for a listing; check that the endpoint speaks S3")
        return response.read(MAX_PAGE_BYTES)

    def _stat(self, key: bytes, deadline: float) -> Entry:
        label = self._label(key)
        try:
            response = self._ask("HEAD", self._settings.prefix + key, "", label=label, deadline=deadline)
        except NotFound:
            self._prove_bucket(deadline)
            raise
        if "content-length" not in response.headers:
            raise BadReply(f"{label}: no size in the answer to HEAD; check what stands between this host and the store")
        return self._entry(key, response, content_length(response.headers, label))

    def _read(self, key: bytes, version: bytes, lines: str, deadline: float, *, offset: int, length: int) -> Body:
        label = self._label(key)
        response = self._ask("GET", self._settings.prefix + key, "", lines, label=label, deadline=deadline, unsatisfiable=Changed)
        proven = proves(version, response.headers, total_of(response) if response.status == 206 else response.length)
        if not proven:
            response.close()
            if proven is None:
                raise BadReply(f"{label}: the answer proves no version; check what stands between this host and the store")
            raise Changed(f"{label}: the object has changed since it was listed; list it again")
        return open_range(response, offset, length)

    def _whole(self, key: bytes, deadline: float) -> tuple[Entry, Body]:
        label = self._label(key)
        response = self._ask("GET", self._settings.prefix + key, "", label=label, deadline=deadline)
        if response.status != 200:
            response.close()
            raise BadReply(f"{label}: status {response.status} for a whole object")
        if coding_of(response) or response.length is None:
            # Stored with this coding, or coded on the way: only a range, which counts stored bytes, can tell.
            response.close()
            entry = self._stat(key, deadline)
            return entry, self.read(key, entry.version, 0, entry.size)
        return self._entry(key, response, response.length), response

    def _entry(self, key: bytes, response: Response, size: int) -> Entry:
        version = version_of(response.headers, size)
        if not is_strong(version):
            self.strong = False
        return Entry(key.rpartition(b"/")[2], False, size, http_date_ns(response.headers.get("last-modified", "")), version)

    def _prove_bucket(self, deadline: float) -> None:
        """After a HEAD's 404: raise `Denied` when it is the bucket or the user that is unknown."""
        if time.monotonic() - self._proven > PROOF:
            query = encode_query([("list-type", "2"), ("max-keys", "1"), ("prefix", self._settings.prefix)])
            try:
                self._document(query, self._label(b""), deadline)
            except Denied as e:
                if "(AccessDenied" not in str(e):
                    raise
                self._proven = time.monotonic()  # it may not be listed, but it is there

    def _ask(
        self,
        method: str,
        key: bytes,
        query: str,
        lines: str = "",
        *,
        label: object,
        deadline: float,
        unsatisfiable: type[Changed] | None = None,
    ) -> Response:
        """One signed exchange; 200 and 206 are returned, all else raised. The bucket's region is learned once."""
        for may_move in (True, False):
            path = f"{self._base}/{quote(key, safe='/-_.~')}" if key else self._base or "/"
            target = f"{path}?{query}" if query else path
            secret = ""
            if self._signer is not None:
                secret = self._signer.headers(method, self._origin.authority, path, query, region=self._region)
            response = self._transport.request(
                method,
                Url(self._origin, target),
                lines,
                secret,
                label=label,
                deadline=deadline,
                follow=0 if self._settings.aws else 5,
            )
            if response.status in {200, 206}:
                self._proven = time.monotonic()
                return response
            document = response.read(MAX_FAULT_BYTES) if method != "HEAD" else b""
            fault = parse_fault(document) if document else Fault("", "", "", "")
            region = response.headers.get("x-amz-bucket-region", "") or fault.region
            if may_move and region and region != self._region and response.status in {301, 307, 400, 403}:
                self._move(region)
                continue
            if unsatisfiable is not None and response.status == 416:
                raise unsatisfiable(f"{label}: shorter than it was when it was listed; list it again")
            after = response.headers.get("retry-after", "")
            raise error_for(response.status, fault, label, signed=self._signer is not None, retry_after=after)
        raise AssertionError("unreachable")

    def _move(self, region: str) -> None:
        self._region = region
        if self._settings.aws:
            self._place(region_endpoint(region))

    def _check(self, key: bytes) -> None:
        if not usable_key(key) or key.endswith(b"/"):
            raise NotFound(f"{self._label(key)}: no object in the tree can have this name")

    def _label(self, key: bytes) -> Label:
        return Label(self._name, self._settings.prefix + key)


def open_mount(mount: Mount, timeouts: Timeouts | None = None) -> S3Store:
    return S3Store(settings_of(mount), transport_for(mount, timeouts or Timeouts()))
