"""The plugin's pieces that need no cluster, and what it says where there is none."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import click
import pytest
from click.testing import CliRunner

from forebay.cli.kubectl import complete, doctor, grant, reach, status, warm
from forebay.cli.kubectl.main import COMMANDS, cli
from forebay.cli.main import cli as forebay
from forebay.cli.output import CommandError
from forebay.kube.resources import DEPLOYMENTS, MUTATING_WEBHOOKS, VALIDATING_WEBHOOKS, Resource

NOW = datetime(2026, 11, 27, 12, 0, 0, tzinfo=UTC)
HALF = {
    "doneFiles": 2,
    "totalFiles": 4,
    "doneBytes": 1 << 20,
    "totalBytes": 1 << 21,
    "bytesPerSecond": 1 << 20,
    "etaSeconds": 1,
    "percent": 50,
}


def dataset(phase: str = "Bound", **more: Any) -> dict[str, Any]:
    ready = {"type": "Ready", "status": "True", "reason": "DatasetReady", "message": "fine"}
    said = {"phase": phase, "engine": "forebay", "conditions": [ready], **more}
    return {"kind": "Dataset", "metadata": {"name": "d", "namespace": "ns"}, "status": said}


def load(phase: str, progress: dict[str, Any] | None = None, message: str = "", name: str = "l") -> dict[str, Any]:
    conditions = [{"type": phase, "status": "True", "message": message}] if message else []
    said = {"phase": phase, "conditions": conditions, "progress": progress or {}, "duration": "3s"}
    return {"metadata": {"name": name, "namespace": "ns"}, "spec": {"dataset": {"name": "d"}}, "status": said}


# --- status ---


def test_a_dataset_that_serves_is_one_row() -> None:
    runtime = {"kind": "CacheRuntime", "status": {"worker": {"readyReplicas": 2, "desiredReplicas": 3}}}
    measured = {"files": 4, "totalBytes": 1 << 21, "cachedBytes": 1 << 20, "listed": True}
    found = status.report(dataset(measured=measured), [load("Executing", HALF)], runtime)
    assert status.row(found) == ("ns", "d", "Bound", "forebay", "2/3", "4", "2.0 Mi", "1.0 Mi", "l 50%")
    assert found["serves"]
    assert status.notes(found, whole=False) == ["ns/d: load l: 2 of 4 files, 1.0 Mi of 2.0 Mi (50%), 1.0 Mi/s, 1s left"]


def test_a_store_that_fails_is_said_of_a_dataset_that_serves() -> None:
    fails = {"type": "StoresAnswer", "status": "False", "reason": "StoreFails", "message": "refused the credentials"}
    found = status.report(dataset(conditions=[fails]), [], None)
    assert found["serves"]
    assert status.notes(found, whole=False) == ["ns/d: StoreFails: refused the credentials"]
    full = {"type": "CacheAdmits", "status": "False", "reason": "DiskFull", "message": "5 GiB are free"}
    assert status.report(dataset(conditions=[full]), [], None)["trouble"] == "DiskFull: 5 GiB are free"


def test_what_fails_is_said() -> None:
    assert status.moving({**HALF, "failedFiles": 2, "lastError": "no room"}).endswith("; 2 failed, the last: no room")


def test_what_is_not_known_is_a_dash_and_what_does_not_serve_is_explained() -> None:
    bare = {"metadata": {"name": "d", "namespace": "ns"}}
    found = status.report(bare, [load("Pending", message="it waits for a worker"), load("Complete", name="m")], None)
    assert status.row(found) == ("ns", "d", "New", "-", "-", "-", "-", "-", "-")
    assert not found["serves"]
    first, second = status.notes(found, whole=False)
    assert "kubectl forebay doctor" in first
    assert second == "ns/d: load l pending: it waits for a worker"
    assert len(status.notes(found, whole=True)) == 3


def test_loads_of_other_datasets_and_namespaces_are_not_its_own() -> None:
    far = load("Executing")
    far["metadata"] = {"name": "x", "namespace": "other"}
    another = load("Executing")
    another["spec"] = {"dataset": {"name": "e"}}
    assert status.report(dataset(), [far, another], None)["loads"] == []


def test_workers_of_a_classic_runtime() -> None:
    said = {"workerNumberReady": 1, "desiredWorkerNumberScheduled": 2}
    assert status.workers({"kind": "AlluxioRuntime", "status": said}) == {"ready": 1, "desired": 2}
    assert status.workers({"kind": "AlluxioRuntime"}) == {"ready": 0, "desired": 0}


# --- warm ---


def test_targets_are_of_one_dataset() -> None:
    assert warm._split(("d",)) == ("d", ["/"])
    assert warm._split(("d:/a", "d:b")) == ("d", ["/a", "/b"])
    for wrong in (("d", "e"), (":/a",)):
        with pytest.raises(click.UsageError, match="one load is of one dataset"):
            warm._split(wrong)


def test_a_load_that_is_made_here_goes_by_itself() -> None:
    made = warm.manifest("ns", "d" * 63, ["/a"], replicas=2, refresh=True, metadata_only=True)
    assert len(made["metadata"]["name"]) <= 52
    assert made["spec"]["ttlSecondsAfterFinished"] > 0
    assert made["spec"]["target"] == [{"path": "/a", "replicas": 2}]
    assert made["spec"]["options"] == {"metadataOnly": "true"}
    assert (
        made["metadata"]["name"]
        != warm.manifest("ns", "d" * 63, [], replicas=1, refresh=False, metadata_only=False)["metadata"]["name"]
    )


def test_a_load_is_watched_to_its_end(capsys: pytest.CaptureFixture[str]) -> None:
    wait = [{"type": "Waiting", "status": "True", "message": "Dataset d is not Bound"}]
    pending = {"phase": "Pending", "conditions": wait}
    whole = {"phase": "Complete", "progress": {**HALF, "doneFiles": 4}}
    steps: Iterator[dict[str, Any]] = iter([{}, pending, pending, {"phase": "Executing", "progress": HALF}, whole])
    seen = list(warm.watched(lambda: next(steps), lambda: None))
    assert [p.files for p in seen] == [0, 0, 0, 2, 4]
    assert [p.finished for p in seen] == [False] * 4 + [True]
    assert capsys.readouterr().err == "it waits: Dataset d is not Bound\n"


def test_a_load_that_fails_says_why() -> None:
    failed = {"phase": "Failed", "conditions": [{"type": "Failed", "status": "True", "message": "no such path"}]}
    with pytest.raises(CommandError, match="the load has failed: no such path"):
        list(warm.watched(lambda: failed, lambda: None))


# --- grant ---


def test_the_same_words_give_the_same_grant() -> None:
    made = grant.manifest("ns", "d", ("b", "a", "b"), ("/x",), "")
    assert made["spec"] == {"dataset": "d", "namespaces": ["a", "b"], "paths": ["/x"]}
    assert made == grant.manifest("ns", "d", ("a", "b"), ("/x",), "")
    assert made["metadata"]["name"] != grant.manifest("ns", "d", ("a",), ("/x",), "")["metadata"]["name"]
    assert (
        grant.manifest("ns", "d", ("a",), (), "")["metadata"]["name"]
        != grant.manifest("ns", "d", (), ("a",), "")["metadata"]["name"]
    )


def test_when_a_grant_ends() -> None:
    ends = {"90m": "2026-11-27T13:30:00Z", "12h": "2026-11-28T00:00:00Z", "30d": "2026-12-27T12:00:00Z"}
    assert {span: grant._expires(span, NOW) for span in ends} == ends
    assert grant._expires(None) == ""
    with pytest.raises(click.BadParameter, match="write such as 90m, 12h or 30d"):
        grant._expires("soon")


@pytest.mark.parametrize(
    "arguments",
    [["grant", "d", "--revoke"], ["grant", "d", "--path", "/a"], ["grant", "d", "--to", "x", "--revoke", "--for", "1h"]],
)
def test_what_does_not_go_together(arguments: list[str]) -> None:
    found = CliRunner().invoke(cli, arguments)
    assert found.exit_code == 2
    assert "--revoke" in found.output or "--to" in found.output


# --- doctor ---


def test_nodes_by_kernel() -> None:
    (mixed,) = doctor.by_kernel({"a": "6.12.1", "b": "5.15.0-91-generic", "c": "?"})
    assert (mixed.level, mixed.text.split(":")[0]) == ("warning", "2 of 3 have a kernel before 6.9 (b, c)")
    (fine,) = doctor.by_kernel({"a": "6.9.0"})
    assert fine.level == "ok"
    assert list(doctor.by_kernel({})) == []


@pytest.mark.parametrize(
    ("lease", "level"),
    [
        (None, "error"),
        ({"spec": {"holderIdentity": "a", "renewTime": "2026-11-27T11:59:50.000000Z"}}, "ok"),
        ({"spec": {"holderIdentity": "a", "renewTime": "2026-11-27T11:58:00.000000Z"}}, "error"),
        ({"spec": {"holderIdentity": "", "renewTime": "2026-11-27T11:59:59.000000Z"}}, "error"),
        ({"spec": {"holderIdentity": "a"}}, "error"),
    ],
)
def test_whether_somebody_leads(lease: dict[str, Any] | None, level: str) -> None:
    found = doctor.leading(lease, NOW, "logs")
    assert found.level == level
    assert (found.remedy == "logs") == (level == "error")


def finds(monkeypatch: pytest.MonkeyPatch, *objects: tuple[Resource, str, dict[str, Any]]) -> Any:
    """A cluster of which the doctor gets these: kind, name, object."""
    there = {(resource, name): found for resource, name, found in objects}
    monkeypatch.setattr(doctor, "_get", lambda _cluster, resource, key: there.get((resource, key.name)))
    return None


def deployed(ready: int, wanted: int = 2) -> dict[str, Any]:
    return {"spec": {"replicas": wanted}, "status": {"readyReplicas": ready} if ready else {}}


def hooks(authority: str) -> dict[str, Any]:
    return {"webhooks": [{"clientConfig": {"caBundle": authority} if authority else {}}]}


@pytest.mark.parametrize(
    ("ready", "mutating", "validating", "said"),
    [
        (2, hooks("x"), hooks("x"), [("ok", "2 of 2 replicas are ready")]),
        (1, hooks("x"), hooks("x"), [("warning", "1 of 2 replicas are ready")]),
        (0, hooks("x"), hooks("x"), [("warning", "0 of 2 replicas are ready: pods are not steered")]),
        (2, hooks("x"), None, [("ok", "2 of 2"), ("warning", "ValidatingWebhookConfiguration forebay-webhook is not there")]),
        (
            2,
            hooks(""),
            hooks("x"),
            [("ok", "2 of 2"), ("warning", "MutatingWebhookConfiguration forebay-webhook has no authority")],
        ),
    ],
)
def test_a_webhook_that_nobody_calls_is_said(
    ready: int, mutating: Any, validating: Any, said: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = [(DEPLOYMENTS, "forebay-webhook", deployed(ready)), (MUTATING_WEBHOOKS, "forebay-webhook", mutating)]
    cluster = finds(monkeypatch, *objects, (VALIDATING_WEBHOOKS, "forebay-webhook", validating))
    found = list(doctor.webhook(cluster, "forebay-system"))
    assert [(f.level, f.text.startswith(words)) for f, (_, words) in zip(found, said, strict=True)] == [
        (s[0], True) for s in said
    ]
    assert all(bool(f.remedy) == (f.level != "ok") for f in found)


def test_parts_that_may_be_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a webhook pods run all the same; without our scheduler pods are another's. One that is installed must run."""
    (without,) = doctor.webhook(finds(monkeypatch), "forebay-system")
    assert (without.level, without.remedy) == ("info", "value webhook: true")
    assert list(doctor.scheduler(finds(monkeypatch), "forebay-system")) == []
    (down,) = doctor.scheduler(finds(monkeypatch, (DEPLOYMENTS, "forebay-scheduler", deployed(0))), "forebay-system")
    assert (down.level, down.text) == ("error", "0 of 2 replicas are ready: pods that name it wait")
    (well,) = doctor.scheduler(finds(monkeypatch, (DEPLOYMENTS, "forebay-scheduler", deployed(2))), "forebay-system")
    assert well.level == "ok"


# --- where there is no cluster ---


@pytest.mark.parametrize("command", [["status"], ["warm", "d"], ["grant", "d"], ["doctor"]])
def test_without_a_cluster_one_sentence_says_what_to_do(
    command: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KUBECONFIG", raising=False)
    found = CliRunner().invoke(cli, command)
    assert found.exit_code == 1
    assert "no cluster is known" in found.output
    assert "name a kubeconfig" in found.output


# --- completion ---


def test_kubectl_is_told_commands_options_and_no_files(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert {line.split("\t")[0] for line in complete.candidates([""])} == set(COMMANDS)
    assert [line.split("\t")[0] for line in complete.candidates(["st"])] == ["status"]
    assert "--replicas" in [line.split("\t")[0] for line in complete.candidates(["warm", "--re"])]
    assert complete.candidates(["status", "-o", "j"]) == ["json"]
    monkeypatch.setattr("sys.argv", ["kubectl_complete-forebay", "d"])
    complete.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("doctor\t")
    assert lines[-1] == ":4"


def test_names_of_datasets_are_completed_and_no_cluster_is_no_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KUBECONFIG", raising=False)
    assert complete.candidates(["status", "-n", "team", "co"]) == []
    monkeypatch.setattr(reach.Cluster, "all", lambda *_: [{"metadata": {"name": n}} for n in ("corpus", "code", "images")])
    config = {
        "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:1"}}],
        "contexts": [{"name": "x", "context": {"cluster": "c"}}],
    }
    (tmp_path / "config").write_text(json.dumps({**config, "current-context": "x"}))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    assert complete.candidates(["status", "co"]) == ["code", "corpus"]
    assert complete.candidates(["grant", "corpus", "--to", "i"]) == ["images"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str) -> None:
    found = CliRunner().invoke(
        forebay, ["completion", shell]
    )  # by way of its parent: click keeps the first help option that it made
    assert found.exit_code == 0
    assert "_FOREBAY_COMPLETE" in found.output
    assert f"{shell}_complete" in found.output
