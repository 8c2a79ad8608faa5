"""What pods prefer: points as a naive reading counts them, what they are worth, and that they never cost a place."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from clusters import NODES, nodes, one_of, pods, preferring
from filterlab import cluster, node, pod
from hypothesis import given, settings
from hypothesis import strategies as st
from naive import fits
from naive_preferences import points
from test_cluster import Both, bind

from forebay.api.kubernetes.core import Pod
from forebay.scheduler.arrays.cluster import Cluster
from forebay.scheduler.gang import Gang, Member, plan
from forebay.scheduler.planner import Planner
from forebay.scheduler.policies import POLICIES, Setting, make
from forebay.scheduler.preferences.worth import SECONDS

ZONE, HOST = "topology.kubernetes.io/zone", "kubernetes.io/hostname"
SOFT = "preferredDuringSchedulingIgnoredDuringExecution"


def wants(*terms: tuple[int, str, str]) -> dict[str, Any]:
    """Preferred node affinity: weight, key, value."""
    made = [
        {"weight": weight, "preference": {"matchExpressions": [{"key": key, "operator": "In", "values": [value]}]}}
        for weight, key, value in terms
    ]
    return {"affinity": {"nodeAffinity": {SOFT: made}}}


def beside(app: str, weight: int = 100, key: str = ZONE, kind: str = "podAffinity") -> dict[str, Any]:
    term = {"labelSelector": {"matchLabels": {"app": app}}, "topologyKey": key}
    return {"affinity": {kind: {SOFT: [{"weight": weight, "podAffinityTerm": term}]}}}


def even(key: str = ZONE, skew: int = 1) -> dict[str, Any]:
    one = {"maxSkew": skew, "topologyKey": key, "whenUnsatisfiable": "ScheduleAnyway"}
    return {"topologySpreadConstraints": [{**one, "labelSelector": {"matchLabels": {"app": "web"}}}]}


def zones() -> Cluster:
    """n0, n1 in zone a, n2, n3 in b; n3 has a disk and a taint that only weighs."""
    kinds = [("n0", "a", {}), ("n1", "a", {}), ("n2", "b", {}), ("n3", "b", {"disk": "ssd"})]
    soft = [{"key": "x", "effect": "PreferNoSchedule"}]
    return cluster([node(name, {ZONE: zone, **more}, soft if more else None) for name, zone, more in kinds])


def go(made: Cluster, wanted: Pod, seconds: float = SECONDS, policy: str = "forebay") -> str:
    choice = Planner(made, make(policy, Setting()), seconds).choose(made.request(wanted))
    return "" if choice is None else made.names[choice.row]


def test_without_preferences_the_first_row_is_taken_and_taints_that_only_weigh_are_heeded() -> None:
    plain = cluster([node("n0"), node("n1")])
    assert not plain.prefers(plain.request(pod()))  # nothing is computed then
    first = go(plain, pod())
    weighed = cluster(
        [node(name, None, [{"key": "x", "effect": "PreferNoSchedule"}] if name == first else None) for name in ("n0", "n1")]
    )
    assert go(weighed, pod()) not in ("", first)
    assert go(weighed, pod(tolerations=[{"key": "x", "operator": "Exists"}])) == first


@pytest.mark.parametrize("policy", sorted(POLICIES))
@pytest.mark.parametrize(
    ("spec", "node"),
    [
        (wants((1, ZONE, "b")), "n2"),
        (wants((100, "disk", "ssd")), "n2 n0 n1"),  # 200 points against 300 of the taint: one kind against another
        ({**wants((100, "disk", "ssd")), "tolerations": [{"operator": "Exists"}]}, "n3"),
        (wants((100, ZONE, "b"), (1, "disk", "ssd")), "n2"),
        (beside("db"), "n2"),
        (beside("db", kind="podAntiAffinity"), "n0 n1"),
        (even(), "n2"),
        (even(HOST), "n1 n2"),
    ],
)
def test_each_kind_decides_among_nodes_that_are_otherwise_equal(policy: str, spec: dict[str, Any], node: str) -> None:
    made = zones()
    made.set_pod(pod("n2", {"app": "db"}))
    made.set_pod(pod("n0", {"app": "web"}))
    assert go(made, pod(**spec), policy=policy, seconds=1e6) in node.split()


def test_those_who_run_have_wishes_too() -> None:
    made = zones()
    made.set_pod(pod("n2", {"app": "db"}, **beside("web")))
    assert go(made, pod(labels={"app": "web"})) == "n2"
    assert go(made, pod(labels={"app": "other"})) != "n2"
    required = {
        "requiredDuringSchedulingIgnoredDuringExecution": [
            {"labelSelector": {"matchLabels": {"app": "other"}}, "topologyKey": HOST}
        ]
    }
    made.set_pod(pod("n2", {"app": "other"}, affinity={"podAffinity": required}))
    assert go(made, pod(labels={"app": "other"})) == "n2"


def test_what_it_is_worth_is_bounded_and_can_be_turned_off() -> None:
    """A card lost is 25 points, 20 s: a node that keeps it is taken unless what is preferred is worth more."""
    made = cluster([node("n0", {"disk": "ssd"}, cpu="8"), node("n1", cpu="8")])
    made.set_pod(pod("n1", requests={"cpu": "6"}))
    wanted = pod(requests={"cpu": "1"}, **wants((1, "disk", "ssd")))
    packing = Planner(made, make("bestfit", Setting()))
    scores = packing.scores(made.request(wanted))
    gap = float(scores[made.row_of["n1"]] - scores[made.row_of["n0"]])
    assert gap > 0
    assert go(made, wanted, 0.0, "bestfit") == "n1"
    assert go(made, wanted, 0.8 * (gap - 1), "bestfit") == "n1"
    assert go(made, wanted, 0.8 * (gap + 1), "bestfit") == "n0"


def test_each_of_a_gang_sees_where_the_others_went() -> None:
    made = zones()
    request = made.request(pod(labels={"app": "web"}, tolerations=[{"operator": "Exists"}], **even(HOST)))
    done = plan(Planner(made, make("forebay", Setting())), Gang("g", [Member(str(i), request) for i in range(4)], 4))
    assert sorted(one.node for one in done.placements) == ["n0", "n1", "n2", "n3"]


def test_what_one_prefers_does_not_take_another_s_only_place() -> None:
    made = cluster([node("n0", cpu="2"), node("n1", {"disk": "ssd"}, cpu="2")])
    picky = made.request(pod(requests={"cpu": "2"}, nodeSelector={"disk": "ssd"}))
    lover = made.request(pod(requests={"cpu": "2", "memory": "1Gi"}, **wants((100, "disk", "ssd"))))
    gang = Gang("g", [Member("lover", lover), Member("picky", picky)], 2)
    done = plan(Planner(made, make("forebay", Setting())), gang)  # lover asks more and goes first
    assert {one.pod: one.node for one in done.placements} == {"lover": "n0", "picky": "n1"}


def test_a_class_is_another_where_preferences_differ() -> None:
    made = zones()
    one, other, none = (made.request(pod(**spec)) for spec in (wants((1, ZONE, "a")), wants((2, ZONE, "a")), {}))
    assert len({one, other, none}) == 3
    assert made.request(pod(**wants((1, ZONE, "a")))) == one


# --- against a naive reading ------------------------------------------------------------------------------------------


@st.composite
def busy(draw: st.DrawFn) -> Both:
    both = Both()
    for name in NODES[: draw(st.integers(2, 5))]:
        made = draw(nodes(name))
        both.world.nodes[name] = made
        both.cluster.set_node(made)
    for number in range(draw(st.integers(0, 6))):
        one = draw(preferring(f"s{number}")) if draw(st.booleans()) else draw(pods(f"s{number}", claims=False))
        both.pod(bind(one, draw(one_of(NODES))))
    return both


def ours(made: Cluster, wanted: Pod, names: set[str]) -> dict[str, int]:
    rows = np.array(sorted(made.row_of[name] for name in names), np.int64)
    total = made.preferred(made.request(wanted), rows).total
    return {made.names[row]: 0 if total is None else int(total[at]) for at, row in enumerate(rows.tolist())}


def same(found: dict[str, int], naive: dict[str, int]) -> bool:
    """Equal but for what all have: a kind in which all are equal is left out here."""
    return len({naive[name] - found[name] for name in naive}) <= 1


@pytest.mark.timeout(1200)
@given(busy(), st.data())
@settings(max_examples=40, deadline=None)
def test_points_are_those_of_a_naive_reading(both: Both, data: st.DataObject) -> None:
    for number in range(3):
        wanted = data.draw(preferring(f"w{number}"))
        names = fits(both.world, wanted)
        found, naive = ours(both.cluster, wanted, names), points(both.world, wanted, names)
        assert same(found, naive), (found, naive)
        for step in range(2):  # what is kept is brought up to date, whatever happened
            both.event(data.draw, 100 * number + 10 * step)
        names = fits(both.world, wanted)
        assert same(ours(both.cluster, wanted, names), points(both.world, wanted, names))
    wanted = data.draw(preferring("again"))
    names = fits(both.world, wanted)
    both.cluster.sweep()
    assert same(ours(both.cluster, wanted, names), points(both.world, wanted, names))


# --- never at the cost of a place -------------------------------------------------------------------------------------


def without(wanted: Pod) -> Pod:
    """The same pod, preferring nothing."""
    spec = wanted.spec
    affinity = spec.affinity
    if affinity is not None:
        parts = {
            name: None if part is None else msgspec.structs.replace(part, preferred=())
            for name in ("node_affinity", "pod_affinity", "pod_anti_affinity")
            for part in [getattr(affinity, name)]
        }
        affinity = msgspec.structs.replace(affinity, **parts)
    hard = tuple(one for one in spec.topology_spread_constraints if one.when_unsatisfiable == "DoNotSchedule")
    return msgspec.structs.replace(
        wanted, spec=msgspec.structs.replace(spec, affinity=affinity, topology_spread_constraints=hard)
    )


@pytest.mark.timeout(1200)
@given(busy(), st.data(), one_of(sorted(POLICIES)), one_of([0.0, 1.0, SECONDS, 1e6]))
@settings(max_examples=40, deadline=None)
def test_a_pod_goes_to_one_of_the_best_that_fit(both: Both, data: st.DataObject, policy: str, seconds: float) -> None:
    wanted = data.draw(preferring("w"))
    names, made = fits(both.world, wanted), both.cluster
    assert names == fits(both.world, without(wanted))
    planner = Planner(made, make(policy, Setting()), seconds)
    request = made.request(wanted)
    choice = planner.choose(request)
    assert (choice is None) == (not names)
    if choice is None:
        return
    assert made.names[choice.row] in names
    found = points(both.world, wanted, names)
    scores = planner.scores(request)
    worth = {name: float(scores[made.row_of[name]]) + found[name] * seconds / 160 for name in names}
    assert worth[made.names[choice.row]] >= max(worth.values()) - 1e-6


@pytest.mark.timeout(1200)
@given(busy(), st.data(), st.integers(1, 6))
@settings(max_examples=40, deadline=None)
def test_a_gang_is_never_worse_off_with_preferences(both: Both, data: st.DataObject, count: int) -> None:
    members = [data.draw(preferring(f"g{number}", rich=bool(number % 2))) for number in range(count)]
    minimum = data.draw(st.integers(0, count))
    made = both.cluster
    before = made.free.tobytes(), made.shapes.tobytes()
    placed = []
    for seconds in (0.0, SECONDS):
        gang = Gang("g", [Member(one.metadata.uid, made.request(one)) for one in members], minimum)
        done = plan(Planner(made, make("forebay", Setting()), seconds), gang)
        placed.append(len(done.placements))
        assert not done.placements or len(done.placements) >= minimum
        for one in done.placements:
            made.release(made.row_of[one.node], made.request(next(m for m in members if m.metadata.uid == one.pod)), one.cards)
        assert (made.free.tobytes(), made.shapes.tobytes()) == before
    assert placed[1] >= placed[0]
