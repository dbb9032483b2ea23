"""How many instances of a study its sender has, asked by C-FIND (PS3.4 C.6.2).

The number is an optional key at the study and series levels (tables C.6-2 and C.6-3): who does not
answer it at the first is asked at the second, and who answers neither says nothing.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final

from imaging_ingestion.association.association import Association
from imaging_ingestion.association.error import AssociationError
from imaging_ingestion.association.services.destination import Connect, Destination
from imaging_ingestion.association.services.identifier import QueryLevel
from imaging_ingestion.brokers.settle_hints import SourceError
from imaging_ingestion.dicom.dataset_read import SmallDataSet, read_data_set
from imaging_ingestion.dicom.dataset_write import write_data_set
from imaging_ingestion.dicom.header import ScanError
from imaging_ingestion.dimse.command import CFindRequest
from imaging_ingestion.dimse.requestor import Proposal
from imaging_ingestion.dimse.sop_class import DATA_SET_TRANSFER_SYNTAXES, STUDY_ROOT_FIND
from imaging_ingestion.dimse.status import Service, StatusKind, describe, kind_of

_STUDY_INSTANCES: Final = 0x00201208  # Number of Study Related Instances
_SERIES_INSTANCES: Final = 0x00201209
_SERIES_INSTANCE_UID: Final = 0x0020000E


class DimseSource:
    """A sender that answers queries."""

    def __init__(self, entity: Destination, connect: Connect, calling_ae_title: str) -> None:
        """`calling_ae_title` is ours."""
        self._entity = entity
        self._connect = connect
        self._calling_ae_title = calling_ae_title

    async def expected(self, study_instance_uid: str) -> int | None:
        """See `brokers.settle_hints.Source`."""
        proposals = [Proposal(STUDY_ROOT_FIND, DATA_SET_TRANSFER_SYNTAXES)]
        try:
            association = await self._connect(
                self._entity, proposals, calling_ae_title=self._calling_ae_title
            )
            try:
                number = await _sum(
                    association, QueryLevel.STUDY, study_instance_uid, _STUDY_INSTANCES
                )
                if number is None:
                    number = await _sum(
                        association, QueryLevel.SERIES, study_instance_uid, _SERIES_INSTANCES
                    )
                await association.release()
            finally:
                await association.abort()
        except AssociationError as error:
            raise SourceError(f"{self._entity.ae_title}: {error}") from error
        return number


async def _sum(
    association: Association, level: QueryLevel, study_instance_uid: str, key: int
) -> int | None:
    """The sum of what is found; None if nothing is, or if any result lacks the number."""
    total: int | None = None
    async with aclosing(_found(association, level, study_instance_uid, key)) as results:
        async for result in results:
            text = result.text(key).strip()
            if not (text.isascii() and text.isdigit()):
                return None
            total = (total or 0) + int(text)
    return total


async def _found(
    association: Association, level: QueryLevel, study_instance_uid: str, key: int
) -> AsyncGenerator[SmallDataSet, None]:
    context = association.agreement.context_for(STUDY_ROOT_FIND)
    if context is None:
        raise SourceError(f"{association.peer} takes no queries")
    keys: dict[str, dict[str, object]] = {
        "00080052": {"vr": "CS", "Value": [level.value]},
        "0020000D": {"vr": "UI", "Value": [study_instance_uid]},
        f"{key:08X}": {"vr": "IS"},
    }
    if level is QueryLevel.SERIES:
        keys[f"{_SERIES_INSTANCE_UID:08X}"] = {"vr": "UI"}
    identifier = write_data_set({tag: keys[tag] for tag in sorted(keys)}, context.transfer_syntax)
    request = CFindRequest(message_id=0, affected_sop_class_uid=STUDY_ROOT_FIND)
    async with aclosing(association.request(context.context_id, request, identifier)) as answers:
        async for answer in answers:
            code = answer.response.status
            kind = kind_of(code)
            if kind is StatusKind.PENDING and answer.data_set is not None:
                try:
                    yield read_data_set(answer.data_set, context.transfer_syntax)
                except ScanError as error:
                    raise SourceError(f"a result cannot be read: {error.reason}") from error
            elif kind not in {StatusKind.PENDING, StatusKind.SUCCESS}:
                raise SourceError(f"{association.peer} answers {describe(code, Service.C_FIND)}")
