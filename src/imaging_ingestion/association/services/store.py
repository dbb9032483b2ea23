"""C-STORE (PS3.4 annex B): into the same intake as STOW-RS.

The object that is stored is a Part 10 file: file meta information made from the command and the
presentation context, and behind it the data set's bytes as they were received.

An instance of another SOP class than its command says is stored and answered by B007H. One that is
kept aside is stored, too, and nobody need send it again, so that is a warning: B111H, of ours. One
that is taken in with another remark (leading zeros in a UID, say) is answered by 0000H: none of the
warnings of C-STORE says that, for nothing is coerced and nothing discarded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import structlog

from imaging_ingestion.association.incoming import IncomingRequest
from imaging_ingestion.association.services.arrivals import Arrivals
from imaging_ingestion.dicom import failure_reason as reasons
from imaging_ingestion.dicom.part10 import file_meta
from imaging_ingestion.dicom.uid import InvalidUidError, check_uid
from imaging_ingestion.dimse import status
from imaging_ingestion.dimse.command import CStoreRequest, respond
from imaging_ingestion.events.stored import StoreResult
from imaging_ingestion.intake import Intake, IntakeRefused, Received

log = structlog.get_logger(__name__)

#: C-STORE has no status for an instance that is there already and is kept (0111H is N-CREATE's,
#: PS3.7 9.1.1.1.9); ours is one that no sender tries again.
KEPT_STATUS: Final = 0xC111

#: Where the failure reason of STOW-RS is no status of C-STORE.
_STATUS_OF: Final = {reasons.DUPLICATE_SOP_INSTANCE: KEPT_STATUS}


class StoreService:
    """Stores into one space."""

    def __init__(
        self,
        intake: Intake,
        provider: str,
        on_answer: Callable[[int], None] | None = None,
        arrivals: Arrivals | None = None,
    ) -> None:
        """`provider` is recorded with every instance; `on_answer` is told each status.

        `arrivals` is told which studies came on which association.
        """
        self._intake = intake
        self._arrivals = arrivals
        self._provider = provider
        self._on_answer = on_answer

    async def perform(self, request: IncomingRequest) -> None:
        """Answer one C-STORE-RQ once its instance is durable, or refused."""
        command = request.command
        if not isinstance(command, CStoreRequest):
            await request.respond(respond(command, status.UNRECOGNIZED_OPERATION))
            return
        comment = None
        try:
            received = await self._store(request, command)
            code = int(status.SUCCESS)
            if self._arrivals is not None:
                self._arrivals.note(request.association, received.study_instance_uid)
            if received.result is StoreResult.QUARANTINED:
                code, comment = reasons.KEPT_ASIDE, "stored, and kept aside until somebody decides"
            elif received.sop_class_uid != command.affected_sop_class_uid:
                code = status.STORE_WARNING_DATA_SET_DOES_NOT_MATCH_SOP_CLASS
        except IntakeRefused as refused:
            code = _STATUS_OF.get(refused.failure_reason, refused.failure_reason)
            comment = refused.message
        if self._on_answer is not None:
            self._on_answer(code)
        await request.respond(respond(command, code, error_comment=comment))

    async def _store(self, request: IncomingRequest, command: CStoreRequest) -> Received:
        """Take the instance in. Raises IntakeRefused, AssociationError."""
        association = request.association
        source = f"dimse:{association.agreement.calling_ae_title}@{association.peer}"
        reception = self._intake.receive(source=source, provider=self._provider)
        try:
            meta = file_meta(
                command.affected_sop_class_uid,
                command.affected_sop_instance_uid,
                request.context.transfer_syntax,
            )
            await reception.write(meta)
            async for piece in request.data_set():
                await reception.write(piece)
            found = reception.sop_instance_uid
            if found is not None and not _is_same(found, command.affected_sop_instance_uid):
                log.info("dimse.instance_is_another", source=source)
                raise IntakeRefused(
                    reasons.DATA_SET_DOES_NOT_MATCH_SOP_CLASS,
                    "SOP Instance UID of command and data set differ",
                )
            return await reception.finish()
        finally:
            await reception.abort()


def _is_same(found: str, asked: str) -> bool:
    """Whether the data set's UID is the command's; one that is no UID the intake will judge."""
    try:
        return check_uid(found).uid == asked
    except InvalidUidError:
        return True
