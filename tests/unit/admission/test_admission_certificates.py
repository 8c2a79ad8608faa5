"""When certificates are made, and that what is made is good: to TLS itself, and to the rules by which it is kept."""

from __future__ import annotations

import socket
import ssl
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from forebay.controller.admission.certificates import AUTHORITY_LIFE, CA, CA_KEY, CERTIFICATE, KEY, LIFE, expiry, kept, why

HOSTS = ("forebay-webhook.forebay-system.svc", "forebay-webhook.forebay-system")
NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)


def made(data: dict[str, bytes] | None = None, hosts: tuple[str, ...] = HOSTS, now: datetime = NOW) -> dict[str, bytes]:
    found = kept(data or {}, hosts, now)
    assert found is not None
    return found


def test_what_is_made_is_kept() -> None:
    data = made()
    assert kept(data, HOSTS, NOW) is None
    assert why(data, HOSTS, NOW) == ""
    assert kept(data, HOSTS, NOW + LIFE * 0.6) is None


def test_a_serving_certificate_near_its_end_is_made_anew_by_the_same_authority() -> None:
    data = made()
    later = NOW + LIFE * 0.7
    assert why(data, HOSTS, later).startswith("tls.crt ends at 2027-11-27")
    renewed = made(data, now=later)
    assert (renewed[CA], renewed[CA_KEY]) == (data[CA], data[CA_KEY])
    assert expiry(renewed) == later + LIFE
    assert kept(renewed, HOSTS, later) is None


@pytest.mark.parametrize(
    ("change", "words", "authority_stays"),
    [
        ({CA: b""}, "ca.crt is missing", False),
        ({CA_KEY: b"x"}, "ca.key is no private key in PEM", False),
        ({CA: b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"}, "ca.crt is no certificate", False),
        ({KEY: b""}, "tls.key is missing", True),
        ({CERTIFICATE: b"nonsense"}, "tls.crt is no certificate in PEM", True),
    ],
)
def test_what_somebody_spoilt_is_made_anew(change: dict[str, bytes], words: str, authority_stays: bool) -> None:
    data = made()
    spoilt = {**data, **change}
    assert why(spoilt, HOSTS, NOW).startswith(words)
    renewed = made(spoilt)
    assert (renewed[CA] == data[CA]) is authority_stays
    assert kept(renewed, HOSTS, NOW) is None


def test_pieces_of_two_makings_do_not_pass() -> None:
    one, two = made(), made()
    assert "is not the key of tls.crt" in why({**one, KEY: two[KEY]}, HOSTS, NOW)
    assert "is not the key of ca.crt" in why({**one, CA_KEY: two[CA_KEY]}, HOSTS, NOW)
    assert "is not signed by ca.crt" in why({**one, CERTIFICATE: two[CERTIFICATE], KEY: two[KEY]}, HOSTS, NOW)


def test_another_name_and_a_clock_that_went_back() -> None:
    data = made()
    assert "is not for other.svc" in why(data, ("other.svc",), NOW)
    assert "ca.crt begins at" in why(data, HOSTS, NOW - timedelta(days=2))


def test_the_authority_is_replaced_before_it_cannot_sign_a_whole_life() -> None:
    data = made()
    last = NOW + AUTHORITY_LIFE - LIFE / 2
    renewed = made(data, now=last)
    assert renewed[CA] != data[CA]
    assert kept(renewed, HOSTS, last) is None


def test_tls_takes_it_by_name_and_no_other_authority(tmp_path: Path) -> None:
    data = made(now=datetime.now(UTC))
    for name in (CERTIFICATE, KEY):
        (tmp_path / name).write_bytes(data[name])
    served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    served.load_cert_chain(tmp_path / CERTIFICATE, tmp_path / KEY)

    def handshake(authority: bytes, name: str) -> str:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            thread = threading.Thread(target=_serve, args=(served, theirs))
            thread.start()
            context = ssl.create_default_context(cadata=authority.decode())
            context.verify_flags |= ssl.VERIFY_X509_STRICT
            try:
                with context.wrap_socket(ours, server_hostname=name) as secured:
                    return str(secured.version())
            except ssl.SSLCertVerificationError as error:
                return error.verify_message
            finally:
                ours.close()
                thread.join(10)

    assert handshake(data[CA], HOSTS[0]) == "TLSv1.3"
    assert "Hostname mismatch" in handshake(data[CA], "other.svc")
    assert "issuer certificate" in handshake(made(now=datetime.now(UTC))[CA], HOSTS[0])


def _serve(context: ssl.SSLContext, sock: socket.socket) -> None:
    try:
        context.wrap_socket(sock, server_side=True).close()
    except (OSError, ssl.SSLError):
        pass  # the other end refused us, as it should
