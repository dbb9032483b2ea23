"""Storage commitment push model as SCP: N-ACTION is answered once the request is durable (PS3.4 J).

The report follows: see `commitment_reporter`.
"""

from __future__ import annotations

import asyncio
from typing import Final

from imaging_ingestion.association.error import DataSetTooLongError
from imaging_ingestion.association.incoming import IncomingRequest
from imaging_ingestion.association.services.commitment_report import (
    DUPLICATE_TRANSACTION_UID,
    TRANSACTION_UID,
    InvalidActionError,
    read_action,
)
from imaging_ingestion.association.services.commitment_reporter import CommitmentReporter
from imaging_ingestion.dimse import status
from imaging_ingestion.dimse.command import NActionRequest, Request, Response, respond
from imaging_ingestion.dimse.sop_class import (
    STORAGE_COMMITMENT_PUSH_MODEL,
    STORAGE_COMMITMENT_PUSH_MODEL_INSTANCE,
)
from imaging_ingestion.manifest.commitment import CommitmentRequest, DuplicateTransactionError

#: Bytes of the longest action information that is read: a hundred thousand instances.
MAX_INFORMATION_LENGTH: Final = 16 << 20
REQUEST_STORAGE_COMMITMENT: Final = 1  # action type (table J.3-1)


class CommitmentService:
    """Takes requests for storage commitment."""

    def __init__(self, reporter: CommitmentReporter) -> None:
        self._reporter = reporter

    async def perform(self, request: IncomingRequest) -> None:
        """Answer one N-ACTION-RQ."""
        refusal = _refusal(request.command, has_data_set=request.has_data_set)
        if refusal is not None:
            await request.respond(refusal)
            return
        agreement = request.association.agreement
        try:
            information = await request.read_data_set(MAX_INFORMATION_LENGTH)
            transaction_uid, items = await asyncio.to_thread(
                read_action, information, request.context.transfer_syntax
            )
            claim = await self._reporter.take(
                CommitmentRequest(
                    transaction_uid, agreement.calling_ae_title, agreement.called_ae_title, items
                )
            )
        except DataSetTooLongError:
            comment = f"the action information is longer than {MAX_INFORMATION_LENGTH} bytes"
            answer = respond(request.command, status.RESOURCE_LIMITATION, error_comment=comment)
            await request.respond(answer)
        except InvalidActionError as error:
            answer = respond(
                request.command,
                error.status,
                error_comment=error.comment,
                offending_element=error.offending_element,
            )
            await request.respond(answer)
        except DuplicateTransactionError:
            answer = respond(
                request.command,
                DUPLICATE_TRANSACTION_UID,
                error_comment="the Transaction UID is in use",
                offending_element=(TRANSACTION_UID,),
            )
            await request.respond(answer)
        else:
            try:
                await request.respond(respond(request.command, status.SUCCESS))
            finally:  # it is taken, whether or not the requester has heard of it
                self._reporter.begin(claim, request.association)


def _refusal(command: Request, *, has_data_set: bool) -> Response | None:
    """The answer to a request that is none for storage commitment."""
    if not isinstance(command, NActionRequest):
        return respond(command, status.UNRECOGNIZED_OPERATION)
    if command.requested_sop_class_uid != STORAGE_COMMITMENT_PUSH_MODEL:
        return respond(command, status.NO_SUCH_SOP_CLASS)
    if command.requested_sop_instance_uid != STORAGE_COMMITMENT_PUSH_MODEL_INSTANCE:
        return respond(command, status.NO_SUCH_SOP_INSTANCE)
    if command.action_type_id != REQUEST_STORAGE_COMMITMENT:
        return respond(command, status.NO_SUCH_ACTION_TYPE)
    if not has_data_set:
        comment = "the action information is missing"
        return respond(command, status.INVALID_ARGUMENT_VALUE, error_comment=comment)
    return None
