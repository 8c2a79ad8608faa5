"""What manifest files hold, once they were read: objects, typed datasets and Secrets, and all that is wrong with them."""

from __future__ import annotations

import msgspec

from forebay.api.fluid import kinds as fluid
from forebay.api.manifests.documents import DatasetDoc, SecretDoc
from forebay.api.names import label
from forebay.api.problem import Problem
from forebay.api.yamldoc import Node


class Object(msgspec.Struct, frozen=True):
    """One document that names itself: any kind of any group."""

    group: str
    kind: str
    namespace: str  # "" for cluster-scoped kinds of Fluid
    name: str
    node: Node

    @property
    def label(self) -> str:
        return label(self.kind, self.namespace, self.name)


class Loaded(msgspec.Struct):
    """What the files hold. `datasets` are in the order of the files, those with errors included."""

    problems: list[Problem]
    datasets: list[DatasetDoc]
    secrets: dict[tuple[str, str], SecretDoc]  # by (namespace, name)
    objects: list[Object]

    @property
    def errors(self) -> list[Problem]:
        return [p for p in self.problems if p.severity == "error"]

    @property
    def warnings(self) -> list[Problem]:
        return [p for p in self.problems if p.severity == "warning"]

    def sound(self) -> list[DatasetDoc]:
        """Datasets without an error of their own or of a runtime of their name."""
        bad = {p.object for p in self.errors}
        kinds = ("Dataset", *fluid.RUNTIMES)
        return [d for d in self.datasets if bad.isdisjoint(label(kind, d.namespace, d.name) for kind in kinds)]
