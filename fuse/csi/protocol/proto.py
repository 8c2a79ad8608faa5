"""Protocol buffers, as much of them as CSI uses: proto3 messages of strings, integers, booleans, messages, lists and maps.

A message is a struct whose fields carry their numbers: `name: Annotated[str, 1] = ""`. A field of another message's type
is `None` when it is absent, which is how "not set" differs from "empty". Unknown fields are skipped, so a newer caller is
understood. Written by hand because the whole of it is smaller than what a generator would have to be given.
"""

from __future__ import annotations

from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
"""Wire types; groups (3, 4) are not part of proto3."""
_INT64 = 1 << 64
Message = msgspec.Struct
_T = TypeVar("_T", bound=Message)
Shape = Literal["one", "list", "map"]


class Empty(msgspec.Struct, frozen=True):
    """A message without fields, known or not."""


class _Field(NamedTuple):
    name: str
    number: int
    shape: Shape
    kind: Any  # str, int, bool or a Message; of a map only str -> str exists here


@cache
def _fields(type_: type[Message]) -> dict[int, _Field]:
    found: dict[int, _Field] = {}
    for name, hint in get_type_hints(type_, include_extras=True).items():
        if get_origin(hint) is not Annotated:
            raise TypeError(f"{type_.__name__}.{name} has no field number")
        inner, number = get_args(hint)
        found[number] = _Field(name, number, *_shape(inner))
    return found


def _shape(inner: Any) -> tuple[Shape, Any]:
    origin = get_origin(inner)
    if origin is list:
        return "list", get_args(inner)[0]
    if origin is dict:
        return "map", str
    if origin in (Union, UnionType):
        (kind,) = (a for a in get_args(inner) if a is not NoneType)
        return "one", kind
    return "one", inner


# --- writing


def encode(message: Message) -> bytes:
    """Bytes of a message. What equals the default of proto3 is left out."""
    out = bytearray()
    for field in _fields(type(message)).values():
        value = getattr(message, field.name)
        if field.shape == "map":
            for key, text in value.items():
                _put(out, field.number, _pair(key, text))
        elif field.shape == "list":
            for item in value:
                _put(out, field.number, encode(item) if isinstance(item, Message) else item)
        elif isinstance(value, Message):
            _put(out, field.number, encode(value))
        elif value:
            _put(out, field.number, value)
    return bytes(out)


def _pair(key: str, value: str) -> bytes:
    out = bytearray()
    _put(out, 1, key)
    _put(out, 2, value)
    return bytes(out)


def _put(out: bytearray, number: int, value: bytes | str | int) -> None:
    """One field with its tag; a boolean is an integer here."""
    if isinstance(value, int):
        _varint(out, number << 3 | VARINT)
        _varint(out, int(value) % _INT64)  # int64: two's complement
        return
    raw = value.encode() if isinstance(value, str) else value
    _varint(out, number << 3 | BYTES)
    _varint(out, len(raw))
    out += raw


def _varint(out: bytearray, value: int) -> None:
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)


# --- reading


def decode(type_: type[_T], raw: bytes) -> _T:
    """The message. Raises `ValueError` with a sentence for what is none."""
    known = _fields(type_)
    values: dict[str, Any] = {}
    at = 0
    while at < len(raw):
        tag, at = _read_varint(raw, at)
        number, wire = tag >> 3, tag & 7
        value, at = _read_value(raw, at, wire)
        field = known.get(number)
        if field is None:
            continue
        scalar = field.kind in (int, bool)
        if (wire == VARINT) != scalar or wire not in (VARINT, BYTES):
            raise ValueError(f"{type_.__name__}.{field.name} (field {number}) comes with wire type {wire}")
        _take(values, type_, field, value)
    return type_(**values)


def _take(values: dict[str, Any], type_: type[Message], field: _Field, value: int | bytes) -> None:
    if field.shape == "map":
        assert isinstance(value, bytes)
        pair = decode(_Pair, value)
        values.setdefault(field.name, {})[pair.key] = pair.value
        return
    found = _convert(type_, field, value)
    if field.shape == "list":
        values.setdefault(field.name, []).append(found)
    else:
        values[field.name] = found


class _Pair(msgspec.Struct, frozen=True):
    key: Annotated[str, 1] = ""
    value: Annotated[str, 2] = ""


def _convert(type_: type[Message], field: _Field, value: int | bytes) -> Any:
    if isinstance(value, int):
        if field.kind is bool:
            return value != 0
        return value - _INT64 if value >= _INT64 >> 1 else value
    if field.kind is str:
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise ValueError(f"{type_.__name__}.{field.name} is no UTF-8 text") from None
    return decode(field.kind, value)


def _read_varint(raw: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(raw) or shift > 63:
            raise ValueError("a message is cut off, or has a number of more than 64 bits")
        byte = raw[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value % _INT64, at
        shift += 7


def _read_value(raw: bytes, at: int, wire: int) -> tuple[int | bytes, int]:
    if wire == VARINT:
        return _read_varint(raw, at)
    if wire == BYTES:
        size, at = _read_varint(raw, at)
    elif wire in (FIXED64, FIXED32):
        size = 8 if wire == FIXED64 else 4
    else:
        raise ValueError(f"a message has wire type {wire}, which proto3 does not know")
    if at + size > len(raw):
        raise ValueError("a message is cut off")
    return raw[at : at + size], at + size
