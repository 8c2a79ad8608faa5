"""Events on a real API server: what people see, series, what was forgotten."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from controlplane_kit import config_map, until
from kubeproxy import KubeProxy, Say, status

from forebay.kube.client import Client
from forebay.kube.errors import Forbidden
from forebay.kube.eventlog import Note
from forebay.kube.objects import Key, ObjectMeta, Reference
from forebay.kube.recorder import Recorder
from forebay.kube.resources import CONFIG_MAPS, EVENTS, NAMESPACES, NODES, Resource
from forebay.kube.transport import Transport

Closing = Callable[[Callable[[], object]], None]
CORE_EVENTS = Resource("", "v1", "events", "Event")


class Event(msgspec.Struct, rename="camel"):
    metadata: ObjectMeta
    reason: str
    type: str
    note: str = ""
    message: str = ""
    series: dict[str, Any] | None = None


@pytest.fixture
def regarding(client: Client, namespace: str) -> Reference:
    made = client.create(CONFIG_MAPS, namespace, config_map("a"))
    return Reference("v1", "ConfigMap", "a", namespace, made.metadata.uid)


def events(client: Client, namespace: str) -> list[Event]:
    return client.list_all(EVENTS, Event, namespace)[0]


def recorder(client: Client, closing: Closing) -> Recorder:
    made = Recorder(client, "forebay.io/test", "pod-1")
    closing(made.stop)
    made.start()
    return made


def test_an_event_is_seen_by_both_apis_and_repeats_are_a_series(client: Client, namespace: str, regarding: Reference) -> None:
    made = Recorder(client, "forebay.io/test", "pod-1")
    made.start()
    note = Note(regarding, "Warning", "NotBound", "Reconcile", "no runtime; apply one")
    for _ in range(5):
        made.say(note)
    assert made.stop()
    (event,) = events(client, namespace)
    assert (event.reason, event.type, event.note) == ("NotBound", "Warning", "no runtime; apply one")
    assert event.series is not None
    assert event.series["count"] == 5
    (core,) = client.list_all(CORE_EVENTS, Event, namespace, fields="involvedObject.name=a")[0]
    assert core.message == "no runtime; apply one"
    assert (made.failed, made.dropped) == (0, 0)


def test_an_event_that_was_forgotten_is_made_again(
    client: Client, namespace: str, regarding: Reference, closing: Closing
) -> None:
    made = recorder(client, closing)
    note = Note(regarding, "Normal", "Ready", "Reconcile", "all is well")
    made.say(note)
    until(lambda: len(events(client, namespace)) == 1)
    assert client.delete(EVENTS, Key(namespace, events(client, namespace)[0].metadata.name))
    made.say(note)
    until(lambda: len(events(client, namespace)) == 1)
    assert made.failed == 0


def test_events_of_cluster_scoped_objects_and_of_any_length_are_taken(client: Client, closing: Closing) -> None:
    client.apply(NODES, Key("", "n" * 200), {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n" * 200}})
    made = recorder(client, closing)
    made.say(Note(Reference("v1", "Node", "n" * 200, uid="u"), "Normal", "R" * 300, "A" * 300, "ü" * 5000))
    until(lambda: any(event.reason.startswith("RRR") for event in events(client, "default")))
    client.delete(NODES, Key("", "n" * 200))


def test_events_that_cannot_be_written_are_counted_and_stop_nothing(
    client: Client, proxy: KubeProxy, namespace: str, regarding: Reference, closing: Closing
) -> None:
    proxy.plan = lambda asked: Say(403, body=status(403, "Forbidden", "no right to")) if b'"No"' in asked.body else None
    made = recorder(Client(Transport(proxy.endpoint)), closing)
    made.say(Note(regarding, "Normal", "No", "Reconcile", "is refused"))
    made.say(Note(regarding, "Normal", "Yes", "Reconcile", "is taken"))
    until(lambda: [event.reason for event in events(client, namespace)] == ["Yes"])
    assert made.failed == 1


def test_what_is_said_in_a_namespace_that_ends_is_lost_without_a_word(
    client: Client, namespace: str, regarding: Reference, caplog: pytest.LogCaptureFixture
) -> None:
    held = config_map("held")
    held["metadata"]["finalizers"] = ["example.com/held"]
    client.create(CONFIG_MAPS, namespace, held)
    client.delete(NAMESPACES, Key("", namespace))
    with pytest.raises(Forbidden) as refused:
        client.create(CONFIG_MAPS, namespace, config_map("late"))
    assert refused.value.ending
    assert "grant the verb" not in str(refused.value)
    made = Recorder(client, "forebay.io/test", "pod-1")
    made.start()
    made.say(Note(regarding, "Warning", "Late", "Reconcile", "nobody will read it"))
    assert made.stop()
    assert made.failed == 0
    assert "Late" not in caplog.text
    client.merge(CONFIG_MAPS, Key(namespace, "held"), {"metadata": {"finalizers": None}})
