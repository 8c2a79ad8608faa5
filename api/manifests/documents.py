"""Manifests as a data path reads them: typed, still unresolved, every part with its place in a file.

Nothing here holds the value of a secret except `SecretDoc`, which never shows it.
"""

from __future__ import annotations

import base64
import binascii
import re

import msgspec

from forebay.api.names import label
from forebay.api.schema import join
from forebay.api.spec import Medium
from forebay.api.yamldoc import Node

_SECRET_KEY = re.compile(r"[-._a-zA-Z0-9]{1,253}")


class SecretRef(msgspec.Struct, frozen=True):
    """Where the value of an encrypted option lies."""

    secret: str
    key: str
    optional: bool
    line: int


class MountDoc(msgspec.Struct, frozen=True):
    """One mount with the shared options already under its own. `place` is its normalised path in the tree."""

    index: int
    mount_point: str
    scheme: str  # lower case, "" where the mount point has none
    rest: str  # what follows "://"
    name: str
    place: str
    read_only: bool
    options: dict[str, str]
    encrypted: dict[str, SecretRef]
    lines: dict[str, int]  # of every option
    fields: dict[str, str]  # of every option, for messages
    line: int

    def __repr__(self) -> str:
        """Without what may hold a credential in plain text."""
        return f"MountDoc({self.field}, line={self.line}, place={self.place!r}, options={sorted(self.options)})"

    @property
    def field(self) -> str:
        return f"spec.mounts[{self.index}]"


class LevelDoc(msgspec.Struct, frozen=True):
    """One tier level. No path = a place of our own; a quota of 0 = none."""

    medium: Medium
    paths: tuple[str, ...]
    quotas: tuple[int, ...]  # as many as paths, or one without a path
    high: float
    low: float
    line: int


class RuntimeDoc(msgspec.Struct, frozen=True):
    kind: str
    namespace: str
    name: str
    levels: list[LevelDoc]  # ordered MEM, SSD, HDD
    client: list[LevelDoc]  # of a CacheRuntime's client, which are `levels` too where its worker has none
    annotations: dict[str, str]
    free_ratio: float | None  # JuiceFSRuntime's `low` is JuiceFS's --free-space-ratio
    engine: tuple[str, str]  # (kind, name) of the profile or class that describes its engine; ("", "") where none does
    file: str
    line: int


class DatasetDoc(msgspec.Struct, frozen=True):
    """A Dataset and the runtime bound to it by equal name and namespace, None where the files hold none."""

    namespace: str
    name: str
    mounts: list[MountDoc]
    access_modes: list[str]
    uid: int | None
    gid: int | None
    annotations: dict[str, str]
    annotation_lines: dict[str, int]
    file: str
    line: int
    runtime: RuntimeDoc | None = None

    @property
    def id(self) -> str:
        return f"{self.namespace}/{self.name}"

    @property
    def label(self) -> str:
        """How messages name it."""
        return label("Dataset", self.namespace, self.name)


class SecretDoc:
    """A Secret of the files. `get` is the only way to a value; nothing prints one."""

    __slots__ = ("_data", "file", "line", "name", "namespace")

    def __init__(self, namespace: str, name: str, data: dict[str, bytes], file: str, line: int) -> None:
        self.namespace, self.name, self._data, self.file, self.line = namespace, name, data, file, line

    def __repr__(self) -> str:
        return f"SecretDoc({self.namespace}/{self.name}, keys={sorted(self._data)})"

    def keys(self) -> list[str]:
        return sorted(self._data)

    def get(self, key: str) -> str | None:
        """The text under `key`, None when there is none. Raises `UnicodeDecodeError` for what is no text."""
        raw = self._data.get(key)
        return None if raw is None else raw.decode("utf-8")


def read_secret_data(node: Node) -> tuple[dict[str, bytes], list[tuple[str, int, str, str]]]:
    """The decoded `data` and `stringData` (which wins) of a Secret, and what is wrong: (field, line, message, remedy)."""
    values: dict[str, bytes] = {}
    bad: list[tuple[str, int, str, str]] = []
    for block in ("data", "stringData"):
        entries = node.at(block)
        if entries is None:
            continue
        if not isinstance(entries.value, dict):
            bad.append((block, entries.line, f"is {entries.kind}, not a mapping", "write key: value lines"))
            continue
        for key, value in entries.map().items():
            field = join(block, key)
            if not _SECRET_KEY.fullmatch(key):
                bad.append((join(block, key), value.line, "is no key of a Secret", "use letters, digits, -, _ and ."))
            elif not isinstance(value.value, str):
                bad.append((field, value.line, f"is {value.kind}, not a string", "put it in quotes"))
            elif block == "stringData":
                values[key] = value.value.encode()
            else:
                try:
                    values[key] = base64.b64decode("".join(value.value.split()), validate=True)
                except (binascii.Error, ValueError):
                    bad.append((field, value.line, "is no base64", "encode it (base64 -w0), or write it under stringData"))
    return values, bad
