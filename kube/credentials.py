"""What proves who we are, as headers of a request: a token, a token file that is rotated, or a credential plugin."""

from __future__ import annotations

import base64
import os
import subprocess
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import msgspec

from forebay.kube.config import ConfigError, Endpoint, Exec

REREAD = 60.0
"""Seconds after which a token file is read again. The kubelet rotates it at 80 % of its life, an hour at the least."""
PLUGIN_DEADLINE = 60.0
EARLY = 30.0
"""Seconds before its end that a plugin's credential counts as expired."""


class Credentials(Protocol):
    def headers(self, now: float) -> list[tuple[str, str]]:
        """The headers of a request that is made at `now` (monotonic seconds). Raises ConfigError."""

    def refused(self) -> None:
        """The server answered 401: what is remembered is not good any more."""


class Fixed:
    """A token that never changes, or none."""

    def __init__(self, token: str) -> None:
        self._headers = [("Authorization", f"Bearer {token}")] if token else []

    def headers(self, now: float) -> list[tuple[str, str]]:
        return self._headers

    def refused(self) -> None:
        return


class TokenFile:
    """A file that others rotate: read again every `REREAD` seconds, and after a refusal."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._token = ""
        self._read_at = float("-inf")

    def headers(self, now: float) -> list[tuple[str, str]]:
        with self._lock:
            if now - self._read_at >= REREAD:
                self._read(now)
            return [("Authorization", f"Bearer {self._token}")]

    def _read(self, now: float) -> None:
        try:
            token = self._path.read_text().strip()
        except OSError as error:
            if self._token:
                return  # in the moment of a rotation; the old one is good for minutes yet
            raise ConfigError(
                f"{self._path}: the token cannot be read: {error.strerror}; mount the service account's token"
            ) from None
        if not token:
            raise ConfigError(f"{self._path}: the token is empty; mount the service account's token")
        self._token, self._read_at = token, now

    def refused(self) -> None:
        with self._lock:
            self._read_at = float("-inf")


class _Credential(msgspec.Struct, rename="camel"):
    token: str = ""
    expiration_timestamp: datetime | None = None
    client_certificate_data: str = ""


class _Answer(msgspec.Struct):
    status: _Credential | None = None


class Plugin:
    """Runs a credential plugin, and again when its token expires or is refused. Tokens only: no client certificates."""

    def __init__(self, plugin: Exec, endpoint: Endpoint) -> None:
        self._plugin, self._endpoint = plugin, endpoint
        self._lock = threading.Lock()
        self._token = ""
        self._until = float("-inf")

    def headers(self, now: float) -> list[tuple[str, str]]:
        with self._lock:
            if now >= self._until:
                self._run(now)
            return [("Authorization", f"Bearer {self._token}")]

    def refused(self) -> None:
        with self._lock:
            self._until = float("-inf")

    def _run(self, now: float) -> None:
        plugin = self._plugin
        spec: dict[str, object] = {"interactive": False}
        if plugin.provide_cluster_info:
            spec["cluster"] = _cluster_info(self._endpoint)
        info = {"apiVersion": plugin.api_version, "kind": "ExecCredential", "spec": spec}
        environment = dict(os.environ) | {"KUBERNETES_EXEC_INFO": msgspec.json.encode(info).decode()}
        environment |= {pair["name"]: pair["value"] for pair in plugin.env or [] if "name" in pair and "value" in pair}
        hint = f" ({plugin.install_hint.strip()})" if plugin.install_hint else ""
        try:
            done = subprocess.run(
                [plugin.command, *(plugin.args or [])],
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=PLUGIN_DEADLINE,
                check=True,
            )
            answer = msgspec.json.decode(done.stdout, type=_Answer)
        except OSError as error:
            raise ConfigError(f"credential plugin {plugin.command}: cannot be run: {error.strerror}; install it{hint}") from None
        except subprocess.TimeoutExpired:
            raise ConfigError(
                f"credential plugin {plugin.command}: no answer in {PLUGIN_DEADLINE:.0f} s; run it by hand"
            ) from None
        except subprocess.CalledProcessError as error:
            words = error.stderr.decode("utf-8", "replace").strip()[-300:]
            raise ConfigError(f"credential plugin {plugin.command}: exit {error.returncode}: {words}; run it by hand") from None
        except msgspec.DecodeError:  # its words would repeat the secret
            raise ConfigError(f"credential plugin {plugin.command}: its answer is no ExecCredential; check its version") from None
        status = answer.status
        if status is None or not status.token:
            what = (
                "a client certificate, which is not taken from a plugin"
                if status and status.client_certificate_data
                else "no token"
            )
            raise ConfigError(f"credential plugin {plugin.command}: gives {what}; use a plugin that gives a token")
        self._token, self._until = status.token, float("inf")
        if (end := status.expiration_timestamp) is not None:
            left = (end - datetime.now(UTC)).total_seconds() if end.tzinfo else 0.0
            self._until = now + max(0.0, left - EARLY)


def _cluster_info(endpoint: Endpoint) -> dict[str, object]:
    info: dict[str, object] = {"server": endpoint.server, "insecure-skip-tls-verify": not endpoint.verify}
    ca = endpoint.ca.read_bytes() if isinstance(endpoint.ca, Path) else endpoint.ca
    if ca:
        info["certificate-authority-data"] = base64.b64encode(ca).decode()
    return info


def credentials_of(endpoint: Endpoint) -> Credentials:
    if endpoint.plugin is not None:
        return Plugin(endpoint.plugin, endpoint)
    if endpoint.token_file is not None:
        return TokenFile(endpoint.token_file)
    return Fixed(endpoint.token)
