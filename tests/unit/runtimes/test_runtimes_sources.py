"""Mounts as a worker pod reaches them: credentials as files, directories and claims as volumes, and what is refused."""

from __future__ import annotations

import textwrap
from typing import Any

import pytest
import runtime_worlds as worlds
from runtime_worlds import CACHE

from forebay.api import podconfig as config
from forebay.api.manifests.options import translate
from forebay.api.spec import DatasetSpec
from forebay.runtimes.engine import Plan

HEAD = "apiVersion: data.fluid.io/v1alpha1\nkind: Dataset\nmetadata: {name: d, namespace: ns}\nspec:\n"


def planned(mount: str, more: str = "") -> Plan:
    body = f"mounts:\n  - {{{mount}}}\n{textwrap.dedent(more)}"
    return worlds.plan(worlds.one(HEAD + textwrap.indent(body, "  ") + CACHE))


def key(name: str, of: str = "s/k", more: str = "") -> str:
    secret, _, entry = of.partition("/")
    return f"{{name: {name}, valueFrom: {{secretKeyRef: {{name: {secret}, key: {entry}{more}}}}}}}"


def filled(plan: Plan, **values: str) -> DatasetSpec:
    def read(path: str) -> str:
        if path not in held:
            raise FileNotFoundError(path)
        return held[path]

    held = {k.replace("__", "/"): v for k, v in values.items()}
    return config.fill(worlds.config_of(plan), read)


def volumes(plan: Plan) -> dict[str, Any]:
    return {v["name"]: v for v in worlds.stateful_set(plan)["spec"]["template"]["spec"]["volumes"]}


def test_keys_of_secrets_become_files_and_come_back() -> None:
    plan = planned(
        f"mountPoint: 's3://bucket/', name: a, encryptOptions: [{key('access_key', 's/id')}, {key('secret_key', 's/sk')}]"
    )
    mount = worlds.config_of(plan).spec.mounts[0]
    assert mount.secrets == {}
    spec = filled(plan, s__id="AK", s__sk="SK")
    assert spec.mounts[0].secrets == {"access_key": "AK", "secret_key": "SK"}
    assert "anonymous" not in spec.mounts[0].options
    (source,) = volumes(plan)["credentials"]["projected"]["sources"]
    assert source == {"secret": {"name": "s", "items": [{"key": "id", "path": "s/id"}, {"key": "sk", "path": "s/sk"}]}}


def test_a_missing_key_is_named_and_an_optional_one_is_not_missed() -> None:
    plan = planned(f"mountPoint: 'https://h/', name: a, encryptOptions: [{key('token')}]")
    with pytest.raises(FileNotFoundError, match="mount a takes token from key k of Secret s, which is not there: add the key"):
        filled(plan)
    plan = planned(f"mountPoint: 'https://h/', name: a, encryptOptions: [{key('token', more=', optional: true')}]")
    assert filled(plan).mounts[0].secrets == {}
    assert filled(plan, s__k="T").mounts[0].secrets == {"token": "T"}
    (source,) = volumes(plan)["credentials"]["projected"]["sources"]
    assert source["secret"]["optional"] is True


def test_a_secret_wins_over_what_stands_in_plain_text_under_another_name() -> None:
    plan = planned(
        f"mountPoint: 's3://bucket/', name: a, options: {{access: PLAIN, secret_key: X}}, encryptOptions: [{key('access_key')}]"
    )
    name = next(o["metadata"]["name"] for o in plan.create if "credentials" in o["metadata"]["name"])
    assert filled(plan, s__k="AK", **{f"{name}__mount-0-secret-key": "X"}).mounts[0].secrets["access_key"] == "AK"


def test_plain_credentials_go_to_a_secret_of_their_own() -> None:
    plan = planned("mountPoint: 'https://joe:pw@h/', name: a")
    spec = worlds.config_of(plan).spec.mounts[0]
    assert (spec.source, spec.options, spec.secrets) == ("https://h/", {"username": "joe"}, {})
    assert [f.reason for f in plan.findings] == ["PlainCredentials"]
    assert "pw" not in "".join(f.message for f in plan.findings)
    secret = next(o for o in plan.create if "credentials" in o["metadata"]["name"])
    assert secret["data"] == {"mount-0-password": "cHc="}
    assert filled(plan, **{f"{secret['metadata']['name']}__mount-0-password": "pw"}).mounts[0].secrets == {"password": "pw"}


def test_the_reader_marks_plain_credentials() -> None:
    _, found = translate("s3", {"secret_key": "x"}, {})
    assert [p.plain for p in found] == [True]


def test_an_endpoint_may_lie_in_a_secret_if_it_stands_alone() -> None:
    keys = f"{key('access_key', 's/a')}, {key('secret_key', 's/b')}, {key('endpoint', 's/url')}"
    plan = planned(f"mountPoint: 's3://bucket/', name: a, encryptOptions: [{keys}]")
    assert filled(plan, s__a="A", s__b="B", s__url="http://s3:9000").mounts[0].options["endpoint"] == "http://s3:9000"
    for options in ('tls: "false"',):
        refused = planned(f"mountPoint: 's3://bucket/', name: a, options: {{{options}}}, encryptOptions: [{keys}]")
        assert refused.apply == ()
        assert "takes part of its endpoint from a Secret" in refused.findings[0].message


@pytest.mark.parametrize(
    ("mount", "part"),
    [
        ("mountPoint: 'oss://b/', name: a", 'has scheme "oss", which no store of engine forebay serves yet'),
        ("mountPoint: 'local:///', name: a", "is the root of the node"),
        ("mountPoint: 'local:///a:b', name: a", 'holds a ":"'),
        ("mountPoint: 'file:///a%ffb', name: a", "names bytes that are no UTF-8"),
        ("mountPoint: 'pvc://d/x', name: a", "is the dataset's own claim"),
        ("mountPoint: 'pvc:///x', name: a", "names no claim"),
        ("mountPoint: 'pvc://c/../x', name: a", 'holds a ".." part'),
        ("mountPoint: 's3://bucket/', name: a, options: {profile: x}", "names a profile of a machine"),
        ("mountPoint: 's3://bucket/', name: a, options: {access_key: x}", "secret_key is missing"),
        ("mountPoint: 'minio://bucket/', name: a", "names no server"),
        (f"mountPoint: 's3://bucket/', name: a, encryptOptions: [{key('anonymous')}]", "its value must be known"),
        (f"mountPoint: 'https://h/', name: a, encryptOptions: [{key('token', 'S_/k')}]", "which is no name"),
    ],
)
def test_what_no_pod_can_reach_is_refused(mount: str, part: str) -> None:
    plan = planned(mount)
    assert (plan.create, plan.apply) == ((), ())
    errors = [f for f in plan.findings if f.severity == "error"]
    assert part in errors[0].message
    assert "spec.mounts[0].mountPoint" in errors[0].message


@pytest.mark.parametrize(
    ("point", "source", "path"),
    [
        ("local:///srv/data", "local:///host/srv/data", "/srv/data"),
        ("local:///srv//data/", "local:///host/srv/data", "/srv/data"),
        ("file:///srv/a%20b", "local:///host/srv/a b", "/srv/a b"),
        ("file://localhost/srv", "local:///host/srv", "/srv"),
    ],
)
def test_directories_of_the_node_come_by_its_plugin(point: str, source: str, path: str) -> None:
    plan = planned(f"mountPoint: '{point}', name: a")
    assert worlds.config_of(plan).spec.mounts[0].source == source
    assert volumes(plan)["host-0"]["csi"]["volumeAttributes"]["forebay.io/path"] == path
    assert volumes(plan)["host-0"]["csi"]["readOnly"] is True
    container = worlds.stateful_set(plan)["spec"]["template"]["spec"]["containers"][0]
    assert {"name": "host-0", "mountPath": f"/host{path}", "readOnly": True} in container["volumeMounts"]


@pytest.mark.parametrize(
    ("point", "source"),
    [
        ("pvc://c", "local:///claims/c"),
        ("pvc://c/", "local:///claims/c"),
        ("pvc://my.claim/x//y/", "local:///claims/my.claim/x/y"),
    ],
)
def test_claims_are_mounted_into_the_worker(point: str, source: str) -> None:
    plan = planned(f"mountPoint: '{point}', name: a")
    assert worlds.config_of(plan).spec.mounts[0].source == source
    claim = volumes(plan)["claim-0"]["persistentVolumeClaim"]
    assert claim == {"claimName": point.removeprefix("pvc://").partition("/")[0], "readOnly": True}


@pytest.mark.parametrize("point", ["local:///srv/data", "pvc://c"])
def test_versions_of_directories_are_the_same_on_every_node(point: str) -> None:
    def options(said: str) -> dict[str, str]:
        return worlds.config_of(planned(f"mountPoint: '{point}', name: a{said}")).spec.mounts[0].options

    assert options("") == options(", options: {region: meant-for-another-mount}") == {"shared": "true"}
    assert options(", options: {forebay.io/shared: 'no'}") == {"shared": "false"}


def test_whether_a_directory_is_shared_must_be_known() -> None:
    plan = planned("mountPoint: 'local:///srv', name: a, options: {shared: perhaps}")
    assert "is no boolean" in plan.findings[0].message
    plan = planned(f"mountPoint: 'local:///srv', name: a, encryptOptions: [{key('shared')}]")
    assert "its value must be known" in plan.findings[0].message


def test_nothing_of_the_controllers_own_environment_reaches_a_dataset(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "credentials").write_text("[default]\naws_access_key_id = LEAK\naws_secret_access_key = LEAK\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "LEAK")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "LEAK")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://leak")
    plan = planned("mountPoint: 's3://bucket/', name: a")
    assert "LEAK" not in repr(plan)
    assert worlds.config_of(plan).spec.mounts[0].options == {"anonymous": "true"}
    assert [f.reason for f in plan.findings] == ["Unsigned"]


def test_freshness_of_a_mount_beats_that_of_the_dataset() -> None:
    head = HEAD.replace("namespace: ns}", "namespace: ns, annotations: {forebay.io/freshness: validate}}")
    mounts = (
        "{mountPoint: 'https://h/a/', name: a}, {mountPoint: 'https://h/b/', name: b, options: {forebay.io/freshness: ttl=5s}}"
    )
    spec = worlds.config_of(worlds.plan(worlds.one(f"{head}  mounts: [{mounts}]\n" + CACHE))).spec
    assert [(m.freshness.mode, m.freshness.ttl) for m in spec.mounts] == [("validate", 60.0), ("ttl", 5.0)]


def test_an_option_that_means_nothing_is_said_once() -> None:
    plan = planned("mountPoint: 'https://h/', name: a, options: {nonsense: x}")
    assert [f.reason for f in plan.findings] == ["OptionIgnored"]
    assert plan.apply
