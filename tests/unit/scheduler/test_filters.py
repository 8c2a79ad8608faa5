"""Each filter by itself: a table of cases, the expected nodes in a word."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from filterlab import cluster, node, pod, where

from forebay.api.kubernetes.core import Container, Namespace, Pod
from forebay.api.quantity import QuantityError
from forebay.scheduler.arrays.node_rows import TaintOf
from forebay.scheduler.filters.taints import tolerates
from forebay.scheduler.pods.amounts import peak, pod_amounts
from forebay.scheduler.pods.classes import Tolerated
from forebay.scheduler.pods.selectors import Requirement, satisfied

ZONE, HOST = "topology.kubernetes.io/zone", "kubernetes.io/hostname"


def asks(name: str, restart: str = "", **requests: str) -> dict[str, Any]:
    made: dict[str, Any] = {"name": name, "resources": {"requests": requests}}
    return made | ({"restartPolicy": restart} if restart else {})


# --- what a pod asks --------------------------------------------------------------------------------------------------

AMOUNTS = [
    ("containers add up", {"containers": [asks("a", cpu="1"), asks("b", cpu="500m")]}, {"cpu": 1500}),
    (
        "a larger init container counts alone",
        {"containers": [asks("a", cpu="1")], "initContainers": [asks("i", cpu="3")]},
        {"cpu": 3000},
    ),
    (
        "a smaller one does not count",
        {"containers": [asks("a", cpu="1")], "initContainers": [asks("i", cpu="300m")]},
        {"cpu": 1000},
    ),
    (
        "a sidecar runs beside the containers",
        {"containers": [asks("a", cpu="1")], "initContainers": [asks("s", "Always", cpu="2")]},
        {"cpu": 3000},
    ),
    (
        "an init container runs beside the sidecars before it",
        {"containers": [asks("a")], "initContainers": [asks("s", "Always", cpu="2"), asks("i", cpu="3")]},
        {"cpu": 5000},
    ),
    (
        "and not beside those after it",
        {"containers": [asks("a")], "initContainers": [asks("i", cpu="3"), asks("s", "Always", cpu="2")]},
        {"cpu": 3000},
    ),
    (
        "overhead comes on top",
        {"containers": [asks("a", cpu="1")], "overhead": {"cpu": "250m", "memory": "1Mi"}},
        {"cpu": 1250, "memory": 1 << 20},
    ),
    ("huge pages by size", {"containers": [asks("a", **{"hugepages-2Mi": "4Mi"})]}, {"hugepages-2Mi": 4 << 20}),
    (
        "the pod's own requests replace cpu, memory and huge pages only",
        {"containers": [asks("a", cpu="1", **{"x.com/y": "2"})], "resources": {"requests": {"cpu": "4", "x.com/y": "9"}}},
        {"cpu": 4000, "x.com/y": 2},
    ),
    ("zeros are nothing", {"containers": [asks("a", cpu="0", memory="0")]}, {}),
    ("cpu is rounded up to a thousandth", {"containers": [asks("a", cpu="1u")]}, {"cpu": 1}),
]


@pytest.mark.parametrize(("spec", "expected"), [case[1:] for case in AMOUNTS], ids=[case[0] for case in AMOUNTS])
def test_amounts(spec: dict[str, Any], expected: dict[str, int]) -> None:
    assert pod_amounts(pod(**spec)) == expected


def test_a_limit_stands_in_for_a_request_that_is_missing() -> None:
    container = {"name": "a", "resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "2", "x.com/y": "1"}}}
    assert pod_amounts(pod(containers=[container])) == {"cpu": 1000, "x.com/y": 1}


@pytest.mark.parametrize(("reason", "cpu"), [("", 4000), ("Deferred", 4000), ("Infeasible", 3000)])
def test_a_resize_counts_as_the_larger_until_it_is_done(reason: str, cpu: int) -> None:
    status = {
        "containerStatuses": [{"name": "a", "resources": {"requests": {"cpu": "2"}}, "allocatedResources": {"cpu": "3"}}],
        "conditions": [{"type": "PodResizePending", "reason": reason}] if reason else [],
    }
    made = pod(containers=[asks("a", cpu="4")])
    resized = msgspec.convert({**msgspec.to_builtins(made), "status": status}, Pod)
    assert pod_amounts(resized) == {"cpu": cpu}


def test_the_formula_serves_other_amounts() -> None:
    cards = {"a": {"card": 1}, "b": {"card": 2}, "i": {"card": 4}}
    containers, inits = [Container("a"), Container("b")], [Container("i")]
    assert peak(containers, inits, lambda one: cards[one.name]) == {"card": 4}


@pytest.mark.parametrize("value", ["-1", "a few"])
def test_what_is_no_amount_is_refused(value: str) -> None:
    with pytest.raises(QuantityError):
        pod_amounts(pod(requests={"cpu": value}))


# --- resources --------------------------------------------------------------------------------------------------------

RESOURCES = [
    ("fits what is left", {"cpu": "2"}, "big small"),
    ("fits only where enough is left", {"cpu": "3"}, "big"),
    ("an amount that nobody has", {"cpu": "9"}, ""),
    ("a resource of some nodes", {"example.com/gpu": "1"}, "big"),
    ("a resource of no node", {"example.com/tpu": "1"}, ""),
    ("asking nothing needs a place among the pods", {}, "big small"),
]


@pytest.mark.parametrize(("requests", "expected"), [case[1:] for case in RESOURCES], ids=[case[0] for case in RESOURCES])
def test_resources(requests: dict[str, str], expected: str) -> None:
    nodes = [node("big", **{"example.com/gpu": "2"}), node("small", cpu="4"), node("full", pods="1")]
    assert where(cluster(nodes, [pod("small", requests={"cpu": "2"}), pod("full")]), pod(requests=requests)) == expected


def test_an_overcommitted_node_takes_what_asks_nothing_of_it() -> None:
    made = cluster([node("n", cpu="1")], [pod("n", requests={"cpu": "3"})])
    assert where(made, pod(requests={"cpu": "1m"})) == ""
    assert where(made, pod(requests={"memory": "1Gi"})) == "n"


def test_absurd_amounts_fit_nowhere_and_break_no_sum() -> None:
    huge = {"containers": [asks("a", memory="7Ei", cpu="7E"), asks("b", memory="7Ei")]}
    made = cluster([node("n", memory="7Ei")], [pod("n", **huge) for _ in range(100)])
    assert where(made, pod(**huge)) == ""
    assert made.free[made.row_of["n"], made.columns.index("memory")] < 0
    assert where(made, pod(requests={"memory": "1"})) == ""
    assert where(cluster([node("n")]), pod(**huge)) == ""


def test_a_resource_that_appears_later() -> None:
    made = cluster([node("n"), node("m")], [pod("n", requests={"x.com/y": "1"})])
    assert where(made, pod(requests={"x.com/y": "1"})) == ""
    made.set_node(node("n", **{"x.com/y": "1"}))
    assert where(made, pod(requests={"x.com/y": "1"})) == ""  # the pod that came before the device plugin holds it
    made.set_node(node("m", **{"x.com/y": "1"}))
    assert where(made, pod(requests={"x.com/y": "1"})) == "m"


# --- taints -----------------------------------------------------------------------------------------------------------

TAINT = TaintOf("k", "5", "NoSchedule")
TOLERATIONS = [
    (("k", "Equal", "5", "NoSchedule"), True),
    (("k", "Equal", "5", ""), True),
    (("k", "Equal", "5", "NoExecute"), False),
    (("k", "Equal", "6", ""), False),
    (("k", "Exists", "", ""), True),
    (("other", "Exists", "", ""), False),
    (("", "Exists", "", ""), True),
    (("", "Exists", "", "NoSchedule"), True),
    (("", "Exists", "", "NoExecute"), False),
    (("k", "Gt", "4", ""), True),
    (("k", "Gt", "5", ""), False),
    (("k", "Lt", "6", ""), True),
    (("k", "Lt", "five", ""), False),
    (("k", "Newer", "5", ""), False),
]


@pytest.mark.parametrize(("toleration", "expected"), TOLERATIONS)
def test_tolerations(toleration: tuple[str, str, str, str], expected: bool) -> None:
    assert tolerates(Tolerated(*toleration), TAINT) == expected


EXISTS = {"operator": "Exists"}
TAINTED = [
    ("none", [], "plain weighed"),
    ("one key", [{"key": "k", **EXISTS}], "execute plain schedule weighed"),
    ("one effect", [{"key": "k", "effect": "NoSchedule", **EXISTS}], "plain schedule weighed"),
    ("the cordon", [{"key": "node.kubernetes.io/unschedulable", **EXISTS}], "cordoned plain weighed"),
    ("everything", [EXISTS], "both cordoned execute plain schedule weighed"),
]


@pytest.mark.parametrize(("tolerations", "expected"), [case[1:] for case in TAINTED], ids=[case[0] for case in TAINTED])
def test_taints(tolerations: list[dict[str, str]], expected: str) -> None:
    nodes = [
        node("plain"),
        node("schedule", taints=[{"key": "k", "effect": "NoSchedule"}]),
        node("execute", taints=[{"key": "k", "effect": "NoExecute", "value": "v"}]),
        node("weighed", taints=[{"key": "k", "effect": "PreferNoSchedule"}]),
        node("both", taints=[{"key": "k", "effect": "NoSchedule"}, {"key": "l", "effect": "NoSchedule"}]),
        node("cordoned", cordoned="yes"),
    ]
    assert where(cluster(nodes), pod(tolerations=tolerations)) == expected


# --- node affinity ----------------------------------------------------------------------------------------------------

REQUIREMENTS = [
    ("In", ("a", "b"), "a", True),
    ("In", ("a",), None, False),
    ("NotIn", ("a",), "a", False),
    ("NotIn", ("a",), None, True),
    ("Exists", (), "", True),
    ("Exists", (), None, False),
    ("DoesNotExist", (), None, True),
    ("DoesNotExist", (), "a", False),
    ("Gt", ("4",), "5", True),
    ("Gt", ("5",), "5", False),
    ("Lt", ("5",), "-6", True),
    ("Gt", ("4",), "five", False),
    ("Lt", ("4",), None, False),
    ("Gt", ("1",), "9223372036854775808", False),
    ("Between", ("1", "3"), "2", False),
]


@pytest.mark.parametrize(("operator", "values", "value", "expected"), REQUIREMENTS)
def test_requirements(operator: str, values: tuple[str, ...], value: str | None, expected: bool) -> None:
    assert satisfied(Requirement("k", operator, values), value) == expected
    labels = {} if value is None else {"k": value}
    term = {"matchExpressions": [{"key": "k", "operator": operator, "values": list(values)}]}
    assert where(cluster([node("n", labels)]), pod(affinity=required(term))) == ("n" if expected else "")


def required(*terms: dict[str, Any]) -> dict[str, Any]:
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": list(terms)}}}


def expression(key: str, operator: str, *values: str) -> dict[str, Any]:
    return {"key": key, "operator": operator, "values": list(values)}


SSD, NAMED = expression("disk", "In", "ssd"), expression("metadata.name", "In", "n3")
AFFINITIES: list[tuple[str, dict[str, Any], str]] = [
    ("selector", {"nodeSelector": {"disk": "ssd"}}, "n1 n2"),
    ("selector of two", {"nodeSelector": {"disk": "ssd", "size": "10"}}, "n2"),
    ("terms are alternatives", {"affinity": required({"matchExpressions": [SSD]}, {"matchFields": [NAMED]})}, "n1 n2 n3"),
    (
        "expressions of a term must all hold",
        {"affinity": required({"matchExpressions": [SSD, expression("size", "Gt", "5")]})},
        "n2",
    ),
    ("fields and expressions too", {"affinity": required({"matchExpressions": [SSD], "matchFields": [NAMED]})}, ""),
    ("an empty term holds nowhere", {"affinity": required({})}, ""),
    ("no term holds nowhere", {"affinity": required()}, ""),
    (
        "selector and affinity",
        {"nodeSelector": {"disk": "ssd"}, "affinity": required({"matchExpressions": [expression("size", "Lt", "5")]})},
        "n1",
    ),
    ("not this node", {"affinity": required({"matchFields": [expression("metadata.name", "NotIn", "n3")]})}, "n1 n2"),
    ("a label called as the field is no field", {"nodeSelector": {"metadata.name": "n1"}}, ""),
]


@pytest.mark.parametrize(("spec", "expected"), [case[1:] for case in AFFINITIES], ids=[case[0] for case in AFFINITIES])
def test_node_affinity(spec: dict[str, Any], expected: str) -> None:
    nodes = [node("n1", {"disk": "ssd", "size": "2"}), node("n2", {"disk": "ssd", "size": "10"}), node("n3", {"disk": "hdd"})]
    assert where(cluster(nodes), pod(**spec)) == expected


# --- host ports -------------------------------------------------------------------------------------------------------


def listens(port: int, ip: str = "", protocol: str = "TCP", **more: Any) -> dict[str, Any]:
    return {"name": "p", "ports": [{"containerPort": 1, "hostPort": port, "hostIP": ip, "protocol": protocol}], **more}


PORTS = [
    ("another port", [listens(81)], "one wide"),
    ("the same", [listens(80)], ""),
    ("another protocol", [listens(80, protocol="UDP")], "one wide"),
    ("another address", [listens(80, "10.0.0.2")], "one"),
    ("the same address", [listens(80, "10.0.0.1")], ""),
    ("0.0.0.0 meets every address", [listens(80, "0.0.0.0")], ""),
    ("no host port", [listens(0)], "one wide"),
]


@pytest.mark.parametrize(("containers", "expected"), [case[1:] for case in PORTS], ids=[case[0] for case in PORTS])
def test_ports(containers: list[dict[str, Any]], expected: str) -> None:
    there = [pod("one", containers=[listens(80, "10.0.0.1")]), pod("wide", containers=[listens(80)])]
    assert where(cluster([node("one"), node("wide")], there), pod(containers=containers)) == expected


@pytest.mark.parametrize(("restart", "expected"), [("Always", ""), ("", "n")])
def test_a_sidecar_holds_its_port_and_an_init_container_does_not(restart: str, expected: str) -> None:
    first = {"containers": [{"name": "c"}], "initContainers": [listens(80, restartPolicy=restart)]}
    assert where(cluster([node("n")], [pod("n", **first)]), pod(containers=[listens(80)])) == expected


# --- pod affinity -----------------------------------------------------------------------------------------------------


def near(*terms: dict[str, Any]) -> dict[str, Any]:
    return {"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": list(terms)}}}


def far(*terms: dict[str, Any]) -> dict[str, Any]:
    return {"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": list(terms)}}}


def term(labels: dict[str, str] | None, key: str = ZONE, **more: Any) -> dict[str, Any]:
    return {"topologyKey": key, **({"labelSelector": {"matchLabels": labels}} if labels is not None else {}), **more}


WEB, DB = {"app": "web"}, {"app": "db"}
BESIDE: list[tuple[str, dict[str, Any], str]] = [
    ("in the zone of web", {**near(term(WEB))}, "a1 a2"),
    ("on the node of web", {**near(term(WEB, HOST))}, "a1"),
    ("away from web's zone, also where there is no zone", {**far(term(WEB))}, "b1 none"),
    ("near web and db together: no pod is both", {**near(term(WEB), term(DB))}, ""),
    ("a group's first pod may start where there is a zone", {"labels": {"app": "new"}, **near(term({"app": "new"}))}, "a1 a2 b1"),
    ("another's first pod may not", {"labels": {"app": "new"}, **near(term({"app": "old"}))}, ""),
    ("no selector means nobody", {**near(term(None))}, ""),
    ("no selector keeps off nobody", {**far(term(None))}, "a1 a2 b1 none"),
    ("an empty selector means everybody of the namespace", {**far(term({}))}, "none"),
    ("another namespace", {**far(term(WEB, namespaces=["other"]))}, "a1 a2 none"),
    ("namespaces by label", {**far(term(WEB, namespaceSelector={"matchLabels": {"team": "x"}}))}, "a1 a2 none"),
    ("every namespace", {**far(term(WEB, namespaceSelector={}))}, "none"),
    (
        "by name and by label together",
        {**far(term(WEB, namespaces=["default"], namespaceSelector={"matchLabels": {"team": "x"}}))},
        "none",
    ),
    (
        "matchLabelKeys: only the own revision",
        {"labels": {"rev": "2"}, **far(term(WEB, matchLabelKeys=["rev"]))},
        "a1 a2 b1 none",
    ),
    ("a key that the pod lacks adds nothing", {**far(term(WEB, matchLabelKeys=["rev"]))}, "b1 none"),
    (
        "mismatchLabelKeys: all but the own",
        {"labels": {"rev": "1"}, **far(term(WEB, mismatchLabelKeys=["rev"]))},
        "a1 a2 b1 none",
    ),
    ("mismatchLabelKeys of another", {"labels": {"rev": "2"}, **far(term(WEB, mismatchLabelKeys=["rev"]))}, "b1 none"),
]


@pytest.mark.parametrize(("spec", "expected"), [case[1:] for case in BESIDE], ids=[case[0] for case in BESIDE])
def test_pod_affinity(spec: dict[str, Any], expected: str) -> None:
    nodes = [node("a1", {ZONE: "a"}), node("a2", {ZONE: "a"}), node("b1", {ZONE: "b"}), node("none")]
    there = [pod("a1", {**WEB, "rev": "1"}), pod("b1", DB), pod("b1", {**WEB, "rev": "1"}, "other")]
    spaces = {"default": {}, "other": {"team": "x"}}
    assert where(cluster(nodes, there, spaces), pod(**spec)) == expected


SYMMETRIC: list[tuple[str, dict[str, Any], str]] = [
    ("is kept off by the label that the other's term names", {"labels": WEB}, "b1 none"),
    ("other labels are not", {"labels": DB}, "a1 a2 b1 none"),
    ("another namespace is not", {"labels": WEB, "namespace": "other"}, "a1 a2 b1 none"),
]


@pytest.mark.parametrize(("spec", "expected"), [case[1:] for case in SYMMETRIC], ids=[case[0] for case in SYMMETRIC])
def test_anti_affinity_of_those_that_run(spec: dict[str, Any], expected: str) -> None:
    nodes = [node("a1", {ZONE: "a"}), node("a2", {ZONE: "a"}), node("b1", {ZONE: "b"}), node("none")]
    made = cluster(nodes, [pod("a1", {}, **far(term(WEB))), pod("none", {}, **far(term(WEB)))])
    assert where(made, pod(**spec)) == expected


def test_a_namespace_that_gets_a_label_is_meant_from_then_on() -> None:
    nodes = [node("a1", {ZONE: "a"}), node("b1", {ZONE: "b"})]
    made = cluster(nodes, [pod("a1", WEB, "other")], {"default": {}, "other": {}})
    away = pod(**far(term(WEB, namespaceSelector={"matchLabels": {"team": "x"}})))
    assert where(made, away) == "a1 b1"
    made.set_namespace(msgspec.convert({"metadata": {"name": "other", "labels": {"team": "x"}}}, Namespace))
    assert where(made, away) == "b1"


# --- topology spread --------------------------------------------------------------------------------------------------


def spread(key: str = ZONE, skew: int = 1, labels: dict[str, str] | None = WEB, **more: Any) -> dict[str, Any]:
    one = {"maxSkew": skew, "topologyKey": key, "whenUnsatisfiable": "DoNotSchedule", **more}
    return one | ({"labelSelector": {"matchLabels": labels}} if labels is not None else {})


SPREADS: list[tuple[str, list[dict[str, Any]], dict[str, Any], str]] = [
    ("an empty zone of tainted nodes is the emptiest", [spread()], {}, ""),
    ("unless taints are honoured", [spread(nodeTaintsPolicy="Honor")], {}, "b1"),
    ("a larger skew", [spread(skew=3)], {}, "a1 a2 b1"),
    ("by node", [spread(HOST)], {}, "a2 out"),
    ("zones that are too few count as empty", [spread(minDomains=3, skew=2, nodeTaintsPolicy="Honor")], {}, "b1"),
    ("zones that are enough do not", [spread(minDomains=2, skew=2, nodeTaintsPolicy="Honor")], {}, "a1 a2 b1"),
    ("two constraints", [spread(nodeTaintsPolicy="Honor"), spread(HOST, 2)], {}, "b1"),
    ("it may only weigh", [spread(whenUnsatisfiable="ScheduleAnyway")], {}, "a1 a2 b1 out tainted"),
    ("a pod that is not meant counts not itself", [spread()], {"labels": DB}, "b1"),
    ("the pod's affinity says which zones there are", [spread()], {"nodeSelector": {ZONE: "a"}}, "a1 a2"),
    ("unless it shall not", [spread(nodeAffinityPolicy="Ignore")], {"nodeSelector": {ZONE: "a"}}, ""),
    ("tainted nodes are places too", [spread()], {"nodeSelector": {"lab": "yes"}}, ""),
    ("unless they shall not", [spread(nodeTaintsPolicy="Honor")], {"nodeSelector": {"lab": "yes"}}, "b1"),
    ("no selector counts nobody", [spread(labels=None)], {}, "a1 a2 b1"),
    ("an empty selector counts nobody", [spread(labels={})], {}, "a1 a2 b1"),
    ("only the own revision", [spread(matchLabelKeys=["rev"])], {"labels": {**WEB, "rev": "2"}}, "a1 a2 b1"),
]


@pytest.mark.parametrize(("constraints", "spec", "expected"), [case[1:] for case in SPREADS], ids=[case[0] for case in SPREADS])
def test_spread(constraints: list[dict[str, Any]], spec: dict[str, Any], expected: str) -> None:
    nodes = [
        node("a1", {ZONE: "a"}),
        node("a2", {ZONE: "a"}),
        node("b1", {ZONE: "b", "lab": "yes"}),
        node("tainted", {ZONE: "c", "lab": "yes"}, [{"key": "k", "effect": "NoSchedule"}]),
        node("out"),
    ]
    there = [pod("a1", {**WEB, "rev": "1"}), pod("a1", WEB), pod("b1", DB), pod("b1", WEB), pod("b1", WEB, "other")]
    everywhere = [{"operator": "Exists"}] if "tainted" in expected else []
    made = cluster(nodes, there)
    assert (
        where(made, pod(**{"labels": WEB, "topologySpreadConstraints": constraints, "tolerations": everywhere, **spec}))
        == expected
    )
