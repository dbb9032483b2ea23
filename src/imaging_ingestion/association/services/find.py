"""C-FIND as SCP: Patient Root and Study Root (PS3.4 C.4.1), answered from the manifest.

Results are made and sent batch by batch, so a query that finds everything costs no more memory than
one that finds little, and a slow requestor slows the search. What is matched and how is that of
QIDO-RS: `dicom.matching` and `manifest.query`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

from imaging_ingestion.association.error import DataSetTooLongError
from imaging_ingestion.association.incoming import IncomingRequest
from imaging_ingestion.association.services.find_query import FindQuery, read_query
from imaging_ingestion.association.services.find_result import Elements, ResultWriter
from imaging_ingestion.association.services.identifier import (
    MAX_IDENTIFIER_LENGTH,
    IdentifierRefusedError,
)
from imaging_ingestion.dicom.dataset_write import write_data_set
from imaging_ingestion.dimse import status
from imaging_ingestion.dimse.command import CFindRequest, respond
from imaging_ingestion.dimse.extended_negotiation import FindOptions
from imaging_ingestion.manifest.database import Database
from imaging_ingestion.manifest.query import Search, TooBroadError, walk
from imaging_ingestion.manifest.query_match import metadata_of, unpacked
from imaging_ingestion.manifest.query_patient import walk_patients

#: Data sets of instances that are read at once.
_METADATA_PIECE: Final = 50


@dataclass(frozen=True, slots=True)
class FindSettings:
    """`retrieve_ae_title` names us in results; None: as the requestor called us. `max_results` ends
    a query with a warning (0: never); `scan_limit` are rows that may be looked at where no index
    and no SQL can tell what matches."""

    retrieve_ae_title: str | None = None
    max_results: int = 0
    scan_limit: int = 50_000


class FindService:
    """Queries of one space."""

    def __init__(
        self, database: Database, space_name: str, settings: FindSettings | None = None
    ) -> None:
        self._database = database
        self._space_name = space_name
        self._settings = settings or FindSettings()

    async def perform(self, request: IncomingRequest) -> None:
        """Answer one C-FIND-RQ."""
        command = request.command
        if not isinstance(command, CFindRequest):
            await request.respond(respond(command, status.UNRECOGNIZED_OPERATION))
            return
        sop_class = request.context.abstract_syntax
        agreement = request.association.agreement
        try:
            query = read_query(
                await _identifier(request),
                request.context.transfer_syntax,
                sop_class,
                FindOptions.of(agreement.extended.get(sop_class, b"")),
            )
        except IdentifierRefusedError as error:
            answer = respond(
                command,
                error.status,
                error_comment=error.comment,
                offending_element=error.offending_element,
            )
            await request.respond(answer)
            return
        title = self._settings.retrieve_ae_title or agreement.called_ae_title
        final, comment = await self._send_results(request, query, ResultWriter(query, title))
        await request.respond(respond(command, final, error_comment=comment))

    async def _send_results(
        self, request: IncomingRequest, query: FindQuery, writer: ResultWriter
    ) -> tuple[status.Status, str | None]:
        """Send every result; the final status and its comment."""
        pending = respond(
            request.command,
            status.FIND_PENDING
            if query.all_supported
            else status.FIND_PENDING_OPTIONAL_KEY_NOT_SUPPORTED,
        )
        sent = 0
        try:
            async with aclosing(self._results(request, query, writer)) as results:
                async for elements in results:
                    if request.cancelled.is_set():
                        return status.FIND_CANCEL, None
                    if self._settings.max_results and sent == self._settings.max_results:
                        comment = f"more than {sent} matches"
                        return status.FIND_MATCHING_REACHED_RESPONSE_LIMIT, comment
                    data_set = write_data_set(
                        elements, request.context.transfer_syntax, query.character_set
                    )
                    await request.respond(pending, data_set)
                    sent += 1
        except TooBroadError as error:
            comment = f"too broad: over {error.scan_limit} data sets; add a key with an index"
            return status.FIND_OUT_OF_RESOURCES, comment
        return (status.FIND_CANCEL if request.cancelled.is_set() else status.SUCCESS), None

    async def _results(
        self, request: IncomingRequest, query: FindQuery, writer: ResultWriter
    ) -> AsyncGenerator[Elements, None]:
        """The results; they end early where the query is cancelled."""
        limit = self._settings.scan_limit
        if query.level is None:
            patients = walk_patients(
                self._database, self._space_name, query.identifier, scan_limit=limit
            )
            async with aclosing(patients):
                async for found in patients:
                    if request.cancelled.is_set():
                        return
                    for patient in found:
                        yield writer.patient(patient)
            return
        wanted = Search(
            self._space_name,
            query.level,
            query.identifier,
            query.study_instance_uid,
            query.series_instance_uid,
            scan_limit=limit,
        )
        async with aclosing(walk(self._database, wanted)) as batches:
            async for matches in batches:
                if request.cancelled.is_set():
                    return
                if not writer.needs_metadata:
                    for match in matches:
                        yield writer.result(match)
                    continue
                for start in range(0, len(matches), _METADATA_PIECE):
                    piece = matches[start : start + _METADATA_PIECE]
                    data_sets = await self._database.read(
                        metadata_of, [match.own.id for match in piece]
                    )
                    for match in piece:
                        packed = data_sets.get(match.own.id)
                        if packed is not None:  # else deleted since it was found
                            yield writer.result(match, unpacked(packed))


async def _identifier(request: IncomingRequest) -> bytes:
    try:
        return await request.read_data_set(MAX_IDENTIFIER_LENGTH)
    except DataSetTooLongError as error:
        raise IdentifierRefusedError(
            f"the identifier is longer than {MAX_IDENTIFIER_LENGTH} bytes",
            status_code=status.FIND_OUT_OF_RESOURCES,
        ) from error
