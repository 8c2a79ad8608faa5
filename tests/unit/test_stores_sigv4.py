"""Our signature against botocore's, byte for byte."""

from __future__ import annotations

from datetime import UTC, datetime
from unittest.mock import patch
from urllib.parse import quote

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as BotoCredentials
from hypothesis import given, settings
from hypothesis import strategies as st

from forebay.cache.stores.s3.sigv4 import Credentials, Signer, encode_query

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
values = st.binary(max_size=12)


def boto(method: str, url: str, region: str, token: str) -> str:
    request = AWSRequest(method=method, url=url)
    request.context["payload_signing_enabled"] = True
    with patch("botocore.auth.get_current_datetime", return_value=NOW.replace(tzinfo=None)):
        S3SigV4Auth(BotoCredentials("AKID", "s3cret", token or None), "s3", region).add_auth(request)
    return request.headers["Authorization"].replace(", ", ",")


@settings(max_examples=60, deadline=None)
@given(
    st.binary(min_size=1, max_size=20),
    values,
    values,
    st.sampled_from(["us-east-1", "eu-west-3"]),
    st.sampled_from(["", "tok=en/+"]),
)
def test_like_botocore(key: bytes, prefix: bytes, token: bytes, region: str, session: str) -> None:
    path = "/bucket/" + quote(key, safe="/-_.~")
    query = encode_query([("prefix", prefix), ("continuation-token", token), ("list-type", "2")])
    headers = Signer(Credentials("AKID", "s3cret", session)).headers(
        "GET", "host:9000", path, query, region=region, now=NOW.timestamp()
    )
    lines = dict(line.split(": ", 1) for line in headers.split("\r\n") if line)
    assert lines["x-amz-date"] == "20260304T050607Z"
    assert lines.get("x-amz-security-token", "") == session
    assert lines["Authorization"] == boto("GET", f"http://host:9000{path}?{query}", region, session)


def test_the_key_follows_day_and_region() -> None:
    signer = Signer(Credentials("AKID", "s3cret"))
    first = signer.headers("GET", "h", "/", "", region="us-east-1", now=NOW.timestamp())
    other = signer.headers("GET", "h", "/", "", region="eu-west-3", now=NOW.timestamp())
    later = signer.headers("GET", "h", "/", "", region="us-east-1", now=NOW.timestamp() + 86400)
    again = signer.headers("GET", "h", "/", "", region="us-east-1", now=NOW.timestamp())
    assert len({first, other, later}) == 3
    assert again == first


def test_secrets_do_not_show() -> None:
    assert "s3cret" not in repr(Credentials("AKID", "s3cret", "token"))
    assert "token" not in repr(Credentials("AKID", "s3cret", "token"))
