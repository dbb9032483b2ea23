"""C-GET as SCP: instances leave on the association that asks for them (PS3.4 C.4.3).

The requestor has to have the SCP role for storage SOP classes (PS3.7 D.3.3.4), so the listener's
policy for these has `requestor_may_be_scp`.
"""

from __future__ import annotations

from imaging_ingestion.association.incoming import IncomingRequest
from imaging_ingestion.association.services.retrieval import Retrieval, select
from imaging_ingestion.association.services.storing import Storing
from imaging_ingestion.association.services.sub_operations import Outcome
from imaging_ingestion.dimse import status
from imaging_ingestion.dimse.command import CGetRequest, respond
from imaging_ingestion.manifest.retrieve import Instance


class GetService:
    """Retrievals from one space."""

    def __init__(self, storing: Storing) -> None:
        self._storing = storing

    async def perform(self, request: IncomingRequest) -> None:
        """Answer one C-GET-RQ."""
        command = request.command
        if not isinstance(command, CGetRequest):
            await request.respond(respond(command, status.UNRECOGNIZED_OPERATION))
            return
        storing = self._storing
        kinds = await select(request, storing.database, storing.space.name)
        if kinds is None:
            return

        async def send(instance: Instance) -> Outcome:
            return await storing.store(request.association, instance, priority=command.priority)

        # Where the association does not survive a sub-operation there is nobody left to answer.
        await Retrieval(request, storing.database, kinds, tuple(kinds)).run(send)
