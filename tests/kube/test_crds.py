"""The CRDs on a real API server: taken without a complaint, every manifest created, every bad one refused as the unit tests say.

The unit tests judge by a model of admission; here the server's verdict and what it stores are compared with that model.
"""

from __future__ import annotations

import copy
import json
import textwrap
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
import yaml
from controlplane import ControlPlane
from controlplane_kit import until
from crd_admission import FOLDER, MANIFESTS, Admission, read_crds
from crd_cases import ACCEPTED, CHANGES, REFUSED, thing
from manifest_cases import DATASET_ERRORS
from manifest_cases_runtimes import RUNTIME_ERRORS

from forebay.api.conditions import Condition, merge
from forebay.api.crd.kinds import KINDS, VERSION, Kind
from forebay.api.fluid import kinds as fluid
from forebay.api.fluid.status import DatasetStatus, Measured, OperationStatus, RuntimeStatus
from forebay.api.hints.nodecache import NodeCacheStatus
from forebay.kube.client import Client
from forebay.kube.errors import ApiError, Invalid
from forebay.kube.objects import Key
from forebay.kube.resources import CRDS, Resource
from forebay.kube.transport import Transport

Json = dict[str, Any]
MODEL = Admission()
FILES = read_crds()
RESOURCES = {k.kind: Resource(k.group, VERSION, k.plural, k.kind, k.scope == "Namespaced") for k in KINDS}
NOW = "2026-11-27T04:00:00Z"


class Whole(msgspec.Struct):
    """An object as JSON."""

    metadata: Json
    spec: Any = msgspec.UNSET
    status: Any = msgspec.UNSET


@pytest.fixture(scope="module")
def server(plane: ControlPlane) -> Iterator[Client]:
    """An administrator of a server that knows our CRDs."""
    transport = Transport(plane.endpoint)
    client = Client(transport, manager="test")
    for crd in FILES.values():
        client.create(CRDS, "", crd, dry_run=True)
        client.create(CRDS, "", crd)
    for crd in FILES.values():
        until(lambda crd=crd: conditions(client, crd).get("Established") == "True")
    for kind in KINDS:
        until(lambda kind=kind: served(transport, kind))
    yield client
    for crd in FILES.values():
        client.delete(CRDS, Key("", crd["metadata"]["name"]))
    transport.close()


def conditions(client: Client, crd: Json) -> dict[str, str]:
    found = client.get(CRDS, Key("", crd["metadata"]["name"]), Whole).status
    return {c["type"]: c["status"] for c in found.get("conditions", ())}


def served(transport: Transport, kind: Kind) -> bool:
    """A CRD that is established may not be served yet."""
    return transport.request("GET", f"/apis/{kind.group}/{VERSION}/{kind.plural}").code == 200


def sent(document: Json, namespace: str) -> tuple[Resource, str, Json]:
    """A document as a client sends it to a namespace of the test."""
    resource = RESOURCES[document["kind"]]
    body = copy.deepcopy(document)
    if resource.namespaced:
        body["metadata"]["namespace"] = namespace
    return resource, namespace if resource.namespaced else "", body


def verdict(client: Client, namespace: str, document: Json) -> str:
    """What the server says of a document; "" when it takes it. Nothing is stored."""
    try:
        client.create(*sent(document, namespace), dry_run=True)
    except ApiError as error:
        return str(error)
    return ""


def documents(text: str) -> list[Json]:
    loaded = [d for d in yaml.safe_load_all(textwrap.dedent(text)) if isinstance(d, dict)]
    return [d for d in loaded if (str(d.get("apiVersion")).rpartition("/")[0], d.get("kind")) in MODEL.crds]


@pytest.mark.parametrize("crd", FILES.values(), ids=lambda c: c["metadata"]["name"])
def test_the_server_has_nothing_against_a_crd(server: Client, crd: Json) -> None:
    """Rules compile and are cheap enough (creating it says so), the schema is structural, the names are free."""
    assert conditions(server, crd) == {"NamesAccepted": "True", "Established": "True"}


def test_names_and_sub_resources(server: Client) -> None:
    for group in ("data.fluid.io", "forebay.io"):
        found = json.loads(server.transport.request("GET", f"/apis/{group}/{VERSION}").body)["resources"]
        names = {r["name"]: r for r in found}
        for kind in (k for k in KINDS if k.group == group):
            assert tuple(names[kind.plural].get("shortNames", ())) == kind.short
            assert tuple(names[kind.plural].get("categories", ())) == kind.categories
            assert (f"{kind.plural}/status" in names) == (kind.status is not None)
            assert (f"{kind.plural}/scale" in names) == (kind.scale is not None)


def test_kubectl_get_shows_fluids_columns(server: Client, namespace: str) -> None:
    accept = "application/json;as=Table;v=v1;g=meta.k8s.io"
    for kind in KINDS:
        table = json.loads(server.transport.request("GET", RESOURCES[kind.kind].path(), accept=accept).body)
        shown = [c["name"] for c in table["columnDefinitions"]]
        assert shown == ["Name", *([c.name for c in kind.columns] or ["Age"])]


# --- manifests ------------------------------------------------------------------------------------------------------


def test_every_manifest_is_created_and_stored_as_the_model_says(server: Client, namespace: str) -> None:
    created = 0
    for path in sorted(MANIFESTS.glob("*.yaml")):
        for document in documents(path.read_text()):
            resource, where, body = sent(document, namespace)
            server.create(resource, where, body, dry_run=True)
            server.create(resource, where, body)
            key = Key(where, body["metadata"]["name"])
            stored = msgspec.json.decode(server.transport.request("GET", resource.at(key)).body, type=Json)
            expected, errors = MODEL.create(body)
            assert errors == []
            for field in expected.keys() - {"metadata"}:
                assert stored[field] == expected[field], (path.name, field)
            server.delete(resource, key)
            created += 1
    assert created == 23


def test_the_class_of_our_engine_is_taken(server: Client) -> None:
    body = yaml.safe_load((FOLDER.parent / "classes" / "forebay.yaml").read_text())
    server.create(RESOURCES["CacheRuntimeClass"], "", body)
    assert server.delete(RESOURCES["CacheRuntimeClass"], Key("", "forebay"))


@pytest.mark.parametrize("name", ACCEPTED, ids=str)
def test_accepted(server: Client, namespace: str, name: str) -> None:
    for document in documents(ACCEPTED[name]):
        assert verdict(server, namespace, document) == ""


@pytest.mark.parametrize("name", REFUSED, ids=str)
def test_refused(server: Client, namespace: str, name: str) -> None:
    text, words = REFUSED[name]
    (document,) = documents(text)
    assert words in verdict(server, namespace, document)


def test_the_server_and_the_model_agree_on_every_bad_manifest(server: Client, namespace: str) -> None:
    compared = 0
    for name, case in {**DATASET_ERRORS, **RUNTIME_ERRORS}.items():
        try:
            found = documents(case[0])
        except yaml.YAMLError:
            continue
        for document in found:
            metadata = document.get("metadata")
            if not isinstance(metadata, dict) or not isinstance(metadata.get("name"), str):
                continue  # refused before any schema
            body = sent(document, namespace)[2]
            said, expected = verdict(server, namespace, body), MODEL.create(body)[1]
            assert bool(said) == bool(expected), (name, said, expected)
            compared += 1
    assert compared > 100


@pytest.mark.parametrize("name", CHANGES, ids=str)
def test_changes_that_are_refused(server: Client, namespace: str, name: str) -> None:
    before, after, words = CHANGES[name]
    resource, where, old = sent(documents(before)[0], namespace)
    _, _, new = sent(documents(after)[0], namespace)
    key = Key(where, old["metadata"]["name"])
    server.apply(resource, key, old)
    server.apply(resource, key, old)
    with pytest.raises(Invalid) as refused:
        server.apply(resource, key, new)
    assert words in str(refused.value)
    server.delete(resource, key)


def test_a_message_names_object_field_and_remedy(server: Client, namespace: str) -> None:
    said = verdict(server, namespace, documents(REFUSED["negative quota"][0])[0])
    assert "spec.tieredstore.levels[0].quota" in said
    assert "write a size above 0, such as 1Gi" in said


# --- status and scale -----------------------------------------------------------------------------------------------


def head(kind: str, name: str, namespace: str) -> Json:
    where = {"namespace": namespace} if RESOURCES[kind].namespaced else {}
    return {"apiVersion": RESOURCES[kind].api_version, "kind": kind, "metadata": {"name": name, **where}}


def apply_status(client: Client, kind: str, key: Key, status: msgspec.Struct, manager: str = "") -> None:
    body = {**head(kind, key.name, key.namespace), "status": msgspec.to_builtins(status)}
    client.apply_status(RESOURCES[kind], key, body, manager=manager)


def test_two_writers_share_the_conditions_of_a_dataset(server: Client, namespace: str) -> None:
    """The list is a map by type: each manager owns its own."""
    key = Key(namespace, "x")
    server.create(RESOURCES["Dataset"], namespace, documents(thing("Dataset", "mounts: [{mountPoint: s3://b/x}]"))[0])
    ready = Condition(type="Ready", status="True", observed_generation=1)
    other = Condition(type="RuntimeScheduled", status="False", reason="EngineMissing", message="none; name one")
    whole = DatasetStatus(
        conditions=merge((), [ready], NOW), phase="Bound", ufs_total="1.00GiB", measured=Measured(total_bytes=1 << 30)
    )
    apply_status(server, "Dataset", key, whole, "dataset")
    apply_status(server, "Dataset", key, DatasetStatus(conditions=merge((), [other], NOW)), "runtime")
    found = server.get(RESOURCES["Dataset"], key, Whole).status
    assert {c["type"]: c["status"] for c in found["conditions"]} == {"Ready": "True", "RuntimeScheduled": "False"}
    assert (found["phase"], found["measured"], found["ufsTotal"]) == ("Bound", {"totalBytes": 1 << 30}, "1.00GiB")
    version = server.get(RESOURCES["Dataset"], key, Whole).metadata["resourceVersion"]
    apply_status(server, "Dataset", key, whole, "dataset")
    assert server.get(RESOURCES["Dataset"], key, Whole).metadata["resourceVersion"] == version  # nothing new, no write


def runtime_status(ready: int) -> RuntimeStatus:
    counts = {f.name: ready for f in msgspec.structs.fields(RuntimeStatus) if f.required and "number" in f.name}
    return RuntimeStatus(value_file="", master_phase="", worker_phase="Ready", fuse_phase="", selector="a=b", **counts)


@pytest.mark.parametrize("kind", fluid.RUNTIMES)
def test_scale(server: Client, namespace: str, kind: str) -> None:
    resource, key = RESOURCES[kind], Key(namespace, "x")
    spec = {"runtimeClassName": "c", "worker": {"replicas": 2}} if kind == "CacheRuntime" else {"replicas": 2}
    server.create(resource, namespace, {**head(kind, "x", namespace), "spec": spec})
    if kind == "CacheRuntime":
        body = {**head(kind, "x", namespace), "status": {"selector": "a=b", "worker": {"phase": "Ready", "currentReplicas": 2}}}
        server.apply_status(resource, key, body)
    else:
        apply_status(server, kind, key, runtime_status(2))
    scale = server.get(resource, key, Whole, sub="scale")
    assert (scale.spec, scale.status) == ({"replicas": 2}, {"replicas": 2, "selector": "a=b"})
    for wanted in (5, 0):
        server.merge(resource, key, {"spec": {"replicas": wanted}}, sub="scale")
        found = server.get(resource, key, Whole).spec
        assert (found["worker"] if kind == "CacheRuntime" else found)["replicas"] == wanted


def test_statuses_of_operations_and_nodes(server: Client, namespace: str) -> None:
    server.create(RESOURCES["DataLoad"], namespace, documents(thing("DataLoad", "dataset: {name: d}"))[0])
    apply_status(server, "DataLoad", Key(namespace, "x"), OperationStatus(phase="Pending", duration="Unfinished", conditions=()))
    with pytest.raises(Invalid, match="phase"):
        apply_status(
            server,
            "DataLoad",
            Key(namespace, "x"),
            OperationStatus(phase="Ready", duration="", conditions=()),  # type: ignore[arg-type]
        )
    server.create(RESOURCES["NodeCache"], "", head("NodeCache", "node-a", ""))
    bytes_ = NodeCacheStatus(
        observed_time=NOW, tiers=(), cached_bytes=0, capacity_bytes=0, cached="0B", capacity="0B", dataset_count=0
    )
    apply_status(server, "NodeCache", Key("", "node-a"), bytes_)
    assert server.get(RESOURCES["NodeCache"], Key("", "node-a"), Whole).status["cachedBytes"] == 0
    server.delete(RESOURCES["NodeCache"], Key("", "node-a"))
