"""DataLoads of one node each, where the scheduler wishes that a dataset be loaded before its pods come. Pure.

The wish is an annotation of the dataset's DatasetHints (`api/hints/datasethints.py`, LOAD_ON): so the scheduler needs no right to
make anything, and here it is bounded. A wish that is taken back, because the pods went elsewhere, ends the load; what came stays
until it is evicted.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

from forebay.api.crd.kinds import VERSION
from forebay.api.fluid import names as fluid
from forebay.api.fluid.kinds import GROUP
from forebay.api.hints.datasethints import LOAD_ON
from forebay.runtimes.engine import Object, Ref

AHEAD = "forebay.io/ahead"
"""Label of such a DataLoad: the hash of its node's name."""
MOST = 4
"""Nodes of one dataset at a time; as many loads of a dataset run at once (`loads/deciding.py`)."""
TTL = 120
"""Seconds that one stays after its end. If the wish stands after that, it is made again: a load that failed is so tried again."""
NAME_MAX = 63
_NODE = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")


class Known(NamedTuple):
    """A DataLoad that was made for a wish. `ended`: Complete or Failed; it goes by itself."""

    name: str
    uid: str
    ended: bool


class Step(NamedTuple):
    create: tuple[Object, ...] = ()
    delete: tuple[Known, ...] = ()


def wished(hints: Mapping[str, Any] | None) -> tuple[str, ...]:
    """Nodes by the annotation, at most MOST, each once. What is no name of a node is left out."""
    notes = ((hints or {}).get("metadata") or {}).get("annotations") or {}
    names = (part.strip() for part in str(notes.get(LOAD_ON, "")).split(","))
    return tuple(dict.fromkeys(name for name in names if _NODE.fullmatch(name)))[:MOST]


def step(dataset: Object, hints: Mapping[str, Any] | None, workers: Collection[str], known: Iterable[Known]) -> Step:
    """`workers`: nodes with a worker of the dataset that serves. Nothing is made for a Dataset that is not Bound."""
    meta = dataset["metadata"]
    serves = (dataset.get("status") or {}).get("phase") in ("Bound", "Updating") and not meta.get("deletionTimestamp")
    wanted = {name_of(meta["name"], node): node for node in wished(hints) if node in workers} if serves else {}
    there = {one.name: one for one in known}
    create = tuple(_load(meta, name, node) for name, node in wanted.items() if name not in there)
    return Step(create, tuple(one for name, one in there.items() if name not in wanted and not one.ended))


def name_of(dataset: str, node: str) -> str:
    return fluid.shorten("", dataset, f"-ahead-{fluid.mark(node)}", NAME_MAX)


def _load(dataset: Object, name: str, node: str) -> Object:
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "DataLoad",
        "metadata": {"name": name, "namespace": dataset["namespace"], "labels": {AHEAD: fluid.mark(node)}},
        "spec": {
            "dataset": {"name": dataset["name"], "namespace": dataset["namespace"]},
            "target": [{"path": "/"}],
            "options": {"nodes": node},
            "ttlSecondsAfterFinished": TTL,
        },
    }


def ref_of(namespace: str, one: Known) -> Ref:
    return Ref("DataLoad", namespace, one.name)
