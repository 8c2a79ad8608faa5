"""The Helm chart: what Helm makes of it is what the plain manifests have, whatever the values; a real server takes all of it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from controllerlab import INSTALLED, Cluster, key_of
from controlplane import programs

from forebay.controller import settings
from forebay.controller.install import chart, removal, values
from forebay.controller.install import parts as install

pytestmark = pytest.mark.timeout(400)
CHART = Path(__file__).parents[2] / "deploy" / "chart"
Object = dict[str, Any]

CHOICES: dict[str, Object] = {
    "defaults": {},
    "texts": {
        "image": 'r:5/f:1"x',
        "pullPolicy": "Always",
        "priorityClass": "a: b",
        "memoryLimit": "2Gi",
        "defaultEngine": "native",
    },
    "numbers": {
        "drainRate": 2_500_000_000,
        "freeSpaceFloor": "12.5%,100Gi",
        "uid": None,
        "dataPort": 9000,
        "networkPolicy": True,
        "fluidNodeLabels": True,
        "controller": {"replicas": 0},
        "webhook": False,
    },
    "scheduler": {"scheduler": True, "gates": True, "pullSecrets": ["one"]},
    "lists": {
        "pullSecrets": ["one", "two"],
        "node": {
            "tierRoots": ["/mnt/a", "/mnt/b"],
            "hostPathRoots": ["/srv/data"],
            "cacheDir": "/mnt/cache",
            "cacheQuota": "2Ti",
        },
    },
    "places": {
        "kubeletDir": "/opt/kubelet",
        "driver": "other.forebay.io",
        "node": {"nodeSelector": {"pool": "gpu"}, "tolerations": [], "resources": {"requests": None, "limits": {"cpu": "2"}}},
        "controller": {"tolerations": [{"key": "system", "operator": "Exists"}], "nodeSelector": {"a/b": "true"}},
    },
}
"""Of every value something that is not the default, in one of them."""


def helm(*arguments: str, folder: Path) -> str:
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder)}  # its own cache and configuration
    command = [programs(("helm",))["helm"], *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def rendered(chosen: Object, folder: Path, namespace: str = "forebay-system") -> list[Object]:
    file = folder / "values.yaml"
    file.write_text(yaml.safe_dump(chosen))
    said = helm("template", "forebay", str(CHART), "--namespace", namespace, "--values", str(file), "--no-hooks", folder=folder)
    return [obj for obj in yaml.safe_load_all(said) if obj]


def plain(made: install.Install) -> list[Object]:
    return [obj for name, objects in install.parts(made).items() if name not in chart.ABSENT for obj in objects]


def alike(objects: list[Object]) -> dict[tuple[str, str], Object]:
    """By kind and name; without what says nothing, and with the controller's file read: two ways to write the same."""
    found = {}
    for obj in objects:
        if obj["kind"] == "ConfigMap" and "settings.yaml" in obj["data"]:
            obj = {**obj, "data": settings.read(obj["data"]["settings.yaml"], "settings.yaml")}
        if obj["kind"] == "Deployment":
            assert len(obj["spec"]["template"]["metadata"].get("annotations", {}).pop("forebay.io/settings", "-" * 64)) == 64
        found[obj["kind"], obj["metadata"]["name"]] = _said(obj)
    assert len(found) == len(objects)
    return found


def _said(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: inner for k, v in value.items() if (inner := _said(v)) not in (None, {}, [])}
    return [_said(v) for v in value] if isinstance(value, (list, tuple)) else value


@pytest.mark.parametrize("name", CHOICES)
def test_helm_makes_what_the_plain_manifests_have(name: str, tmp_path: Path) -> None:
    space = "elsewhere" if name == "places" else "forebay-system"
    made = values.read(yaml.safe_dump(CHOICES[name]), name, space)
    assert alike(rendered(CHOICES[name], tmp_path, space)) == alike(plain(made))


def test_every_value_is_tried() -> None:
    tried: set[str] = set()
    for chosen in CHOICES.values():
        for value, inner in chosen.items():
            tried |= {f"{value}.{key}" for key in inner} if isinstance(inner, dict) else {value}
    known = {
        name for name in values.settings_names() if name not in ("storageClass", "cpuRequest", "memoryRequest", "controlPort")
    }
    for name, inner in values.parts_values().items():
        known |= {f"{name}.{key}" for key in inner} if isinstance(inner, dict) else {name}
    assert known - tried <= {"controller.resources"}


def test_other_settings_start_the_controller_again(tmp_path: Path) -> None:
    def digest(chosen: Object) -> str:
        (found,) = (
            o for o in rendered(chosen, tmp_path) if o["kind"] == "Deployment" and o["metadata"]["name"] == "forebay-controller"
        )
        return str(found["spec"]["template"]["metadata"]["annotations"]["forebay.io/settings"])

    assert digest({}) == digest({"kubeletDir": "/k"})
    assert digest({}) != digest({"defaultEngine": "native"})


def test_lint_finds_nothing_and_a_wrong_value_is_named(tmp_path: Path) -> None:
    assert "1 chart(s) linted, 0 chart(s) failed" in helm("lint", "--strict", str(CHART), folder=tmp_path)
    for wrong, words in (
        ("imag=x", "'imag' not allowed"),
        ("kubeletDir=k", "/kubeletDir"),
        ("dataPort=80", "/dataPort"),
        ("node.tierRoots={a}", "/node/tierRoots/0"),
    ):
        command = [programs(("helm",))["helm"], "template", str(CHART), "--set", wrong]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env={"HOME": str(tmp_path)})
        assert done.returncode
        assert words in done.stderr, done.stderr


@pytest.mark.parametrize("name", CHOICES)
def test_its_hooks_are_what_uninstalls_the_plain_manifests(name: str, tmp_path: Path) -> None:
    made = values.read(yaml.safe_dump(CHOICES[name]), name)
    file = tmp_path / "values.yaml"
    file.write_text(yaml.safe_dump(CHOICES[name]))
    everything = helm("template", "forebay", str(CHART), "--namespace", "forebay-system", "--values", str(file), folder=tmp_path)
    found = [obj for obj in yaml.safe_load_all(everything) if obj and "helm.sh/hook" in obj["metadata"].get("annotations", {})]
    for obj in found:
        assert obj["metadata"].pop("annotations")["helm.sh/hook"] == "pre-delete"
    assert alike(found) == alike(removal.wanted(made))


@pytest.mark.parametrize("name", CHOICES)
def test_the_server_takes_every_object_of_the_chart(name: str, cluster: Cluster, tmp_path: Path) -> None:
    """Strictly: an unknown field is an error. Placeholders and loops leave nothing that only looks right."""
    chosen = CHOICES[name] if name != "texts" else {**CHOICES[name], "image": "r:5/f:1"}
    for obj in rendered(chosen, tmp_path):
        cluster.client.apply(INSTALLED[obj["kind"]], key_of(obj), obj, dry_run=True)


def test_the_packed_chart_has_the_crds(tmp_path: Path) -> None:
    """They are a link in the repository."""
    helm("package", str(CHART), "--destination", str(tmp_path), folder=tmp_path)
    (packed,) = tmp_path.glob("forebay-*.tgz")
    crds = [o for o in yaml.safe_load_all(helm("show", "crds", str(packed), folder=tmp_path)) if o]
    assert len(crds) == len(list((CHART.parent / "crds").glob("*.yaml"))) > 14
