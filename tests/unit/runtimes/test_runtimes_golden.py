"""Every object and every status for a set of manifests, word for word; and that the same input gives the same bytes."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
import runtime_worlds as worlds
import yaml
from crd_admission import read_crds, schema_errors, schema_of

from forebay.api.fluid.names import TYPES

STORIES = dict(worlds.golden())
CRDS = {kind: crd for (_, kind), crd in read_crds().items()}
MANIFESTS = [path for folder in worlds.FOLDERS for path in sorted(folder.glob("*.yaml"))]


def test_golden_files_are_those_of_the_manifests() -> None:
    assert {p.name for p in worlds.GOLDEN.glob("*.yaml")} == {p.name for p in STORIES}
    assert len(STORIES) >= 14


@pytest.mark.parametrize("path", STORIES, ids=lambda p: p.stem)
def test_plan_and_status_are_as_written(path: Any) -> None:
    text = "run tests/unit/runtimes/runtime_worlds.py and read what it changes"
    assert STORIES[path] == path.read_text(), text


def _shuffled(value: Any, rng: random.Random) -> Any:
    """Equal, with the keys of every mapping in another order."""
    if isinstance(value, dict):
        keys = list(value)
        rng.shuffle(keys)
        return {k: _shuffled(value[k], rng) for k in keys}
    return [_shuffled(v, rng) for v in value] if isinstance(value, list) else value


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda p: p.stem)
def test_the_order_of_keys_and_of_objects_changes_nothing(path: Any) -> None:
    objects = worlds.documents(path.read_text())
    rng = random.Random(14)
    other = [_shuffled(o, rng) for o in objects]
    rng.shuffle(other)
    again = {s.key: s for s in worlds.subjects(other)}
    for subject in worlds.subjects(objects):
        first, second = worlds.plan(subject), worlds.plan(again[subject.key])
        ours, theirs = (json.dumps([p.create, p.apply], sort_keys=True) for p in (first, second))
        assert ours == theirs
        assert sorted(f.message for f in first.findings) == sorted(f.message for f in second.findings)


@pytest.mark.parametrize("path", STORIES, ids=lambda p: p.stem)
def test_what_is_planned_for_pods_holds_no_credential(path: Any) -> None:
    """Values of Secrets are unknown here; those that a manifest holds in plain text stand in a Secret, and nowhere else."""
    parts = STORIES[path].split("---\n")
    for part in parts:
        if "\nkind: Secret\n" not in part and "kind: Secret\n" not in part[:40]:
            for word in ("AKPLAIN", "plainsecret", worlds.SECRET):
                assert word not in part


@pytest.mark.parametrize("path", STORIES, ids=lambda p: p.stem)
def test_statuses_fit_the_definitions(path: Any) -> None:
    """What is written to /status passes the schemas that the API server has."""
    checked = 0
    for part in STORIES[path].split("---\n"):
        if not part.startswith("# status"):
            continue
        told = yaml.safe_load(part)
        assert schema_errors(told["dataset"], schema_of(CRDS["Dataset"])["properties"]["status"]) == []
        if "runtime" in told:
            kind = "CacheRuntime" if "worker" in told["runtime"] else "AlluxioRuntime"  # the six classic kinds have one status
            assert schema_errors(told["runtime"], schema_of(CRDS[kind])["properties"]["status"]) == []
        checked += 1
    assert checked
    assert set(TYPES) <= set(CRDS)


@pytest.mark.parametrize("path", STORIES, ids=lambda p: p.stem)
def test_worker_pods_are_of_the_restricted_profile(path: Any) -> None:
    """By the table of the Pod Security Standards (restricted, v1.36)."""
    for part in STORIES[path].split("---\n"):
        obj = yaml.safe_load(part)
        if not isinstance(obj, dict) or obj.get("kind") != "StatefulSet":
            continue
        pod = obj["spec"]["template"]["spec"]
        allowed = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
        assert all(set(v) - {"name"} <= allowed for v in pod["volumes"])
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        names = {v["name"] for v in pod["volumes"]}
        for container in pod["containers"]:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert context["runAsNonRoot"] is True
            assert context["readOnlyRootFilesystem"] is True
            assert all("hostPort" not in port for port in container["ports"])
            assert {m["name"] for m in container["volumeMounts"]} == names
            assert all("secret" not in json.dumps(e).lower() for e in container["env"])
