"""What goes wrong between deciding and binding: conflicts, races, deletions, restarts. Nothing is booked twice, nothing leaks."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest
from controlplane import ControlPlane
from controlplane_kit import until
from schedulerlab import PATIENCE, Held, Running, Site, for_seconds, live_plane, live_site

from forebay.kube.objects import Key
from forebay.kube.resources import NODES, PODS
from forebay.scheduler.devices.record import ANNOTATION
from forebay.scheduler.devices.record import read as read_record
from forebay.scheduler.live.config import Configuration, Gangs

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with live_plane(tmp_path_factory.mktemp("faults")) as plane:
        yield plane


@pytest.fixture
def site(world: ControlPlane) -> Iterator[Site]:
    yield from live_site(world)


def empty(running: Running) -> bool:
    """Nobody flies, nobody waits."""
    core = running.scheduler.core
    return not len(core.flights) and not len(core.queue)


def books_agree(running: Running, site: Site) -> None:
    """What is free is what nodes have less what their pods ask, in the server's words."""
    cluster = running.scheduler.core.books.cluster

    def agree() -> bool:
        for name in site.nodes:
            if name not in cluster.row_of:
                return False
            bound = [p for p in site.pods() if p.spec.node_name == name]
            asked = sum(int(p.spec.containers[0].resources.requests.get("cpu", "0")) for p in bound)
            row = cluster.row_of[name]
            if cluster.free[row, 0] != cluster.allocatable[row, 0] - 1000 * asked:
                return False
        return not len(running.scheduler.core.flights)

    until(agree, PATIENCE, lambda: [(n, cluster.free[cluster.row_of[n]].tolist()) for n in site.nodes])


def test_somebody_else_binds_our_pod_first(world: ControlPlane, site: Site) -> None:
    one = site.node(cpu="4")
    with Running(world.endpoint) as running:
        held = Held(running.scheduler, lambda name: name == "taken")
        pod = site.pod("taken")
        until(lambda: held.waiting, PATIENCE)
        other = site.node(cpu="4")
        site.bind(pod, other)
        held.let_go()  # the server refuses it: 409
        books_agree(running, site)
        assert site.where([pod]) == [other]
        assert one != other
        until(lambda: empty(running), PATIENCE)


def test_another_scheduler_fills_the_node_while_we_decide(world: ControlPlane, site: Site) -> None:
    """One binder thread that is held up; what waits behind it no longer fits: it is called back, not sent."""
    first, second = site.node(cpu="2"), ""
    with Running(world.endpoint, Configuration(bind_threads=1)) as running:
        held = Held(running.scheduler, lambda name: name == "stuck")
        stuck = site.pod("stuck", cpu="1")
        until(lambda: held.waiting, PATIENCE)
        behind = site.pod("behind", cpu="1")
        until(lambda: len(running.scheduler.core.flights) == 2, PATIENCE)
        theirs = site.pod("theirs", cpu="1", scheduler="somebody-else")
        site.bind(theirs, first)
        until(lambda: running.scheduler.core.counts.races == 1, PATIENCE)
        held.let_go()
        site.all_bound([stuck])
        site.waits(behind, "too little free cpu")
        assert site.where([stuck, theirs, behind]) == [first, first, ""]
        second = site.node(cpu="1")
        site.all_bound([behind])
        assert site.where([behind]) == [second]
        books_agree(running, site)


def test_a_pod_is_deleted_in_flight(world: ControlPlane, site: Site) -> None:
    site.node(cpu="1")
    with Running(world.endpoint) as running:
        held = Held(running.scheduler, lambda name: name == "short")
        gone = site.pod("short")
        until(lambda: held.waiting, PATIENCE)
        site.client.delete(PODS, gone, grace=0)
        follower = site.pod("follower")
        held.let_go()
        site.all_bound([follower])
        books_agree(running, site)


def test_the_node_goes_in_flight(world: ControlPlane, site: Site) -> None:
    first = site.node(cpu="1")
    with Running(world.endpoint, Configuration(bind_threads=1)) as running:
        held = Held(running.scheduler, lambda name: name == "plug")
        site.pod("plug", cpu="0")
        until(lambda: held.waiting, PATIENCE)
        pod = site.pod("moved")
        until(lambda: len(running.scheduler.core.flights) == 2, PATIENCE)
        site.client.delete(NODES, Key("", first))
        site.nodes.remove(first)
        until(lambda: first not in running.scheduler.core.books.cluster.row_of, PATIENCE)
        other = site.node(cpu="1")
        held.let_go()
        site.all_bound([pod])
        assert site.where([pod]) == [other]


def test_a_member_of_a_gang_is_refused_before_any_is_bound(world: ControlPlane, site: Site) -> None:
    """The rehearsal finds it: one member is bound by somebody else meanwhile."""
    site.node(cpu="4")
    far = site.node(cpu="1", labels={"far": "yes"})
    with Running(world.endpoint, Configuration(bind_threads=1)) as running:
        held = Held(running.scheduler, lambda name: name == "plug")
        site.pod("plug", cpu="0")
        until(lambda: held.waiting, PATIENCE)
        gang = site.gang("four", 4, 4)
        until(lambda: len(running.scheduler.core.flights) == 5, PATIENCE)
        site.bind(gang[3], far)
        held.let_go()
        site.all_bound(gang)  # three are still asked for, and fit
        books_agree(running, site)


def test_a_gang_bound_in_part_is_told_and_deleted_if_so_wished(world: ControlPlane, site: Site) -> None:
    """A crash between two bindings of one gang: the rest finds its place taken."""
    node = site.node(cpu="2")
    gang = site.gang("half", 2, 2)
    blocker = site.pod("blocker", scheduler="somebody-else")
    site.bind(gang[0], node)
    site.bind(blocker, node)
    with Running(world.endpoint, Configuration(gangs=Gangs(repair_seconds=0.5))) as running:
        site.event(gang[0], "PartialGang", "1 pods of gang")
        assert site.get(gang[0]).spec.node_name == node
        site.client.delete(PODS, blocker, grace=0)
        site.all_bound(gang)
        until(lambda: empty(running), PATIENCE)
    gang = site.gang("other", 2, 2, cpu="1", nodeSelector={"none": "such"})
    site.client.delete(PODS, Key(site.namespace, "half-0"), grace=0)
    site.bind(gang[0], node)
    with Running(world.endpoint, Configuration(gangs=Gangs(repair_seconds=0.5, partial="Delete"))):
        until(lambda: site.gone_or_leaving(gang[0]), PATIENCE)


def test_a_restart_finds_what_was_booked(world: ControlPlane, site: Site) -> None:
    site.node(cpu="3", **{"aliyun.com/gpu-mem": "30", "aliyun.com/gpu-count": "2"})
    site.client.merge(NODES, Key("", site.nodes[0]), {"metadata": {"labels": {"ack.node.gpu.schedule": "cgpu"}}})
    mem = {"aliyun.com/gpu-mem": "8"}
    with Running(world.endpoint) as running:
        until(lambda: running.scheduler.core.books.devices.devices(site.nodes[0]), PATIENCE)
        before = [site.pod("a", limits=mem), site.pod("b", limits=mem)]
        site.all_bound(before)
    cards = {read_record(site.get(key).metadata.annotations).parts[0].device for key in before}  # type: ignore[union-attr]
    assert len(cards) == 2  # 8 of 15 GiB each: never two on one card
    with Running(world.endpoint) as running:
        third = site.pod("c", limits=mem)
        site.waits(third, "card memory")
        small = site.pod("d", limits={"aliyun.com/gpu-mem": "7"})
        site.all_bound([small])
        used = running.scheduler.core.books.devices.used(site.nodes[0])
        assert sorted(use.memory >> 30 for use in used.values()) == [8, 15]
        books_agree(running, site)
        notes = site.get(small).metadata.annotations
        assert ANNOTATION in notes
        assert notes["ALIYUN_COM_GPU_MEM_POD"] == "7"
        assert msgspec.json.decode(notes["scheduler.framework.gpushare.allocation"])


def test_a_foreign_pod_without_annotations_holds_a_card_too(world: ControlPlane, site: Site) -> None:
    node = site.node(cpu="8", **{"nvidia.com/gpu": "2"})
    whole = {"nvidia.com/gpu": "1"}
    theirs = site.pod("theirs", limits=whole, scheduler="somebody-else")
    site.bind(theirs, node)
    with Running(world.endpoint):
        first, second = site.pod("first", limits=whole), site.pod("second", limits=whole)
        until(lambda: sum(bool(name) for name in site.where([first, second])) == 1, PATIENCE)
        waiting = first if not site.where([first])[0] else second
        site.waits(waiting, "idle cards")
        for_seconds(1.0, lambda: site.where([waiting]) == [""])
        site.client.delete(PODS, theirs, grace=0)
        site.all_bound([first, second])
