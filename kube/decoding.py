"""What lists and watches say, from bytes: typed objects with their keys, or why one of them cannot be read."""

from __future__ import annotations

from typing import Generic, Literal, NamedTuple, TypeVar

import msgspec

from forebay.kube.errors import Status, Unusable
from forebay.kube.objects import Bare, Key, ListMeta, Named, key_of
from forebay.kube.reflector import Bookmark, Ended, Failure, Line, Page
from forebay.kube.store import Broken

N = TypeVar("N", bound=Named)

Item = tuple[Key, str, N | Broken]


class _Page(msgspec.Struct):
    metadata: ListMeta
    items: list[msgspec.Raw] | None = None


class _Line(msgspec.Struct):
    type: str
    object: msgspec.Raw


class _Mark(msgspec.Struct):
    metadata: ListMeta


_PAGE = msgspec.json.Decoder(_Page)
_LINE = msgspec.json.Decoder(_Line)
_MARK = msgspec.json.Decoder(_Mark)
_BARE = msgspec.json.Decoder(Bare)
_STATUS = msgspec.json.Decoder(Status)

_CHANGES: dict[str, Literal["ADDED", "MODIFIED", "DELETED"]] = {"ADDED": "ADDED", "MODIFIED": "MODIFIED", "DELETED": "DELETED"}


class Listed(NamedTuple, Generic[N]):
    items: list[Item[N]]
    version: str
    more: str

    def event(self, now: float) -> Page[N | Broken]:
        return Page(self.items, self.version, self.more, now)


class Decoder(Generic[N]):
    """Reads the objects of one kind into `type_`. One that does not fit is Broken; one without metadata makes all Unusable."""

    def __init__(self, type_: type[N]) -> None:
        self._decoder = msgspec.json.Decoder(type_)

    def item(self, raw: bytes | msgspec.Raw) -> Item[N]:
        try:
            thing = self._decoder.decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            return self._broken(raw, str(error))
        return key_of(thing), thing.metadata.resource_version, thing

    def _broken(self, raw: bytes | msgspec.Raw, why: str) -> Item[N]:
        try:
            bare = _BARE.decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Unusable(f"an object without readable metadata: {error}") from None
        return key_of(bare), bare.metadata.resource_version, Broken(bare.metadata.resource_version, why)

    def page(self, body: bytes) -> Listed[N]:
        """A list's answer. Raises Unusable."""
        try:
            page = _PAGE.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Unusable(f"the answer is no list: {error}") from None
        return Listed([self.item(raw) for raw in page.items or ()], page.metadata.resource_version, page.metadata.continue_)

    def line(self, line: bytes, now: float) -> Line[N | Broken] | Bookmark | Ended:
        """A line of a watch; an ERROR line ends it. Raises Unusable."""
        try:
            said = _LINE.decode(line)
            if said.type == "BOOKMARK":
                return Bookmark(_MARK.decode(said.object).metadata.resource_version, now)
            if said.type == "ERROR":
                status = _STATUS.decode(said.object)
                after = (
                    float(status.details.retry_after_seconds) if status.details and status.details.retry_after_seconds else None
                )
                return Ended(Failure(status.code or 500, f"the watch says: {status.message or status.reason}", after), now)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Unusable(f"a line of the watch is not what a watch says: {error}") from None
        if said.type not in _CHANGES:
            raise Unusable(f"a line of the watch is of the unknown type {said.type[:40]!r}")
        key, version, thing = self.item(said.object)
        return Line(_CHANGES[said.type], key, version, thing, now)
