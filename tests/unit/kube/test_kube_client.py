"""Calls against a scripted server: what is sent, what is retried, what a refusal becomes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from random import Random

import pytest
from kubeproxy import Asked, Fault, KubeProxy, Say, status

from forebay.kube import errors as e
from forebay.kube import retry
from forebay.kube.client import Client
from forebay.kube.objects import Bare, Key
from forebay.kube.resources import NODES, PODS, SERVICES, Resource
from forebay.kube.transport import Transport

KEY = Key("ns", "a")
OBJECT = {"metadata": {"name": "a", "namespace": "ns", "resourceVersion": "7", "uid": "u"}}


@pytest.fixture
def server() -> Iterator[KubeProxy]:
    with KubeProxy() as proxy:
        yield proxy


def client(server: KubeProxy, **more: object) -> Client:
    return Client(Transport(server.endpoint), random=Random(1), deadline=60.0, **more)  # type: ignore[arg-type]


def in_turn(server: KubeProxy, *says: Say) -> None:
    """The answers, one after another; the last one again and again."""
    rest = list(says)

    def plan(asked: Asked) -> Fault:
        return rest.pop(0) if len(rest) > 1 else rest[0]

    server.plan = plan


OK = Say(200, body=OBJECT)


def test_an_apply_says_who_applies_and_whether_by_force(server: KubeProxy) -> None:
    in_turn(server, OK)
    made = client(server).apply(SERVICES, KEY, {"kind": "Service"}, force=False)
    assert made.metadata.resource_version == "7"
    client(server).apply_status(Resource("g.io", "v1", "things", "Thing"), KEY, b'{"status":{}}')
    first, second = server.asked
    assert (first.verb, first.path, first.body) == ("PATCH", "/api/v1/namespaces/ns/services/a", b'{"kind":"Service"}')
    assert first.query == {"fieldManager": "forebay", "force": "false", "fieldValidation": "Strict"}
    assert first.headers["content-type"] == "application/apply-patch+yaml"
    assert (second.path, second.query["force"]) == ("/apis/g.io/v1/namespaces/ns/things/a/status", "true")


def test_a_delete_carries_its_preconditions_and_what_is_gone_is_no_error(server: KubeProxy) -> None:
    in_turn(server, OK, Say(404, body=status(404, "NotFound")))
    assert client(server).delete(PODS, KEY, uid="u1", version="9", propagation="Foreground", grace=0)
    assert json.loads(server.asked[0].body) == {
        "kind": "DeleteOptions",
        "apiVersion": "v1",
        "propagationPolicy": "Foreground",
        "preconditions": {"uid": "u1", "resourceVersion": "9"},
        "gracePeriodSeconds": 0,
    }
    assert not client(server).delete(PODS, KEY)


CONFLICT = status(
    409,
    "Conflict",
    "Apply failed with 1 conflict",
    details={
        "causes": [{"reason": "FieldManagerConflict", "message": 'conflict with "kubectl" using v1', "field": ".spec.ports"}]
    },
)


@pytest.mark.parametrize(
    ("body", "kind", "words"),
    [
        (status(404, "NotFound", 'pods "a" not found'), e.NotFound, 'pods "a" not found; create it'),
        (status(409, "AlreadyExists"), e.AlreadyExists, "409"),
        (status(409, "Conflict", "the object has been modified"), e.Conflict, "modified"),
        (CONFLICT, e.FieldConflict, '.spec.ports: conflict with "kubectl" using v1; stop the other manager'),
        (status(410, "Expired"), e.Gone, "list again"),
        (status(422, "Invalid", "spec.x: Required value"), e.Invalid, "spec.x: Required value; correct the field"),
        (status(403, "Forbidden", 'User "u" cannot get'), e.Forbidden, "grant the verb"),
        (status(405, "MethodNotAllowed"), e.ApiError, "does not offer this verb"),
    ],
)
def test_a_refusal_becomes_a_typed_error_with_a_remedy_and_is_not_retried(
    server: KubeProxy, body: dict[str, object], kind: type[e.ApiError], words: str
) -> None:
    in_turn(server, Say(int(str(body["code"])), body=body))
    with pytest.raises(kind) as refused:
        client(server).apply(PODS, KEY, {}, force=False)
    assert words in str(refused.value)
    assert "PATCH /api/v1/namespaces/ns/pods/a" in str(refused.value)
    assert type(refused.value) is kind
    assert len(server.asked) == 1


def test_a_refusal_without_a_status_shows_what_it_said(server: KubeProxy) -> None:
    in_turn(server, Say(404, body=b"<html>\n404 page   not found</html>"))
    with pytest.raises(e.NotFound, match="<html> 404 page not found</html>"):
        client(server).get(PODS, KEY, Bare)


def test_busy_is_waited_for_and_counted(server: KubeProxy) -> None:
    in_turn(server, Say(429, {"Retry-After": "0"}, status(429, "TooManyRequests")), Say(503, {"Retry-After": "0"}), OK)
    mine = client(server)
    assert mine.create(PODS, "ns", {}).metadata.name == "a"
    assert mine.statistics() == (0, 3, 2, 2)


@pytest.mark.parametrize(("verb", "tries"), [("create", 1), ("json_patch", 1), ("apply", retry.TRIES), ("delete", retry.TRIES)])
def test_a_server_that_fails_is_asked_again_only_where_twice_is_once(server: KubeProxy, verb: str, tries: int) -> None:
    in_turn(server, Say(500, body=status(500, "InternalError", "boom")))
    mine = client(server)
    calls = {
        "create": lambda: mine.create(PODS, "ns", {}),
        "json_patch": lambda: mine.json_patch(PODS, KEY, [{"op": "add", "path": "/a/-", "value": 1}]),
        "apply": lambda: mine.apply(PODS, KEY, {}),
        "delete": lambda: mine.delete(PODS, KEY, uid="u"),
    }
    with pytest.raises(e.ServerError, match="boom"):
        calls[verb]()
    assert len(server.asked) == tries


def test_an_eviction_that_is_held_back_is_told_at_once(server: KubeProxy) -> None:
    in_turn(server, Say(429, {"Retry-After": "10"}, status(429, "TooManyRequests", "violates the disruption budget")))
    with pytest.raises(e.TooMany, match="disruption budget"):
        client(server).create_sub(PODS, KEY, "eviction", {})
    assert len(server.asked) == 1


def test_a_wait_beyond_the_deadline_is_not_begun(server: KubeProxy) -> None:
    in_turn(server, Say(429, {"Retry-After": "3600"}, status(429, "TooManyRequests")))
    with pytest.raises(e.TooMany):
        client(server).get(PODS, KEY, Bare)
    assert len(server.asked) == 1


def test_a_rotated_token_is_tried_once_more(server: KubeProxy) -> None:
    in_turn(server, Say(401, body=status(401, "Unauthorized")), OK)
    assert client(server).get(PODS, KEY, Bare).metadata.uid == "u"
    in_turn(server, Say(401, body=status(401, "Unauthorized")))
    with pytest.raises(e.Unauthorized):
        client(server).get(PODS, KEY, Bare)
    assert len(server.asked) == 4


def test_the_common_budget_ends_the_retries_of_many(server: KubeProxy) -> None:
    in_turn(server, Say(500, body=status(500, "InternalError")))
    mine = Client(Transport(server.endpoint), random=_Never(), deadline=60.0)
    for _ in range(20):
        with pytest.raises(e.ServerError):
            mine.get(PODS, KEY, Bare)
    assert mine.statistics().retries <= 12  # 10 in reserve, and a tenth of 20


class _Never(Random):
    """No jitter, no waiting."""

    def uniform(self, a: float, b: float) -> float:
        return a


def test_a_list_goes_through_its_pages(server: KubeProxy) -> None:
    def plan(asked: Asked) -> Fault:
        more = {"": "t1", "t1": ""}[asked.query.get("continue", "")]
        name = "b" if more else "c"
        return Say(200, body={"metadata": {"resourceVersion": "5", "continue": more}, "items": [{"metadata": {"name": name}}]})

    server.plan = plan
    found, version = client(server).list_all(NODES, Bare, labels="a=b")
    assert ([thing.metadata.name for thing in found], version) == (["b", "c"], "5")
    assert {asked.query["labelSelector"] for asked in server.asked} == {"a=b"}


def test_a_list_whose_token_expired_is_asked_for_in_one_piece(server: KubeProxy) -> None:
    def plan(asked: Asked) -> Fault:
        if "continue" in asked.query:
            return Say(410, body=status(410, "Expired"))
        more = "t1" if "limit" in asked.query else ""
        return Say(200, body={"metadata": {"resourceVersion": "5", "continue": more}, "items": [{"metadata": {"name": "a"}}]})

    server.plan = plan
    found, _ = client(server).list_all(NODES, Bare)
    assert len(found) == 1
    assert len(server.asked) == 3


@pytest.mark.parametrize("body", [b"null", b"[]", b'{"metadata":7}', b"\xff", b'{"metadata":{},"items":[7]}'])
def test_an_answer_that_is_no_list_is_unusable(server: KubeProxy, body: bytes) -> None:
    in_turn(server, Say(200, body=body))
    with pytest.raises(e.Unusable):
        client(server).list_all(NODES, Bare)


def test_the_gate_is_asked_before_each_try_that_writes(server: KubeProxy) -> None:
    in_turn(server, Say(500, body=status(500, "InternalError")), OK)
    asked: list[int] = []

    def gate() -> None:
        asked.append(len(server.asked))
        if len(asked) == 2:
            raise RuntimeError("not the leader")

    mine = client(server, gate=gate)
    with pytest.raises(RuntimeError, match="not the leader"):
        mine.apply(PODS, KEY, {})
    assert asked == [0, 1]
    assert len(server.asked) == 1
    mine.get(PODS, KEY, Bare)
    assert len(asked) == 2


@pytest.mark.parametrize("name", ["..", "a/b", "a\0b"])
def test_a_name_that_would_leave_its_place_is_no_name(name: str) -> None:
    with pytest.raises(ValueError, match="no name of an object"):
        NODES.path("", name)


def test_an_object_without_a_name_is_never_taken_for_the_collection(server: KubeProxy) -> None:
    with pytest.raises(ValueError, match="a Pod without a name"):
        client(server).delete(PODS, Key("ns", ""))
    assert server.asked == []


def test_a_namespace_goes_with_namespaced_kinds_only() -> None:
    with pytest.raises(ValueError, match="Node is cluster-scoped"):
        NODES.path("ns", "n")
    with pytest.raises(ValueError, match="Pod 'p' needs a namespace"):
        PODS.path("", "p")
    assert PODS.path() == "/api/v1/pods"
    assert NODES.path("", "a%b") == "/api/v1/nodes/a%25b"


TRY = retry.Tried(1, 500, None, True, True)


@pytest.mark.parametrize(
    ("tried", "again"),
    [
        (TRY, True),
        (TRY._replace(repeatable=False), False),
        (TRY._replace(repeatable=False, retry_after=1.0), True),
        (TRY._replace(tries=retry.TRIES), False),
        (TRY._replace(code=0), True),
        (TRY._replace(code=0, repeatable=False), False),
        (TRY._replace(code=0, repeatable=False, sent=False), True),
        (TRY._replace(code=429, repeatable=False), True),
        (TRY._replace(code=429, busy_is_final=True), False),
        (TRY._replace(code=429, retry_after=99.0), False),
        (TRY._replace(code=409), False),
        (TRY._replace(code=404), False),
        (TRY._replace(code=401), True),
        (TRY._replace(code=401, tries=2), False),
    ],
)
def test_what_is_tried_again(tried: retry.Tried, again: bool) -> None:
    wait = retry.pause(tried, left=30.0, random=Random(1))
    assert (wait is not None) == again
    if wait is not None and tried.retry_after:
        assert wait >= tried.retry_after
