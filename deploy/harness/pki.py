"""The certificates of a cluster for tests: one authority, elliptic curve keys, a day's life. All in 0.1 s."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

PEM = serialization.Encoding.PEM


@dataclass(frozen=True)
class Pair:
    """Files of a certificate and its key."""

    crt: Path
    key: Path


class Authority:
    """Signs into `folder`; its own certificate is `crt`."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"forebay-test-{name}")])
        builder = _builder(self._subject, self._subject, self._key.public_key())
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        self.crt = folder / f"{name}.crt"
        self.crt.write_bytes(builder.sign(self._key, hashes.SHA256()).public_bytes(PEM))

    def sign(self, name: str, common: str, organisation: str = "", hosts: tuple[str, ...] = ()) -> Pair:
        """A certificate of user `common` in group `organisation`; with `hosts`, a server's too."""
        key = ec.generate_private_key(ec.SECP256R1())
        parts = [x509.NameAttribute(NameOID.COMMON_NAME, common)]
        if organisation:
            parts.insert(0, x509.NameAttribute(NameOID.ORGANIZATION_NAME, organisation))
        builder = _builder(x509.Name(parts), self._subject, key.public_key())
        uses = [ExtendedKeyUsageOID.CLIENT_AUTH]
        if hosts:
            uses.append(ExtendedKeyUsageOID.SERVER_AUTH)
            builder = builder.add_extension(x509.SubjectAlternativeName([_name_of(host) for host in hosts]), critical=False)
        builder = builder.add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        pair = Pair(self._folder / f"{name}.crt", self._folder / f"{name}.key")
        pair.crt.write_bytes(builder.sign(self._key, hashes.SHA256()).public_bytes(PEM))
        pair.key.write_bytes(_private(key))
        pair.key.chmod(0o600)
        return pair


@dataclass(frozen=True)
class Identities:
    """Everybody of a control plane."""

    ca: Authority
    front: Authority
    server: Pair
    admin: Pair
    manager: Pair
    front_client: Pair
    account_key: Path


def identities(folder: Path, hosts: tuple[str, ...]) -> Identities:
    """Signed into `folder`. `hosts`: names and addresses that the API server is called by."""
    ca, front = Authority(folder), Authority(folder, "front-ca")
    return Identities(
        ca,
        front,
        server=ca.sign("apiserver", "kube-apiserver", hosts=(*hosts, "localhost", "kubernetes.default.svc")),
        admin=ca.sign("admin", "admin", "system:masters"),
        manager=ca.sign("manager", "system:kube-controller-manager"),
        front_client=front.sign("front-proxy", "front-proxy"),
        account_key=signing_key(folder),
    )


def kubeconfig(path: Path, server: str, ca: Authority, who: Pair, user: str) -> Path:
    """A kubeconfig that stands for itself: certificates inside, as JSON, which is YAML."""
    inline = {"certificate-authority-data": _data(ca.crt), "server": server}
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "forebay",
        "clusters": [{"name": "forebay", "cluster": inline}],
        "users": [{"name": user, "user": {"client-certificate-data": _data(who.crt), "client-key-data": _data(who.key)}}],
        "contexts": [{"name": "forebay", "context": {"cluster": "forebay", "user": user}}],
    }
    path.touch(mode=0o600)
    path.write_text(json.dumps(document, indent=1))
    return path


def _data(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def signing_key(folder: Path) -> Path:
    """The key that service accounts' tokens are signed with; the server takes the public half from it."""
    path = folder / "sa.key"
    path.write_bytes(_private(ec.generate_private_key(ec.SECP256R1())))
    path.chmod(0o600)
    return path


def _name_of(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption())


def _builder(subject: x509.Name, issuer: x509.Name, public: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
    )
