"""What admission says of manifests: Fluid's are taken, bad ones are refused with field and remedy, every rule can fire."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import pytest
import yaml
from crd_admission import MANIFESTS, Admission, evaluate, schema_errors, schema_of
from crd_cases import ACCEPTED, CHANGES, REFUSED, cache_level, thing
from manifest_cases import DATASET_ERRORS
from manifest_cases_runtimes import RUNTIME_ERRORS
from manifest_cases_warnings import WARNINGS

from forebay.api.crd.rules import RULES
from forebay.api.fluid import kinds as fluid

SERVER = Admission()
ERRORS = {**DATASET_ERRORS, **RUNTIME_ERRORS}

LATER: dict[str, tuple[str, ...]] = {
    "between objects": (
        "one dataset twice",
        "no such key",
        "reference to itself",
        "reference to a reference",
        "scheme under a runtime",
        "two runtime kinds",
        "one runtime twice",
        "thin path",
        "thin name",
        "reference with a runtime",
        "runs after itself",
        "load of a reference",
    ),
    "of the namespace or annotations, which no rule sees": (
        "namespace",
        "load elsewhere",
        "freshness annotation",
        "floor",
    ),
    "of stores and schemes, which engines may bring": (
        "unknown scheme",
        "no scheme",
        "no bucket",
        "bad bucket",
        "no host",
        "bad port",
        "fragment",
        "migrate scheme",
    ),
    "too costly over 512 mounts": ("same twice", "freshness", "endpoint", "long part"),
    "inside a comma list of directories": ("tier twice",),
    "fine in a cluster": ("replicas of 0",),
    "of other kinds than ours": ("no base64", "secret as a number"),
}
"""Errors of `forebay check` that admission lets pass, by reason: the webhook's and the controllers' business."""


def documents(text: str) -> list[dict[str, Any]]:
    """Documents of Fluid's and our groups, those that a client could send at all."""
    loaded = [d for d in yaml.safe_load_all(textwrap.dedent(text)) if isinstance(d, dict)]
    return [d for d in loaded if (str(d.get("apiVersion")).rpartition("/")[0], d.get("kind")) in SERVER.crds]


def refusals(text: str) -> list[str]:
    """What the server says of all documents; one that it cannot even route counts as refused."""
    try:
        loaded = list(yaml.safe_load_all(textwrap.dedent(text)))
    except yaml.YAMLError as e:
        return [str(e)]
    found: list[str] = []
    for document in loaded:
        if not isinstance(document, dict) or not isinstance((document.get("metadata") or {}).get("name"), str):
            found.append("no object with a name")
        elif document.get("apiVersion", "").startswith(f"{fluid.GROUP}/") and document["kind"] not in fluid.KINDS:
            found.append(f"no kind {document['kind']}")
    for document in documents(text):
        if isinstance((document.get("metadata") or {}).get("name"), str):
            found += SERVER.create(document)[1]
    return found


@pytest.mark.parametrize("path", sorted(MANIFESTS.glob("*.yaml")), ids=lambda p: p.name)
def test_fluid_manifests_are_taken(path: Path) -> None:
    found = documents(path.read_text())
    assert found
    for document in found:
        stored, errors = SERVER.create(document)
        assert errors == []
        again, errors = SERVER.update(stored, stored)
        assert errors == []
        assert again == stored  # defaults are stable


@pytest.mark.parametrize("name", ACCEPTED, ids=str)
def test_accepted(name: str) -> None:
    assert refusals(ACCEPTED[name]) == []


@pytest.mark.parametrize("name", WARNINGS, ids=str)
def test_what_check_only_warns_of_is_taken(name: str) -> None:
    assert refusals(WARNINGS[name][0]) == []


@pytest.mark.parametrize("name", REFUSED, ids=str)
def test_refused(name: str) -> None:
    text, words = REFUSED[name]
    errors = refusals(text)
    assert any(words in e for e in errors), errors


@pytest.mark.parametrize("name", ERRORS, ids=str)
def test_what_check_calls_an_error_is_refused_or_named(name: str) -> None:
    later = {case for cases in LATER.values() for case in cases}
    assert bool(refusals(ERRORS[name][0])) != (name in later)


@pytest.mark.parametrize("name", CHANGES, ids=str)
def test_changes_that_are_refused(name: str) -> None:
    (before,), (after,) = documents(CHANGES[name][0]), documents(CHANGES[name][1])
    stored, errors = SERVER.create(before)
    assert errors == []
    assert SERVER.create(after)[1] == []  # the new object alone is fine
    assert any(CHANGES[name][2] in e for e in SERVER.update(after, stored)[1])
    assert SERVER.update(stored, stored)[1] == []


def test_every_rule_fires() -> None:
    """A rule that no bad object breaks may say anything."""
    said = [e for text, _ in REFUSED.values() for e in refusals(text)]
    said += [e for case in ERRORS.values() for e in refusals(case[0])]
    for before, after, _ in CHANGES.values():
        (old,), (new,) = documents(before), documents(after)
        said += SERVER.update(new, SERVER.create(old)[0])[1]
    silent = {rule.message for at in RULES for rule in at.rules if not any(rule.message in e for e in said)}
    assert silent == set()


def test_every_rule_has_its_place() -> None:
    """Each place of the table is in the schema of each of its kinds, with all its rules."""
    for at in RULES:
        for kind in at.kinds:
            (crd,) = [c for (_, k), c in SERVER.crds.items() if k == kind]
            node = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
            for part in at.path.split(".") if at.path else ():
                node = node["properties"][part.removesuffix("[]")]
                node = node["items"] if part.endswith("[]") else node
            assert {r.message for r in at.rules} <= {r["message"] for r in node["x-kubernetes-validations"]}


def test_messages_name_the_field_and_the_remedy() -> None:
    for at in RULES:
        for rule in at.rules:
            assert rule.message.count(";") == 1, rule.message
            subject = rule.message.split(" ")[0]
            known = rule.field.lstrip(".")
            assert not known or known in subject or known in rule.message, rule.message


# --- what is stored -------------------------------------------------------------------------------------------------


def stored(text: str) -> dict[str, Any]:
    (document,) = documents(text)
    found, errors = SERVER.create(document)
    assert errors == []
    return found


def test_defaults() -> None:
    found = stored(thing("DataMigrate", "from: {dataset: {name: a, namespace: n}}\nto: {externalStorage: {uri: s3://b/x}}"))
    assert (found["spec"]["policy"], found["spec"]["parallelism"]) == ("Once", 1)
    found = stored(thing("ThinRuntimeProfile", "fileSystemType: nfs\nfuse: {ports: [{containerPort: 1}]}"))
    assert found["spec"]["nodePublishSecretPolicy"] == "MountNodePublishSecretIfExists"
    assert found["spec"]["fuse"]["ports"][0]["protocol"] == "TCP"
    found = stored(
        thing("AlluxioRuntime", "tieredstore: {levels: [{mediumtype: MEM, quota: 1Gi}]}\nmanagement: {cleanCachePolicy: {}}")
    )
    assert found["spec"]["tieredstore"]["levels"][0]["volumeType"] == "hostPath"
    assert found["spec"]["management"]["cleanCachePolicy"] == {"gracePeriodSeconds": 60, "maxRetryAttempts": 3}
    found = stored(thing("DataProcess", "dataset: {name: d, mountPath: /d}\nprocessor: {script: {source: x}}"))
    assert found["spec"]["processor"]["script"]["restartPolicy"] == "Never"
    found = stored(thing("DatasetGrant", "dataset: d\nnamespaces: [n]", group="forebay.io"))
    assert found["spec"]["access"] == "ReadOnly"


def test_a_default_makes_no_parent() -> None:
    """As in Fluid, a CacheRuntime without `spec.worker` has no worker, one with an empty one has one."""
    assert stored(thing("CacheRuntime", "runtimeClassName: c"))["spec"] == {"runtimeClassName": "c"}
    found = stored(thing("CacheRuntime", "runtimeClassName: c\nworker: {}\nclient: {}"))["spec"]
    assert (found["worker"], found["client"]) == ({"replicas": 1}, {"cleanPolicy": "OnRuntimeDeleted"})


def test_a_status_is_dropped_on_create_and_nulls_are() -> None:
    found = stored(
        "apiVersion: data.fluid.io/v1alpha1\nkind: Dataset\nmetadata: {name: x}\nspec: {owner: null}\nstatus: {phase: Bound}\n"
    )
    assert "status" not in found
    assert found["spec"] == {}


def test_pods_and_volumes_keep_what_a_newer_kubernetes_brings() -> None:
    text = thing(
        "DataProcess",
        "dataset: {name: d, mountPath: /d}\nprocessor: {job: {podSpec: {containers: [{name: a, new: 1}], newer: {b: 2}}}}",
    )
    assert stored(text)["spec"]["processor"]["job"]["podSpec"] == {"containers": [{"name": "a", "new": 1}], "newer": {"b": 2}}


def test_typos_in_core_types_are_seen() -> None:
    assert any("effct" in e for e in refusals(thing("Dataset", "tolerations: [{effct: NoSchedule}]")))
    required = "{nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchLabels: {}}]}}}"
    assert any("matchLabels" in e for e in refusals(thing("DataLoad", f"dataset: {{name: d}}\naffinity: {required}")))


def test_bounds_are_above_what_is_written() -> None:
    """Bounds exist for the cost of rules; they must be far from real manifests."""
    many = [{"mountPoint": f"s3://bucket/{i}", "name": f"m{i}"} for i in range(512)]
    document = {"apiVersion": "data.fluid.io/v1alpha1", "kind": "Dataset", "metadata": {"name": "x"}, "spec": {"mounts": many}}
    schema = schema_of(SERVER.crds["data.fluid.io", "Dataset"])
    assert schema_errors(document, schema) == []  # 512 mounts take an interpreted evaluator seconds: without the rules
    assert schema_errors({**document, "spec": {"mounts": [*many, many[0]]}}, schema) != []
    assert refusals(thing("Dataset", f"mounts: [{{mountPoint: 's3://{'x' * 2000}'}}]")) == []
    assert (
        refusals(
            cache_level(f"hostPath: {{paths: [{', '.join(f'/{i}' for i in range(64))}], quotas: [{', '.join(['1'] * 64)}]}}")
        )
        == []
    )


def test_the_evaluator_evaluates() -> None:
    """The rules above run in a real evaluator: it must be able to say both."""
    assert evaluate("self.a > 1 && self.__namespace__ == 'x'", {"a": 2, "namespace": "x"})
    assert not evaluate("self.a > 1", {"a": 1})
    assert not evaluate("self == oldSelf", {"a": 1}, {"a": 2})
