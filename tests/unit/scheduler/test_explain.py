"""Sentences: what each node lacks, counted, and what would change it."""

from __future__ import annotations

from typing import Any

import pytest
from filterlab import cluster, node, pod
from test_filters import WEB, ZONE, far, listens, near, spread, term
from test_filters_volumes import claim, uses, world

from forebay.scheduler.arrays.cluster import Cluster
from forebay.scheduler.explain import failed_constraints, why

GPU = "nvidia.com/gpu"


def sixty_four() -> Cluster:
    """40 nodes whose GPUs are in use, 20 with a taint, 4 without GPUs."""
    nodes = [node(f"busy{i}", **{GPU: "8"}) for i in range(40)]
    nodes += [node(f"kept{i}", taints=[{"key": "x", "value": "y", "effect": "NoSchedule"}], **{GPU: "8"}) for i in range(20)]
    nodes += [node(f"bare{i}") for i in range(4)]
    return cluster(nodes, [pod(f"busy{i}", requests={GPU: "1"}) for i in range(40)])


def test_a_sentence_with_counts_and_the_nearest_remedy() -> None:
    made = sixty_four()
    request = made.request(pod(requests={GPU: "8"}))
    assert str(why(made, request)) == (
        "0 of 64 nodes: 40 too little free nvidia.com/gpu, 20 taint x=y:NoSchedule, 4 too small for nvidia.com/gpu; "
        "40 nodes lack nothing else: free nvidia.com/gpu, 8 asked and at most 7 free"
    )
    assert failed_constraints(made, request) == {GPU: 44, "taint x=y:NoSchedule": 20}


def test_what_fits_is_said() -> None:
    made = sixty_four()
    assert str(why(made, made.request(pod(requests={GPU: "7"})))) == "40 of 64 nodes fit"
    empty = Cluster()
    assert str(why(empty, empty.request(pod()))) == "0 of 0 nodes: add nodes"


SENTENCES: list[tuple[dict[str, Any], str]] = [
    (
        {"nodeSelector": {"disk": "ssd"}},
        "0 of 2 nodes: 2 no label disk=ssd; 2 nodes lack nothing else: label them disk=ssd or change nodeSelector",
    ),
    (
        {"requests": {"cpu": "9"}},
        "0 of 2 nodes: 2 too small for cpu; 2 nodes lack nothing else: ask for at most 8 cpu or add larger nodes",
    ),
    (
        {"requests": {"x.com/y": "1"}},
        "0 of 2 nodes: 2 no x.com/y; 2 nodes lack nothing else: install what offers it (a device plugin) or correct the name",
    ),
    (
        {"containers": [listens(80)]},
        "0 of 2 nodes: 2 host port 80/TCP in use; 2 nodes lack nothing else: do without host port 80",
    ),
    (
        far(term(WEB)),
        f"0 of 2 nodes: 2 anti-affinity to app=web in the same {ZONE}; 2 nodes lack nothing else: add nodes of another {ZONE}",
    ),
    (
        near(term({"app": "db"})),
        f"0 of 2 nodes: 2 pod affinity (app=db in the same {ZONE}); 2 nodes lack nothing else: start such a pod there first",
    ),
    (
        {"topologySpreadConstraints": [spread(minDomains=3)]},
        f"0 of 2 nodes: 2 spread by {ZONE}: more than maxSkew 1 of app=web; "
        f"2 nodes lack nothing else: add a {ZONE}: there are 2, minDomains is 3",
    ),
    (
        {"nodeSelector": {"disk": "ssd"}, "requests": {"cpu": "9"}},
        "0 of 2 nodes: 2 no label disk=ssd, 2 too small for cpu; every node lacks several things: "
        "label them disk=ssd or change nodeSelector; ask for at most 8 cpu or add larger nodes",
    ),
]


@pytest.mark.parametrize(("spec", "expected"), SENTENCES)
def test_sentences(spec: dict[str, Any], expected: str) -> None:
    nodes = [node("a", {ZONE: "a"}), node("b", {ZONE: "b"})]
    there = [pod(name, WEB, containers=[listens(80)]) for name in "ab"]
    made = cluster(nodes, there)
    assert str(why(made, made.request(pod(labels=WEB, **spec)))) == expected


def test_of_claims() -> None:
    made = world([claim("c", kind="gone")])
    assert str(why(made, made.request(uses("c")))) == (
        "0 of 3 nodes: 3 claim default/c: StorageClass gone does not exist; 3 nodes lack nothing else: create the class"
    )


def test_of_a_cordon_once_though_it_is_tainted_too() -> None:
    taint = {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}
    made = cluster([node("n", None, [taint], cordoned="yes")])
    assert (
        str(why(made, made.request(pod())))
        == "0 of 1 nodes: 1 cordoned; 1 node lacks nothing else: uncordon them (kubectl uncordon)"
    )


def test_a_reason_for_every_node_that_does_not_fit() -> None:
    made = sixty_four()
    told = why(made, made.request(pod(requests={GPU: "8", "cpu": "9"})))
    assert (told.nodes, told.fit, sum(one.alone for one in told.missing)) == (64, 0, 0)
