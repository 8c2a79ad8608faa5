"""docs/troubleshooting.md has every reason that a condition or an Event may have, and quotes what is really said."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text()
GOOD = {"DatasetReady", "DatasetUpdating", "Ready", "WorkersMade", "WorkerReady", "NoWorkerReady", "UpToDate"}
"""Of what is well, and of conditions that repeat the one of `Ready`."""


def called(folder: str, names: tuple[str, ...]) -> set[str]:
    """CamelCase words among the texts that are given to these."""
    found: set[str] = set()
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and (getattr(node.func, "id", "") or getattr(node.func, "attr", "")) in names:
                texts = [a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
                found.update(t for t in texts if re.fullmatch(r"[A-Z][a-z]+([A-Z][a-z]+)*", t))
    return found - {"NotBound", "Bound", "Failed", "Updating"}


def rows() -> set[str]:
    """Words in backticks in first columns."""
    firsts = [line.strip("|").split("|")[0] for line in PAGE.splitlines() if line.startswith("|")]
    return {word for first in firsts for word in re.findall(r"`([A-Z][A-Za-z]+)`", first)}


def test_every_reason_is_there() -> None:
    reasons = called("runtimes", ("Finding", "Choice", "Verdict")) | called("controller", ("Finding", "warn"))
    assert {"SpecRefused", "InUse", "NotGranted", "NameTaken", "Refused"} <= reasons
    assert reasons - GOOD - rows() == set()


@pytest.mark.parametrize(
    ("folder", "text"),
    [
        ("fuse/csi", "is ready: its Service "),
        ("fuse/csi", "the pod of DaemonSet forebay-mounts does not run on this node (yet)"),
        ("fuse/csi", "is still starting: call again"),
        ("fuse/csi", "is not there"),
        ("fuse/csi", "allowed are"),
        ("fuse/csi", "cannot be read"),
        ("cli", "read datasets: end these pods first"),
        ("cli", "not taken away in time"),
        ("cli", "crash of the daemon"),
        ("cli", "open files"),
    ],
)
def test_what_is_quoted_is_said(folder: str, text: str) -> None:
    assert text in PAGE
    source = "".join(path.read_text() for path in (ROOT / folder).rglob("*.py"))
    assert text in re.sub(r'"\s*\n\s*f?"', "", source)


def test_reasons_of_the_table_exist() -> None:
    source = "".join(p.read_text() for folder in ("runtimes", "controller") for p in (ROOT / folder).rglob("*.py"))
    for reason in rows():
        assert f'"{reason}"' in source, reason
