"""Keys and certificates from files, PEM or PKCS#12, into TLS contexts.

`cryptography` is imported by those who have such files only: it takes 40 ms and 8 MiB.
"""

from __future__ import annotations

import os
import secrets
import ssl
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization.pkcs12 import PKCS12KeyAndCertificates

PEM: Final = "PEM"
PKCS12: Final = "PKCS12"
_PEM_BEGIN = b"-----BEGIN "
_JKS_BEGIN = b"\xfe\xed\xfe\xed"


class StoreError(ValueError):
    """A file of keys or certificates cannot be used; the message names it and says why."""


@dataclass(frozen=True, slots=True)
class Store:
    """A file of keys or certificates.

    `kind`: PEM or PKCS12; None: as its content shows. `key`: where the private key is, if it is not
    in the same PEM file.
    """

    path: Path
    kind: str | None = None
    password: str | None = field(default=None, repr=False)
    key: Path | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """All its files."""
        return (self.path,) if self.key is None else (self.path, self.key)

    def read(self) -> tuple[str, bytes]:
        """Its kind and its content. Raises StoreError, OSError."""
        content = self.path.read_bytes()
        kind = (self.kind or (PEM if _PEM_BEGIN in content else PKCS12)).upper()
        if kind == "JKS" or content.startswith(_JKS_BEGIN):
            raise StoreError(
                f"{self.path}: JKS is Java's own format; convert it by "
                "`keytool -importkeystore -deststoretype PKCS12`"
            )
        if kind not in {PEM, PKCS12}:
            raise StoreError(f"{self.path}: {self.kind!r} is neither PEM nor PKCS12")
        return kind, content


def load_identity(context: ssl.SSLContext, store: Store) -> None:
    """Give a context our key and certificates. Raises StoreError."""
    try:
        kind, content = store.read()
        if kind == PKCS12:
            _load_pkcs12_identity(context, store, content)
        else:
            # Without a password OpenSSL would ask for it on the terminal.
            context.load_cert_chain(store.path, store.key, store.password or "")
    except ssl.SSLError as error:
        raise StoreError(f"{store.path}: {_words(error)}") from error
    except OSError as error:
        raise StoreError(f"{error.filename or store.path}: {error.strerror}") from error


def load_trust(context: ssl.SSLContext, store: Store) -> None:
    """Let a context trust the certificates of a store. Raises StoreError."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    try:
        kind, content = store.read()
        if kind == PKCS12:
            certificates = _certificates(_open_pkcs12(store, content))
        else:
            certificates = x509.load_pem_x509_certificates(content)
    except OSError as error:
        raise StoreError(f"{store.path}: {error.strerror}") from error
    except StoreError:
        raise
    except ValueError as error:
        raise StoreError(f"{store.path}: {error}") from error
    if not certificates:
        raise StoreError(f"{store.path}: there is no certificate in it")
    for certificate in certificates:
        context.load_verify_locations(cadata=certificate.public_bytes(Encoding.DER))


def _load_pkcs12_identity(context: ssl.SSLContext, store: Store, data: bytes) -> None:
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        PrivateFormat,
    )

    content = _open_pkcs12(store, data)
    if content.key is None or content.cert is None:
        raise StoreError(f"{store.path}: there is no private key with a certificate in it")
    # Python takes keys from files only; so for a moment there is one, encrypted, for us to read.
    password = secrets.token_urlsafe(32)
    pem = content.key.private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(password.encode())
    )
    own = content.cert.certificate
    chain = [one.certificate for one in content.additional_certs]
    pem += b"".join(certificate.public_bytes(Encoding.PEM) for certificate in [own, *chain])
    descriptor, name = tempfile.mkstemp(suffix=".pem")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(pem)
        context.load_cert_chain(name, password=password)
    finally:
        os.unlink(name)


def _open_pkcs12(store: Store, data: bytes) -> PKCS12KeyAndCertificates:
    from cryptography.hazmat.primitives.serialization.pkcs12 import load_pkcs12

    password = None if store.password is None else store.password.encode()
    try:
        return load_pkcs12(data, password)
    except (ValueError, TypeError) as error:
        raise StoreError(f"{store.path}: {error}") from error


def _certificates(content: PKCS12KeyAndCertificates) -> list[x509.Certificate]:
    own = [] if content.cert is None else [content.cert.certificate]
    return own + [one.certificate for one in content.additional_certs]


def _words(error: ssl.SSLError) -> str:
    return (error.reason or str(error)).replace("_", " ").lower()
