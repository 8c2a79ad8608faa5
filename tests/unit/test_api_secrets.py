"""No secret value, wherever it stands and however wrong the manifest is, reaches a message or a repr."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from forebay.api.manifests.manifest import load_documents
from forebay.api.manifests.resolve import resolve
from forebay.api.problem import HIDDEN, Problem, secretish, show, strip_credentials
from forebay.api.yamldoc import parse_documents

WORD = "hunter2/S3CR3T+x"
BASE64 = base64.b64encode(WORD.encode()).decode()
NUMBER = "90210777"


def said(text: str, home: str = "/nonexistent", environ: dict[str, str] | None = None) -> list[str]:
    """Everything that is said about a manifest and anything that a log or a traceback might show of it."""
    problems: list[Problem] = []
    loaded = load_documents(parse_documents(text, "f.yaml", problems), problems)
    specs, more = resolve(loaded, cache_dir="/c", default_cache="/d", environ=environ or {}, home=home)
    shown = [
        *map(str, loaded.problems),
        *map(repr, loaded.problems),
        *map(str, more),
        *map(repr, more),
        repr(specs),
        repr(loaded),
    ]
    return [*shown, repr(loaded.datasets), repr(loaded.secrets), repr(loaded.objects)]


def dataset(mount: str, more: str = "") -> str:
    head = "apiVersion: data.fluid.io/v1alpha1\nkind: Dataset\nmetadata: {name: d}\nspec:\n"
    return f"{head}  mounts:\n    - {{name: a, {mount}}}\n{more}"


def secret(body: str) -> str:
    return f"---\napiVersion: v1\nkind: Secret\nmetadata: {{name: s}}\n{body}\n"


REF = "encryptOptions: [{name: access-key, valueFrom: {secretKeyRef: {name: s, key: id}}}, {name: secret-key, valueFrom: {secretKeyRef: {name: s, key: key}}}]"  # noqa: E501
S3 = "mountPoint: 's3://bucket'"

CASES = {
    "used": dataset(f"{S3}, {REF}") + secret(f"stringData: {{id: '{WORD}', key: '{WORD}'}}"),
    "used as base64": dataset(f"{S3}, {REF}") + secret(f"data: {{id: {BASE64}, key: {BASE64}}}"),
    "with a line break": dataset(f"{S3}, {REF}") + secret(f'stringData: {{id: "{WORD}\\n", key: "{WORD}"}}'),
    "no base64": dataset(f"{S3}, {REF}") + secret(f"data: {{id: '{WORD}!', key: '{WORD}!'}}"),
    "binary": dataset(f"{S3}, {REF}")
    + secret(f"data: {{id: {base64.b64encode(WORD.encode() + bytes([255])).decode()}, key: {BASE64}}}"),
    "of a wrong type": dataset(f"{S3}, {REF}") + secret(f"stringData: {{id: [{WORD}], key: {NUMBER}}}"),
    "under a typo": dataset(f"{S3}, {REF}") + secret(f"stringdata: {{id: '{WORD}'}}"),
    "twice": dataset(f"{S3}, {REF}") + secret(f"stringData:\n  id: {WORD}\n  id: {WORD}x"),
    "broken quotes": dataset(f"{S3}, {REF}") + secret(f"stringData:\n  id: '{WORD}\n  key: x"),
    "colon": dataset(f"{S3}, {REF}") + secret(f"stringData:\n  id: {WORD}: {WORD}"),
    "alias": dataset(f"{S3}, {REF}") + secret("stringData:\n  id: *hunter2S3CR3T"),
    "tag": dataset(f"{S3}, {REF}") + secret("stringData:\n  id: !hunter2S3CR3T x"),
    "plain": dataset(f"{S3}, options: {{fs.s3.accessKeyId: '{WORD}', fs.s3.accessKeySecret: '{WORD}'}}"),
    "plain, half": dataset(f"{S3}, options: {{secret-key: '{WORD}'}}"),
    "plain, two names": dataset(f"{S3}, options: {{secret-key: '{WORD}', aws.secretKey: '{WORD}x', access-key: k}}"),
    "plain, control": dataset(f'{S3}, options: {{secret-key: "{WORD}\\n", access-key: k}}'),
    "plain, number": dataset(f"{S3}, options: {{secret-key: {NUMBER}, password: {NUMBER}, aws.accessKeyId: {NUMBER}}}"),
    "plain, list": dataset(f"{S3}, options: {{secret-key: ['{WORD}'], token: {{x: '{WORD}'}}}}"),
    "plain, unknown name": dataset(f"{S3}, options: {{my.unknown.thing: '{WORD}'}}"),
    "plain, unserved scheme": dataset(f"mountPoint: 'juicefs:///', options: {{metaurl: 'redis://:{WORD}@h'}}"),
    "value beside the reference": dataset(f"{S3}, encryptOptions: [{{name: secret-key, value: '{WORD}'}}]"),
    "value in the reference": dataset(f"{S3}, encryptOptions: [{{name: secret-key, valueFrom: {{secretKeyRef: '{WORD}'}}}}]"),
    "value as valueFrom": dataset(f"{S3}, encryptOptions: [{{name: secret-key, valueFrom: '{WORD}'}}]"),
    "encrypted map": dataset(f"{S3}, encryptOptions: {{secret-key: '{WORD}'}}"),
    "list of words": dataset(f"{S3}, encryptOptions: ['{WORD}']"),
    "unknown field": dataset(f"{S3}, secretKey: '{WORD}', password: {NUMBER}"),
    "mount point of s3": dataset(f"mountPoint: 's3://AK:{WORD}@bucket/x'"),
    "mount point of http": dataset(f"mountPoint: 'https://bob:{WORD.replace('/', '%2F')}@host/x'"),
    "mount point of http with a slash": dataset(f"mountPoint: 'https://bob:{WORD}@host/x'"),
    "mount point of an unknown scheme": dataset(f"mountPoint: 's4://AK:{WORD}@bucket'"),
    "mount point of an unserved scheme": dataset(f"mountPoint: 'redis://:{WORD}@host/1'"),
    "mount point without a scheme": dataset(f"mountPoint: 'AK:{WORD}@host:/export'"),
    "query": dataset(f"mountPoint: 's4://host/x?sig={WORD}&y'"),
    "bare query": dataset(f"mountPoint: 'pvc://host/x?{WORD}'"),
    "fragment": dataset(f"mountPoint: 'http://host/#{WORD}'"),
    "endpoint": dataset(f"{S3}, options: {{endpoint: 'http://AK:{WORD}@host'}}"),
    "endpoint without a scheme": dataset(f"{S3}, options: {{endpoint: 'AK:{WORD}@host'}}"),
    "bucket": dataset(f"{S3}, options: {{bucket: 'http://AK:{WORD}@host/other'}}"),
    "environment of a runtime": dataset(S3)
    + f"---\napiVersion: data.fluid.io/v1alpha1\nkind: AlluxioRuntime\nmetadata: {{name: d}}\n"
    f"spec: {{fuse: {{env: {{AWS_SECRET_ACCESS_KEY: {NUMBER}, X: ['{WORD}']}}}}, properties: {{aws.secretKey: '{WORD}'}}, "
    f"secret: {NUMBER}}}\n",
    "other documents": f"apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: '{WORD}'}}\ndata: {{k: '{WORD}'}}\n".replace(
        f"'{WORD}'}}\ndata", "c}\ndata"
    ),
}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_nothing_is_shown(case: str) -> None:
    for text in said(CASES[case]):
        for word in (WORD, BASE64, NUMBER, "hunter2", "S3CR3T"):
            assert word not in text, text


def test_keys_of_the_machine_are_not_shown(tmp_path: Path) -> None:
    (tmp_path / ".aws").mkdir()
    file = tmp_path / ".aws" / "credentials"
    both = f"[default]\naws_access_key_id={WORD}\naws_secret_access_key={WORD}\n"
    for content in (f"[default]\naws_secret_access_key = {WORD}\n", f"{WORD}\n", both):
        file.write_text(content)
        for environ in ({}, {"AWS_SECRET_ACCESS_KEY": WORD}, {"AWS_ACCESS_KEY_ID": WORD, "AWS_SECRET_ACCESS_KEY": WORD}):
            for text in said(dataset(S3), str(tmp_path), environ):
                assert WORD not in text


def test_the_spec_does_carry_them() -> None:
    """The tests above would pass if nothing were read at all."""
    problems: list[Problem] = []
    loaded = load_documents(parse_documents(CASES["used as base64"], "f.yaml", problems), problems)
    (spec,), _ = resolve(loaded, cache_dir="/c", default_cache="/d", environ={}, home="/x")
    assert spec.mounts[0].secrets == {"access_key": WORD, "secret_key": WORD}


@pytest.mark.parametrize(
    "name",
    ["secret-key", "fs.s3.accessKeySecret", "fs.s3.accessKeyId", "password", "passwd", "token", "aws.secretKey", "access", "key",
     "metaurl", "AWS_SESSION_TOKEN", "sas", "authorization", "api_key", "credentials", "private-key"],
)  # fmt: skip
def test_secretish(name: str) -> None:
    assert secretish(name)
    assert show("x", name) == HIDDEN


@pytest.mark.parametrize("name", ["endpoint", "region", "cache-size", "path", "mediumtype", "quota", "passthrough"])
def test_not_secretish(name: str) -> None:
    assert show("x", name) == '"x"'


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("s3://bucket/x", "s3://bucket/x"),
        ("s3://a:b@bucket/x", "s3://bucket/x"),
        ("s3://a:b/c@bucket/x", "s3://bucket/x"),
        ("http://h/x?a=b#c", "http://h/x?..."),
    ],
)
def test_strip_credentials(url: str, shown: str) -> None:
    assert strip_credentials(url) == shown
