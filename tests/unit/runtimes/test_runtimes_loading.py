"""What carries a DataLoad out on our engine."""

from __future__ import annotations

from typing import Any

import pytest

from forebay.runtimes import registry
from forebay.runtimes.engine import Installation, Loading, Subject
from forebay.runtimes.forebay.loading import job_name

DATASET = {
    "apiVersion": "data.fluid.io/v1alpha1",
    "kind": "Dataset",
    "metadata": {"name": "d", "namespace": "ns", "uid": "d-uid"},
    "spec": {"mounts": [{"mountPoint": "s3://b/"}]},
}


def made(name: str = "l", installation: Installation | None = None, **spec: Any) -> Loading:
    load = {
        "apiVersion": "data.fluid.io/v1alpha1",
        "kind": "DataLoad",
        "metadata": {"name": name, "namespace": "ns", "uid": f"{name}-uid"},
        "spec": {"dataset": {"name": "d"}, **spec},
    }
    found = registry.engines()["forebay"].loading(Subject(dataset=DATASET, installation=installation or Installation()), load)
    assert found is not None
    return found


def job(**more: Any) -> dict[str, Any]:
    found: dict[str, Any] = made(**more).objects[-1]
    assert found["kind"] == "Job"
    return found


def container(**more: Any) -> dict[str, Any]:
    found: dict[str, Any] = job(**more)["spec"]["template"]["spec"]["containers"][0]
    return found


def test_names_are_fluids_where_they_fit_and_never_anothers() -> None:
    assert job()["metadata"]["name"] == "l-loader-job"
    long = [job_name("x" * 60 + end) for end in ("a", "b")]
    assert len(set(long)) == 2
    assert all(len(name) <= 63 for name in long)
    accounts = {made(name).objects[0]["metadata"]["name"] for name in ("l", "m", "y" * 200, "y" * 201)}
    assert len(accounts) == 4
    assert all(len(name) <= 63 for name in accounts)


def test_the_pod_is_restricted_and_has_no_secret_but_the_datasets() -> None:
    pod = job()["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert container()["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    (volume,) = pod["volumes"]
    assert volume["secret"]["items"] == [{"key": "secret", "path": "secret"}]
    assert "runAsUser" not in job(installation=Installation(uid=None))["spec"]["template"]["spec"]["securityContext"]


def test_orders_are_arguments_that_no_kubelet_fills_in() -> None:
    target = [{"path": "/a$(HOME)"}, {"path": "b", "replicas": 3}]
    arguments = container(target=target, loadMetadata=True, options={"metadataOnly": "true"})["args"]
    assert "--target=1:/a$$(HOME)" in arguments
    assert "--target=3:/b" in arguments
    assert {"--refresh", "--metadata-only"} <= set(arguments)
    assert {"--refresh", "--metadata-only"}.isdisjoint(container()["args"])
    assert "--workers=svc-d-worker.ns.svc" in arguments
    assert "--report-to=l" in arguments


def test_what_the_load_says_of_its_pod_holds_but_for_our_labels() -> None:
    spec = {
        "podMetadata": {"labels": {"team": "x", "forebay.io/component": "worker"}, "annotations": {"a": "b"}},
        "tolerations": [{"operator": "Exists"}],
        "nodeSelector": {"zone": "a"},
        "schedulerName": "mine",
        "resources": {"limits": {"cpu": "1"}},
        "options": {"timeout": "2m"},
    }
    found = job(**spec)["spec"]
    template = found["template"]
    assert template["metadata"]["labels"]["team"] == "x"
    assert template["metadata"]["labels"]["forebay.io/component"] == "loader", "else workers would be counted wrongly"
    assert template["metadata"]["annotations"] == {"a": "b"}
    assert (template["spec"]["nodeSelector"], template["spec"]["schedulerName"]) == ({"zone": "a"}, "mine")
    assert container(**spec)["resources"] == {"limits": {"cpu": "1"}}
    assert found["activeDeadlineSeconds"] == 120
    assert "activeDeadlineSeconds" not in job()["spec"]
    assert "fluid.io/dataset" not in template["metadata"]["labels"], "it keeps no worker off its node"


@pytest.mark.parametrize("spec", [{"target": [{"path": "/a/../b"}]}, {"options": {"timeout": "soon"}}])
def test_what_cannot_be_meant_makes_nothing(spec: dict[str, Any]) -> None:
    found = made(**spec)
    assert found.objects == ()
    assert [(f.severity, f.reason) for f in found.findings] == [("error", "SpecRefused")]


def test_what_is_not_acted_on_is_a_warning() -> None:
    found = made(options={"spark": "1"})
    assert [(f.severity, f.reason) for f in found.findings] == [("warning", "FieldsIgnored")]
    assert found.objects
