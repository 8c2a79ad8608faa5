"""From a mount to what an S3 store needs: bucket, prefix, endpoint, addressing style, region, credentials."""

from __future__ import annotations

import re

import msgspec

from forebay.api.spec import Mount
from forebay.cache.stores.config import flag, plain
from forebay.cache.stores.net.urls import parse_url
from forebay.cache.stores.s3.sigv4 import Credentials

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
    bucket, prefix = split_source(mount.source, mount.called)
    region = mount.options.get("region") or DEFAULT_REGION
    if not _REGION.match(region):
        raise ValueError(f"mount {mount.called!r}: region {region!r} is no region's name")
    endpoint = mount.options.get("endpoint") or region_endpoint(region)
    if "://" not in endpoint:
        host = endpoint.partition("/")[0].rpartition(":")[0] or endpoint
        local = host == "localhost" or host.replace(".", "").isdigit() or host.startswith("[")
        endpoint = f"{'http' if local else 'https'}://{endpoint}"
    try:
        url, user, _ = parse_url(endpoint)
    except ValueError as e:
        raise ValueError(f"mount {mount.called!r}: endpoint: {e}") from e
    if user or "?" in url.target:
        raise ValueError(f"mount {mount.called!r}: the endpoint is a plain URL; give keys as a secret")
    host = url.origin.host
    aws = host.endswith((".amazonaws.com", ".amazonaws.com.cn"))
    virtual = (aws or host.endswith(_VIRTUAL_ONLY)) and not (url.origin.tls and "." in bucket)
    return Settings(bucket, prefix, endpoint, aws, flag(mount, "path_style", not virtual), region, _credentials(mount))


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


def _credentials(mount: Mount) -> Credentials | None:
    """The keys of the mount, None for unsigned requests. Environment and profiles were read when the spec was written."""
    secrets = mount.secrets
    access, secret, token = secrets.get("access_key", ""), secrets.get("secret_key", ""), secrets.get("session_token", "")
    if flag(mount, "anonymous", False) or not (access or secret):
        return None
    if not access or not secret:
        missing = "secret_key" if access else "access_key"
        raise ValueError(f'mount {mount.called!r}: the secret has no {missing}; give both keys, or set anonymous: "true"')
    return Credentials(
        plain(mount, "access_key", access), plain(mount, "secret_key", secret), plain(mount, "session_token", token)
    )
