"""Writes what an installation consists of: plain manifests, the Helm chart, and what takes it away again.

python -P -m forebay.controller.install.files deploy            # write deploy/{install,uninstall,chart} and nothing more
python -P -m forebay.controller.install.files deploy --check    # exit code 1 where a file is not what would be written
python -P -m forebay.controller.install.files - --image registry.example/forebay:1 --set defaultEngine=native |
    kubectl apply -f -                                          # one stream, of one's own settings
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from forebay.api import written
from forebay.controller import settings
from forebay.controller.install import chart, removal, values
from forebay.controller.install.parts import FOLDER, HEADER, Install, parts, text
from forebay.runtimes.engine import Installation

PROGRAM = "forebay.controller.install.files"
WRITTEN = ("install", "uninstall", "chart/templates")
"""Folders of which every YAML file is written here."""


def files(install: Install) -> Mapping[str, str]:
    """Name below `deploy/` -> text: the plain manifests, and the chart."""

    plain = {f"{FOLDER}/{name}": HEADER + text(objects) for name, objects in parts(install).items()}
    return {**plain, "uninstall/uninstall.yaml": HEADER + text(removal.wanted(install)), **chart.files()}


def stale(folder: Path, install: Install) -> list[str]:
    """Files that differ from what they should be, are missing, or are of no part any more."""
    wanted = files(install)
    found = {str(path.relative_to(folder)): path.read_text() for where in WRITTEN for path in (folder / where).glob("*.yaml")}
    found |= {name: (folder / name).read_text() for name in wanted if (folder / name).exists()}
    return written.stale(wanted, found)


def _asked(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=f"python -P -m {PROGRAM}", description="Write what an installation needs.")
    parser.add_argument("folder", help="the folder that has install/; - for one stream on stdout")
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 where a file is stale")
    parser.add_argument("--values", type=Path, help="a values file of the chart (deploy/chart/values.yaml has them all)")
    parser.add_argument("--namespace", default=Installation().namespace, help="where the parts run")
    parser.add_argument("--image", default="", help="the image, as nodes pull it")
    parser.add_argument("--set", dest="fields", action="append", default=[], metavar="NAME=VALUE", help="a value (repeatable)")
    return parser.parse_args(arguments)


def _install(asked: argparse.Namespace) -> Install:
    """Raises SettingsError."""
    found: dict[str, Any] = {}
    if asked.values is not None:
        found = values.mapping(asked.values.read_text(), str(asked.values))
    for pair in asked.fields:
        name, sign, value = pair.partition("=")
        if not sign:
            raise settings.SettingsError(f"--set {pair}: write NAME=VALUE, such as defaultEngine=native")
        values.put(found, name, yaml.safe_load(value))
    if asked.image:
        found["image"] = asked.image
    return values.from_values(found, str(asked.values or "--set"), asked.namespace)


def main(arguments: Sequence[str]) -> int:
    """Returns the exit code."""
    asked = _asked(arguments)
    try:
        install = _install(asked)
    except (settings.SettingsError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    if asked.folder == "-":
        sys.stdout.write("".join(text(objects) for objects in parts(install).values()))
        return 0
    folder = Path(asked.folder)
    return written.bring(folder, files(install), stale(folder, install), check=asked.check, program=PROGRAM)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
