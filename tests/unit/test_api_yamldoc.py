"""YAML documents: lines, types as Kubernetes reads them, bounds, and messages that hold nothing of the file."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from forebay.api.problem import Problem
from forebay.api.yamldoc import MAX_DEPTH, MAX_FILE, Node, parse_documents, plain, read_documents


def parse(text: str) -> tuple[list[Node], list[Problem]]:
    problems: list[Problem] = []
    return parse_documents(text, "f.yaml", problems), problems


def one(text: str) -> Node:
    documents, problems = parse(text)
    assert problems == []
    (document,) = documents
    return document


def test_lines() -> None:
    document = one("# comment\na: 1\nb:\n  - x\n  - c: 2\n    d: |\n      text\n    e: last\n")
    assert document.line == 2
    assert document.key_lines == {"a": 2, "b": 3}
    item = document.at("b")
    assert item is not None
    assert [n.line for n in item.items()] == [4, 5]
    assert item.items()[1].key_lines == {"c": 5, "d": 6, "e": 8}


def test_documents_and_lists_of_lines_go_on_over_separators() -> None:
    documents, problems = parse("a: 1\n---\n# nothing\n---\nb: 2\n...\n---\nc: 3\n")
    assert problems == []
    assert [(plain(d), d.line) for d in documents] == [({"a": 1}, 1), ({"b": 2}, 5), ({"c": 3}, 8)]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("x", "x"),
        ('"1"', "1"),
        ("'true'", "true"),
        ("true", True),
        ("Yes", True),
        ("off", False),
        ("y", "y"),  # PyYAML and Kubernetes agree: no boolean
        ("null", None),
        ("~", None),
        ("12", 12),
        ("-12", -12),
        ("1_000", 1000),
        ("0x10", 16),
        ("0o17", 15),
        ("017", 15),
        ("1.5", 1.5),
        ("1e3", 1000.0),
        ("10:30", "10:30"),  # no base 60
        ("2024-01-01", "2024-01-01"),  # no date
        ("10Gi", "10Gi"),
        ("!!str 12", "12"),
        ("1.2.3", "1.2.3"),
        ("-", "-"),
    ],
)
def test_plain_scalars(text: str, value: object) -> None:
    if text == "-":
        assert plain(one(f'k: "{text}"')) == {"k": value}
        return
    assert plain(one(f"k: {text}")) == {"k": value}


def test_anchors_aliases_and_merges() -> None:
    document = one("base: &b {x: 1, y: 2}\nuse:\n  <<: *b\n  y: 3\nagain: *b\n")
    assert plain(document) == {"base": {"x": 1, "y": 2}, "use": {"x": 1, "y": 3}, "again": {"x": 1, "y": 2}}


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, 'has the key "a" twice in one mapping (first at line 1)'),
        ("a:\n  x: 1\n  x: 2\n", 3, 'has the key "x" twice in one mapping (first at line 2)'),
        ("a: 1\n b: 2\n", 2, "is no valid YAML"),
        ("a: [1, 2\nb: 3\n", 2, "is no valid YAML"),
        ("a: *nothing\n", 1, "holds an alias (*name) without an anchor (&name) before it"),
        ("a: &x\n  b: *x\n", 2, "holds an alias (*name) without an anchor (&name) before it"),
        ("a: !custom 3\n", 1, "has a YAML tag (!name) that means nothing here"),
        ("a: !!python/object:os.system {}\n", 1, "has a YAML tag (!name) that means nothing here"),
        ("? {a: 1}\n: 2\n", 1, "has a key that is no string"),
        ("a: 1\nb: \x07\n", 2, "holds a character that YAML does not allow"),
        ("a:\n\t- b\n", 2, "is no valid YAML"),
        ("a: &b x\nc:\n  <<: *b\n  <<: [1]\n", 3, 'has a "<<" whose value is no mapping'),
    ],
)
def test_refused(text: str, line: int, message: str) -> None:
    _, problems = parse(text)
    (problem,) = problems
    assert problem.severity == "error"
    assert message in problem.message
    assert problem.line == line
    assert problem.remedy


def test_what_stands_before_an_error_is_kept() -> None:
    documents, problems = parse("a: 1\n---\nb: [\n")
    assert [plain(d) for d in documents] == [{"a": 1}]
    assert len(problems) == 1


def test_billion_laughs_end_soon() -> None:
    lines = ["a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    _, problems = parse("\n".join(lines))
    (problem,) = problems
    assert "expands to more than" in problem.message


@pytest.mark.parametrize("opening", ["[", "{a: "])
def test_deep_nesting_ends_soon(opening: str) -> None:
    _, problems = parse(opening * 50_000)
    (problem,) = problems
    assert f"more than {MAX_DEPTH} levels" in problem.message or "no valid YAML" in problem.message


def test_deep_blocks_end_soon() -> None:
    _, problems = parse("".join("  " * i + "a:\n" for i in range(MAX_DEPTH + 5)))
    assert f"more than {MAX_DEPTH} levels" in problems[0].message


def test_messages_hold_nothing_of_the_file() -> None:
    secret = "hunter2hunter2"
    for text in (
        f"password: *{secret}\n",
        f"password: !{secret} x\n",
        f"password: {secret}: {secret}\n",
        f"password: [{secret}\n",
        f"password: '{secret}\n",
        f"password: @{secret}\n",
        f"password: %{secret}\n",
        f"%{secret} x\n---\na: 1\n",
        f"password: \x01{secret}\n",
        f"a: &{secret} 1\nb: *{secret}x\n",
        f'password: "\\q{secret}"\n',
        f"password: |{secret}\n  x\n",
    ):
        documents, problems = parse(text)
        assert problems, text
        for problem in problems:
            assert secret not in str(problem)
        assert secret not in repr(documents)


def test_files_folders_and_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "b.yaml").write_text("b: 1\n")
    (tmp_path / "a.yml").write_text("a: 1\n")
    (tmp_path / "c.json").write_text('{"c":\n\t1}')
    (tmp_path / "notes.txt").write_text("not: read\n")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"d: 1\n")))
    documents, problems = read_documents([str(tmp_path), "-"])
    assert problems == []
    assert [plain(d) for d in documents] == [{"a": 1}, {"b": 1}, {"c": 1}, {"d": 1}]
    assert [d.file for d in documents] == [*(str(tmp_path / n) for n in ("a.yml", "b.yaml", "c.json")), "-"]


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "latin.yaml").write_bytes(b"a: \xe9\n")
    (tmp_path / "big.yaml").write_bytes(b"#" * (MAX_FILE + 1))
    (tmp_path / "good.yaml").write_text("a: 1\n")
    names = ["missing.yaml", "empty", "latin.yaml", "big.yaml", "good.yaml"]
    documents, problems = read_documents([str(tmp_path / n) for n in names])
    assert [plain(d) for d in documents] == [{"a": 1}]
    assert [p.message for p in problems] == [
        "cannot be read (No such file or directory)",
        "is a folder without manifests",
        "is no UTF-8 text (byte 3)",
        "is larger than 16 MiB",
    ]
    assert all(p.remedy for p in problems)


def test_byte_order_marks(tmp_path: Path) -> None:
    for name, encoding in (("a", "utf-8-sig"), ("b", "utf-16")):
        (tmp_path / f"{name}.yaml").write_text("a: ü\n", encoding=encoding)
    documents, problems = read_documents([str(tmp_path)])
    assert problems == []
    assert [plain(d) for d in documents] == [{"a": "ü"}] * 2


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**12), 10**12) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(max_size=8), values, min_size=1, max_size=4))
def test_reads_what_a_yaml_writer_writes(value: dict[str, object]) -> None:
    # Quoted, for the two disagree by intent on plain 1e3, 0o7 and 12:30.
    assert plain(one(yaml.safe_dump(value, default_style='"'))) == value


@given(st.text(max_size=200))
def test_never_raises(text: str) -> None:
    problems: list[Problem] = []
    parse_documents(text, "f", problems)
    for problem in problems:
        assert str(problem)
