"""How a PostgreSQL server is used."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from imaging_ingestion.resources.plan import TlsMode


@dataclass(frozen=True, slots=True)
class PostgresSettings:
    """Limits, in seconds, and TLS."""

    connect_timeout: float = 5.0
    pool_timeout: float = 10.0  # to wait for a connection when all are in use
    statement_timeout: float = 30.0
    transaction_timeout: float = 120.0
    tls: TlsMode = "prefer"
    tls_ca: Path | None = None  # certificates that are trusted; None: the operating system's
