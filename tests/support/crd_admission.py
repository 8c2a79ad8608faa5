"""What an API server does with an object of a custom resource, as far as one object shows it: strict fields, nulls, defaults,
schema, CEL rules. `jsonschema` holds values against the schema and `celpy` evaluates the rules; neither is ours.

The order is the server's: unknown fields, pruning of nulls, defaults, schema, and rules only where the schema found nothing.
"""

from __future__ import annotations

import copy
import re
from functools import cache
from pathlib import Path
from typing import Any

import celpy
import jsonschema
import yaml
from celpy import celtypes

from forebay.api.quantity import QuantityError, parse_quantity

Json = dict[str, Any]

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "crds"
MANIFESTS = Path(__file__).resolve().parents[1] / "data" / "fluid-manifests"
_LOADER: type = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # a tenth of the time
_DATE_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")
_ENVIRONMENT = celpy.Environment()  # here and not in a test: making one raises the recursion limit
_RESERVED = {"namespace": "__namespace__"}
_STOCK = ("apiVersion", "kind", "metadata")


def read_crds(folder: Path = FOLDER) -> dict[tuple[str, str], Json]:
    """(group, kind) -> CustomResourceDefinition."""
    crds = [yaml.load(path.read_text(), Loader=_LOADER) for path in sorted(folder.glob("*.yaml"))]
    return {(crd["spec"]["group"], crd["spec"]["names"]["kind"]): crd for crd in crds}


def schema_of(crd: Json) -> Json:
    schema: Json = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return schema


class Admission:
    """An API server that knows the CRDs of one folder."""

    def __init__(self, crds: dict[tuple[str, str], Json] | None = None) -> None:
        self.crds = read_crds() if crds is None else crds

    def create(self, document: Json) -> tuple[Json, list[str]]:
        """The object as it would be stored, and what is wrong with it. A status is dropped, as on every create."""
        return self._admit(document, None, status=False)

    def update(self, document: Json, old: Json) -> tuple[Json, list[str]]:
        return self._admit(document, old, status=False)

    def update_status(self, document: Json, old: Json) -> tuple[Json, list[str]]:
        return self._admit(document, old, status=True)

    def _admit(self, document: Json, old: Json | None, *, status: bool) -> tuple[Json, list[str]]:
        group, _, version = document["apiVersion"].rpartition("/")
        crd = self.crds[group, document["kind"]]
        if version != crd["spec"]["versions"][0]["name"]:
            return document, [f"apiVersion: {document['apiVersion']} is not served"]
        schema = schema_of(crd)
        found = copy.deepcopy(document)
        if not status and "status" in crd["spec"]["versions"][0].get("subresources", {}):
            found.pop("status", None)
        errors = unknown_fields(found, schema)
        _prune_nulls(found, schema)
        _default(found, schema)
        errors += schema_errors(found, schema)
        if not errors:
            errors = list(_rule_errors(found, old, schema, ""))
        return found, errors


# --- fields, nulls, defaults ----------------------------------------------------------------------------------------


def unknown_fields(document: Json, schema: Json) -> list[str]:
    """What strict field validation says."""
    return list(_unknown(document, schema, "", root=True))


def _unknown(value: Any, schema: Json, path: str, *, root: bool = False) -> Any:
    if isinstance(value, dict):
        for key, child in value.items():
            if root and key in _STOCK:
                continue
            inner = schema.get("properties", {}).get(key) or schema.get("additionalProperties")
            if inner is not None:
                yield from _unknown(child, inner, f"{path}.{key}".lstrip("."))
            elif not schema.get("x-kubernetes-preserve-unknown-fields"):
                yield f'unknown field "{path}.{key}"'.replace('".', '"')
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from _unknown(item, schema.get("items", {}), f"{path}[{i}]")


def _prune_nulls(value: Any, schema: Json) -> None:
    if isinstance(value, dict):
        for key in [k for k, v in value.items() if v is None]:
            if not schema.get("x-kubernetes-preserve-unknown-fields"):
                del value[key]
        for key, child in value.items():
            _prune_nulls(child, schema.get("properties", {}).get(key) or schema.get("additionalProperties") or {})
    elif isinstance(value, list):
        for item in value:
            _prune_nulls(item, schema.get("items", {}))


def _default(value: Any, schema: Json) -> None:
    """A default applies where its parent is there: nothing makes a parent."""
    if isinstance(value, dict):
        for name, inner in schema.get("properties", {}).items():
            if name not in value and "default" in inner:
                value[name] = copy.deepcopy(inner["default"])
        for key, child in value.items():
            _default(child, schema.get("properties", {}).get(key) or schema.get("additionalProperties") or {})
    elif isinstance(value, list):
        for item in value:
            _default(item, schema.get("items", {}))


# --- schema ---------------------------------------------------------------------------------------------------------

_CHECKER = jsonschema.FormatChecker(formats=())
_CHECKER.checks("date-time")(lambda text: not isinstance(text, str) or _DATE_TIME.fullmatch(text) is not None)
_BOUNDS = {"int32": (-(1 << 31), (1 << 31) - 1), "int64": (-(1 << 63), (1 << 63) - 1)}


def plain(schema: Json) -> Json:
    """The schema as JSON Schema has it: the bounds that integer formats mean, and uniqueness by keys left to `schema_errors`."""
    found = {k: v for k, v in schema.items() if not k.startswith("x-kubernetes")}
    if found.get("format") in _BOUNDS:
        low, high = _BOUNDS[found.pop("format")]
        found["minimum"], found["maximum"] = max(low, found.get("minimum", low)), min(high, found.get("maximum", high))
    for key in ("items", "additionalProperties"):
        if isinstance(found.get(key), dict):
            found[key] = plain(found[key])
    if "properties" in found:
        found["properties"] = {name: plain(inner) for name, inner in found["properties"].items()}
    return found


def schema_errors(value: Json, schema: Json) -> list[str]:
    validator = jsonschema.Draft7Validator(plain(schema), format_checker=_CHECKER)
    errors = [f"{_dotted(e.absolute_path)}: {e.message}" for e in validator.iter_errors(value)]
    return errors + list(_doubles(value, schema, ""))


def _dotted(path: Any) -> str:
    return "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in path).lstrip(".")


def _doubles(value: Any, schema: Json, path: str) -> Any:
    """Items of a list map that have equal keys."""
    if isinstance(value, list):
        keys = schema.get("x-kubernetes-list-map-keys", ())
        seen: set[tuple[str, ...]] = set()
        for i, item in enumerate(value):
            if keys and isinstance(item, dict):
                key = tuple(repr(item.get(k)) for k in keys)
                if key in seen:
                    yield f"{path}[{i}]: Duplicate value {key}"
                seen.add(key)
            yield from _doubles(item, schema.get("items", {}), f"{path}[{i}]")
    elif isinstance(value, dict):
        for key, child in value.items():
            inner = schema.get("properties", {}).get(key) or schema.get("additionalProperties") or {}
            yield from _doubles(child, inner, f"{path}.{key}".lstrip("."))


# --- rules ----------------------------------------------------------------------------------------------------------


def _rule_errors(value: Any, old: Any, schema: Json, path: str) -> Any:
    for rule in schema.get("x-kubernetes-validations", ()):
        transition = "oldSelf" in rule["rule"]
        if transition and old is None:
            continue
        where = path + rule.get("fieldPath", "")
        try:
            if not evaluate(rule["rule"], value, old):
                yield f"{where}: {rule['message']}"
        except celpy.CELEvalError as e:
            yield f"{where}: rule {rule['rule']!r} ended with {e}"
    if isinstance(value, dict):
        for key, child in value.items():
            inner = schema.get("properties", {}).get(key) or schema.get("additionalProperties") or {}
            before = old.get(key) if isinstance(old, dict) else None
            yield from _rule_errors(child, before, inner, f"{path}.{key}".lstrip("."))
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from _rule_errors(item, None, schema.get("items", {}), f"{path}[{i}]")


def evaluate(rule: str, value: Any, old: Any = None) -> bool:
    """One rule on a value, `self`, and the one before, `oldSelf`. Raises `celpy.CELEvalError`."""
    context = {"self": _cel(value)}
    if old is not None:
        context["oldSelf"] = _cel(old)
    result = program(rule).evaluate(context)
    if isinstance(result, celpy.CELEvalError):
        raise result
    return bool(result)


@cache
def program(rule: str) -> celpy.Runner:
    return _ENVIRONMENT.program(_ENVIRONMENT.compile(rule), functions=_FUNCTIONS)


def _cel(value: Any) -> Any:
    return celpy.json_to_cel(_escaped(value))


def _escaped(value: Any) -> Any:
    """Field names that are reserved words, as a rule writes them."""
    if isinstance(value, dict):
        return {_RESERVED.get(k, k): _escaped(v) for k, v in value.items()}
    return [_escaped(v) for v in value] if isinstance(value, list) else value


def _quantity(text: Any) -> celtypes.IntType:
    """A quantity as its whole bytes: enough to compare it with nothing."""
    try:
        return celtypes.IntType(parse_quantity(str(text)))
    except QuantityError as e:
        raise celpy.CELEvalError(str(e)) from e


# the functions that the API server adds to CEL and that our rules use
_FUNCTIONS: dict[str, Any] = {
    "lowerAscii": lambda s: celtypes.StringType(str(s).lower()),
    "trim": lambda s: celtypes.StringType(str(s).strip()),
    "substring": lambda s, start: celtypes.StringType(str(s)[int(start) :]),
    "replace": lambda s, a, b: celtypes.StringType(str(s).replace(str(a), str(b))),
    "split": lambda s, sep: celtypes.ListType([celtypes.StringType(p) for p in str(s).split(str(sep))]),
    "quantity": _quantity,
    "isGreaterThan": lambda a, b: celtypes.BoolType(a > b),
}
