"""What is said of a gang, in whatever names: by the pod that names it, and by the object that describes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, get_args

Object = Mapping[str, object]

Policy = Literal["once-satisfied", "waiting-and-running", "waiting-running-succeed", "only-waiting"]
"""Which pods count towards a gang's minimum: see `counting`."""
POLICIES: tuple[Policy, ...] = get_args(Policy)


class Reference(NamedTuple):
    """An object, as an Event names it."""

    api_version: str
    kind: str
    namespace: str
    name: str
    uid: str


@dataclass(frozen=True)
class Said:
    """What one source says; None, "" and {} where it does not speak.

    `minimum`: pods of all; `group_minimum`: pods by sub-group. `partners`: full names of gangs that start only together, this one
    among them. `timeout`: seconds. `satisfied`: the source says that the gang has run before. `single`: its pods need no company;
    `together`: if one of them has to go for others, all go. `source` is how messages name it. `mistake` is the sentence of the
    first thing that is wrong, and nothing else counts then.
    """

    source: str
    minimum: int | None = None
    group_minimum: Mapping[str, int] = field(default_factory=dict)
    policy: Policy | None = None
    partners: tuple[str, ...] = ()
    timeout: float | None = None
    priority: int | None = None
    priority_class: str = ""
    queue: str = ""
    satisfied: bool = False
    single: bool = False
    together: bool = False
    mistake: str = ""
    about: Reference | None = None


@dataclass(frozen=True)
class Naming:
    """A pod names its gang: `space` ("" for the family of names that share one PodGroup) and full name, with what the pod itself
    says, and the sub-group it is in. `kinds`: objects that may describe it, the best first; `needs_object`: one must."""

    space: str
    name: str
    said: Said
    kinds: tuple[str, ...] = ()
    group: str = ""
    needs_object: bool = False

    @property
    def key(self) -> str:
        return f"{self.space}:{self.name}" if self.space else self.name
