"""Fluid's manifests with something wrong in them: never an exception, always sentences, and a sound spec if any."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from forebay.api.manifests.check import check
from forebay.api.manifests.manifest import load_documents
from forebay.api.manifests.resolve import resolve
from forebay.api.problem import Problem
from forebay.api.spec import decode_spec, encode_spec
from forebay.api.yamldoc import parse_documents

FOLDER = Path(__file__).resolve().parents[1] / "data" / "fluid-manifests"
FILES: list[list[Any]] = [list(yaml.safe_load_all(path.read_text())) for path in sorted(FOLDER.glob("*.yaml"))]
DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
ENVIRON = {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s"}

PLAIN = [None, True, 0, -1, 1 << 70, 1.5, float("nan"), "", "x", "..", "/", "a/../b", "10Gb", "1e9", "0.5", "a" * 300, "ü\x7f"]
POINTS = ["s4://x", "s3://b/\0", "s3://bucket", "http://[", "minio://h:1/b", "dataset://a/b/..", "local:///a", "MEM", "Cron"]
scalars = st.sampled_from([*PLAIN, *POINTS])
values = st.recursive(
    scalars, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.sampled_from(["name", "key", "x", "path"]), v, max_size=3)
)


def paths(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The place of every node."""
    found = [path]
    if isinstance(node, dict):
        for key, value in node.items():
            found += paths(value, (*path, key))
    elif isinstance(node, list):
        for i, value in enumerate(node):
            found += paths(value, (*path, i))
    return found


@st.composite
def mutated(draw: st.DrawFn) -> str:
    """The documents of one file, with one to four nodes replaced, removed, renamed or doubled."""
    documents = copy.deepcopy(draw(st.sampled_from(FILES)))
    for _ in range(draw(st.integers(1, 4))):
        places = [p for p in paths(documents) if p]
        if not places:
            break
        *parents, last = draw(st.sampled_from(places))
        node = documents
        for step in parents:
            node = node[step]
        match draw(st.sampled_from(["replace", "remove", "rename", "double"])):
            case "replace":
                node[last] = draw(values)
            case "remove":
                del node[last]
            case "rename" if isinstance(node, dict):
                node[draw(st.sampled_from(["zzz", "path", "name", str(last).upper(), "x\x1by"]))] = node.pop(last)
            case "double" if isinstance(node, list):
                node.append(copy.deepcopy(node[last]))
            case _:
                pass
    return str(yaml.dump_all(documents, Dumper=DUMPER))


@settings(max_examples=150, deadline=None)
@given(mutated(), st.sampled_from([None, "/cache-dir"]))
def test_a_wrong_manifest_is_never_an_exception(text: str, cache_dir: str | None) -> None:
    problems: list[Problem] = []
    loaded = load_documents(parse_documents(text, "f.yaml", problems), problems)
    specs, more = resolve(loaded, cache_dir=cache_dir, default_cache="/default", environ=ENVIRON, home="/nonexistent")
    for problem in [*check(loaded), *more]:
        for part in (problem.object, problem.field, problem.value, problem.message, problem.remedy):
            assert part.isprintable()
        assert problem.remedy
        assert problem.message
    for spec in specs:
        assert decode_spec(encode_spec(spec)) == spec
        assert len({t.path for t in spec.tiers}) == len(spec.tiers)
        for directory in (spec.index_dir, *(t.path for t in spec.tiers)):
            assert os.path.normpath(directory) == directory
            assert os.path.isabs(directory)
            assert f"/{spec.namespace}/{spec.name}" in directory
        for tier in spec.tiers:
            assert 0 < tier.low < tier.high <= 1
            assert tier.quota >= 0
        for mount in spec.mounts:
            assert mount.path == "/" or not {"", ".", ".."} & set(mount.path[1:].split("/"))
