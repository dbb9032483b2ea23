"""The course of a retrieval, whichever association its instances leave on (PS3.4 C.4.2, C.4.3)."""

from __future__ import annotations

from array import array
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

from imaging_ingestion.association.error import DataSetTooLongError
from imaging_ingestion.association.incoming import IncomingRequest
from imaging_ingestion.association.services.identifier import (
    MAX_IDENTIFIER_LENGTH,
    IdentifierRefusedError,
)
from imaging_ingestion.association.services.retrieve_request import read_selection
from imaging_ingestion.association.services.sub_operations import Outcome, SubOperations
from imaging_ingestion.dimse import status
from imaging_ingestion.dimse.command import respond
from imaging_ingestion.dimse.extended_negotiation import RetrieveOptions
from imaging_ingestion.manifest.database import Database
from imaging_ingestion.manifest.retrieve import Instance
from imaging_ingestion.manifest.selection import Kind, Selected, select_instances, selected

#: Rows of instances that are read at once.
_PAGE: Final = 200

Send = Callable[[Instance], Awaitable[Outcome]]
Kinds = Mapping[Kind, "array[int]"]


class NoMoreSubOperationsError(Exception):
    """None of the instances that remain can be sent; the message says why."""


async def select(request: IncomingRequest, database: Database, space_name: str) -> Kinds | None:
    """The instances that a request asks for; None if it has been refused, and answered."""
    command = request.command
    sop_class = request.context.abstract_syntax
    offered = request.association.agreement.extended.get(sop_class, b"")
    try:
        selection = read_selection(
            await request.read_data_set(MAX_IDENTIFIER_LENGTH),
            request.context.transfer_syntax,
            sop_class,
            space_name,
            RetrieveOptions.of(offered),
        )
    except DataSetTooLongError:
        answer = respond(
            command,
            status.RETRIEVE_OUT_OF_RESOURCES_MATCHES,
            error_comment=f"the identifier is longer than {MAX_IDENTIFIER_LENGTH} bytes",
        )
    except IdentifierRefusedError as error:
        answer = respond(
            command,
            error.status,
            error_comment=error.comment,
            offending_element=error.offending_element,
        )
    else:
        return await database.read(select_instances, selection)
    await request.respond(answer)
    return None


@dataclass(slots=True)
class Retrieval:
    """One retrieval. `order` are the kinds in the order in which their instances are sent."""

    request: IncomingRequest
    database: Database
    kinds: Kinds
    order: Iterable[Kind]

    async def run(self, send: Send) -> None:
        """Send every instance, and answer the request, pending responses and all."""
        done = SubOperations(sum(map(len, self.kinds.values())))
        cancelled, comment = False, None
        async with aclosing(self._selected()) as instances:
            try:
                cancelled = await self._send_all(instances, send, done)
            except NoMoreSubOperationsError as error:
                comment = str(error)
                await _fail_rest(instances, done)
        final = done.response(
            self.request.command,
            status.RETRIEVE_CANCEL if cancelled else done.final_status(),
            error_comment=comment,
        )
        await self.request.respond(final, done.identifier(self.request.context.transfer_syntax))

    async def _send_all(
        self, instances: AsyncGenerator[Selected | None, None], send: Send, done: SubOperations
    ) -> bool:
        """Send what there is; whether it was cancelled before all was sent."""
        async for one in instances:
            if self.request.cancelled.is_set():
                return True
            uid = None if one is None else one.instance.sop_instance_uid
            outcome = Outcome.FAILED
            try:
                if one is not None and one.is_live:
                    outcome = await send(one.instance)
            finally:
                done.record(outcome, uid)
            if done.remaining:
                pending = done.response(self.request.command, status.RETRIEVE_PENDING)
                await self.request.respond(pending)
        return False

    async def _selected(self) -> AsyncGenerator[Selected | None, None]:
        """The instances as they are now; None for one that is gone without a trace."""
        for kind in self.order:
            pks = self.kinds[kind]
            for start in range(0, len(pks), _PAGE):
                page = pks[start : start + _PAGE].tolist()
                rows = await self.database.read(selected, page)
                for pk in page:
                    yield rows.get(pk)


async def _fail_rest(instances: AsyncGenerator[Selected | None, None], done: SubOperations) -> None:
    """Count what remains as failed, by name as far as there is room for names."""
    while done.remaining and done.lists_all_failures:
        one = await anext(instances)
        done.record(Outcome.FAILED, None if one is None else one.instance.sop_instance_uid)
    done.fail_rest()
