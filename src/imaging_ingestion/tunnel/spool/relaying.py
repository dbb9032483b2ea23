"""Passes messages between two associations that have the same presentation contexts.

One is with a local peer, the other through the tunnel with the target. Each side's requests are
performed by asking the other side: data sets stream, responses come back as they come.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import msgspec
import structlog

from imaging_ingestion.association.association import Association
from imaging_ingestion.association.error import AssociationError
from imaging_ingestion.association.incoming import IncomingRequest
from imaging_ingestion.dimse import status
from imaging_ingestion.dimse.command import respond

log = structlog.get_logger(__name__)


class Relaying:
    """A service that has everything done on the association it is `joined` with."""

    def __init__(self) -> None:
        self._other: asyncio.Future[Association] = asyncio.get_running_loop().create_future()

    @property
    def is_joined(self) -> bool:
        """Whether it knows the other side."""
        return self._other.done()

    def join(self, other: Association) -> None:
        """Requests go there, from now on."""
        self._other.set_result(other)

    async def perform(self, request: IncomingRequest) -> None:
        """Answer with the other side's answers."""
        other = await asyncio.shield(self._other)
        try:
            await self._pass_on(request, other)
        except AssociationError as error:
            if not request.association.is_open:
                raise
            log.warning("spool.not_relayed", peer=request.association.peer, why=str(error))
            answer = respond(
                request.command, status.PROCESSING_FAILURE, error_comment="the other side is away"
            )
            await request.respond(answer)

    async def _pass_on(self, request: IncomingRequest, other: Association) -> None:
        """Raises AssociationError of either."""
        command = request.command
        answers = other.request(
            request.context.context_id,
            command,
            request.data_set() if request.has_data_set else None,
            cancelled=request.cancelled,
        )
        async with aclosing(answers):
            async for answer in answers:
                response = msgspec.structs.replace(
                    answer.response, message_id_being_responded_to=command.message_id
                )
                await request.respond(response, answer.data_set)
