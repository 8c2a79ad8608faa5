"""Names of mount options: what Fluid's engines and other clients call them, and what our stores call them.

`docs/options.md` holds the same tables; a test compares the two.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from forebay.api.manifests.freshness import FRESHNESS
from forebay.api.problem import did_you_mean

OWN = "forebay.io/"
"""Prefix under which every canonical name is taken too; it wins over all others."""

Kind = Literal["text", "bool", "secret", "url"]


class Option(msgspec.Struct, frozen=True):
    """One canonical option. `names`: other names for it; one that starts with "!" means the opposite (booleans)."""

    name: str
    kind: Kind
    meaning: str
    names: tuple[str, ...] = ()


_VERIFY = Option(
    "verify",
    "bool",
    "check the server's certificate (default true)",
    ("fs.s3a.ssl.verify", "!no_verify_ssl", "!no-verify-ssl", "!no_check_certificate", "!insecure-skip-verify"),
)
_CA = Option("ca_file", "text", "file with the certificates to trust", ("ca-file", "ca_bundle", "ca_cert", "AWS_CA_BUNDLE"))

S3 = (
    Option(
        "endpoint",
        "url",
        "URL of the service; without a scheme https:// is assumed (see tls)",
        (
            "fs.s3.endpoint",
            "alluxio.underfs.s3.endpoint",
            "fs.s3a.endpoint",
            "s3a.endpoint",
            "aws.endpoint",
            "s3.endpoint_url",
            "endpoint_url",
            "endpoint-url",
            "AWS_ENDPOINT_URL",
            "url",
        ),
    ),
    Option(
        "region",
        "text",
        "region that requests are signed for (default: profile, environment, us-east-1)",
        (
            "fs.s3.region",
            "alluxio.underfs.s3.region",
            "alluxio.underfs.s3.endpoint.region",
            "fs.s3a.endpoint.region",
            "aws.region",
            "s3.region_name",
            "region_name",
            "AWS_REGION",
            "AWS_DEFAULT_REGION",
        ),
    ),
    Option(
        "access_key",
        "secret",
        "access key id",
        (
            "fs.s3.accessKeyId",
            "alluxio.underfs.s3.accessKeyId",
            "aws.accessKeyId",
            "s3a.accessKeyId",
            "fs.s3a.access.key",
            "s3.credentials.access",
            "access-key",
            "accesskey",
            "access_key_id",
            "aws_access_key_id",
            "AWS_ACCESS_KEY_ID",
            "access",
            "key",
        ),
    ),
    Option(
        "secret_key",
        "secret",
        "secret access key",
        (
            "fs.s3.accessKeySecret",
            "alluxio.underfs.s3.secretKey",
            "aws.secretKey",
            "aws.secretAccessKey",
            "s3a.secretKey",
            "fs.s3a.secret.key",
            "s3.credentials.secret",
            "secret-key",
            "secretkey",
            "secret_access_key",
            "aws_secret_access_key",
            "AWS_SECRET_ACCESS_KEY",
            "secret",
        ),
    ),
    Option(
        "session_token",
        "secret",
        "token of temporary credentials",
        (
            "fs.s3.securityToken",
            "aws.sessionToken",
            "s3a.sessionToken",
            "fs.s3a.session.token",
            "session-token",
            "aws_session_token",
            "AWS_SESSION_TOKEN",
            "security_token",
            "token",
        ),
    ),
    Option(
        "path_style",
        "bool",
        "address buckets as https://host/bucket (default: true with an endpoint of your own, false at AWS)",
        (
            "fs.s3.path.style.access",
            "fs.s3.pathStyleAccess",
            "alluxio.underfs.s3.disable.dns.buckets",
            "fs.s3a.path.style.access",
            "s3.path_style",
            "path-style",
            "force_path_style",
            "force-path-style",
            "use_path_request_style",
        ),
    ),
    Option(
        "anonymous",
        "bool",
        "send unsigned requests (default false)",
        ("anon", "no-sign-request", "no_sign_request", "public_bucket"),
    ),
    Option("profile", "text", "profile of ~/.aws/credentials and ~/.aws/config", ("aws.profile", "aws_profile", "AWS_PROFILE")),
    Option(
        "bucket",
        "url",
        "JuiceFS: URL of the bucket, from which the endpoint is read",
    ),
    Option(
        "tls",
        "bool",
        "scheme of an endpoint that is written without one: https (default true) or http",
        ("fs.s3.connection.ssl.enabled", "alluxio.underfs.s3.secure.http.enabled", "fs.s3a.connection.ssl.enabled", "use_ssl"),
    ),
    _VERIFY,
    _CA,
)

HTTP = (
    Option("username", "text", "user of basic authentication", ("user", "http.user")),
    Option("password", "secret", "password of basic authentication", ("pass", "passwd", "http.password")),
    Option("token", "secret", "bearer token", ("bearer_token", "bearer-token", "access_token")),
    _VERIFY,
    _CA,
)

FILE = (
    Option(
        "shared",
        "bool",
        "several nodes read the directory, each by a mount of its own: a version is size and mtime "
        "(default: true on Kubernetes and with --join, else false)",
    ),
)

STORES: dict[str, tuple[Option, ...]] = {"s3": S3, "http": HTTP, "file": FILE}


def across_nodes(store: str, options: dict[str, str]) -> dict[str, str]:
    """The options of a mount (canonical) in a dataset whose workers may be on several machines."""
    return {"shared": "true"} | options if store == "file" else options


_TRUE = ("true", "yes", "on", "1")
_FALSE = ("false", "no", "off", "0")


def _index(options: tuple[Option, ...]) -> dict[str, tuple[Option, bool]]:
    table: dict[str, tuple[Option, bool]] = {}
    for option in options:
        for name in (option.name, OWN + option.name, *option.names):
            negated = name.startswith("!")
            assert name.lstrip("!") not in table, name
            table[name.lstrip("!")] = (option, negated)
    return table


_TABLES = {store: _index(options) for store, options in STORES.items()}


class Taken(msgspec.Struct, frozen=True):
    """An option under its canonical name. `value` is None where it comes from a Secret that is not at hand."""

    name: str
    value: str | None
    secret: bool
    written: str  # the name in the manifest


class OptionProblem(msgspec.Struct, frozen=True):
    """`key` is the name in the manifest; `value` is shown only where `shown`; `plain`: a credential outside a Secret."""

    severity: Literal["error", "warning"]
    key: str
    message: str
    remedy: str
    shown: bool = False
    plain: bool = False


def translate(
    store: str, options: dict[str, str], encrypted: dict[str, str | None]
) -> tuple[dict[str, Taken], list[OptionProblem]]:
    """Options of one mount under canonical names. `encrypted`: name -> value, None where the Secret is not at hand.

    Where several names mean one option, an encrypted one wins, then `forebay.io/`, then the canonical name, then the one
    written first; one whose Secret is not at hand gives way to any other.
    """
    table = _TABLES[store]
    taken: dict[str, Taken] = {}
    problems: list[OptionProblem] = []
    written = [(k, v, True) for k, v in encrypted.items()] + [(k, v, False) for k, v in options.items()]
    written.sort(key=lambda item: (item[1] is None, not item[2], _rank(item[0], table)))  # stable: manifest order within a rank
    for key, value, secret in written:
        if key == FRESHNESS:
            if secret:
                problems.append(OptionProblem("error", key, "is no secret", "put it under options"))
            continue
        entry = table.get(key)
        if entry is None:
            remedy = did_you_mean(
                key, [*table, FRESHNESS], f"remove it, or see docs/options.md for the options of the {store} store"
            )
            problems.append(OptionProblem("warning", key, f"is no option of the {store} store and has no effect", remedy))
            continue
        option, negated = entry
        if value is not None and (found := _bad(option, value)):
            problems.append(OptionProblem("error", key, *found, shown=not secret and option.kind != "secret"))
            continue
        if value is not None and option.kind == "bool":
            value = "true" if (value.lower() in _TRUE) != negated else "false"
        if (other := taken.get(option.name)) is not None:
            if other.value != value:
                remedy = "keep one of the two"
                problems.append(OptionProblem("warning", key, f"means the same as {other.written}, which is used", remedy))
            continue
        if option.kind == "secret" and not secret and value:
            remedy = "move it to a Secret and name it under encryptOptions"
            problems.append(OptionProblem("warning", key, "is a credential in plain text", remedy, plain=True))
        taken[option.name] = Taken(option.name, value, secret or option.kind == "secret", key)
    return taken, problems


def _rank(key: str, table: dict[str, tuple[Option, bool]]) -> int:
    if key.startswith(OWN):
        return 0
    entry = table.get(key)
    return 1 if entry is not None and entry[0].name == key else 2


def _bad(option: Option, value: str) -> tuple[str, str] | None:
    """What is wrong with a value, and the remedy; never the value itself."""
    if any(ord(c) < 32 or ord(c) == 127 for c in value):
        return "holds a control character", "remove it (a line break at the end of a Secret is a common cause)"
    if option.kind == "bool" and value.lower() not in (*_TRUE, *_FALSE):
        return "is no boolean", 'write "true" or "false"'
    if option.kind == "url":
        rest = value.split("://", 1)[-1]
        scheme = value.split("://", 1)[0].lower() if "://" in value else "https"
        if scheme not in ("http", "https") or not rest or rest.startswith("/") or " " in value:
            return "is no http(s) URL", "write one such as https://s3.example.com:9000"
        if "@" in rest:  # anywhere: a key that is not percent-encoded holds slashes
            return "holds user information", "put keys under encryptOptions"
    if option.kind == "text" and not value:
        return "is empty", "give a value or remove it"
    return None
