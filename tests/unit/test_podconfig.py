"""What a worker's pod and a node read of one configuration."""

from __future__ import annotations

import pytest

from forebay.api.podconfig import Config, Files, cluster, decode, encode, fill, public, revision
from forebay.api.spec import DatasetSpec, Mount, Tier

MOUNT = Mount("s3://bucket/", "s3", "/", "data", {"region": "r"})


def config(*files: Files, mount: Mount = MOUNT) -> Config:
    spec = DatasetSpec("ns", "d", [mount] * len(files), [Tier("SSD", "/t")], "/i", cluster=cluster())
    return Config(spec, list(files))


def test_an_endpoint_of_a_secret_names_the_same_mount_for_who_may_not_read_it() -> None:
    found = config(Files(secrets={"secret_key": "s/key"}, options={"endpoint": "s/url"}))
    worker = fill(found, {"s/key": "K", "s/url": "http://h:9000"}.__getitem__).mounts[0]
    client = public(found).mounts[0]
    assert worker.options["endpoint"] == "http://h:9000"
    assert (client.options.get("endpoint"), client.secrets) == (None, {})
    assert worker.identity == client.identity == "s3://bucket/ at s/url"
    other = public(config(Files(options={"endpoint": "s/other"}))).mounts[0]
    assert other.identity != client.identity  # two buckets of one name are not one


def test_a_plain_endpoint_is_the_identity_of_both() -> None:
    found = config(Files(), mount=Mount("s3://bucket/", "s3", "/", "data", {"endpoint": "http://h"}))
    assert fill(found, str).mounts == public(found).mounts == found.spec.mounts


def test_a_configuration_comes_back_from_its_text() -> None:
    found = config(Files(secrets={"a": "s/a"}, optional=("a",)))
    assert decode(encode(found).encode()) == found
    assert revision(decode(encode(found).encode())) == revision(found)


@pytest.mark.parametrize("raw", [b"", b"[]", b'{"spec": 1}'])
def test_what_is_none_is_refused_with_a_sentence(raw: bytes) -> None:
    with pytest.raises(ValueError, match=r"config.json is no configuration of a worker"):
        decode(raw)
