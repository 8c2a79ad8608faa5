"""The files of deploy/crds and deploy/classes: written from the tables, equal each time, and such as an API server takes."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from crd_admission import FOLDER, Admission, read_crds, schema_of
from crd_structural import problems

import forebay
from forebay.api.crd import files as crd
from forebay.api.crd.kinds import KINDS
from forebay.api.manifests.manifest import load

CRDS = read_crds()
DEPLOY = FOLDER.parent
APPLY_LIMIT = 256 << 10
"""`kubectl apply` keeps the object in an annotation; all annotations together may have 256 KiB."""


def test_files_are_what_the_tables_say() -> None:
    assert crd.stale(DEPLOY) == []
    assert {p.name for p in FOLDER.iterdir()} == {kind.file for kind in KINDS}


def test_writing_is_deterministic_and_repairs_the_folder(tmp_path: Path) -> None:
    assert crd.main([str(tmp_path)]) == 0
    assert crd.stale(tmp_path) == []
    changed = tmp_path / "crds" / "data.fluid.io_datasets.yaml"
    changed.write_text(changed.read_text().replace("maxItems: 512", "maxItems: 513"))
    (tmp_path / "crds" / "data.fluid.io_dataloads.yaml").unlink()
    (tmp_path / "crds" / "data.fluid.io_goosefsruntimes.yaml").write_text(crd.HEADER)
    (tmp_path / "crds" / "notes.yaml").write_text("a: b\n")
    wrong = [f"crds/data.fluid.io_{plural}.yaml" for plural in ("dataloads", "datasets", "goosefsruntimes")]
    assert crd.stale(tmp_path) == wrong
    assert crd.main([str(tmp_path), "--check"]) == 1
    assert crd.stale(tmp_path) == wrong  # a check writes nothing
    assert crd.main([str(tmp_path)]) == 0
    assert crd.main([str(tmp_path), "--check"]) == 0
    assert (tmp_path / "crds" / "notes.yaml").exists()  # not ours


def test_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert crd.main([]) == 2
    assert crd.main(["a", "--force"]) == 2
    assert "usage" in capsys.readouterr().err


def test_another_process_writes_the_same_bytes(tmp_path: Path) -> None:
    """Hash seeds and import order must not show."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "forebay.api.crd.files", str(tmp_path)],
        check=True,
        timeout=60,
        env={"PYTHONHASHSEED": "7"},
    )
    assert done.returncode == 0
    assert {str(p.relative_to(tmp_path)): p.read_text() for p in tmp_path.glob("*/*")} == dict(crd.files())


@pytest.mark.parametrize("key", CRDS, ids=lambda key: key[1])
def test_an_api_server_takes_it(key: tuple[str, str]) -> None:
    assert problems(CRDS[key]) == []


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.kind)
def test_client_side_apply_takes_it(kind: Any) -> None:
    text = (FOLDER / kind.file).read_text()
    assert len(yaml.safe_load(text)["spec"]["versions"]) == 1
    assert len(text) < APPLY_LIMIT / 2


def test_names_are_unique() -> None:
    words = [
        w
        for c in CRDS.values()
        for w in {c["spec"]["names"]["plural"], c["spec"]["names"]["singular"], *c["spec"]["names"].get("shortNames", ())}
    ]
    assert len(words) == len(set(words))


# --- the validator itself -------------------------------------------------------------------------------------------


def _dataset() -> tuple[dict[str, Any], dict[str, Any]]:
    found = copy.deepcopy(CRDS["data.fluid.io", "Dataset"])
    return found, schema_of(found)["properties"]["spec"]["properties"]


def _rule(rule: str, message: str = "x is wrong; do y", **more: str) -> dict[str, str]:
    return {"rule": rule, "message": message, **more}


BROKEN: dict[str, tuple[Any, str]] = {
    "no type": (lambda s: s["mounts"].pop("type"), "has no type"),
    "reference": (lambda s: s["owner"].update({"$ref": "#/x"}), "$ref is not allowed"),
    "no items": (lambda s: s["accessModes"].pop("items"), "has no items"),
    "both kinds of object": (lambda s: s["owner"].update(additionalProperties={"type": "string"}), "and additionalProperties"),
    "closed object": (lambda s: s["sharedOptions"].update(additionalProperties=False), "is no schema"),
    "typed int-or-string": (
        lambda s: s["owner"]["properties"]["uid"].update({"x-kubernetes-int-or-string": True}),
        "int-or-string has a type",
    ),
    "combination": (lambda s: s["placement"].update(anyOf=[{"enum": ["a"]}]), "combines schemas"),
    "required stranger": (lambda s: s["owner"].update(required=["shoe"]), "requires shoe"),
    "bad default": (lambda s: s["placement"].update(default="Together"), "against its own schema"),
    "key that is none": (
        lambda s: s["mounts"].update({"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]}),
        "neither required nor defaulted",
    ),
    "rule on a stranger": (lambda s: s["owner"]["x-kubernetes-validations"].append(_rule("self.shoe > 1")), "is not declared"),
    "rule that is none": (lambda s: s["owner"]["x-kubernetes-validations"].append(_rule("self.uid >")), "self.uid >"),
    "field that is none": (
        lambda s: s["owner"]["x-kubernetes-validations"].append(_rule("true", fieldPath=".shoe")),
        "fieldPath .shoe",
    ),
    "message without a remedy": (
        lambda s: s["owner"]["x-kubernetes-validations"].append(_rule("true", "is bad")),
        "with a remedy",
    ),
    "string without an end": (
        lambda s: s["owner"]["x-kubernetes-validations"].append(_rule(f"self.user.matches('{'a' * 200}')")),
        "costs about",
    ),
    "list without an end": (lambda s: s["mounts"].pop("maxItems"), "has no bound"),
    "list too long": (lambda s: s["mounts"].update(maxItems=100_000), "costs about"),
    "old self in a list": (
        lambda s: s["mounts"]["items"]["x-kubernetes-validations"].append(_rule("self == oldSelf")),
        "oldSelf below a list",
    ),
}


@pytest.mark.parametrize("name", BROKEN, ids=str)
def test_the_validator_sees(name: str) -> None:
    found, spec = _dataset()
    change, words = BROKEN[name]
    change(spec)
    assert any(words in p for p in problems(found)), problems(found)


def test_the_validator_sees_columns_names_and_sub_resources() -> None:
    for change, words in (
        (lambda c: c["metadata"].update(name="dataset.data.fluid.io"), "plural.group"),
        (lambda c: c["spec"]["names"].update(shortNames=["Data"]), "DNS-1035"),
        (lambda c: c["spec"]["versions"][0]["additionalPrinterColumns"][0].update(jsonPath=".status.x.y"), "not declared"),
        (lambda c: c["spec"]["versions"][0]["additionalPrinterColumns"][0].update(type="integer"), "of type integer"),
        (lambda c: c["spec"]["versions"][0]["additionalPrinterColumns"][0].update(type="date"), "date of what is none"),
        (lambda c: c["spec"]["versions"][0]["subresources"].pop("status"), "sub-resource and field"),
        (
            lambda c: c["spec"]["versions"][0]["subresources"].update(
                scale={"specReplicasPath": ".spec.x", "statusReplicasPath": ".status.y", "labelSelectorPath": ".spec.z"}
            ),
            "scale",
        ),
    ):
        found, _ = _dataset()
        change(found)
        assert any(words in p for p in problems(found)), words


# --- the class of our own engine ------------------------------------------------------------------------------------


def test_the_class_of_our_engine_is_sound() -> None:
    """It passes admission and `forebay check`, and its workers the restricted profile of Pod Security."""
    path = DEPLOY / "classes" / "forebay.yaml"
    stored, errors = Admission().create(yaml.safe_load(path.read_text()))
    assert errors == []
    assert load([str(path)]).errors == []
    assert stored["metadata"]["name"] == "forebay"
    (container,) = stored["topology"]["worker"]["template"]["spec"]["containers"]
    context = container["securityContext"]
    assert not context["allowPrivilegeEscalation"]
    assert context["runAsNonRoot"]
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["image"] == f"forebay:{forebay.__version__}"
