"""From a mount to an S3 store: endpoints, sources, keys, and what cannot work."""

from __future__ import annotations

import pytest

from forebay.api.spec import Mount
from forebay.cache.stores import open_store
from forebay.cache.stores.s3.config import settings_of


def mount(source: str = "s3://b/p/q", secrets: dict[str, str] | None = None, **options: str) -> Mount:
    return Mount(source, "s3", "/", "m", options, secrets or {})


@pytest.mark.parametrize(
    ("source", "options", "endpoint", "path_style", "aws"),
    [
        ("s3://b", {}, "https://s3.us-east-1.amazonaws.com", False, True),
        ("s3://b.c", {}, "https://s3.us-east-1.amazonaws.com", True, True),
        ("s3://b", {"region": "cn-north-1"}, "https://s3.cn-north-1.amazonaws.com.cn", False, True),
        ("s3://b", {"endpoint": "minio:9000"}, "https://minio:9000", True, False),
        ("s3://b", {"endpoint": "10.0.0.1:9000"}, "http://10.0.0.1:9000", True, False),
        ("s3://b", {"endpoint": "localhost:9000"}, "http://localhost:9000", True, False),
        ("s3://b", {"endpoint": "http://minio"}, "http://minio", True, False),
        ("s3://b", {"endpoint": "http://minio", "path_style": "false"}, "http://minio", False, False),
        ("s3://b", {"endpoint": "https://oss-cn-hangzhou.aliyuncs.com"}, "https://oss-cn-hangzhou.aliyuncs.com", False, False),
        (
            "s3://b",
            {"endpoint": "https://s3.eu-west-1.amazonaws.com", "path_style": "yes"},
            "https://s3.eu-west-1.amazonaws.com",
            True,
            True,
        ),
    ],
)
def test_endpoints(source: str, options: dict[str, str], endpoint: str, path_style: bool, aws: bool) -> None:
    found = settings_of(mount(source, **options))
    assert (found.endpoint, found.path_style, found.aws) == (endpoint, path_style, aws)


@pytest.mark.parametrize(
    ("source", "bucket", "prefix"),
    [
        ("s3://b", "b", b""),
        ("s3://b/", "b", b""),
        ("s3://b/p/q", "b", b"p/q/"),
        ("s3a://b/p/q/", "b", b"p/q/"),
        ("s3://b/ü %", "b", "ü %/".encode()),
    ],
)
def test_sources(source: str, bucket: str, prefix: bytes) -> None:
    found = settings_of(mount(source))
    assert (found.bucket, found.prefix) == (bucket, prefix)


@pytest.mark.parametrize(
    ("source", "secrets", "options", "says"),
    [
        ("s3://", {}, {}, "names no bucket"),
        ("s3:///x", {}, {}, "names no bucket"),
        ("s3://b@d/x", {}, {}, "no bucket name"),
        ("s3://b/../x", {}, {}, "'..'"),
        ("s3://b", {"access_key": "x"}, {}, "secret_key"),
        ("s3://b", {"secret_key": "x"}, {}, "access_key"),
        ("s3://b", {"access_key": "x\r\nEvil: 1", "secret_key": "x"}, {}, "line breaks"),
        ("s3://b", {}, {"endpoint": "ftp://h"}, "not http"),
        ("s3://b", {}, {"endpoint": "http://u:p@h"}, "plain URL"),
        ("s3://b", {}, {"region": "a b"}, "no region"),
        ("s3://b", {}, {"path_style": "maybe"}, "true or false"),
        ("s3://b", {}, {"verify": "maybe"}, "true or false"),
        ("s3://b", {}, {"ca_file": "/no/such"}, "no file"),
    ],
)
def test_configuration_that_cannot_work(source: str, secrets: dict[str, str], options: dict[str, str], says: str) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        open_store(mount(source, secrets, **options))
    assert "'m'" in str(caught.value)


def test_without_keys_requests_are_unsigned() -> None:
    keys = {"access_key": "A", "secret_key": "S"}
    assert settings_of(mount()).credentials is None
    assert settings_of(mount(secrets=keys, anonymous="true")).credentials is None
    assert settings_of(mount(secrets=keys)).credentials is not None


def test_unknown_kind() -> None:
    with pytest.raises(ValueError, match="no store kind 'tape'"):
        open_store(Mount("tape://x", "tape", "/", "m"))
