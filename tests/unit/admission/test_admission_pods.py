"""What the pod webhook makes of pods: a table of cases; every patch is applied, and applied again it changes nothing."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.controller.admission import pods
from forebay.controller.admission.locality import HOSTNAME, Holder, Locality
from forebay.controller.admission.preferences import FUSE, NODE, REGION, ZONE, PreferenceError, Preferences, Weighted, read, shown
from forebay.controller.admission.review import Answer

Object = dict[str, Any]
PLAIN = Preferences()
HELD_A, HELD_B = "fluid.io/s-ns-a", "fluid.io/s-ns-b"


def data(claim: str, **more: Any) -> Locality:
    held, seen = f"fluid.io/s-ns-{claim}", f"fluid.io/f-ns-{claim}"
    fields = {"namespace": "ns", "name": claim, "held": held, "shown": seen, "marked": frozenset({held}), **more}
    return Locality(claim=claim, **fields)


def pod(*claims: str, labels: dict[str, str] | None = None, **spec: Any) -> Object:
    volumes = [{"name": f"v-{c}", "persistentVolumeClaim": {"claimName": c}} for c in claims]
    mounts = [{"name": f"v-{c}", "mountPath": f"/{c}"} for c in claims]
    container = {"name": "main", "volumeMounts": [*mounts, {"name": "scratch", "mountPath": "/s"}]}
    meta = {"generateName": "p-", "labels": labels or {}}
    return {"metadata": meta, "spec": {"containers": [container], "volumes": [*volumes, {"name": "scratch"}], **spec}}


def sched(*claims: str) -> dict[str, str]:
    return {f"fluid.io/dataset.{c}.sched": "required" for c in claims}


def patched(obj: Object, patch: list[Object]) -> Object:
    """RFC 6902, `add` alone: what the webhook sends."""
    obj = copy.deepcopy(obj)
    for operation in patch:
        assert operation["op"] == "add"
        *path, last = (part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:])
        at: Any = obj
        for part in path:
            at = at[int(part)] if isinstance(at, list) else at[part]
        at[last] = operation["value"]
    return obj


def admit(obj: Object, *known: Locality, preferences: Preferences = PLAIN) -> tuple[Object, Answer]:
    """The pod afterwards; a second call has nothing to add."""
    by_claim = {d.claim: d for d in known}
    answer = pods.admit(obj, "ns", "forebay.io", by_claim.get, preferences)
    after = patched(obj, answer.patch)
    again = pods.admit(after, "ns", "forebay.io", by_claim.get, preferences)
    assert again.patch == [], "called again it changes its own result"
    assert again.warnings == answer.warnings
    return after, answer


def soft(obj: Object) -> list[tuple[int, str, tuple[str, ...]]]:
    """(weight, key, values) of what is preferred."""
    node = obj["spec"].get("affinity", {}).get("nodeAffinity", {})
    terms = node.get("preferredDuringSchedulingIgnoredDuringExecution", [])
    return [(t["weight"], e["key"], tuple(e["values"])) for t in terms for e in t["preference"]["matchExpressions"]]


def hard(obj: Object) -> list[list[tuple[str, tuple[str, ...]]]]:
    """The alternatives of what is required: (key, values) that must all hold."""
    node = obj["spec"].get("affinity", {}).get("nodeAffinity", {})
    terms = node.get("requiredDuringSchedulingIgnoredDuringExecution", {}).get("nodeSelectorTerms", [])
    return [[(e["key"], tuple(e.get("values", ()))) for e in t.get("matchExpressions", [])] for t in terms]


# --- affinity -------------------------------------------------------------------------------------------------------


def test_a_pod_prefers_nodes_that_hold_its_data() -> None:
    after, answer = admit(pod("a"), data("a"))
    assert soft(after) == [(100, HELD_A, ("true",))]
    assert hard(after) == []
    assert not answer.warnings
    assert not answer.refused


def test_zone_and_region_are_those_of_the_nodes_that_hold_it_and_of_what_workers_are_confined_to() -> None:
    where = {ZONE: "z1", REGION: "r"}
    known = data("a", holders=(Holder("n1", 5, True, where), Holder("n2", 5, True, {ZONE: "z2"})), bound={ZONE: ("z9",)})
    assert soft(admit(pod("a"), known)[0]) == [(100, HELD_A, ("true",)), (50, ZONE, ("z1", "z2", "z9")), (20, REGION, ("r",))]


def test_without_labels_on_nodes_they_are_named_by_how_much_they_hold() -> None:
    holders = (Holder("full", 900), Holder("half", 400), Holder("some", 10), Holder("none", 0))
    after, _ = admit(pod("a"), data("a", marked=frozenset(), holders=holders))
    assert soft(after) == [(100, HOSTNAME, ("full",)), (67, HOSTNAME, ("half",)), (33, HOSTNAME, ("some",))]


def test_a_dataset_that_is_nowhere_is_asked_for_by_its_label() -> None:
    after, answer = admit(pod("a", labels=sched("a")), data("a", marked=frozenset()))
    assert hard(after) == [[(HELD_A, ("true",))]]
    assert "no node holds data of ns/a yet; the pod waits until one does" in answer.warnings[0]


def test_several_required_datasets_must_all_be_there() -> None:
    after, _ = admit(pod("a", "b", labels=sched("a", "b")), data("a"), data("b"))
    assert hard(after) == [[(HELD_A, ("true",)), (HELD_B, ("true",))]]
    assert soft(after) == [], "what is required is not preferred too"


def test_what_is_required_goes_into_every_alternative_of_the_pods_own() -> None:
    own = [
        {"matchExpressions": [{"key": "gpu", "operator": "In", "values": ["h100"]}]},
        {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]},
        {},
    ]
    affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": own}}}
    after, _ = admit(pod("a", "b", labels=sched("a", "b"), affinity={**affinity, "podAffinity": {}}), data("a"), data("b"))
    both = [(HELD_A, ("true",)), (HELD_B, ("true",))]
    assert hard(after) == [[("gpu", ("h100",)), *both], both, []], "an empty alternative selects nothing, and stays so"
    assert after["spec"]["affinity"]["podAffinity"] == {}


def test_required_without_labels_names_nodes_with_workers_first() -> None:
    holders = (Holder("reader", 900, owner=False), Holder("worker", 10))
    assert hard(admit(pod("a", labels=sched("a")), data("a", marked=frozenset(), holders=holders))[0]) == [
        [(HOSTNAME, ("worker",))]
    ]
    readers = data("a", marked=frozenset(), holders=(Holder("reader", 900, owner=False),))
    assert hard(admit(pod("a", labels=sched("a")), readers)[0]) == [[(HOSTNAME, ("reader",))]]


def test_one_required_one_preferred() -> None:
    after, _ = admit(pod("a", "b", labels=sched("b")), data("a"), data("b"))
    assert (soft(after), hard(after)) == ([(100, HELD_A, ("true",))], [[(HELD_B, ("true",))]])


@pytest.mark.parametrize(
    "spec",
    [
        {"nodeSelector": {ZONE: "z1"}},
        {"nodeSelector": {HELD_A: "true"}},
        {
            "affinity": {
                "nodeAffinity": {
                    "preferredDuringSchedulingIgnoredDuringExecution": [
                        {"weight": 1, "preference": {"matchExpressions": [{"key": REGION, "operator": "Exists"}]}}
                    ]
                }
            }
        },
        {
            "affinity": {
                "nodeAffinity": {
                    "requiredDuringSchedulingIgnoredDuringExecution": {
                        "nodeSelectorTerms": [{"matchExpressions": [{"key": ZONE, "operator": "In", "values": ["z1"]}]}]
                    }
                }
            }
        },
    ],
    ids=["zone", "label", "preferred region", "required zone"],
)
def test_a_pod_that_says_itself_where_it_wants_to_be_is_left_alone(spec: Object) -> None:
    before = pod("a", **spec)
    after, _ = admit(before, data("a", holders=(Holder("n1", 5, True, {ZONE: "z2"}),)))
    assert after["spec"].get("affinity") == before["spec"].get("affinity")
    after, _ = admit(pod("a", labels=sched("a"), **spec), data("a"))
    assert any((HELD_A, ("true",)) in term for term in hard(after)), "what a label demands holds all the same"


def test_other_words_of_a_pod_keep_nothing_away() -> None:
    own = {"weight": 7, "preference": {"matchExpressions": [{"key": "disk", "operator": "In", "values": ["nvme"]}]}}
    affinity = {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [own]}}
    after, _ = admit(pod("a", nodeSelector={"kubernetes.io/os": "linux"}, affinity=affinity), data("a"))
    assert soft(after) == [(7, "disk", ("nvme",)), (100, HELD_A, ("true",))]


def test_a_dataset_and_a_reference_to_it_count_once() -> None:
    source = data("a")
    other = Locality(claim="ref", namespace="ns", name="a", held=source.held, shown=source.shown, marked=source.marked)
    after, _ = admit(pod("a", "ref"), source, other)
    assert soft(after) == [(100, HELD_A, ("true",))]
    assert after["metadata"]["annotations"] == {"fluid.io/datasets-in-use": "a,ref"}


def test_weights_are_the_configurations() -> None:
    chosen = Preferences(preferred=(Weighted(NODE, 10), Weighted(FUSE, 5), Weighted("rack", 3)), required=(NODE, "rack"))
    known = data("a", holders=(Holder("n1", 5, True, {"rack": "r7"}),))
    after, _ = admit(pod("a"), known, preferences=chosen)
    assert soft(after) == [(10, HELD_A, ("true",)), (5, "fluid.io/f-ns-a", ("true",)), (3, "rack", ("r7",))]
    after, _ = admit(pod("a", labels=sched("a")), known, preferences=chosen)
    assert hard(after) == [[(HELD_A, ("true",)), ("rack", ("r7",))]]


# --- the rest -------------------------------------------------------------------------------------------------------


def test_only_mounts_of_datasets_see_mounts_that_are_made_later() -> None:
    before = pod("a", "other")
    before["spec"]["initContainers"] = [
        {"name": "i", "volumeMounts": [{"name": "v-a", "mountPath": "/a", "mountPropagation": "None"}]}
    ]
    before["spec"]["containers"].append(
        {"name": "two", "volumeMounts": [{"name": "v-a", "mountPath": "/a", "mountPropagation": "Bidirectional"}]}
    )
    after, _ = admit(before, data("a"))
    said = {
        (c["name"], m["name"]): m.get("mountPropagation")
        for kind in ("initContainers", "containers")
        for c in after["spec"][kind]
        for m in c["volumeMounts"]
    }
    assert said == {
        ("i", "v-a"): "HostToContainer",
        ("main", "v-a"): "HostToContainer",
        ("main", "v-other"): None,
        ("main", "scratch"): None,
        ("two", "v-a"): "Bidirectional",
    }


@pytest.mark.parametrize(
    "before",
    [
        pod(),
        pod("nobody"),
        pod("a", labels={"fluid.io/enable-injection": "false"}),
        {},
        {"spec": None},
        {"spec": {"volumes": "x"}},
    ],
    ids=["no claim", "a claim of others", "opted out", "empty", "null", "odd"],
)
def test_other_pods_are_left_as_they_are(before: Object) -> None:
    after, answer = admit(before, data("a"))
    assert after == before
    assert not answer.refused


def test_labels_that_do_nothing_are_said() -> None:
    labels = {"fluid.io/dataset.zzz.sched": "required", "fluid.io/dataset.a.sched": "yes", "serverless.fluid.io/inject": "true"}
    after, answer = admit(pod("a", labels=labels), data("a"))
    said = "\n".join(answer.warnings)
    assert '["fluid.io/dataset.zzz.sched"] names no dataset that the pod mounts' in said
    assert '["fluid.io/dataset.a.sched"] "yes" has no effect; write required' in said
    assert "asks for a sidecar, which is not served" in said
    assert soft(after), "the node's mount serves it, so its data is near all the same"


def test_an_inline_volume_of_a_foreign_namespace_is_refused() -> None:
    def inline(named: str, driver: str = "forebay.io") -> Object:
        volume = {"name": "d", "csi": {"driver": driver, "volumeAttributes": {"forebay.io/dataset": named}}}
        return {"metadata": {}, "spec": {"volumes": [volume], "containers": []}}

    _, answer = admit(inline("lake/corpus"))
    (cause,) = answer.refused
    assert cause.field == 'spec.volumes[0].csi.volumeAttributes["forebay.io/dataset"]'
    assert (
        '"lake/corpus" names a dataset by its namespace; make a Dataset here with mountPoint: dataset://lake/corpus'
        in cause.message
    )
    assert "mount claim corpus" in admit(inline("ns/corpus"))[1].refused[0].message
    assert not admit(inline("corpus"))[1].refused
    assert not admit(inline("a/b", "other.io"))[1].refused


def test_annotations_that_a_pod_has_stay() -> None:
    before = pod("a")
    before["metadata"]["annotations"] = {"x": "y"}
    assert admit(before, data("a"))[0]["metadata"]["annotations"] == {"x": "y", "fluid.io/datasets-in-use": "a"}


# --- the configuration ----------------------------------------------------------------------------------------------


def test_the_file_says_what_the_defaults_are() -> None:
    assert read(shown(PLAIN), "f") == PLAIN
    assert read("", "f") == PLAIN
    assert read("required: []", "f").required == ()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("prefered: []", 'did you mean "preferred"'),
        ("preferred: [{name: fluid.io/node, weight: 0}]", "preferred[0].weight 0 is no weight; write 1 to 100"),
        ("preferred: [{name: fluid.io/node}]", "missing required field `weight`"),
        ("preferred: [{name: 'a b', weight: 3}]", '"a b" is no label key'),
        ("required: [x, x]", "stands twice"),
        ("- a", "Expected `object`"),
        ("a: [", "is no YAML"),
    ],
)
def test_a_wrong_file_is_one_sentence(text: str, words: str) -> None:
    with pytest.raises(PreferenceError, match=r"^f: ") as caught:
        read(text, "f")
    assert words in str(caught.value)


# --- what a scheduler makes of it -----------------------------------------------------------------------------------

KEYS = ("gpu", "disk", HELD_A, HELD_B)
EXPRESSION = st.one_of(
    st.builds(
        lambda key, values, operator: {"key": key, "operator": operator, "values": sorted(values)},
        st.sampled_from(KEYS),
        st.sets(st.sampled_from(("true", "x")), min_size=1),
        st.sampled_from(("In", "NotIn")),
    ),
    st.builds(
        lambda key, operator: {"key": key, "operator": operator},
        st.sampled_from(KEYS),
        st.sampled_from(("Exists", "DoesNotExist")),
    ),
)
TERM = st.builds(lambda e: {"matchExpressions": e} if e else {}, st.lists(EXPRESSION, max_size=2))
NODE_LABELS = st.dictionaries(st.sampled_from(KEYS), st.sampled_from(("true", "x")))


def meets(expression: Object, labels: dict[str, str]) -> bool:
    """Kubernetes' rule for one NodeSelectorRequirement."""
    key, operator, values = expression["key"], expression["operator"], expression.get("values", ())
    if operator in ("Exists", "DoesNotExist"):
        return (key in labels) is (operator == "Exists")
    return (labels.get(key) in values) is (operator == "In")


def selects(selector: Object, labels: dict[str, str]) -> bool:
    """Kubernetes' rule for a NodeSelector: alternatives; an empty one is met by nothing."""
    if not selector:
        return True
    terms = [t.get("matchExpressions", ()) for t in selector["nodeSelectorTerms"]]
    return any(term and all(meets(e, labels) for e in term) for term in terms)


@given(own=st.lists(TERM, max_size=3), wanted=st.sets(st.sampled_from("ab")), labels=NODE_LABELS)
def test_a_node_is_right_where_it_was_and_holds_all_that_is_required(
    own: list[Object], wanted: set[str], labels: dict[str, str]
) -> None:
    before = {"nodeSelectorTerms": own} if own else {}
    node = {"requiredDuringSchedulingIgnoredDuringExecution": before} if own else {}
    after, _ = admit(pod("a", "b", labels=sched(*sorted(wanted)), affinity={"nodeAffinity": node}), data("a"), data("b"))
    selector = after["spec"]["affinity"]["nodeAffinity"].get("requiredDuringSchedulingIgnoredDuringExecution", {})
    held = all(labels.get(f"fluid.io/s-ns-{claim}") == "true" for claim in wanted)
    assert selects(selector, labels) is (selects(before, labels) and held)
