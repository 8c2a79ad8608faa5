"""Whether an apply would change anything. Pure: what is wanted, against what the copy has."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from forebay.api.quantity import QuantityError, parse_quantity
from forebay.runtimes.engine import Object

APPLIED = "forebay.io/applied"
"""Annotation of an object of ours: a digest of what was applied last. A field that is wanted no more shows in it alone."""
_OPEN = frozenset({"ownerReferences", "finalizers"})
"""Lists to which others add."""
_WHOLE = frozenset({"selector", "podSelector", "nodeSelector"})
"""Maps that the server takes as a whole: another key in one is a difference."""


def digest(body: Object) -> str:
    return hashlib.blake2b(msgspec.json.encode(body, order="sorted"), digest_size=10).hexdigest()


def signed(body: Object) -> Object:
    """The same with its digest in it."""
    meta = body["metadata"]
    return {**body, "metadata": {**meta, "annotations": {**(meta.get("annotations") or {}), APPLIED: digest(body)}}}


def holds(live: Object | None, wanted: Object) -> bool:
    """Whether an apply of `wanted` would leave `live` as it is, as far as can be seen. What the server only writes differently
    than we do (a quantity) counts as equal; in doubt the answer is False, and the apply changes nothing."""
    return live is not None and _covers(live, {k: v for k, v in wanted.items() if k not in ("apiVersion", "kind")}, "")


def same_status(live: Any, wanted: Object) -> bool:
    """Whether a status says what is wanted, no less and no more. The order of conditions says nothing."""
    return isinstance(live, dict) and _by_type(live) == _by_type(wanted)


def surplus(live: Any, wanted: Object) -> Object:
    """Fields of a status that are not wanted, as a merge patch that takes them away. Lists are left: conditions of other writers
    are theirs."""
    found: Object = {}
    for name, value in live.items() if isinstance(live, dict) else ():
        if name not in wanted and not isinstance(value, list):
            found[name] = None
        elif isinstance(value, dict) and isinstance(wanted.get(name), dict) and (more := surplus(value, wanted[name])):
            found[name] = more
    return found


def _by_type(status: Object) -> Object:
    conditions = status.get("conditions")
    if not isinstance(conditions, (list, tuple)) or not all(isinstance(c, dict) for c in conditions):
        return status  # no schema stood over who wrote that
    return {**status, "conditions": {c.get("type"): c for c in conditions}} if conditions else status


def _covers(live: Any, wanted: Any, field: str) -> bool:
    if isinstance(wanted, dict):
        if not isinstance(live, dict):
            return not wanted and live is None
        if field in _WHOLE and live.keys() != wanted.keys():
            return False
        return all(_covers(live.get(name), value, name) for name, value in wanted.items())
    if isinstance(wanted, (list, tuple)):
        return _covers_list(live, list(wanted), field)
    if live == wanted:
        return type(live) is type(wanted)
    if live is None:
        return not wanted  # zero values are left out by the server
    return _same_quantity(live, wanted)


def _covers_list(live: Any, wanted: list[Any], field: str) -> bool:
    if not isinstance(live, list):
        return not wanted and live is None
    if field in _OPEN:
        return all(any(_covers(there, item, "") for there in live) for item in wanted)
    return len(live) == len(wanted) and all(_covers(there, item, "") for there, item in zip(live, wanted, strict=True))


def _same_quantity(live: Any, wanted: Any) -> bool:
    if any(isinstance(value, bool) or not isinstance(value, (str, int)) for value in (live, wanted)):
        return False
    try:
        return parse_quantity(live) == parse_quantity(wanted) and not _small(live) and not _small(wanted)
    except QuantityError:
        return False


def _small(value: str | int) -> bool:
    """A quantity whose whole number is not all of it: "100m" and "200m" are both 1 when rounded up."""
    return isinstance(value, str) and value[-1:] in "num"
