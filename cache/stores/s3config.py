"""From a mount to what an S3 store needs: bucket, prefix, endpoint, addressing style, region, credentials."""

from __future__ import annotations

import os
import re

import msgspec

from forebay.api.spec import Mount
from forebay.cache.stores.config import flag, plain
from forebay.cache.stores.sigv4 import Credentials
from forebay.cache.stores.urls import parse_url

DEFAULT_REGION = "us-east-1"
_REGION = re.compile(r"[A-Za-z0-9-]{1,63}\Z")
_VIRTUAL_ONLY = (".aliyuncs.com", ".myqcloud.com")
"""Endpoints that refuse the bucket in the path."""


class Settings(msgspec.Struct, frozen=True):
    bucket: str
    prefix: bytes  # b"" or ending in "/"
    endpoint: str  # URL
    aws: bool  # a host of amazonaws.com: may be moved to another region
    path_style: bool
    region: str
    credentials: Credentials | None


def region_endpoint(region: str) -> str:
    return f"https://s3.{region}.amazonaws.com" + (".cn" if region.startswith("cn-") else "")


def settings_of(mount: Mount) -> Settings:
    """Raises `ValueError` with a sentence when source, options or secrets cannot be used."""
    bucket, prefix = split_source(mount.source, mount.name)
    profile = _profile(mount)
    region = (
        mount.options.get("region") or profile.get("region") or _environment("AWS_REGION", "AWS_DEFAULT_REGION") or DEFAULT_REGION
    )
    if not _REGION.match(region):
        raise ValueError(f"mount {mount.name!r}: region {region!r} is no region's name")
    endpoint = mount.options.get("endpoint") or region_endpoint(region)
    if "://" not in endpoint:
        host = endpoint.partition("/")[0].rpartition(":")[0] or endpoint
        local = host == "localhost" or host.replace(".", "").isdigit() or host.startswith("[")
        endpoint = f"{'http' if local else 'https'}://{endpoint}"
    try:
        url, user, _ = parse_url(endpoint)
    except ValueError as e:
        raise ValueError(f"mount {mount.name!r}: endpoint: {e}") from e
    if user or "?" in url.target:
        raise ValueError(f"mount {mount.name!r}: the endpoint is a plain URL; give keys as a secret")
    host = url.origin.host
    aws = host.endswith((".amazonaws.com", ".amazonaws.com.cn"))
    virtual = (aws or host.endswith(_VIRTUAL_ONLY)) and not (url.origin.tls and "." in bucket)
    return Settings(bucket, prefix, endpoint, aws, flag(mount, "path_style", not virtual), region, _credentials(mount, profile))


def split_source(source: str, name: str) -> tuple[str, bytes]:
    """`s3://bucket/a/b` -> ("bucket", b"a/b/")."""
    scheme, _, rest = source.partition("://")
    bucket, _, prefix = rest.partition("/")
    if not scheme or not bucket:
        raise ValueError(f"mount {name!r}: {source!r} names no bucket; write s3://BUCKET or s3://BUCKET/PREFIX/")
    if not re.match(r"[A-Za-z0-9][A-Za-z0-9._:-]*\Z", bucket):
        raise ValueError(f"mount {name!r}: {bucket!r} is no bucket name; write s3://BUCKET/PREFIX/")
    if any(part in {".", ".."} for part in prefix.split("/")):
        raise ValueError(
            f"mount {name!r}: {source!r} has a '.' or '..' in its prefix, which servers resolve; write the prefix out"
        )
    key = prefix.strip("/").encode("utf-8", "surrogateescape")
    return bucket, key + b"/" if key else b""


def _environment(*names: str) -> str:
    return next((os.environ[name] for name in names if os.environ.get(name)), "")


def _credentials(mount: Mount, profile: dict[str, str]) -> Credentials | None:
    """Secrets of the mount, else its profile, else the environment, else the default profile, else none (anonymous)."""
    if flag(mount, "anonymous", False):
        return None
    secrets = mount.secrets
    access, secret, token = secrets.get("access_key", ""), secrets.get("secret_key", ""), secrets.get("session_token", "")
    if bool(access) != bool(secret):
        missing = "secret_key" if access else "access_key"
        raise ValueError(f'mount {mount.name!r}: the secret has no {missing}; give both keys, or set anonymous: "true"')
    if not access and not mount.options.get("profile") and os.environ.get("AWS_ACCESS_KEY_ID"):
        access, secret = os.environ["AWS_ACCESS_KEY_ID"], os.environ.get("AWS_SECRET_ACCESS_KEY", "")
        token = os.environ.get("AWS_SESSION_TOKEN", "")
        if not secret:
            raise ValueError(
                f"mount {mount.name!r}: AWS_ACCESS_KEY_ID is set but AWS_SECRET_ACCESS_KEY is not; set both or neither"
            )
    if not access:
        access, secret = profile.get("aws_access_key_id", ""), profile.get("aws_secret_access_key", "")
        token = profile.get("aws_session_token", "")
    if not access or not secret:
        return None
    return Credentials(
        plain(mount, "access_key", access), plain(mount, "secret_key", secret), plain(mount, "session_token", token)
    )


def _profile(mount: Mount) -> dict[str, str]:
    """One profile of the AWS files, both merged. A profile that was named must be there."""
    asked = mount.options.get("profile", "")
    if mount.secrets.get("access_key") and not asked:
        return {}
    name = asked or _environment("AWS_PROFILE") or "default"
    home = os.path.expanduser("~")
    files = (
        (
            os.environ.get("AWS_CONFIG_FILE") or os.path.join(home, ".aws", "config"),
            "default" if name == "default" else f"profile {name}",
        ),
        (os.environ.get("AWS_SHARED_CREDENTIALS_FILE") or os.path.join(home, ".aws", "credentials"), name),
    )
    values: dict[str, str] = {}
    found = False
    for path, section in files:
        if not os.path.isfile(path):
            continue
        import configparser

        parser = configparser.RawConfigParser()
        try:
            parser.read(path)
        except (configparser.Error, OSError, UnicodeDecodeError) as e:
            raise ValueError(f"mount {mount.name!r}: cannot read {path}: {e}; correct the file") from e
        if parser.has_section(section):
            found = True
            values.update(parser.items(section))
    if asked and not found:
        raise ValueError(f"mount {mount.name!r}: no profile {asked!r} in the AWS files; name one that is there")
    return values
