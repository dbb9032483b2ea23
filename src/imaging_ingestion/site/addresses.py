"""Where a running site answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RunningEntity:
    """An application entity that answers DIMSE; `name` is its resource's.

    `port` None: not on TCP; `subject`: where on NATS, if it is there.
    """

    name: str
    ae_title: str
    host: str
    port: int | None
    tls: bool = False
    subject: str | None = None

    def __str__(self) -> str:
        if self.port is None:
            return f"{self.ae_title} over NATS ({self.subject})"
        return f"{self.ae_title}@{address(self.host, self.port)}"


@dataclass(frozen=True, slots=True)
class RunningProxy:
    """A proxy that takes calls for the other side, and calls `target` for it.

    `spool`: the folder where instances wait; None: they do not.
    """

    name: str
    ae_title: str
    host: str
    port: int
    subject: str
    target: str | None
    spool: str | None = None

    def __str__(self) -> str:
        here = f"{self.ae_title}@{address(self.host, self.port)}"
        kept = "" if self.spool is None else f", spool {self.spool}"
        return f"{here} over NATS ({self.subject}), target {self.target or 'none'}{kept}"


@dataclass(frozen=True, slots=True)
class RunningSite:
    """A site that answers."""

    host: str
    http_port: int
    dimse: Sequence[RunningEntity] = ()
    proxies: Sequence[RunningProxy] = ()

    @property
    def base_url(self) -> str:
        """The server's root URL."""
        return base_url(self.host, self.http_port)


def base_url(host: str, port: int) -> str:
    """The root URL of what listens there."""
    return f"http://{address(host, port)}"


def address(host: str, port: int) -> str:
    """How clients on this machine call what listens there."""
    if host in {"0.0.0.0", "::"}:  # noqa: S104 - we are asked to listen there; clients use loopback
        host = "127.0.0.1"
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
