"""What an administrator may set for the control plane: one YAML file, each field of which is checked, and named when wrong."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec
import yaml

from forebay.api.manifests.freshness import parse_floor
from forebay.api.problem import did_you_mean, show
from forebay.api.quantity import QuantityError, parse_quantity
from forebay.runtimes.engine import Installation

_PATH = re.compile(r"`\$\.?(.*?)`")


class SettingsError(ValueError):
    """One sentence with field, value and remedy."""


def read(text: str, file: str) -> Installation:
    """An `Installation` from YAML: its fields in camelCase (`defaultEngine: native`). Raises SettingsError."""
    try:
        found: Any = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise SettingsError(f"{file}: is no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(found, dict):
        raise SettingsError(f"{file}: holds no fields; write lines such as `defaultEngine: native`")
    return installation(found, file)


def installation(fields: Mapping[str, Any], file: str) -> Installation:
    """Raises SettingsError for an unknown field, a value of the wrong type, and one that cannot be."""
    known = {_camel(f.name): f.name for f in msgspec.structs.fields(Installation)}
    for name in fields:
        if name not in known:
            raise SettingsError(
                f"{file}: {show(name)} is no setting; {did_you_mean(str(name), known, 'see docs/controllers.md')}"
            )
    try:
        made = msgspec.convert({known[name]: value for name, value in fields.items()}, Installation)
    except msgspec.ValidationError as error:
        raise SettingsError(f"{file}: {_worded(str(error))}") from None
    for problem in _problems(made):
        raise SettingsError(f"{file}: {problem}")
    return made


def shown(made: Installation) -> dict[str, Any]:
    """The fields that are not the default, as the file has them."""
    default = Installation()
    pairs = ((f.name, getattr(made, f.name)) for f in msgspec.structs.fields(Installation))
    return {_camel(n): list(v) if isinstance(v, tuple) else v for n, v in pairs if v != getattr(default, n)}


def _problems(made: Installation) -> list[str]:
    found = []
    for field in ("cpu_request", "memory_request", "memory_limit"):
        try:
            parse_quantity(getattr(made, field))
        except QuantityError as error:
            found.append(f"{_camel(field)} {show(getattr(made, field))} {error}; {error.remedy}")
    for field in ("data_port", "control_port"):
        if not 1024 <= getattr(made, field) <= 65535:
            found.append(f"{_camel(field)} {getattr(made, field)} is no port of a worker without root; write 1024 to 65535")
    if made.data_port == made.control_port:
        found.append(f"controlPort {made.control_port} is dataPort too; write another")
    if made.drain_rate <= 0:
        found.append(f"drainRate {made.drain_rate} is no rate; write bytes per second, such as 100000000")
    try:
        parse_floor(made.free_space_floor)
    except ValueError as error:
        found.append(f"freeSpaceFloor {show(made.free_space_floor)} is none; {error}")
    if made.pull_policy not in ("Always", "IfNotPresent", "Never"):
        found.append(f"pullPolicy {show(made.pull_policy)} is none; write Always, IfNotPresent or Never")
    found += [
        f"{field} is empty; leave it out for the default"
        for field in ("image", "namespace", "driver")
        if not getattr(made, field)
    ]
    return found


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)


def _worded(error: str) -> str:
    """msgspec's sentence with the field as the file has it: "dataPort: Expected `int`, got `str`"."""
    match = _PATH.search(error)
    if match is None:
        return error
    return f"{_camel(match.group(1))}: {error[: match.start()].removesuffix(' - at ').rstrip()}"
