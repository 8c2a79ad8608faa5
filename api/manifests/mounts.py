"""Rules of a Dataset's mounts: schemes, options, Secrets, references, and mounts that meet on one path."""

from __future__ import annotations

from collections import Counter

import msgspec

from forebay.api.manifests import schemes
from forebay.api.manifests.documents import DatasetDoc, MountDoc
from forebay.api.manifests.loaded import Loaded
from forebay.api.manifests.options import translate
from forebay.api.manifests.stores import SourceError, read_source
from forebay.api.names import is_namespace, is_object_name
from forebay.api.problem import Problem, Severity, describe_url, did_you_mean, show

UNKNOWN_SCHEME = "has a scheme that neither Fluid, its engines nor fsspec knows"
APPLY = "fine if it exists in the cluster; otherwise add it"


class _Known(msgspec.Struct, frozen=True):
    """What the other documents say."""

    datasets: dict[tuple[str, str], DatasetDoc]
    objects: set[tuple[str, str]]  # (kind, name)
    engines: set[str]  # file systems that classes and profiles describe


def check(loaded: Loaded) -> set[tuple[str, str]]:
    """Add what is wrong with mounts to `loaded.problems`; the Secrets that mounts name, by (namespace, name)."""
    described = [o.node for o in loaded.objects if o.kind == "CacheRuntimeClass"]
    described += [spec for o in loaded.objects if o.kind == "ThinRuntimeProfile" and (spec := o.node.at("spec"))]
    known = _Known(
        datasets={(d.namespace, d.name): d for d in loaded.datasets},
        objects={(o.kind, o.name) for o in loaded.objects},
        engines={node.string("fileSystemType") for node in described},
    )
    for doc in loaded.datasets:
        _Checker(loaded, doc, known).check()
    return {(d.namespace, ref.secret) for d in loaded.datasets for mount in d.mounts for ref in mount.encrypted.values()}


def secret_values(loaded: Loaded, doc: DatasetDoc, mount: MountDoc) -> tuple[dict[str, str | None], set[str]]:
    """Values of a mount's encrypted options, None where the files do not hold them; and the names of those that are no text."""
    values: dict[str, str | None] = {}
    binary: set[str] = set()
    for name, ref in mount.encrypted.items():
        secret = loaded.secrets.get((doc.namespace, ref.secret))
        try:
            values[name] = secret.get(ref.key) if secret is not None else None
        except UnicodeDecodeError:
            values[name] = None
            binary.add(name)
        if values[name] is None and ref.optional:
            del values[name]
    return values, binary


class _Checker:
    """One Dataset."""

    def __init__(self, loaded: Loaded, doc: DatasetDoc, known: _Known) -> None:
        self.loaded, self.doc, self.known = loaded, doc, known
        self.kind = doc.runtime.kind if doc.runtime else ""

    def check(self) -> None:
        for mount in self.doc.mounts:
            self.scheme(mount)
            self.secrets(mount)
            self.collisions(mount)
        self.reference()

    def scheme(self, mount: MountDoc) -> None:
        if not mount.scheme:
            self.no_scheme(mount)
        elif mount.scheme not in schemes.KNOWN and mount.scheme not in self.known.engines:
            engine = self.doc.runtime.engine if self.doc.runtime else ("", "")
            if engine[1] and engine not in self.known.objects:
                message = f"has a scheme that only the engine of the {self.kind} can know ({mount.scheme})"
                self.point("warning", mount, message, "add its class or profile to the files; `forebay up` refuses it")
                return
            near = did_you_mean(mount.scheme, schemes.SERVED) or did_you_mean(mount.scheme, schemes.KNOWN)
            remedy = near or "write one such as s3://, https:// or local:///"
            self.point("error", mount, UNKNOWN_SCHEME, remedy)
        elif mount.scheme not in schemes.SERVED:
            self.point("warning", mount, *schemes.unserved(mount.scheme))
        else:
            try:
                read_source(mount)
            except SourceError as e:
                self.point("error", mount, str(e), e.remedy)
            if "@" in mount.rest.partition("/")[0]:
                remedy = "move them to a Secret and name it under encryptOptions"
                self.point("warning", mount, "holds credentials in plain text", remedy)
            self.options(mount)

    def no_scheme(self, mount: MountDoc) -> None:
        """`host:/export` is what engines behind Thin, EFC and Cache runtimes take; anything else is a slip."""
        remedy = "write one such as s3://bucket/prefix/ or local:///directory"
        if self.kind in schemes.NO_SCHEME_KINDS or (not self.kind and schemes.HOST_PATH.fullmatch(mount.mount_point)):
            self.point("warning", mount, "has no scheme: only its engine knows it, no store here serves it yet", remedy)
        else:
            self.point("error", mount, "has no scheme", remedy)

    def options(self, mount: MountDoc) -> None:
        values, _ = secret_values(self.loaded, self.doc, mount)
        _, found = translate(schemes.SERVED[mount.scheme], mount.options, values)
        for problem in found:
            field, message = mount.fields[problem.key], problem.message
            value = describe_url(mount.options[problem.key]) if problem.shown else ""
            if problem.key in mount.encrypted:
                field, value = f"{field}.name", show(problem.key)
                if problem.severity == "error" and values.get(problem.key) is not None:
                    message = f"names a value that {message}"
            self.add(problem.severity, mount.lines[problem.key], field, value, message, problem.remedy)

    def secrets(self, mount: MountDoc) -> None:
        for name, ref in mount.encrypted.items():
            field = f"{mount.fields[name]}.valueFrom.secretKeyRef"
            secret = self.loaded.secrets.get((self.doc.namespace, ref.secret))
            if secret is None:
                remedy = "add it, or let the environment or a profile give the keys; fine if it exists in the cluster"
                self.add(
                    "warning", ref.line, f"{field}.name", show(ref.secret), "names a Secret that is not in these files", remedy
                )
                continue
            if name in secret_values(self.loaded, self.doc, mount)[1]:
                message = f"holds bytes that are no text in Secret {show(secret.name)}"
                self.add("error", ref.line, f"{field}.key", show(ref.key), message, "store the value as text")
                continue
            keys = secret.keys()
            if ref.key not in keys:
                severity: Severity = "warning" if ref.optional else "error"
                remedy = did_you_mean(ref.key, keys, f"write one of its keys: {', '.join(keys) or 'it has none'}")
                self.add(severity, ref.line, f"{field}.key", show(ref.key), f"is no key of Secret {show(secret.name)}", remedy)

    def collisions(self, mount: MountDoc) -> None:
        """Several mounts on one path are a union on our own engine; a ThinRuntime refuses equal names and paths."""
        before = [m for m in self.doc.mounts if m.index < mount.index]
        same = [m for m in before if m.place == mount.place]
        if any(m.mount_point == mount.mount_point for m in same):
            self.point("error", mount, "stands twice on one path", "remove one of the two")
        elif same and self.kind and self.kind != "ThinRuntime":
            message = f"is also the path of {same[0].field}: a union, which only our own engine serves"
            remedy = "the first in order wins here; give it a path of its own for other engines"
            self.add("warning", mount.line, f"{mount.field}.path", show(mount.place), message, remedy)
        if self.kind == "ThinRuntime":
            for what, value, taken in (
                ("path", mount.place, Counter(m.place for m in before)),
                ("name", mount.name, Counter(m.name for m in before)),
            ):
                if taken[value]:
                    message = f"is the {what} of two mounts, which a ThinRuntime refuses"
                    self.add(
                        "error", mount.line, f"{mount.field}.{what}", show(value), message, f"give each mount its own {what}"
                    )

    def reference(self) -> None:
        """dataset://<namespace>/<name>[/<sub path>]: the only mount, no runtime but a ThinRuntime, no recursion."""
        mount = next((m for m in self.doc.mounts if m.scheme == "dataset"), None)
        if mount is None:
            return
        if len(self.doc.mounts) > 1:
            self.point("error", mount, "is a reference beside other mounts", "give the reference a Dataset of its own")
        parts = mount.rest.rstrip("/").split("/")
        if len(parts) < 2 or not is_namespace(parts[0]) or not is_object_name(parts[1]) or {".", "..", ""} & set(parts):
            self.point(
                "error", mount, "is no reference to a dataset", "write dataset://namespace/name or dataset://namespace/name/path"
            )
            return
        if self.kind not in ("", "ThinRuntime"):
            message = f"is a reference, but the dataset has a {self.kind} of its own"
            self.point("error", mount, message, "remove the runtime: the source's own serves it")
        source = self.known.datasets.get((parts[0], parts[1]))
        if source is None:
            self.point("warning", mount, "names a Dataset that is not in these files", APPLY)
        elif source is self.known.datasets.get((self.doc.namespace, self.doc.name)):
            self.point("error", mount, "is a reference to itself", "name the dataset that holds the data")
        elif any(m.scheme == "dataset" for m in source.mounts):
            self.point("error", mount, "is a reference to a reference", "name the dataset that holds the data")

    def point(self, severity: Severity, mount: MountDoc, message: str, remedy: str) -> None:
        self.add(severity, mount.line, f"{mount.field}.mountPoint", describe_url(mount.mount_point), message, remedy)

    def add(  # noqa: PLR0917 - one call per finding
        self, severity: Severity, line: int, field: str, value: str, message: str, remedy: str
    ) -> None:
        self.loaded.problems.append(Problem(severity, self.doc.file, line, self.doc.label, field, value, message, remedy))
