"""Whom to call, and how: `AE@host:port` and the options that all DIMSE commands have."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from imaging_ingestion.association.connect import ConnectSettings
from imaging_ingestion.association.limits import AssociationLimits
from imaging_ingestion.association.tls import TlsError, TlsFiles, TlsSettings, client_context
from imaging_ingestion.association.tls_store import Store
from imaging_ingestion.dimse.error import EncodingError
from imaging_ingestion.dimse.pdu import check_ae_title


class UsageError(ValueError):
    """What was asked makes no sense; the message says what was expected."""


@dataclass(frozen=True, slots=True)
class Peer:
    """An application entity and where it listens."""

    ae_title: str
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.ae_title}@{host}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> Peer:
        """Read `AE@host:port`; an IPv6 address stands in brackets. Raises UsageError."""
        title, at, address = text.rpartition("@")
        if not at:
            raise UsageError(f"{text}: AE@HOST:PORT was expected, as in PACS@pacs.example:104")
        checked_ae_title(title)
        host, colon, port = address.rpartition(":")
        if not colon or address.endswith("]"):
            raise UsageError(f"{text}: the port is missing, as in {title}@{address or 'HOST'}:104")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            raise UsageError(f"{text}: an IPv6 address stands in brackets, as in PACS@[::1]:104")
        if not host or not host.isprintable() or any(c in host for c in " /[]"):
            raise UsageError(f"{text}: {host!r} is no host")
        if not (port.isascii() and port.isdigit() and len(port) < 6 and 0 < int(port) < 65536):
            raise UsageError(f"{text}: {port!r} is no port: a number from 1 to 65535 was expected")
        return cls(title, host, int(port))


def checked_ae_title(title: str) -> str:
    """An AE title. Raises UsageError."""
    try:
        check_ae_title(title)
    except EncodingError as error:
        raise UsageError(f"{title!r}: {error}") from error
    return title


@dataclass(frozen=True, slots=True)
class DimseOptions:
    """How to call. `timeout`: seconds for a connection, and for each answer.

    `cert` and `key` are ours, `ca` are whom we trust; any of them asks for TLS.
    """

    aet: str = "INGESTION"
    timeout: float = 60.0
    tls: bool = False
    cert: Path | None = None
    key: Path | None = None
    ca: Path | None = None

    def connect_settings(self) -> ConnectSettings:
        """What that means for a connection. Raises UsageError."""
        checked_ae_title(self.aet)
        return ConnectSettings(
            connect=min(self.timeout, 30.0),
            artim=self.timeout,
            tls=self._tls(),
            limits=AssociationLimits(response=self.timeout, progress=self.timeout),
        )

    def _tls(self) -> TlsFiles | None:
        if not (self.tls or self.cert or self.key or self.ca):
            return None
        if self.key is not None and self.cert is None:
            raise UsageError("--key: --cert was expected beside it")
        password = os.environ.get("DIMSE_TLS_KEYSTORE_PASSWORD")
        settings = TlsSettings(
            identity=Store(self.cert, None, password, self.key) if self.cert else None,
            trust=Store(self.ca, None, None, None) if self.ca else None,
        )
        try:
            client_context(settings)
        except TlsError as error:
            raise UsageError(str(error)) from error
        return TlsFiles(settings, is_server=False)
