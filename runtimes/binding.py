"""Which runtime serves a dataset: one of equal name and namespace."""

from __future__ import annotations

from forebay.api.fluid.names import TYPES
from forebay.runtimes.engine import Object, Subject


def bound_runtime(subject: Subject) -> Object | None:
    """The one that serves it already, else the oldest; None where there is none.

    It counts as serving while it is being deleted: what it stands on goes first, another follows then.
    """
    known = {(r.get("type"), r.get("name")) for r in (subject.dataset.get("status") or {}).get("runtimes") or []}

    def order(runtime: Object) -> tuple[bool, str, str]:
        meta = runtime["metadata"]
        serves = (TYPES.get(runtime["kind"]), meta["name"]) in known
        return not serves, meta.get("creationTimestamp") or "", runtime["kind"]

    return min(subject.runtimes, key=order, default=None)


def refers(dataset: Object) -> str:
    """The mount point of a reference to another dataset, "" for a Dataset that is none."""
    mounts = (dataset.get("spec") or {}).get("mounts") or []
    return next((p for m in mounts if (p := str(m.get("mountPoint", ""))).lower().startswith("dataset://")), "")


def surplus(subject: Subject) -> tuple[Object, ...]:
    """Runtimes that serve nothing because another one does."""
    bound = bound_runtime(subject)
    return tuple(r for r in subject.runtimes if r is not bound)
