"""The Helm chart, written from what the plain manifests are made of: the same functions, given placeholders.

A placeholder is a text that stands for an expression of Helm's templates: `⟦$.Values.image⟧`; `⟦$.Values.node.tierRoots::$it⟧`
stands for each of a list. Where an object has one, the template gets `{{ expression | toJson }}`: JSON is YAML, and a value
can never break out of its place. A list with items that stand for each of another becomes a loop.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import yaml

from forebay import __version__
from forebay.controller.install import values
from forebay.controller.install.parts import HEADER, Install, Workload, parts
from forebay.controller.install.removal import hooks, wanted
from forebay.runtimes.engine import Installation, Object

FOLDER = "chart"
OPEN, CLOSE, EACH = "⟦", "⟧", "::"
_HOLE = re.compile(f"{OPEN}([^{OPEN}{CLOSE}]*){CLOSE}")
_KEY = re.compile(r"^[A-Za-z][A-Za-z0-9_./-]*$")
_WORDS = {"true", "false", "yes", "no", "on", "off", "null", "y", "n"}
SWITCHES: Mapping[str, str] = {
    "12-node-labels.yaml": "fluidNodeLabels",
    "60-webhook.yaml": "webhook",
    "70-scheduler.yaml": "scheduler",
    "71-scheduler-gates.yaml": "gates",
}
"""Files that are there only where a value is true."""
ABSENT = ("00-namespace.yaml",)
"""Parts that Helm does not make: the namespace of a release is made by who installs it."""
_COMMENT = "{{- /* " + HEADER.removeprefix("# ").strip() + " */ -}}\n"


def hole(expression: str) -> Any:
    """Stands for a value of any type; typed as none, because builders only put it where it goes."""
    return f"{OPEN}{expression}{CLOSE}"


def each(items: str) -> Any:
    """Stands for a list, of which it is the only item."""
    return (hole(f"{items}{EACH}$it"),)


class Charted(Install, frozen=True, kw_only=True):
    """An `Install` of placeholders."""

    def settings(self) -> str:
        return str(hole('include "forebay.settings" $'))

    def settings_digest(self, beside: str = "") -> str:
        return str(hole(f'printf "%s{beside}" (include "forebay.settings" $) | sha256sum'))

    def volume(self, path: str) -> str:
        return "host-" + _HOLE.sub(lambda m: hole(f"{m[1]} | sha256sum | trunc 10"), path)


def charted() -> Charted:
    names = {f.name: f.encode_name for f in msgspec.structs.fields(Installation)}
    fields = {name: hole(f"$.Values.{_camel(name)}") for name in names if name not in ("namespace", "pull_secrets")}
    return Charted(
        installation=Installation(**fields, namespace=hole("$.Release.Namespace"), pull_secrets=each("$.Values.pullSecrets")),
        kubelet=hole("$.Values.kubeletDir"),
        client_cache=hole("$.Values.node.cacheDir"),
        client_quota=hole("$.Values.node.cacheQuota"),
        tier_roots=each("$.Values.node.tierRoots"),
        host_roots=each("$.Values.node.hostPathRoots"),
        replicas=hole("$.Values.controller.replicas"),
        controller=_workload("controller"),
        node=_workload("node"),
        **dict.fromkeys(values.switches(), True),  # the template asks for the value
    )


def files() -> Mapping[str, str]:
    """File name -> text, of everything in the chart that is not written by hand."""
    holes = charted()
    leaving = {"90-uninstall.yaml": hooks(wanted(holes))}
    found = {**parts(holes), **leaving}
    made = {f"{FOLDER}/templates/{name}": _template(name, objects) for name, objects in found.items() if name not in ABSENT}
    about = {
        "apiVersion": "v2",
        "name": "forebay",
        "version": __version__,
        "appVersion": __version__,
        "type": "application",
        "description": "Caches datasets on the nodes of a cluster and shows them to pods at the disk's speed. Reads Fluid's API.",
        "kubeVersion": ">=1.30.0-0",  # a token names its node, admission policies are stable; tried on 1.36
    }
    return {
        f"{FOLDER}/Chart.yaml": HEADER + yaml.safe_dump(about, sort_keys=False, width=1000),
        f"{FOLDER}/values.schema.json": json.dumps(values.schema(), indent=1, sort_keys=True) + "\n",
        f"{FOLDER}/templates/_settings.tpl": _settings(),
        **made,
    }


def _workload(name: str) -> Workload:
    at = f"$.Values.{name}"
    return Workload(
        resources=hole(f"{at}.resources"), node_selector=hole(f"{at}.nodeSelector"), tolerations=hole(f"{at}.tolerations")
    )


def _settings() -> str:
    """The controller's file. JSON, because what YAML Helm makes of a large number (1e+08) others read as a text."""
    lines = [_COMMENT + '{{- define "forebay.settings" -}}', '{{- $made := dict "namespace" $.Release.Namespace -}}']
    lines += [f'{{{{- $_ := set $made "{name}" $.Values.{name} -}}}}' for name in values.settings_names()]
    return "\n".join([*lines, "{{ toPrettyJson $made }}", "{{- end -}}", ""])


def _template(name: str, objects: Sequence[Object]) -> str:
    body = "".join("---\n" + "\n".join(_block(obj, 0)) + "\n" for obj in objects)
    switch = SWITCHES.get(name)
    return _COMMENT + (f"{{{{- if $.Values.{switch} }}}}\n{body}{{{{- end }}}}\n" if switch else body)


# --- objects as templates -------------------------------------------------------------------------------------------


def _block(value: Any, indent: int) -> list[str]:
    """Lines of a map or a list that is not empty."""
    pad = " " * indent
    if isinstance(value, Mapping):
        lines: list[str] = []
        for key, inner in value.items():
            if _is_block(inner):
                lines += [f"{pad}{_key(key)}:", *_block(inner, indent + 2)]
            else:
                lines.append(f"{pad}{_key(key)}: {_flow(inner)}")
        return lines
    if any(_loop(item) for item in value):
        return [f"{pad}[", *(line for item in value for line in _looped(item, pad + "  ")), f"{pad}]"]
    lines = []
    for item in value:
        if _is_block(item):
            first, *rest = _block(item, indent + 2)
            lines += [f"{pad}- {first.lstrip()}", *rest] if isinstance(item, Mapping) else [f"{pad}-", first, *rest]
        else:
            lines.append(f"{pad}- {_flow(item)}")
    return lines


def _looped(item: Any, pad: str) -> list[str]:
    """An item of a list between brackets; YAML allows a comma after the last one."""
    found = _loop(item)
    line = f"{pad}{_flow(item)},"
    return [f"{pad}{{{{- range $it := {found} }}}}", line, f"{pad}{{{{- end }}}}"] if found else [line]


def _is_block(value: Any) -> bool:
    return isinstance(value, (Mapping, list, tuple)) and len(value) > 0


def _loop(item: Any) -> str:
    """The list that an item stands for each of; "" for any other."""
    if isinstance(item, Mapping):
        return next((found for inner in item.values() if (found := _loop(inner))), "")
    if isinstance(item, str):
        return next((m[1].partition(EACH)[0] for m in _HOLE.finditer(item) if EACH in m[1]), "")
    return ""


def _key(key: str) -> str:
    return key if _KEY.match(key) and key.lower() not in _WORDS else json.dumps(key, ensure_ascii=False)


def _flow(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(k)}: {_flow(v)}" for k, v in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_flow, value)) + "]"
    return _text(value) if isinstance(value, str) else json.dumps(value)


def _text(text: str) -> str:
    if "{{" in text or "}}" in text:
        raise ValueError(f"{text!r} would be read as a template; write it without double braces")
    expressions = [m[1].rpartition(EACH)[2] for m in _HOLE.finditer(text)]
    if not expressions:
        return _key(text)
    if _HOLE.fullmatch(text):
        return f"{{{{ {expressions[0]} | toJson }}}}"
    pattern = json.dumps(_HOLE.sub("%s", text.replace("%", "%%")), ensure_ascii=False)
    return f"{{{{ printf {pattern} {' '.join(f'({e})' if ' ' in e else e for e in expressions)} | toJson }}}}"


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)
