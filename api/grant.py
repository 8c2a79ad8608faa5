"""DatasetGrant: the owner of a dataset lets other namespaces refer to it (`dataset://<namespace>/<name>`).

It lies in the dataset's namespace, so that only who may write there can give. Without one a reference stays NotBound.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from forebay.api import moments
from forebay.api.conditions import Conditions
from forebay.api.crd.structs import Written, moment, told
from forebay.api.fluid.core_shapes import LABEL_SELECTOR, core_map
from forebay.api.names import normalise
from forebay.api.problem import show

NAMESPACE = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
MAX_NAMESPACES, MAX_PATHS = 128, 64
OPERATORS = ("In", "NotIn", "Exists", "DoesNotExist")
"""Of a label selector."""


class GrantSpec(Written, frozen=True):
    dataset: Annotated[
        str,
        told("Name of the dataset, in the grant's own namespace. It cannot be changed.", min_length=1, max_length=63),
    ]
    namespaces: Annotated[
        tuple[Annotated[str, Meta(min_length=1, max_length=63, pattern=NAMESPACE)], ...],
        told("Namespaces that may refer to it.", max_length=MAX_NAMESPACES),
    ] = ()
    namespace_selector: Annotated[
        dict[str, Any] | msgspec.UnsetType,
        told("Namespaces with these labels may too; {} means all.", extra={"shape": core_map(LABEL_SELECTOR)}),
    ] = msgspec.UNSET
    paths: Annotated[
        tuple[Annotated[str, Meta(min_length=1, max_length=4095)], ...],
        told("Parts of the tree that are given, as absolute paths; none means all of it.", max_length=MAX_PATHS),
    ] = ()
    access: Annotated[Literal["ReadOnly"], told("What may be done with it.", extra={"default": True})] = "ReadOnly"
    expires: Annotated[str, moment("When the grant ends; absent means never.")] = ""


class GrantStatus(Written, frozen=True):
    conditions: Conditions
    observed_generation: Annotated[int, told("metadata.generation of the grant that this status was derived from.", ge=0)] = 0
    referrers: Annotated[tuple[str, ...], told("Datasets that use the grant now: namespace/name.", max_length=1000)] = ()


class Reference(msgspec.Struct, frozen=True):
    """Who asks: a Dataset of `namespace` (which has `labels`) refers to `path` of `dataset`. `path` is absolute, "/" for all."""

    dataset: str
    namespace: str
    labels: Mapping[str, str]
    path: str = "/"


def refusal(grant: GrantSpec, reference: Reference, now: datetime) -> str:
    """Why a grant does not cover a reference, "" where it does. `now` is aware of its zone.

    Raises `ValueError` for a path that `names.normalise` refuses ("..": it would lead out of what is given), a selector's
    operator that does not exist, and as `ended` does.
    """
    path = normalise(reference.path)
    if grant.dataset != reference.dataset:
        return f"it is for dataset {grant.dataset}"
    if not _names(grant, reference):
        return f"it does not name namespace {reference.namespace}"
    if ended(grant, now):
        return f"it ended at {grant.expires}"
    if grant.paths and not any(_within(path, given) for given in grant.paths):
        return f"it gives {', '.join(grant.paths)}, not {path}"
    return ""


def ended(grant: GrantSpec, now: datetime) -> bool:
    """Whether the grant is over. Raises `ValueError` for an `expires` that is no time, or one without a zone."""
    if not grant.expires:
        return False
    at = moments.moment(grant.expires)
    if at is None:
        raise ValueError(f"expires {show(grant.expires)} is no time with a zone; write such as 2026-11-27T04:00:00Z")
    return at <= now


def _names(grant: GrantSpec, reference: Reference) -> bool:
    if reference.namespace in grant.namespaces:
        return True
    return grant.namespace_selector is not msgspec.UNSET and selects(grant.namespace_selector, reference.labels)


def _within(path: str, given: str) -> bool:
    """`/a/b` lies within `/a` and `/`; `/ab` does not lie within `/a`."""
    parts, head = ([p for p in text.split("/") if p] for text in (path, given))
    return parts[: len(head)] == head


def selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Whether a LabelSelector selects `labels`; an empty one selects everything. Raises `ValueError` for an unknown operator."""
    meets = [_meets(term, labels) for term in selector.get("matchExpressions", ())]  # all, so that none hides a mistake
    return all(meets) and all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())


def _meets(term: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    key, values = term["key"], term.get("values", ())
    match term["operator"]:
        case "In":
            return labels.get(key) in values
        case "NotIn":
            return labels.get(key) not in values  # a missing label is in no list
        case "Exists":
            return key in labels
        case "DoesNotExist":
            return key not in labels
    raise ValueError(f"{term['operator']} is no operator of a label selector; write one of {', '.join(OPERATORS)}")
