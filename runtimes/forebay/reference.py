"""References: a Dataset whose only mount is `dataset://<namespace>/<name>[/<path>]` shows another one's tree.

It has no workers. Its claim mounts the source's, once the source's owner has granted it (within a namespace none is needed).
"""

from __future__ import annotations

from datetime import datetime

import msgspec

from forebay.api.fluid import names as fluid
from forebay.api.grant import GrantSpec, Reference, refusal
from forebay.api.names import normalise
from forebay.runtimes.binding import refers
from forebay.runtimes.engine import Finding, Object, Subject
from forebay.runtimes.forebay.names import Names, names_of
from forebay.runtimes.forebay.volumes import Claimed

_SCHEME = "dataset://"


class Target(msgspec.Struct, frozen=True):
    namespace: str
    name: str
    path: str  # absolute; "/" for all

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}"


def target_of(dataset: Object) -> Target | None:
    """What a Dataset refers to, None where it is no reference. Raises `ValueError` with a sentence for a bad one."""
    mounts = (dataset.get("spec") or {}).get("mounts") or []
    points = [m.get("mountPoint", "") for m in mounts]
    if not refers(dataset):
        return None
    if len(points) != 1:
        raise ValueError("spec.mounts holds a reference beside other mounts; give the reference a Dataset of its own")
    namespace, _, rest = points[0][len(_SCHEME) :].partition("/")
    name, _, below = rest.partition("/")
    try:
        path = normalise("/" + below)
    except ValueError as e:
        raise ValueError(f"spec.mounts[0].mountPoint {e}; name a path inside the dataset") from None
    if not namespace or not name:
        raise ValueError(
            "spec.mounts[0].mountPoint names no dataset; write dataset://namespace/name or dataset://namespace/name/path"
        )
    return Target(namespace, name, path)


def refused(subject: Subject, target: Target, now: str) -> Finding | None:
    """Why the reference may not be served now; None where it may."""
    namespace, _ = subject.key
    if subject.source is None:
        return Finding(
            "error", "SourceMissing", f"there is no Dataset {target.key} to refer to; make it, or correct the mount point"
        )
    try:
        beyond = target_of(subject.source.subject.dataset)
    except ValueError:
        beyond = target
    if beyond is not None:
        return Finding(
            "error", "SourceIsReference", f"Dataset {target.key} is a reference itself; name the dataset that holds the data"
        )
    if target.namespace == namespace:
        return None
    asked = Reference(target.name, namespace, (subject.namespace.get("metadata") or {}).get("labels") or {}, target.path)
    at = datetime.fromisoformat(now)
    why: list[str] = []
    for grant in sorted(subject.source.grants, key=lambda g: str(g["metadata"]["name"])):
        called = grant["metadata"]["name"]
        try:
            found = refusal(msgspec.convert(grant["spec"], GrantSpec), asked, at)
        except (msgspec.ValidationError, ValueError, KeyError) as e:
            found = f"it cannot be read ({e})"
        if not found:
            return None
        if not found.startswith("it is for dataset"):
            why.append(f"{called}: {found}")
    told = f" ({'; '.join(why)})" if why else ""
    remedy = (
        f"its owner makes a DatasetGrant in namespace {target.namespace} with dataset: {target.name}, namespaces: [{namespace}]"
    )
    return Finding(
        "error",
        "NotGranted",
        f"no DatasetGrant lets namespace {namespace} refer to {target.path} of {target.key}{told}; {remedy}",
    )


def claimed(subject: Subject, target: Target, names: Names, owner: Object) -> Claimed:
    """The claim of a reference that may be served."""
    assert subject.source is not None
    source = subject.source.subject
    kind = source.runtimes[0]["kind"] if source.runtimes else ""
    return Claimed(
        names=names,
        owner=owner,
        data=names_of(source),
        type=fluid.TYPES.get(kind, "cache"),
        sub_path=target.path.removeprefix("/"),
        installation=subject.installation,
    )
