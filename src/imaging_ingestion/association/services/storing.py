"""Sending one stored instance by C-STORE, in the transfer syntax it is in where that is agreed."""

from __future__ import annotations

from dataclasses import dataclass

import structlog

from imaging_ingestion.association import store_user
from imaging_ingestion.association.association import Association
from imaging_ingestion.association.services.stored_data_set import StoredDataSet
from imaging_ingestion.association.services.sub_operations import Outcome, outcome_of
from imaging_ingestion.association.services.transcoder import Transcoder
from imaging_ingestion.dicom.transcode import TranscodeError
from imaging_ingestion.dimse.command import CStoreRequest, Priority
from imaging_ingestion.dimse.negotiation import AcceptedContext, Agreement
from imaging_ingestion.dimse.status import Service, describe
from imaging_ingestion.manifest.database import Database
from imaging_ingestion.manifest.retrieve import Instance
from imaging_ingestion.manifest.stored_object import InstanceGoneError, ObjectUnavailableError
from imaging_ingestion.storage.space import Space
from imaging_ingestion.transcoding.worker_pool import WorkerError

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Originator:
    """Who asked for a sub-operation of C-MOVE, and by which message (PS3.7 9.1.1.1)."""

    ae_title: str
    message_id: int


@dataclass(frozen=True, slots=True)
class Storing:
    """How instances of a space are sent; without a transcoder as they are, or not at all."""

    space: Space
    database: Database
    transcoder: Transcoder | None = None

    def context_for(self, agreement: Agreement, instance: Instance) -> AcceptedContext | None:
        """The best presentation context for an instance; None if there is none."""
        kind = (instance.sop_class_uid, instance.transfer_syntax_uid)
        return store_user.context_for(agreement, kind, self.transcoder)

    async def store(
        self,
        association: Association,
        instance: Instance,
        *,
        priority: int = Priority.MEDIUM,
        originator: Originator | None = None,
    ) -> Outcome:
        """Send an instance; how that ended.

        Raises AssociationError where the association did not survive it.
        """
        try:
            stored = await StoredDataSet.open(self.space, self.database, instance)
        except (InstanceGoneError, ObjectUnavailableError) as error:
            log.warning("dimse.retrieve.unavailable", reason=str(error))
            return Outcome.FAILED
        try:
            return await self._send(association, stored, priority, originator)
        finally:
            await stored.close()

    async def _send(
        self,
        association: Association,
        stored: StoredDataSet,
        priority: int,
        originator: Originator | None,
    ) -> Outcome:
        instance = stored.instance
        context = self.context_for(association.agreement, instance)
        if context is None:
            log.info(
                "dimse.retrieve.no_context",
                peer=association.peer,
                sop_instance_uid=instance.sop_instance_uid,
                sop_class_uid=instance.sop_class_uid,
                transfer_syntax_uid=instance.transfer_syntax_uid,
            )
            return Outcome.FAILED
        request = CStoreRequest(
            message_id=0,  # the association gives it one
            affected_sop_class_uid=instance.sop_class_uid,
            affected_sop_instance_uid=instance.sop_instance_uid,
            priority=priority,
            move_originator_application_entity_title=(
                None if originator is None else originator.ae_title
            ),
            move_originator_message_id=None if originator is None else originator.message_id,
        )
        try:
            response = await store_user.store(
                association,
                context,
                request,
                stored.stream(),
                instance.transfer_syntax_uid,
                self.transcoder,
            )
        except (TranscodeError, WorkerError, OSError) as error:
            # OSError: the object cannot be read, or there is no room to transcode it.
            log.warning(
                "dimse.retrieve.not_sent",
                sop_instance_uid=instance.sop_instance_uid,
                transfer_syntax_uid=context.transfer_syntax,
                reason=str(error),
            )
            return Outcome.FAILED
        outcome = outcome_of(response.status)
        if outcome is not Outcome.COMPLETED:
            log.info(
                "dimse.retrieve.answered",
                peer=association.peer,
                sop_instance_uid=instance.sop_instance_uid,
                status=describe(response.status, Service.C_STORE),
            )
        return outcome
