"""Answers to a ranged GET, as they come: 206 as asked, 200 with everything, or something that makes no sense."""

from __future__ import annotations

import re
from collections.abc import Callable

from forebay.cache.stores.base import BadReply, Body, Changed
from forebay.cache.stores.net.response import Response

_CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19}|\*)\Z", re.ASCII)
_UNSATISFIED = re.compile(r"bytes \*/(\d{1,19})\Z", re.ASCII)
SCRATCH = 256 << 10
Park = Callable[[Response], None]


class Empty:
    """The body of nothing."""

    def readinto(self, buffer: memoryview) -> int:
        return 0

    def close(self) -> None:
        return


class Held:
    """A body already in memory: `data` is what was not read yet. `sums`: xxh3-64 of its blocks, where they were compared."""

    __slots__ = ("data", "sums")

    def __init__(self, data: bytes | memoryview, sums: bytes = b"") -> None:
        self.data = memoryview(data)
        self.sums = sums

    def readinto(self, buffer: memoryview) -> int:
        got = min(len(buffer), len(self.data))
        buffer[:got] = self.data[:got]
        self.data = self.data[got:]
        return got

    def close(self) -> None:
        self.data = memoryview(b"")


class Window:
    """`length` bytes of an answer after its first `skip`. The answer must not end earlier; what follows is given up, or
    handed to `park`."""

    def __init__(self, response: Response, skip: int, length: int, park: Park | None = None) -> None:
        self._response = response
        self._park = park
        self._skip = skip
        self._left = length

    def readinto(self, buffer: memoryview) -> int:
        if not buffer or self._left == 0:
            return 0
        if self._skip:
            self._pass_over()
        got = self._response.readinto(buffer[: self._left])
        if got == 0:
            raise BadReply(f"{self._response.label}: the answer ended {self._left} bytes before the range asked for")
        self._left -= got
        if self._left == 0:
            if self._park is not None and not self._response.ended:
                self._park(self._response)
            else:
                self._response.discard()
        return got

    def _pass_over(self) -> None:
        with memoryview(bytearray(min(SCRATCH, self._skip))) as scratch:
            while self._skip:
                got = self._response.readinto(scratch[: self._skip])
                if got == 0:
                    raise BadReply(f"{self._response.label}: the answer ended before the range asked for began")
                self._skip -= got

    def close(self) -> None:
        if self._left:
            self._response.close()


def total_of(response: Response) -> int | None:
    """The whole object's size as a 206 or 416 tells it, None when it does not."""
    text = response.headers.get("content-range", "")
    match = _CONTENT_RANGE.match(text)
    if match is not None:
        return None if match[3] == "*" else int(match[3])
    match = _UNSATISFIED.match(text)
    return int(match[1]) if match else None


def refused_coding(response: Response) -> str:
    return f"sent with content coding {coding_of(response)[:40]!r}, which was not asked for; switch compression off on the server"


def coding_of(response: Response) -> str:
    """The content coding of an answer, "" when it is the plain bytes."""
    coding = response.headers.get("content-encoding", "").strip().lower()
    return "" if coding == "identity" else coding


def open_range(response: Response, offset: int, length: int, *, coding: str = "", park: Park | None = None) -> Body:
    """The body of a 200 or 206 that answers [offset, offset + length), length > 0; its version is proven by the caller.

    Raises `BadReply` when the answer is no answer to this range, `Changed` when the object ends before the range does.
    The response is closed then. `coding` is one that the stored bytes are known to have; `park` takes a plain answer over
    when the range was delivered and more would follow.
    """
    label = response.label
    try:
        if response.headers.get("content-encoding", "identity").lower() not in {"identity", ""} and response.status == 200:
            coding = response.headers["content-encoding"][:40]
            raise BadReply(
                f"{label}: sent with content coding {coding!r}, which was not asked for; switch compression off on the server"
            )
        if response.status == 200:
            if response.length is not None and response.length < offset + length:
                raise Changed(f"{label}: only {response.length} bytes long, {offset + length} were listed; list it again")
            return response if offset == 0 and response.length == length else Window(response, offset, length, park)
        match = _CONTENT_RANGE.match(response.headers.get("content-range", ""))
        if match is None:
            raise BadReply(
                f"{label}: status 206 without one plain Content-Range; check what stands between this host and the store"
            )
        first, last = int(match[1]), int(match[2])
        if first != offset or last >= offset + length:
            raise BadReply(f"{label}: range {first}-{last} came where {offset}-{offset + length - 1} was asked for")
        if last < offset + length - 1:
            if match[3] == str(last + 1):
                raise Changed(f"{label}: ends at byte {last + 1}, {offset + length} were listed; list it again")
            raise BadReply(f"{label}: range {first}-{last} came where {offset}-{offset + length - 1} was asked for")
        if response.length is None:
            return Window(response, 0, length)
        if response.length != length:
            raise BadReply(f"{label}: a body of {response.length} bytes for a range of {length}")
        return response
    except BaseException:
        response.close()
        raise
