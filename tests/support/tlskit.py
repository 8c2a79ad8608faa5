"""A certificate of the test's own, and a TLS front for an HTTP server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from servers import free_port, nginx


def certificate(folder: Path) -> Path:
    """A PEM file with key and certificate of 127.0.0.1, which is its own authority."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "store of a test")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    path = folder / "store.pem"
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(secret + made.public_bytes(pem))
    return path


@contextmanager
def tls_front(url: str, scratch: Path, pem: Path) -> Iterator[int]:
    """nginx with TLS before the server at `url`. Yields its port."""
    port = free_port()
    scratch.mkdir(parents=True, exist_ok=True)
    front = (
        f"listen 127.0.0.1:{port} ssl; ssl_certificate {pem}; ssl_certificate_key {pem};"
        f"location / {{ proxy_pass {url}; proxy_http_version 1.1; proxy_set_header Host $http_host;"
        ' proxy_set_header Connection ""; proxy_buffering off; }'
    )
    with nginx(scratch, scratch / "nginx", front):
        yield port
