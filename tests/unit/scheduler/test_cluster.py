"""The snapshot beside a naive reading of Kubernetes' documentation, after any events; and beside itself, made anew."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np
import pytest
from clusters import CLAIMS, CLASSES, NODES, SPACES, VOLUMES, claims, limits, nodes, one_of, pods, volumes
from hypothesis import given, settings
from hypothesis import strategies as st
from naive import World, fits

from forebay.api.kubernetes.core import Meta, Namespace, Pod
from forebay.scheduler.arrays.cluster import Cluster
from forebay.scheduler.gang import Gang, Member, plan
from forebay.scheduler.planner import Planner
from forebay.scheduler.pods.request import Request
from forebay.scheduler.policies import Setting, make


def chosen(cluster: Cluster, request: Request) -> set[str]:
    """Nodes that the request may go to, computed anew."""
    ok = cluster.feasible(request, cluster.rows)
    allowed = cluster.allowed(request)
    return {cluster.names[row] for row in np.flatnonzero(ok if allowed is None else ok & allowed)}


def kept(planner: Planner, request: Request) -> set[str]:
    """The same, from what the planner has kept and brought up to date."""
    ok = planner.ranking(request).feasible
    allowed = planner.state.allowed(request)
    return {planner.state.names[row] for row in np.flatnonzero(ok if allowed is None else ok & allowed)}


def bind(pod: Pod, node: str) -> Pod:
    return msgspec.structs.replace(pod, spec=msgspec.structs.replace(pod.spec, node_name=node))


class Both:
    """A cluster and the naive world, told of the same events."""

    def __init__(self) -> None:
        self.world, self.cluster = World(), Cluster()
        for kind in CLASSES.values():
            self.world.classes[kind.metadata.name] = kind
            self.cluster.storage.set_class(kind)
        for space in SPACES:
            self.space(space, {"team": "1"} if space == "red" else {})

    def space(self, name: str, labels: dict[str, str]) -> None:
        self.world.namespaces[name] = labels
        self.cluster.set_namespace(Namespace(Meta(name=name, labels=labels)))

    def pod(self, pod: Pod) -> None:
        self.world.pods[pod.metadata.uid] = pod
        self.cluster.set_pod(pod)

    def event(self, draw: st.DrawFn, number: int) -> None:
        """One thing that a watch could say."""
        kind = draw(
            one_of(["node", "node", "pod", "pod", "pod", "gone", "nodegone", "volume", "claim", "limits", "space", "leave"])
        )
        world, cluster = self.world, self.cluster
        if kind == "node":
            node = draw(nodes(draw(one_of(NODES))))
            world.nodes[node.metadata.name] = node
            cluster.set_node(node)
        elif kind == "nodegone" and world.nodes:
            name = draw(one_of(sorted(world.nodes)))
            del world.nodes[name]
            cluster.remove_node(name)
        elif kind == "pod":
            pod = draw(pods(f"p{number}"))
            where = draw(one_of([*NODES, *NODES, "nominated"]))
            if where == "nominated":
                pod = msgspec.structs.replace(
                    pod, status=msgspec.structs.replace(pod.status, nominated_node_name=draw(one_of(NODES)))
                )
            else:
                pod = bind(pod, where)
            self.pod(pod)
        elif kind == "gone" and world.pods:
            uid = draw(one_of(sorted(world.pods)))
            del world.pods[uid]
            cluster.remove_pod(uid)
        elif kind == "leave" and world.pods:
            pod = world.pods[draw(one_of(sorted(world.pods)))]
            if draw(st.booleans()):
                self.pod(msgspec.structs.replace(pod, metadata=msgspec.structs.replace(pod.metadata, deletion_timestamp="now")))
            else:
                self.pod(msgspec.structs.replace(pod, status=msgspec.structs.replace(pod.status, phase="Succeeded")))
        elif kind == "volume":
            self.volume(draw)
        elif kind == "claim":
            self.claim(draw)
        elif kind == "limits":
            limit = draw(limits(draw(one_of(NODES))))
            world.limits[limit.metadata.name] = limit
            cluster.set_driver_limits(limit)
        elif kind == "space":
            self.space(draw(one_of(SPACES)), draw(one_of([{}, {"team": "1"}])))

    def volume(self, draw: st.DrawFn) -> None:
        volume = draw(volumes(draw(one_of(VOLUMES))))
        self.world.volumes[volume.metadata.name] = volume
        self.cluster.storage.set_volume(volume)

    def claim(self, draw: st.DrawFn) -> None:
        claim = draw(claims(draw(one_of(SPACES)), draw(one_of(CLAIMS))))
        self.world.claims[claim.metadata.namespace, claim.metadata.name] = claim
        self.cluster.storage.set_claim(claim)

    def anew(self) -> Cluster:
        """A cluster that is told of what is there now, and of nothing else."""
        cluster = Cluster()
        for name, labels in self.world.namespaces.items():
            cluster.set_namespace(Namespace(Meta(name=name, labels=labels)))
        for node in self.world.nodes.values():
            cluster.set_node(node)
        for kind in self.world.classes.values():
            cluster.storage.set_class(kind)
        for volume in self.world.volumes.values():
            cluster.storage.set_volume(volume)
        for claim in self.world.claims.values():
            cluster.storage.set_claim(claim)
        for limit in self.world.limits.values():
            cluster.set_driver_limits(limit)
        for pod in self.world.pods.values():
            cluster.set_pod(pod)
        return cluster


@st.composite
def worlds(draw: st.DrawFn) -> Both:
    both = Both()
    for name in NODES[: draw(st.integers(1, 5))]:
        node = draw(nodes(name))
        both.world.nodes[name] = node
        both.cluster.set_node(node)
    for _ in range(draw(st.integers(0, 3))):
        both.volume(draw)
    for _ in range(draw(st.integers(0, 3))):
        both.claim(draw)
    for number in range(draw(st.integers(0, 5))):
        both.pod(bind(draw(pods(f"s{number}")), draw(one_of(NODES))))
    return both


def check_naive(both: Both, data: st.DataObject) -> None:
    for number in range(data.draw(st.integers(1, 4))):
        pod = data.draw(pods(f"q{number}"))
        assert chosen(both.cluster, both.cluster.request(pod)) == fits(both.world, pod)


def check_events(both: Both, data: st.DataObject) -> None:
    asked = [data.draw(pods(f"q{number}")) for number in range(3)]
    planner = Planner(both.cluster, make("packing", Setting()))
    for number in range(data.draw(st.integers(1, 12))):
        both.event(data.draw, number)
        if data.draw(st.integers(0, 9)) == 0:
            both.cluster.sweep()
            planner.keep(())
        for pod in asked:
            expected = fits(both.world, pod)
            assert kept(planner, both.cluster.request(pod)) == expected
    anew = both.anew()
    for pod in asked:
        assert chosen(anew, anew.request(pod)) == kept(planner, both.cluster.request(pod))
    columns = set(anew.columns)  # the other has had more, for nodes that are gone
    assert free_of(anew) == {
        name: {column: free for column, free in row.items() if column in columns} for name, row in free_of(both.cluster).items()
    }


def check_gang(both: Both, data: st.DataObject) -> None:
    cluster = both.cluster
    planner = Planner(cluster, make(data.draw(one_of(["packing", "bestfit"])), Setting()))
    wanted = [data.draw(pods(f"g{number}", claims=False)) for number in range(data.draw(st.integers(1, 5)))]
    watchers = [data.draw(pods(f"w{number}", claims=False)) for number in range(2)]
    by_name = {pod.metadata.name: pod for pod in wanted}
    before = free_of(cluster)
    gang = Gang(
        "g", [Member(name, cluster.request(pod)) for name, pod in by_name.items()], data.draw(st.integers(1, len(wanted)))
    )
    done = plan(planner, gang)
    for one in done.placements:  # in the order of the decisions: each was right when it was made
        assert one.node in fits(both.world, by_name[one.pod])
        both.world.pods[one.pod] = bind(by_name[one.pod], one.node)
        row = cluster.row_of[one.node]
        cluster.adopt(by_name[one.pod], row, cluster.request(by_name[one.pod]))
        cluster.set_pod(both.world.pods[one.pod])  # the API says so too: counted once
    if not done.placed:
        assert free_of(cluster) == before
    for name in done.waiting if done.placed else ():
        assert not fits(both.world, by_name[name])
    for pod in watchers:
        assert kept(planner, cluster.request(pod)) == fits(both.world, pod)
    for one in done.placements:
        cluster.remove_pod(one.pod)
        del both.world.pods[one.pod]
    assert free_of(cluster) == before
    for pod in watchers:
        assert kept(planner, cluster.request(pod)) == fits(both.world, pod)


def free_of(cluster: Cluster) -> dict[str, dict[str, int]]:
    """What is free by node and column, without columns where nothing is."""
    return {
        name: {column: int(cluster.free[row, at]) for at, column in enumerate(cluster.columns) if cluster.free[row, at]}
        for name, row in cluster.row_of.items()
    }


@settings(max_examples=80, deadline=None)
@given(worlds(), st.data())
def test_the_same_nodes_as_a_naive_reading(both: Both, data: st.DataObject) -> None:
    check_naive(both, data)


@settings(max_examples=40, deadline=None)
@given(worlds(), st.data())
def test_what_is_kept_equals_what_is_computed_anew_after_any_events(both: Both, data: st.DataObject) -> None:
    check_events(both, data)


@settings(max_examples=40, deadline=None)
@given(worlds(), st.data())
def test_pods_of_a_gang_see_each_other_and_a_refusal_leaves_no_trace(both: Both, data: st.DataObject) -> None:
    check_gang(both, data)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("check", [check_naive, check_events, check_gang])
def test_many_more(check: Callable[[Both, st.DataObject], None]) -> None:
    @settings(max_examples=1000, deadline=None)
    @given(worlds(), st.data())
    def run(both: Both, data: st.DataObject) -> None:
        check(both, data)

    run()
