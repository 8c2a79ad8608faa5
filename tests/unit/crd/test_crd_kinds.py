"""Names, columns and sub-resources as Fluid's users know them, and every field of the tables in the schemas."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from crd_admission import read_crds, schema_of

from forebay.api.crd import text as crd_text
from forebay.api.crd.kinds import FLUID, KINDS
from forebay.api.crd.rules import RULES
from forebay.api.fluid import kinds as fluid
from forebay.api.schema import Any as Core
from forebay.api.schema import Field, List, MapOf, Obj, Type

DOCS = Path(__file__).resolve().parents[3] / "docs" / "crds.md"
CRDS = {kind: crd for (_, kind), crd in read_crds().items()}

# (plural, short, cluster-scoped, in the category), fluid chart 1.1.0
NAMES = {
    "Dataset": ("datasets", "dataset", False, True),
    "AlluxioRuntime": ("alluxioruntimes", "alluxio", False, True),
    "JindoRuntime": ("jindoruntimes", "jindo", False, True),
    "JuiceFSRuntime": ("juicefsruntimes", "juicefs", False, True),
    "EFCRuntime": ("efcruntimes", "efc", False, True),
    "VineyardRuntime": ("vineyardruntimes", "v6d", False, True),
    "ThinRuntime": ("thinruntimes", "", False, False),
    "ThinRuntimeProfile": ("thinruntimeprofiles", "", True, False),
    "CacheRuntime": ("cacheruntimes", "", False, True),
    "CacheRuntimeClass": ("cacheruntimeclasses", "", True, True),
    "DataLoad": ("dataloads", "load", False, True),
    "DataMigrate": ("datamigrates", "migrate", False, True),
    "DataBackup": ("databackups", "backup", False, True),
    "DataProcess": ("dataprocesses", "", False, False),
}
# what `kubectl get` shows, * = with -o wide only; M, W, F: the three columns of masters, workers, mounts
COLUMNS = {
    "Dataset": "Ufs Total Size,Cached,Cache Capacity,Cached Percentage,Phase,HCFS URL*,TOTAL FILES*,CACHE HIT RATIO*,Age",
    "AlluxioRuntime": "M,W,F,API Gateway*,Age",
    "JindoRuntime": "M,W,F,Age",
    "JuiceFSRuntime": "W,F,Age",
    "EFCRuntime": "M,W,F,Age",
    "VineyardRuntime": "M,W,F,API Gateway*,Age",
    "ThinRuntime": "",
    "ThinRuntimeProfile": "",
    "CacheRuntime": "Age,Status",
    "CacheRuntimeClass": "",
    "DataLoad": "Dataset,Phase,Age,Duration",
    "DataMigrate": "Phase,Age,Duration",
    "DataBackup": "Dataset,Phase,Path,NodeName,Duration,Age",
    "DataProcess": "Dataset,Phase,Age,Duration",
}


def expanded(columns: str) -> list[str]:
    parts = {"M": "Master", "W": "Worker", "F": "Fuse"}
    found: list[str] = []
    for column in columns.split(",") if columns else []:
        name = parts.get(column)
        found += [f"Ready {name}s*", f"Desired {name}s*", f"{name} Phase"] if name else [column]
    return found


@pytest.mark.parametrize("kind", NAMES)
def test_names_of_fluid(kind: str) -> None:
    plural, short, cluster, category = NAMES[kind]
    spec = CRDS[kind]["spec"]
    assert spec["group"] == "data.fluid.io"
    assert spec["names"]["plural"] == plural
    assert spec["names"].get("shortNames", []) == ([short] if short else [])
    assert spec["names"].get("categories", []) == (["fluid"] if category else [])
    assert spec["scope"] == ("Cluster" if cluster else "Namespaced")
    assert [v["name"] for v in spec["versions"]] == ["v1alpha1"]


@pytest.mark.parametrize("kind", COLUMNS)
def test_columns_of_fluid(kind: str) -> None:
    found = CRDS[kind]["spec"]["versions"][0].get("additionalPrinterColumns", [])
    assert [c["name"] + "*" * (c.get("priority", 0) > 0) for c in found] == expanded(COLUMNS[kind])


def test_every_runtime_scales_and_can_be_scaled_automatically() -> None:
    scaled = {k for k, c in CRDS.items() if "scale" in c["spec"]["versions"][0].get("subresources", {})}
    assert scaled == set(fluid.RUNTIMES)
    for kind in scaled:
        scale = CRDS[kind]["spec"]["versions"][0]["subresources"]["scale"]
        where = ".spec.worker.replicas" if kind == "CacheRuntime" else ".spec.replicas"
        assert (scale["specReplicasPath"], scale["labelSelectorPath"]) == (where, ".status.selector")
        node = schema_of(CRDS[kind])["properties"]["spec"]["properties"]
        replicas = node["worker"]["properties"]["replicas"] if kind == "CacheRuntime" else node["replicas"]
        assert replicas["minimum"] == 0  # to nothing, too


def test_status_is_a_sub_resource_of_all_but_the_class() -> None:
    without = [k for k, c in CRDS.items() if "status" not in c["spec"]["versions"][0].get("subresources", {})]
    assert without == ["CacheRuntimeClass"]


def test_required_parts_of_a_status() -> None:
    """Fluid's: what every server-side apply of a status must carry."""
    required = {k: schema_of(CRDS[k])["properties"]["status"].get("required", []) for k in NAMES if k != "CacheRuntimeClass"}
    assert required["Dataset"] == ["conditions"]
    assert sorted(required["DataLoad"]) == ["conditions", "duration", "phase"]
    assert required["CacheRuntime"] == []
    assert [len(required[k]) for k in fluid.RUNTIMES if k != "CacheRuntime"] == [13] * 6


def test_a_spec_is_required_where_nothing_works_without_one() -> None:
    needed = {k for k, c in CRDS.items() if "spec" in schema_of(c).get("required", [])}
    assert needed == {
        "CacheRuntime",
        "ThinRuntimeProfile",
        "DataLoad",
        "DataMigrate",
        "DataBackup",
        "DataProcess",
        "DatasetGrant",
    }


# --- fields ---------------------------------------------------------------------------------------------------------


def leaves(type_: Type, path: str) -> Iterator[tuple[str, Field]]:
    if isinstance(type_, Obj):
        for name, field in type_.fields.items():
            yield f"{path}.{name}".lstrip("."), field
            yield from leaves(field.type, f"{path}.{name}".lstrip("."))
    elif isinstance(type_, List):
        yield from leaves(type_.of, f"{path}[]")
    elif isinstance(type_, MapOf):
        yield from leaves(type_.of, f"{path}{{}}")
    elif isinstance(type_, Core) and type_.shape is not None:
        yield from leaves(type_.shape, path)


def node_at(schema: dict[str, Any], path: str) -> dict[str, Any]:
    node = schema
    for part in path.split("."):
        node = node["properties"][part.rstrip("[]{}")]
        node = node["items"] if part.endswith("[]") else node["additionalProperties"] if part.endswith("{}") else node
    return node


@pytest.mark.parametrize("kind", fluid.KINDS)
def test_every_field_of_the_tables_is_in_the_schema(kind: str) -> None:
    schema = schema_of(CRDS[kind])
    top = Obj({"spec": Field(fluid.SPECS[kind])}) if kind in fluid.SPECS else fluid.CACHE_RUNTIME_CLASS
    found = dict(leaves(top, ""))
    assert len(found) > 10
    for path, field in found.items():
        node = node_at(schema, path)
        assert node.get("default") == field.default, path
        parent, _, name = path.rpartition(".")
        required = (node_at(schema, parent) if parent else schema).get("required", [])
        assert (name in required) == field.required or path == "spec", path


def walk(node: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, node
    for name, child in node.get("properties", {}).items():
        yield from walk(child, f"{path}.{name}".lstrip("."))
    for key, mark in (("items", "[]"), ("additionalProperties", "{}")):
        if key in node:
            yield from walk(node[key], path + mark)


OPEN = {
    "volumes[]": "a volume of any kind",
    "volumeSource": "a volume of any kind",
    "volumeClaimTemplates[]": "a claim",
    "podSpec": "a pod",
    "template": "a pod template",
    "headless": "nothing reads it",
}


@pytest.mark.parametrize("kind", CRDS)
def test_unknown_fields_survive_in_pods_and_volumes_only(kind: str) -> None:
    for path, node in walk(schema_of(CRDS[kind]), ""):
        if node.get("x-kubernetes-preserve-unknown-fields"):
            assert any(part in OPEN for part in path.split(".")), path


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.kind)
def test_every_field_is_described(kind: Any) -> None:
    """Ours in our words; what lies inside core types is Kubernetes' own."""
    top = Obj(
        {
            **kind.top.fields,
            **({"spec": Field(kind.spec)} if kind.spec else {}),
            **({"status": Field(kind.status)} if kind.status else {}),
        }
    )

    def ours(type_: Type, path: str) -> Iterator[str]:
        if isinstance(type_, Obj):
            for name, field in type_.fields.items():
                yield f"{path}.{name}".lstrip(".")
                yield from ours(field.type, f"{path}.{name}".lstrip("."))
        elif isinstance(type_, List):
            yield from ours(type_.of, f"{path}[]")

    schema = schema_of(CRDS[kind.kind])
    bare = [p for p in ours(top, "") if not node_at(schema, p).get("description") and not p.startswith("status.mounts")]
    assert bare == []
    assert schema["description"].startswith(kind.kind)


def test_texts_are_sentences_and_used() -> None:
    used: set[str] = set()

    class Watched(dict[str, str]):
        def get(self, key: str, default: Any = None) -> Any:
            if key in self:
                used.add(key)
            return super().get(key, default)

    known, crd_text.FIELDS = crd_text.FIELDS, Watched(crd_text.FIELDS)
    try:
        for kind in FLUID:
            for path, _ in leaves(Obj({"spec": Field(kind.spec)}) if kind.spec else kind.top, ""):
                try:
                    crd_text.text(kind.kind, path, runtime=kind.kind in fluid.RUNTIMES)
                except KeyError:
                    continue  # inside a core type
    finally:
        crd_text.FIELDS = known
    assert set(known) - used == {"status"}
    for text in known.values():
        assert text[0].isupper() or text.startswith(("pvc://", "local://")) or text[0].isdigit(), text
        assert text.endswith("."), text


def test_a_field_without_text_is_named() -> None:
    with pytest.raises(KeyError, match="shoe has no text"):
        crd_text.text("Dataset", "spec.shoe")


# --- documentation --------------------------------------------------------------------------------------------------


def section(heading: str) -> str:
    return DOCS.read_text().split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]


def test_docs_name_every_kind_with_its_short_name_and_scale() -> None:
    rows = {
        r[0]: r for r in ([c.strip() for c in line.split("|")[1:-1]] for line in section("Kinds").splitlines()) if len(r) == 6
    }
    for kind in KINDS:
        _, short, scope, in_fluid, in_forebay, scale = rows[kind.kind]
        assert short.strip("`") == "".join(kind.short)
        assert scope == {"Namespaced": "namespace", "Cluster": "cluster"}[kind.scope]
        assert (in_fluid, in_forebay) == ("yes" * ("fluid" in kind.categories), "yes" * ("forebay" in kind.categories))
        assert scale.strip("`") == (kind.scale.wanted.lstrip(".") if kind.scale else "")


def test_docs_name_every_default() -> None:
    rows = [line for line in section("Defaults").splitlines() if line.startswith("|")]
    for kind, crd in CRDS.items():
        for path, node in walk(schema_of(crd), ""):
            if "default" in node:
                name = path.rpartition(".")[2]
                value = node["default"]
                found = [row for row in rows if f"{name}`" in row and (f"`{value}`" in row or f"| {value} |" in row)]
                assert found, (kind, path)


def test_docs_name_what_cannot_be_changed() -> None:
    said = section("What is refused")
    for at in RULES:
        for rule in at.rules:
            if "cannot be changed" in rule.message:
                for name in rule.message.split(" cannot")[0].split(" and "):
                    assert f"`spec.{name}`" in said
