"""The informer's thread against a scripted server: how it ends, what it says of itself, what it makes of nonsense."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from kubeproxy import Asked, Fault, KubeProxy, Say, status

from forebay.kube.decoding import Decoder
from forebay.kube.errors import Unusable
from forebay.kube.informer import Informer
from forebay.kube.objects import Bare, Key
from forebay.kube.reflector import Bookmark, Ended, Line
from forebay.kube.resources import NODES
from forebay.kube.store import Broken, Change, Store
from forebay.kube.transport import Transport


@pytest.fixture
def server() -> Iterator[KubeProxy]:
    with KubeProxy() as proxy:
        yield proxy


def informer(server: KubeProxy) -> Informer[Bare]:
    return Informer(Transport(server.endpoint), NODES, Bare, Store[Bare](), longest_pause=0.05)


def page(*names: str, version: str = "5") -> dict[str, object]:
    items = [{"metadata": {"name": name, "resourceVersion": "1"}} for name in names]
    return {"metadata": {"resourceVersion": version}, "items": items}


def wait(condition: object, seconds: float = 60.0) -> None:
    assert callable(condition)
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_a_server_that_refuses_is_told_of_and_asked_again_with_pauses(server: KubeProxy) -> None:
    server.plan = lambda asked: Say(403, body=status(403, "Forbidden", 'User "u" cannot list resource "nodes"'))
    copy = informer(server)
    began = time.monotonic()
    copy.start()
    assert not copy.wait_synced(0.3)
    wait(lambda: len(server.asked) >= 3)
    health = copy.health()
    assert (health.alive, health.synced) == (True, False)
    assert 'cannot list resource "nodes"; grant the verb' in health.problem
    assert copy.stop(60)
    assert len(server.asked) <= 100 + 100 * (time.monotonic() - began), "pauses of 25 ms on average"
    asked = len(server.asked)
    time.sleep(0.1)
    assert len(server.asked) <= asked + 1, "what was on its way when it ended may arrive yet"


def test_it_ends_while_it_sleeps_for_long(server: KubeProxy) -> None:
    server.plan = lambda asked: Say(429, {"Retry-After": "60"}, status(429, "TooManyRequests"))
    copy = informer(server)
    copy.start()
    wait(lambda: server.asked)
    began = time.monotonic()
    assert copy.stop(60)
    assert time.monotonic() - began < 30
    assert informer(server).stop()  # one that was never started


def test_a_request_that_begins_while_it_is_stopped_is_interrupted_too(server: KubeProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    transport = Transport(server.endpoint)
    interrupted = threading.Event()
    interrupt, connection = transport.interrupt, transport._connection

    def told(thread: int) -> None:
        interrupt(thread)
        interrupted.set()

    def late(call: object) -> object:
        assert interrupted.wait(60)
        return connection(call)  # type: ignore[arg-type]

    monkeypatch.setattr(transport, "interrupt", told)
    monkeypatch.setattr(transport, "_connection", late)
    server.silence()
    copy = Informer(transport, NODES, Bare, Store[Bare]())
    copy.start()
    assert copy.stop(20)


def test_bodies_that_are_nonsense_stop_nothing(server: KubeProxy) -> None:
    bodies = [b"", b"null", b"[1]", b'{"metadata":{}}', b'{"metadata":{"resourceVersion":"1"},"items":[{"spec":1}]}', b"\xff\xfe"]
    rest = list(bodies)

    def plan(asked: Asked) -> Fault:
        if asked.watch:
            return Say(200, body=b'{"type":"ADDED","object":{}}\n{"type":"?"}\n')
        return Say(200, body=rest.pop(0)) if rest else Say(200, body=page("a", "b"))

    server.plan = plan
    copy = informer(server)
    copy.start()
    assert copy.wait_synced(60)
    assert [key.name for key in copy.store.all_keys()] == ["a", "b"]
    wait(lambda: copy.health().lists > len(bodies) + 1)  # a watch that says nonsense three times is answered by a list
    assert copy.health().alive
    assert copy.stop(60)


def test_a_defect_ends_the_copy_and_is_said(server: KubeProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading, "excepthook", lambda args: None)  # it is told by health, too
    server.plan = lambda asked: Say(200, body=page("a"))
    copy = informer(server)

    def bad(change: Change[Bare]) -> None:
        raise KeyError("a subscriber's defect")

    copy.store.subscribe(bad)
    copy.start()
    wait(lambda: not copy.health().alive)
    assert "is not kept any more: KeyError" in copy.health().problem
    assert copy.stop(60)


# --- decoding -------------------------------------------------------------------------------------------------------


def test_lines_of_a_watch() -> None:
    decoder = Decoder(Bare)
    line = decoder.line(
        b'{"type":"ADDED","object":{"kind":"X","metadata":{"name":"a","namespace":"n","resourceVersion":"3"}}}', 1.0
    )
    assert isinstance(line, Line)
    assert (line.kind, line.key, line.version) == ("ADDED", Key("n", "a"), "3")
    assert decoder.line(b'{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"9"}}}', 1.0) == Bookmark("9", 1.0)
    ended = decoder.line(b'{"type":"ERROR","object":{"code":410,"message":"too old","details":{"retryAfterSeconds":4}}}', 1.0)
    assert isinstance(ended, Ended)
    assert ended.failure is not None
    assert (ended.failure.code, ended.failure.retry_after) == (410, 4.0)
    bad = decoder.line(b'{"type":"MODIFIED","object":{"metadata":{"name":"a","resourceVersion":"3","labels":{"x":"y"}}}}', 1.0)
    assert isinstance(bad, Line)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{",
        b'{"type":"ADDED"}',
        b'{"type":"WHAT","object":{}}',
        b'{"type":"ADDED","object":7}',
        b'{"type":"BOOKMARK","object":{}}',
    ],
)
def test_a_line_that_is_none_is_unusable(line: bytes) -> None:
    with pytest.raises(Unusable, match=r"watch|metadata"):
        Decoder(Bare).line(line, 0.0)


def test_an_object_with_a_field_of_another_type_is_broken_under_its_own_key() -> None:
    class Strict(Bare, frozen=True):
        spec: int = 0

    key, version, thing = Decoder(Strict).item(b'{"metadata":{"name":"a","resourceVersion":"3"},"spec":"x"}')
    assert (key, version) == (Key("", "a"), "3")
    assert isinstance(thing, Broken)
    assert "$.spec" in thing.why
