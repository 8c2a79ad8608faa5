"""Small random clusters as the API's objects, for property tests: few names, so that constraints meet each other often."""

from __future__ import annotations

import msgspec
from hypothesis import strategies as st

from forebay.api.kubernetes.core import (
    Affinity,
    ClaimVolume,
    Container,
    Expression,
    LabelSelector,
    Meta,
    Node,
    NodeAffinity,
    NodeSelector,
    NodeSpec,
    NodeStatus,
    NodeTerm,
    Pod,
    PodAffinity,
    PodAffinityTerm,
    PodSpec,
    PodStatus,
    Port,
    PreferredNodeTerm,
    PreferredPodTerm,
    Resources,
    SpreadConstraint,
    Taint,
    Toleration,
    Volume,
)
from forebay.api.kubernetes.storage import (
    BIND_COMPLETED,
    ClaimSpec,
    ClaimStatus,
    CSINode,
    CSINodeSpec,
    CSISource,
    DriverLimit,
    NodeDriver,
    PersistentVolume,
    PersistentVolumeClaim,
    Reference,
    StorageClass,
    TopologyExpression,
    TopologyTerm,
    VolumeNodeAffinity,
    VolumeSpec,
    VolumeStatus,
)

HOST, ZONE, RACK = "kubernetes.io/hostname", "topology.kubernetes.io/zone", "rack"
NODES = ("n0", "n1", "n2", "n3", "n4")
SPACES = ("red", "blue")
CLAIMS = ("c0", "c1", "c2")
VOLUMES = ("v0", "v1", "v2", "v3")
one_of = st.sampled_from


def maybe(strategy: st.SearchStrategy[object], often: int = 3) -> st.SearchStrategy[object]:
    """None most of the time, so that few constraints are met at once."""
    return st.integers(0, often).flatmap(lambda n: strategy if n == 0 else st.none())


def taints() -> st.SearchStrategy[Taint]:
    return st.builds(Taint, one_of(["x", "y"]), one_of(["NoSchedule", "NoExecute", "PreferNoSchedule"]), one_of(["", "1", "5"]))


@st.composite
def nodes(draw: st.DrawFn, name: str) -> Node:
    labels = {HOST: name}
    for key, values in ((ZONE, ("a", "b")), (RACK, ("1", "2", "30"))):
        if draw(st.integers(0, 3)):
            labels[key] = draw(one_of(values))
    if draw(st.booleans()):
        labels["disk"] = draw(one_of(["ssd", "hdd"]))
    allocatable = {"cpu": draw(one_of(["1", "2", "2500m"])), "memory": "4Gi", "pods": draw(one_of(["1", "3", "10"]))}
    if draw(st.booleans()):
        allocatable |= {"example.com/gpu": draw(one_of(["1", "4"])), "hugepages-2Mi": "64Mi"}
    spec = NodeSpec(tuple(draw(st.lists(taints(), max_size=1))), draw(st.integers(0, 9)) == 0)
    return Node(Meta(name=name, labels=labels), spec, NodeStatus(allocatable=allocatable))


def expressions(keys: dict[str, tuple[str, ...]], numeric: bool = False) -> st.SearchStrategy[Expression]:
    operators = ["In", "NotIn", "Exists", "DoesNotExist", *(["Gt", "Lt"] if numeric else [])]

    @st.composite
    def made(draw: st.DrawFn) -> Expression:
        key = draw(one_of(sorted(keys)))
        operator = draw(one_of(operators))
        if operator in ("Exists", "DoesNotExist"):
            return Expression(key, operator)
        if operator in ("Gt", "Lt"):
            return Expression(key, operator, (draw(one_of(["1", "2", "10"])),))
        return Expression(key, operator, tuple(draw(st.lists(one_of(keys[key]), min_size=1, max_size=2, unique=True))))

    return made()


NODE_KEYS = {ZONE: ("a", "b"), RACK: ("1", "2", "30"), "disk": ("ssd", "hdd"), HOST: NODES}
POD_KEYS = {"app": ("web", "db"), "rev": ("1", "2")}


@st.composite
def node_affinities(draw: st.DrawFn) -> NodeAffinity:
    terms = []
    for _ in range(draw(st.integers(1, 2))):
        fields = draw(maybe(st.builds(Expression, st.just("metadata.name"), one_of(["In", "NotIn"]), st.tuples(one_of(NODES)))))
        found = draw(st.lists(expressions(NODE_KEYS, numeric=True), max_size=2))
        terms.append(NodeTerm(tuple(found), (fields,) if isinstance(fields, Expression) else ()))
    return NodeAffinity(NodeSelector(tuple(terms)))


@st.composite
def preferred_nodes(draw: st.DrawFn) -> NodeAffinity:
    """Terms without requirements too: they mean no node. (The API server refuses a weight of 0.)"""
    terms = []
    for _ in range(draw(st.integers(1, 3))):
        found = draw(st.lists(expressions(NODE_KEYS, numeric=True), max_size=2))
        terms.append(PreferredNodeTerm(draw(one_of([1, 20, 50, 100])), NodeTerm(tuple(found))))
    return NodeAffinity(None, tuple(terms))


@st.composite
def label_selectors(draw: st.DrawFn) -> LabelSelector:
    labels = draw(one_of([{}, {"app": "web"}, {"app": "db"}, {"app": "web", "rev": "1"}]))
    return LabelSelector(labels, tuple(draw(st.lists(expressions(POD_KEYS), max_size=1))) if draw(st.integers(0, 2)) == 0 else ())


@st.composite
def pod_terms(draw: st.DrawFn) -> PodAffinityTerm:
    selector = (draw(one_of([True, True, True, False])) and draw(label_selectors())) or None
    said = {*selector.match_labels, *(one.key for one in selector.match_expressions)} if selector else set()
    return PodAffinityTerm(  # a key of the selector may not be a key to match too: the API server refuses the pod
        draw(one_of([HOST, ZONE, RACK])),
        selector,
        draw(one_of([(), (), ("red",), ("red", "blue")])),
        draw(one_of([None, None, LabelSelector(), LabelSelector({"team": "1"})])),
        draw(one_of([(), (), ("rev",)])) if selector and "rev" not in said else (),
        draw(one_of([(), (), (), ("app",)])) if selector and "app" not in said else (),
    )


@st.composite
def spreads(draw: st.DrawFn) -> SpreadConstraint:
    return SpreadConstraint(
        draw(st.integers(1, 2)),
        draw(one_of([HOST, ZONE, RACK])),
        draw(one_of(["DoNotSchedule", "DoNotSchedule", "ScheduleAnyway"])),
        draw(one_of([None, LabelSelector(), LabelSelector({"app": "web"}), LabelSelector({"app": "web"})])),
        draw(one_of([None, None, 1, 2, 3])),
        draw(one_of(["Honor", "Ignore"])),
        draw(one_of(["Honor", "Ignore"])),
        draw(one_of([(), (), ("rev",)])),
    )


def tolerations() -> st.SearchStrategy[Toleration]:
    key, value, effect = one_of(["", "x", "y"]), one_of(["", "1", "3"]), one_of(["", "NoSchedule", "NoExecute"])
    return st.one_of(
        st.builds(Toleration, key, st.just("Exists"), st.just(""), effect),
        st.builds(Toleration, one_of(["x", "y"]), one_of(["", "Equal", "Gt", "Lt"]), value, effect),
        st.just(Toleration("node.kubernetes.io/unschedulable", "Exists")),
    )


AMOUNTS = one_of(
    [{}, {}, {"cpu": "300m"}, {"cpu": "1"}, {"cpu": "500m", "memory": "1Gi"}, {"example.com/gpu": "1"}, {"hugepages-2Mi": "32Mi"}]
)


@st.composite
def containers(draw: st.DrawFn, name: str, init: bool = False) -> Container:
    ports = ()
    if draw(st.integers(0, 3)) == 0:
        ports = (
            Port(80, draw(one_of([80, 81])), draw(one_of(["TCP", "UDP"])), draw(one_of(["", "10.0.0.1", "10.0.0.2", "0.0.0.0"]))),
        )
    asked = Resources(draw(AMOUNTS), draw(one_of([{}, {}, {"example.com/gpu": "2"}])))
    return Container(name, asked, ports, draw(one_of(["", "Always"])) if init else "")


@st.composite
def pods(draw: st.DrawFn, uid: str, *, rich: bool = True, claims: bool = True) -> Pod:
    """A pending pod. `rich`: with all kinds of constraints, few at a time."""
    labels = {key: draw(one_of(values)) for key, values in POD_KEYS.items() if draw(st.integers(0, 3))}
    inits = tuple(draw(containers(f"i{i}", True)) for i in range(draw(one_of([0, 0, 0, 2]))))
    affinity = Affinity(
        draw(maybe(node_affinities())) if rich else None,  # type: ignore[arg-type]
        PodAffinity(tuple(draw(st.lists(pod_terms(), min_size=1, max_size=2))))
        if rich and draw(st.integers(0, 4)) == 0
        else None,
        PodAffinity(tuple(draw(st.lists(pod_terms(), min_size=1, max_size=2))))
        if rich and draw(st.integers(0, 3)) == 0
        else None,
    )
    used = draw(st.lists(one_of(CLAIMS), max_size=2, unique=True)) if claims and draw(st.integers(0, 2)) == 0 else []
    spec = PodSpec(
        containers=(draw(containers("c")),),
        init_containers=inits,
        overhead=draw(one_of([{}, {}, {"cpu": "100m"}])),
        resources=Resources(draw(one_of([{}, {}, {}, {"cpu": "700m"}]))),
        node_selector=draw(one_of([{}, {}, {}, {ZONE: "a"}, {"disk": "ssd"}])) if rich else {},
        affinity=affinity,
        tolerations=tuple(draw(st.lists(tolerations(), max_size=2))),
        topology_spread_constraints=tuple(draw(st.lists(spreads(), max_size=2))) if rich and draw(st.integers(0, 2)) == 0 else (),
        volumes=tuple(Volume(f"w{i}", ClaimVolume(name)) for i, name in enumerate(used)),
        priority=draw(one_of([0, 0, 10])),
    )
    return Pod(Meta(name=uid, namespace=draw(one_of(SPACES)), uid=uid, labels=labels), spec, PodStatus())


@st.composite
def volumes(draw: st.DrawFn, name: str) -> PersistentVolume:
    required = NodeSelector(
        (NodeTerm((Expression(draw(one_of([ZONE, HOST])), "In", draw(one_of([("a",), ("b",), ("n0", "n1")]))),)),)
    )
    claim = draw(one_of([None, None, Reference(draw(one_of(CLAIMS)), draw(one_of(SPACES)))]))
    spec = VolumeSpec(
        {"storage": draw(one_of(["1Gi", "5Gi"]))},
        draw(one_of([("ReadWriteOnce",), ("ReadWriteOnce", "ReadOnlyMany")])),
        draw(one_of(["local", "late"])),
        claim_ref=claim,
        node_affinity=draw(one_of([None, VolumeNodeAffinity(required)])),
        csi=draw(one_of([None, CSISource("disk.example.com", draw(one_of(["h0", "h1", name])))])),
    )
    labels = draw(one_of([{}, {}, {ZONE: "a"}, {ZONE: "a__b"}, {"failure-domain.beta.kubernetes.io/zone": "b"}]))
    return PersistentVolume(Meta(name=name, labels=labels), spec, VolumeStatus(draw(one_of(["Available", "Available", "Bound"]))))


@st.composite
def claims(draw: st.DrawFn, namespace: str, name: str) -> PersistentVolumeClaim:
    bound = draw(st.booleans())
    notes = {BIND_COMPLETED: "yes"} if bound and draw(st.integers(0, 5)) else {}
    if not bound and draw(st.integers(0, 5)) == 0:
        notes["volume.kubernetes.io/selected-node"] = draw(one_of(NODES))
    spec = ClaimSpec(
        draw(one_of([("ReadWriteOnce",), ("ReadWriteOnce",), ("ReadWriteOncePod",)])) if bound else ("ReadWriteOnce",),
        Resources({"storage": draw(one_of(["1Gi", "2Gi"]))}),
        storage_class_name=draw(one_of(["local", "late", "late", "soon", "gone", None])),
        volume_name=draw(one_of(VOLUMES)) if bound else "",
    )
    phase = draw(one_of(["Bound"] * 6 + ["Lost"])) if bound else "Pending"
    return PersistentVolumeClaim(Meta(name=name, namespace=namespace, annotations=notes), spec, ClaimStatus(phase))


CLASSES = {
    "local": StorageClass(Meta(name="local"), "kubernetes.io/no-provisioner", "WaitForFirstConsumer"),
    "late": StorageClass(
        Meta(name="late"),
        "disk.example.com",
        "WaitForFirstConsumer",
        (TopologyTerm((TopologyExpression(ZONE, ("a",)),)), TopologyTerm(())),
    ),
    "soon": StorageClass(Meta(name="soon"), "disk.example.com"),
}


@st.composite
def limits(draw: st.DrawFn, name: str) -> CSINode:
    count = draw(one_of([None, 0, 1, 2]))
    return CSINode(Meta(name=name), CSINodeSpec((NodeDriver("disk.example.com", DriverLimit(count)),)))


@st.composite
def preferring(draw: st.DrawFn, uid: str, *, rich: bool = True) -> Pod:
    """A pending pod with preferences of all kinds; `rich` as in `pods`."""
    pod = draw(pods(uid, rich=rich, claims=False))
    near, far = (
        [PreferredPodTerm(draw(one_of([1, 10, 100])), draw(pod_terms())) for _ in range(draw(st.integers(0, 2)))] for _ in "nf"
    )
    affinity = pod.spec.affinity or Affinity()
    nodes = affinity.node_affinity or NodeAffinity()
    if draw(st.booleans()):
        nodes = msgspec.structs.replace(nodes, preferred=draw(preferred_nodes()).preferred)
    affinity = msgspec.structs.replace(
        affinity,
        node_affinity=nodes,
        pod_affinity=msgspec.structs.replace(affinity.pod_affinity or PodAffinity(), preferred=tuple(near)),
        pod_anti_affinity=msgspec.structs.replace(affinity.pod_anti_affinity or PodAffinity(), preferred=tuple(far)),
    )
    soft = [
        msgspec.structs.replace(draw(spreads()), when_unsatisfiable="ScheduleAnyway", min_domains=None)
        for _ in range(draw(one_of([0, 0, 1, 2])))
    ]
    even = (*pod.spec.topology_spread_constraints, *soft)
    pairs = {(one.topology_key, one.when_unsatisfiable): one for one in even}  # the API server refuses the same pair twice
    spec = msgspec.structs.replace(pod.spec, affinity=affinity, topology_spread_constraints=tuple(pairs.values()))
    return msgspec.structs.replace(pod, spec=spec)
