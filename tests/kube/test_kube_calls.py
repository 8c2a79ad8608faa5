"""Single calls against a real API server: apply and its owners, status, preconditions, refusals, lost answers, restarts."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from controlplane import ControlPlane
from controlplane_kit import Map, config_map, until
from kubeproxy import Asked, Fault, KubeProxy, Lose, Say, status

from forebay.kube import errors as e
from forebay.kube.client import Client
from forebay.kube.config import Endpoint, find
from forebay.kube.objects import Bare, Key
from forebay.kube.resources import CONFIG_MAPS, CRDS, PODS, SERVICE_ACCOUNTS, SERVICES, Resource
from forebay.kube.transport import Transport


def mapped(data: dict[str, str], name: str = "a") -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


# --- server-side apply ----------------------------------------------------------------------------------------------


def test_apply_creates_changes_and_takes_away_what_is_ours_only(client: Client, namespace: str) -> None:
    key = Key(namespace, "a")
    made = client.apply(CONFIG_MAPS, key, mapped({"x": "1", "y": "1"}))
    client.merge(CONFIG_MAPS, key, {"data": {"hand": "written"}})
    client.apply(CONFIG_MAPS, key, mapped({"x": "2"}))
    assert client.get(CONFIG_MAPS, key, Map).data == {"x": "2", "hand": "written"}
    again = client.apply(CONFIG_MAPS, key, mapped({"x": "2"}))
    assert again.metadata.uid == made.metadata.uid
    assert again.metadata.resource_version == client.get(CONFIG_MAPS, key, Bare).metadata.resource_version
    same = client.apply(CONFIG_MAPS, key, mapped({"x": "2"}))
    assert same.metadata.resource_version == again.metadata.resource_version  # nothing changed, nothing was written


def test_another_managers_field_is_a_conflict_by_name_or_taken_by_force(client: Client, namespace: str) -> None:
    key = Key(namespace, "a")
    client.apply(CONFIG_MAPS, key, mapped({"x": "1"}), manager="kubectl")
    with pytest.raises(e.FieldConflict) as refused:
        client.apply(CONFIG_MAPS, key, mapped({"x": "2"}), force=False)
    assert '.data.x: conflict with "kubectl"' in str(refused.value)
    assert "apply with force" in str(refused.value)
    client.apply(CONFIG_MAPS, key, mapped({"x": "1", "y": "2"}), force=False)  # equal values are shared
    client.apply(CONFIG_MAPS, key, mapped({"x": "2", "y": "2"}), force=True)
    assert client.get(CONFIG_MAPS, key, Map).data == {"x": "2", "y": "2"}


def test_a_dry_run_writes_nothing_and_an_unknown_field_is_refused(client: Client, namespace: str) -> None:
    key = Key(namespace, "a")
    client.apply(CONFIG_MAPS, key, mapped({}), dry_run=True)
    with pytest.raises(e.NotFound, match='configmaps "a" not found; create it'):
        client.get(CONFIG_MAPS, key, Bare)
    with pytest.raises(e.ApiError, match=r"\.dta: field not declared in schema|unknown field"):
        client.apply(CONFIG_MAPS, key, mapped({}) | {"dta": {}})
    port = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": {"ports": [{"port": 70000}]}}
    with pytest.raises(e.Invalid, match=r"spec.ports\[0\].port: Invalid value: 70000.*correct the field"):
        client.apply(SERVICES, key, port)


THINGS = Resource("test.forebay.io", "v1", "things", "Thing")


@pytest.fixture
def things(client: Client) -> Resource:
    """A kind of our own, with a status."""
    numbers = {"type": "object", "properties": {"n": {"type": "integer"}}}
    schema = {"openAPIV3Schema": {"type": "object", "properties": {"spec": numbers, "status": numbers}}}
    version = {"name": "v1", "served": True, "storage": True, "schema": schema, "subresources": {"status": {}}}
    name = f"{THINGS.plural}.{THINGS.group}"
    names = {"plural": "things", "singular": "thing", "kind": "Thing"}
    body = {
        "apiVersion": CRDS.api_version,
        "kind": CRDS.kind,
        "metadata": {"name": name},
        "spec": {"group": THINGS.group, "scope": "Namespaced", "names": names, "versions": [version]},
    }
    client.apply(CRDS, Key("", name), body)

    def served() -> bool:
        return client.transport.request("GET", THINGS.path("default")).code == 200

    until(served)
    return THINGS


class Thing(msgspec.Struct):
    spec: dict[str, int] = {}
    status: dict[str, int] = {}


def test_spec_and_status_are_applied_each_at_its_own_place(client: Client, things: Resource, namespace: str) -> None:
    key = Key(namespace, "a")
    body = {"apiVersion": things.api_version, "kind": things.kind, "metadata": {"name": "a"}}
    with pytest.raises(e.NotFound):
        client.apply_status(things, key, body | {"status": {"n": 1}})
    client.apply(things, key, body | {"spec": {"n": 1}, "status": {"n": 7}})
    client.apply_status(things, key, body | {"status": {"n": 2}, "spec": {"n": 7}})
    assert client.get(things, key, Thing) == Thing({"n": 1}, {"n": 2})


def test_a_kind_that_is_not_served_says_so(client: Client) -> None:
    with pytest.raises(e.NotFound, match="install the CRD that serves this kind"):
        client.list_all(Resource("nobody.io", "v1", "nothings", "Nothing"), Bare)


# --- preconditions --------------------------------------------------------------------------------------------------


def test_writes_over_a_version_that_is_no_more_conflict(client: Client, namespace: str) -> None:
    key = Key(namespace, "a")
    old = client.create(CONFIG_MAPS, namespace, config_map("a", "1"))
    with pytest.raises(e.AlreadyExists):
        client.create(CONFIG_MAPS, namespace, config_map("a", "1"))
    version = {"metadata": {"resourceVersion": old.metadata.resource_version}}
    client.merge(CONFIG_MAPS, key, version | {"data": {"value": "2"}})
    with pytest.raises(e.Conflict, match="the object has been modified"):
        client.merge(CONFIG_MAPS, key, version | {"data": {"value": "3"}})
    body = config_map("a", "3")
    body["metadata"]["resourceVersion"] = old.metadata.resource_version
    with pytest.raises(e.Conflict):
        client.replace(CONFIG_MAPS, key, body)
    client.json_patch(
        CONFIG_MAPS, key, [{"op": "test", "path": "/data/value", "value": "2"}, {"op": "remove", "path": "/data/value"}]
    )
    with pytest.raises(e.ApiError):
        client.json_patch(CONFIG_MAPS, key, [{"op": "test", "path": "/data/value", "value": "2"}])


def test_a_delete_hits_only_the_object_that_was_meant(client: Client, namespace: str) -> None:
    key = Key(namespace, "a")
    first = client.create(CONFIG_MAPS, namespace, config_map("a"))
    assert client.delete(CONFIG_MAPS, key, uid=first.metadata.uid)
    second = client.create(CONFIG_MAPS, namespace, config_map("a"))
    with pytest.raises(e.Conflict, match=r"UID in the precondition.*read it again and decide anew"):
        client.delete(CONFIG_MAPS, key, uid=first.metadata.uid)
    with pytest.raises(e.Conflict):
        client.delete(CONFIG_MAPS, key, uid=second.metadata.uid, version="1")
    client.merge(CONFIG_MAPS, key, {"metadata": {"finalizers": ["forebay.io/test"]}})
    assert client.delete(CONFIG_MAPS, key)
    assert client.get(CONFIG_MAPS, key, Bare).metadata.deletion_timestamp
    client.merge(CONFIG_MAPS, key, {"metadata": {"finalizers": None}})
    assert not client.delete(CONFIG_MAPS, key)


# --- who may --------------------------------------------------------------------------------------------------------


def test_what_rbac_forbids_is_said_with_the_remedy(plane: ControlPlane, namespace: str) -> None:
    nobody = Client(Transport(plane.user("nobody")))
    with pytest.raises(e.Forbidden, match=r'User "nobody" cannot get resource "pods".*grant the verb'):
        nobody.get(PODS, Key(namespace, "a"), Bare)


def test_a_service_accounts_token_is_taken_from_its_file_and_again_when_it_changes(
    plane: ControlPlane, client: Client, namespace: str, tmp_path: Path
) -> None:
    until(lambda: client.transport.request("GET", SERVICE_ACCOUNTS.at(Key(namespace, "default"))).code == 200)
    answer = client.transport.request(
        "POST",
        SERVICE_ACCOUNTS.at(Key(namespace, "default"), "token"),
        body=b'{"spec":{"expirationSeconds":600}}',
        content="application/json",
    )
    token: str = msgspec.json.decode(answer.body)["status"]["token"]
    (tmp_path / "token").write_text("rotten")
    account = Client(Transport(Endpoint(plane.endpoint.server, ca=plane.endpoint.ca, token_file=tmp_path / "token")))
    with pytest.raises(e.Unauthorized, match="check the credentials"):
        account.get(PODS, Key(namespace, "a"), Bare)
    (tmp_path / "token").write_text(token)
    with pytest.raises(e.Forbidden, match=f"system:serviceaccount:{namespace}:default"):
        account.get(PODS, Key(namespace, "a"), Bare)


def test_a_kubeconfig_file_and_impersonation_reach_the_server(plane: ControlPlane, namespace: str) -> None:
    endpoint = find(str(plane.kubeconfig))
    assert Client(Transport(endpoint)).list_all(CONFIG_MAPS, Bare, namespace)[1]
    jane = msgspec.structs.replace(endpoint, impersonate=(("Impersonate-User", "jane"),))
    with pytest.raises(e.Forbidden, match='User "jane" cannot get'):
        Client(Transport(jane)).get(CONFIG_MAPS, Key(namespace, "a"), Bare)


# --- faults ---------------------------------------------------------------------------------------------------------


def losing(proxy: KubeProxy, *faults: Fault) -> None:
    rest = list(faults)
    proxy.plan = lambda asked: rest.pop(0) if rest else None


def test_a_lost_answer_to_a_create_is_the_callers_and_to_an_apply_is_repeated(
    client: Client, proxy: KubeProxy, namespace: str
) -> None:
    through = Client(Transport(proxy.endpoint))
    losing(proxy, Lose())
    with pytest.raises(e.Unreachable, match="may have been carried out"):
        through.create(CONFIG_MAPS, namespace, config_map("a"))
    assert client.get(CONFIG_MAPS, Key(namespace, "a"), Bare)
    losing(proxy, Lose(), Lose())
    made = through.apply(CONFIG_MAPS, Key(namespace, "b"), mapped({"x": "1"}, "b"))
    assert client.get(CONFIG_MAPS, Key(namespace, "b"), Bare).metadata.resource_version == made.metadata.resource_version
    assert proxy.counts["Lose"] == 3
    losing(proxy, Lose())
    uid = made.metadata.uid
    assert not through.delete(CONFIG_MAPS, Key(namespace, "b"), uid=uid)  # the first did it, the second found it gone


@pytest.mark.parametrize(
    "refusal",
    [
        Say(429, {"Retry-After": "1"}, status(429, "TooManyRequests")),
        Say(500, body=status(500, "InternalError")),
        Say(503),
        Say(504),
    ],
    ids=["429", "500", "503", "504"],
)
def test_a_server_that_is_busy_or_fails_for_a_while_is_asked_again(
    client: Client, proxy: KubeProxy, namespace: str, refusal: Say
) -> None:
    losing(proxy, refusal, refusal)
    began = time.monotonic()
    Client(Transport(proxy.endpoint)).apply(CONFIG_MAPS, Key(namespace, "a"), mapped({"x": "1"}))
    if refusal.code == 429:
        assert time.monotonic() - began >= 2
    assert client.get(CONFIG_MAPS, Key(namespace, "a"), Map).data == {"x": "1"}


def test_a_conflict_is_never_retried(proxy: KubeProxy, namespace: str) -> None:
    losing(proxy, Say(409, body=status(409, "Conflict", "the object has been modified")))
    with pytest.raises(e.Conflict):
        Client(Transport(proxy.endpoint)).apply(CONFIG_MAPS, Key(namespace, "a"), mapped({}))
    assert len(proxy.asked) == 1


def test_a_list_of_many_pages_that_expires_is_whole_all_the_same(client: Client, proxy: KubeProxy, namespace: str) -> None:
    for n in range(8):
        client.apply(CONFIG_MAPS, Key(namespace, f"m{n}"), config_map(f"m{n}"))
    expired: list[str] = []

    def plan(asked: Asked) -> Fault | None:
        if "continue" in asked.query:
            expired.append(asked.path)
            return Say(410, body=status(410, "Expired"))
        return None

    proxy.plan = plan
    found, _ = Client(Transport(proxy.endpoint)).list_all(CONFIG_MAPS, Bare, namespace, page=3)
    assert {f"m{n}" for n in range(8)} <= {thing.metadata.name for thing in found}
    assert len(expired) == 1


def test_applies_go_on_over_a_restart_of_the_api_server(plane: ControlPlane, transport: Transport, namespace: str) -> None:
    """While nothing listens calls fail, within seconds and as Unreachable or 5xx; then all goes on, on new connections."""
    client = Client(transport, manager="test")
    stopping, failures = threading.Event(), list[Exception]()
    counts, longest = [0, 0, 0], [0.0, 0.0, 0.0]

    def write(mine: int) -> None:
        while not stopping.is_set():
            began = time.monotonic()
            try:
                client.apply(CONFIG_MAPS, Key(namespace, f"m{mine}"), mapped({"x": str(counts[mine] + 1)}, f"m{mine}"))
                counts[mine] += 1
            except Exception as error:  # noqa: BLE001  looked at below
                failures.append(error)
            longest[mine] = max(longest[mine], time.monotonic() - began)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    until(lambda: min(counts) > 10)
    plane.kill_api_server()
    time.sleep(3)
    plane.start_api_server()
    after = list(counts)
    until(lambda: all(now > was + 5 for now, was in zip(counts, after, strict=True)), 90)
    stopping.set()
    for thread in threads:
        thread.join(40)
    assert all(isinstance(error, e.Unreachable | e.ServerError) for error in failures), failures
    assert any("was not carried out" in str(error) for error in failures)
    assert max(longest) < 45, "a call has 30 s; the rest is the machine's"
    for n in range(3):
        assert client.get(CONFIG_MAPS, Key(namespace, f"m{n}"), Map).data == {"x": str(counts[n])}
