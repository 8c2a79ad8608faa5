"""DatasetGrants in files: what the API server would refuse, and what it takes although the grant could give nothing."""

from __future__ import annotations

import textwrap

import pytest

from forebay.api.manifests.manifest import load_documents
from forebay.api.problem import Problem
from forebay.api.yamldoc import parse_documents

HEAD = "apiVersion: forebay.io/v1alpha1\nkind: DatasetGrant\nmetadata: {name: g, namespace: a}\n"
NEITHER = (
    "spec.namespaces is empty, and so is namespaceSelector; name who may refer to the dataset, or write namespaceSelector: {}"
)


def errors(text: str) -> list[str]:
    problems: list[Problem] = []
    loaded = load_documents(parse_documents(textwrap.dedent(text), "f.yaml", problems), problems)
    return [str(one).partition("DatasetGrant a/g: ")[2] for one in loaded.errors]


@pytest.mark.parametrize(
    "spec",
    [
        "{dataset: x, namespaces: [b]}",
        "{dataset: x, namespaceSelector: {}}",
        "{dataset: x, namespaces: [b], paths: [/, /train/], access: ReadOnly, expires: 2027-01-01T00:00:00Z}",
        "{dataset: x, namespaces: [b], expires: 2027-01-01t02:00:00+02:00}",
        "{dataset: x, namespaceSelector: {matchLabels: {a: b}, matchExpressions: [{key: a, operator: In, values: [c]}]}}",
    ],
)
def test_good_ones(spec: str) -> None:
    assert errors(f"{HEAD}spec: {spec}") == []


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("{dataset: x}", [NEITHER]),
        ("{dataset: x, namespaces: []}", [NEITHER]),
        ("{namespaces: [b]}", ["spec.dataset is missing; add it: it is required"]),
        ("{dataset: x, namespaces: [b], path: [/a]}", ['spec.path is no field of this kind; did you mean "paths"?']),
        ("{dataset: x, namespaces: [b], paths: [a]}", ['spec.paths[0] "a" is not absolute; write such as /train']),
        (
            "{dataset: x, namespaces: [b], paths: [/a, /a/../b]}",
            ['spec.paths[1] "/a/../b" holds a ".." part; write such as /train'],
        ),
        ("{dataset: x, namespaces: [b], paths: {}}", ["spec.paths {} is a mapping, not a list; write a list"]),
        (
            "{dataset: x, namespaces: [b], expires: tomorrow}",
            ['spec.expires "tomorrow" is no time with a zone; write one such as 2026-11-27T04:00:00Z'],
        ),
        (
            "{dataset: x, namespaces: [b], expires: 2027-01-01T00:00:00}",
            ['spec.expires "2027-01-01T00:00:00" is no time with a zone; write one such as 2026-11-27T04:00:00Z'],
        ),
        (
            "{dataset: x, namespaces: [b], access: ReadWrite}",
            ['spec.access "ReadWrite" is none of ReadOnly; write one of ReadOnly'],
        ),
        (
            "{dataset: x, namespaceSelector: {matchExpressions: [{key: a, operator: Into}]}}",
            [
                'spec.namespaceSelector.matchExpressions[0].operator "Into" '
                'is no operator of a label selector; did you mean "In"?',
            ],
        ),
        (
            "{dataset: x, namespaceSelector: {matchlabels: {a: b}}}",
            ['spec.namespaceSelector.matchlabels is no field of this kind; did you mean "matchLabels"?'],
        ),
    ],
)
def test_bad_ones(spec: str, said: list[str]) -> None:
    assert errors(f"{HEAD}spec: {spec}") == said


def test_another_version() -> None:
    assert errors(HEAD.replace("v1alpha1", "v1") + "spec: {dataset: x, namespaces: [b]}") == [
        'apiVersion "forebay.io/v1" is no version of forebay\'s API; write forebay.io/v1alpha1'
    ]
