"""What manifests resolve to is what the stores read: kinds, sources and option names meet."""

from __future__ import annotations

import textwrap

import pytest

from forebay.api.manifests import schemes
from forebay.api.manifests.manifest import load_documents
from forebay.api.manifests.options import STORES
from forebay.api.manifests.resolve import resolve
from forebay.api.problem import Problem
from forebay.api.spec import Mount
from forebay.api.yamldoc import parse_documents
from forebay.cache.stores import KINDS, open_store
from forebay.cache.stores.s3.config import settings_of


def mount_of(text: str) -> Mount:
    problems: list[Problem] = []
    head = "apiVersion: data.fluid.io/v1alpha1\nkind: Dataset\nmetadata: {name: d}\nspec:\n  mounts:\n    - name: m\n"
    manifest = head + textwrap.indent(textwrap.dedent(text).strip(), "      ")
    loaded = load_documents(parse_documents(manifest, "f.yaml", problems), problems)
    assert loaded.errors == []
    (spec,), _ = resolve(loaded, cache_dir="/c", default_cache="/d", environ={}, home="/nonexistent")
    return spec.mounts[0]


def test_kinds_meet() -> None:
    assert set(schemes.SERVED.values()) == set(KINDS) - {"gone"} == set(STORES)  # no manifest can ask for "gone"


@pytest.mark.parametrize(
    "point",
    [
        "s3://bucket",
        "s3a://bucket/a b/ü/",
        "minio://127.0.0.1:9000/bucket/x",
        "http://127.0.0.1:8000",
        "https://user:pass@[::1]:8443/a%20b/",
        "local:///srv/a b",
        "file:///srv/a%20b%FF",
    ],
)
def test_every_source_opens(point: str) -> None:
    open_store(mount_of(f"mountPoint: '{point}'")).close()


def test_s3_reads_what_was_written() -> None:
    mount = mount_of(
        """
        mountPoint: s3a://bucket/pre/fix
        options:
          fs.s3.endpoint: http://10.0.0.1:9000/
          alluxio.underfs.s3.region: eu-north-1
          fs.s3a.path.style.access: "false"
          access-key: AK
          secret-key: SK
          session-token: TK
        """
    )
    settings = settings_of(mount)
    assert (settings.bucket, settings.prefix) == ("bucket", b"pre/fix/")
    assert (settings.endpoint, settings.region, settings.path_style) == ("http://10.0.0.1:9000", "eu-north-1", False)
    assert settings.credentials is not None
    assert (settings.credentials.access_key, settings.credentials.secret_key) == ("AK", "SK")


def test_anonymous_means_no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when the worker's environment has keys that the manifest's did not."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "y")
    assert settings_of(mount_of("mountPoint: s3://bucket\noptions: {anonymous: 'true'}")).credentials is None
    assert settings_of(mount_of("mountPoint: s3://bucket")).credentials is None


def test_buckets_of_one_name_at_two_endpoints_are_two_stores() -> None:
    points = ("s3://bucket/x", "minio://h1:9000/bucket/x", "minio://h2:9000/bucket/x", "s3://bucket/y")
    assert len({mount_of(f"mountPoint: {point}").identity for point in points}) == len(points)
    same = [mount_of(f"mountPoint: s3://bucket\noptions: {{{k}: 'http://h:1'}}").identity for k in ("endpoint", "fs.s3.endpoint")]
    assert same[0] == same[1]
