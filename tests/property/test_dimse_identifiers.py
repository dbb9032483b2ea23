"""Whatever bytes stand where an identifier should, the answer is a refusal or a query."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from identifiers import EXPLICIT, IMPLICIT, encoded, keys

from imaging_ingestion.association.services.commitment_report import (
    InvalidActionError,
    read_action,
)
from imaging_ingestion.association.services.find_query import read_query
from imaging_ingestion.association.services.identifier import IdentifierRefusedError
from imaging_ingestion.association.services.retrieve_request import read_selection
from imaging_ingestion.dimse.extended_negotiation import FindOptions, RetrieveOptions
from imaging_ingestion.dimse.sop_class import STUDY_ROOT_FIND, STUDY_ROOT_MOVE

SYNTAXES = (EXPLICIT, IMPLICIT)
ALL = FindOptions(*[True] * 7)


def read_all(data: bytes, syntax: str) -> None:
    """Read it as each of the data sets that a peer may send us."""
    readers: list[Callable[[], object]] = [
        lambda: read_query(data, syntax, STUDY_ROOT_FIND, ALL),
        lambda: read_query(data, syntax, STUDY_ROOT_FIND, FindOptions()),
        lambda: read_selection(data, syntax, STUDY_ROOT_MOVE, "default", RetrieveOptions(True)),
        lambda: read_action(data, syntax),
    ]
    for read in readers:
        refused: IdentifierRefusedError | InvalidActionError | None = None
        try:
            read()
        except (IdentifierRefusedError, InvalidActionError) as error:
            refused = error
        if refused is not None:
            assert refused.status in (0xA900, 0xC000, 0xA701, 0x0115)
            assert refused.comment


IDENTIFIER = keys(
    SpecificCharacterSet=["", "ISO 2022 IR 87"],
    QueryRetrieveLevel="IMAGE",
    PatientName="Yamada*",
    StudyInstanceUID=["1.2", "1.3"],
    SeriesInstanceUID="1.4",
    SOPInstanceUID="1.5",
    StudyDate="20200101-",
    SeriesNumber="1",
    Rows=512,
    TransactionUID="1.2.3",
    ReferencedSOPSequence=[{"ReferencedSOPClassUID": "1.2", "ReferencedSOPInstanceUID": "1.5"}],
    RequestAttributesSequence=[{"RequestedProcedureID": "R1"}],
)


@given(st.binary(max_size=200), st.sampled_from(SYNTAXES))
def test_any_bytes_are_refused_or_read(data: bytes, syntax: str) -> None:
    read_all(data, syntax)


@given(st.data(), st.sampled_from(SYNTAXES))
def test_a_damaged_identifier_is_refused_or_read(data: st.DataObject, syntax: str) -> None:
    whole = bytearray(encoded(IDENTIFIER, syntax))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(whole) - 1))
        whole[at] = data.draw(st.integers(0, 255))
    end = data.draw(st.integers(0, len(whole)))
    read_all(bytes(whole[:end]) if data.draw(st.booleans()) else bytes(whole), syntax)


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_the_whole_identifier_is_read(syntax: str) -> None:
    data = encoded(IDENTIFIER, syntax)
    assert read_query(data, syntax, STUDY_ROOT_FIND, ALL).all_supported
    assert read_action(data, syntax)[0] == "1.2.3"
    selection = read_selection(data, syntax, STUDY_ROOT_MOVE, "default", RetrieveOptions(True))
    assert selection.study_instance_uids == ("1.2", "1.3")
    assert selection.sop_instance_uids == ("1.5",)
