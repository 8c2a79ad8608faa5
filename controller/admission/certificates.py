"""The webhook's certificates: an authority of its own and one serving certificate, as they lie in a Secret. Pure but for keys.

The authority signs nothing else, and only API servers are told to trust it (`caBundle`). It lives ten years; the serving
certificate a year, and is made anew when a third of that is left. When the authority itself comes to its end, both are made anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

CA, CA_KEY, CERTIFICATE, KEY = "ca.crt", "ca.key", "tls.crt", "tls.key"
"""Keys of the Secret; PEM."""
AUTHORITY_LIFE, LIFE = timedelta(days=3650), timedelta(days=365)
LEFT = LIFE / 3
"""What a certificate must still have before it."""
SKEW = timedelta(hours=1)
"""Clocks of API servers may be behind."""

Data = Mapping[str, bytes]


class Unfit(ValueError):
    """Why what the Secret holds cannot be served; one sentence."""


def kept(data: Data, hosts: Sequence[str], now: datetime) -> dict[str, bytes] | None:
    """What the Secret should hold instead of `data`; None where all of it is good. An authority that is good stays."""
    try:
        check_authority(data, now)
    except Unfit:
        return _signed(*_authority(now), hosts, now)
    try:
        check_serving(data, hosts, now)
    except Unfit:
        return _signed(*_read_authority(data), hosts, now)
    return None


def why(data: Data, hosts: Sequence[str], now: datetime) -> str:
    """What is wrong with `data`, for a log line; "" for nothing."""
    try:
        check_authority(data, now)
        check_serving(data, hosts, now)
    except Unfit as unfit:
        return str(unfit)
    return ""


def expiry(data: Data) -> datetime:
    """When the serving certificate ends. Raises Unfit."""
    return _certificate(data, CERTIFICATE).not_valid_after_utc


def check_authority(data: Data, now: datetime) -> None:
    """Raises Unfit: missing, not PEM, another's key, or with less of its life left than a serving certificate needs."""
    certificate, key = _read_authority(data)
    if key.public_key() != certificate.public_key():
        raise Unfit(f"{CA_KEY} is not the key of {CA}")
    _alive(certificate, CA, LIFE, now)


def check_serving(data: Data, hosts: Sequence[str], now: datetime) -> None:
    """Raises Unfit: missing, not PEM, another's key, not signed by the authority, for other names, or near its end."""
    certificate, key = _certificate(data, CERTIFICATE), _key(data, KEY)
    if key.public_key() != certificate.public_key():
        raise Unfit(f"{KEY} is not the key of {CERTIFICATE}")
    try:
        certificate.verify_directly_issued_by(_certificate(data, CA))
    except (ValueError, TypeError, InvalidSignature):
        raise Unfit(f"{CERTIFICATE} is not signed by {CA}") from None
    try:
        named = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        names = set(named.get_values_for_type(x509.DNSName))
    except x509.ExtensionNotFound:
        names = set()
    if missing := sorted(set(hosts) - names):
        raise Unfit(f"{CERTIFICATE} is not for {', '.join(missing)}")
    _alive(certificate, CERTIFICATE, LEFT, now)


def _alive(certificate: x509.Certificate, name: str, least: timedelta, now: datetime) -> None:
    if certificate.not_valid_before_utc > now:
        raise Unfit(f"{name} begins at {certificate.not_valid_before_utc:%Y-%m-%dT%H:%M:%SZ}")
    if certificate.not_valid_after_utc - now < least:
        raise Unfit(f"{name} ends at {certificate.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}")


# --- reading --------------------------------------------------------------------------------------------------------


def _certificate(data: Data, name: str) -> x509.Certificate:
    if not data.get(name):
        raise Unfit(f"{name} is missing")
    try:
        return x509.load_pem_x509_certificate(data[name])
    except ValueError:
        raise Unfit(f"{name} is no certificate in PEM") from None


def _key(data: Data, name: str) -> ec.EllipticCurvePrivateKey:
    if not data.get(name):
        raise Unfit(f"{name} is missing")
    try:
        key = serialization.load_pem_private_key(data[name], None)
    except (ValueError, TypeError):
        raise Unfit(f"{name} is no private key in PEM") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise Unfit(f"{name} is no elliptic curve key")
    return key


def _read_authority(data: Data) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    return _certificate(data, CA), _key(data, CA_KEY)


# --- making ---------------------------------------------------------------------------------------------------------


def _authority(now: datetime) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _named("forebay-webhook-ca")
    builder = _builder(subject, subject, key.public_key(), now, now + AUTHORITY_LIFE)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(signs=True), critical=True)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    return builder.sign(key, hashes.SHA256()), key


def _signed(
    authority: x509.Certificate, authority_key: ec.EllipticCurvePrivateKey, hosts: Sequence[str], now: datetime
) -> dict[str, bytes]:
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _builder(_named("forebay-webhook"), authority.subject, key.public_key(), now, now + LIFE)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_usage(signs=False), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(host) for host in hosts]), critical=False)
    builder = builder.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False
    )
    certificate = builder.sign(authority_key, hashes.SHA256())
    pem = serialization.Encoding.PEM
    return {
        CA: authority.public_bytes(pem),
        CA_KEY: _private(authority_key),
        CERTIFICATE: certificate.public_bytes(pem),
        KEY: _private(key),
    }


def _builder(
    subject: x509.Name, issuer: x509.Name, public: ec.EllipticCurvePublicKey, now: datetime, end: datetime
) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(public)
    builder = builder.serial_number(x509.random_serial_number())
    return builder.not_valid_before(now - SKEW).not_valid_after(end)


def _named(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
