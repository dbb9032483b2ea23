"""A certificate authority for tests, and certificates of every kind from it, as files."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    pkcs12,
)
from cryptography.x509.oid import NameOID

PASSWORD = "test-password"
Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


@cache
def _rsa_key(number: int) -> rsa.RSAPrivateKey:
    """A key costs a quarter of a second, so there are a few for all tests of a process."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@dataclass
class Issued:
    """A certificate with its key."""

    certificate: x509.Certificate
    key: Key

    def pem(self, path: Path, *, password: str | None = None) -> Path:
        """Both in one PEM file."""
        path.write_bytes(self.key_bytes(password) + self.certificate.public_bytes(Encoding.PEM))
        return path

    def key_bytes(self, password: str | None = None) -> bytes:
        """The key in PEM."""
        encryption = BestAvailableEncryption(password.encode()) if password else NoEncryption()
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)

    def key_file(self, path: Path) -> Path:
        """The key alone."""
        path.write_bytes(self.key_bytes())
        return path

    def certificate_file(self, path: Path) -> Path:
        """The certificate alone."""
        path.write_bytes(self.certificate.public_bytes(Encoding.PEM))
        return path

    def p12(self, path: Path, password: str = PASSWORD) -> Path:
        """Both in PKCS#12."""
        path.write_bytes(
            pkcs12.serialize_key_and_certificates(
                b"entity", self.key, self.certificate, None,
                BestAvailableEncryption(password.encode()),
            )
        )  # fmt: skip
        return path


class Authority:
    """A certificate authority."""

    def __init__(self, name: str = "Test CA") -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.certificate = (
            _builder(self.name, self.name, self.key.public_key(), timedelta(days=30))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(_usage(is_ca=True), critical=True)
            .sign(self.key, SHA256())
        )

    def issue(
        self,
        name: str = "entity",
        *,
        hosts: tuple[str, ...] = ("localhost", "127.0.0.1"),
        lifetime: timedelta = timedelta(days=7),
        kind: str = "RSA",
        number: int = 0,
    ) -> Issued:
        """A certificate; a negative `lifetime` is one that has expired."""
        key: Key = _rsa_key(number) if kind == "RSA" else ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        names = [_host(host) for host in hosts]
        certificate = (
            _builder(subject, self.name, key.public_key(), lifetime)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(is_ca=False), critical=True)
            .sign(self.key, SHA256())
        )
        return Issued(certificate, key)

    def file(self, path: Path) -> Path:
        """Its own certificate, in PEM."""
        path.write_bytes(self.certificate.public_bytes(Encoding.PEM))
        return path

    def p12(self, path: Path, password: str = PASSWORD) -> Path:
        """Its own certificate in PKCS#12, as Java's trust stores are."""
        path.write_bytes(
            pkcs12.serialize_key_and_certificates(
                None, None, None, [self.certificate], BestAvailableEncryption(password.encode())
            )
        )
        return path


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey,
    lifetime: timedelta,
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    begin, end = sorted((now - timedelta(days=1), now + lifetime))
    if lifetime < timedelta():
        begin -= timedelta(days=30)
        end = now + lifetime
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
    )


def _usage(*, is_ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=not is_ca,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=is_ca,
        crl_sign=is_ca,
        encipher_only=False,
        decipher_only=False,
    )


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)
