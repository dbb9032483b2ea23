"""TLS for both roles, by the BCP 195 profiles of PS3.15 unless a site says otherwise.

Peers are verified, in both directions. Contexts are made anew when their files change, so that a
renewed certificate needs no restart: associations go on with the old one, handshakes take the new.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Protocol

import structlog

from imaging_ingestion.association.tls_store import Store, StoreError, load_identity, load_trust
from imaging_ingestion.association.tls_suites import (
    DEFAULT_SUITES,
    DEFAULT_VERSIONS,
    UnknownNameError,
    read_suites,
    read_versions,
)

log = structlog.get_logger(__name__)

#: The group ffdhe2048 (RFC 7919), for DHE with at least 2048 bits (PS3.15 B.11).
_FFDHE2048: Final = """-----BEGIN DH PARAMETERS-----
MIIBCAKCAQEA//////////+t+FRYortKmq/cViAnPTzx2LnFg84tNpWp4TZBFGQz
+8yTnc4kmz75fS/jY2MMddj2gbICrsRhetPfHtXV/WVhJDP1H18GbtCFY2VVPe0a
87VXE15/V8k1mE8McODmi3fipona8+/och3xWKE2rec1MKzKT0g6eXq8CrGCsyT7
YdEIqUuyyOP7uWrat2DX9GgdT0Kj3jlN9K5W7edjcrsZCwenyO4KbXCeAvzhzffi
7MA0BM0oNC9hkXL+nOmFg/+OTxIy7vKBg8P+OxtMb61zO7X8vC7CIAXFjvGDfRaD
ssbzSibBsu/6iGtCOGEoXJf//////////wIBAg==
-----END DH PARAMETERS-----
"""


class TlsError(ValueError):
    """TLS cannot be set up as it is configured; the message says what is wrong with which file."""


class TlsContexts(Protocol):
    """Where the TLS context for the next handshake comes from."""

    async def current(self) -> ssl.SSLContext:
        """The context. Raises TlsError."""


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """How TLS is spoken.

    `identity`: our key and certificates; `trust`: whose peers are trusted (None: whom the operating
    system trusts, as a client). `verify_peer`: of clients a certificate is wanted, too.
    `verify_host`: as a client, the certificate must be for the host that was called. A suite or
    version that is named is used even if it is weak; that is logged.
    """

    identity: Store | None
    trust: Store | None = None
    versions: tuple[str, ...] = DEFAULT_VERSIONS
    cipher_suites: tuple[str, ...] = DEFAULT_SUITES
    verify_peer: bool = True
    verify_host: bool = True

    @property
    def files(self) -> tuple[Path, ...]:
        """All files it is made of."""
        stores = [store for store in (self.identity, self.trust) if store is not None]
        return tuple(file for store in stores for file in store.files)


def tls_settings(values: Mapping[str, str]) -> TlsSettings | None:
    """What the DIMSE_TLS_* keys say; None where TLS is not enabled. Raises TlsError."""
    if not _flag(values, "ENABLED", default=False):
        return None
    key = values.get("DIMSE_TLS_KEY")
    return TlsSettings(
        _store(values, "KEYSTORE", Path(key) if key else None),
        _store(values, "TRUSTSTORE"),
        _list(values, "PROTOCOL_VERSIONS") or DEFAULT_VERSIONS,
        _list(values, "CIPHER_SUITES") or DEFAULT_SUITES,
        verify_peer=_flag(values, "VERIFY_PEER", default=True),
        verify_host=_flag(values, "VERIFY_HOST", default=True),
    )


def server_context(settings: TlsSettings) -> ssl.SSLContext:
    """A context to accept by. Raises TlsError."""
    if settings.identity is None:
        raise TlsError("TLS needs a key store: a private key and its certificate")
    if settings.verify_peer and settings.trust is None:
        raise TlsError("peers cannot be verified without a trust store")
    context = _context(ssl.PROTOCOL_TLS_SERVER, settings)
    context.verify_mode = ssl.CERT_REQUIRED if settings.verify_peer else ssl.CERT_NONE
    context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE | ssl.OP_NO_RENEGOTIATION
    context.num_tickets = 0  # every handshake looks at the client's certificate
    _load_dh_parameters(context)
    return context


def client_context(settings: TlsSettings) -> ssl.SSLContext:
    """A context to call by. Raises TlsError."""
    context = _context(ssl.PROTOCOL_TLS_CLIENT, settings)
    context.check_hostname = settings.verify_peer and settings.verify_host
    context.verify_mode = ssl.CERT_REQUIRED if settings.verify_peer else ssl.CERT_NONE
    if settings.verify_peer and settings.trust is None:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    return context


class TlsFiles:
    """Contexts of one role that follow their files: a `TlsContexts`."""

    def __init__(self, settings: TlsSettings, *, is_server: bool) -> None:
        self._settings = settings
        self._make = partial(server_context if is_server else client_context, settings)
        self._context: ssl.SSLContext | None = None
        self._seen: tuple[object, ...] = ()
        self._turn = asyncio.Lock()

    async def current(self) -> ssl.SSLContext:
        """See `TlsContexts`. New files that cannot be used are logged, and the old go on."""
        async with self._turn:
            seen = tuple(map(_state, self._settings.files))
            if self._context is None:
                self._context = await asyncio.to_thread(self._make)
            elif seen != self._seen:
                try:
                    self._context = await asyncio.to_thread(self._make)
                except TlsError as error:
                    log.warning("dimse.tls_not_reloaded", why=str(error))
                else:
                    log.info("dimse.tls_reloaded", files=[str(f) for f in self._settings.files])
            self._seen = seen
            return self._context


def _context(protocol: int, settings: TlsSettings) -> ssl.SSLContext:
    """What both roles have in common."""
    try:
        lowest, highest = read_versions(settings.versions)
        suites = read_suites(settings.cipher_suites)
        context = ssl.SSLContext(protocol)
        context.minimum_version, context.maximum_version = lowest, highest
        context.options |= ssl.OP_NO_COMPRESSION
        # What stands in the trust store is trusted, also if it is no root (as in Java).
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        old = lowest < ssl.TLSVersion.TLSv1_2
        if suites.openssl:
            # OpenSSL has TLS 1.0 and 1.1 at its lowest security level only.
            context.set_ciphers(":".join(suites.openssl) + (":@SECLEVEL=0" if old else ""))
        else:
            context.minimum_version = ssl.TLSVersion.TLSv1_3
        if settings.identity is not None:
            load_identity(context, settings.identity)
        if settings.trust is not None:
            load_trust(context, settings.trust)
    except (UnknownNameError, StoreError) as error:
        raise TlsError(str(error)) from error
    except ssl.SSLError as error:
        names = ", ".join(settings.cipher_suites)
        raise TlsError(f"none of these cipher suites can be had: {names}") from error
    if suites.weak or old:
        weak = [*suites.weak, *(settings.versions if old else ())]
        log.warning("dimse.tls_is_weak", because_of=weak)
    return context


def _load_dh_parameters(context: ssl.SSLContext) -> None:
    with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:
        file.write(_FFDHE2048)
        file.flush()
        context.load_dh_params(file.name)


def _state(file: Path) -> object:
    """Something that is another when the file is another."""
    try:
        status = os.stat(file)
    except OSError as error:
        return error.errno
    return status.st_mtime_ns, status.st_size, status.st_ino


def _store(values: Mapping[str, str], name: str, key: Path | None = None) -> Store | None:
    path = values.get(f"DIMSE_TLS_{name}")
    if not path:
        return None
    kind = values.get(f"DIMSE_TLS_{name}_TYPE") or None
    return Store(Path(path), kind, values.get(f"DIMSE_TLS_{name}_PASSWORD"), key)


def _list(values: Mapping[str, str], name: str) -> tuple[str, ...]:
    words = values.get(f"DIMSE_TLS_{name}", "").split(",")
    return tuple(word.strip() for word in words if word.strip())


def _flag(values: Mapping[str, str], name: str, *, default: bool) -> bool:
    text = values.get(f"DIMSE_TLS_{name}", "").strip().lower()
    if text in {"true", "false"}:
        return text == "true"
    if text:
        raise TlsError(f"DIMSE_TLS_{name} is {text!r}; true or false expected")
    return default
