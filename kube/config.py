"""Where the API server is and who we are: a kubeconfig file, or the service account of a pod.

What kubectl reads is read the same way: several files in `KUBECONFIG` (the first that names a thing wins), relative paths
relative to their file, inline data before files, exec plugins. Refused with a sentence, instead of ignored: the removed
`auth-provider`, user name and password, proxies that are not http.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import yaml

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


class ConfigError(Exception):
    """The configuration cannot be used; the sentence names file, field and remedy."""


class Exec(msgspec.Struct, frozen=True, rename="camel"):
    """A credential plugin (`client.authentication.k8s.io`), run without a shell."""

    command: str
    api_version: str = "client.authentication.k8s.io/v1"
    args: list[str] | None = None
    env: list[dict[str, str]] | None = None
    install_hint: str = ""
    provide_cluster_info: bool = False


class Endpoint(msgspec.Struct, frozen=True):
    """All that is needed to talk to one API server as one user. Holds secrets: never print it.

    `ca`, `certificate`, `key` are PEM bytes or the path of a file, which is read again when it changes. No `ca`: the
    system's authorities. `namespace`: where namespaced things go when nobody says.
    """

    server: str
    namespace: str = "default"
    ca: bytes | Path | None = None
    verify: bool = True
    server_name: str = ""
    proxy: str = ""
    certificate: bytes | Path | None = None
    key: bytes | Path | None = None
    token: str = ""
    token_file: Path | None = None
    plugin: Exec | None = None
    impersonate: tuple[tuple[str, str], ...] = ()

    def __repr__(self) -> str:
        return f"Endpoint({self.server})"


def find(explicit: str = "", context: str = "", environ: Mapping[str, str] | None = None) -> Endpoint:
    """The endpoint by the usual order: the file named, `KUBECONFIG`, the pod's service account, `~/.kube/config`.

    Raises ConfigError.
    """
    environ = os.environ if environ is None else environ
    if explicit:
        return from_files([Path(explicit)], context)
    if listed := environ.get("KUBECONFIG", ""):
        return from_files([Path(part) for part in listed.split(os.pathsep) if part], context)
    if environ.get("KUBERNETES_SERVICE_HOST") and (SERVICE_ACCOUNT / "token").exists():
        return in_cluster(environ)
    home = Path(environ.get("HOME", "/")) / ".kube" / "config"
    if home.exists():
        return from_files([home], context)
    raise ConfigError(f"no cluster is known: KUBECONFIG is not set, this is no pod, and {home} does not exist; name a kubeconfig")


def in_cluster(environ: Mapping[str, str], folder: Path = SERVICE_ACCOUNT) -> Endpoint:
    """What a pod is given: environment variables and the projected service account."""
    host, port = environ.get("KUBERNETES_SERVICE_HOST", ""), environ.get("KUBERNETES_SERVICE_PORT", "")
    if not host or not port:
        raise ConfigError("KUBERNETES_SERVICE_HOST or KUBERNETES_SERVICE_PORT is not set: this is no pod; name a kubeconfig")
    if not (folder / "token").exists():
        raise ConfigError(f"{folder}/token does not exist; let the pod mount its service account's token")
    if not (folder / "ca.crt").exists():
        raise ConfigError(f"{folder}/ca.crt does not exist; let the pod mount its service account's token")
    space = folder / "namespace"
    return Endpoint(
        server=f"https://{f'[{host}]' if ':' in host else host}:{port}",
        namespace=space.read_text().strip() if space.exists() else "default",
        ca=folder / "ca.crt",
        token_file=folder / "token",
    )


# --- kubeconfig -----------------------------------------------------------------------------------------------------


class _Entry(msgspec.Struct, frozen=True):
    """A named part of a kubeconfig and the file that it stands in."""

    file: Path
    name: str
    body: dict[str, Any]

    def text(self, field: str) -> str:
        value = self.body.get(field)
        if value is None:
            return ""
        if not isinstance(value, str):
            raise self.bad(field, "is not text")
        return value

    def pem(self, field: str) -> bytes | Path | None:
        """`field-data` (base64), else the file named by `field`."""
        if data := self.text(f"{field}-data"):
            try:
                return base64.b64decode(data, validate=True)
            except binascii.Error as error:
                raise self.bad(f"{field}-data", f"is no base64 ({error})") from None
        path = self.text(field)
        return self.file.parent / path if path else None

    def bad(self, field: str, why: str, remedy: str = "correct the kubeconfig") -> ConfigError:
        return ConfigError(f'{self.file}: "{self.name}": {field} {why}; {remedy}')


def from_files(files: list[Path], context: str = "") -> Endpoint:
    """The endpoint of `context` (default: the current one) in kubeconfigs merged as kubectl merges. Raises ConfigError."""
    parts: dict[str, dict[str, _Entry]] = {"clusters": {}, "users": {}, "contexts": {}}
    current = ""
    read = 0
    for file in files:
        if not file.exists() and len(files) > 1:
            continue  # as kubectl: files of a list may be absent
        document = _read(file)
        read += 1
        current = current or str(document.get("current-context") or "")
        for section, found in parts.items():
            for entry in _entries(file, section, document):
                found.setdefault(entry.name, entry)
    if not read:
        raise ConfigError(f"none of {', '.join(map(str, files))} exists; name a kubeconfig")
    where = ", ".join(map(str, files))
    chosen = _pick(parts["contexts"], context or current, "context", where)
    cluster = _pick(parts["clusters"], chosen.text("cluster"), "cluster", where)
    user = _pick(parts["users"], chosen.text("user"), "user", where) if chosen.text("user") else _Entry(cluster.file, "", {})
    return _endpoint(cluster, user, chosen.text("namespace") or "default")


def _read(file: Path) -> dict[str, Any]:
    try:
        document = yaml.safe_load(file.read_bytes())
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}; name a kubeconfig that exists") from None
    except yaml.YAMLError:
        raise ConfigError(f"{file}: is no YAML; correct the kubeconfig") from None  # the parser's words may repeat a secret
    if not isinstance(document, dict):
        raise ConfigError(f"{file}: holds no mapping; a kubeconfig begins with apiVersion: v1")
    return document


def _entries(file: Path, section: str, document: dict[str, Any]) -> list[_Entry]:
    singular = section.removesuffix("s")
    out = []
    for item in document.get(section) or []:
        if not isinstance(item, dict) or not isinstance(item.get("name"), str) or not isinstance(item.get(singular) or {}, dict):
            raise ConfigError(
                f"{file}: an entry of {section} has no name, or its {singular} is no mapping; correct the kubeconfig"
            )
        out.append(_Entry(file, item["name"], item.get(singular) or {}))
    return out


def _pick(found: dict[str, _Entry], name: str, what: str, where: str) -> _Entry:
    if not name:
        raise ConfigError(f"{where}: no {what} is chosen; set current-context or name one of: {', '.join(found) or 'none there'}")
    if name not in found:
        raise ConfigError(f'{where}: there is no {what} "{name}"; there is: {", ".join(found) or "none"}')
    return found[name]


def _endpoint(cluster: _Entry, user: _Entry, namespace: str) -> Endpoint:
    server, proxy = cluster.text("server").rstrip("/"), cluster.text("proxy-url")
    if urlsplit(server).scheme not in ("https", "http") or not urlsplit(server).hostname:
        raise cluster.bad("server", f"is {server!r}", "write https://host:port")
    if proxy and urlsplit(proxy).scheme != "http":
        raise cluster.bad("proxy-url", "is not an http:// address", "use an HTTP proxy that takes CONNECT")
    if user.body.get("auth-provider"):
        raise user.bad("auth-provider", "was removed from Kubernetes in 1.26", "use the provider's exec plugin")
    if user.body.get("username") or user.body.get("password"):
        raise user.bad("username", "and password are no longer taken by API servers", "use a token or a certificate")
    certificate, key = user.pem("client-certificate"), user.pem("client-key")
    if (certificate is None) != (key is None):
        raise user.bad("client-certificate", "and client-key go together, one is missing")
    token_file = user.text("tokenFile")
    return Endpoint(
        server=server,
        namespace=namespace,
        ca=cluster.pem("certificate-authority"),
        verify=not cluster.body.get("insecure-skip-tls-verify"),
        server_name=cluster.text("tls-server-name"),
        proxy=proxy,
        certificate=certificate,
        key=key,
        token="" if token_file else user.text("token"),
        token_file=user.file.parent / token_file if token_file else None,
        plugin=_plugin(user),
        impersonate=_impersonation(user),
    )


def _plugin(user: _Entry) -> Exec | None:
    body = user.body.get("exec")
    if body is None:
        return None
    try:
        plugin = msgspec.convert(body, Exec)
    except msgspec.ValidationError as error:
        raise user.bad("exec", f"is not what a credential plugin needs: {error}") from None
    if os.sep in plugin.command and not plugin.command.startswith("/"):
        return msgspec.structs.replace(plugin, command=str(user.file.parent / plugin.command))
    return plugin


def _impersonation(user: _Entry) -> tuple[tuple[str, str], ...]:
    name = user.text("as")
    groups = user.body.get("as-groups") or []
    if not name:
        return ()
    uid = user.text("as-uid")
    return (
        ("Impersonate-User", name),
        *((("Impersonate-Uid", uid),) if uid else ()),
        *(("Impersonate-Group", str(group)) for group in groups),
    )
