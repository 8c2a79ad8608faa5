"""Kubeconfigs and service accounts: what kubectl takes is taken, everything else is refused with a sentence."""

from __future__ import annotations

import base64
import stat
from pathlib import Path
from typing import Any

import pytest
import yaml

from forebay.kube import config as c
from forebay.kube.credentials import REREAD, Fixed, Plugin, TokenFile, credentials_of


def kubeconfig(path: Path, **change: Any) -> Path:
    """A file with one cluster, user and context called "x"; `change` replaces or adds fields of the cluster or user."""
    cluster: dict[str, Any] = {"server": "https://api.example:6443/"} | change.get("cluster", {})
    document = {
        "current-context": change.get("current", "x"),
        "clusters": [{"name": "x", "cluster": cluster}],
        "users": [{"name": "x", "user": change.get("user", {"token": "t0ken"})}],
        "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"} | change.get("context", {})}],
    }
    path.write_text(yaml.safe_dump(document))
    return path


def test_a_kubeconfig_with_a_token(tmp_path: Path) -> None:
    endpoint = c.find(str(kubeconfig(tmp_path / "k", context={"namespace": "team"})))
    assert (endpoint.server, endpoint.namespace, endpoint.token) == ("https://api.example:6443", "team", "t0ken")
    assert endpoint.verify
    assert "t0ken" not in repr(endpoint)


def test_inline_data_wins_over_files_and_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    data = base64.b64encode(b"PEM").decode()
    user = {"client-certificate-data": data, "client-certificate": "gone.crt", "client-key": "keys/me.key"}
    endpoint = c.find(str(kubeconfig(tmp_path / "k", user=user, cluster={"certificate-authority": "ca.crt"})))
    assert endpoint.certificate == b"PEM"
    assert endpoint.key == tmp_path / "keys/me.key"
    assert endpoint.ca == tmp_path / "ca.crt"


def test_of_several_files_the_first_that_names_a_thing_wins_and_absent_ones_are_passed_over(tmp_path: Path) -> None:
    one = kubeconfig(tmp_path / "1", cluster={"server": "https://one:1"})
    two = kubeconfig(tmp_path / "2", cluster={"server": "https://two:2"}, current="other")
    listed = f"{tmp_path}/none:{one}:{two}"
    assert c.find(environ={"KUBECONFIG": listed}).server == "https://one:1"


def test_the_usual_order_ends_with_the_home_folder(tmp_path: Path) -> None:
    (tmp_path / ".kube").mkdir()
    kubeconfig(tmp_path / ".kube/config")
    assert c.find(environ={"HOME": str(tmp_path)}).token == "t0ken"
    with pytest.raises(c.ConfigError, match="no cluster is known: KUBECONFIG is not set"):
        c.find(environ={"HOME": str(tmp_path / "nobody")})


def test_a_pod_has_what_the_kubelet_mounts(tmp_path: Path) -> None:
    for name, text in (("token", "abc\n"), ("ca.crt", "PEM"), ("namespace", "forebay-system\n")):
        (tmp_path / name).write_text(text)
    environ = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"}
    endpoint = c.in_cluster(environ, tmp_path)
    assert (endpoint.server, endpoint.namespace) == ("https://[fd00::1]:443", "forebay-system")
    assert credentials_of(endpoint).headers(0.0) == [("Authorization", "Bearer abc")]
    (tmp_path / "ca.crt").unlink()
    with pytest.raises(c.ConfigError, match=r"ca.crt does not exist; let the pod mount"):
        c.in_cluster(environ, tmp_path)
    with pytest.raises(c.ConfigError, match="this is no pod"):
        c.in_cluster({}, tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"cluster": {"server": "api.example"}}, '"x": server is'),
        ({"cluster": {"proxy-url": "socks5://p:1"}}, "proxy-url is not an http:// address"),
        ({"cluster": {"certificate-authority-data": "%%%"}}, "certificate-authority-data is no base64"),
        ({"cluster": {"server": 7}}, "server is not text"),
        ({"user": {"auth-provider": {"name": "gcp"}}}, "auth-provider was removed from Kubernetes in 1.26"),
        ({"user": {"username": "u", "password": "p4ss"}}, "use a token or a certificate"),
        ({"user": {"client-key": "k"}}, "go together, one is missing"),
        ({"user": {"exec": {"args": []}}}, "exec is not what a credential plugin needs"),
        ({"current": ""}, "no context is chosen; set current-context or name one of: x"),
        ({"current": "y"}, 'there is no context "y"; there is: x'),
        ({"context": {"cluster": "z"}}, 'there is no cluster "z"'),
    ],
)
def test_what_cannot_be_used_is_refused_with_file_and_field(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    path = kubeconfig(tmp_path / "k", **change)
    with pytest.raises(c.ConfigError) as refused:
        c.find(str(path))
    assert words in str(refused.value)
    assert str(path) in str(refused.value)
    assert "p4ss" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "words"), [("a: [", "is no YAML"), ("- 1", "holds no mapping"), ("clusters: [7]", "an entry of clusters")]
)
def test_a_file_that_is_no_kubeconfig(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "k"
    path.write_text(text)
    with pytest.raises(c.ConfigError, match=words):
        c.find(str(path))
    with pytest.raises(c.ConfigError, match="cannot be read: No such file"):
        c.find(str(tmp_path / "none"))


def test_impersonation(tmp_path: Path) -> None:
    endpoint = c.find(str(kubeconfig(tmp_path / "k", user={"token": "t", "as": "jane", "as-groups": ["a", "b"]})))
    assert endpoint.impersonate == (("Impersonate-User", "jane"), ("Impersonate-Group", "a"), ("Impersonate-Group", "b"))


# --- credentials ----------------------------------------------------------------------------------------------------


def bearer(token: str) -> list[tuple[str, str]]:
    return [("Authorization", f"Bearer {token}")]


def test_a_token_file_is_read_again_after_a_minute_and_after_a_refusal(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("one\n")
    creds = TokenFile(path)
    assert creds.headers(0.0) == bearer("one")
    path.write_text("two")
    assert creds.headers(REREAD - 1) == bearer("one")
    assert creds.headers(REREAD) == bearer("two")
    path.write_text("three")
    creds.refused()
    assert creds.headers(REREAD + 1) == bearer("three")
    path.unlink()  # in the moment of a rotation
    creds.refused()
    assert creds.headers(1e6) == bearer("three")


@pytest.mark.parametrize(("text", "words"), [(None, "cannot be read: No such file"), (" \n", "is empty")])
def test_a_token_file_without_a_token(tmp_path: Path, text: str | None, words: str) -> None:
    path = tmp_path / "token"
    if text is not None:
        path.write_text(text)
    with pytest.raises(c.ConfigError, match=words):
        TokenFile(path).headers(0.0)


def test_no_token_is_no_header() -> None:
    assert Fixed("").headers(0.0) == []


def plugin(tmp_path: Path, script: str) -> Plugin:
    path = tmp_path / "plugin"
    path.write_text(f"#!/bin/sh\necho run >> {tmp_path}/runs\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    file = kubeconfig(
        tmp_path / "k", user={"exec": {"command": "./plugin", "args": ["a b"], "env": [{"name": "X", "value": "y"}]}}
    )
    return credentials_of(c.find(str(file)))  # type: ignore[return-value]


ANSWER = '{"kind":"ExecCredential","status":{"token":"%s","expirationTimestamp":"%s"}}'


def test_a_plugin_is_run_once_until_its_token_expires_or_is_refused(tmp_path: Path) -> None:
    creds = plugin(tmp_path, f"""test "$1" = "a b" && printf '{ANSWER % ("$X", "2999-01-01T00:00:00Z")}' | sed "s/.X/$X/" """)
    assert creds.headers(0.0) == bearer("y")
    assert creds.headers(1e6) == bearer("y")
    creds.refused()
    assert creds.headers(1e6) == bearer("y")
    assert (tmp_path / "runs").read_text().count("run") == 2


def test_a_plugins_expired_token_is_not_kept(tmp_path: Path) -> None:
    creds = plugin(tmp_path, f"""printf '{ANSWER % ("t", "2000-01-01T00:00:00Z")}'""")
    creds.headers(0.0)
    creds.headers(0.0)
    assert (tmp_path / "runs").read_text().count("run") == 2


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo s3cret", "its answer is no ExecCredential"),
        ("echo '{}'", "gives no token"),
        ("echo please log in >&2; exit 3", "exit 3: please log in; run it by hand"),
        ("""echo '{"status":{"clientCertificateData":"x"}}'""", "a client certificate, which is not taken"),
    ],
)
def test_a_plugin_that_fails_says_why(tmp_path: Path, script: str, words: str) -> None:
    with pytest.raises(c.ConfigError) as refused:
        plugin(tmp_path, script).headers(0.0)
    assert words in str(refused.value)
    assert "s3cret" not in str(refused.value)
