"""Whatever pods and objects say of gangs: a gang that can be reached, or a sentence."""

from __future__ import annotations

from groupkit import ACK, KOORDINATOR, ONE, pod
from hypothesis import given, settings
from hypothesis import strategies as st

from forebay.api.kubernetes.core import Pod
from forebay.scheduler.gang import Gang, Member
from forebay.scheduler.groups import SOURCES, Groups, Membership

WORDS = st.sampled_from(
    ["", "x", "y", "0", "1", "2", "3", "-1", "99999999999", "two", "only-waiting", "once-satisfied", "10s", '["team/x"]']
)
BUNDLES = st.sampled_from(["", '["team/x","team/y"]', '["team/x"]', "[", "3", "[3]", '["x"]'])
KEYS = [
    *(f"{ACK}/{word}" for word in ("name", "min-available", "match-policy")),
    *(f"{KOORDINATOR}/{word}" for word in ("name", "min-available", "match-policy", "mode", "waiting-time", "total-number")),
    *(
        ACK,
        "scheduling.x-k8s.io/pod-group",
        "scheduling.k8s.io/group-name",
        "scheduling.volcano.sh/group-name",
        "volcano.sh/task-spec",
    ),
]
TEXTS = st.dictionaries(st.sampled_from(KEYS), WORDS, max_size=5) | st.dictionaries(
    st.sampled_from([f"{ACK}/groups", f"{KOORDINATOR}/groups", f"{ACK}/name"]), BUNDLES, max_size=3
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 5) | st.sampled_from(["x", "team", "gang", "Running"]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(
                [
                    "minMember",
                    "minTaskMember",
                    "schedulingPolicy",
                    "gang",
                    "basic",
                    "minCount",
                    "x",
                    "phase",
                    "conditions",
                    "subGroupPolicy",
                ]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=6,
)


@settings(deadline=None)
@given(
    pods=st.lists(
        st.tuples(TEXTS, TEXTS, st.booleans(), st.sampled_from(["", "Running", "Succeeded", "Failed"])), min_size=1, max_size=6
    ),
    objects=st.lists(
        st.tuples(st.sampled_from([one.name for one in SOURCES]), st.sampled_from(["x", "y"]), JSON, JSON), max_size=3
    ),
)
def test_whatever_is_written_there_is_a_gang_that_can_be_reached_or_a_sentence(
    pods: list[tuple[dict[str, str], dict[str, str], bool, str]], objects: list[tuple[str, str, object, object]]
) -> None:
    groups = Groups()
    for kind, name, spec, status in objects:
        groups.set(kind, {"metadata": {"name": name, "namespace": "team"}, "spec": spec, "status": status})
    gangs = dict[str, list[Pod]]()
    for at, (labels, notes, bound, phase) in enumerate(pods):
        one = pod(f"p{at}", labels, notes, node="n" if bound else "", phase=phase)
        place = groups.membership(one)
        if place is not None:
            assert place == groups.membership(one)
            gangs.setdefault(place.gang, []).append(one)
    for gang, members in gangs.items():
        waiting = [one for one in members if not one.spec.node_name]
        placed = [(one, Member(one.metadata.name, ONE, (groups.membership(one) or Membership("")).group)) for one in waiting]
        found = groups.gather(gang, placed, [one for one in members if one.spec.node_name])
        groups.regarding(gang)
        if isinstance(found, Gang):  # Gang itself refuses minimums that its members cannot reach
            assert len(found.members) == len(waiting)
            assert sum(found.group_minimum.values()) <= found.minimum
        else:
            assert len(found) > 20
