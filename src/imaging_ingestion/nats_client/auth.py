"""Who we are to NATS, and whom we trust: the options of nats-py's `connect`.

As in Alvearie, a token that is a JWT is a service account's: the last part of its `sub`, behind the
last colon, is the user name, and the token the password. Other tokens are NATS tokens. Secrets that
are files are read at each connection, for such tokens and credentials are renewed.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import ssl
from pathlib import Path
from typing import Any

from imaging_ingestion.nats_client.settings import NatsSettings, SettingsError


def user_of(token: str) -> str | None:
    """The user that a JWT speaks of; None if the token is no JWT with a subject.

    It is not verified here: NATS does that, and a wrong user is refused.
    """
    parts = token.split(".")
    if len(parts) != 3:
        return None
    padded = parts[1] + "=" * (-len(parts[1]) % 4)
    try:
        claims = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (binascii.Error, ValueError):
        return None
    subject = claims.get("sub") if isinstance(claims, dict) else None
    if not isinstance(subject, str):
        return None
    return subject.rsplit(":", 1)[-1] or None


def credentials(settings: NatsSettings) -> dict[str, Any]:
    """Who we are. Raises SettingsError if a file cannot be read."""
    for file in (settings.credentials, settings.nkey_seed, settings.token_file):
        if file is not None:
            _read(file)
    if settings.credentials is not None:
        return {"user_credentials": str(settings.credentials)}
    if settings.nkey_seed is not None:
        return {"nkeys_seed": str(settings.nkey_seed)}
    if settings.user is not None:
        return {"user": settings.user, "password": settings.password}
    token = settings.token
    file = settings.token_file
    if file is not None:
        token = _read(file).strip()
    if token is None:
        return {}
    user = user_of(token)
    if file is None:
        return {"token": token} if user is None else {"user": user, "password": token}
    renewed = _RenewedToken(file, token)
    if user is None:
        return {"token": renewed.current}
    return {"user": renewed.user, "password": renewed.current}


def tls_context(settings: NatsSettings) -> ssl.SSLContext:
    """Servers are verified, by the given authorities or the system's. Raises SettingsError."""
    try:
        ca = None if settings.ca is None else str(settings.ca)
        context = ssl.create_default_context(cafile=ca)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if settings.certificate is not None:
            context.load_cert_chain(settings.certificate, settings.key)
    except (OSError, ssl.SSLError) as error:
        files = ", ".join(
            str(file) for file in (settings.ca, settings.certificate, settings.key) if file
        )
        raise SettingsError([f"TLS of NATS cannot be set up from {files}: {error}"]) from error
    return context


class _RenewedToken:
    """A token in a file that may be written anew; while it cannot be read, the last one."""

    def __init__(self, file: Path, token: str) -> None:
        self._file = file
        self._token = token

    def current(self) -> str:
        """The token."""
        with contextlib.suppress(SettingsError):
            self._token = _read(self._file).strip() or self._token
        return self._token

    def user(self) -> str:
        """Its user."""
        return user_of(self.current()) or ""


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError([f"{file} cannot be read: {error}"]) from error
