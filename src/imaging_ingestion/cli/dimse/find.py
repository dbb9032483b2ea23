"""`find`: what an application entity has (PS3.4 C.4.1)."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Final

from rich.table import Table

from imaging_ingestion.association.association import Association
from imaging_ingestion.cli.dimse.keys import Element, Keys, identifier, parse_keys, text_of
from imaging_ingestion.cli.dimse.keys import return_key as key
from imaging_ingestion.cli.dimse.peer import DimseOptions, Peer
from imaging_ingestion.cli.dimse.session import FailedError, associated, run
from imaging_ingestion.cli.terminal import console, plain
from imaging_ingestion.dicom.dataset_read import read_data_set
from imaging_ingestion.dicom.dictionary import keyword_of
from imaging_ingestion.dicom.header import ScanError
from imaging_ingestion.dimse.command import CFindRequest
from imaging_ingestion.dimse.requestor import Proposal
from imaging_ingestion.dimse.sop_class import (
    DATA_SET_TRANSFER_SYNTAXES,
    PATIENT_ROOT_FIND,
    STUDY_ROOT_FIND,
)
from imaging_ingestion.dimse.status import Service, StatusKind, describe, kind_of

#: What is asked for beside what is given.
_RETURNED: Final = {
    "patient": ("PatientName", "PatientID", "PatientBirthDate", "PatientSex"),
    "study": (
        "PatientName",
        "PatientID",
        "StudyDate",
        "AccessionNumber",
        "StudyDescription",
        "ModalitiesInStudy",
        "NumberOfStudyRelatedInstances",
        "StudyInstanceUID",
    ),
    "series": (
        "Modality",
        "SeriesNumber",
        "SeriesDescription",
        "NumberOfSeriesRelatedInstances",
        "SeriesInstanceUID",
    ),
    "image": ("InstanceNumber", "SOPClassUID", "SOPInstanceUID"),
}
#: Elements that are about the answer, and no column of a table.
_NOT_SHOWN: Final = frozenset({"00080005", "00080052", "00080054", "00080056", "00080201"})


def find(
    to: str,
    level: str,
    keys: Sequence[str],
    options: DimseOptions,
    *,
    limit: int | None,
    as_json: bool,
) -> None:
    """Send one C-FIND and show what is found."""
    asked, found, remark = run(_find(to, level, keys, options, limit), to)
    if as_json:
        print(json.dumps(found, indent=1, ensure_ascii=False))
    elif found:
        console().print(_table(asked, found))
    else:
        print("nothing found")
    if remark:
        console(stderr=True).print(plain(remark))


async def _find(
    to: str, level: str, given: Sequence[str], options: DimseOptions, limit: int | None
) -> tuple[Keys, list[dict[str, Element]], str | None]:
    """What was asked for, the results, and what there is to say of them."""
    asked = parse_keys(given)
    asked |= {tag: element for tag, element in map(key, _RETURNED[level]) if tag not in asked}
    sop_class = PATIENT_ROOT_FIND if level == "patient" else STUDY_ROOT_FIND
    proposals = [Proposal(sop_class, DATA_SET_TRANSFER_SYNTAXES)]
    found: list[dict[str, Element]] = []
    remark = None
    async with (
        associated(Peer.parse(to), options, proposals) as association,
        aclosing(query(association, sop_class, level, asked)) as results,
    ):
        async for result in results:
            if isinstance(result, str):
                remark = result
            elif len(found) == limit:
                remark = f"only the first {limit} are shown"
                break
            else:
                found.append(result)
    return asked, found, remark


async def query(
    association: Association, sop_class_uid: str, level: str, keys: Mapping[str, Element]
) -> AsyncGenerator[dict[str, Element] | str, None]:
    """The results of one C-FIND in DICOM JSON, and in the end perhaps a remark.

    Raises FailedError, AssociationError.
    """
    context = association.agreement.context_for(sop_class_uid)
    if context is None:
        raise FailedError(f"{association.peer} takes no queries")
    request = CFindRequest(message_id=0, affected_sop_class_uid=sop_class_uid)
    asked = identifier(level, keys, context.transfer_syntax)
    async with aclosing(association.request(context.context_id, request, asked)) as answers:
        async for answer in answers:
            code, comment = answer.response.status, answer.response.error_comment
            kind = kind_of(code)
            if kind is StatusKind.PENDING:
                if answer.data_set is not None:
                    yield _read(answer.data_set, context.transfer_syntax)
            elif kind is not StatusKind.SUCCESS:
                told = ": ".join(filter(None, (describe(code, Service.C_FIND), comment)))
                if kind is StatusKind.FAILURE:
                    raise FailedError(f"{association.peer} answers {told}")
                yield told


def _read(data_set: bytes, transfer_syntax_uid: str) -> dict[str, Element]:
    try:
        return dict(read_data_set(data_set, transfer_syntax_uid).elements)
    except ScanError as error:
        raise FailedError(f"a result cannot be read: {error.reason}") from error


def _table(asked: Mapping[str, Any], found: Sequence[Mapping[str, Element]]) -> Table:
    """One column for each key that somebody asked for, and that any result has."""
    shown = [
        tag
        for tag in asked
        if tag not in _NOT_SHOWN and any(text_of(result.get(tag)) for result in found)
    ]
    table = Table(title=f"{len(found)} found")
    for tag in shown:
        table.add_column(keyword_of(int(tag, 16)) or tag, overflow="fold")
    for result in found:
        table.add_row(*(plain(text_of(result.get(tag))) for tag in shown))
    return table
