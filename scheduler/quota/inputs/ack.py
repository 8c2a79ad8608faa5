"""ACK's ElasticQuotaTree (`scheduling.sigs.k8s.io/v1beta1`): one object that holds the whole tree, and the way back to it.

Fields by the vendor's documentation; `alibabacloud.com/lendlimit` by koord-queue's. Weight, borrow limit and minimum runtime
are not in the object: they are read from attributes of ours.
"""

from __future__ import annotations

from collections.abc import Mapping

from forebay.api.problem import did_you_mean
from forebay.scheduler.quota.inputs.check import Findings, build
from forebay.scheduler.quota.inputs.reading import Fields, Object, render, render_json
from forebay.scheduler.quota.tree import Queue, QuotaTree

KIND = "ElasticQuotaTree"
API_VERSION = "scheduling.sigs.k8s.io/v1beta1"
NAMESPACE = "kube-system"

FLAVORS = "resourceflavors"
LEND_LIMIT = "alibabacloud.com/lendlimit"
WEIGHT = "forebay.io/weight"
BORROW_LIMIT = "forebay.io/borrow-limit"
MIN_RUNTIME = "forebay.io/min-runtime"
SCALES = "forebay.io/scale-min"
FIFO = "forebay.io/fifo"
NODES_BY, CARDS_BY = "forebay.io/nodes", "forebay.io/cards"
"""How nodes, and cards of a node, are filled with a queue's pods: binpack or spread."""

_FIELDS = ("name", "min", "max", "children", "namespaces", "attributes")


def read_tree(value: Object, findings: Findings) -> QuotaTree:
    """The tree of one object. A node without a name gets one from its place, and is closed."""
    source = source_of(value)
    top = Fields(value, source, "", findings)
    root = top.below("spec").below("root")
    queues: list[Queue] = []
    todo: list[tuple[Fields, str]] = [(root, "")]
    while todo:
        fields, parent = todo.pop()
        children = fields.items("children")
        queue = _read_node(fields, parent, source)
        queues.append(queue)
        todo += [(Fields(c, source, f"{fields.path}.children[{i}]", findings), queue.name) for i, c in enumerate(children)][::-1]
    return build(queues[1:], findings, root=queues[0])


def source_of(value: Object) -> str:
    """`ElasticQuotaTree kube-system/elasticquotatree`, however broken its metadata."""
    metadata = value.get("metadata")
    named = metadata if isinstance(metadata, Mapping) else {}
    kind = value.get("kind") or KIND
    return f"{kind} {named.get('namespace') or 'default'}/{named.get('name') or '(no name)'}"


def _read_node(fields: Fields, parent: str, source: str) -> Queue:
    for key in fields.names():
        if key not in _FIELDS:
            fields.warn(key, None, "is no field of a quota node and does nothing", did_you_mean(key, _FIELDS, "take it out"))
    attributes = fields.below("attributes")
    flavors = tuple(f.strip() for f in attributes.text(FLAVORS).split(",") if f.strip())
    name = fields.text("name") or ("" if parent else "root")
    if not name:
        name = fields.path
        fields.missing("name", "give the node a name of its own in the tree")
    minimum, maximum, namespaces = fields.amounts("min"), fields.amounts("max"), fields.strings("namespaces")
    lend, weight, borrow = (attributes.json_amounts(key) for key in (LEND_LIMIT, WEIGHT, BORROW_LIMIT))
    return Queue(
        name=name,
        parent=parent,
        min=minimum,
        max=maximum,
        weight=weight,
        borrow=borrow,
        lend=lend,
        scales=attributes.flag(SCALES, True),
        min_runtime=attributes.seconds(MIN_RUNTIME),
        fifo=attributes.flag(FIFO, False),
        fill=attributes.fill(NODES_BY, CARDS_BY),
        namespaces=namespaces,
        flavors=flavors,
        attributes={key: attributes.text(key) for key in attributes.names()},
        mistake=fields.mistake or attributes.mistake,
        source=source,
    )


def write_tree(tree: QuotaTree, name: str = "elasticquotatree") -> dict[str, object]:
    """An object that `read_tree` reads back as an equal tree. Queues that keep all of their min get a lend limit of 0."""
    nodes: dict[str, dict[str, object]] = {}
    for queue in reversed(tree.queues.values()):
        node: dict[str, object] = {"name": queue.name}
        for field, amounts in (("min", queue.min), ("max", queue.max)):
            if amounts:
                node[field] = render(amounts)
        if queue.namespaces:
            node["namespaces"] = list(queue.namespaces)
        attributes = _attributes(queue)
        if attributes:
            node["attributes"] = attributes
        children = tree.children[queue.name]
        if children:
            node["children"] = [nodes.pop(child) for child in children]
        nodes[queue.name] = node
    metadata = {"name": name, "namespace": NAMESPACE}
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "spec": {"root": nodes[tree.root]}}


def _attributes(queue: Queue) -> dict[str, str]:
    attributes = dict(queue.attributes)
    lend = queue.lend if queue.lends else dict.fromkeys(queue.min, 0)
    for key, amounts in ((LEND_LIMIT, lend), (WEIGHT, queue.weight), (BORROW_LIMIT, queue.borrow)):
        if amounts:
            attributes.setdefault(key, render_json(amounts))  # what the input said is said again in its own words
    if queue.flavors:
        attributes.setdefault(FLAVORS, ", ".join(queue.flavors))
    if queue.min_runtime:
        attributes.setdefault(MIN_RUNTIME, f"{queue.min_runtime:g}")
    for key, value, usual in ((SCALES, queue.scales, True), (FIFO, queue.fifo, False)):
        if value != usual:
            attributes.setdefault(key, str(value).lower())
    for key, order in ((NODES_BY, queue.fill.nodes), (CARDS_BY, queue.fill.cards)):
        if order:
            attributes.setdefault(key, order)
    return attributes


def queue_name(tree: QuotaTree, queue: str) -> str:
    """What kube-queue calls the Queue of a leaf: the names from the root, joined by dashes."""
    return "-".join(reversed(tree.path(queue)))
