"""Whatever quota objects a cluster has, one tree."""

from __future__ import annotations

from collections.abc import Iterable

from forebay.scheduler.quota.inputs.ack import KIND as TREE_KIND
from forebay.scheduler.quota.inputs.ack import NAMESPACE, read_tree, source_of
from forebay.scheduler.quota.inputs.check import Findings, build
from forebay.scheduler.quota.inputs.elastic import KIND as QUOTA_KIND
from forebay.scheduler.quota.inputs.elastic import read_quotas
from forebay.scheduler.quota.inputs.reading import Object
from forebay.scheduler.quota.tree import QuotaTree


def read(objects: Iterable[Object], findings: Findings) -> QuotaTree:
    """One tree of all ElasticQuotaTree and ElasticQuota objects; without any, a tree in which nothing is governed.

    An ElasticQuotaTree describes the whole cluster: beside it, ElasticQuotas count for nothing, and a warning says so (ACK's own
    controllers write them from the tree). Of several trees the one in kube-system counts, then the first by name.
    """
    trees, quotas = [], []
    for value in objects:
        kind = value.get("kind")
        if kind == TREE_KIND:
            trees.append(value)
        elif kind == QUOTA_KIND:
            quotas.append(value)
        else:
            message, remedy = "is no quota object", f"give {TREE_KIND} or {QUOTA_KIND}"
            findings.add("error", source_of(value), "kind", kind, message, remedy)
    if not trees:
        return read_quotas(quotas, findings) if quotas else build([], findings)
    trees.sort(key=lambda value: (f" {NAMESPACE}/" not in source_of(value), source_of(value)))
    chosen = source_of(trees[0])
    for value in trees[1:]:
        message = f"is ignored: a cluster has one {TREE_KIND}, and {chosen} is taken"
        findings.add("error", source_of(value), "", None, message, "delete one of them")
    if f" {NAMESPACE}/" not in chosen:
        message, remedy = "is not where ACK looks for it", f"move it to {NAMESPACE}"
        findings.add("warning", chosen, "metadata.namespace", None, message, remedy)
    for value in quotas:
        message = f"is ignored: {chosen} describes the whole cluster"
        findings.add("warning", source_of(value), "", None, message, "delete it, or the tree")
    return read_tree(trees[0], findings)
