"""From structs to tables, and what has no place in one."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
import pytest

from forebay.api.crd.structs import Written, count, listing, moment, size, struct_table, told
from forebay.api.schema import BOOL, INT, INT64, STR, Field, Int, List, MapOf, Obj, Str


class Inner(Written, frozen=True):
    name: Annotated[str, told("n.", min_length=1, max_length=3, pattern="^a")]


class Outer(Written, frozen=True):
    some_bytes: Annotated[int, size("b.")]
    some_count: Annotated[int, count("c.")] = 0
    percent: Annotated[int, told("p.", ge=0, le=100)] = 0
    plain: Annotated[int, told("p.")] = 0
    flag: Annotated[bool, told("f.")] = False
    when: Annotated[str, moment("w.")] = ""
    word: Annotated[Literal["b", "a"], told("w.", extra={"default": True})] = "b"
    words: Annotated[tuple[str, ...], told("w.", max_length=2)] = ()
    items: Annotated[list[Inner], listing("i.", "name", max_length=4)] = msgspec.field(default_factory=list)
    table: Annotated[dict[str, str], told("t.")] = msgspec.field(default_factory=dict)
    inner: Annotated[Inner | msgspec.UnsetType, told("i.")] = msgspec.UNSET
    maybe: Annotated[str | None, told("m.")] = None
    raw: Annotated[dict[str, Any], told("r.", extra={"shape": Obj({"x": Field(STR)})})] = msgspec.field(default_factory=dict)


def test_types_bounds_and_texts() -> None:
    fields = struct_table(Outer).fields
    inner = Obj({"name": Field(Str(1, max=3, pattern="^a"), required=True, text="n.")})
    assert {name: f.type for name, f in fields.items()} == {
        "someBytes": Int(0, INT64.max),
        "someCount": Int(0, INT.max),
        "percent": Int(0, 100),
        "plain": INT64,
        "flag": BOOL,
        "when": Str(format="date-time"),
        "word": Str(enum=("a", "b")),
        "words": List(STR, max=2),
        "items": List(inner, max=4, keys=("name",)),
        "table": MapOf(STR),
        "inner": inner,
        "maybe": STR,
        "raw": Obj({"x": Field(STR)}),
    }
    assert [name for name, f in fields.items() if f.required] == ["someBytes"]
    assert {name: f.default for name, f in fields.items() if f.default is not None} == {"word": "b"}
    assert fields["someBytes"].text == "b."


def test_zero_values_are_left_out_and_required_ones_are_not() -> None:
    assert msgspec.to_builtins(Outer(some_bytes=0)) == {"someBytes": 0}


def _struct(annotation: Any) -> type[msgspec.Struct]:
    return msgspec.defstruct("Odd", [("odd", annotation)])


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (Annotated[float, told("f.")], "Odd.odd: a FloatType"),
        (Annotated[int | str, told("u.")], "Odd.odd: a UnionType"),
        (Annotated[Any, told("a.")], "Odd.odd: a AnyType"),
        (str, "Odd.odd has no description"),
    ],
)
def test_what_has_no_place_is_refused_by_name(annotation: Any, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        struct_table(_struct(annotation))
