"""A DataLoad as it is read, and what a load says at its end."""

from __future__ import annotations

from typing import Any

import pytest

from forebay.api import loadresult
from forebay.api.fluid.status import Progress
from forebay.api.loadresult import LoadResult
from forebay.api.manifests.dataload import After, LoadSpecError, LoadTarget, dataset_of, read_load


def load(**spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": "l", "namespace": "ns"}, "spec": {"dataset": {"name": "d"}, **spec}}


def test_what_is_not_said_is_filled_in() -> None:
    found = read_load(load())
    assert found.targets == (LoadTarget("/"),)
    assert (found.policy, found.refresh, found.metadata_only, found.timeout, found.ttl, found.after) == (
        "Once", False, False, 0, None, None,
    )  # fmt: skip
    assert dataset_of(load()) == ("ns", "d")
    assert dataset_of(load(dataset={"name": "d", "namespace": "o"})) == ("o", "d")
    assert read_load(load(target=None, options=None, policy="")).targets == (LoadTarget("/"),)


def test_targets_are_absolute_and_named_once() -> None:
    target = [{"path": "a/b/"}, {"path": "/a//b", "replicas": 2}, {"path": "/**/*.tar", "replicas": 0}, {"path": ""}]
    assert read_load(load(target=target)).targets == (LoadTarget("/a/b", 2), LoadTarget("/**/*.tar"), LoadTarget("/"))


def test_nodes_are_named_once_each() -> None:
    assert read_load(load()).nodes == ()
    assert read_load(load(options={"nodes": " node-2,node-1,,node-2 "})).nodes == ("node-2", "node-1")


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"options": {"nodes": "node-1,--node=x"}}, r'spec.options.nodes "--node=x" is no name of a node'),
        ({"options": {"nodes": "n 1"}}, r"is no name of a node; write such as node-1,node-2"),
        ({"options": {"nodes": ",".join(f"n{n}" for n in range(101))}}, r"names 101 nodes, at most 100"),
        ({"target": [{"path": "/ok"}, {"path": "/a/../b"}]}, r'spec.target\[1\].path "/a/../b" holds a ".." part'),
        ({"target": [{"path": "/a\0"}]}, r"holds a NUL"),
        ({"target": [{"path": "/" + "x" * 300}]}, r"255 bytes"),
        ({"target": [{"path": "/a", "replicas": -1}]}, r"spec.target\[0\].replicas -1 is out of range; write 1"),
        ({"target": [{"path": f"/{n}"} for n in range(1001)]}, r"1001 entries, at most 1000"),
        ({"options": {"timeout": "soon"}}, r'spec.options.timeout "soon" is no duration; write such as 90s'),
        ({"options": {"metadataOnly": "yes"}}, r'metadataOnly "yes" is neither; write true or false'),
        ({"dataset": {}}, r"spec.dataset.name is missing"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_field_and_remedy(spec: dict[str, Any], words: str) -> None:
    with pytest.raises(LoadSpecError, match=words):
        read_load(load(**spec))


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("30m", 1800), ("2h30m", 9000), ("1h0m1s", 3601), ("", 0)]
)
def test_timeouts(text: str, seconds: int) -> None:
    assert read_load(load(options={"timeout": text})).timeout == seconds


def test_what_is_not_acted_on_is_said() -> None:
    after = {"kind": "DataLoad", "name": "first", "affinityStrategy": {"policy": "Require"}}
    found = read_load(load(options={"metadataonly": "true", "spark": "1"}, runAfter=after, loadMetadata=True))
    assert found.after == After("DataLoad", "ns", "first")
    assert found.refresh
    assert len(found.ignored) == 3
    assert "metadataOnly" in found.ignored[0]


def test_a_result_fits_into_a_termination_message() -> None:
    result = LoadResult(reason="Incomplete", message="é" * 9000, notes="n" * 9000, progress=Progress(done_bytes=1 << 60))
    text = loadresult.encode(result)
    assert 1000 < len(text) <= 4096
    found = loadresult.decode(text.decode())
    assert found is not None
    assert (found.reason, found.progress) == ("Incomplete", result.progress)
    assert loadresult.decode("Traceback: no JSON") is None
    assert loadresult.decode("") is None
