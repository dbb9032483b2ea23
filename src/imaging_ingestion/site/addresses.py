"""Where a running site answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RunningEntity:
    """An application entity that answers DIMSE; `name` is its resource's."""

    name: str
    ae_title: str
    host: str
    port: int
    tls: bool = False

    def __str__(self) -> str:
        return f"{self.ae_title}@{address(self.host, self.port)}"


@dataclass(frozen=True, slots=True)
class RunningSite:
    """A site that answers."""

    host: str
    http_port: int
    dimse: Sequence[RunningEntity] = ()

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
