"""ElasticQuota objects: scheduler-plugins' (one for each namespace, flat) and Koordinator's (a tree, told by labels), and back.

`scheduling.x-k8s.io/v1alpha1` is scheduler-plugins'; `scheduling.sigs.k8s.io/v1alpha1` is Koordinator's, and was
scheduler-plugins' once: without labels it says the same there. Names and defaults of labels and annotations are those of
Koordinator's `apis/extension`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from forebay.scheduler.quota.amounts import NOTHING
from forebay.scheduler.quota.inputs.ack import BORROW_LIMIT, CARDS_BY, FIFO, MIN_RUNTIME, NODES_BY, SCALES, WEIGHT, source_of
from forebay.scheduler.quota.inputs.check import Findings, build
from forebay.scheduler.quota.inputs.reading import Fields, Object, render, render_json
from forebay.scheduler.quota.shares import Shares
from forebay.scheduler.quota.tree import Queue, QuotaTree

KIND = "ElasticQuota"
PLUGINS = "scheduling.x-k8s.io/v1alpha1"
KOORDINATOR = "scheduling.sigs.k8s.io/v1alpha1"

PREFIX = "quota.scheduling.koordinator.sh/"
NAME_LABEL = f"{PREFIX}name"
"""On a pod: its quota."""
PREEMPTIBLE_LABEL = f"{PREFIX}preemptible"
"""On a pod: "false" for one that must not be preempted and so counts against mins."""
PARENT, IS_PARENT, IS_ROOT, TREE_ID = (f"{PREFIX}{word}" for word in ("parent", "is-parent", "is-root", "tree-id"))
LENT = f"{PREFIX}allow-lent-resource"
SHARED_WEIGHT, NAMESPACES, TOTAL = (f"{PREFIX}{word}" for word in ("shared-weight", "namespaces", "total-resource"))
RUNTIME, REQUEST = (f"{PREFIX}{word}" for word in ("runtime", "request"))

ROOT_QUOTA = "koordinator-root-quota"
SYSTEM_QUOTA = "koordinator-system-quota"
DEFAULT_QUOTA = "koordinator-default-quota"


def of_pod(labels: Mapping[str, str]) -> tuple[str, bool]:
    """What a pod's labels say: the quota it names ("" for none), and whether it may be preempted (unless it says "false")."""
    return labels.get(NAME_LABEL, ""), labels.get(PREEMPTIBLE_LABEL) != "false"


def read_quotas(objects: Sequence[Object], findings: Findings) -> QuotaTree:
    """One tree of all ElasticQuotas. Pods find their leaf by label, by an annotation of namespaces, or by the namespace of the
    object.

    The last counts where a namespace has exactly one Koordinator quota that is a leaf; several there are told apart by label
    alone.
    """
    plugins = [_read_plugins(o, findings) for o in objects if o.get("apiVersion") == PLUGINS]
    koordinator = [_read_koordinator(o, findings) for o in objects if o.get("apiVersion") != PLUGINS]
    root = next((replace(q, parent="") for q, _ in koordinator if q.name == ROOT_QUOTA), None)
    if root is None and koordinator:
        root = Queue(name=ROOT_QUOTA)
    named = [(q, home) for q, home in koordinator if q.name != ROOT_QUOTA]
    parents = {q.parent for q, _ in named}
    leaves = Counter(home for q, home in named if q.name not in parents and not q.parent_only)
    queues = [
        _with_home(q, home) if leaves[home] == 1 and q.name not in parents and not q.parent_only else q for q, home in named
    ]
    _declared(queues, parents, findings)
    default = DEFAULT_QUOTA if any(q.name == DEFAULT_QUOTA for q in queues) else ""
    return build([*plugins, *queues], findings, root=root, default=default)


def _read_plugins(value: Object, findings: Findings) -> Queue:
    source = source_of(value)
    fields = Fields(value, source, "", findings)
    metadata, spec = fields.below("metadata"), fields.below("spec")
    namespace = metadata.text("namespace") or "default"
    minimum, maximum = spec.amounts("min"), spec.amounts("max")
    name = f"{namespace}/{_name(metadata, source)}"
    fill = metadata.below("annotations").fill(NODES_BY, CARDS_BY)
    mistake = fields.mistake or metadata.mistake or spec.mistake
    return Queue(name=name, min=minimum, max=maximum, fill=fill, namespaces=(namespace,), source=source, mistake=mistake)


def _name(metadata: Fields, source: str) -> str:
    name = metadata.text("name")
    if not name:
        metadata.missing("name", "give the object a name")
    return name or source


def _read_koordinator(value: Object, findings: Findings) -> tuple[Queue, str]:
    """The queue, and the namespace that its object lives in."""
    source = source_of(value)
    fields = Fields(value, source, "", findings)
    metadata, spec = fields.below("metadata"), fields.below("spec")
    labels, notes = metadata.below("labels"), metadata.below("annotations")
    minimum, maximum = spec.amounts("min"), spec.amounts("max")
    total = notes.json_amounts(TOTAL)
    if labels.flag(IS_ROOT, False):
        maximum = {**maximum, **{r: min(n, maximum.get(r, n)) for r, n in total.items()}}
    name, parent = _name(metadata, source), labels.text(PARENT)
    weight = notes.json_amounts(SHARED_WEIGHT) if notes.at(SHARED_WEIGHT) else notes.json_amounts(WEIGHT)
    if weight and not any(weight.values()):  # Koordinator takes an empty weight for none at all
        weight = {}
    kept = {k: labels.text(k) for k in (TREE_ID, IS_ROOT) if labels.at(k) is not None}
    queue = Queue(
        name=name,
        parent="" if parent == ROOT_QUOTA else parent,
        min=minimum,
        max=maximum,
        weight=weight,
        borrow=notes.json_amounts(BORROW_LIMIT),
        lends=labels.flag(LENT, True),
        scales=notes.flag(SCALES, name != SYSTEM_QUOTA),
        min_runtime=notes.seconds(MIN_RUNTIME),
        fifo=notes.flag(FIFO, False),
        fill=notes.fill(NODES_BY, CARDS_BY),
        parent_only=labels.flag(IS_PARENT, False),
        namespaces=notes.json_strings(NAMESPACES),
        attributes=kept,
        source=source,
    )
    mistake = fields.mistake or metadata.mistake or spec.mistake or labels.mistake or notes.mistake
    return replace(queue, mistake=mistake), metadata.text("namespace") or "default"


def _with_home(queue: Queue, home: str) -> Queue:
    return queue if home in queue.namespaces else replace(queue, namespaces=(*queue.namespaces, home))


def _declared(queues: Sequence[Queue], parents: set[str], findings: Findings) -> None:
    """What Koordinator's webhook refuses and we take: warned of."""
    by_name = {q.name: q for q in queues}
    for queue in queues:
        if queue.name in parents and not queue.parent_only:
            message, remedy = "is a parent without the label that says so", f'set {IS_PARENT}: "true"'
            findings.add("warning", queue.source, f"metadata.labels.{IS_PARENT}", None, message, remedy)
        above = by_name.get(queue.parent)
        mine, theirs = queue.attributes.get(TREE_ID, ""), above.attributes.get(TREE_ID, "") if above else ""
        if above and mine != theirs:
            message, remedy = f'differs from that of its parent "{above.name}", "{theirs}"; the parent counts', "make them equal"
            findings.add("warning", queue.source, f"metadata.labels.{TREE_ID}", mine, message, remedy)
        for resource in queue.min:
            if queue.max and resource not in queue.max:
                message, remedy = "is not in spec.max: it has no ceiling here", "name it in spec.max"
                findings.add("warning", queue.source, f"spec.min.{resource}", None, message, remedy)


def write_quota(tree: QuotaTree, name: str, namespace: str) -> dict[str, object]:
    """A Koordinator object for a queue; all of a tree's are read back as an equal tree. Borrow limit and the like are
    annotations."""
    queue = tree.queues[name]
    labels = {k: v for k, v in queue.attributes.items() if k in (TREE_ID, IS_ROOT)}
    labels[IS_PARENT] = str(queue.parent_only or bool(tree.children[name])).lower()
    if queue.parent and queue.parent != tree.root:
        labels[PARENT] = queue.parent
    if not queue.lends:
        labels[LENT] = "false"
    notes = {}
    for key, amounts in ((SHARED_WEIGHT, queue.weight), (BORROW_LIMIT, queue.borrow)):
        if amounts:
            notes[key] = render_json(amounts)
    if queue.namespaces:
        notes[NAMESPACES] = "[" + ",".join(f'"{ns}"' for ns in queue.namespaces) + "]"
    if queue.min_runtime:
        notes[MIN_RUNTIME] = f"{queue.min_runtime:g}"
    for key, value, usual in ((SCALES, queue.scales, name != SYSTEM_QUOTA), (FIFO, queue.fifo, False)):
        if value != usual:
            notes[key] = str(value).lower()
    for key, order in ((NODES_BY, queue.fill.nodes), (CARDS_BY, queue.fill.cards)):
        if order:
            notes[key] = order
    metadata: dict[str, object] = {"name": name, "namespace": namespace, "labels": labels}
    if notes:
        metadata["annotations"] = notes
    spec = {field: render(amounts) for field, amounts in (("min", queue.min), ("max", queue.max)) if amounts}
    return {"apiVersion": KOORDINATOR, "kind": KIND, "metadata": metadata, "spec": spec}


def write_status(tree: QuotaTree, shares: Shares, name: str) -> dict[str, str]:
    """The annotations by which Koordinator's users watch a quota: its fair share now, and what it asks."""
    governed = sorted(set(tree.queues[name].min) | set(tree.queues[name].max))
    row = shares.row(name)
    runtime = {r: row[r] for r in governed if r in row}
    return {RUNTIME: render_json(runtime), REQUEST: render_json({r: shares.demand(name, r) for r in governed} or NOTHING)}
