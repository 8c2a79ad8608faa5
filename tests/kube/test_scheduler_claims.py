"""Claims on devices (DRA) on a real API server with the real claim controller, under the account of the manifests.

The driver is one that only counts: it publishes ResourceSlices and prepares nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from controlplane import ControlPlane
from controlplane_kit import until
from drakit import Claims, CountingDriver, cel, device, exactly
from schedulerlab import PATIENCE, Held, Running, Site, for_seconds, live_plane, live_site
from schedulerrights import SPACE, scheduler_account

from forebay.api.kubernetes.resource import FINALIZER
from forebay.kube.config import Endpoint
from forebay.kube.objects import Key
from forebay.kube.resources import NAMESPACES, PODS, RESOURCE_CLAIMS

pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with live_plane(tmp_path_factory.mktemp("claims")) as plane:
        yield plane


@pytest.fixture(scope="module")
def account(world: ControlPlane) -> Iterator[Endpoint]:
    with scheduler_account(world) as endpoint:
        yield endpoint


@pytest.fixture
def site(world: ControlPlane) -> Iterator[Site]:
    yield from live_site(world)


@pytest.fixture
def running(account: Endpoint) -> Iterator[Running]:
    with Running(account, namespace=SPACE) as one:
        yield one


@pytest.fixture
def driver(site: Site) -> Iterator[CountingDriver]:
    made = CountingDriver(site)
    yield made
    made.end()


@pytest.fixture
def claims(site: Site) -> Claims:
    return Claims(site)


def cards(count: int, **attributes: Any) -> list[dict[str, Any]]:
    return [device(f"card-{n}", attributes={"index": n, **attributes}, capacity={"memory": "16Gi"}) for n in range(count)]


def test_each_pod_of_a_template_gets_a_device_of_its_own(
    site: Site, running: Running, driver: CountingDriver, claims: Claims
) -> None:
    a, b = site.node(), site.node()
    driver.publish(cards(2), node=a)
    driver.publish(cards(1), node=b)
    one = claims.template("one", exactly("card", driver.name))
    pods = [claims.pod(f"p{n}", template=one) for n in range(3)]
    site.all_bound(pods)
    assert claims.devices(*pods) == sorted([f"{a}/card-0", f"{a}/card-1", f"{b}/card-0"])
    for key in pods:
        (claim,) = claims.of(key)
        assert FINALIZER in claim.metadata.finalizers
        assert claims.devices(key)[0].startswith(f"{site.get(key).spec.node_name}/")
    late = claims.pod("late", template=one)
    site.waits(late, "too few free devices for request card")
    site.client.delete(PODS, pods[0], grace=0)
    site.all_bound([late])
    assert len(set(claims.devices(*pods[1:], late))) == 3


def test_selectors_counts_all_and_equal_attributes(site: Site, running: Running, driver: CountingDriver, claims: Claims) -> None:
    big, small = site.node(), site.node()
    d = driver.name
    driver.publish(
        [device(f"b{n}", attributes={"model": "big", "numa": n // 2}, capacity={"memory": "80Gi"}) for n in range(4)], node=big
    )
    driver.publish(
        [device(f"s{n}", attributes={"model": "small", "numa": 0}, capacity={"memory": "16Gi"}) for n in range(2)], node=small
    )
    roomy = exactly("card", d, selectors=cel(f"device.capacity['{d}'].memory.compareTo(quantity('40Gi')) >= 0"))
    first = claims.pod("first", claims.claim("roomy", roomy))
    site.all_bound([first])
    assert claims.devices(first) == [f"{big}/b0"]
    match = [{"requests": ["card"], "matchAttribute": f"{d}/numa"}]
    pair = claims.pod(
        "pair",
        claims.claim(
            "pair", exactly("card", d, count=2, selectors=cel(f"device.attributes['{d}'].model == 'big'")), constraints=match
        ),
    )
    site.all_bound([pair])
    assert claims.devices(pair) == [f"{big}/b2", f"{big}/b3"]  # b1 has no partner left on its side
    every = claims.pod("every", claims.claim("every", exactly("card", d, allocationMode="All")))
    site.all_bound([every])
    assert claims.devices(every) == [f"{small}/s0", f"{small}/s1"]
    choice = {
        "name": "card",
        "firstAvailable": [{"name": "two", "deviceClassName": d, "count": 2}, {"name": "one", "deviceClassName": d}],
    }
    last = claims.pod("last", claims.claim("last", choice))
    site.all_bound([last])
    assert claims.devices(last) == [f"{big}/b1"]
    results = claims.get("last").status.allocation.devices.results  # type: ignore[union-attr]
    assert [one.request for one in results] == ["card/one"]


def test_devices_that_several_nodes_reach_and_a_claim_that_two_pods_share(
    site: Site, running: Running, driver: CountingDriver, claims: Claims
) -> None:
    for zone in ("x", "x", "y"):
        site.node(cpu="1", labels={"zone": zone})
    terms = {"nodeSelectorTerms": [{"matchExpressions": [{"key": "zone", "operator": "In", "values": ["x"]}]}]}
    driver.publish([device("link")], pool="fabric", nodeSelector=terms)
    shared = claims.claim("shared", exactly("link", driver.name))
    pods = [claims.pod(f"p{n}", shared) for n in range(3)]
    until(lambda: sum(map(bool, site.where(pods))) == 2, PATIENCE, lambda: [site.said(key) for key in pods])
    waiting = next(key for key in pods if not site.get(key).spec.node_name)
    site.waits(waiting, "devices of ResourceClaim")
    claim = claims.get("shared")
    assert len(claim.status.reserved_for) == 2
    assert {node for node in site.where(pods) if node} == set(site.nodes[:2])
    rest = claims.pod("rest", claims.claim("another", exactly("link", driver.name)))
    site.waits(rest, "too few free devices")


def test_a_gang_gets_all_its_devices_or_none(site: Site, running: Running, driver: CountingDriver, claims: Claims) -> None:
    a, b = site.node(), site.node()
    driver.publish(cards(2), node=a)
    driver.publish(cards(3), node=b)
    two = claims.template("two", exactly("card", driver.name, count=2))
    labels = {"pod-group.scheduling.sigs.k8s.io/name": "g", "pod-group.scheduling.sigs.k8s.io/min-available": "3"}
    gang = [claims.pod(f"g{n}", template=two, labels=labels) for n in range(3)]
    site.waits(gang[0], "needs 3 pods at once, 2 fit")
    for_seconds(1.0, lambda: not any(one.status.allocation for one in claims.all()))
    c = site.node()
    driver.publish(cards(2), node=c)
    site.all_bound(gang)
    held = claims.devices(*gang)
    assert len(set(held)) == len(held) == 6


def test_after_a_restart_no_device_is_given_twice(account: Endpoint, site: Site, driver: CountingDriver, claims: Claims) -> None:
    node = site.node()
    driver.publish(cards(3), node=node)
    one = claims.template("one", exactly("card", driver.name))
    first = [claims.pod(f"a{n}", template=one) for n in range(2)]
    with Running(account, namespace=SPACE):
        site.all_bound(first)
    more = [claims.pod(f"b{n}", template=one) for n in range(2)]
    with Running(account, namespace=SPACE):
        until(lambda: any(site.where(more)), PATIENCE)
        waiting = next(key for key in more if not site.get(key).spec.node_name)
        site.waits(waiting, "too few free devices")
    held = claims.devices(*first, *more)
    assert len(set(held)) == len(held) == 3


def test_what_comes_to_nothing_is_given_back(site: Site, running: Running, driver: CountingDriver, claims: Claims) -> None:
    driver.publish(cards(1), node=site.node())
    claim = claims.claim("mine", exactly("card", driver.name))
    held = Held(running.scheduler, lambda name: name == "gone")
    gone = claims.pod("gone", claim)
    until(lambda: bool(held.waiting), PATIENCE)
    assert claims.get(claim).status.allocation is not None
    site.client.delete(PODS, gone, grace=0)
    held.let_go()
    until(lambda: claims.get(claim).status.allocation is None, PATIENCE)
    heir = claims.pod("heir", claim)
    site.all_bound([heir])
    assert [one.name for one in claims.get(claim).status.reserved_for] == ["heir"]


def test_a_claim_that_is_allocated_where_its_pod_does_not_fit_is_allocated_anew(
    account: Endpoint, site: Site, driver: CountingDriver, claims: Claims
) -> None:
    """As after a crash between the claim and the binding."""
    small, roomy = site.node(cpu="1"), site.node(cpu="8")
    driver.publish(cards(1), node=small)
    driver.publish(cards(1), node=roomy)
    claim = claims.claim("mine", exactly("card", driver.name))
    pod = claims.pod("big", claim, cpu="4")
    result = {"request": "card", "driver": driver.name, "pool": small, "device": "card-0"}
    name = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [small]}]}
    allocation = {"devices": {"results": [result]}, "nodeSelector": {"nodeSelectorTerms": [name]}}
    user = {"resource": "pods", "name": "big", "uid": site.get(pod).metadata.uid}
    body = {"status": {"allocation": allocation, "reservedFor": [user]}}
    site.client.merge(RESOURCE_CLAIMS, Key(site.namespace, claim), body, sub="status")
    with Running(account, namespace=SPACE):
        site.all_bound([pod])
    assert site.where([pod]) == [roomy]
    assert claims.devices(pod) == [f"{roomy}/card-0"]


def test_a_pool_that_changes_and_its_counters(site: Site, running: Running, driver: CountingDriver, claims: Claims) -> None:
    """One card whole or in halves: what the halves take of it is counted."""
    node = site.node()
    sets = [{"name": "gpu", "counters": {"slices": {"value": "2"}}}]

    def part(name: str, slices: str) -> dict[str, Any]:
        return device(
            name,
            attributes={"part": name[0]},
            consumesCounters=[{"counterSet": "gpu", "counters": {"slices": {"value": slices}}}],
        )

    half = claims.template("half", exactly("part", driver.name, selectors=cel(f"device.attributes['{driver.name}'].part == 'h'")))
    whole = claims.template(
        "whole", exactly("part", driver.name, selectors=cel(f"device.attributes['{driver.name}'].part == 'w'"))
    )
    driver.publish([part("whole", "2"), part("half-0", "1"), part("half-1", "1")], node=node, count=2)
    first = claims.pod("first", template=half)
    site.waits(first, "waits for 1 more slices")
    driver.publish(pool=node, node=node, count=2, sharedCounters=sets)
    site.all_bound([first])
    other = claims.pod("other", template=whole)
    site.waits(other, "no free devices that fit together")
    second = claims.pod("second", template=half)
    site.all_bound([second])
    for key in (first, second):
        site.client.delete(PODS, key, grace=0)
    site.all_bound([other])
    assert claims.devices(other) == [f"{node}/whole"]


def test_what_is_not_done_here_is_said(site: Site, running: Running, driver: CountingDriver, claims: Claims) -> None:
    node = site.node()
    d = driver.name
    site.client.merge(
        NAMESPACES, Key("", site.namespace), {"metadata": {"labels": {"resource.kubernetes.io/admin-access": "true"}}}
    )
    driver.publish(
        [
            device("plain"),
            device("bound", bindingConditions=["ready"], bindingFailureConditions=["broken"]),
            device("shared", allowMultipleAllocations=True, capacity={"memory": "16Gi"}),
            device("sick", taints=[{"key": "example.com/sick", "effect": "NoSchedule"}]),
        ],
        node=node,
    )
    said = {
        "admin": ([exactly("card", d, adminAccess=True)], "wants admin access"),
        "part": ([exactly("card", d, capacity={"requests": {"memory": "1Gi"}})], "wants a part of a device's capacity"),
        "none": ([exactly("card", "no-such-class")], "DeviceClass no-such-class of request card does not exist"),
        "two": ([exactly("card", d, count=2)], "too few usable devices for request card"),
        "name": (
            [exactly("card", d, selectors=cel(f"device.attributes['{d}'].nosuch == 'a'"))],
            "no such member in mapping: 'nosuch'",
        ),
    }
    for name, (requests, sentence) in said.items():
        site.waits(claims.pod(name, claims.claim(name, *requests)), sentence)
    site.waits(claims.pod("missing", "no-such-claim"), "no-such-claim does not exist")
    driver.device_class(f"mapped.{d}", extendedResourceName=f"{d}/card")
    mapped = site.pod("mapped", limits={f"{d}/card": "1"})
    site.waits(mapped, "maps to devices: that is not done here")
    tolerant = exactly("card", d, tolerations=[{"operator": "Exists"}], selectors=cel("!device.allowMultipleAllocations"))
    both = claims.pod("both", claims.claim("both", {**tolerant, "exactly": {**tolerant["exactly"], "count": 2}}))
    site.all_bound([both])
    assert claims.devices(both) == [f"{node}/plain", f"{node}/sick"]


def test_a_gang_of_which_one_claim_was_lost_to_another_scheduler_gives_all_back_and_starts_anew(
    site: Site, running: Running, driver: CountingDriver, claims: Claims
) -> None:
    node = site.node()
    driver.publish(cards(4), node=node)
    for name in ("mine", "lost"):
        claims.claim(name, exactly("card", driver.name))
    write, stopped, go = running.scheduler.client.merge, threading.Event(), threading.Event()

    def held(resource: Any, key: Key, body: Any, *, sub: str = "", dry_run: bool = False) -> Any:
        if resource == RESOURCE_CLAIMS and key.name == "lost" and sub and not go.is_set():
            stopped.set()
            assert go.wait(PATIENCE)
        return write(resource, key, body, sub=sub, dry_run=dry_run)

    running.scheduler.client.merge = held  # type: ignore[method-assign]
    labels = {"pod-group.scheduling.sigs.k8s.io/name": "g", "pod-group.scheduling.sigs.k8s.io/min-available": "2"}
    gang = [claims.pod(f"g-{name}", name, labels=labels) for name in ("mine", "lost")]
    assert stopped.wait(PATIENCE)
    until(lambda: claims.get("mine").status.allocation is not None, PATIENCE)
    result = {"request": "card", "driver": driver.name, "pool": node, "device": "card-3"}
    user = {"resource": "pods", "name": gang[1].name, "uid": site.get(gang[1]).metadata.uid}
    body = {"status": {"allocation": {"devices": {"results": [result]}}, "reservedFor": [user]}}
    site.client.merge(RESOURCE_CLAIMS, Key(site.namespace, "lost"), body, sub="status")
    assert not any(site.where(gang))
    go.set()
    site.all_bound(gang)
    assert claims.devices(*gang) == [f"{node}/card-0", f"{node}/card-3"]
    assert running.scheduler.core.counts.outcomes["failed"] == 1


def test_a_gang_that_shares_one_claim(site: Site, running: Running, driver: CountingDriver, claims: Claims) -> None:
    driver.publish([device("channel")], pool="fabric", allNodes=True)
    for _ in range(3):
        site.node(cpu="8")
    claim = claims.claim("channel", exactly("link", driver.name))
    labels = {"pod-group.scheduling.sigs.k8s.io/name": "many", "pod-group.scheduling.sigs.k8s.io/min-available": "24"}
    gang = [claims.pod(f"m{n}", claim, labels=labels) for n in range(24)]
    site.all_bound(gang)
    status = claims.get(claim).status
    assert {one.name for one in status.reserved_for} == {key.name for key in gang}
    assert status.allocation is not None
    assert status.allocation.node_selector is None
