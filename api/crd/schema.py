"""From the schema tables to the structural schema of a CRD (OpenAPI v3 as the API server takes it)."""

from __future__ import annotations

from typing import Any

from forebay.api import schema as table
from forebay.api.crd import text as crd_text
from forebay.api.crd.kinds import Kind
from forebay.api.crd.rules import Rule, rules_of
from forebay.api.fluid import kinds as fluid
from forebay.api.quantity import PATTERN

Json = dict[str, Any]

_INT32 = table.INT


def object_schema(kind: Kind) -> Json:
    """The whole schema of one kind."""
    fields = dict(kind.top.fields)
    if kind.spec is not None:
        fields["spec"] = table.Field(kind.spec, required=kind.needs_spec, text=crd_text.FIELDS["spec"])
    if kind.status is not None:
        fields["status"] = table.Field(kind.status, text=crd_text.FIELDS["status"])
    schema = _Emitter(kind.kind).of(table.Obj(fields), "")
    known = {"apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": {"type": "object"}}
    return {"description": crd_text.KINDS[kind.kind], **schema, "properties": {**known, **schema["properties"]}}


class _Emitter:
    """One kind. `core` in the calls: inside a core type of Kubernetes, whose fields have no text of ours."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def of(self, type_: table.Type, path: str, *, core: bool = False) -> Json:
        """The schema of `type_` at `path`, with the rules of that place. Raises `TypeError` for a type without a shape."""
        schema = self.bare(type_, path, core)
        if rules := rules_of(self.kind, path):
            schema["x-kubernetes-validations"] = [_rule(rule) for rule in rules]
        return schema

    def bare(self, type_: table.Type, path: str, core: bool) -> Json:
        match type_:
            case table.Obj():
                return self.object(type_, path, core)
            case table.List():
                return self.list(type_, path, core)
            case table.MapOf():
                return {"type": "object", "additionalProperties": self.of(type_.of, f"{path}{{}}", core=core)}
            case table.Str():
                return _string(type_)
            case table.Int():
                return _integer(type_)
            case table.Bool():
                return {"type": "boolean"}
            case table.Quantity():
                return {**_int_or_string(), "pattern": f"^{PATTERN.pattern}$"}
            case table.IntOrString():
                return _int_or_string()
            case table.Any():
                if type_.shape is None:
                    raise TypeError(f"{self.kind}.{path} has no shape: give its Any one (core_shapes.py)")
                return self.of(type_.shape, path, core=True)

    def object(self, type_: table.Obj, path: str, core: bool) -> Json:
        schema: Json = {"type": "object"}
        if properties := {name: self.field(f, f"{path}.{name}".lstrip("."), core) for name, f in type_.fields.items()}:
            schema["properties"] = properties
        if required := [name for name, f in type_.fields.items() if f.required]:
            schema["required"] = required
        if type_.open:
            schema["x-kubernetes-preserve-unknown-fields"] = True
        return schema

    def field(self, field: table.Field, path: str, core: bool) -> Json:
        schema = self.of(field.type, path, core=core)
        if field.default is not None:
            schema["default"] = field.default
        text = field.text or ("" if core or path.startswith("status") else self.text(path))
        return {"description": text, **schema} if text else schema

    def text(self, path: str) -> str:
        return crd_text.text(self.kind, path, runtime=self.kind in fluid.RUNTIMES)

    def list(self, type_: table.List, path: str, core: bool) -> Json:
        schema: Json = {"type": "array", "items": self.of(type_.of, f"{path}[]", core=core)}
        if type_.min:
            schema["minItems"] = type_.min
        if type_.max:
            schema["maxItems"] = type_.max
        if type_.keys:
            schema["x-kubernetes-list-type"] = "map"
            schema["x-kubernetes-list-map-keys"] = list(type_.keys)
        return schema


def _rule(rule: Rule) -> Json:
    found = {"rule": rule.rule, "message": rule.message, "reason": "FieldValueInvalid"}
    return {**found, "fieldPath": rule.field} if rule.field else found


def _string(type_: table.Str) -> Json:
    schema: Json = {"type": "string"}
    if type_.enum:
        schema["enum"] = list(type_.enum)
    if type_.min:
        schema["minLength"] = type_.min
    if type_.max:
        schema["maxLength"] = type_.max
    if type_.pattern:
        schema["pattern"] = type_.pattern
    if type_.format:
        schema["format"] = type_.format
    return schema


def _integer(type_: table.Int) -> Json:
    small = _INT32.min <= type_.min and type_.max <= _INT32.max
    whole = _INT32 if small else table.INT64
    schema: Json = {"type": "integer", "format": "int32" if small else "int64"}
    if type_.min > whole.min:
        schema["minimum"] = type_.min
    if type_.max < whole.max:
        schema["maximum"] = type_.max
    return schema


def _int_or_string() -> Json:
    return {"anyOf": [{"type": "integer"}, {"type": "string"}], "x-kubernetes-int-or-string": True}
