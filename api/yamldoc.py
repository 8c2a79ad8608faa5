"""YAML documents whose every node knows its file and line.

Built on PyYAML's event stream, not on its composer: nesting, size and the expansion of aliases are bounded, a key that
stands twice in a mapping is an error, and plain scalars get the types that Kubernetes' reader gives them (no dates, no
base-60 numbers). Messages never repeat text of the file: it may hold secrets.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from forebay.api.problem import Problem

MAX_FILE = 16 << 20
"""Bytes of one file; a custom resource may hold 1.5 MiB."""
MAX_DEPTH = 100
MAX_NODES = 500_000
"""Nodes of one file, aliases counted as often as they are used: ten nested levels of ten aliases stop here."""
SUFFIXES = (".yaml", ".yml", ".json")

type_names = {dict: "a mapping", list: "a list", str: "a string", bool: "a boolean", int: "an integer", float: "a number"}

_LOADER: type = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_NULL = {"", "~", "null", "Null", "NULL"}
_TRUE = {w for word in ("true", "yes", "on") for w in (word, word.capitalize(), word.upper())}
_FALSE = {w for word in ("false", "no", "off") for w in (word, word.capitalize(), word.upper())}
_INT = re.compile(r"[-+]?(0|[1-9][0-9_]*)|0x[0-9a-fA-F_]+|0o?[0-7_]+|0b[01_]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_SURROGATE = re.compile("[\ud800-\udfff]")
_PLAIN_TAGS = {
    "tag:yaml.org,2002:str",
    "tag:yaml.org,2002:int",
    "tag:yaml.org,2002:float",
    "tag:yaml.org,2002:bool",
    "tag:yaml.org,2002:null",
    "tag:yaml.org,2002:map",
    "tag:yaml.org,2002:seq",
    "!",
}

Scalar = str | int | float | bool | None


class Node:
    """One node. `value` is a dict of nodes, a list of nodes, or a scalar; `line` counts from 1.

    `key_lines` holds the line of every key of a mapping, `text` a scalar as it was written.
    """

    __slots__ = ("file", "key_lines", "line", "text", "value", "weight")

    def __init__(self, value: dict[str, Node] | list[Node] | Scalar, file: str, line: int, text: str = "") -> None:
        self.value = value
        self.file = file
        self.line = line
        self.text = text
        self.key_lines: dict[str, int] = {}
        self.weight = 1

    def __repr__(self) -> str:  # never the value: it may be a secret
        return f"Node({self.kind} at {self.file}:{self.line})"

    @property
    def kind(self) -> str:
        """What it is, for a message: "a string", "null" ..."""
        return "null" if self.value is None else type_names[type(self.value)]

    def map(self) -> dict[str, Node]:
        """The entries of a mapping without explicit nulls (the API server drops those); {} for anything else."""
        return {k: v for k, v in self.value.items() if v.value is not None} if isinstance(self.value, dict) else {}

    def items(self) -> list[Node]:
        """The items of a list; [] for anything else."""
        return self.value if isinstance(self.value, list) else []

    def at(self, *path: str) -> Node | None:
        """The node at a path of keys, None where a step is absent or null."""
        node: Node | None = self
        for key in path:
            node = node.map().get(key) if node is not None else None
        return node

    def string(self, key: str, default: str = "") -> str:
        """The string under `key`; `default` when it is absent or no string."""
        node = self.at(key)
        return node.value if node is not None and isinstance(node.value, str) else default

    def strings(self, key: str) -> dict[str, str]:
        """The map of strings under `key`; entries of other types are left out."""
        node = self.at(key)
        return {k: v.value for k, v in node.map().items() if isinstance(v.value, str)} if node is not None else {}


def plain(node: Node) -> object:
    """The node as plain Python values."""
    if isinstance(node.value, dict):
        return {k: plain(v) for k, v in node.value.items()}
    if isinstance(node.value, list):
        return [plain(v) for v in node.value]
    return node.value


def read_documents(paths: Sequence[str]) -> tuple[list[Node], list[Problem]]:
    """Every document of files, folders (their *.yaml, *.yml, *.json in order of name) and "-" (standard input).

    Empty documents are left out; a file that cannot be read or parsed is a problem and the others still count.
    """
    documents: list[Node] = []
    problems: list[Problem] = []
    for path in paths:
        for file in _expand(path, problems):
            text = _read(file, problems)
            if text is not None:
                documents += parse_documents(text, file, problems)
    return documents, problems


def parse_documents(text: str, file: str, problems: list[Problem]) -> list[Node]:
    """The documents of one text. What cannot be parsed is added to `problems`; documents before it are kept."""
    documents: list[Node] = []
    try:
        for document in _Composer(text, file).documents():
            if document.value is not None:
                documents.append(document)
    except _Bad as e:
        problems.append(Problem("error", file, e.line, "", "", "", e.message, e.remedy))
    except yaml.MarkedYAMLError as e:
        mark = e.problem_mark or e.context_mark
        what = _without_names(e.problem or e.context or "bad YAML")
        remedy = "correct the YAML there: mind indentation, colons and quotes"
        problems.append(Problem("error", file, mark.line + 1 if mark else 0, "", "", "", f"is no valid YAML ({what})", remedy))
    except (yaml.YAMLError, UnicodeError):  # a character YAML does not allow
        message = "holds a character that YAML does not allow"
        problems.append(Problem("error", file, _bad_line(text), "", "", "", message, "remove control characters from the file"))
    return documents


class _Bad(Exception):
    def __init__(self, line: int, message: str, remedy: str) -> None:
        super().__init__(message)
        self.line, self.message, self.remedy = line, message, remedy


class _Composer:
    """Builds nodes from events with an explicit bound on depth and number; invariant: `count` <= MAX_NODES."""

    def __init__(self, text: str, file: str) -> None:
        self.events: Iterator[yaml.Event] = yaml.parse(text, Loader=_LOADER)
        self.file = file
        self.count = 0
        self.anchors: dict[str, Node] = {}

    def documents(self) -> Iterator[Node]:
        for event in self.events:
            if isinstance(event, yaml.DocumentStartEvent):
                self.anchors = {}
                yield self.node(next(self.events), 1)

    def node(self, event: yaml.Event, depth: int) -> Node:
        line = _line(event)
        if depth > MAX_DEPTH:
            raise _Bad(line, f"is nested more than {MAX_DEPTH} levels deep", "flatten the document")
        if isinstance(event, yaml.AliasEvent):
            anchored = self.anchors.get(str(event.anchor))
            if anchored is None:
                raise _Bad(
                    line, "holds an alias (*name) without an anchor (&name) before it", "define the anchor, or quote the value"
                )
            self.grow(anchored.weight, line)
            return anchored
        self.grow(1, line)
        if isinstance(event, yaml.ScalarEvent):
            node = Node(self.scalar(event, line), self.file, line, event.value)
        elif isinstance(event, yaml.SequenceStartEvent):
            self.check_tag(event.tag, line)
            node = self.sequence(line, depth)
        else:
            assert isinstance(event, yaml.MappingStartEvent)
            self.check_tag(event.tag, line)
            node = self.mapping(line, depth)
        if event.anchor:
            self.anchors[event.anchor] = node
        return node

    def grow(self, weight: int, line: int) -> None:
        self.count += weight
        if self.count > MAX_NODES:
            raise _Bad(line, f"expands to more than {MAX_NODES} nodes", "use fewer aliases, or split the file")

    def sequence(self, line: int, depth: int) -> Node:
        items: list[Node] = []
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            items.append(self.node(event, depth + 1))
        node = Node(items, self.file, line)
        node.weight += sum(item.weight for item in items)
        return node

    def mapping(self, line: int, depth: int) -> Node:
        entries: dict[str, Node] = {}
        merged: list[tuple[Node, int]] = []
        node = Node(entries, self.file, line)
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            key_line = _line(event)
            key_node = self.node(event, depth + 1)
            value = self.node(next(self.events), depth + 1)
            node.weight += 1 + value.weight
            if isinstance(key_node.value, (dict, list)):
                raise _Bad(key_line, "has a key that is no string", "write a plain string before the colon")
            key = key_node.text
            if key == "<<" and isinstance(event, yaml.ScalarEvent) and event.implicit[0]:
                merged.append((value, key_line))
                continue
            if key in entries:
                first = node.key_lines[key]
                shown = json.dumps(key[:80])
                raise _Bad(key_line, f"has the key {shown} twice in one mapping (first at line {first})", "keep one of the two")
            entries[key] = value
            node.key_lines[key] = key_line
        for source, key_line in merged:
            self.merge(node, entries, source, key_line)
        return node

    def merge(self, node: Node, entries: dict[str, Node], source: Node, line: int) -> None:
        """`<<`: entries of a mapping, or of several in order, where the mapping has none of its own."""
        for other in source.items() or [source]:
            if not isinstance(other.value, dict):
                raise _Bad(line, 'has a "<<" whose value is no mapping', "merge a mapping, or a list of mappings")
            for key, value in other.value.items():
                if key not in entries:
                    entries[key] = value
                    node.key_lines[key] = other.key_lines[key]

    def scalar(self, event: yaml.ScalarEvent, line: int) -> Scalar:
        self.check_tag(event.tag, line)
        if _SURROGATE.search(event.value):
            raise _Bad(line, "holds half of a surrogate pair", "write the character itself")
        tag = (event.tag or "").rpartition(":")[2]
        if tag == "str" or (not event.implicit[0] and tag not in ("int", "float", "bool", "null")):
            return str(event.value)
        return resolve_plain(event.value)

    def check_tag(self, tag: str | None, line: int) -> None:
        if tag is not None and tag not in _PLAIN_TAGS:
            raise _Bad(line, "has a YAML tag (!name) that means nothing here", "remove the tag, or quote the value")


def resolve_plain(text: str) -> Scalar:
    """The value of an unquoted scalar, as Kubernetes' YAML reader sees it."""
    if text in _NULL:
        return None
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    if _INT.fullmatch(text):
        digits = text.replace("_", "")
        body = digits.lstrip("+-")
        if len(digits) > 400:  # int() of thousands of digits is refused by Python; no field takes one
            return text
        if body.startswith("0") and body.isdigit() and len(body) > 1:
            return int(digits, 8)
        return int(digits, 0)
    if _FLOAT.fullmatch(text):
        return float(text.replace(".inf", "inf").replace(".Inf", "inf").replace(".INF", "inf").lower().replace(".nan", "nan"))
    return text


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 0


def _without_names(problem: str) -> str:
    """A parser's message without what it quotes from the file (an alias, an anchor, a tag); its own punctuation stays."""
    return re.sub(r"\s*(['\"])(?!\W{1,2}\1).*\1", "", problem).strip()


def _bad_line(text: str) -> int:
    match = re.search("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", text)
    return text.count("\n", 0, match.start()) + 1 if match else 0


def _expand(path: str, problems: list[Problem]) -> list[str]:
    if path == "-" or not Path(path).is_dir():
        return [path]
    files = sorted(str(p) for p in Path(path).iterdir() if p.suffix in SUFFIXES and p.is_file())
    if not files:
        problems.append(Problem("error", path, 0, "", "", "", "is a folder without manifests", "put *.yaml files there"))
    return files


def _read(file: str, problems: list[Problem]) -> str | None:
    def bad(message: str, remedy: str) -> None:
        problems.append(Problem("error", file, 0, "", "", "", message, remedy))

    try:
        if file == "-":
            raw = sys.stdin.buffer.read(MAX_FILE + 1)
        else:
            with open(file, "rb") as f:
                raw = f.read(MAX_FILE + 1)
    except OSError as e:
        bad(f"cannot be read ({e.strerror})", "check the path and its permissions")
        return None
    if len(raw) > MAX_FILE:
        bad(f"is larger than {MAX_FILE >> 20} MiB", "split it into several files")
        return None
    try:
        return raw.decode("utf-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError as e:
        bad(f"is no UTF-8 text (byte {e.start})", "save it as UTF-8")
        return None
