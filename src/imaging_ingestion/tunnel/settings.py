"""What a proxy is to do, read from upstream's environment names (docs/tunnel.md has them all)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

from imaging_ingestion.dimse.error import EncodingError
from imaging_ingestion.dimse.pdu import check_ae_title
from imaging_ingestion.nats_client.settings import NatsSettings, SettingsError, server_urls
from imaging_ingestion.resources.quantity import read_quantity
from imaging_ingestion.tunnel.spool.settings import SpoolSettings
from imaging_ingestion.tunnel.stream import StreamSettings
from imaging_ingestion.tunnel.subjects import Channel, Subjects, as_channel, is_root

DIMSE_PORT: Final = 11112
DEFAULT_ROOT: Final = "DIMSE"
#: A proxy's channel, and the one of a DIMSE ingestion service: what talks to each other by default.
PROXY_CHANNEL: Final[Channel] = "A"
SERVICE_CHANNEL: Final[Channel] = "B"
#: The caller's own title, as DIMSE_CALLING_AE.
CALLERS_TITLE: Final = "*"
SMALLEST_CHUNK: Final = 1 << 10
SMALLEST_WINDOW: Final = 256 << 10

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class TunnelSettings:
    """`chunk` in bytes: of a message's payload. `budget` in bytes: of all windows together."""

    stream: StreamSettings = field(default_factory=StreamSettings)
    chunk: int = 256 << 10
    budget: int = 64 << 20
    max_streams: int = 600
    name: str = "proxy"


@dataclass(frozen=True, slots=True)
class Target:
    """The application entity behind this proxy. `calling_ae_title` None: the caller's own."""

    host: str
    port: int = DIMSE_PORT
    ae_title: str | None = None
    calling_ae_title: str | None = None


@dataclass(frozen=True, slots=True)
class ProxySettings:
    """A proxy: the tunnel, whom it takes calls for, and whom it calls. Times in seconds.

    `ae_title`: whom local peers have to call (None: any title). `tls`: the DIMSE_TLS_* keys.
    `spool`: how instances are kept (None: nothing is).
    """

    nats: NatsSettings
    subjects: Subjects
    tunnel: TunnelSettings
    ae_title: str | None = None
    host: str = "0.0.0.0"  # noqa: S104 - as upstream: it stands in for an AE on the network
    port: int = DIMSE_PORT
    target: Target | None = None
    tls: Mapping[str, str] = field(default_factory=dict, repr=False)
    artim: float = 30.0
    connect: float = 10.0
    grace: float = 20.0
    spool: SpoolSettings | None = None


def proxy_settings(values: Mapping[str, str]) -> ProxySettings:
    """What environment variables say. Raises SettingsError."""
    read = _Reader(values)
    nats = _nats(read)
    subjects = _subjects(read, PROXY_CHANNEL)
    tunnel = _tunnel(read)
    ae_title = read.ae_title("DIMSE_AE")
    settings = ProxySettings(
        nats,
        subjects,
        tunnel,
        ae_title,
        read.text("DIMSE_HOST") or "0.0.0.0",  # noqa: S104
        read.number("DIMSE_PORT", DIMSE_PORT, 0, 65535),
        _target(read, ae_title),
        {name: value for name, value in values.items() if name.startswith("DIMSE_TLS_")},
        grace=read.number("DIMSE_DRAIN_TIMEOUT", 20, 0, 86400),
        spool=_spool(read),
    )
    read.done()
    return settings


def service_settings(values: Mapping[str, str]) -> tuple[NatsSettings, Subjects, TunnelSettings]:
    """The same for a DIMSE ingestion service on its NATS subject. Raises SettingsError."""
    read = _Reader(values)
    found = _nats(read), _subjects(read, SERVICE_CHANNEL), _tunnel(read)
    read.done()
    return found


def _nats(read: _Reader) -> NatsSettings:
    tls = read.flag("DIMSE_NATS_TLS_ENABLED")
    url = read.text("DIMSE_NATS_URL")
    servers: tuple[str, ...] = ()
    if url is None:
        read.problem("DIMSE_NATS_URL is missing: HOST:PORT of a NATS server, or several")
    else:
        servers = read.parsed("DIMSE_NATS_URL", lambda text: server_urls(text, tls=tls)) or ()
    settings = NatsSettings(
        servers,
        tls or any(server.startswith("tls:") for server in servers),
        read.path("DIMSE_NATS_TLS_CA"),
        read.path("DIMSE_NATS_TLS_CERT"),
        read.path("DIMSE_NATS_TLS_KEY"),
        read.text("DIMSE_NATS_USER"),
        read.text("DIMSE_NATS_PASSWORD"),
        read.text("DIMSE_NATS_AUTH_TOKEN"),
        read.path("DIMSE_NATS_AUTH_TOKEN_FILE"),
        read.path("DIMSE_NATS_NKEY_SEED"),
        read.path("DIMSE_NATS_CREDS"),
    )
    ways = {
        "DIMSE_NATS_USER": settings.user,
        "DIMSE_NATS_AUTH_TOKEN": settings.token,
        "DIMSE_NATS_AUTH_TOKEN_FILE": settings.token_file,
        "DIMSE_NATS_NKEY_SEED": settings.nkey_seed,
        "DIMSE_NATS_CREDS": settings.credentials,
    }
    named = [name for name, value in ways.items() if value]
    if len(named) > 1:
        read.problem(f"{' and '.join(named)}: only one may say who we are")
    if settings.user and settings.password is None:
        read.problem("DIMSE_NATS_PASSWORD is missing for DIMSE_NATS_USER")
    return settings


def _subjects(read: _Reader, default: Channel) -> Subjects:
    root = read.text("DIMSE_NATS_SUBJECT_ROOT") or DEFAULT_ROOT
    if not is_root(root):
        read.problem(f"DIMSE_NATS_SUBJECT_ROOT is {root!r}; words separated by dots were expected")
    name = (read.text("DIMSE_NATS_SUBJECT_CHANNEL") or default).upper()
    channel = as_channel(name)
    if channel is None:
        read.problem(f"DIMSE_NATS_SUBJECT_CHANNEL is {name!r}; A or B was expected")
    return Subjects(root, channel or default)


def _tunnel(read: _Reader) -> TunnelSettings:
    # Upstream's property is dimse.nats.reply.timeoutSeconds.
    name = "DIMSE_NATS_REPLY_TIMEOUT"
    if read.text(name) is None:
        name = "DIMSE_NATS_REPLY_TIMEOUTSECONDS"
    patience = float(read.number(name, 60, 1, 86400))
    defaults = StreamSettings()
    return TunnelSettings(
        StreamSettings(
            window=read.number("DIMSE_NATS_WINDOW", defaults.window, SMALLEST_WINDOW, 1 << 30),
            patience=patience,
            keep_alive=min(defaults.keep_alive, patience / 4),
        ),
        chunk=read.number("DIMSE_NATS_CHUNK_SIZE", 256 << 10, SMALLEST_CHUNK, 64 << 20),
        max_streams=read.number("DIMSE_MAX_ASSOCIATIONS", 600, 1, 100_000),
        name=read.text("DIMSE_AE") or "proxy",
    )


def _target(read: _Reader, ae_title: str | None) -> Target | None:
    host = read.text("DIMSE_TARGET_HOST")
    calling = read.text("DIMSE_CALLING_AE")
    if calling is None:
        calling = ae_title  # as upstream: the target knows the proxy by its own title
    elif calling == CALLERS_TITLE:
        calling = None
    else:
        calling = read.ae_title("DIMSE_CALLING_AE")
    title = read.ae_title("DIMSE_TARGET_AE")
    port = read.number("DIMSE_TARGET_PORT", DIMSE_PORT, 1, 65535)
    return None if host is None else Target(host, port, title, calling)


def _spool(read: _Reader) -> SpoolSettings | None:
    mode = (read.text("DIMSE_PROXY_MODE") or "relay").lower()
    if mode not in {"relay", "spool"}:
        read.problem(f"DIMSE_PROXY_MODE is {mode!r}; relay or spool was expected")
    if mode != "spool":
        return None
    directory = read.path("DIMSE_SPOOL_DIRECTORY")
    if directory is None:
        read.problem("DIMSE_SPOOL_DIRECTORY is missing: where instances wait")
        return None
    defaults = SpoolSettings(directory)
    quota = read.text("DIMSE_SPOOL_QUOTA")
    min_free = read.text("DIMSE_SPOOL_MIN_FREE")
    return SpoolSettings(
        directory,
        None if quota is None else read.parsed("DIMSE_SPOOL_QUOTA", read_quantity),
        defaults.min_free
        if min_free is None
        else read.parsed("DIMSE_SPOOL_MIN_FREE", read_quantity) or 0,
        read.number("DIMSE_SPOOL_STREAMS", defaults.streams, 1, 64),
        read.number("DIMSE_SPOOL_KEEP", int(defaults.keep), 0, 366 * 86400),
        read.path("DIMSE_CONFIG_PATH"),
    )


class _Reader:
    """Reads settings, and keeps what is wrong with them."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = values
        self._problems: list[str] = []

    def problem(self, text: str) -> None:
        self._problems.append(text)

    def done(self) -> None:
        if self._problems:
            raise SettingsError(self._problems)

    def text(self, name: str) -> str | None:
        return self._values.get(name, "").strip() or None

    def path(self, name: str) -> Path | None:
        text = self.text(name)
        return None if text is None else Path(text)

    def flag(self, name: str) -> bool:
        text = (self.text(name) or "false").lower()
        if text not in {"true", "false"}:
            self.problem(f"{name} is {text!r}; true or false was expected")
        return text == "true"

    def number(self, name: str, default: int, least: int, most: int) -> int:
        text = self.text(name)
        if text is None:
            return default
        if text.isascii() and text.isdigit() and least <= int(text) <= most:
            return int(text)
        self.problem(f"{name} is {text!r}; a number from {least} to {most} was expected")
        return default

    def ae_title(self, name: str) -> str | None:
        title = self.text(name)
        if title is not None:
            try:
                check_ae_title(title)
            except EncodingError as error:
                self.problem(f"{name} is {title!r}; {error}")
        return title

    def parsed(self, name: str, parse: Callable[[str], T]) -> T | None:
        try:
            return parse(self._values[name].strip())
        except ValueError as error:
            self.problem(f"{name}: {error}")
            return None
