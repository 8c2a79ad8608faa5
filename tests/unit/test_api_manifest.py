"""Manifests: what Fluid's users have loads, and every bad input is one sentence with file, line, field, value and remedy."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest
from manifest_cases import DATASET_ERRORS, GOOD, dataset, runtime, tier
from manifest_cases_runtimes import RUNTIME_ERRORS
from manifest_cases_warnings import WARNINGS

from forebay.api.fluid import kinds as fluid
from forebay.api.manifests import schemes
from forebay.api.manifests.check import check, exit_code, summary
from forebay.api.manifests.loaded import Loaded
from forebay.api.manifests.manifest import load, load_documents
from forebay.api.problem import Problem
from forebay.api.yamldoc import parse_documents

ERRORS = {**DATASET_ERRORS, **RUNTIME_ERRORS}
MANIFESTS = sorted((Path(__file__).resolve().parents[1] / "data" / "fluid-manifests").glob("*.yaml"))


def load_text(text: str) -> Loaded:
    problems: list[Problem] = []
    documents = parse_documents(textwrap.dedent(text), "f.yaml", problems)
    return load_documents(documents, problems)


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda p: p.name)
def test_fluid_manifests_have_no_error(path: Path) -> None:
    loaded = load([str(path)])
    assert loaded.errors == []
    assert exit_code(check(loaded)) == 0


def test_all_fluid_manifests_together() -> None:
    loaded = load([str(MANIFESTS[0].parent)])
    assert loaded.errors == []
    assert {d.id: d.runtime.kind if d.runtime else None for d in loaded.datasets} == {
        "default/corpus": "AlluxioRuntime",
        "team-a/mixed": "AlluxioRuntime",
        "default/lake": "JindoRuntime",
        "default/scratch": "JuiceFSRuntime",
        "team-a/homes": "ThinRuntime",
        "default/models": "CacheRuntime",
        "team-b/corpus-view": None,
    }
    places = {d.name: [m.place for m in d.mounts] for d in loaded.datasets}
    assert places["corpus"] == ["/"]
    assert places["mixed"] == ["/images", "/labels"]
    assert places["lake"] == ["/raw", "/sets/curated"]
    assert places["homes"] == ["/homes", "/old"]
    assert loaded.datasets[2].mounts[1].options["fs.s3.region"] == "eu-central-1"
    assert [(level.medium, level.paths, level.quotas) for level in loaded.datasets[1].runtime.levels] == [  # type: ignore[union-attr]
        ("MEM", ("/dev/shm",), (4 << 30,)),
        ("SSD", ("/var/cache/ssd0", "/var/cache/ssd1"), (40 << 30, 60 << 30)),
    ]


def test_all_fourteen_kinds_are_known() -> None:
    assert len(fluid.KINDS) == 14


def test_schemes_hold_what_fsspec_knows() -> None:
    registry = pytest.importorskip("fsspec.registry")
    assert set(registry.known_implementations) <= schemes.KNOWN


@pytest.mark.parametrize("case", ERRORS, ids=str)
def test_errors(case: str) -> None:
    text, line, field, words, remedy = ERRORS[case]
    loaded = load_text(text)
    found = [
        p
        for p in loaded.errors
        if p.line == line and field in p.field and words in f"{p.value} {p.message}" and remedy in p.remedy
    ]
    assert found, [str(p) for p in loaded.errors]
    sentence = str(found[0])
    assert sentence.startswith(f"f.yaml:{line}: error: ")
    assert "\n" not in sentence
    assert sentence.isprintable()
    assert found[0].remedy
    assert exit_code(check(loaded)) == 1


@pytest.mark.parametrize("case", [c for c in ERRORS if c not in {"same twice", "migrate from nothing", "foo bar"}], ids=str)
def test_one_mistake_is_one_error(case: str) -> None:
    errors = load_text(ERRORS[case][0]).errors
    allowed = {
        "typo in a field": 2,  # the unknown field, and the required one that is missing
        "short mount point": 2,  # it has no scheme either
        "owner": 3,  # user and group are missing too
        "class with a spec": 2,  # and no component
        "runs after itself": 2,  # each of the circle
    }.get(case, 1)
    assert len(errors) <= allowed, [str(e) for e in errors]


@pytest.mark.parametrize("case", WARNINGS, ids=str)
def test_warnings(case: str) -> None:
    text, line, field, words = WARNINGS[case]
    loaded = load_text(text)
    assert loaded.errors == []
    found = [p for p in loaded.warnings if p.line == line and field in p.field and words in p.message]
    assert found, [str(p) for p in loaded.warnings]
    assert found[0].remedy
    assert exit_code(check(loaded)) == 0


def test_the_sentence() -> None:
    (problem,) = load_text(tier("mediumtype: SSD, path: /c, quota: 10Gb")).errors
    assert str(problem) == (
        'f.yaml:14: error: AlluxioRuntime default/d: spec.tieredstore.levels[0].quota "10Gb" is no Kubernetes quantity; '
        "write 10Gi (powers of 1024) or 10G (powers of 1000)"
    )


def test_names_cannot_forge_terminal_output() -> None:
    loaded = load_text('apiVersion: data.fluid.io/v1alpha1\nkind: Dataset\nmetadata: {name: "a\\e[31m\\nb"}\n"x\\ey": 1\n')
    assert len(loaded.errors) == 2
    for problem in loaded.problems:
        assert str(problem).isprintable()


def test_a_list_of_objects_is_read() -> None:
    loaded = load_text(
        """
        apiVersion: v1
        kind: List
        items:
          - apiVersion: data.fluid.io/v1alpha1
            kind: Dataset
            metadata: {name: a}
            spec: {mounts: [{mountPoint: "local:///srv"}]}
          - apiVersion: data.fluid.io/v1alpha1
            kind: Dataset
            metadata: {name: b}
            spec: {mounts: [{mountPoint: "local:///srv"}]}
        """
    )
    assert [d.name for d in loaded.datasets] == ["a", "b"]
    assert loaded.problems == []


def test_objects_of_several_files_meet(tmp_path: Path) -> None:
    (tmp_path / "d.yaml").write_text(dataset(GOOD))
    (tmp_path / "r.yaml").write_text(runtime("JindoRuntime"))
    loaded = load([str(tmp_path / "d.yaml"), str(tmp_path / "r.yaml")])
    assert loaded.problems == []
    assert loaded.datasets[0].runtime is not None


def test_a_file_that_is_no_yaml_does_not_hide_the_others(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("a: [\n")
    (tmp_path / "good.yaml").write_text(dataset(GOOD))
    loaded = load([str(tmp_path / "bad.yaml"), str(tmp_path / "good.yaml")])
    assert [d.name for d in loaded.datasets] == ["d"]
    assert len(loaded.errors) == 1


def test_a_finding_about_a_shared_option_is_made_once() -> None:
    ref = "{name: access, valueFrom: {secretKeyRef: {name: s, key: k}}}"
    mounts = "[{mountPoint: 's3://bucket', name: a}, {mountPoint: 's3://other', name: b}]"
    loaded = load_text(dataset(f"sharedOptions: {{nothing: x}}\nsharedEncryptOptions: [{ref}]\nmounts: {mounts}"))
    assert [p.message for p in loaded.problems] == [
        "is no option of the s3 store and has no effect",
        "names a Secret that is not in these files",
    ]


def test_no_file_at_all(tmp_path: Path) -> None:
    loaded = load([str(tmp_path / "none.yaml")])
    assert [p.message for p in loaded.errors] == ["cannot be read (No such file or directory)"]


def test_findings_stand_in_the_order_of_lines() -> None:
    problems = check(
        load_text(dataset("zzz: 1\nmounts:\n  - {mountPoint: 's4://x', foo: 1}\n  - {mountPoint: 'pvc://x', name: b}"))
    )
    assert [p.line for p in problems] == sorted(p.line for p in problems)
    assert re.fullmatch(r"\d+ errors, \d+ warnings?", summary(problems))


def test_errors_belong_to_their_dataset() -> None:
    text = dataset(GOOD) + runtime("AlluxioRuntime") + runtime("JindoRuntime") + "---\n" + dataset(GOOD, name="other")
    loaded = load_text(text)
    assert [d.name for d in loaded.sound()] == ["other"]
