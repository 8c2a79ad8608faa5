"""One thread that keeps the certificates: the Secret that holds them, the TLS context that serves them, and the webhook
configurations' `caBundle`. Every replica runs it: writes carry the version that was read, so of two that make certificates at
once one is refused, and takes the other's at its next look.
"""

from __future__ import annotations

import base64
import logging
import os
import ssl
import tempfile
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from forebay.controller.admission import certificates
from forebay.kube.client import Client
from forebay.kube.config import ConfigError
from forebay.kube.errors import ApiError, Conflict, NotFound, Unreachable, Unusable
from forebay.kube.objects import Key, ObjectMeta
from forebay.kube.resources import SECRETS, Resource

LOG = logging.getLogger(__name__)

LOOK = 30.0
"""Seconds between looks: the longest that a replica serves a certificate which another one has replaced."""
RETRY = 2.0
"""Seconds after a look that failed, doubling up to LOOK."""


class Names(NamedTuple):
    """Where the certificates lie, for which names, and who is told of them."""

    secret: Key
    hosts: tuple[str, ...]
    configurations: tuple[tuple[Resource, str], ...]


class _Secret(msgspec.Struct, frozen=True):
    metadata: ObjectMeta
    data: dict[str, str] = {}


class _Configuration(msgspec.Struct, frozen=True):
    metadata: ObjectMeta
    webhooks: list[dict[str, Any]] = []


class Keeper:
    """`start`, then `context` once `ready`; `stop`. `problem`: why the last look failed, "" when it did not."""

    def __init__(
        self, client: Client, names: Names, *, look: float = LOOK, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._client, self._names, self._look, self._now = client, names, look, now
        self._ending = threading.Event()
        self.ready = threading.Event()
        self.problem = "the certificates were not read yet"
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._served: dict[str, bytes] = {}
        self._thread = threading.Thread(target=self._run, name="certificates", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout: float = 10.0) -> bool:
        """Whether the thread ended in time."""
        self._ending.set()
        if self._thread.ident is not None:
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def expiry(self) -> datetime | None:
        """When the certificate that is served ends; None before there is one."""
        return certificates.expiry(self._served) if self._served else None

    # --- the thread ---

    def _run(self) -> None:
        pause = RETRY
        while not self._ending.is_set():
            try:
                self.look()
            except (ApiError, Unreachable, Unusable, ConfigError, OSError, ssl.SSLError) as error:
                self.problem = f"certificates: {error}"
                LOG.warning("%s; again in %.0f s", self.problem, pause)
                self._ending.wait(pause)
                pause = min(self._look, 2 * pause)
                continue
            self.problem, pause = "", RETRY
            self._ending.wait(self._look)

    def look(self) -> None:
        """One pass: reads, makes what is missing or near its end, serves it, tells the configurations. Raises what calls do."""
        data = self._secret()
        if data != self._served:
            self._serve(data)
        for resource, name in self._names.configurations:
            self._tell(resource, name, data[certificates.CA])

    def _secret(self) -> dict[str, bytes]:
        """What the Secret holds, once it is good."""
        for _ in range(3):
            found = self._client.get(SECRETS, self._names.secret, _Secret)
            held = _decoded(found.data)
            wanted = certificates.kept(held, self._names.hosts, self._now())
            if wanted is None:
                return held
            LOG.info("secret %s: made anew: %s", self._names.secret, certificates.why(held, self._names.hosts, self._now()))
            body = {
                "metadata": {"resourceVersion": found.metadata.resource_version},
                "data": {name: base64.b64encode(value).decode() for name, value in wanted.items()},
            }
            try:
                self._client.merge(SECRETS, self._names.secret, body)
            except Conflict:
                continue  # another replica was first: its certificates are as good
            return wanted
        raise Unusable(f"secret {self._names.secret} is written again and again by others; look who does")

    def _serve(self, data: dict[str, bytes]) -> None:
        """New handshakes have it from now on. `ssl` takes files alone: 0700, gone at once."""
        with tempfile.TemporaryDirectory(prefix="forebay-") as folder:
            chain, key = Path(folder, "crt"), Path(folder, "key")
            for path, name in ((chain, certificates.CERTIFICATE), (key, certificates.KEY)):
                with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                    file.write(data[name])
            self.context.load_cert_chain(chain, key)
        self._served = data
        LOG.info("serving a certificate that ends at %s", certificates.expiry(data).isoformat())
        self.ready.set()

    def _tell(self, resource: Resource, name: str, authority: bytes) -> None:
        """Whose certificates API servers shall trust. One that somebody took away is told nothing: it is not made here."""
        try:
            found = self._client.get(resource, Key("", name), _Configuration)
        except NotFound:
            LOG.info("%s %s is not there", resource.kind, name)
            return
        bundle = base64.b64encode(authority).decode()
        told = with_bundle(found.webhooks, bundle)
        if told == found.webhooks:
            return
        version = {"resourceVersion": found.metadata.resource_version}
        try:
            self._client.merge(resource, Key("", name), {"metadata": version, "webhooks": told})
        except Conflict:
            LOG.info("%s %s was written meanwhile; the next look sees to it", resource.kind, name)
            return
        LOG.info("%s %s: told of our authority", resource.kind, name)


def with_bundle(webhooks: Sequence[dict[str, Any]], bundle: str) -> list[dict[str, Any]]:
    """The webhooks of a configuration with `caBundle` in each."""
    return [{**hook, "clientConfig": {**hook.get("clientConfig", {}), "caBundle": bundle}} for hook in webhooks]


def _decoded(data: dict[str, str]) -> dict[str, bytes]:
    return {name: base64.b64decode(value) for name, value in data.items() if name in _KEPT}


_KEPT = (certificates.CA, certificates.CA_KEY, certificates.CERTIFICATE, certificates.KEY)
