"""What an administrator writes: taken, or refused with the field and what to write instead; and what is made of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from forebay.controller import copies, settings
from forebay.controller.admission import knowledge
from forebay.controller.install import files, rights, scheduler
from forebay.controller.install import parts as install
from forebay.controller.install.rights import CONTROLLER, WEBHOOK
from forebay.controller.kinds import RESOURCES
from forebay.runtimes.engine import Installation

ROOT = Path(__file__).resolve().parents[3]


def test_fields_are_camel_case_and_every_one_can_be_set() -> None:
    text = "image: r/f:1\ndefaultEngine: native\npullSecrets: [a, b]\nuid: null\ndataPort: 9000\nnetworkPolicy: true\n"
    made = settings.read(text, "f")
    assert (made.image, made.default_engine, made.pull_secrets, made.uid) == ("r/f:1", "native", ("a", "b"), None)
    assert settings.read(yaml.safe_dump(settings.shown(made)), "f") == made
    assert settings.read("", "f") == Installation()
    assert settings.shown(Installation()) == {}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("defaultEngin: x", ['"defaultEngin" is no setting', "defaultEngine"]),
        ("default_engine: x", ["no setting", "defaultEngine"]),
        ("dataPort: '7'", ["dataPort: Expected `int`"]),
        ("pullSecrets: a", ["pullSecrets: Expected"]),
        ("dataPort: 80", ["dataPort 80", "1024 to 65535"]),
        ("controlPort: 7401", ["controlPort 7401 is dataPort too"]),
        ("memoryLimit: 10Gb", ["memoryLimit", "10Gi"]),
        ("drainRate: 0", ["drainRate 0"]),
        ("freeSpaceFloor: a fifth", ["freeSpaceFloor", "such as 15%,20Gi"]),
        ("pullPolicy: Sometimes", ["Always, IfNotPresent or Never"]),
        ("image: ''", ["image is empty"]),
        ("[]", []),
        ("- a", ["holds no fields"]),
        ("{", ["is no YAML"]),
    ],
)
def test_what_is_wrong_is_named(text: str, words: list[str]) -> None:
    if not words:
        assert settings.read(text, "file.yaml") == Installation()
        return
    with pytest.raises(settings.SettingsError) as caught:
        settings.read(text, "file.yaml")
    for word in ("file.yaml: ", *words):
        assert word in str(caught.value)


# --- deploy/install -------------------------------------------------------------------------------------------------


def test_the_files_are_what_would_be_written() -> None:
    assert files.stale(ROOT / "deploy", install.Install()) == [], "run python -P -m forebay.controller.install.files deploy"


def objects(made: install.Install) -> list[dict[str, Any]]:
    return [o for part in install.parts(made).values() for o in part]


def test_settings_reach_the_controller_and_start_it_again() -> None:
    def of(made: Installation) -> tuple[str, list[Any]]:
        found = {(o["kind"], o["metadata"]["name"]): o for o in objects(install.Install(installation=made))}
        marks = [found["Deployment", name]["spec"]["template"]["metadata"]["annotations"] for name in (CONTROLLER, WEBHOOK)]
        return found["ConfigMap", CONTROLLER]["data"]["settings.yaml"], marks

    plain, native = of(Installation()), of(Installation(default_engine="native"))
    assert settings.read(native[0], "f") == Installation(default_engine="native")
    assert all(before != after for before, after in zip(plain[1], native[1], strict=True))


def test_one_image_everywhere_and_secrets_to_pull_it() -> None:
    made = install.Install(installation=Installation(image="r/f:1", pull_policy="Never", pull_secrets=("s",), namespace="x"))
    for obj in objects(made):
        if obj["kind"] in ("Deployment", "DaemonSet"):
            pod = obj["spec"]["template"]["spec"]
            assert [(c["image"], c["imagePullPolicy"]) for c in pod["containers"]] == [("r/f:1", "Never")]
            assert pod["imagePullSecrets"] == [{"name": "s"}]
        if "namespace" in obj["metadata"]:
            assert obj["metadata"]["namespace"] == "x"
    assert {s["namespace"] for o in objects(made) for s in o.get("subjects", ())} == {"x"}
    assert "r/f:1" in str(next(o for o in objects(made) if o["kind"] == "CacheRuntimeClass"))


def test_folders_of_the_node_keep_their_paths() -> None:
    made = install.Install(kubelet="/k", tier_roots=("/nvme",), host_roots=("/data",))
    node, mounts = (o["spec"]["template"]["spec"] for o in objects(made) if o["kind"] == "DaemonSet")

    def seen(pod: dict[str, Any]) -> dict[str, str]:
        paths = {v["name"]: v["hostPath"]["path"] for v in pod["volumes"]}
        mounted = pod["containers"][0]["volumeMounts"]
        assert all(paths[m["name"]] == m["mountPath"] for m in mounted)
        return {m["mountPath"]: m.get("mountPropagation", "") for m in mounted}

    below = dict.fromkeys(("/var/cache/forebay", "/nvme", "/data"), "HostToContainer")
    assert seen(node) == {"/k": "Bidirectional", **below}
    assert seen(mounts) == {"/k": "Bidirectional", "/var/cache/forebay": ""}
    assert {"--tier-root=/nvme", "--host-path-root=/data", "--kubelet=/k"} <= set(node["containers"][0]["args"])
    assert mounts["automountServiceAccountToken"] is False


def test_nobody_is_given_more_than_it_works_with() -> None:
    for rules in (
        rights.controller(),
        rights.controller_lease(),
        rights.node(),
        rights.webhook(),
        rights.uninstaller(),
        rights.uninstaller_here(),
        scheduler.rules(),
        scheduler.lease_rules(),
        scheduler.gate_rules(),
    ):
        for rule in rules:
            assert "*" not in rule["verbs"] + rule["resources"] + rule["apiGroups"]
            assert not {"deletecollection", "escalate", "bind", "impersonate"} & set(rule["verbs"])
            assert not {"pods/exec", "pods/attach", "nodes/proxy", "serviceaccounts/token"} & set(rule["resources"])
            if "secrets" in rule["resources"]:
                assert (rule["resources"], rule["verbs"]) == (["secrets"], ["create"])
    (own,) = rights.webhook_secret()
    assert (own["verbs"], own["resourceNames"]) == (["get", "patch"], [rights.CERTIFICATES])


@pytest.mark.parametrize(
    ("rules", "copied"),
    [(rights.controller(), copies.COPIED), (rights.uninstaller(), copies.COPIED), (rights.webhook(), knowledge.COPIED)],
    ids=["controller", "uninstaller", "webhook"],
)
def test_each_lists_and_watches_what_it_keeps_copies_of_and_nothing_else(rules: list[Any], copied: Any) -> None:
    listed = {
        (group, name) for rule in rules if "list" in rule["verbs"] for group in rule["apiGroups"] for name in rule["resources"]
    }
    assert listed == {(RESOURCES[kind].group, RESOURCES[kind].plural) for kind in copied}
    assert all("watch" in rule["verbs"] for rule in rules if "list" in rule["verbs"])


def test_the_command_writes_checks_and_prints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert files.main([str(tmp_path), "--check"]) == 1
    assert files.main([str(tmp_path), "--image", "r/f:1", "--set", "defaultEngine=native", "--set", "dataPort=9000"]) == 0
    assert files.main([str(tmp_path), "--check"]) == 1
    stray = tmp_path / "install" / "99-old.yaml"
    stray.write_text("x")
    assert files.main([str(tmp_path)]) == 0
    assert not stray.exists()
    assert files.main([str(tmp_path), "--check"]) == 0
    capsys.readouterr()
    assert files.main(["-", "--set", "defaultEngine=native"]) == 0
    printed = list(yaml.safe_load_all(capsys.readouterr().out))
    assert {o["kind"] for o in printed} >= {
        "Namespace",
        "ClusterRole",
        "Deployment",
        "DaemonSet",
        "CSIDriver",
        "CacheRuntimeClass",
    }
    assert files.main(["-", "--set", "defaultEngine"]) == 2
    assert files.main(["-", "--set", "nothing=1"]) == 2
    assert "is no value" in capsys.readouterr().err


def test_every_field_of_an_installation_has_a_word_in_the_documentation() -> None:
    text = (ROOT / "docs" / "controllers.md").read_text()
    for field in msgspec.structs.fields(Installation):
        first, *rest = field.name.split("_")
        assert f"`{first + ''.join(part.capitalize() for part in rest)}`" in text, field.name
