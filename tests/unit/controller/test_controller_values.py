"""The values of an installation: one file for the chart and for the plain manifests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from forebay.controller.install import chart, files, values
from forebay.controller.install import parts as install
from forebay.controller.settings import SettingsError
from forebay.runtimes.engine import Installation

CHART = Path(__file__).parents[3] / "deploy" / "chart"


def given() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
    return found


def test_the_file_of_the_chart_has_every_value_and_all_are_the_defaults() -> None:
    assert values.read((CHART / "values.yaml").read_text(), "values.yaml") == install.Install()
    assert sorted(given()) == sorted([*values.settings_names(), *values.parts_values()])
    for name in ("controller", "node"):
        assert given()[name].keys() == values.parts_values()[name].keys()


def test_maps_are_merged_and_lists_replaced_as_helm_does() -> None:
    text = "controller: {resources: {limits: {memory: 1Gi}}, replicas: 1}\nnode: {tolerations: [], nodeSelector: {pool: a}}\n"
    made = values.read(text, "f")
    assert made.controller.resources == {"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"memory": "1Gi"}}
    assert (made.replicas, made.node.tolerations) == (1, ())
    assert made.node.node_selector == {"kubernetes.io/os": "linux", "pool": "a"}
    assert values.read("controller: {resources: {limits: null}}", "f").controller.resources == {
        "requests": {"cpu": "50m", "memory": "128Mi"}
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("imag: x", 'did you mean "image"'),
        ("namespace: x", "is no value"),
        ("kubeletDir: var/lib", "kubeletDir: "),
        ("node: {cacheDir: 'a b'}", "absolute path"),
        ("node: {tierRoots: [/var/cache/forebay]}", "named twice"),
        ("node: {tierRoot: [/a]}", "node: Object contains unknown field `tierRoot`"),
        ("controller: {replicas: two}", "controller.replicas: Expected `int`"),
        ("controller: {replicas: -1}", "is no number of pods"),
        ("controller: 2", "write a map"),
        ("dataPort: 80", "is no port"),
        ("[]]", "is no YAML"),
        ("- a", "holds no values"),
    ],
)
def test_a_wrong_value_is_named_with_its_file(text: str, words: str) -> None:
    with pytest.raises(SettingsError) as said:
        values.read(text, "my-values.yaml")
    assert str(said.value).startswith("my-values.yaml: ")
    assert words in str(said.value)


def test_the_command_takes_the_file_and_single_values(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "v.yaml"
    file.write_text("image: r/f:1\nnode: {tierRoots: [/nvme]}\n")
    asked = [
        "-",
        "--values",
        str(file),
        "--namespace",
        "elsewhere",
        "--set",
        "node.cacheDir=/cache",
        "--set",
        "controller.replicas=3",
    ]
    assert files.main(asked) == 0
    printed = {(o["kind"], o["metadata"]["name"]): o for o in yaml.safe_load_all(capsys.readouterr().out)}
    assert printed["Deployment", "forebay-controller"]["spec"]["replicas"] == 3
    node = printed["DaemonSet", "forebay-node"]
    assert node["metadata"]["namespace"] == "elsewhere"
    assert {"--tier-root=/cache", "--tier-root=/nvme", "--cache=/cache"} <= set(
        node["spec"]["template"]["spec"]["containers"][0]["args"]
    )
    assert files.main(["-", "--set", "image.tag=1", "--set", "image=r/f"]) == 0
    assert files.main(["-", "--set", "image=r/f", "--set", "image.tag=1"]) == 2
    assert "is no map" in capsys.readouterr().err


def test_the_schema_has_every_value_and_no_other() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    top = schema["$defs"]["Values"]
    assert set(top["properties"]) == {*given(), "global"}
    assert top["additionalProperties"] is False


# --- templates ------------------------------------------------------------------------------------------------------


def test_every_setting_reaches_the_controllers_file() -> None:
    text = (CHART / "templates" / "_settings.tpl").read_text()
    for field in msgspec.structs.fields(Installation):
        assert f'"{_camel(field.name)}"' in text, field.name


def test_every_part_has_its_template_and_its_switch() -> None:
    """A part that is left out by a field of `Install` must be left out by the value of that name."""
    files = {name.rpartition("/")[2] for name in chart.files() if "/templates/" in name and name.endswith(".yaml")}
    labelled = Installation(fluid_node_labels=True)
    always = set(install.parts(install.Install(**dict.fromkeys(values.switches(), False))))
    everything = set(install.parts(install.Install(installation=labelled, **dict.fromkeys(values.switches(), True))))
    assert everything - set(chart.ABSENT) <= files
    assert everything - always == set(chart.SWITCHES)


def test_a_text_that_would_be_a_template_is_refused() -> None:
    with pytest.raises(ValueError, match="double braces"):
        chart._template("x.yaml", [{"a": "{{ .Values.image }}"}])


def test_texts_and_loops() -> None:
    it = chart.each("$.Values.roots")[0]
    made = chart._template(
        "x.yaml", [{"on": "yes", "args": ["a", f"--x={it}%"], "m": {}, "nested": [[1]], "v": chart.hole("$.Values.v")}]
    )
    assert made.partition("---\n")[2].splitlines() == [
        '"on": "yes"',
        "args:",
        "  [",
        "    a,",
        "    {{- range $it := $.Values.roots }}",
        '    {{ printf "--x=%s%%" $it | toJson }},',
        "    {{- end }}",
        "  ]",
        "m: {}",
        "nested:",
        "  -",
        "    - 1",
        "v: {{ $.Values.v | toJson }}",
    ]


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)
