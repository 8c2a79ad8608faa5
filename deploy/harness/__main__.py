"""`python -m harness up` and `down`: a cluster for people, see docs/harness.md. `cards` prints a stand-in for GPUs."""

from __future__ import annotations

import argparse
import sys
import time

from harness import build, cards, image, shell
from harness.cluster import Cluster
from harness.keeper import S3_KEY, S3_SECRET, STORES
from harness.layout import S3_PORT
from harness.machine import ClusterError

SAMPLE = "demo"


def _up(it: Cluster) -> None:
    if it.alive:
        it.load_forebay()
        sys.stdout.write(f"cluster {it.place.name!r} is up already; its nodes have the image of this working tree now\n")
    else:
        it.start()
        it.place.environment.write_text(shell.environment(it))
        _fill(it)
        it.stay()
        sys.stdout.write(f"ready after {it.took:.1f} s: {len(it.nodes)} nodes, image forebay:dev of this working tree\n")
    sys.stdout.write(
        f"""
  source {it.place.environment}       # KUBECONFIG, AWS_ENDPOINT_URL; kubectl, kubectl forebay and helm on the PATH
  kubectl get nodes
  kubectl run hello --image=forebay:dev --image-pull-policy=Never --restart=Never -- --version

S3: {it.store}, in pods http://s3.{STORES}.svc:{S3_PORT}; key {S3_KEY}, secret {S3_SECRET}; bucket {SAMPLE} has the documentation
{_helm()}New code on the nodes: `make cluster` again, then restart your pods. The end: `make cluster-down`. More: docs/harness.md
"""
    )


def _fill(it: Cluster) -> None:
    """Something to read."""
    store = it.s3()
    store.create_bucket(Bucket=SAMPLE)
    for page in sorted((image.ROOT / "docs").glob("*.md")):
        store.put_object(Bucket=SAMPLE, Key=f"docs/{page.name}", Body=page.read_bytes())


def _down(it: Cluster) -> None:
    began = time.monotonic()
    was = it.alive
    it.stop()
    sys.stdout.write(f"{'ended' if was else 'no cluster is up; leftovers are cleared'} ({time.monotonic() - began:.1f} s)\n")


def _helm() -> str:
    """It is not needed to run, and takes minutes to build."""
    if build.place("helm").exists():
        return ""
    return "helm is not built yet: `.venv/bin/python -P deploy/harness/build.py helm`, or install with the plain manifests\n"


def main() -> int:
    parser = argparse.ArgumentParser(prog="harness.cluster", description="A Kubernetes of two nodes on this machine.")
    parser.add_argument("what", choices=["up", "down", "cards"])
    parser.add_argument("--name", default="dev")
    parser.add_argument("--nodes", type=int, default=2)
    asked = parser.parse_args()
    if asked.what == "cards":
        sys.stdout.write(cards.listed())
        return 0
    try:
        {"up": _up, "down": _down}[asked.what](Cluster(asked.name, nodes=asked.nodes))
    except (ClusterError, image.ImageError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
