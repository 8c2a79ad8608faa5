"""A small structural schema, and the walk that holds a document against it.

The walk reports what an API server with strict field validation would refuse (unknown fields, wrong types, enums,
missing fields), and, where asked, fields that are known but that nothing here acts on yet.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec
from msgspec.structs import replace

from forebay.api.problem import Problem, Severity, did_you_mean, secretish, show
from forebay.api.quantity import QuantityError, parse_quantity
from forebay.api.yamldoc import Node

_NULL_BY_TOOLS = ("creationTimestamp", "status")
"""Written as null by kubectl and code generators."""
_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")


class Str(msgspec.Struct, frozen=True):
    """`min`, `max`: characters, 0 = no bound. `pattern` is RE2; `format` is for admission only ("date-time")."""

    min: int = 0
    enum: tuple[str, ...] = ()
    max: int = 0
    pattern: str = ""
    format: str = ""


class Int(msgspec.Struct, frozen=True):
    min: int = -(1 << 31)
    max: int = (1 << 31) - 1


class Bool(msgspec.Struct, frozen=True):
    pass


class Quantity(msgspec.Struct, frozen=True):
    """An int or a string that `parse_quantity` takes."""


class IntOrString(msgspec.Struct, frozen=True):
    """A port by number or by name."""


class Any(msgspec.Struct, frozen=True):
    """A Kubernetes core type that nothing here looks into. `kind`: what it must be; `shape`: what admission holds it to."""

    kind: type | None = None
    shape: Type | None = None


class List(msgspec.Struct, frozen=True):
    """`max` 0 = no bound. `keys`: the fields that tell its items apart, for server-side apply and for uniqueness."""

    of: Type
    min: int = 0
    max: int = 0
    keys: tuple[str, ...] = ()


class MapOf(msgspec.Struct, frozen=True):
    of: Type


class Field(msgspec.Struct, frozen=True):
    """A member of an object. `used`: something here acts on it; otherwise `note` says what holds instead.

    `default` is what the API server fills in where the parent is there and the field is not; `text` describes the field
    in `kubectl explain` (fields of Fluid's kinds have theirs in `crd_text`).
    """

    type: Type
    required: bool = False
    used: bool = False
    note: str = ""
    default: str | int | bool | None = None
    text: str = ""


class Obj(msgspec.Struct, frozen=True):
    """`open`: fields that stand here are held to their types, others are kept as they are."""

    fields: dict[str, Field]
    open: bool = False


Type = Str | Int | Bool | Quantity | IntOrString | Any | List | MapOf | Obj

STR, INT, BOOL, QUANTITY = Str(), Int(), Bool(), Quantity()
INT64 = Int(-(1 << 63), (1 << 63) - 1)
MAP = MapOf(STR)
ANY, ANY_MAP, ANY_LIST = Any(), Any(dict), Any(list)


def words(names: str, type_: Type) -> dict[str, Field]:
    """Fields of one type, by their blank-separated names."""
    return {name: Field(type_) for name in names.split()}


def need(type_: Type, *, used: bool = False) -> Field:
    return Field(type_, required=True, used=used)


def used(type_: Type, default: str | int | bool | None = None) -> Field:
    return Field(type_, used=True, default=default)


def obj(*bases: Mapping[str, Field], **members: Type | Field) -> Obj:
    """An object of base fields and of members; a bare type is an optional field that is not acted on."""
    fields: dict[str, Field] = {}
    for base in bases:
        fields.update(base)
    fields.update({k: v if isinstance(v, Field) else Field(v) for k, v in members.items()})
    return Obj(fields)


def loose(type_: Obj) -> Obj:
    """Names and types of `type_` alone: nothing is required, and no value is out of bounds."""
    return Obj({name: replace(f, type=_loose(f.type), required=False) for name, f in type_.fields.items()}, type_.open)


def _loose(type_: Type) -> Type:
    match type_:
        case Obj():
            return loose(type_)
        case List():
            return List(_loose(type_.of))
        case MapOf():
            return MapOf(_loose(type_.of))
        case Str():
            return STR
        case Int():
            return INT64
    return type_


def join(path: str, key: str) -> str:
    """`spec` + `mounts` -> `spec.mounts`; an odd key is quoted: `spec.options["fs.s3.region"]`."""
    if _PLAIN_KEY.fullmatch(key):
        return f"{path}.{key}" if path else key
    return f"{path}[{show(key)}]"


class Walk:
    """Adds problems of one object. Invariant: no text of a value whose name is secretish reaches a problem."""

    def __init__(self, object_: str, problems: list[Problem], *, unused: bool) -> None:
        self.object = object_
        self.problems = problems
        self.root: Type | None = None
        self.unused = unused  # report fields that nothing acts on

    def add(  # noqa: PLR0917 - one call per finding: keywords would treble them
        self, severity: Severity, node: Node, path: str, value: str, message: str, remedy: str, line: int = 0
    ) -> None:
        self.problems.append(Problem(severity, node.file, line or node.line, self.object, path, value, message, remedy))

    def check(self, node: Node, type_: Type, path: str, *, unused: bool | None = None) -> None:
        """Hold `node` against `type_`. An explicit null counts as absent, as it does for the API server."""
        if self.root is None:
            self.root = type_
        unused = self.unused if unused is None else unused
        match type_:
            case Obj():
                if self.expect(node, dict, path):
                    self.fields(node, type_, path, unused)
            case List():
                if self.expect(node, list, path):
                    if len(node.items()) < type_.min:
                        self.add("error", node, path, "[]", "is empty", f"give at least {type_.min}")
                    if type_.max and len(node.items()) > type_.max:
                        message = f"has {len(node.items())} entries"
                        self.add("error", node, path, "", message, f"give at most {type_.max}")
                    for i, item in enumerate(node.items()):
                        self.check(item, type_.of, f"{path}[{i}]", unused=unused)
            case MapOf():
                if self.expect(node, dict, path):
                    self.nulls(node, path)
                    for key, value in node.map().items():
                        self.check(value, type_.of, join(path, key), unused=unused)
            case Any():
                if type_.kind is not None:
                    self.expect(node, type_.kind, path)
            case Quantity():
                self.quantity(node, path)
            case IntOrString():
                if not isinstance(node.value, str):
                    self.expect(node, int, path)
            case Int():
                if self.expect(node, int, path) and not type_.min <= int(str(node.value)) <= type_.max:
                    self.add("error", node, path, show(node.value), "is out of range", f"write {type_.min} to {type_.max}")
            case Bool():
                self.expect(node, bool, path)
            case Str():
                if self.expect(node, str, path):
                    self.string(node, type_, path)

    def fields(self, node: Node, type_: Obj, path: str, unused: bool) -> None:
        assert isinstance(node.value, dict)
        for key in node.value:
            if key not in type_.fields:
                remedy = self.remedy(key, type_)
                self.add("error", node, join(path, key), "", "is no field of this kind", remedy, node.key_lines[key])
        self.nulls(node, path)
        entries = node.map()
        for name, field in type_.fields.items():
            child = entries.get(name)
            if child is None:
                if field.required:
                    self.add("error", node, join(path, name), "", "is missing", "add it: it is required")
                continue
            silent = not unused or not field.used
            if unused and not field.used and child.value not in ({}, [], ""):
                note = field.note or "it has no effect on one machine; remove it, or keep it for a cluster"
                self.add("warning", node, join(path, name), "", "is not acted on yet", note, node.key_lines[name])
            self.check(child, field.type, join(path, name), unused=not silent)

    def remedy(self, key: str, type_: Obj) -> str:
        """For an unknown field: another spelling, else its place elsewhere in the kind (wrong indentation), else a near name."""
        same = next((name for name in type_.fields if name.lower() == key.lower()), "")
        place = "" if same or self.root is None else _find(self.root, key, "")
        if place:
            return f"it is a field of {place}: mind the indentation"
        return did_you_mean(key, type_.fields, "remove it, or see docs/manifests.md for the fields of this kind")

    def nulls(self, node: Node, path: str) -> None:
        assert isinstance(node.value, dict)
        for key, child in node.value.items():
            if child.value is None and key not in _NULL_BY_TOOLS:
                remedy = "give it a value or remove it"
                self.add("warning", child, join(path, key), "", "is empty and counts as absent", remedy, node.key_lines[key])

    def expect(self, node: Node, kind: type, path: str) -> bool:
        value = node.value
        if isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
            return True
        if isinstance(value, float) and kind is int and value.is_integer() and abs(value) < 1 << 53:
            return True
        name = {dict: "a mapping", list: "a list", str: "a string", bool: "true or false", int: "a whole number"}[kind]
        remedy = f"write {name}"
        hidden = secretish(path)
        if kind is str and isinstance(value, (dict, list)):
            remedy = "write a string; is it indented too far?"
        elif kind is str and isinstance(value, (bool, int, float)):
            remedy = "put it in quotes" if hidden else f"put it in quotes: {show(node.text)}"
        self.add("error", node, path, show(value, path), f"is {node.kind}, not {name}", remedy)
        return False

    def quantity(self, node: Node, path: str) -> None:
        value = node.value
        if isinstance(value, bool) or not isinstance(value, (str, int)):
            remedy = f"put it in quotes: {show(node.text)}" if isinstance(value, float) else "write one such as 10Gi"
            self.add("error", node, path, show(value), "is no Kubernetes quantity", remedy)
            return
        try:
            parse_quantity(value)
        except QuantityError as e:
            self.add("error", node, path, show(value), str(e), e.remedy)

    def string(self, node: Node, type_: Str, path: str) -> None:
        value = str(node.value)
        if type_.enum and value not in type_.enum:
            options = ", ".join(e or '""' for e in type_.enum)
            remedy = did_you_mean(value, (e for e in type_.enum if e), f"write one of {options}")
            self.add("error", node, path, show(value, path), f"is none of {options}", remedy)
        elif len(value) < type_.min:
            self.add("error", node, path, show(value), f"is shorter than {type_.min} characters", "write a longer one")
        elif type_.max and len(value) > type_.max:
            message = f"has {len(value)} characters"
            self.add("error", node, path, show(value, path), message, f"write at most {type_.max} characters")
        elif type_.pattern and not re.search(type_.pattern, value):
            self.add("error", node, path, show(value, path), "is not of the form asked for", f"it must match {type_.pattern}")


def _find(type_: Type, key: str, path: str, depth: int = 6) -> str:
    """The path of the first object below `type_` that has a field `key`; "" if none has."""
    inner: dict[str, Type] = {}
    if isinstance(type_, Obj):
        if key in type_.fields and path:
            return path
        inner = {join(path, name): field.type for name, field in type_.fields.items() if name != "status"}
    elif isinstance(type_, List):
        inner = {f"{path}[]": type_.of}
    if not depth:
        return ""
    return next((found for name, member in inner.items() if (found := _find(member, key, name, depth - 1))), "")
