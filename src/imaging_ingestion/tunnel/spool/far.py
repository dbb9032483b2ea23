"""The far end of a spool's streams: each instance goes to the target while it comes.

A stream is one after the other: its instances are one study's, and in order. After one that cannot
be stored now, nothing more of that stream is tried; the near proxy begins anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Final
from weakref import WeakSet

import structlog

from imaging_ingestion.association.connect import ConnectSettings
from imaging_ingestion.association.error import AssociationError, AssociationRejectedError
from imaging_ingestion.association.incoming import IncomingRequest
from imaging_ingestion.association.limits import AssociationLimits
from imaging_ingestion.association.listener import Listener, ListenerSettings
from imaging_ingestion.association.performing import Services
from imaging_ingestion.association.store_user import context_for, store
from imaging_ingestion.association.tls import TlsContexts
from imaging_ingestion.bindings.association_pool import AssociationPool, StoreTarget
from imaging_ingestion.bindings.cstore import judge
from imaging_ingestion.dicom.transcode import TranscodeError
from imaging_ingestion.dimse import status
from imaging_ingestion.dimse.acceptor import Acceptance, AcceptorPolicy, ContextPolicy
from imaging_ingestion.dimse.command import CStoreRequest, Response, respond
from imaging_ingestion.dimse.pdu import AssociateRequest
from imaging_ingestion.events.broker import RefusedError, TryAgainError
from imaging_ingestion.transcoding.transcoder import Transcoder
from imaging_ingestion.transcoding.worker_pool import WorkerError
from imaging_ingestion.tunnel.arrival import Arrival
from imaging_ingestion.tunnel.link import TunnelLink
from imaging_ingestion.tunnel.settings import Target
from imaging_ingestion.tunnel.spool.pools import Pools
from imaging_ingestion.tunnel.spool.status import TARGET_AWAY, UNTRIED, WINDOW
from imaging_ingestion.tunnel.titles import Titles

log = structlog.get_logger(__name__)

#: Associations with the target for each pair of AE titles, at most.
_SIZE: Final = 8
#: An archive that has received an instance of gigabytes has to put it somewhere.
_TARGET_LIMITS: Final = AssociationLimits(response=180.0)
#: The tunnel itself knows how long a silent network is waited for.
_NEAR_LIMITS: Final = AssociationLimits(idle=3600.0, progress=300.0)


class FarEnd(Listener):
    """Takes streams of spools, and stores with the target. Its addresses are streams alone."""

    def __init__(self, target: Target, tls: TlsContexts | None, artim: float, grace: float) -> None:
        settings = ListenerSettings(artim=artim, grace=grace, limits=_NEAR_LIMITS)
        super().__init__(AcceptorPolicy({}), {}, settings)
        self._target = target
        self._connect = ConnectSettings(tls=tls, limits=_TARGET_LIMITS)
        self._transcoder = Transcoder()
        self._pools = Pools(self._pool)
        self._lanes: WeakSet[Lane] = WeakSet()

    def take(self, arrival: Arrival, request: bytes) -> None:
        """A stream came, with its A-ASSOCIATE-RQ."""
        link = TunnelLink(self.accept(), arrival.stream, Titles.of(request))
        link.begin(request, arrival.hand_over())

    async def stop(self, *, grace: float | None = None) -> None:
        """Let what the target has in hand end; the near proxy takes the rest elsewhere."""
        for lane in self._lanes:
            lane.halt()
        await super().stop(grace=grace)
        await self._pools.close()
        await self._transcoder.close()

    def policy_for(self, request: AssociateRequest) -> AcceptorPolicy:
        """Accept whatever is proposed: what the target takes is found out with the target."""
        contexts: dict[str, ContextPolicy] = {}
        for proposal in request.presentation_contexts:
            known = contexts.get(proposal.abstract_syntax, ContextPolicy(()))
            syntaxes = known.transfer_syntaxes + proposal.transfer_syntaxes
            contexts[proposal.abstract_syntax] = replace(known, transfer_syntaxes=syntaxes)
        return AcceptorPolicy(contexts, max_operations_performed=WINDOW)

    def services_for(self, acceptance: Acceptance) -> Services:
        """Each association is a lane of its own."""
        agreement = acceptance.agreement
        # The titles that relayed associations would have.
        target = self._target
        pool = self._pools.between(
            target.ae_title or agreement.called_ae_title,
            target.calling_ae_title or agreement.calling_ae_title,
        )
        lane = Lane(pool, self._transcoder)
        self._lanes.add(lane)
        return Services({}, lane)

    def _pool(self, called: str, calling: str) -> AssociationPool:
        target = self._target
        whom = StoreTarget(target.host, target.port, called, calling, self._connect)
        return AssociationPool(whom, self._transcoder, size=_SIZE)


class Lane:
    """The instances of one stream."""

    def __init__(self, pool: AssociationPool, transcoder: Transcoder) -> None:
        self._pool = pool
        self._transcoder = transcoder
        self._turn = asyncio.Lock()  # it is given in the order it is asked for
        self._is_halted = False

    def halt(self) -> None:
        """Try nothing more."""
        self._is_halted = True

    async def perform(self, request: IncomingRequest) -> None:
        """Answer a C-STORE-RQ with what the target answers."""
        command = request.command
        if not isinstance(command, CStoreRequest):
            await request.respond(respond(command, status.UNRECOGNIZED_OPERATION))
            return
        async with self._turn:
            if self._is_halted:
                answer = respond(command, UNTRIED)
            else:
                code, comment = await self._try(request, command)
                answer = respond(command, code, error_comment=comment)
                self._is_halted = self._is_halted or _is_for_now(answer)
            await request.respond(answer)

    async def _try(
        self, request: IncomingRequest, command: CStoreRequest
    ) -> tuple[int, str | None]:
        """The status, and a comment. Raises AssociationError if the near proxy is gone."""
        try:
            answer = await self._store(request, command)
        except AssociationRejectedError as error:
            return self._away(f"association {error}")
        except AssociationError as error:
            if not request.association.is_open:
                raise
            return self._away(str(error))
        except TranscodeError as error:
            return int(status.STORE_CANNOT_UNDERSTAND), f"it cannot be transcoded: {error}"
        except (WorkerError, OSError) as error:
            return self._away(f"it cannot be transcoded now: {error}")
        if answer is None:
            return int(status.SOP_CLASS_NOT_SUPPORTED), "the target accepts no such instances"
        return answer.status, answer.error_comment

    async def _store(self, request: IncomingRequest, command: CStoreRequest) -> Response | None:
        syntax = request.context.transfer_syntax
        kind = (command.affected_sop_class_uid, syntax)
        async with self._pool.association(kind) as pooled:
            context = context_for(pooled.association.agreement, kind, self._transcoder)
            if context is None:
                return None
            return await store(
                pooled.association, context, command, _bytes(request), syntax, self._transcoder
            )

    @staticmethod
    def _away(why: str) -> tuple[int, str]:
        log.warning("spool.target_away", why=why)
        return TARGET_AWAY, why


def _is_for_now(response: Response) -> bool:
    """Whether the near proxy will try it again, and nothing behind it may go before that."""
    try:
        judge(response)
    except TryAgainError:
        return True
    except RefusedError:
        return False
    return False


async def _bytes(request: IncomingRequest) -> AsyncIterator[bytes]:
    async for piece in request.data_set():
        yield bytes(piece)
