"""The schema tables: what they mark as acted on is what the documentation says, and they are whole."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from forebay.api.fluid import kinds as fluid
from forebay.api.manifests.dataset import OWN_ANNOTATIONS
from forebay.api.problem import Problem
from forebay.api.schema import List, MapOf, Obj, Type, Walk
from forebay.api.yamldoc import parse_documents

DOCS = Path(__file__).resolve().parents[2] / "docs" / "manifests.md"
CLASSIC = [k for k in fluid.RUNTIMES if k != "CacheRuntime"]


def acted_on(type_: Type, path: str) -> Iterator[str]:
    """Paths of the leaves that are marked as used, below objects and lists that are."""
    if isinstance(type_, Obj):
        for name, field in type_.fields.items():
            if field.used:
                yield from acted_on(field.type, f"{path}.{name}")
    elif isinstance(type_, List):
        yield from acted_on(type_.of, f"{path}[]")
    else:
        yield path


def documented(heading: str) -> list[str]:
    section = DOCS.read_text().split(f"### {heading}\n", 1)[1].split("\n#", 1)[0]
    return re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE)


@pytest.mark.parametrize(
    ("kind", "heading"), [("Dataset", "Dataset"), ("CacheRuntime", "CacheRuntime"), *((k, ", ".join(CLASSIC)) for k in CLASSIC)]
)
def test_docs_name_every_field_that_is_acted_on(kind: str, heading: str) -> None:
    if kind in CLASSIC:
        heading = "AlluxioRuntime, JindoRuntime, JuiceFSRuntime, EFCRuntime, VineyardRuntime, ThinRuntime"
    spec = fluid.KINDS[kind].fields["spec"].type
    assert sorted(documented(heading)) == sorted(acted_on(spec, "spec"))


def test_docs_name_our_annotations() -> None:
    assert documented("Annotations") == list(OWN_ANNOTATIONS)


def field_names(type_: Type) -> Iterator[str]:
    if isinstance(type_, Obj):
        for name, field in type_.fields.items():
            yield name
            yield from field_names(field.type)
    elif isinstance(type_, (List, MapOf)):
        yield from field_names(type_.of)


@pytest.mark.parametrize("kind", fluid.KINDS)
def test_every_kind_takes_an_object_without_optional_fields(kind: str) -> None:
    """Required fields are reported by name, and nothing else is wrong with an empty object."""
    problems: list[Problem] = []
    (node,) = parse_documents(
        f"apiVersion: {fluid.API_VERSION}\nkind: {kind}\nmetadata: {{name: x}}\nspec: {{}}\n", "f", problems
    )
    Walk(kind, problems, unused=False).check(node, fluid.KINDS[kind], "")
    known = set(field_names(fluid.KINDS[kind]))
    for problem in problems:
        if kind == "CacheRuntimeClass" and problem.field == "spec":
            continue
        assert problem.message == "is missing"
        assert problem.field.rpartition(".")[2] in known


def test_odd_spellings_of_fluid() -> None:
    """Where the kinds differ in spelling, as their CRDs do."""
    assert "tieredstore" in fluid.RUNTIMES["JindoRuntime"].fields
    assert "networkmode" in fluid.RUNTIMES["JindoRuntime"].fields
    assert "cleanCachePolicy" in fluid.RUNTIMES["JindoRuntime"].fields
    assert "management" in fluid.RUNTIMES["AlluxioRuntime"].fields
    worker = fluid.RUNTIMES["CacheRuntime"].fields["worker"].type
    assert isinstance(worker, Obj)
    assert "tieredStore" in worker.fields
    assert "spec" not in fluid.KINDS["CacheRuntimeClass"].fields
