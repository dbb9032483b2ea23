"""C-MOVE as SCP: instances leave for a destination that the site names (PS3.4 C.4.2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import structlog

from imaging_ingestion.association.association import Association
from imaging_ingestion.association.error import AssociationError
from imaging_ingestion.association.incoming import IncomingRequest
from imaging_ingestion.association.services.destination import (
    Connect,
    Destination,
    Destinations,
)
from imaging_ingestion.association.services.move_plan import (
    PlannedAssociation,
    plan_associations,
)
from imaging_ingestion.association.services.retrieval import (
    NoMoreSubOperationsError,
    Retrieval,
    select,
)
from imaging_ingestion.association.services.storing import Originator, Storing
from imaging_ingestion.association.services.sub_operations import Outcome
from imaging_ingestion.dimse import status
from imaging_ingestion.dimse.command import CMoveRequest, respond
from imaging_ingestion.manifest.retrieve import Instance
from imaging_ingestion.manifest.selection import Kind

log = structlog.get_logger(__name__)

#: How long a destination may take to agree to the release.
RELEASE_TIMEOUT: Final = timedelta(seconds=10)
#: Associations that end, one after the other, without a single answer on them.
_MOST_LOST: Final = 2


@dataclass(frozen=True, slots=True)
class MoveSettings:
    """`calling_ae_title` names us to destinations; None: as the requestor called us."""

    calling_ae_title: str | None = None


class MoveService:
    """Retrievals from one space to the destinations of the site."""

    def __init__(
        self,
        storing: Storing,
        destinations: Destinations,
        connect: Connect,
        settings: MoveSettings | None = None,
    ) -> None:
        self._storing = storing
        self._destinations = destinations
        self._connect = connect
        self._settings = settings or MoveSettings()

    async def perform(self, request: IncomingRequest) -> None:
        """Answer one C-MOVE-RQ."""
        command = request.command
        if not isinstance(command, CMoveRequest):
            await request.respond(respond(command, status.UNRECOGNIZED_OPERATION))
            return
        destination = self._destinations.find(command.move_destination)
        if destination is None:
            comment = f"{command.move_destination} is not named by this site"
            answer = respond(command, status.MOVE_DESTINATION_UNKNOWN, error_comment=comment)
            await request.respond(answer)
            return
        kinds = await select(request, self._storing.database, self._storing.space.name)
        if kinds is None:
            return
        agreement = request.association.agreement
        plan = plan_associations(kinds, self._storing.transcoder)
        order = [kind for association in plan for kind in association.kinds]
        link = _Link(
            self._storing,
            self._connect,
            destination,
            self._settings.calling_ae_title or agreement.called_ae_title,
            {kind: association for association in plan for kind in association.kinds},
            command.priority,
            Originator(agreement.calling_ae_title, command.message_id),
        )
        try:
            await Retrieval(request, self._storing.database, kinds, order).run(link.send)
        except BaseException:
            await link.abort()
            raise
        await link.release()


@dataclass(slots=True)
class _Link:
    """The association with the destination: one at a time, made when it is needed."""

    storing: Storing
    connect: Connect
    destination: Destination
    calling_ae_title: str
    planned: Mapping[Kind, PlannedAssociation]
    priority: int
    originator: Originator
    _association: Association | None = None
    _current: PlannedAssociation | None = None
    _lost: int = 0  # associations, since the last answer

    async def send(self, instance: Instance) -> Outcome:
        """Send one instance. Raises NoMoreSubOperationsError where the destination is away."""
        kind = Kind(instance.sop_class_uid, instance.transfer_syntax_uid)
        planned = self.planned.get(kind)
        if planned is None:  # another content has come since: whatever is open may do for it
            planned = self._current or next(iter(self.planned.values()))
        association = await self._associated(planned)
        try:
            outcome = await self.storing.store(
                association, instance, priority=self.priority, originator=self.originator
            )
        except AssociationError as error:
            self._log("dimse.move.lost", error)
            await self.abort()
            self._lost += 1
            if self._lost >= _MOST_LOST:
                raise NoMoreSubOperationsError(f"the destination broke off: {error}") from error
            return Outcome.FAILED
        self._lost = 0
        return outcome

    async def _associated(self, planned: PlannedAssociation) -> Association:
        """An open association for those contexts."""
        if self._association is not None:
            if planned is self._current and self._association.is_open:
                return self._association
            await self.release()
        try:
            self._association = await self.connect(
                self.destination, planned.proposals, calling_ae_title=self.calling_ae_title
            )
        except AssociationError as error:
            self._log("dimse.move.no_association", error)
            raise NoMoreSubOperationsError(f"no association: {error}") from error
        self._current = planned
        return self._association

    async def release(self) -> None:
        """End the association, if there is one, as is usual."""
        association, self._association = self._association, None
        if association is None or not association.is_open:
            return
        try:
            await association.release(RELEASE_TIMEOUT.total_seconds())
        except AssociationError as error:
            self._log("dimse.move.not_released", error)

    async def abort(self) -> None:
        """End the association, if there is one, at once."""
        association, self._association = self._association, None
        if association is not None and association.is_open:
            await association.abort()

    def _log(self, event: str, error: AssociationError) -> None:
        log.warning(event, destination=self.destination.ae_title, error=str(error))
