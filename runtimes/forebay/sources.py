"""Mounts of a Dataset as a worker pod reaches them: what it is told, and what it must be given.

Credentials never enter the result's `mounts`: those of Secrets become names of files, those written in plain text go to
`plain`, from which a Secret is made. Directories of a node and other claims are volumes of the pod.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterable, Mapping
from urllib.parse import unquote_to_bytes

import msgspec

from forebay.api.manifests import schemes
from forebay.api.manifests.credentials import CredentialError
from forebay.api.manifests.documents import DatasetDoc, MountDoc, SecretRef
from forebay.api.manifests.freshness import FRESHNESS, parse_freshness
from forebay.api.manifests.options import across_nodes, translate
from forebay.api.manifests.stores import SourceError, finish, read_source
from forebay.api.names import is_object_name
from forebay.api.podconfig import CLAIM_DIR, HOST_DIR, Files
from forebay.api.problem import describe_url, show
from forebay.api.spec import Freshness, Mount
from forebay.runtimes.engine import Finding

_STAND_IN = "forebay-file-"


class Sources(msgspec.Struct, frozen=True, kw_only=True):
    mounts: tuple[Mount, ...]
    files: tuple[Files, ...]
    refs: tuple[SecretRef, ...]  # keys of Secrets that pods need, by (secret, key)
    hosts: tuple[tuple[str, bool], ...]  # directories of the node, by path; whether each is only read
    claims: tuple[str, ...]  # by name
    plain: tuple[tuple[str, str], ...]  # key of the Secret to be made -> credential of the manifest
    findings: tuple[Finding, ...]


class _Error(ValueError):
    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.remedy = remedy


def read_sources(doc: DatasetDoc, credentials: Callable[[Iterable[tuple[str, str]]], str]) -> Sources:
    """`credentials` names the Secret that `plain` goes to, by what it will hold."""
    reader = _Reader(doc, "").read()
    if reader.plain:
        reader = _Reader(doc, credentials(sorted(reader.plain.items()))).read()
    return Sources(
        mounts=tuple(reader.mounts),
        files=tuple(reader.files),
        refs=tuple(reader.refs[k] for k in sorted(reader.refs)),
        hosts=tuple(sorted(reader.hosts.items())),
        claims=tuple(sorted(reader.claims)),
        plain=tuple(sorted(reader.plain.items())),
        findings=tuple(reader.findings),
    )


class _Reader:
    def __init__(self, doc: DatasetDoc, credentials: str) -> None:
        self.doc, self.credentials = doc, credentials
        self.mounts: list[Mount] = []
        self.files: list[Files] = []
        self.refs: dict[tuple[str, str], SecretRef] = {}
        self.hosts: dict[str, bool] = {}
        self.claims: set[str] = set()
        self.plain: dict[str, str] = {}
        self.findings: list[Finding] = []

    def read(self) -> _Reader:
        for mount in self.doc.mounts:
            try:
                self.mount(mount)
            except (_Error, SourceError, CredentialError) as e:
                self.say("error", mount, "SourceRefused", str(e), e.remedy)
        return self

    def mount(self, doc: MountDoc) -> None:
        files, options = Files(), dict[str, str]()
        if doc.scheme == "pvc":
            store = "file"
            source, options = self.claim(doc), self.local(doc)
        elif doc.scheme in schemes.SERVED:
            store = schemes.SERVED[doc.scheme]
            if store == "file":
                source, options = self.host(doc), self.local(doc)
            else:
                source, files, options = self.remote(doc, store)
        else:
            scheme = f"has scheme {show(doc.scheme)}, which" if doc.scheme else "has no scheme, so"
            served = ", ".join(f"{s}://" for s in (*schemes.SERVED, "pvc"))
            raise _Error(
                f"{scheme} no store of engine forebay serves yet", f"it serves {served}; leave other stores to their engine"
            )
        freshness = doc.options.get(FRESHNESS) or self.doc.annotations.get(FRESHNESS)
        self.mounts.append(
            Mount(
                source=source,
                store=store,
                path=doc.place,
                name=doc.name,
                options=options,
                read_only=True,  # writes are not served yet
                freshness=parse_freshness(freshness) if freshness else Freshness(),
            )
        )
        self.files.append(files)

    def host(self, doc: MountDoc) -> str:
        """A directory of the node, the same path below /host in the worker."""
        source = read_source(doc)
        scheme, rest = schemes.split(source.url)
        try:
            path = unquote_to_bytes(rest.removeprefix("localhost")).decode() if scheme == "file" else rest
        except UnicodeDecodeError:
            raise _Error("names bytes that are no UTF-8, which no pod can mount", "rename the directory") from None
        path = posixpath.normpath("/" + path.lstrip("/"))
        if path == "/":
            raise _Error("is the root of the node", "name the directory that holds the data")
        if ":" in path:
            raise _Error('holds a ":", which no pod can mount', "rename the directory, or link to it under another name")
        self.hosts[path] = True  # nothing writes yet, whatever readOnly says
        return f"local://{HOST_DIR}{path}"

    def claim(self, doc: MountDoc) -> str:
        """pvc://<claim>[/<directory>]: the claim is mounted into the worker."""
        name, _, below = doc.rest.partition("/")
        if not is_object_name(name):
            raise _Error("names no claim", "write pvc://claim or pvc://claim/directory")
        if ".." in below.split("/"):
            raise _Error('holds a ".." part', "write the directory itself")
        if name == self.doc.name:
            raise _Error("is the dataset's own claim", "name the claim that holds the data")
        self.claims.add(name)
        return f"local://{posixpath.normpath(f'{CLAIM_DIR}/{name}/{below}')}"

    def local(self, doc: MountDoc) -> dict[str, str]:
        """Options of a directory. Shared unless it is said otherwise, whatever the replicas: scaling out changes no version."""
        taken, found = translate("file", doc.options, dict.fromkeys(doc.encrypted))
        for problem in found:
            if problem.severity == "error":  # what is only unknown may be a shared option that is meant for other mounts
                self.say("error", doc, "OptionRefused", f"option {show(problem.key)} {problem.message}", problem.remedy)
        if hidden := [t.written for t in taken.values() if t.value is None]:
            raise _Error(f"takes option {show(hidden[0])} from a Secret, and its value must be known", "write it under options")
        return across_nodes("file", {t.name: t.value for t in taken.values() if t.value is not None})

    def remote(self, doc: MountDoc, store: str) -> tuple[str, Files, dict[str, str]]:
        """Source, files and options. Values of Secrets are stood for by words that come back as names of files."""
        refs = dict(enumerate(doc.encrypted.items()))
        stand_ins: dict[str, str | None] = {name: f"{_STAND_IN}{i}" for i, (name, _) in refs.items()}
        taken, found = translate(store, doc.options, stand_ins)
        for problem in found:
            if problem.key in stand_ins and problem.severity == "error":
                message = f"takes option {show(problem.key)} from a Secret, and its value must be known"
                raise _Error(message, "write it under options")
            if problem.plain:
                continue  # said below, of every credential that is one
            reason = "OptionRefused" if problem.severity == "error" else "OptionIgnored"
            self.say(problem.severity, doc, reason, f"option {show(problem.key)} {problem.message}", problem.remedy)
        if "profile" in taken:
            raise _Error("names a profile of a machine, which no worker has", "name the keys under encryptOptions")
        done = finish(read_source(doc), taken, None)  # nothing of the controller's own environment reaches a dataset
        for note, remedy in done.notes:
            self.say("warning", doc, "Unsigned", note, remedy)
        secret_files, secret_optional, plain = self.named(doc, done.secrets, refs)
        option_files, option_optional, options = self.named(doc, done.options, refs)
        for name, value in plain.items():
            key = f"mount-{doc.index}-{name}".replace("_", "-")
            self.plain[key] = value
            ref = SecretRef(self.credentials, key, False, 0)
            self.refs[ref.secret, ref.key] = ref
            secret_files[name] = f"{ref.secret}/{ref.key}"
            self.say(
                "warning", doc, "PlainCredentials", f"holds {name} in plain text", "move it to a Secret under encryptOptions"
            )
        return done.url, Files(secret_files, option_files, (*secret_optional, *option_optional)), options

    def named(
        self, doc: MountDoc, values: Mapping[str, str], refs: Mapping[int, tuple[str, SecretRef]]
    ) -> tuple[dict[str, str], list[str], dict[str, str]]:
        """`values` parted into names of files (and which of those may be missing) and what the manifest itself says."""
        files: dict[str, str] = {}
        optional: list[str] = []
        rest: dict[str, str] = {}
        for name, value in sorted(values.items()):
            if _STAND_IN not in value:
                rest[name] = value
                continue
            number = value.removeprefix(_STAND_IN)
            if not number.isdigit() or int(number) not in refs:
                raise _Error(
                    f"takes part of its {name} from a Secret, which cannot be put together yet", f"write {name} under options"
                )
            written, ref = refs[int(number)]
            if not is_object_name(ref.secret):
                raise _Error(f"option {show(written)} names Secret {show(ref.secret)}, which is no name", "correct the name")
            self.refs[ref.secret, ref.key] = ref
            files[name] = f"{ref.secret}/{ref.key}"
            if ref.optional:
                optional.append(name)
        return files, optional, rest

    def say(self, severity: str, doc: MountDoc, reason: str, message: str, remedy: str) -> None:
        text = f"{doc.field}.mountPoint {describe_url(doc.mount_point)} {message}; {remedy}"
        self.findings.append(Finding("error" if severity == "error" else "warning", reason, text))
