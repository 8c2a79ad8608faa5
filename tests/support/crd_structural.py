"""What an API server asks of a CustomResourceDefinition before it takes it: structural schema, defaults, list keys, names,
columns, sub-resources, and rules whose paths are declared and whose estimated cost is within its budget.

Sources: the Kubernetes documentation of structural schemas and of validation rules; for the cost its estimator (apiserver
`pkg/cel/library/cost.go`, `pkg/cel/common/schemas.go`): a regular expression costs a tenth of the longest string times a
quarter of its own length, a loop multiplies by the longest list, and so does every list above the rule. Close, not equal.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

import celpy
import jsonschema
from crd_admission import plain, program

Json = dict[str, Any]

RULE_BUDGET, CRD_BUDGET = 10_000_000, 100_000_000
NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_LOOP = re.compile(r"([A-Za-z_]\w*(?:\.\w+)*)\.(all|exists|exists_one|filter|map)\((\w+),")
_CHAIN = re.compile(r"(?<![\w.'])([A-Za-z_]\w*)((?:\.[A-Za-z_]\w*)+)(\()?")
_FORBIDDEN = {
    "$ref",
    "definitions",
    "dependencies",
    "deprecated",
    "discriminator",
    "id",
    "patternProperties",
    "readOnly",
    "writeOnly",
}
_TYPES = {"string", "integer", "boolean", "object", "array", "number"}


def problems(crd: Json) -> list[str]:
    """Everything that is wrong, as `path: sentence`."""
    spec = crd["spec"]
    (version,) = spec["versions"]
    schema = version["schema"]["openAPIV3Schema"]
    found = [*_names(crd), *_structural(schema, ""), *_columns(version, schema), *_subresources(version, schema)]
    if schema.get("type") != "object":
        found.append("the root is no object")
    if set(schema["properties"].get("metadata", {})) - {"type"}:
        found.append("metadata: only its name may be restricted")
    costs = []
    for path, node, cardinality, listed in _nodes(schema, "", 1, False):
        for rule in node.get("x-kubernetes-validations", ()):
            costs.append(_rule(rule, node, path, cardinality, listed, found))
    if sum(costs) > CRD_BUDGET:
        found.append(f"the rules together cost {sum(costs)}")
    return found


def _names(crd: Json) -> Iterator[str]:
    names, group = crd["spec"]["names"], crd["spec"]["group"]
    if crd["metadata"]["name"] != f"{names['plural']}.{group}":
        yield "metadata.name is not plural.group"
    if names["singular"] != names["kind"].lower() or names["listKind"] != names["kind"] + "List":
        yield "singular and listKind do not follow from the kind"
    for word in (names["plural"], names["singular"], *names.get("shortNames", ()), *names.get("categories", ())):
        if not NAME.fullmatch(word) or len(word) > 63:
            yield f"{word} is no DNS-1035 label"


def _structural(node: Json, path: str, *, inside: bool = False) -> Iterator[str]:
    """`inside`: below anyOf and its like, where types and defaults may not stand (but those of int-or-string)."""
    for key in _FORBIDDEN & set(node):
        yield f"{path}: {key} is not allowed"
    mixed = node.get("x-kubernetes-int-or-string")
    if mixed:
        if "type" in node or node.get("anyOf") != [{"type": "integer"}, {"type": "string"}]:
            yield f"{path}: int-or-string has a type, or not the one anyOf"
    elif not inside and node.get("type") not in _TYPES:
        yield f"{path}: has no type"
    if not mixed and {"anyOf", "allOf", "oneOf", "not"} & set(node):
        yield f"{path}: combines schemas"
    if "properties" in node and "additionalProperties" in node:
        yield f"{path}: has properties and additionalProperties"
    if node.get("type") != "object" and {"properties", "additionalProperties", "required"} & set(node):
        yield f"{path}: is no object but has properties"
    if not isinstance(node.get("additionalProperties", {}), dict):
        yield f"{path}: additionalProperties is no schema"
    if node.get("type") == "array" and "items" not in node:
        yield f"{path}: has no items"
    if node.get("nullable") or node.get("uniqueItems"):
        yield f"{path}: is nullable or has uniqueItems"
    for name in node.get("required", ()):
        if name not in node.get("properties", {}):
            yield f"{path}: requires {name}, which is not declared"
    if "default" in node:
        yield from _default(node, path)
    if node.get("x-kubernetes-list-type") == "map":
        yield from _list_map(node, path)
    if "x-kubernetes-list-map-keys" in node and node.get("x-kubernetes-list-type") != "map":
        yield f"{path}: has keys but is no list map"
    for inner, child in _children(node, path):
        yield from _structural(child, inner)


def _default(node: Json, path: str) -> Iterator[str]:
    if path.startswith(("metadata", "apiVersion", "kind", "status")):
        yield f"{path}: a default stands where none may"
    if not jsonschema.Draft7Validator(plain(node)).is_valid(node["default"]):
        yield f"{path}: the default is against its own schema"


def _list_map(node: Json, path: str) -> Iterator[str]:
    items = node["items"]
    if node.get("type") != "array" or items.get("type") != "object" or not node.get("x-kubernetes-list-map-keys"):
        yield f"{path}: a list map is a list of objects with keys"
    for key in node.get("x-kubernetes-list-map-keys", ()):
        inner = items.get("properties", {}).get(key, {})
        if inner.get("type") not in ("string", "integer", "boolean"):
            yield f"{path}: key {key} is no declared scalar"
        if key not in items.get("required", ()) and "default" not in inner:
            yield f"{path}: key {key} is neither required nor defaulted"


def _children(node: Json, path: str) -> Iterator[tuple[str, Json]]:
    for name, child in node.get("properties", {}).items():
        yield f"{path}.{name}".lstrip("."), child
    if "items" in node:
        yield f"{path}[]", node["items"]
    if isinstance(node.get("additionalProperties"), dict):
        yield f"{path}{{}}", node["additionalProperties"]


def _nodes(node: Json, path: str, cardinality: float, listed: bool) -> Iterator[tuple[str, Json, float, bool]]:
    """Every schema with how often it may occur in one object, and whether a list without keys is above it."""
    yield path, node, cardinality, listed
    for inner, child in _children(node, path):
        if inner.endswith("[]"):
            bound = node.get("maxItems", math.inf)
            yield from _nodes(child, inner, cardinality * bound, listed or node.get("x-kubernetes-list-type") != "map")
        else:
            yield from _nodes(child, inner, cardinality * (math.inf if inner.endswith("{}") else 1), listed)


# --- columns and sub-resources --------------------------------------------------------------------------------------


def _at(schema: Json, path: str) -> Json | None:
    """The schema under a simple JSON path, None where it is not declared. Maps take any key."""
    node: Json | None = schema
    for part in path.lstrip(".").split("."):
        if node is None:
            return None
        node = node.get("properties", {}).get(part) or node.get("additionalProperties")
    return node


def _columns(version: Json, schema: Json) -> Iterator[str]:
    for column in version.get("additionalPrinterColumns", ()):
        path = column["jsonPath"]
        if path == ".metadata.creationTimestamp":
            continue
        path, _, rest = path.partition("[?")
        node = _at(schema, path)
        if node is None:
            yield f"column {column['name']}: {path} is not declared"
        elif rest:
            continue
        elif column["type"] == "date":
            if node.get("format") != "date-time":
                yield f"column {column['name']} is a date of what is none"
        elif column["type"] != node["type"] and node["type"] != "array":
            yield f"column {column['name']} is of type {column['type']}, its field of {node['type']}"


def _subresources(version: Json, schema: Json) -> Iterator[str]:
    subresources = version.get("subresources", {})
    if ("status" in subresources) != ("status" in schema["properties"]):
        yield "status: sub-resource and field do not go together"
    scale = subresources.get("scale", {})
    for key, head, type_ in (
        ("specReplicasPath", ".spec.", "integer"),
        ("statusReplicasPath", ".status.", "integer"),
        ("labelSelectorPath", ".status.", "string"),
    ):
        if not scale:
            continue
        node = _at(schema, scale[key])
        if not scale[key].startswith(head) or node is None or node.get("type") != type_:
            yield f"scale: {key} {scale[key]} is no {type_} under {head}"


# --- rules ----------------------------------------------------------------------------------------------------------


def _rule(rule: Json, node: Json, path: str, cardinality: float, listed: bool, found: list[str]) -> float:
    """Check one rule and return its estimated cost, occurrences included."""
    text, message, where = rule["rule"], rule["message"], f"{path or 'root'}: {rule['rule']!r}"
    if "\n" in message or not message.strip() or len(message) > 2048 or ";" not in message:
        found.append(f"{where}: the message is no one line with a remedy")
    if "fieldPath" in rule and _at(node, rule["fieldPath"]) is None:
        found.append(f"{where}: fieldPath {rule['fieldPath']} is not declared")
    if "oldSelf" in text and listed:
        found.append(f"{where}: oldSelf below a list without keys")
    if math.isinf(cardinality):
        found.append(f"{where}: a list or map above has no bound")
        return 0.0
    try:
        program(text)
    except celpy.CELParseError as e:
        found.append(f"{where}: {e}")
    cost = _cost(text, node, path, where, found) * cardinality
    if cost > RULE_BUDGET:
        found.append(f"{where}: costs about {cost:.0f}")
    return cost


def _cost(text: str, node: Json, path: str, where: str, found: list[str]) -> float:
    """Estimated cost of one evaluation; paths that are not declared go to `found`."""
    blank = re.sub(r"'[^']*'", lambda m: "'" + " " * (len(m[0]) - 2) + "'", text)
    loops: list[tuple[int, int, float]] = []
    scope: dict[str, Json] = {"self": node, "oldSelf": node}
    for match in _LOOP.finditer(blank):
        list_ = _resolve(match[1], scope, path)
        if list_ is None or "items" not in list_:
            found.append(f"{where}: {match[1]} is no declared list")
            continue
        if "maxItems" not in list_:
            found.append(f"{where}: {match[1]} has no maxItems")
        scope[match[3]] = list_["items"]
        loops.append((match.end(), _closing(blank, match.end()), list_.get("maxItems", 0)))
    cost = 0.0
    for match in _CHAIN.finditer(blank):
        if match[1] not in scope:
            continue
        names = match[2].split(".")[1:]
        target = _resolve(".".join((match[1], *(names[:-1] if match[3] else names))), scope, path)
        if target is None:
            found.append(f"{where}: {match[0]} is not declared")
            continue
        times = math.prod(n for start, end, n in loops if start <= match.start() < end)
        start = match.start() + len(match[0]) - (len(names[-1]) + 2 if match[3] else 0)
        cost += times * (
            len(names) + _calls(text, blank, start, _longest(target)) + _compared(text, blank, match, target, scope, path)
        )
    return cost


def _calls(text: str, blank: str, at: int, longest: float) -> float:
    """Cost of the calls that are chained from `at` on a string: `.lowerAscii().matches('...')`."""
    cost = 0.0
    while match := re.compile(r"\.(\w+)\(").match(blank, at):
        end = _closing(blank, match.end())
        if match[1] == "matches":
            cost += math.ceil((longest + 1) * 0.1) * math.ceil((end - match.end() - 2) * 0.25)
        elif match[1] in ("split", "replace"):
            cost += longest * 0.2
        elif match[1] in ("lowerAscii", "substring", "trim"):
            cost += longest * 0.1
        elif match[1] in ("startsWith", "endsWith"):
            cost += math.ceil((end - match.end()) * 0.1)
        at = end + 1
    if "quantity(" in blank[max(0, at - 80) : at]:
        cost += longest * 0.1
    return cost + 1


def _compared(text: str, blank: str, match: re.Match[str], target: Json, scope: dict[str, Json], path: str) -> float:
    """Cost of `a.b == 'text'` and `a.b == c.d (+ 'text')`: the shorter of the two is walked."""
    after = re.compile(r"\s*[!=]=\s*(?:'([^']*)'|([A-Za-z_]\w*(?:\.\w+)*))(\s*\+)?").match(text, match.end())
    if match[3] or after is None:
        return 0.0
    other = _resolve(after[2], scope, path) if after[2] else None
    length = len(after[1]) if after[2] is None else _longest(other) if other else 0.0
    return 0.1 * min(_longest(target), length) + (0.1 * length if after[3] else 0.0)


def _longest(target: Json) -> float:
    """Bytes of the longest string: 4 for each character, whole requests where nothing bounds it; 0 for what is none."""
    if target.get("type") not in ("string", None):
        return 0.0
    if "maxLength" in target:
        return 4.0 * target["maxLength"]
    return float(max(map(len, target["enum"]))) if "enum" in target else 3.0 * (1 << 20)


def _resolve(chain: str, scope: dict[str, Json], path: str) -> Json | None:
    head, *names = chain.split(".")
    if not path and head == "self" and names[:1] == ["metadata"]:
        return {"type": "string"} if names == ["metadata", "name"] else None
    node: Json | None = scope.get(head)
    for name in names:
        if node is None:
            return None
        node = node.get("properties", {}).get(name.removeprefix("__").removesuffix("__"))
    return node


def _closing(text: str, start: int) -> int:
    """Where the parenthesis that is open at `start` closes."""
    depth = 1
    for i in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[i], 0)
        if not depth:
            return i
    return len(text)
