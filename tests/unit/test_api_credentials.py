"""AWS settings of a machine: environment over profile over nothing, and no key in a message."""

from __future__ import annotations

from pathlib import Path

import pytest

from forebay.api.manifests.credentials import Aws, CredentialError, aws

KEYS = {"AWS_ACCESS_KEY_ID": "ENVKEY", "AWS_SECRET_ACCESS_KEY": "envsecret"}
CREDENTIALS = """
[default]
aws_access_key_id = DEFKEY
aws_secret_access_key = defsecret%with%percent
[work]
aws_access_key_id = WORKKEY
aws_secret_access_key = worksecret
aws_session_token = worktoken
[half]
aws_access_key_id = HALF
"""
CONFIG = """
[default]
region = eu-west-1
[profile work]
region = ap-east-1
endpoint_url = http://work:9000
ca_bundle = /work.pem
[profile sso]
sso_session = corp
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "credentials").write_text(CREDENTIALS)
    (tmp_path / ".aws" / "config").write_text(CONFIG)
    return tmp_path


def test_nothing(tmp_path: Path) -> None:
    assert aws({}, tmp_path) == Aws()


def test_environment(tmp_path: Path) -> None:
    more = {"AWS_SESSION_TOKEN": "t", "AWS_REGION": "r", "AWS_ENDPOINT_URL": "http://e", "AWS_CA_BUNDLE": "/c"}
    found = aws({**KEYS, **more}, tmp_path)
    assert found == Aws("ENVKEY", "envsecret", "t", "r", "http://e", "/c", "environment")


def test_environment_wins_over_the_default_profile(home: Path) -> None:
    assert aws(KEYS, home) == Aws("ENVKEY", "envsecret", region="eu-west-1", source="environment")


def test_default_profile(home: Path) -> None:
    found = aws({}, home)
    assert (found.access_key, found.secret_key, found.region) == ("DEFKEY", "defsecret%with%percent", "eu-west-1")
    assert found.source == "profile default"


def test_a_named_profile_wins_over_the_environment(home: Path) -> None:
    found = aws({**KEYS, "AWS_REGION": "env"}, home, "work")
    assert found == Aws("WORKKEY", "worksecret", "worktoken", "ap-east-1", "http://work:9000", "/work.pem", "profile work")


def test_profile_of_the_environment(home: Path) -> None:
    assert aws({"AWS_PROFILE": "work"}, home).access_key == "WORKKEY"


def test_files_named_by_the_environment(home: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("[default]\naws_access_key_id=O\naws_secret_access_key=o\n")
    assert aws({"AWS_SHARED_CREDENTIALS_FILE": str(other)}, home).access_key == "O"


@pytest.mark.parametrize(
    ("environ", "profile", "message"),
    [
        ({"AWS_ACCESS_KEY_ID": "K"}, "", "AWS_SECRET_ACCESS_KEY is not set"),
        ({"AWS_SECRET_ACCESS_KEY": "K"}, "", "AWS_ACCESS_KEY_ID is not set"),
        ({}, "none", "profile none is in neither"),
        ({"AWS_PROFILE": "none"}, "", "profile none is in neither"),
        ({}, "half", "profile half has no static keys"),
        ({}, "sso", "it uses sso_session"),
    ],
)
def test_refused(home: Path, environ: dict[str, str], profile: str, message: str) -> None:
    with pytest.raises(CredentialError, match=message) as caught:
        aws(environ, home, profile)
    assert caught.value.remedy


def test_a_broken_file_is_named_without_its_text(home: Path) -> None:
    (home / ".aws" / "credentials").write_text("aws_secret_access_key = topsecret\n[default\n")
    with pytest.raises(CredentialError) as caught:
        aws({}, home)
    assert "credentials is no valid INI file" in str(caught.value)
    assert "topsecret" not in str(caught.value) + caught.value.remedy + repr(caught.value.__cause__)


def test_repr_hides_keys(home: Path) -> None:
    text = repr(aws({}, home, "work"))
    assert "WORKKEY" not in text
    assert "worksecret" not in text
    assert "worktoken" not in text
