"""The way to the far proxy: whether it is open, and the associations on it.

An instance that finds it closed waits, and so does every other one: nothing is tried, and nothing
is counted against them, until the way is open again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Final

import structlog

from imaging_ingestion.association.association import Association
from imaging_ingestion.association.connect import Asking, ConnectSettings
from imaging_ingestion.association.error import NotConnectedError
from imaging_ingestion.association.limits import AssociationLimits
from imaging_ingestion.bindings.association_pool import AssociationPool
from imaging_ingestion.dimse.pdu import AssociateRequest
from imaging_ingestion.dimse.pdu_items import OperationsWindow
from imaging_ingestion.dimse.requestor import Proposal, build_request
from imaging_ingestion.tunnel.error import TunnelError
from imaging_ingestion.tunnel.link import TunnelLink
from imaging_ingestion.tunnel.spool.pools import Pools
from imaging_ingestion.tunnel.spool.status import WINDOW
from imaging_ingestion.tunnel.tunnel import Tunnel

log = structlog.get_logger(__name__)

#: Seconds until a way that was found closed is tried again, at first and at most.
_FIRST: Final = 1.0
_LONGEST: Final = 15.0
#: The tunnel itself knows how long a silent network is waited for; a target may take its time.
_LIMITS: Final = AssociationLimits(response=300.0, idle=3600.0, progress=300.0)
_SETTINGS: Final = ConnectSettings(limits=_LIMITS)


class Way:
    """Where instances go. `streams`: associations at a time for each pair of AE titles."""

    def __init__(self, tunnel: Tunnel, streams: int) -> None:
        self.is_stopping = False
        #: Why it was found closed; None while it works, as far as is known.
        self.closed_by: str | None = None
        self._tunnel = tunnel
        self._streams = streams
        self._delay = 0.0
        self._closed_until = 0.0
        self._stop = asyncio.Event()
        self._pools = Pools(self._pool)

    async def open(self) -> bool:
        """Wait until it may be tried; False if the proxy stops."""
        loop = asyncio.get_running_loop()
        stopped = asyncio.ensure_future(self._stop.wait())
        try:
            while not self.is_stopping:
                left = self._closed_until - loop.time()
                if left > 0:
                    await asyncio.wait({stopped}, timeout=left)
                elif self._tunnel.is_up:
                    return True
                else:
                    up = asyncio.ensure_future(self._tunnel.connected())
                    await asyncio.wait({stopped, up}, return_when=asyncio.FIRST_COMPLETED)
                    up.cancel()
            return False
        finally:
            stopped.cancel()

    def is_open(self) -> None:
        """Something has gone through."""
        if self.closed_by is not None:
            log.info("spool.goes_on")
        self.closed_by, self._delay = None, 0.0

    def is_closed(self, why: str) -> None:
        """Nothing goes through for now."""
        now = asyncio.get_running_loop().time()
        if now < self._closed_until:
            return  # several found it at the same time
        if self.closed_by != why:
            log.warning("spool.waits", why=why)
        self.closed_by = why
        self._delay = min(max(_FIRST, 2 * self._delay), _LONGEST)
        self._closed_until = now + self._delay

    def pool(self, called: str, calling: str) -> AssociationPool:
        """The associations between two titles."""
        return self._pools.between(called, calling)

    def stop(self) -> None:
        """Nothing more is to be sent."""
        self.is_stopping = True
        self._stop.set()

    async def close(self) -> None:
        """End all associations."""
        self.stop()
        await self._pools.close()

    def _pool(self, called: str, calling: str) -> AssociationPool:
        return AssociationPool(partial(self._call, called, calling), None, size=self._streams)

    async def _call(self, called: str, calling: str, proposals: Sequence[Proposal]) -> Association:
        """An association with the far proxy. Raises AssociationError."""
        request = build_request(
            proposals,
            called_ae_title=called,
            calling_ae_title=calling,
            operations_window=OperationsWindow(WINDOW, 1),
        )
        return await ask(self._tunnel, request, _SETTINGS, for_spool=True)


async def ask(
    tunnel: Tunnel, request: AssociateRequest, settings: ConnectSettings, *, for_spool: bool
) -> Association:
    """An association through the tunnel. Raises AssociationError."""
    asking = await begin_to_ask(tunnel, Asking(request, {}, settings), for_spool=for_spool)
    return await asking.association()


async def begin_to_ask(tunnel: Tunnel, asking: Asking, *, for_spool: bool) -> Asking:
    """Give a request a stream. Raises NotConnectedError."""
    try:
        stream = await tunnel.open(for_spool=for_spool)
    except TunnelError as error:
        raise NotConnectedError(str(error)) from error
    TunnelLink(asking.wire, stream).begin()
    return asking
