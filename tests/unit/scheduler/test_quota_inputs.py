"""Quota objects of ACK, Koordinator and scheduler-plugins: one tree, every mistake a sentence, and the way back."""

from __future__ import annotations

import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from forebay.scheduler.quota.amounts import JOBS
from forebay.scheduler.quota.inputs.ack import queue_name, read_tree, write_tree
from forebay.scheduler.quota.inputs.check import Findings
from forebay.scheduler.quota.inputs.elastic import of_pod, write_quota, write_status
from forebay.scheduler.quota.inputs.objects import read
from forebay.scheduler.quota.shares import fair_shares
from forebay.scheduler.quota.tree import WHOLE_CLUSTER, QuotaTree

GPU = "nvidia.com/gpu"


def said(findings: Findings, severity: str = "") -> list[str]:
    shown = [f"{p.object}: {' '.join(x for x in (p.field, p.value, p.message) if x)}; {p.remedy}" for p in findings.problems]
    return [text for text, p in zip(shown, findings.problems, strict=True) if p.severity.startswith(severity)]


def of(text: str) -> tuple[QuotaTree, Findings]:
    findings = Findings()
    return read(list(yaml.safe_load_all(text)), findings), findings


def declared(tree: QuotaTree) -> dict[str, tuple[object, ...]]:
    """What a tree says, without where it came from."""
    return {
        q.name: (
            q.parent, dict(q.min), dict(q.max), dict(q.weight), dict(q.borrow), dict(tree.keeps[q.name]),
            q.scales, q.min_runtime, q.fifo, q.namespaces, q.flavors,
        )
        for q in tree.queues.values()
    }  # fmt: skip


ACK = """
apiVersion: scheduling.sigs.k8s.io/v1beta1
kind: ElasticQuotaTree
metadata: {name: t, namespace: kube-system}
spec:
  root:
    name: root
    max: {cpu: 40, memory: 40Gi, nvidia.com/gpu: 4, kube-queue/max-jobs: 10000000000}
    min: {cpu: 40, memory: 40Gi, nvidia.com/gpu: 4, kube-queue/max-jobs: 10000000000}
    children:
      - name: root.a
        max: {cpu: 40, memory: 40Gi, nvidia.com/gpu: 4}
        min: {cpu: 20, memory: 20Gi, nvidia.com/gpu: 2}
        children:
          - name: root.a.1
            namespaces: [namespace1]
            max: {cpu: 20, memory: 20Gi, nvidia.com/gpu: 2}
            min: {cpu: 10, memory: 10Gi, nvidia.com/gpu: 1}
            attributes:
              resourceflavors: "a100, h100"
              alibabacloud.com/lendlimit: '{"cpu":"4","memory":"4Gi"}'
              forebay.io/weight: '{"nvidia.com/gpu":"3"}'
              forebay.io/min-runtime: "600"
          - name: root.a.2
            namespaces: [namespace2]
            max: {cpu: 20, memory: 40Gi, nvidia.com/gpu: 2}
            min: {cpu: 10, memory: 10Gi, nvidia.com/gpu: 1}
"""


def test_ack() -> None:
    tree, findings = of(ACK)
    assert not findings.problems
    leaf = tree.queues["root.a.1"]
    assert leaf.min == {"cpu": 10_000, "memory": 10 << 30, GPU: 1}
    assert (leaf.flavors, leaf.min_runtime, leaf.weight) == (("a100", "h100"), 600, {GPU: 3})
    assert tree.keeps["root.a.1"] == {"cpu": 6000, "memory": 6 << 30}
    assert tree.home("namespace2").queue == "root.a.2"
    assert tree.ceilings["root"][JOBS] == 10_000_000_000
    assert queue_name(tree, "root.a.1") == "root-root.a-root.a.1"


def test_ack_round_trip() -> None:
    tree, _ = of(ACK)
    written = json.loads(json.dumps(write_tree(tree)))
    assert written["spec"]["root"]["children"][0]["children"][0]["attributes"]["resourceflavors"] == "a100, h100"
    findings = Findings()
    again = read_tree(written, findings)
    assert not findings.problems
    assert declared(again) == declared(tree)


@pytest.mark.parametrize(
    ("change", "sentence", "closed"),
    [
        (
            ("nvidia.com/gpu: 1}\n            attributes", "nvidia.com/gpu: 9}\n            attributes"),
            'ElasticQuotaTree kube-system/t queue "root.a.1": min.nvidia.com/gpu "9" is over max.nvidia.com/gpu, 2; '
            "lower min to 2 or raise max to 9",
            "root.a.1",
        ),
        (
            ("min: {cpu: 10, memory: 10Gi", "min: {cpu: 10, memory: 10GB"),
            'ElasticQuotaTree kube-system/t: spec.root.children[0].children[0].min.memory "10GB" is no Kubernetes '
            "quantity; write 10Gi (powers of 1024) or 10G (powers of 1000)",
            "root.a.1",
        ),
        (
            ("name: root.a.2", "name: root.a.1"),
            'ElasticQuotaTree kube-system/t queue "root.a.1": name "root.a.1" stands twice in the tree; '
            "rename one of the two (the other: ElasticQuotaTree kube-system/t); until then nothing is admitted "
            'to "root.a.1"',
            "root.a.1",
        ),
        (
            ("name: root.a.2", "label: root.a.2"),
            "ElasticQuotaTree kube-system/t: spec.root.children[0].children[1].name is missing; "
            "give the node a name of its own in the tree",
            "spec.root.children[0].children[1]",
        ),
        (
            ('\'{"cpu":"4","memory":"4Gi"}\'', "cpu=4"),
            "ElasticQuotaTree kube-system/t: spec.root.children[0].children[0].attributes.alibabacloud.com/lendlimit "
            '"cpu=4" is no JSON; write JSON, such as {"cpu":"4","memory":"8Gi"}',
            "root.a.1",
        ),
        (
            ("namespaces: [namespace2]", "namespaces: namespace2"),
            'ElasticQuotaTree kube-system/t: spec.root.children[0].children[1].namespaces "namespace2" is no list of '
            'strings; write a list, such as ["team-a"]',
            "root.a.2",
        ),
        (
            ("    max: {cpu: 40, memory: 40Gi, nvidia.com/gpu: 4}\n", "    max: 5\n"),
            "ElasticQuotaTree kube-system/t: spec.root.children[0].max 5 is no mapping of resources to quantities; "
            "write a mapping, such as {cpu: 4, memory: 8Gi}",
            "root.a",
        ),
    ],
)
def test_ack_mistakes(change: tuple[str, str], sentence: str, closed: str) -> None:
    assert change[0] in ACK
    tree, findings = of(ACK.replace(*change, 1))
    assert sentence in said(findings, "error")
    assert closed in tree.closed


def test_ack_unknown_field() -> None:
    _, findings = of(ACK.replace("namespaces: [namespace2]", "namespace: [namespace2]"))
    assert said(findings) == [
        "ElasticQuotaTree kube-system/t: spec.root.children[0].children[1].namespace is no field of a quota node and "
        'does nothing; did you mean "namespaces"?'
    ]


def test_a_tree_is_alone() -> None:
    other = ACK.replace("name: t, namespace: kube-system", "name: mine, namespace: team")
    quota = "{apiVersion: scheduling.x-k8s.io/v1alpha1, kind: ElasticQuota, metadata: {name: q, namespace: n}}"
    tree, findings = of(f"{other}---\n{ACK}---\n{quota}\n---\n{{kind: Pod, metadata: {{name: p}}}}")
    assert said(findings) == [
        'Pod default/p: kind "Pod" is no quota object; give ElasticQuotaTree or ElasticQuota',
        "ElasticQuotaTree team/mine: is ignored: a cluster has one ElasticQuotaTree, and ElasticQuotaTree kube-system/t "
        "is taken; delete one of them",
        "ElasticQuota n/q: is ignored: ElasticQuotaTree kube-system/t describes the whole cluster; delete it, or the tree",
    ]
    assert tree.root == "root"
    _, findings = of(other)
    assert said(findings, "warning") == [
        "ElasticQuotaTree team/mine: metadata.namespace is not where ACK looks for it; move it to kube-system"
    ]


def test_nothing_governs_without_objects() -> None:
    tree, findings = of("")
    assert (list(tree.queues), findings.problems, tree.home("any").queue) == ([WHOLE_CLUSTER], [], "")


def test_scheduler_plugins() -> None:
    tree, findings = of(
        """
apiVersion: scheduling.x-k8s.io/v1alpha1
kind: ElasticQuota
metadata: {name: quota1, namespace: quota1}
spec: {max: {cpu: 6}, min: {cpu: 4}}
---
apiVersion: scheduling.x-k8s.io/v1alpha1
kind: ElasticQuota
metadata: {name: quota2, namespace: quota2}
spec: {max: {cpu: 6}, min: {cpu: 7}}
---
apiVersion: scheduling.x-k8s.io/v1alpha1
kind: ElasticQuota
metadata: {name: second, namespace: quota1}
"""
    )
    assert said(findings) == [
        'ElasticQuota quota2/quota2 queue "quota2/quota2": min.cpu "7" is over max.cpu, 6; lower min to 6 or raise max to 7',
        'ElasticQuota quota1/second queue "quota1/second": namespaces "quota1" is listed by queue "quota1/quota1" as well, and a '
        "namespace has one leaf; take it out of one of the two; until then its new pods wait",
    ]
    assert tree.queues["quota1/quota1"].max == {"cpu": 6000}
    assert tree.home("quota2").queue == "quota2/quota2"
    assert tree.home("quota1").refusal


KOORDINATOR = """
apiVersion: scheduling.sigs.k8s.io/v1alpha1
kind: ElasticQuota
metadata: {name: koordinator-root-quota, namespace: koordinator-system}
spec: {max: {cpu: 100, memory: 400Gi}}
---
apiVersion: scheduling.sigs.k8s.io/v1alpha1
kind: ElasticQuota
metadata: {name: koordinator-default-quota, namespace: koordinator-system}
spec: {max: {cpu: 10, memory: 40Gi}}
---
apiVersion: scheduling.sigs.k8s.io/v1alpha1
kind: ElasticQuota
metadata:
  name: algorithm
  namespace: kube-system
  labels: {quota.scheduling.koordinator.sh/is-parent: "true", quota.scheduling.koordinator.sh/parent: koordinator-root-quota}
spec: {max: {cpu: 60, memory: 200Gi}, min: {cpu: 40, memory: 100Gi}}
---
apiVersion: scheduling.sigs.k8s.io/v1alpha1
kind: ElasticQuota
metadata:
  name: video
  namespace: kube-system
  labels:
    quota.scheduling.koordinator.sh/is-parent: "false"
    quota.scheduling.koordinator.sh/parent: algorithm
    quota.scheduling.koordinator.sh/allow-lent-resource: "false"
  annotations:
    quota.scheduling.koordinator.sh/shared-weight: '{"cpu":"4","memory":"8Gi"}'
    quota.scheduling.koordinator.sh/namespaces: '["video-dev","video-prod"]'
spec: {max: {cpu: 40, memory: 80Gi}, min: {cpu: 20, memory: 40Gi}}
---
apiVersion: scheduling.sigs.k8s.io/v1alpha1
kind: ElasticQuota
metadata: {name: text, namespace: text-team, labels: {quota.scheduling.koordinator.sh/parent: algorithm}}
spec: {max: {cpu: 40, memory: 80Gi}, min: {cpu: 20, memory: 40Gi}}
"""


def test_koordinator() -> None:
    tree, findings = of(KOORDINATOR)
    assert not findings.problems
    assert tree.root == "koordinator-root-quota"
    assert tree.title("video") == "koordinator-root-quota/algorithm/video"
    assert tree.keeps["video"] == {"cpu": 20_000, "memory": 40 << 30}
    assert tree.queues["video"].weight == {"cpu": 4000, "memory": 8 << 30}
    assert tree.home("video-prod").queue == "video"
    assert tree.home("text-team").queue == "text"  # the namespace of the object
    assert tree.home("text-team", "video").queue == "video"
    assert tree.home("elsewhere").queue == "koordinator-default-quota"
    assert tree.home("x", "algorithm").refusal


def test_a_pods_labels() -> None:
    prefix = "quota.scheduling.koordinator.sh/"
    assert of_pod({}) == ("", True)
    assert of_pod({f"{prefix}name": "video", f"{prefix}preemptible": "false"}) == ("video", False)
    assert of_pod({f"{prefix}preemptible": "true"}) == ("", True)


def test_koordinator_round_trip() -> None:
    tree, _ = of(KOORDINATOR)
    written = [write_quota(tree, name, "kube-system") for name in tree.queues]
    findings = Findings()
    again = read(json.loads(json.dumps(written)), findings)
    assert not findings.problems
    assert declared(again) == declared(tree)


def test_koordinator_status() -> None:
    tree, _ = of(KOORDINATOR)
    shares = fair_shares(tree, {"video": {"cpu": 50_000}, "text": {"cpu": 10_500}}, {"cpu": 50_000})
    assert write_status(tree, shares, "text") == {
        "quota.scheduling.koordinator.sh/runtime": '{"cpu":"10500m","memory":"0"}',
        "quota.scheduling.koordinator.sh/request": '{"cpu":"10500m","memory":"0"}',
    }
    assert json.loads(write_status(tree, shares, "video")["quota.scheduling.koordinator.sh/runtime"])["cpu"] == "39500m"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            ('quota.scheduling.koordinator.sh/is-parent: "true", ', ""),
            "ElasticQuota kube-system/algorithm: metadata.labels.quota.scheduling.koordinator.sh/is-parent is a parent without "
            'the label that says so; set quota.scheduling.koordinator.sh/is-parent: "true"',
        ),
        (
            ('allow-lent-resource: "false"', 'allow-lent-resource: "no"'),
            "ElasticQuota kube-system/video: metadata.labels.quota.scheduling.koordinator.sh/allow-lent-resource "
            '"no" is neither "true" nor "false" and counts as "true"; write "true" or "false"',
        ),
        (
            ("parent: algorithm\n", "parent: algoritm\n"),
            'ElasticQuota kube-system/video queue "video": parent "algoritm" is no queue of this tree; did you mean "algorithm"?',
        ),
        (
            ('\'["video-dev","video-prod"]\'', "video-dev"),
            "ElasticQuota kube-system/video: metadata.annotations.quota.scheduling.koordinator.sh/namespaces "
            '"video-dev" is no JSON; write JSON, such as ["team-a","team-b"]',
        ),
        (
            ("memory: 80Gi}, min: {cpu: 20, memory: 40Gi}}\n---", "}, min: {cpu: 20, memory: 40Gi}}\n---"),
            "ElasticQuota kube-system/video: spec.min.memory is not in spec.max: it has no ceiling here; name it in spec.max",
        ),
        (
            ("labels: {quota.scheduling.koordinator.sh/parent: algorithm}",
             "labels: {quota.scheduling.koordinator.sh/parent: algorithm, quota.scheduling.koordinator.sh/tree-id: t1}"),
            "ElasticQuota text-team/text: metadata.labels.quota.scheduling.koordinator.sh/tree-id "
            '"t1" differs from that of its parent "algorithm", ""; the parent counts; make them equal',
        ),
    ],
)  # fmt: skip
def test_koordinator_findings(change: tuple[str, str], sentence: str) -> None:
    assert change[0] in KOORDINATOR
    _, findings = of(KOORDINATOR.replace(*change, 1))
    assert sentence in said(findings)


def test_an_unreadable_bound_admits_nothing() -> None:
    """Left out, it would be no bound at all."""
    tree, _ = of(KOORDINATOR.replace("max: {cpu: 40, memory: 80Gi}", "max: {cpu: forty, memory: 80Gi}", 1))
    assert "forty" in tree.closed_at("video")
    assert not tree.closed_at("text")


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
NODE = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["root", "a", "b"]) | ANYTHING,
        "min": st.dictionaries(st.sampled_from([GPU, "cpu"]), ANYTHING) | ANYTHING,
        "max": ANYTHING,
        "namespaces": st.lists(st.sampled_from(["n", "m"])) | ANYTHING,
        "attributes": st.dictionaries(st.sampled_from(["alibabacloud.com/lendlimit", "forebay.io/fifo"]), ANYTHING) | ANYTHING,
    },
)
NODES = st.recursive(
    NODE, lambda inner: st.builds(lambda n, c: {**n, "children": c}, NODE, st.lists(inner, max_size=3)), max_leaves=6
)
QUOTA = st.fixed_dictionaries(
    {"kind": st.just("ElasticQuota")},
    optional={
        "apiVersion": st.sampled_from(["scheduling.x-k8s.io/v1alpha1", "scheduling.sigs.k8s.io/v1alpha1"]),
        "metadata": st.fixed_dictionaries(
            {}, optional={"name": ANYTHING, "namespace": ANYTHING, "labels": ANYTHING, "annotations": ANYTHING}
        )
        | ANYTHING,
        "spec": NODE | ANYTHING,
    },
)


@given(NODES | ANYTHING, st.lists(QUOTA, max_size=3))
def test_any_object_gives_a_tree_and_sentences(root: object, quotas: list[dict[str, object]]) -> None:
    for objects in ([{"kind": "ElasticQuotaTree", "spec": {"root": root}}], quotas):
        findings = Findings()
        tree = read(objects, findings)
        assert all(tree.path(name)[-1] == tree.root for name in tree.queues)
        assert all(str(p) and p.remedy for p in findings.problems)
        again = read([write_tree(tree)], Findings())
        assert set(again.queues) >= {name for name in tree.queues if name and "." not in name}
