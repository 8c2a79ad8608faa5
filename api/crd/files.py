"""The CustomResourceDefinitions, written from the tables and structs of this room.

    python -P -m forebay.api.crd.files deploy            # write deploy/crds and deploy/classes, remove what is of no kind now
    python -P -m forebay.api.crd.files deploy --check    # exit code 1 where a file is not what would be written

Pure but for `main`: equal tables give equal bytes.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from forebay.api import written
from forebay.api.crd.kinds import KINDS, VERSION, Kind
from forebay.api.crd.schema import object_schema
from forebay.api.fluid import engine_class

PARTS = ("crds", "classes")
HEADER = "# Written by `python -P -m forebay.api.crd.files deploy` from the tables in api/: change those.\n"


def definition(kind: Kind) -> dict[str, Any]:
    """The CustomResourceDefinition of one kind."""
    version: dict[str, Any] = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": object_schema(kind)},
    }
    if subresources := _subresources(kind):
        version["subresources"] = subresources
    if kind.columns:
        version["additionalPrinterColumns"] = [
            {
                "name": column.name,
                "type": column.type,
                "jsonPath": column.path,
                **({"priority": column.priority} if column.priority else {}),
            }
            for column in kind.columns
        ]
    names: dict[str, Any] = {
        "kind": kind.kind,
        "listKind": f"{kind.kind}List",
        "plural": kind.plural,
        "singular": kind.kind.lower(),
    }
    if kind.short:
        names["shortNames"] = list(kind.short)
    if kind.categories:
        names["categories"] = list(kind.categories)
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{kind.plural}.{kind.group}", "labels": {"app.kubernetes.io/part-of": "forebay"}},
        "spec": {"group": kind.group, "names": names, "scope": kind.scope, "versions": [version]},
    }


def _subresources(kind: Kind) -> dict[str, Any]:
    subresources: dict[str, Any] = {}
    if kind.status is not None:
        subresources["status"] = {}
    if kind.scale is not None:
        subresources["scale"] = {
            "specReplicasPath": kind.scale.wanted,
            "statusReplicasPath": kind.scale.found,
            "labelSelectorPath": kind.scale.selector,
        }
    return subresources


@cache
def files() -> Mapping[str, str]:
    """Path below the folder -> text: one file a kind, and the class of our own engine."""
    texts = {f"crds/{kind.file}": HEADER + _yaml(definition(kind)) for kind in KINDS}
    texts[f"classes/{engine_class.NAME}.yaml"] = HEADER + _yaml(engine_class.engine_class())
    return MappingProxyType(texts)


def _yaml(value: dict[str, Any]) -> str:
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)


class _Dumper(yaml.SafeDumper):
    """Without aliases: a shared table is written out wherever it stands."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def stale(folder: Path) -> list[str]:
    """Paths below `folder` that are not what would be written: changed, missing, or of a kind that is gone."""
    wanted = files()
    texts = {f"{path.parent.name}/{path.name}": path.read_text() for part in PARTS for path in (folder / part).glob("*.yaml")}
    found = {name: text for name, text in texts.items() if name in wanted or text.startswith(HEADER)}
    return written.stale(wanted, found)


def main(arguments: Sequence[str]) -> int:
    """Write or check the two folders. Returns the exit code."""
    folders = [a for a in arguments if not a.startswith("-")]
    if len(folders) != 1 or not set(arguments) - set(folders) <= {"--check"}:
        sys.stderr.write("usage: python -P -m forebay.api.crd.files FOLDER [--check]\n")
        return 2
    folder = Path(folders[0])
    for part in () if "--check" in arguments else PARTS:
        (folder / part).mkdir(parents=True, exist_ok=True)
    return written.bring(folder, files(), stale(folder), check="--check" in arguments, program="forebay.api.crd.files")


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
