"""API objects through the reader of manifests: one set of rules for files and for a cluster."""

from __future__ import annotations

import copy
from typing import Any

from forebay.api.manifests.documents import DatasetDoc
from forebay.api.manifests.manifest import load_documents
from forebay.api.problem import Problem
from forebay.api.yamldoc import Node
from forebay.runtimes.engine import Finding, Object, Subject


def node_of(value: Any, file: str) -> Node:
    """Plain values as a document without lines."""
    if isinstance(value, dict):
        node = Node({str(k): node_of(v, file) for k, v in value.items()}, file, 0)
        node.key_lines = dict.fromkeys(map(str, value), 0)
        return node
    if isinstance(value, list):
        return Node([node_of(v, file) for v in value], file, 0)
    return Node(value, file, 0, "" if value is None else str(value))


def read(subject: Subject, runtime: Object | None) -> tuple[DatasetDoc | None, tuple[Finding, ...]]:
    """The dataset with its runtime, typed, and what is wrong with the two; None with errors.

    Warnings of the reader are about one machine and its files, so they are not taken over.
    """
    objects = [asked(subject.dataset), *([asked(runtime)] if runtime is not None else []), *map(asked, subject.classes)]
    loaded = load_documents([node_of(obj, "") for obj in objects], [])
    errors = tuple(dict.fromkeys(finding(p) for p in loaded.errors))
    return (loaded.datasets[0] if loaded.datasets and not errors else None), errors


def finding(problem: Problem) -> Finding:
    subject = " ".join(part for part in (problem.field, problem.value, problem.message) if part)
    text = f"{problem.object}: {subject}" + (f"; {problem.remedy}" if problem.remedy else "")
    text = text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)
    return Finding(problem.severity, "SpecRefused", text)


def asked(obj: Object) -> Object:
    """An object without status and bookkeeping. 0 replicas are fine in a cluster, where `/scale` writes them."""
    meta = {k: v for k, v in obj["metadata"].items() if k in ("name", "namespace", "annotations", "labels")}
    asked = copy.deepcopy({k: v for k, v in obj.items() if k not in ("status", "metadata")}) | {"metadata": meta}
    spec = asked.get("spec")
    if isinstance(spec, dict) and spec.get("replicas") == 0:
        del spec["replicas"]
    return asked
