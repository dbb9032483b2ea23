"""Where NATS is, and as whom we go there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

NATS_PORT: Final = 4222


class SettingsError(ValueError):
    """Settings that cannot be used; `problems` are sentences that name the settings."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = tuple(problems)


@dataclass(frozen=True, slots=True)
class NatsSettings:
    """How to reach NATS, and as whom. Files are read anew for each connection.

    `servers` are URLs with scheme `nats` or `tls`. `ca`: certificates that are trusted (None: those
    of the operating system). One of these says who we are: `credentials` (JWT and seed),
    `nkey_seed`, `user` with `password`, `token`; for a JWT that is no user's of NATS see `auth`.
    """

    servers: tuple[str, ...] = ("nats://localhost:4222",)
    tls: bool = False
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    token_file: Path | None = None
    nkey_seed: Path | None = None
    credentials: Path | None = None


def server_urls(text: str, *, tls: bool) -> tuple[str, ...]:
    """The servers of a list, separated by commas or blanks. Raises ValueError."""
    urls = []
    for word in text.replace(",", " ").split():
        scheme, has_scheme, rest = word.partition("://")
        if not has_scheme:
            scheme, rest = ("tls" if tls else "nats"), word
        if scheme not in {"nats", "tls"}:
            raise ValueError(f"{scheme}:// is not spoken; nats:// or tls://")
        host, port = _host_and_port(rest.rstrip("/"))
        urls.append(f"{scheme}://{host}:{port}")
    if not urls:
        raise ValueError("HOST:PORT of a NATS server was expected")
    return tuple(urls)


def _host_and_port(text: str) -> tuple[str, int]:
    """Raises ValueError."""
    if "@" in text:
        raise ValueError("user and password have settings of their own, for an URL is logged")
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        host, port = text, str(NATS_PORT)
    if not host or "/" in host or not (port.isdigit() and 0 < int(port) < 65536):
        raise ValueError(f"{text!r} is no HOST:PORT")
    return host, int(port)
