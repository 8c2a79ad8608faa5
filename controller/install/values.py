"""What an administrator may set of an installation: one file, that of the Helm chart, which the plain manifests are made by too.

    image: registry.example/forebay:0.1.0
    defaultEngine: native
    node: {tierRoots: [/mnt/nvme]}

At the top stand the settings of the control plane (`Installation`) but its namespace, `kubeletDir`, and a switch for each
part that may be left out; below `controller` and `node` what their pods ask for.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec
import yaml

from forebay.api.problem import did_you_mean, show
from forebay.api.quantity import QuantityError, parse_quantity
from forebay.controller import settings
from forebay.controller.install.parts import CONTROLLER, EVERY_NODE, Install, Workload
from forebay.controller.settings import SettingsError
from forebay.runtimes.engine import Installation

_PATH = r"^/[^\s,:\"\\]*$"
_WHERE = re.compile(r"`\$\.?(.*?)`")


class ControllerValues(Workload, frozen=True, kw_only=True):
    replicas: int = Install().replicas


class NodeValues(Workload, frozen=True, kw_only=True):
    cache_dir: str = Install().client_cache
    cache_quota: str = Install().client_quota
    tier_roots: tuple[str, ...] = ()
    host_path_roots: tuple[str, ...] = ()


def settings_names() -> list[str]:
    """The values that are settings of the control plane. Its namespace is where the release is."""
    return [_camel(f.name) for f in msgspec.structs.fields(Installation) if f.name != "namespace"]


def switches() -> list[str]:
    """Fields of `Install` that say whether a part is there."""
    return [f.name for f in msgspec.structs.fields(Install) if f.type is bool]


def parts_values() -> dict[str, Any]:
    """Top-level values that are no settings, with their defaults."""
    made = Install()
    own = {
        "kubeletDir": made.kubelet,
        "controller": _filled(ControllerValues, CONTROLLER),
        "node": _filled(NodeValues, EVERY_NODE),
    }
    return {**own, **{name: getattr(made, name) for name in switches()}}


def read(text: str, file: str, namespace: str = Installation().namespace) -> Install:
    """Raises SettingsError with field, value and remedy."""
    return from_values(mapping(text, file), file, namespace)


def mapping(text: str, file: str) -> dict[str, Any]:
    """The file's values, unchecked. Raises SettingsError."""
    try:
        found: Any = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise SettingsError(f"{file}: is no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(found, dict):
        raise SettingsError(f"{file}: holds no values; write lines such as `defaultEngine: native`")
    return found


def put(found: dict[str, Any], name: str, value: Any) -> None:
    """Sets `node.cacheDir` and the like, as Helm's --set does."""
    *above, last = name.split(".")
    for part in above:
        inner = found.setdefault(part, {})
        if not isinstance(inner, dict):
            raise SettingsError(f"--set {name}: {part} is no map; set it as a whole")
        found = inner
    found[last] = value


def from_values(found: dict[str, Any], file: str, namespace: str = Installation().namespace) -> Install:
    """Raises SettingsError."""
    known, own = settings_names(), parts_values()
    for name in found:
        if name not in own and name not in known:
            raise SettingsError(f"{file}: {show(name)} is no value; {did_you_mean(str(name), [*own, *known], 'see values.yaml')}")
    controller = _struct(ControllerValues, CONTROLLER, found, "controller", file)
    node = _struct(NodeValues, EVERY_NODE, found, "node", file)
    kubelet = _path(found.get("kubeletDir", own["kubeletDir"]), "kubeletDir", file)
    roots = [_path(p, "node", file) for p in (node.cache_dir, *node.tier_roots, *node.host_path_roots)]
    for path in roots:
        if roots.count(path) > 1:
            raise SettingsError(
                f"{file}: node: {path} is named twice; a directory is cacheDir, or one of tierRoots or hostPathRoots"
            )
    if controller.replicas < 0:
        raise SettingsError(f"{file}: controller.replicas: {controller.replicas} is no number of pods; write 2")
    flags: dict[str, bool] = {}
    for name in switches():
        flags[name] = found.get(name, own[name])
        if not isinstance(flags[name], bool):
            raise SettingsError(f"{file}: {name}: {show(flags[name])} is no switch; write true or false")
    chosen = {name: value for name, value in found.items() if name in known}
    return Install(
        installation=settings.installation({**chosen, "namespace": namespace}, file),
        kubelet=kubelet,
        client_cache=node.cache_dir,
        client_quota=_quota(node.cache_quota, file),
        tier_roots=node.tier_roots,
        host_roots=node.host_path_roots,
        replicas=controller.replicas,
        controller=_workload(controller),
        node=_workload(node),
        **flags,
    )


def schema() -> dict[str, Any]:
    """JSON schema of the file, for `helm lint` and `helm install`."""
    types = [(f.name, f.type, f.default) for f in msgspec.structs.fields(Installation) if f.name != "namespace"]
    more: list[tuple[str, Any, Any]] = [
        ("kubelet_dir", str, Install().kubelet),
        ("controller", ControllerValues, ControllerValues()),
        ("node", NodeValues, NodeValues()),
        *((name, bool, getattr(Install(), name)) for name in switches()),
    ]
    whole = msgspec.defstruct("Values", [*types, *more], rename="camel", forbid_unknown_fields=True, frozen=True, kw_only=True)
    made = msgspec.json.schema(whole)
    top, node = made["$defs"]["Values"]["properties"], made["$defs"]["NodeValues"]["properties"]
    top["kubeletDir"]["pattern"] = node["cacheDir"]["pattern"] = _PATH
    for name in ("tierRoots", "hostPathRoots"):
        node[name].update(items={"type": "string", "pattern": _PATH}, uniqueItems=True)
    top["pullPolicy"]["enum"] = ["Always", "IfNotPresent", "Never"]
    for name in ("dataPort", "controlPort"):
        top[name].update(minimum=1024, maximum=65535)
    top["global"] = {"type": "object"}  # Helm adds it where the chart is part of another
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **_plain(made)}


def _plain(value: Any) -> Any:
    """Without defaults: they are in values.yaml, and Helm does not read them here."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items() if k not in ("default", "title") or (isinstance(v, dict) and "type" in v)}
    return [_plain(v) for v in value] if isinstance(value, list) else value


def _filled(type_: type[Workload], base: Workload) -> dict[str, Any]:
    made: dict[str, Any] = {**msgspec.to_builtins(type_()), **msgspec.to_builtins(base)}
    return made


def _struct(type_: Any, base: Workload, found: dict[str, Any], name: str, file: str) -> Any:
    """`found[name]` over the defaults, as Helm lays values over values.yaml: maps are merged, lists and null replace."""
    given = found.get(name)
    if given is not None and not isinstance(given, dict):
        raise SettingsError(f"{file}: {name}: {show(given)} holds no values; write a map")
    try:
        return msgspec.convert(_merged(_filled(type_, base), given or {}), type_)
    except msgspec.ValidationError as error:
        match = _WHERE.search(str(error))
        where = f"{name}.{match.group(1)}" if match and match.group(1) else name
        raise SettingsError(f"{file}: {where}: {str(error).split(' - at ')[0]}") from None


def _merged(base: Any, given: Any) -> Any:
    if not isinstance(base, dict) or not isinstance(given, dict):
        return given
    laid = {**base, **{k: _merged(base.get(k), v) for k, v in given.items()}}
    return {k: v for k, v in laid.items() if v is not None}


def _workload(values: Workload) -> Workload:
    return Workload(resources=values.resources, node_selector=values.node_selector, tolerations=values.tolerations)


def _quota(text: str, file: str) -> str:
    try:
        size = parse_quantity(text)
    except QuantityError as error:
        raise SettingsError(f"{file}: node.cacheQuota: {show(text)} {error}; {error.remedy}") from None
    if size < 0:
        raise SettingsError(
            f"{file}: node.cacheQuota: {show(text)} is below nothing; write such as 10Gi, 0 for no bound but free space"
        )
    return text


def _path(value: Any, name: str, file: str) -> str:
    if not isinstance(value, str) or not re.fullmatch(_PATH, value):
        raise SettingsError(f"{file}: {name}: {show(value)} is no directory of a node; write an absolute path")
    return value


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)
