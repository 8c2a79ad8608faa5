"""The HTTPS door: what it answers, what it refuses to read, and that nobody holds it up."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from forebay.controller.admission import door as doors
from forebay.controller.admission.certificates import CA, CERTIFICATE, KEY, kept
from forebay.controller.admission.door import BIGGEST, Door
from forebay.controller.admission.review import WARNING_MAX, WARNINGS, Answer, Cause, Request

HOST = "localhost"
NO_TLS, HALF = b"GET / HTTP/1.1\r\n\r\n", b"POST /yes HTTP/1.1\r\nContent-Length: 50\r\n"


class Lab:
    """A door with four routes, and an API server's side of it."""

    def __init__(self, folder: Path) -> None:
        data = kept({}, (HOST,), datetime.now(UTC))
        assert data is not None
        for name in (CERTIFICATE, KEY):
            (folder / name).write_bytes(data[name])
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / CERTIFICATE, folder / KEY)
        self.trust = ssl.create_default_context(cadata=data[CA].decode())
        self.seen: list[tuple[str, str]] = []
        self.held, self.go = threading.Event(), threading.Event()
        routes = {"/yes": self._yes, "/no": self._no, "/bad": self._bad, "/slow": self._slow}
        self.door = Door(("127.0.0.1", 0), context, routes, lambda path, outcome, _: self.seen.append((path, outcome)))
        self.door.start()

    def _yes(self, asked: Request) -> Answer:
        return Answer(patch=[{"op": "add", "path": "/x", "value": asked.name}], warnings=("w" * 1000, *map(str, range(99))))

    def _no(self, asked: Request) -> Answer:
        return Answer(refused=(Cause("spec.a", "spec.a is wrong; do b"), Cause("spec.c", "spec.c is wrong; do d")))

    def _bad(self, asked: Request) -> Answer:
        raise KeyError("a defect")

    def _slow(self, asked: Request) -> Answer:
        self.held.set()
        assert self.go.wait(60)
        return Answer()

    def connect(self) -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection(HOST, self.door.port, context=self.trust, timeout=60)

    def raw(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.door.port), 60)

    def secured(self) -> ssl.SSLSocket:
        return self.trust.wrap_socket(self.raw(), server_hostname=HOST)

    def post(self, path: str, body: bytes, content: str = "application/json") -> tuple[int, bytes]:
        connection = self.connect()
        try:
            connection.request("POST", path, body, {"Content-Type": content})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    made = Lab(tmp_path)
    yield made
    made.go.set()
    assert made.door.stop()


def asked(**more: Any) -> bytes:
    request = {"uid": "u1", "kind": {"kind": "Pod"}, "operation": "CREATE", "name": "p", "object": {"a": 1}, **more}
    return json.dumps({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}).encode()


def test_a_patch_and_warnings_within_the_servers_bounds(lab: Lab) -> None:
    code, body = lab.post("/yes?timeout=5s", asked())
    said = json.loads(body)["response"]
    assert (code, said["uid"], said["allowed"], said["patchType"]) == (200, "u1", True, "JSONPatch")
    assert json.loads(base64.b64decode(said["patch"])) == [{"op": "add", "path": "/x", "value": "p"}]
    assert len(said["warnings"]) == WARNINGS
    assert max(map(len, said["warnings"])) == WARNING_MAX
    assert said["warnings"][-1].startswith("and 89 more")


def test_a_refusal_names_every_field(lab: Lab) -> None:
    said = json.loads(lab.post("/no", asked())[1])["response"]
    assert said["allowed"] is False
    assert said["status"]["code"] == 422
    assert said["status"]["message"] == "spec.a is wrong; do b; and spec.c is wrong; do d"
    causes = said["status"]["details"]["causes"]
    assert [(c["field"], c["message"]) for c in causes] == [("spec.a", "is wrong; do b"), ("spec.c", "is wrong; do d")]
    assert "patch" not in said


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "no AdmissionReview"),
        (b"{", "no AdmissionReview"),
        (b"\xff\xfe", "no AdmissionReview"),
        (b"[]", "no AdmissionReview"),
        (b"[" * 100_000, "no AdmissionReview"),
        (b"{}", "admission.k8s.io/v1 AdmissionReview"),
        (b'{"apiVersion":"admission.k8s.io/v1beta1","kind":"AdmissionReview"}', "send admission.k8s.io/v1"),
        (b'{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview"}', "has no request"),
        (asked(uid=""), "without uid"),
        (asked(object=[1]), "no AdmissionReview"),
        (asked(uid=7), "no AdmissionReview"),
    ],
    ids=range(11),
)
def test_what_is_no_review_is_said(lab: Lab, body: bytes, words: str) -> None:
    code, said = lab.post("/yes", body)
    assert code == 400
    assert words in said.decode()
    assert lab.seen == [("/yes", "malformed")]


def test_other_requests_are_refused_before_they_are_read(lab: Lab) -> None:
    assert lab.post("/other", asked())[0] == 404
    assert lab.post("/yes", asked(), "text/plain")[0] == 415
    connection = lab.connect()
    connection.putrequest("POST", "/yes")
    connection.putheader("Content-Length", str(BIGGEST + 1))
    connection.endheaders()
    assert connection.getresponse().status == 413
    connection.close()
    connection = lab.connect()
    connection.putrequest("POST", "/yes")
    connection.putheader("Transfer-Encoding", "chunked")
    connection.endheaders()
    assert connection.getresponse().status == 411
    connection.close()
    connection = lab.connect()
    connection.request("GET", "/yes")
    assert connection.getresponse().status == 501
    connection.close()


def test_a_defect_is_an_error_and_the_next_request_is_served(lab: Lab) -> None:
    connection = lab.connect()
    for path, code in (("/bad", 500), ("/yes", 200)):
        connection.request("POST", path, asked(), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        assert answer.status == code
    connection.close()
    assert [outcome for _, outcome in lab.seen] == ["failed", "allowed"]


def test_callers_that_are_silent_or_speak_no_tls_hold_nobody_up(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doors, "HANDSHAKE", 60.0)
    silent, (plain, idle, half) = [lab.raw() for _ in range(20)], (lab.raw(), lab.secured(), lab.secured())
    plain.sendall(NO_TLS)
    half.sendall(HALF)
    assert lab.post("/yes", asked())[0] == 200
    for sock in (*silent, plain, idle, half):
        sock.close()


def test_callers_that_are_silent_or_speak_no_tls_are_ended(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doors, "HANDSHAKE", 60.0)
    for name in ("WHOLE", "IDLE"):
        monkeypatch.setattr(doors, name, 0.5)
    idle, half = lab.secured(), lab.secured()
    with contextlib.suppress(OSError):  # where it was ended as idle
        half.sendall(HALF)
    monkeypatch.setattr(doors, "HANDSHAKE", 0.5)
    silent, plain = lab.raw(), lab.raw()
    plain.sendall(NO_TLS)
    for sock in (idle, half, silent, plain):
        _drained(sock)  # it ends: the door has closed it
        sock.close()


def test_a_request_that_trickles_is_ended_as_a_whole(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each byte comes soon; all of them never."""
    monkeypatch.setattr(doors, "WHOLE", 1.0)
    sock = lab.secured()
    sock.sendall(b"POST /yes HTTP/1.1\r\n")
    end = time.monotonic() + 60
    ended = False
    while not ended:
        assert time.monotonic() < end, "it goes on"
        try:
            sock.sendall(b"X")
        except OSError:
            ended = True
        time.sleep(0.05)
    sock.close()


def test_connections_have_a_bound(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doors, "AT_ONCE", 3)
    held = [lab.secured() for _ in range(3)]
    end = time.monotonic() + 60
    while len(lab.door._server._open) < 3:
        assert time.monotonic() < end
        time.sleep(0.01)
    with pytest.raises((OSError, http.client.HTTPException)):
        lab.post("/yes", asked())
    for sock in held:
        sock.close()
    while lab.door._server._open:
        assert time.monotonic() < end
        time.sleep(0.01)
    assert lab.post("/yes", asked())[0] == 200


def test_at_the_end_a_request_in_hand_is_answered(lab: Lab) -> None:
    found: list[int] = []
    caller = threading.Thread(target=lambda: found.append(lab.post("/slow", asked())[0]))
    idle = lab.connect()
    idle.connect()
    caller.start()
    assert lab.held.wait(60)
    ended: list[bool] = []
    ending = threading.Thread(target=lambda: ended.append(lab.door.stop(60)))
    ending.start()
    time.sleep(0.3)
    assert not ended, "it did not wait"
    lab.go.set()
    for thread in (caller, ending):
        thread.join(60)
    assert (found, ended) == ([200], [True])
    idle.close()
    with pytest.raises(OSError):  # noqa: PT011
        lab.raw()


def _drained(sock: socket.socket) -> None:
    sock.settimeout(60)
    try:
        while sock.recv(4096):
            pass
    except TimeoutError:
        raise AssertionError("it goes on") from None
    except OSError:
        pass  # reset: as good an ending
