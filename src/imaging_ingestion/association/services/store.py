"""C-STORE (PS3.4 annex B): into the same intake as STOW-RS.

The object that is stored is a Part 10 file: file meta information made from the command and the
presentation context, and behind it the data set's bytes as they were received.
"""

from __future__ import annotations

from imaging_ingestion.association.incoming import IncomingRequest
from imaging_ingestion.dicom import failure_reason as reasons
from imaging_ingestion.dicom.part10 import file_meta
from imaging_ingestion.dicom.uid import InvalidUidError, check_uid
from imaging_ingestion.dimse import status
from imaging_ingestion.dimse.command import CStoreRequest, respond
from imaging_ingestion.intake import Intake, IntakeRefused

#: Characters of Error Comment (0000,0902), an LO.
_COMMENT = 64
#: Where the failure reason of STOW-RS is no status of C-STORE.
_STATUS_OF = {reasons.TRANSFER_SYNTAX_NOT_SUPPORTED: 0xC122}


class StoreService:
    """Stores into one space."""

    def __init__(self, intake: Intake, provider: str) -> None:
        """`provider` is recorded with every instance."""
        self._intake = intake
        self._provider = provider

    async def perform(self, request: IncomingRequest) -> None:
        """Answer one C-STORE-RQ once its instance is durable, or refused."""
        command = request.command
        if not isinstance(command, CStoreRequest):
            await request.respond(respond(command, status.UNRECOGNIZED_OPERATION))
            return
        try:
            sop_class, sop_instance = (
                check_uid(command.affected_sop_class_uid).uid,
                check_uid(command.affected_sop_instance_uid).uid,
            )
        except InvalidUidError as error:
            comment = f"a UID of the command {error}"[:_COMMENT]
            answer = respond(command, status.INVALID_SOP_INSTANCE, error_comment=comment)
            await request.respond(answer)
            return
        try:
            await self._store(request, sop_class, sop_instance)
        except IntakeRefused as refused:
            code = _STATUS_OF.get(refused.failure_reason, refused.failure_reason)
            answer = respond(command, code, error_comment=refused.message[:_COMMENT])
            await request.respond(answer)
            return
        await request.respond(respond(command, status.SUCCESS))

    async def _store(self, request: IncomingRequest, sop_class: str, sop_instance: str) -> None:
        """Take the instance in. Raises IntakeRefused, AssociationError."""
        association = request.association
        reception = self._intake.receive(
            source=f"dimse:{association.agreement.calling_ae_title}@{association.peer}",
            provider=self._provider,
        )
        try:
            meta = file_meta(sop_class, sop_instance, request.context.transfer_syntax)
            await reception.write(meta)
            async for piece in request.data_set():
                await reception.write(piece)
            found = reception.sop_instance_uid
            if found is not None and found.rstrip("\0 ") != sop_instance:
                raise IntakeRefused(
                    reasons.DATA_SET_DOES_NOT_MATCH_SOP_CLASS,
                    "SOP Instance UID of command and data set differ",
                )
            await reception.finish()
        finally:
            await reception.abort()
