"""An S3 bucket in memory: enough of ListObjectsV2, HEAD and ranged GET to test a client, exact where AWS documents it.

`listing` is pure (a page as XML from keys), so properties can be checked without a socket; `FakeS3` puts it behind a
`FaultServer`, where a test can answer some requests by itself (`before`, which returns True when it did).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from email.utils import formatdate
from urllib.parse import parse_qsl, quote, quote_plus, unquote_to_bytes
from xml.sax.saxutils import escape

from faultserver import FaultServer, Request, Wire

MTIME = 1_445_412_480  # Wed, 21 Oct 2015 07:28:00 GMT


def listing(
    keys: dict[bytes, int],
    prefix: bytes = b"",
    delimiter: bytes = b"/",
    after: bytes = b"",
    max_keys: int = 1000,
    etag: Callable[[bytes], str] = lambda key: f'"{hashlib.md5(key).hexdigest()}"',
) -> tuple[bytes, bytes | None]:
    """One page of the bucket with `keys` (key -> size) after the key or common prefix `after`: XML, and where to go on."""
    items: list[bytes] = []
    for key in sorted(keys):
        if not key.startswith(prefix):
            continue
        cut = key.find(delimiter, len(prefix)) if delimiter else -1
        item = key if cut < 0 else key[: cut + 1]
        if item > after and (not items or items[-1] != item):
            items.append(item)
    page, more = items[:max_keys], len(items) > max_keys
    parts = ['<?xml version="1.0" encoding="UTF-8"?>\n<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">']
    parts.append(f"<Name>bucket</Name><Prefix>{quote_plus(prefix, safe='/')}</Prefix><EncodingType>url</EncodingType>")
    parts.append(f"<KeyCount>{len(page)}</KeyCount><IsTruncated>{str(more).lower()}</IsTruncated>")
    if more:
        parts.append(f"<NextContinuationToken>{page[-1].hex()}</NextContinuationToken>")
    for item in page:
        name = quote_plus(item, safe="/")
        if delimiter and item.endswith(delimiter) and item not in (keys if item == prefix else ()):
            parts.append(f"<CommonPrefixes><Prefix>{name}</Prefix></CommonPrefixes>")
        else:
            parts.append(
                f"<Contents><Key>{name}</Key><LastModified>2015-10-21T07:28:00.000Z</LastModified>"
                f"<ETag>{escape(etag(item)).replace(chr(34), '&quot;')}</ETag><Size>{keys[item]}</Size>"
                "<StorageClass>STANDARD</StorageClass></Contents>"
            )
    parts.append("</ListBucketResult>")
    return "".join(parts).encode(), page[-1] if more else None


def fault(code: str, message: str = "said the store", **more: str) -> bytes:
    extra = "".join(f"<{k}>{v}</{k}>" for k, v in more.items())
    return f'<?xml version="1.0"?>\n<Error><Code>{code}</Code><Message>{message}</Message>{extra}</Error>'.encode()


class FakeS3(FaultServer):
    def __init__(self, objects: dict[bytes, bytes], bucket: str = "bucket") -> None:
        super().__init__(self._answer)
        self.objects = objects
        self.bucket = bucket
        self.before: Callable[[Request, Wire], bool] = lambda request, wire: False
        self.etags: dict[bytes, str] = {}

    def etag(self, key: bytes) -> str:
        return self.etags.get(key) or f'"{hashlib.md5(self.objects.get(key, b"")).hexdigest()}"'

    def _answer(self, request: Request, wire: Wire) -> None:
        if self.before(request, wire):
            return
        path = unquote_to_bytes(request.path)
        base = f"/{self.bucket}".encode()
        if path != base and not path.startswith(base + b"/"):
            wire.reply(404, {}, fault("NoSuchBucket"), head_only=request.method == "HEAD")
            return
        key = path[len(base) + 1 :]
        if key:
            self._object(request, wire, key)
            return
        query = dict(parse_qsl(request.query, keep_blank_values=True, encoding="latin-1"))
        body, _ = listing(
            {key: len(data) for key, data in self.objects.items()},
            query["prefix"].encode("latin-1"),
            query.get("delimiter", "").encode(),
            bytes.fromhex(query.get("continuation-token", "")),
            int(query["max-keys"]),
            self.etag,
        )
        wire.reply(200, {"Content-Type": "application/xml"}, body)

    def _object(self, request: Request, wire: Wire, key: bytes) -> None:
        head_only = request.method == "HEAD"
        data = self.objects.get(key)
        if data is None:
            wire.reply(404, {}, fault("NoSuchKey"), head_only=head_only)
            return
        headers = {"ETag": self.etag(key), "Last-Modified": formatdate(MTIME, usegmt=True)}
        if request.headers.get("if-match", headers["ETag"]) != headers["ETag"]:
            wire.reply(412, {}, fault("PreconditionFailed"))
            return
        span = request.range_of(len(data))
        if span is not None:
            headers["Content-Range"] = f"bytes {span[0]}-{span[1]}/{len(data)}"
            wire.reply(206, headers, data[span[0] : span[1] + 1])
        elif "range" in request.headers:
            wire.reply(416, {"Content-Range": f"bytes */{len(data)}"}, fault("InvalidRange"))
        else:
            wire.reply(200, headers | {"Content-Length": str(len(data))}, data, head_only=head_only)


def url_key(key: bytes) -> str:
    return quote(key, safe="/-._~")
