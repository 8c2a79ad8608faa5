"""Rules inside one object that a schema cannot say."""

from __future__ import annotations

from forebay.api.schema import Walk
from forebay.api.yamldoc import Node


def check(kind: str, namespace: str, node: Node, walk: Walk) -> None:
    """Add what is wrong with one object of a Fluid kind beyond its schema."""
