"""Loads that the scheduler wishes for: made, bounded, taken back."""

from __future__ import annotations

from typing import Any

import pytest

from forebay.api.hints.datasethints import LOAD_ON
from forebay.api.manifests.dataload import read_load
from forebay.controller.loads.ahead import AHEAD, MOST, Known, name_of, step, wished

NODES = {"n1", "n2", "n3", "n4", "n5", "n6"}


def dataset(phase: str = "Bound", **meta: Any) -> dict[str, Any]:
    return {"metadata": {"name": "d", "namespace": "ns", "uid": "u", **meta}, "status": {"phase": phase}}


def hints(nodes: str) -> dict[str, Any]:
    return {"metadata": {"name": "d", "namespace": "ns", "annotations": {LOAD_ON: nodes}}}


def nodes_of(loads: Any) -> list[str]:
    return [read_load(one).nodes[0] for one in loads]


def test_a_wish_is_a_load_of_that_node_alone() -> None:
    (load,) = step(dataset(), hints("n2"), NODES, []).create
    spec = read_load(load)
    assert (spec.dataset, spec.nodes, [t.path for t in spec.targets], spec.ttl) == ("d", ("n2",), ["/"], 120)
    assert spec.ignored == ()
    assert AHEAD in load["metadata"]["labels"]
    known = Known(load["metadata"]["name"], "x", ended=False)
    assert step(dataset(), hints("n2"), NODES, [known]) == ((), ())
    assert step(dataset(), hints("n2"), NODES, [known._replace(ended=True)]) == ((), ())  # until its time is over


def test_a_wish_that_is_taken_back_ends_its_load() -> None:
    running, done = Known(name_of("d", "n1"), "a", ended=False), Known(name_of("d", "n2"), "b", ended=True)
    made = step(dataset(), hints("n3"), NODES, [running, done])
    assert nodes_of(made.create) == ["n3"]
    assert made.delete == (running,)
    assert step(dataset(), None, NODES, [running, done]).delete == (running,)


@pytest.mark.parametrize("phase", ["NotBound", "Failed", ""])
def test_nothing_is_loaded_for_what_does_not_serve(phase: str) -> None:
    assert step(dataset(phase), hints("n1"), NODES, []).create == ()
    assert step(dataset(deletionTimestamp="2026-11-27T05:00:00Z"), hints("n1"), NODES, []).create == ()
    assert step(dataset(), hints("n1"), {"n2"}, []).create == ()  # no worker there


@pytest.mark.parametrize(
    ("said", "nodes"),
    [
        ("n1, n2 ,n1,,", ("n1", "n2")),
        ("N1,-n2,n3/../x,n4 n5,$(n6)", ()),
        (",".join(sorted(NODES)), ("n1", "n2", "n3", "n4")),
        ("n1," * 100_000, ("n1",)),
    ],
)
def test_whatever_stands_there_is_bounded(said: str, nodes: tuple[str, ...]) -> None:
    assert wished(hints(said)) == nodes
    assert len(step(dataset(), hints(said), NODES, []).create) <= MOST
