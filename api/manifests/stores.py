"""From a typed mount to what a store reads: canonical source, options and secrets."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Mapping
from urllib.parse import unquote, urlsplit, urlunsplit

import msgspec

from forebay.api.manifests import schemes
from forebay.api.manifests.credentials import Aws, CredentialError
from forebay.api.manifests.documents import MountDoc
from forebay.api.manifests.options import Taken
from forebay.api.problem import show

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]")


class SourceError(ValueError):
    """A mount point that its store cannot take. `str()` continues the value, `remedy` says what to write."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.remedy = remedy


class Source(msgspec.Struct, frozen=True):
    """A mount point in the store's own terms. User information never stays in `url`."""

    store: str
    url: str
    endpoint: str = ""  # s3: what the mount point itself names
    user: str = ""
    password: str = ""
    elsewhere: bool = False  # s3: no server of Amazon's, so an endpoint must be named somewhere


def read_source(mount: MountDoc) -> Source:
    """Check the mount point of a served scheme and bring it to its store's form. Raises `SourceError`."""
    store = schemes.SERVED[mount.scheme]
    if any(ord(c) < 32 or ord(c) == 127 for c in mount.mount_point):
        raise SourceError("holds a control character", "remove it")
    if store == "file":
        path = unquote(mount.rest.removeprefix("localhost")) if mount.scheme == "file" else mount.rest
        if not path.startswith("/"):
            raise SourceError("names no absolute directory", "write local:///directory, with three slashes")
        if ".." in path.split("/"):
            raise SourceError('holds a ".." part', "write the directory itself")
        if mount.scheme == "file":
            return Source(store, f"file://{mount.rest}")  # percent-encoded: it may name bytes that are no UTF-8
        return Source(store, "local://" + posixpath.normpath("/" + path.lstrip("/")))
    if store == "http":
        return _http(mount)
    return _s3(mount)


def _http(mount: MountDoc) -> Source:
    try:
        parts = urlsplit(f"{mount.scheme}://{mount.rest}")
        port = parts.port
    except ValueError:
        raise SourceError("is no URL", "write https://host/path/") from None
    if not parts.hostname:
        raise SourceError("names no host", "write https://host/path/")
    if parts.fragment:
        raise SourceError('has a fragment ("#...")', "remove it, or write %23 for a # in a name")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    netloc = host if port is None else f"{host}:{port}"
    url = urlunsplit((mount.scheme, netloc, parts.path or "/", parts.query, ""))
    return Source("http", url, user=unquote(parts.username or ""), password=unquote(parts.password or ""))


def _s3(mount: MountDoc) -> Source:
    authority, slash, prefix = mount.rest.partition("/")
    userinfo, at, authority = authority.rpartition("@")
    user, _, password = userinfo.partition(":")
    endpoint = ""
    if mount.scheme == "minio" and (":" in authority or "." in authority or authority == "localhost"):
        endpoint = f"http://{authority}"  # JuiceFS's form: minio://host:port/bucket/prefix
        authority, slash, prefix = prefix.partition("/")
    if not authority:
        raise SourceError("names no bucket", "write s3://bucket/prefix/")
    if not _BUCKET.fullmatch(authority):
        raise SourceError("has no valid bucket name", "write s3://bucket/prefix/ (3 to 63 of a-z, 0-9, - and .)")
    url, elsewhere = f"s3://{authority}{slash}{prefix}", mount.scheme == "minio"
    return Source("s3", url, endpoint, unquote(user) if at else "", unquote(password) if at else "", elsewhere)


class Finished(msgspec.Struct, frozen=True):
    """What a store is opened with. `notes` are warnings: (message, remedy)."""

    url: str
    options: dict[str, str]
    secrets: dict[str, str]
    notes: list[tuple[str, str]]


Machine = Callable[[str], Aws]
"""What the machine knows of a profile ("" = none is named), as `credentials.aws` reads it. Raises `CredentialError`."""


def finish(source: Source, taken: Mapping[str, Taken], machine: Machine | None) -> Finished:
    """Options and secrets under canonical names: the manifest's own, then (s3) those of the machine, None = it has none.

    Pure but for `machine`. An option whose Secret is not at hand counts as absent where the machine can stand in. Raises
    `CredentialError` and `SourceError`.
    """
    if source.store == "s3":
        return _finish_s3(source, taken, machine)
    missing = [t.written for t in taken.values() if t.value is None]
    if missing:
        raise CredentialError(f"the Secret that holds {', '.join(missing)} is not in the files", "add the Secret to the files")
    given = [(t.name, t.value, t.secret and t.name in _HTTP_SECRETS) for t in taken.values() if t.value is not None]
    options = {name: value for name, value, secret in given if not secret}
    secrets = {name: value for name, value, secret in given if secret}
    if source.user and "username" not in options | secrets:
        options["username"] = source.user
        secrets.setdefault("password", source.password)
    return Finished(source.url, options, secrets, [])


_HTTP_SECRETS = ("username", "password", "token")
_KEYS = ("access_key", "secret_key", "session_token")


def _finish_s3(source: Source, taken: Mapping[str, Taken], machine: Machine | None) -> Finished:
    given = {name: t.value for name, t in taken.items() if t.value is not None}
    missing = [t.written for t in taken.values() if t.value is None]
    secrets = {k: given[k] for k in _KEYS if given.get(k)}
    if source.user and source.password and not secrets:
        secrets = {"access_key": source.user, "secret_key": source.password}
    notes: list[tuple[str, str]] = []
    if given.get("anonymous") == "true":
        known, secrets, anonymous = _known(machine, "", needed=False), {}, True
    else:
        whole = _both(secrets, missing)
        known = _known(machine, given.get("profile", ""), needed=not whole)
        anonymous = not whole and not known.access_key
        if not whole:
            secrets = dict(zip(_KEYS, (known.access_key, known.secret_key, known.session_token), strict=True))
            secrets = {k: v for k, v in secrets.items() if v}
        if not whole and missing:
            which = ", ".join(missing)
            if anonymous:
                remedy = "add the Secret to the files, or export AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
                raise CredentialError(f"the Secret that holds {which} is not in the files", remedy)
            notes.append((f"uses the credentials of the {known.source}, for the Secret of {which} is not in the files", "add it"))
        elif anonymous:
            remedy = 'give keys (docs/options.md), or set anonymous: "true" to say so'
            notes.append(("has no credentials, so requests are unsigned", remedy))
    bucket = source.url.removeprefix("s3://").partition("/")[0]
    endpoint = given.get("endpoint") or source.endpoint or _juicefs_endpoint(given.get("bucket", ""), bucket) or known.endpoint
    if source.elsewhere and not endpoint:
        raise SourceError("names no server", "write minio://host:9000/bucket/, or give the option endpoint")
    options: dict[str, str] = {k: given[k] for k in ("region", "path_style", "verify", "ca_file") if k in given}
    if endpoint:
        options.update(endpoint=normal_endpoint(endpoint, given.get("tls")))
    if known.region:
        options.setdefault("region", known.region)
    if known.ca_file:
        options.setdefault("ca_file", known.ca_file)
    if anonymous:
        options["anonymous"] = "true"
    return Finished(source.url, options, secrets, notes)


def _known(machine: Machine | None, profile: str, *, needed: bool) -> Aws:
    """What the machine knows; nothing where it is in disorder and its keys are not needed."""
    if machine is None:
        if profile and needed:
            raise CredentialError(f"profile {profile} is of a machine, and there is none here", "name the keys themselves")
        return Aws()
    try:
        return machine(profile)
    except CredentialError:
        if needed:
            raise
        return Aws()


def _both(secrets: Mapping[str, str], missing: list[str]) -> bool:
    """Whether both keys are given. One alone is an error unless the other's Secret is not at hand."""
    absent = [k for k in _KEYS[:2] if k not in secrets]
    if len(absent) == 1 and not missing:
        raise CredentialError(f"{absent[0]} is missing, but its other half is set", f"add {absent[0]} too (see docs/options.md)")
    return not absent


def normal_endpoint(endpoint: str, tls: str | None) -> str:
    """`s3.example.com:9000/` -> `https://s3.example.com:9000` where `tls` says so; without it the store decides."""
    if "://" not in endpoint and tls is not None:
        endpoint = f"{'https' if tls == 'true' else 'http'}://{endpoint}"
    return endpoint.rstrip("/")


def _juicefs_endpoint(url: str, bucket: str) -> str:
    """The endpoint in JuiceFS's `bucket` option: http://host:9000/bucket or https://bucket.host."""
    if not url:
        return ""
    parts = urlsplit(url if "://" in url else f"https://{url}")
    netloc = parts.netloc.rpartition("@")[2]
    first = parts.path.strip("/").partition("/")[0]
    if not first and netloc.startswith(bucket + "."):
        netloc = netloc[len(bucket) + 1 :]
    elif first and first != bucket:
        raise SourceError(f"is not in the bucket that the option bucket names ({show(first)})", "name the same bucket in both")
    return f"{parts.scheme}://{netloc}"
