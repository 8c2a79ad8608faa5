"""Opening stores in tests, and reading them to the end."""

from __future__ import annotations

from forebay.api.spec import Mount
from forebay.cache.stores import open_store
from forebay.cache.stores.base import Body, Entry, Store
from forebay.cache.stores.net.transport import Timeouts

PATIENT = Timeouts(connect=30.0, stall=30.0, answer=60.0, idle=60.0)
"""Where the server answers: on a machine that does other things a thread may be late by a second."""
QUICK = Timeouts(connect=1.0, stall=0.4, answer=1.5, idle=20.0)
"""Where it does not."""


def s3(endpoint: str, source: str = "s3://bucket", timeouts: Timeouts = PATIENT, **options: str) -> Store:
    keys = {} if options.get("anonymous") == "true" else {"access_key": "KEY", "secret_key": "SECRET"}
    return open_store(Mount(source, "s3", "/", "m", {"endpoint": endpoint, **options}, keys), timeouts)


def web(source: str, timeouts: Timeouts = PATIENT, secrets: dict[str, str] | None = None, **options: str) -> Store:
    return open_store(Mount(source, "http", "/", "m", options, secrets or {}), timeouts)


def folder(path: object) -> Store:
    return open_store(Mount(f"local://{path}", "file", "/", "m"))


def drain(body: Body, piece: int = 1 << 20) -> bytes:
    """Everything a body yields, in pieces of at most `piece` bytes; closes it."""
    got, buffer = bytearray(), memoryview(bytearray(piece))
    try:
        while count := body.readinto(buffer):
            got += buffer[:count]
    finally:
        body.close()
    return bytes(got)


def entries(store: Store, prefix: bytes = b"", limit: int = 1000) -> tuple[list[Entry], int]:
    """Every entry of a directory, page by page, and how many keys were skipped."""
    found: list[Entry] = []
    skipped, token = 0, None
    while True:
        page = store.list(prefix, token, limit)
        found += page.entries
        skipped += page.skipped
        token = page.token
        if token is None:
            return found, skipped
