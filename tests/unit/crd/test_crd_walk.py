"""`forebay check` and the API server read the same tables: what one refuses of types and fields, so does the other."""

from __future__ import annotations

import json
from typing import Any

import pytest
from crd_admission import Admission, plain, schema_errors, schema_of, unknown_fields
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from forebay.api import schema
from forebay.api.fluid import kinds as fluid
from forebay.api.problem import Problem
from forebay.api.schema import Field, List, MapOf, Obj, Type, Walk
from forebay.api.yamldoc import parse_documents

SERVER = Admission()
SCHEMAS = {kind: schema_of(SERVER.crds[fluid.GROUP, kind]) for kind in fluid.KINDS}
ODD = st.sampled_from([17, -1, "x", "", True, [], {}, [1], {"a": "b"}, "10Gb", 1.5])
"""Values that are wrong somewhere."""


def values(type_: Type, depth: int = 0) -> st.SearchStrategy[Any]:
    """Mostly good values of a type, some odd ones. Core types are as small as they can be."""
    match type_:
        case Obj():
            return objects(type_, depth)
        case List():
            return st.lists(values(type_.of, depth + 1), min_size=0, max_size=2)
        case MapOf():
            return st.dictionaries(st.sampled_from(["a", "b.c"]), values(type_.of, depth + 1), max_size=2)
        case schema.Str():
            return st.sampled_from([*type_.enum, "s3://bucket/x", "x" * (type_.min or 1)])
        case schema.Int():
            return st.sampled_from([1, max(type_.min, -(1 << 31)), min(type_.max, 7)])
        case schema.Bool():
            return st.booleans()
        case schema.Quantity():
            return st.sampled_from(["10Gi", 1024, "1.5G"])
        case schema.Any():
            return st.just(least(type_.shape))  # the walk does not look inside
    raise AssertionError(type_)


def least(type_: Type | None) -> Any:
    """The smallest good value of a core type."""
    if isinstance(type_, Obj):
        return {name: least(f.type) for name, f in type_.fields.items() if f.required}
    return [] if isinstance(type_, List) else "x"


@st.composite
def objects(draw: st.DrawFn, type_: Obj, depth: int) -> Any:
    names = [n for n, f in type_.fields.items() if f.required]
    names += draw(st.lists(st.sampled_from(sorted(type_.fields)), max_size=3 if depth < 3 else 1)) if type_.fields else []
    found = {name: draw(values(type_.fields[name].type, depth + 1)) for name in names}
    roll = draw(st.integers(0, 39))
    if roll == 0:
        found[draw(st.sampled_from(["shoe", "mountpoint", "Mounts"]))] = draw(ODD)
    elif roll == 1 and names:
        found.pop(names[0], None)
    elif roll == 2 and names:
        name = draw(st.sampled_from(names))
        inner = type_.fields[name].type
        if not isinstance(inner, schema.Any):
            found[name] = draw(ODD)
    return found


def walked(kind: str, document: dict[str, Any]) -> list[str]:
    problems: list[Problem] = []
    (node,) = parse_documents(json.dumps(document), "f", problems)
    Walk(kind, problems, unused=False).check(node, fluid.KINDS[kind], "")
    return [str(p) for p in problems if p.severity == "error"]


@pytest.mark.parametrize("kind", fluid.KINDS)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_both_say_the_same(kind: str, data: st.DataObject) -> None:
    head = {"apiVersion": fluid.API_VERSION, "kind": kind, "metadata": {"name": "x"}}
    if kind in fluid.SPECS:
        document = {**head, "spec": data.draw(values(fluid.SPECS[kind]))}
    else:
        document = {**head, **data.draw(values(fluid.CACHE_RUNTIME_CLASS))}
    server = [*unknown_fields(document, SCHEMAS[kind]), *schema_errors(document, SCHEMAS[kind])]
    # two encrypted options of one name are an error of both, in check a rule beyond the walk
    server = [e for e in server if "Duplicate value" not in e]
    assert bool(walked(kind, document)) == bool(server), (walked(kind, document), server)
    if not server:  # a rule that misses a has() fails on objects that lack the field: a refusal without its message
        assert not [e for e in SERVER.create(document)[1] if "ended with" in e]


def test_the_comparison_can_tell() -> None:
    document = {"apiVersion": fluid.API_VERSION, "kind": "Dataset", "metadata": {"name": "x"}, "spec": {"placement": "Alone"}}
    assert walked("Dataset", document)
    assert schema_errors(document, SCHEMAS["Dataset"])
    loose = {**SCHEMAS["Dataset"], "properties": {**SCHEMAS["Dataset"]["properties"], "spec": {"type": "object"}}}
    assert not schema_errors(document, loose)
    assert plain({"type": "integer", "format": "int32"}) == {"type": "integer", "minimum": -(1 << 31), "maximum": (1 << 31) - 1}


def test_bounds_of_the_tables_are_said_by_both() -> None:
    for spec, words in (
        ({"mounts": [{"mountPoint": "s3://bucket/x"}] * 513}, "give at most 512"),
        ({"mounts": [{"mountPoint": "s3://" + "x" * 2048}]}, "write at most 2048"),
    ):
        document = {"apiVersion": fluid.API_VERSION, "kind": "Dataset", "metadata": {"name": "x"}, "spec": spec}
        assert any(words in e for e in walked("Dataset", document))
        assert schema_errors(document, SCHEMAS["Dataset"])


def test_patterns_and_ports_are_walked_too() -> None:
    """Types that Fluid's own fields do not use yet, but the tables have."""
    table = Obj({"word": Field(schema.Str(pattern="^a+$")), "port": Field(schema.IntOrString())})
    for text, bad in (("{word: aa, port: 80}", 0), ("{word: ab, port: http}", 1), ("{word: a, port: []}", 1)):
        problems: list[Problem] = []
        (node,) = parse_documents(text, "f", problems)
        Walk("x", problems, unused=False).check(node, table, "")
        assert len(problems) == bad, problems


def test_a_loose_table_takes_any_part() -> None:
    table = schema.loose(
        Obj({"a": Field(schema.Str(min=3, enum=("abc",)), required=True), "b": Field(List(schema.Int(1, 2), min=1))})
    )
    problems: list[Problem] = []
    (node,) = parse_documents("{b: [7]}", "f", problems)
    Walk("x", problems, unused=False).check(node, table, "")
    assert problems == []
    (node,) = parse_documents("{a: x, c: 1}", "f", problems)
    Walk("x", problems, unused=False).check(node, table, "")
    assert [p.field for p in problems] == ["c"]
