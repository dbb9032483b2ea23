"""What the processes of a site share: sockets, and whose turn it is to accept."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from imaging_ingestion.association.tcp import listening_sockets
from imaging_ingestion.http_server import listening_socket
from imaging_ingestion.resources.plan import SitePlan
from imaging_ingestion.site.brokers import nats_store
from imaging_ingestion.site.nats_server import NatsAddress
from imaging_ingestion.site.tunnel_parts import read_tunnel_parts
from imaging_ingestion.site.worker import Worker
from imaging_ingestion.workers.colleagues import Colleagues
from imaging_ingestion.workers.turns import Entrance, Turns


@dataclass(frozen=True, slots=True)
class _Address:
    """The sockets of one address, and whose turn it is there."""

    sockets: Sequence[socket.socket]
    turns: Turns

    def entrance(self, number: int) -> Entrance:
        """For the worker that has this number, from 1."""
        return Entrance(self.sockets, self.turns.turn(number - 1))

    def is_of(self, number: int) -> bool:
        """Whether that worker accepts there."""
        return number <= self.turns.processes

    def close(self) -> None:
        """Listen no more in this process."""
        for one in self.sockets:
            one.close()


@dataclass(frozen=True, slots=True)
class SharedSite:
    """All that is shared.

    `needs_nats`: a NATS server of the site's own; `nats_store`: where that keeps streams.
    """

    http: _Address
    dimse: Mapping[str, _Address]
    proxies: Mapping[str, _Address]
    colleagues: Colleagues
    needs_nats: bool
    nats_store: Path | None

    @property
    def http_port(self) -> int:
        """Where it answers HTTP."""
        return int(self.http.sockets[0].getsockname()[1])

    def worker(self, number: int, nats: NatsAddress | None) -> Worker:
        """What a worker has of it. In its own process: it takes part in the turns from here on."""
        return Worker(
            number,
            self.http.entrance(number),
            {name: one.entrance(number) for name, one in self.dimse.items()},
            self._proxies_of(number),
            self.colleagues.at(number),
            nats,
        )

    def left(self, number: int) -> None:
        """A worker died: the others need not wait for it."""
        for address in self._addresses():
            if address.is_of(number):
                address.turns.leave(number - 1)

    def close(self) -> None:
        """Listen no more in this process: the workers do, as long as they want."""
        for address in self._addresses():
            address.close()

    def _proxies_of(self, number: int) -> dict[str, Entrance]:
        entrances = {}
        for name, one in self.proxies.items():
            if one.is_of(number):
                entrances[name] = one.entrance(number)
            else:
                one.close()
        return entrances

    def _addresses(self) -> Iterator[_Address]:
        yield self.http
        yield from self.dimse.values()
        yield from self.proxies.values()


async def share_site(
    plan: SitePlan, data: Path, host: str, http_port: int, workers: int
) -> SharedSite:
    """Listen wherever the site is to, for so many workers. Raises SiteError, OSError."""
    has_nats = any(one.nats is not None for core in plan.cores for one in core.dimse)
    parts = read_tunnel_parts(plan, host, data) if plan.proxies or has_nats else None
    http = _Address([listening_socket(host, http_port)], Turns(workers))
    dimse = {
        one.name: await _listen(host, one.port, "DIMSE", workers)
        for core in plan.cores
        for one in core.dimse
        if one.port is not None
    }
    proxies = {}
    for name, one in ({} if parts is None else parts.proxies).items():
        # One that keeps instances is in the first worker only: they and its quota have one owner.
        number = workers if one.spool is None else 1
        proxies[name] = await _listen(one.host, one.port, f"DimseProxy {name}", number)
    store = nats_store(plan, data)
    needs_nats = store is not None or (parts is not None and bool(parts.on_own_server))
    return SharedSite(http, dimse, proxies, Colleagues(workers), needs_nats, store)


async def _listen(host: str, port: int, what: str, workers: int) -> _Address:
    """Raises OSError with the address in its message."""
    try:
        return _Address(await listening_sockets(host, port, reuse_port=False), Turns(workers))
    except OSError as error:
        why = f"cannot listen on {host}:{port} for {what}: {error.strerror}"
        raise OSError(error.errno, why) from error
