"""C-ECHO (PS3.4 annex A)."""

from __future__ import annotations

from imaging_ingestion.association.incoming import IncomingRequest
from imaging_ingestion.dimse import status
from imaging_ingestion.dimse.command import CEchoRequest, respond


class EchoService:
    """Answers that we are here."""

    async def perform(self, request: IncomingRequest) -> None:
        """Answer one C-ECHO-RQ."""
        is_echo = isinstance(request.command, CEchoRequest)
        code = status.SUCCESS if is_echo else status.UNRECOGNIZED_OPERATION
        await request.respond(respond(request.command, code))
