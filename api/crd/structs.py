"""From a msgspec struct to the schema tables: what we encode and what the API server is told are one declaration.

Understood: str, int, bool, literals of strings, lists, maps of strings, structs, `| UnsetType`; bounds, patterns and
descriptions of `msgspec.Meta`; and in its `extra` these of our own:

- `keys`: the fields that tell the items of a list apart (`x-kubernetes-list-map-keys`)
- `format`: the format of a string ("date-time")
- `shape`: the schema to use in place of the annotated type, for parts that we pass on without decoding them
- `default`: True where the API server is to fill in the struct's default

Floats are refused: they do not survive every client; write bytes, per mille or seconds as whole numbers.
"""

from __future__ import annotations

from typing import Any as AnyValue

import msgspec
from msgspec import inspect

from forebay.api.schema import BOOL, INT64, Field, Int, List, MapOf, Obj, Str, Type


class Written(msgspec.Struct, rename="camel", omit_defaults=True, frozen=True, kw_only=True):
    """Base of what is written to the API server: a field without a default is required there and always encoded."""


def told(text: str, **more: AnyValue) -> AnyValue:
    """Meta of a field: its text, and bounds of `msgspec.Meta`."""
    return msgspec.Meta(description=text, **more)


def size(text: str) -> AnyValue:
    """Meta of an int64 that is never negative: bytes, seconds, rates."""
    return msgspec.Meta(description=text, ge=0)


def count(text: str) -> AnyValue:
    """Meta of an int32 that is never negative."""
    return msgspec.Meta(description=text, ge=0, le=(1 << 31) - 1)


def moment(text: str) -> AnyValue:
    """Meta of a time: RFC 3339, UTC, such as `2026-11-27T04:00:00Z`."""
    return msgspec.Meta(description=text, extra={"format": "date-time"})


def listing(text: str, *keys: str, max_length: int | None = None) -> AnyValue:
    """Meta of a list whose items `keys` tell apart."""
    return msgspec.Meta(description=text, max_length=max_length, extra={"keys": keys})


def struct_table(struct: type[msgspec.Struct]) -> Obj:
    """The table of a struct, fields under their encoded names. Raises `TypeError` for what the tables cannot say."""
    info = inspect.type_info(struct)
    assert isinstance(info, inspect.StructType)
    return _object(info)


def _object(info: inspect.StructType) -> Obj:
    return Obj({field.encode_name: _field(field, info.cls.__name__) for field in info.fields})


def _field(field: inspect.Field, owner: str) -> Field:
    extra, text = {}, ""
    if isinstance(field.type, inspect.Metadata):
        extra = field.type.extra or {}
        text = (field.type.extra_json_schema or {}).get("description", "")
    if not text:
        raise TypeError(f"{owner}.{field.name} has no description: add one to its Meta")
    type_ = _type(field.type, f"{owner}.{field.name}")
    return Field(type_, required=field.required, text=text, default=field.default if extra.get("default") else None)


def _type(type_: inspect.Type, where: str) -> Type:
    extra: dict[str, AnyValue] = {}
    while isinstance(type_, inspect.Metadata):
        extra |= type_.extra or {}
        type_ = type_.type
    if "shape" in extra:
        return _shape(extra["shape"])
    match type_:
        case inspect.StrType():
            return Str(type_.min_length or 0, (), type_.max_length or 0, type_.pattern or "", extra.get("format", ""))
        case inspect.LiteralType():
            return Str(enum=tuple(str(v) for v in type_.values))
        case inspect.IntType():
            return Int(INT64.min if type_.ge is None else type_.ge, INT64.max if type_.le is None else type_.le)
        case inspect.BoolType():
            return BOOL
        case inspect.VarTupleType() | inspect.ListType():
            item = _type(type_.item_type, where)
            return List(item, type_.min_length or 0, type_.max_length or 0, tuple(extra.get("keys", ())))
        case inspect.DictType():
            return MapOf(_type(type_.value_type, where))
        case inspect.StructType():
            return _object(type_)
        case inspect.UnionType():
            rest = [t for t in type_.types if not isinstance(t, inspect.NoneType)]
            if len(rest) == 1:
                return _type(rest[0], where)
    raise TypeError(f"{where}: a {type(type_).__name__} has no place in a schema; see struct_schema.py for what has")


def _shape(shape: object) -> Type:
    assert isinstance(shape, msgspec.Struct)
    return shape  # type: ignore[return-value]  # extra is untyped; the tables are structs
