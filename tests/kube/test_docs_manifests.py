"""Manifests that the documentation shows are taken by the API server as they stand there, strictly: no field is misspelt."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from controllerlab import Cluster

from forebay.controller.kinds import RESOURCES
from forebay.kube import resources as r
from forebay.kube.objects import Key

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```yaml\n(.*?)^```$|<<'END'\n(.*?)^END$", re.MULTILINE | re.DOTALL)
"""A block of YAML, or what a shell is shown to hand to `kubectl apply`."""
KINDS = {"Pod": r.PODS, "Secret": r.SECRETS, **RESOURCES}


def shown() -> dict[str, dict[str, Any]]:
    """Page, kind and number -> object."""
    found: dict[str, dict[str, Any]] = {}
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        for block in BLOCK.finditer(page.read_text()):
            for obj in yaml.safe_load_all(block[1] or block[2]):
                if isinstance(obj, dict) and "apiVersion" in obj:
                    found[f"{page.stem} {obj['kind']} {len(found)}"] = obj
    return found


SHOWN = shown()
WANTED = {
    "README": {"Dataset", "Secret"},
    "install": {"Dataset", "CacheRuntime", "Pod", "DatasetGrant"},
    "harness": {"Dataset", "CacheRuntime", "Pod", "Secret"},
    "dataload": {"DataLoad"},
    "crds": {"DatasetGrant"},
}


def test_pages_that_begin_with_a_dataset_show_one() -> None:
    """Nothing slips through because a fence is written otherwise."""
    pages = {page: {each.split()[1] for each in SHOWN if each.split()[0] == page} for page in WANTED}
    assert all(WANTED[page] <= kinds for page, kinds in pages.items()), pages


@pytest.mark.parametrize("where", SHOWN)
def test_it_is_taken(cluster: Cluster, where: str) -> None:
    obj = SHOWN[where]
    resource = KINDS[obj["kind"]]
    assert resource.api_version == obj["apiVersion"]
    body = {**obj, "metadata": {**obj["metadata"], "namespace": "default"}}
    cluster.client.apply(resource, Key("default", obj["metadata"]["name"]), body, dry_run=True)
