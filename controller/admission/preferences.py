"""How much the pod webhook wants data to be near: one YAML file of Fluid's form, each field of which is checked. Pure.

preferred:                                  # node affinity terms of pods that mount a dataset
  - {name: fluid.io/node, weight: 100}      # a node that holds its data
  - {name: topology.kubernetes.io/zone, weight: 50}
  - {name: topology.kubernetes.io/region, weight: 20}
required: [fluid.io/node]                   # what `fluid.io/dataset.<claim>.sched: required` asks for
"""

from __future__ import annotations

import re
from typing import Any

import msgspec
import yaml

from forebay.api.problem import did_you_mean, show

NODE, FUSE = "fluid.io/node", "fluid.io/fuse"
"""Not labels themselves: they stand for the dataset's own label of nodes that hold it, and of nodes that show it."""
ZONE, REGION = "topology.kubernetes.io/zone", "topology.kubernetes.io/region"
_KEY = re.compile(r"([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")


class PreferenceError(ValueError):
    """One sentence with field, value and remedy."""


class Weighted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A label key of nodes (or NODE, FUSE) and its weight, 1 to 100."""

    name: str
    weight: int


class Preferences(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    preferred: tuple[Weighted, ...] = (Weighted(NODE, 100), Weighted(ZONE, 50), Weighted(REGION, 20))
    required: tuple[str, ...] = (NODE,)


def read(text: str, file: str) -> Preferences:
    """Raises PreferenceError."""
    try:
        found: Any = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise PreferenceError(f"{file}: is no YAML: {' '.join(str(error).split())}") from None
    if isinstance(found, dict):
        for name in found:
            if name not in ("preferred", "required"):
                hint = did_you_mean(str(name), ("preferred", "required"), "write preferred and required")
                raise PreferenceError(f"{file}: {show(name)} is no setting; {hint}")
    try:
        made = msgspec.convert(found, Preferences)
    except msgspec.ValidationError as error:
        raise PreferenceError(f"{file}: {error}; write such as preferred: [{{name: {NODE}, weight: 100}}]") from None
    for i, term in enumerate(made.preferred):
        if not 1 <= term.weight <= 100:
            raise PreferenceError(f"{file}: preferred[{i}].weight {term.weight} is no weight; write 1 to 100, or leave it out")
    for field, names in (("preferred[].name", [t.name for t in made.preferred]), ("required[]", list(made.required))):
        for name in names:
            if not _KEY.fullmatch(name):
                raise PreferenceError(f"{file}: {field} {show(name)} is no label key; write such as {NODE} or {ZONE}")
            if names.count(name) > 1:
                raise PreferenceError(f"{file}: {field} {show(name)} stands twice; keep one of the two")
    return made


def shown(preferences: Preferences) -> str:
    """As `read` takes it."""
    return str(yaml.safe_dump(msgspec.to_builtins(preferences), sort_keys=False))
