"""What pods get from their queue and from the settings beside bounds: how nodes and cards are filled, where they may run, what of
caches they count for."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from livekit import binds, bound, core, node, pod

from forebay.api.kubernetes.core import Node, Pod
from forebay.scheduler.live.config import Configuration, Filling
from forebay.scheduler.live.core import Core
from forebay.scheduler.live.instructions import Bind, Tell

CACHE = "forebay.io/cache-bytes"
SHARED = {"aliyun.com/gpu-mem": "32", "aliyun.com/gpu-count": "2"}
QUEUE = "quota.scheduling.koordinator.sh/name"


def tree(*leaves: dict[str, Any], **attributes: str) -> dict[str, Any]:
    """An ElasticQuotaTree; `attributes` of its root."""
    root = {"name": "root", "attributes": attributes, "children": list(leaves)}
    meta = {"name": "elasticquotatree", "namespace": "kube-system"}
    return {"apiVersion": "scheduling.sigs.k8s.io/v1beta1", "kind": "ElasticQuotaTree", "metadata": meta, "spec": {"root": root}}


def leaf(name: str, namespace: str = "n", most: dict[str, str] | None = None, **attributes: str) -> dict[str, Any]:
    said = {f"forebay.io/{key}": value for key, value in attributes.items() if key != "resourceflavors"}
    said |= {key: value for key, value in attributes.items() if key == "resourceflavors"}
    return {"name": name, "namespaces": [namespace], "max": most or {"cpu": "100"}, "attributes": said}


def of(name: str, queue: str, **more: Any) -> Pod:
    made = pod(name, **more)
    return msgspec.structs.replace(made, metadata=msgspec.structs.replace(made.metadata, labels={QUEUE: queue}))


def noted(one: Pod, **notes: str) -> Pod:
    return msgspec.structs.replace(one, metadata=msgspec.structs.replace(one.metadata, annotations=notes))


def told(done: Any) -> list[str]:
    return [one.sentence for one in done if isinstance(one, Tell)]


def cards(done: Any) -> list[str]:
    return sorted(one.annotations["ALIYUN_COM_GPU_MEM_IDX"] for one in done if isinstance(one, Bind))


def two_nodes(offered: dict[str, str] | None = None, **settings: Any) -> Core:
    c = core(**settings)
    for name in ("a", "b"):
        c.apply("Node", None, node(name, 8, **(offered or {})))
    return c


@pytest.mark.parametrize(("order", "nodes"), [("binpack", 1), ("spread", 2)])
@pytest.mark.parametrize("policy", ["forebay", "bestfit", "dotprod"])
def test_a_queue_says_how_nodes_are_filled_with_its_pods(order: str, nodes: int, policy: str) -> None:
    c = two_nodes(policy=policy)
    c.apply("Quota", None, tree(leaf("root-a", nodes=order)))
    for n in range(4):
        c.apply("Pod", None, pod(f"p{n}"))
    where = binds(c.decide(0))
    assert len(where) == 4
    assert len(set(where.values())) == nodes
    if order == "spread":
        assert sorted(where.values()) == ["a", "a", "b", "b"]


def test_queues_of_one_cluster_differ_and_a_parent_answers_for_its_children() -> None:
    c = two_nodes()
    packed = {"name": "parent", "attributes": {"forebay.io/nodes": "binpack"}, "children": [leaf("in", "x")]}
    c.apply("Quota", None, tree(packed, leaf("apart", "y", nodes="spread")))
    for n in range(4):
        c.apply("Pod", None, of(f"in{n}", "in"))
    inside = binds(c.decide(0))
    assert len(set(inside.values())) == 1
    for n in range(2):
        c.apply("Pod", None, of(f"apart{n}", "apart"))
    assert set(binds(c.decide(1)).values()) == {"a", "b"} - set(inside.values())  # the emptier one takes both: 4 to 2


@pytest.mark.parametrize(("order", "held"), [("binpack", ["0", "0"]), ("spread", ["0", "1"])])
def test_a_queue_says_how_cards_are_filled_and_the_pod_before_it(order: str, held: list[str]) -> None:
    c = core()
    c.apply("Node", None, node("a", 8, **SHARED))
    c.apply("Quota", None, tree(leaf("q", cards=order)))
    for n in range(2):
        c.apply("Pod", None, pod(f"p{n}", limits={"aliyun.com/gpu-mem": "4"}))
    assert cards(c.decide(0)) == held


@pytest.mark.parametrize(("order", "nodes"), [("binpack", 1), ("spread", 2)])
def test_shares_of_cards_gather_on_nodes_or_spread_over_them(order: str, nodes: int) -> None:
    c = two_nodes(SHARED)
    c.apply("Quota", None, tree(leaf("q", nodes=order)))
    for n in range(4):
        c.apply("Pod", None, pod(f"p{n}", limits={"aliyun.com/gpu-mem": "4"}))
    assert len(set(binds(c.decide(0)).values())) == nodes


def test_settings_say_it_where_nobody_else_does_and_are_read_anew() -> None:
    c = two_nodes()
    c.configure(Configuration(fill=Filling(nodes="spread")))
    for n in range(2):
        c.apply("Pod", None, pod(f"p{n}"))
    assert set(binds(c.decide(0)).values()) == {"a", "b"}
    c.configure(Configuration(fill=Filling(nodes="binpack")))
    for n in range(2, 6):
        c.apply("Pod", None, pod(f"p{n}"))
    assert len(set(binds(c.decide(1)).values())) == 1


def test_settings_fill_cards_after_the_nodes_label() -> None:
    c = core()
    labelled = node("a", 8, **SHARED)
    labels = {**labelled.metadata.labels, "ack.node.gpu.placement": "binpack"}
    labelled = msgspec.structs.replace(labelled, metadata=msgspec.structs.replace(labelled.metadata, labels=labels))
    c.apply("Node", None, labelled)
    c.configure(Configuration(fill=Filling(cards="spread")))
    for n in range(2):
        c.apply("Pod", None, pod(f"p{n}", limits={"aliyun.com/gpu-mem": "4"}))
    assert cards(c.decide(0)) == ["0", "0"]
    c.apply("Node", labelled, node("a", 8, **SHARED))  # the label goes: the settings count
    c.apply("Pod", None, pod("next", limits={"aliyun.com/gpu-mem": "4"}))
    assert cards(c.decide(1)) == ["1"]


def hami(cpu: int = 16) -> Node:
    made = node("a", cpu, **{"nvidia.com/gpu": "20"})
    listed = "".join(f"GPU-{n},10,16384,100,NVIDIA-T4,0,true:" for n in range(2))
    meta = msgspec.structs.replace(made.metadata, annotations={"hami.io/node-nvidia-register": listed})
    return msgspec.structs.replace(made, metadata=meta)


def test_whole_cards_and_shares_are_mixed_or_kept_apart_by_a_setting() -> None:
    share, whole = {"nvidia.com/gpu": "1", "nvidia.com/gpumem": "4096"}, {"nvidia.com/gpu": "1"}
    c = core(mix_whole=False, preemption=False)
    c.apply("Node", None, hami())
    c.apply("Pod", None, pod("share", limits=share))
    assert binds(c.decide(0)) == {"share": "a"}
    c.apply("Pod", None, pod("whole", limits=whole))
    done = c.decide(1)
    assert "node keeps whole cards and shares apart" in told(done)[0]
    c.configure(Configuration(mix_whole=True, preemption=False))
    assert binds(c.decide(100)) == {"whole": "a"}


def flavor(name: str, **labels: str) -> dict[str, Any]:
    return {"kind": "ResourceFlavor", "metadata": {"name": name}, "spec": {"nodeLabels": labels}}


def labelled(name: str, **labels: str) -> Node:
    made = node(name)
    return msgspec.structs.replace(made, metadata=msgspec.structs.replace(made.metadata, labels=labels))


def test_a_queues_flavors_say_on_which_nodes_its_pods_run() -> None:
    c = core()
    c.apply("Node", None, labelled("a", pool="on-demand"))
    c.apply("Node", None, labelled("b", pool="spot"))
    c.apply("Quota", None, tree(leaf("q", resourceflavors="spot, more")))
    c.apply("ResourceFlavor", None, flavor("spot", pool="spot"))
    c.apply("Pod", None, pod("p"))
    assert 'queue "q" runs on nodes of resource flavor spot, more, and ResourceFlavor more' in told(c.decide(0))[0]
    c.apply("ResourceFlavor", None, flavor("more", pool="more"))
    assert binds(c.decide(100)) == {"p": "b"}
    elsewhere = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
        {"matchExpressions": [{"key": "pool", "operator": "NotIn", "values": ["spot"]}]}]}}}  # fmt: skip
    c.apply("Pod", None, pod("never", affinity=elsewhere))
    assert "0 of 2 nodes" in told(c.decide(101))[0]
    c.apply("ResourceFlavor", flavor("spot", pool="spot"), flavor("spot", pool="on-demand"))
    assert binds(c.decide(200)) == {"never": "a"}


def test_cache_bytes_are_a_resource_of_quotas() -> None:
    """A worker says how much its tiers may hold; who is over its queue's bound waits; it comes back with the worker's end."""
    c = core()
    c.apply("Node", None, node("a", 8))
    c.apply("Quota", None, tree(leaf("q", most={CACHE: "100Gi"})))
    worker = noted(bound(pod("worker"), "a"), **{CACHE: str(80 << 30)})
    c.apply("Pod", None, worker)
    c.apply("Pod", None, noted(pod("more"), **{CACHE: "30Gi"}))
    c.apply("Pod", None, noted(pod("less"), **{CACHE: "20Gi"}))
    done = c.decide(0)
    assert binds(done) == {"less": "a"}
    assert CACHE in told(done)[0]
    assert "max" in told(done)[0]
    c.apply("Pod", worker, None)
    assert binds(c.decide(100)) == {"more": "a"}


def test_cache_bytes_that_are_no_quantity_are_told() -> None:
    c = core()
    c.apply("Node", None, node("a", 8))
    c.apply("Quota", None, tree(leaf("q", most={CACHE: "100Gi"})))
    c.apply("Pod", None, noted(pod("p"), **{CACHE: "plenty"}))
    c.apply("Pod", None, pod("other"))
    done = c.decide(0)
    assert binds(done) == {"other": "a"}
    assert told(done)[0].startswith('annotation forebay.io/cache-bytes "plenty" is no Kubernetes quantity; write')


def test_memory_of_each_of_several_cards_counts_for_all_of_them() -> None:
    """HAMi's `gpumem` is what a container gets of every card it asks for."""
    c = core(preemption=False)
    c.apply("Node", None, hami())
    c.apply("Quota", None, tree(leaf("q", most={"nvidia.com/gpumem": "8192"})))
    c.apply("Pod", None, pod("two", limits={"nvidia.com/gpu": "2", "nvidia.com/gpumem": "5000"}))
    c.apply("Pod", None, pod("one", limits={"nvidia.com/gpu": "1", "nvidia.com/gpumem": "5000"}))
    done = c.decide(0)
    assert binds(done) == {"one": "a"}
    assert "nvidia.com/gpumem" in told(done)[0]
    assert c.books.quotas.ledger.charges["one"].amounts["nvidia.com/gpumem"] == 5000
    first = bound(pod("one", limits={"nvidia.com/gpu": "1", "nvidia.com/gpumem": "5000"}), "a")
    c.apply("Pod", None, first)
    c.apply("Pod", first, None)
    small = pod("small", limits={"nvidia.com/gpu": "2", "nvidia.com/gpumem": "4000"})
    c.apply("Pod", None, small)
    assert binds(c.decide(100)) == {"small": "a"}
    assert c.books.quotas.ledger.charges["small"].amounts["nvidia.com/gpumem"] == 8000


SPOT = {"key": "spot", "value": "true", "effect": "NoSchedule"}


def tainted(name: str, *taints: dict[str, str], **labels: str) -> Node:
    made = labelled(name, **labels)
    listed = [{"key": one["key"], "effect": one["effect"], "value": one.get("value", "")} for one in taints]
    return msgspec.structs.replace(made, spec=msgspec.convert({"taints": listed}, type(made.spec)))


def flavored(*taints: dict[str, str], tolerations: Any = (), **settings: Any) -> Core:
    """A queue on two flavors: `spot`, with these taints on its node too, and `firm`."""
    c = core(**settings)
    c.apply("Node", None, tainted("s", *taints, pool="spot"))
    c.apply("Node", None, labelled("f", pool="firm"))
    c.apply("Quota", None, tree(leaf("q", resourceflavors="spot, firm")))
    spot = flavor("spot", pool="spot")
    spot["spec"] |= {"nodeTaints": list(taints), "tolerations": list(tolerations)}
    c.apply("ResourceFlavor", None, spot)
    c.apply("ResourceFlavor", None, flavor("firm", pool="firm"))
    return c


def four(name: str, **spec: Any) -> Pod:
    """As large as a node."""
    return pod(name, cpu=4, **spec)


TOLERATES = {"tolerations": [{"key": "spot", "operator": "Exists"}]}


def test_who_does_not_tolerate_a_flavors_taints_may_not_use_it() -> None:
    c = flavored(SPOT)
    c.apply("Pod", None, four("plain1"))
    c.apply("Pod", None, four("plain2"))
    assert set(binds(c.decide(0)).values()) == {"f"}
    c.apply("Pod", None, four("tolerant", **TOLERATES))
    assert binds(c.decide(1)) == {"tolerant": "s"}


def test_the_taints_of_a_flavor_count_where_its_nodes_do_not_have_them() -> None:
    c = flavored(SPOT)
    c.apply("Node", tainted("s", SPOT, pool="spot"), labelled("s", pool="spot"))
    c.apply("Pod", None, four("plain1"))
    c.apply("Pod", None, four("plain2"))
    assert set(binds(c.decide(0)).values()) == {"f"}


def test_a_flavors_own_tolerations_let_its_queues_pods_on_its_nodes() -> None:
    c = flavored(SPOT, tolerations=[{"key": "spot", "operator": "Equal", "value": "true", "effect": "NoSchedule"}])
    c.apply("Pod", None, four("one"))
    c.apply("Pod", None, four("two"))
    assert set(binds(c.decide(0)).values()) == {"f", "s"}


def test_a_toleration_that_nobody_writes_down_does_not_keep_a_pod_that_would_be_driven_out() -> None:
    c = flavored({**SPOT, "effect": "NoExecute"}, tolerations=[{"key": "spot", "operator": "Exists"}])
    c.apply("Pod", None, four("one"))
    c.apply("Pod", None, four("two"))
    assert set(binds(c.decide(0)).values()) == {"f"}
    c.apply("Pod", None, four("tolerant", **TOLERATES))
    assert binds(c.decide(1)) == {"tolerant": "s"}


def test_prefer_no_schedule_keeps_nobody_out() -> None:
    c = flavored({**SPOT, "effect": "PreferNoSchedule"})
    c.apply("Pod", None, four("one"))
    c.apply("Pod", None, four("two"))
    assert set(binds(c.decide(0)).values()) == {"f", "s"}


def test_a_gated_pod_has_its_own_tolerations_alone() -> None:
    """Its scheduler looks at the taints again, and knows nothing of flavors."""
    c = flavored(SPOT, tolerations=[{"key": "spot", "operator": "Exists"}], gates=True)
    waits = {"schedulerName": "default-scheduler", "schedulingGates": [{"name": "forebay.io/placement"}]}
    c.apply("Pod", None, four("one", **waits))
    c.apply("Pod", None, four("two", **waits))
    assert set(binds(c.decide(0)).values()) == {"f"}


def test_a_pod_that_tolerates_none_of_its_flavors_is_told_which_taints() -> None:
    c = core()
    c.apply("Node", None, tainted("s", SPOT, pool="spot"))
    c.apply("Quota", None, tree(leaf("q", resourceflavors="spot")))
    spot = flavor("spot", pool="spot")
    spot["spec"]["nodeTaints"] = [SPOT]
    c.apply("ResourceFlavor", None, spot)
    c.apply("Pod", None, pod("p"))
    assert told(c.decide(0)) == [
        'queue "q" runs on nodes of resource flavors with taints that the pod does not tolerate: '
        "spot has taint spot=true:NoSchedule; "
        "add a toleration to the pod, or to the flavor (not for NoExecute)"
    ]
    c.apply("ResourceFlavor", spot, {**spot, "spec": {**spot["spec"], "tolerations": [{"key": "spot", "operator": "Exists"}]}})
    assert binds(c.decide(100)) == {"p": "s"}


@pytest.mark.parametrize(
    ("spec", "word"),
    [
        ({"nodeTaints": [{"key": "a", "effect": "Never"}]}, 'spec.nodeTaints[0].effect "Never" is none of NoSchedule'),
        ({"nodeTaints": [{"effect": "NoSchedule"}]}, "spec.nodeTaints"),
        ({"nodeTaints": "a"}, "spec.nodeTaints"),
        ({"tolerations": [{"key": "a", "operator": "Maybe"}]}, 'spec.tolerations[0].operator "Maybe" is none of Equal, Exists'),
        ({"tolerations": [{"key": "a", "effect": "Never"}]}, 'spec.tolerations[0].effect "Never"'),
        ({"tolerations": [7]}, "spec.tolerations"),
        ({"nodeLabels": {"a": 7}}, "ResourceFlavor spot"),
    ],
)
def test_a_flavor_that_cannot_be_read_keeps_its_queues_pods_waiting_and_says_so(spec: dict[str, Any], word: str) -> None:
    c = two_nodes()
    c.apply("Quota", None, tree(leaf("q", resourceflavors="spot"), leaf("other", "other")))
    c.apply("ResourceFlavor", None, {"kind": "ResourceFlavor", "metadata": {"name": "spot"}, "spec": spec})
    c.apply("Pod", None, pod("p"))
    (sentence,) = told(c.decide(0))
    assert word in sentence
    assert "ResourceFlavor spot" in sentence
