"""What is wrong with a DatasetGrant: its schema, the rules that the API server has of `crd/rules.py`, and what it cannot say."""

from __future__ import annotations

from forebay.api.crd.kinds import OWN_GROUP, VERSION
from forebay.api.crd.structs import struct_table
from forebay.api.fluid.blocks import METADATA
from forebay.api.fluid.core_shapes import LABEL_SELECTOR
from forebay.api.grant import OPERATORS, GrantSpec, GrantStatus
from forebay.api.manifests.loaded import Object
from forebay.api.moments import moment
from forebay.api.names import normalise
from forebay.api.problem import did_you_mean, show
from forebay.api.schema import STR, Field, Walk, obj, words
from forebay.api.yamldoc import Node

KIND = "DatasetGrant"
TABLE = obj(
    words("apiVersion kind", STR),
    metadata=METADATA,
    spec=Field(struct_table(GrantSpec), required=True),
    status=struct_table(GrantStatus),
)


def is_grant(found: Object) -> bool:
    return (found.group, found.kind) == (OWN_GROUP, KIND)


def check(node: Node, walk: Walk) -> None:
    """Add what is wrong with one of them."""
    version = node.string("apiVersion")
    if version != f"{OWN_GROUP}/{VERSION}":
        at = node.at("apiVersion") or node
        walk.add("error", at, "apiVersion", show(version), "is no version of forebay's API", f"write {OWN_GROUP}/{VERSION}")
        return
    walk.check(node, TABLE, "")
    spec = node.at("spec")
    if spec is None or not isinstance(spec.value, dict):
        return
    namespaces, selector = spec.at("namespaces"), spec.at("namespaceSelector")
    if selector is None and not (namespaces is not None and namespaces.value):
        remedy = "name who may refer to the dataset, or write namespaceSelector: {}"
        walk.add("error", namespaces or spec, "spec.namespaces", "", "is empty, and so is namespaceSelector", remedy)
    elif selector is not None:
        _selector(selector, walk)
    _paths(spec.at("paths"), walk)
    expires = spec.at("expires")
    if expires is not None and isinstance(expires.value, str) and moment(expires.value) is None:
        remedy = "write one such as 2026-11-27T04:00:00Z"
        walk.add("error", expires, "spec.expires", show(expires.value), "is no time with a zone", remedy)


def _selector(selector: Node, walk: Walk) -> None:
    """The API server takes any operator, and the grant would give nothing."""
    field = "spec.namespaceSelector"
    walk.check(selector, LABEL_SELECTOR, field)
    terms = selector.at("matchExpressions")
    for i, term in enumerate(terms.items() if terms is not None else []):
        operator = term.at("operator")
        if operator is not None and isinstance(operator.value, str) and operator.value not in OPERATORS:
            remedy = did_you_mean(operator.value, OPERATORS, f"write one of {', '.join(OPERATORS)}")
            at = f"{field}.matchExpressions[{i}].operator"
            walk.add("error", operator, at, show(operator.value), "is no operator of a label selector", remedy)


def _paths(paths: Node | None, walk: Walk) -> None:
    for i, path in enumerate(paths.items() if paths is not None else []):
        if isinstance(path.value, str):
            try:
                normalise(path.value)
            except ValueError as e:
                walk.add("error", path, f"spec.paths[{i}]", show(path.value), str(e), "write such as /train")
