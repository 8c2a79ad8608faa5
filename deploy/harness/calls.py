"""Calls to the API server of a cluster, by the standard library alone: the harness must not stand on what it tests."""

from __future__ import annotations

import http.client
import json
import ssl
from pathlib import Path
from typing import Any

Object = dict[str, Any]


class Refused(Exception):
    """The server said no: `code` and its words."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code}: {text[:300]}")
        self.code = code


class Api:
    """As an administrator, one connection a call. Raises Refused, and OSError where nobody answers."""

    def __init__(self, address: str, port: int, ca: Path, certificate: Path, key: Path) -> None:
        self._address, self._port = address, port
        self._tls = ssl.create_default_context(cafile=str(ca))
        self._tls.load_cert_chain(certificate, key)

    def call(self, method: str, path: str, body: Object | None = None, kind: str = "application/json") -> Object:
        """The decoded answer; a text answer as {"text": ...}."""
        connection = http.client.HTTPSConnection(self._address, self._port, timeout=10, context=self._tls)
        try:
            headers = {"Accept": "application/json", "Content-Type": kind}
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            text = answer.read().decode()
        finally:
            connection.close()
        if answer.status >= 300:
            raise Refused(answer.status, text)
        return json.loads(text) if text.startswith("{") else {"text": text}

    def there(self, path: str) -> bool:
        """Whether it answers a GET with yes; False too while nobody listens."""
        try:
            self.call("GET", path)
        except (OSError, http.client.HTTPException, Refused):
            return False
        return True

    def ready_nodes(self) -> set[str]:
        """Names of the nodes that are Ready."""
        return {
            item["metadata"]["name"]
            for item in self.call("GET", "/api/v1/nodes")["items"]
            for condition in item["status"].get("conditions", [])
            if condition["type"] == "Ready" and condition["status"] == "True"
        }
