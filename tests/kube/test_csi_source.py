"""What the node plugin learns of datasets from a real API server: configurations, members, whether its node is emptied."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec
import pytest
from controlplane import ControlPlane
from controlplane_kit import until
from kubeproxy import KubeProxy, Say, status

from forebay.fuse.csi.protocol.refusal import Refusal
from forebay.fuse.csi.volumes.source import ApiSource, Look, Seen
from forebay.kube.client import Client
from forebay.kube.objects import Key
from forebay.kube.resources import CONFIG_MAPS, ENDPOINT_SLICES, NODES
from forebay.kube.transport import Transport

CONFIG = "demo-forebay"


@pytest.fixture
def source(transport: Transport) -> ApiSource:
    return ApiSource(transport)


@pytest.fixture
def followed() -> Iterator[Callable[[Look], Look]]:  # type: ignore[type-arg]
    """Stops what was followed."""
    looks: list[Look] = []  # type: ignore[type-arg]

    def keep(look: Look) -> Look:  # type: ignore[type-arg]
        looks.append(look)
        return look

    yield keep
    for look in looks:
        look.stop()


def config_map(text: str) -> dict[str, object]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": CONFIG}, "data": {"config.json": text}}


def piece(namespace: str, name: str, service: str, *endpoints: dict[str, object]) -> dict[str, object]:
    return {
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4", "endpoints": list(endpoints),
        "metadata": {"name": name, "namespace": namespace, "labels": {"kubernetes.io/service-name": service}},
        "ports": [{"name": "data", "port": 7401}, {"name": "control", "port": 7402}],
    }  # fmt: skip


def endpoint(host: str, **conditions: bool) -> dict[str, object]:
    return {"addresses": [host], "conditions": conditions, "nodeName": "n1"}


def test_a_configuration_is_read_followed_and_its_end_is_certain(
    source: ApiSource, client: Client, namespace: str, followed: Callable[..., Look[bytes]]
) -> None:
    with pytest.raises(Refusal, match="the dataset was deleted, or is not set up yet") as e:
        source.config(namespace, CONFIG)
    assert e.value.code == "NOT_FOUND"
    look = followed(source.follow_config(namespace, CONFIG))
    until(lambda: look.look() == Seen(True, None))
    client.create(CONFIG_MAPS, namespace, config_map("one"))
    until(lambda: look.look() == Seen(True, b"one"))
    assert source.config(namespace, CONFIG) == b"one"
    client.apply(CONFIG_MAPS, Key(namespace, CONFIG), config_map("two"))
    until(lambda: look.look() == Seen(True, b"two"))
    client.delete(CONFIG_MAPS, Key(namespace, CONFIG))
    until(lambda: look.look() == Seen(True, None))
    client.create(
        CONFIG_MAPS, namespace, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": CONFIG}, "data": {"x": "y"}}
    )
    until(lambda: not look.look().known)  # somebody's mistake is no deletion
    with pytest.raises(Refusal, match="has no key"):
        source.config(namespace, CONFIG)


def test_members_come_from_the_slices_of_their_service(
    source: ApiSource, client: Client, namespace: str, followed: Callable[..., Look[list[object]]]
) -> None:
    service = "svc-demo-worker"

    def apply(name: str, *endpoints: dict[str, object], of: str = service) -> None:
        client.apply(ENDPOINT_SLICES, Key(namespace, name), piece(namespace, name, of, *endpoints))

    assert source.members(namespace, service) == []
    look = followed(source.follow_members(namespace, service, []))

    def seen() -> list[str]:
        return [one.data for one in look.look().value or []]  # type: ignore[attr-defined]

    apply("a", endpoint("10.0.0.1", ready=True), endpoint("10.0.0.2", ready=False))
    apply("b", endpoint("10.0.0.3", ready=True))
    apply("other", endpoint("10.9.9.9", ready=True), of="another")
    until(lambda: seen() == ["10.0.0.1:7401", "10.0.0.3:7401"])
    assert [one.control for one in source.members(namespace, service)] == ["10.0.0.1:7402", "10.0.0.3:7402"]
    apply("a", endpoint("10.0.0.1", ready=False), endpoint("10.0.0.2", ready=True))
    until(lambda: seen() == ["10.0.0.1:7401", "10.0.0.2:7401", "10.0.0.3:7401"])
    client.delete(ENDPOINT_SLICES, Key(namespace, "b"))
    until(lambda: seen() == ["10.0.0.1:7401", "10.0.0.2:7401"])
    apply("a", endpoint("10.0.0.1", ready=False, terminating=True), endpoint("10.0.0.2", ready=True))
    until(lambda: seen() == ["10.0.0.2:7401"])


def test_a_cordon_is_seen_and_its_end(source: ApiSource, client: Client, followed: Callable[..., Look[bool]]) -> None:
    look = followed(source.follow_cordon("csi-node"))
    until(lambda: look.look() == Seen(True, None))
    client.create(NODES, "", {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "csi-node"}})
    until(lambda: look.look() == Seen(True, False))
    client.merge(NODES, Key("", "csi-node"), {"spec": {"unschedulable": True}})
    until(lambda: look.look() == Seen(True, True))
    client.delete(NODES, Key("", "csi-node"))


def test_a_server_in_trouble_says_nothing_of_what_exists(
    proxy: KubeProxy, namespace: str, followed: Callable[..., Look[bytes]]
) -> None:
    proxy.plan = lambda asked: Say(403, body=status(403, "Forbidden", "not for you")) if "configmaps" in asked.path else None
    source = ApiSource(Transport(proxy.endpoint))
    with pytest.raises(Refusal) as e:
        source.config(namespace, CONFIG)
    assert e.value.code == "UNAVAILABLE"
    look = followed(source.follow_config(namespace, CONFIG))
    until(look.problem)
    assert look.look() == Seen(False, None)


def test_nobody_listens(plane: ControlPlane) -> None:
    source = ApiSource(Transport(msgspec.structs.replace(plane.endpoint, server="https://127.0.0.1:9")))
    for call in (lambda: source.config("ns", CONFIG), lambda: source.members("ns", "s")):
        with pytest.raises(Refusal) as e:
            call()
        assert e.value.code == "UNAVAILABLE"
