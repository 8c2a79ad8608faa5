"""Option names: docs and tables agree; names of all engines mean what they say; values are checked."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from forebay.api.manifests.freshness import FRESHNESS
from forebay.api.manifests.options import OWN, STORES, across_nodes, translate

DOCS = Path(__file__).resolve().parents[2] / "docs" / "options.md"


def documented() -> dict[str, dict[str, tuple[str, tuple[str, ...]]]]:
    """Store -> option -> (kind, other names), as the tables of docs/options.md have them."""
    found: dict[str, dict[str, tuple[str, tuple[str, ...]]]] = {}
    store = ""
    for line in DOCS.read_text().splitlines():
        if heading := re.fullmatch(r"## `(\w+)` .*", line):
            store = heading[1]
            found[store] = {}
        elif store and (row := re.fullmatch(r"\| `([^`]+)` \| (\w+) \| [^|]+ \| (.*) \|", line)):
            cells = [] if row[3] == "-" else row[3].split(", ")
            names = tuple("!" * cell.endswith(" (opposite)") + cell.split("`")[1] for cell in cells)
            found[store][row[1]] = row[2], names
        elif line.startswith("## "):
            store = ""
    return found


def test_docs_hold_the_tables() -> None:
    assert documented() == {
        store: {o.name: (o.kind, tuple(sorted(o.names, key=lambda n: n[0] == "!"))) for o in options}
        for store, options in STORES.items()
    }


@pytest.mark.parametrize("store", STORES)
def test_every_name_is_taken(store: str) -> None:
    samples = {"text": "x", "secret": "x", "url": "https://h", "bool": "true"}
    for option in STORES[store]:
        for name in (option.name, OWN + option.name, *option.names):
            plain = name.lstrip("!")
            taken, problems = translate(store, {plain: samples[option.kind]}, {})
            expected = "false" if name.startswith("!") else samples[option.kind]
            assert taken[option.name].value == expected
            assert [p.message for p in problems] == (["is a credential in plain text"] if option.kind == "secret" else [])
            taken, problems = translate(store, {}, {plain: samples[option.kind]})
            assert taken[option.name].secret
            assert problems == []


@pytest.mark.parametrize(
    ("store", "options", "severity", "key", "message", "remedy"),
    [
        ("s3", {"fs.s3.endpiont": "x"}, "warning", "fs.s3.endpiont", "no option of the s3", 'did you mean "fs.s3.endpoint"?'),
        ("s3", {"quite.unknown": "x"}, "warning", "quite.unknown", "has no effect", "docs/options.md"),
        ("file", {"region": "x"}, "warning", "region", "no option of the file store", "docs/options.md"),
        ("s3", {"path_style": "maybe"}, "error", "path_style", "is no boolean", "true"),
        ("s3", {"endpoint": "ftp://h"}, "error", "endpoint", "is no http(s) URL", "https://"),
        ("s3", {"endpoint": ""}, "error", "endpoint", "is no http(s) URL", "https://"),
        ("s3", {"endpoint": "http://"}, "error", "endpoint", "is no http(s) URL", "https://"),
        ("s3", {"endpoint": "https://k:s@h"}, "error", "endpoint", "holds user information", "encryptOptions"),
        ("s3", {"region": ""}, "error", "region", "is empty", "give a value"),
        ("s3", {"region": "us\n"}, "error", "region", "control character", "remove it"),
        ("s3", {"fs.s3.region": "a", "aws.region": "b"}, "warning", "aws.region", "means the same as fs.s3.region", "keep one"),
        ("s3", {"fs.s3.region": "a", "region": "b"}, "warning", "fs.s3.region", "means the same as region", "keep one"),
        ("s3", {"region": "a", "forebay.io/region": "b"}, "warning", "region", "the same as forebay.io/region", "keep one"),
    ],
)
def test_problems(store: str, options: dict[str, str], severity: str, key: str, message: str, remedy: str) -> None:
    _, (problem,) = translate(store, options, {})
    assert (problem.severity, problem.key) == (severity, key)
    assert message in problem.message
    assert remedy in problem.remedy


def test_equal_values_under_two_names_are_no_problem() -> None:
    taken, problems = translate("s3", {"fs.s3.region": "a", "aws.region": "a"}, {})
    assert problems == []
    assert taken["region"].value == "a"


def test_freshness_is_no_store_option_and_no_secret() -> None:
    assert translate("file", {FRESHNESS: "immutable"}, {}) == ({}, [])
    _, (problem,) = translate("file", {}, {FRESHNESS: "immutable"})
    assert problem.severity == "error"


def test_an_encrypted_option_wins() -> None:
    taken, problems = translate("s3", {"secret_key": "plain"}, {"aws.secretKey": "hidden"})
    assert (taken["secret_key"].value, taken["secret_key"].written) == ("hidden", "aws.secretKey")
    assert [p.message for p in problems] == ["means the same as aws.secretKey, which is used"]
    taken, _ = translate("s3", {"secret_key": "plain"}, {"aws.secretKey": None})
    assert taken["secret_key"].value == "plain"


def test_a_secret_that_is_not_at_hand_is_taken_without_a_value() -> None:
    taken, problems = translate("s3", {}, {"aws.accessKeyId": None})
    assert taken["access_key"].value is None
    assert taken["access_key"].written == "aws.accessKeyId"
    assert problems == []


def test_a_directory_of_several_nodes_is_shared_unless_it_is_said_otherwise() -> None:
    assert across_nodes("file", {}) == {"shared": "true"}
    assert across_nodes("file", {"shared": "false"}) == {"shared": "false"}
    assert across_nodes("s3", {"region": "x"}) == {"region": "x"}
