"""What a C-FIND identifier asks: levels, keys, and what cannot be asked."""

from __future__ import annotations

from typing import Any

import pytest
from identifiers import EXPLICIT, IMPLICIT, encoded, keys
from pydicom.dataset import Dataset

from imaging_ingestion.association.services.find_query import (
    SUPPORTED_OPTIONS,
    FindQuery,
    read_query,
)
from imaging_ingestion.association.services.identifier import IdentifierRefusedError, QueryLevel
from imaging_ingestion.dimse.extended_negotiation import FindOptions
from imaging_ingestion.dimse.sop_class import PATIENT_ROOT_FIND, STUDY_ROOT_FIND
from imaging_ingestion.manifest.attribute_levels import Level

RELATIONAL = FindOptions(relational_queries=True)
NOTHING = FindOptions()


def query(
    identifier: Dataset, sop_class: str = STUDY_ROOT_FIND, options: FindOptions = NOTHING
) -> FindQuery:
    return read_query(encoded(identifier), EXPLICIT, sop_class, options)


def refusal(
    identifier: Dataset, sop_class: str = STUDY_ROOT_FIND, options: FindOptions = NOTHING
) -> IdentifierRefusedError:
    with pytest.raises(IdentifierRefusedError) as refused:
        query(identifier, sop_class, options)
    return refused.value


@pytest.mark.parametrize(
    ("sop_class", "level", "above"),
    [
        (PATIENT_ROOT_FIND, "PATIENT", {}),
        (PATIENT_ROOT_FIND, "STUDY", {"PatientID": "P1"}),
        (PATIENT_ROOT_FIND, "SERIES", {"PatientID": "P1", "StudyInstanceUID": "1.2"}),
        (STUDY_ROOT_FIND, "STUDY", {}),
        (STUDY_ROOT_FIND, "SERIES", {"StudyInstanceUID": "1.2"}),
        (STUDY_ROOT_FIND, "IMAGE", {"StudyInstanceUID": "1.2", "SeriesInstanceUID": "1.3"}),
    ],
)
def test_each_level_of_each_model_is_known(  # C9
    sop_class: str, level: str, above: dict[str, str]
) -> None:
    found = query(keys(QueryRetrieveLevel=level, **above), sop_class)
    assert found.query_level is QueryLevel(level)


@pytest.mark.parametrize("level", ["PATIENT", "", None, "study", "FRAME"])
def test_a_level_that_the_model_does_not_have_is_refused(level: str | None) -> None:  # C9, C10
    identifier = keys(PatientID="P1") if level is None else keys(QueryRetrieveLevel=level)
    error = refusal(identifier)
    assert error.status == 0xA900
    assert error.offending_element == (0x00080052,)
    assert "STUDY, SERIES, IMAGE" in error.comment


@pytest.mark.parametrize(
    ("sop_class", "identifier", "offending"),
    [
        (PATIENT_ROOT_FIND, {"QueryRetrieveLevel": "STUDY"}, 0x00100020),
        (PATIENT_ROOT_FIND, {"QueryRetrieveLevel": "STUDY", "PatientID": ""}, 0x00100020),
        (PATIENT_ROOT_FIND, {"QueryRetrieveLevel": "STUDY", "PatientID": "P*"}, 0x00100020),
        (PATIENT_ROOT_FIND, {"QueryRetrieveLevel": "STUDY", "PatientID": ["A", "B"]}, 0x00100020),
        (STUDY_ROOT_FIND, {"QueryRetrieveLevel": "SERIES"}, 0x0020000D),
        (
            STUDY_ROOT_FIND,
            {"QueryRetrieveLevel": "SERIES", "StudyInstanceUID": ["1.2", "1.3"]},
            0x0020000D,
        ),
        (STUDY_ROOT_FIND, {"QueryRetrieveLevel": "IMAGE", "StudyInstanceUID": "1.2"}, 0x0020000E),
        (STUDY_ROOT_FIND, {"QueryRetrieveLevel": "SERIES", "StudyInstanceUID": "*"}, 0x0020000D),
    ],
)
def test_a_key_above_the_level_has_one_value(  # C10
    sop_class: str, identifier: dict[str, Any], offending: int
) -> None:
    error = refusal(keys(**identifier), sop_class)
    assert error.status == 0xA900
    assert error.offending_element == (offending,)


def test_relational_queries_need_no_keys_above_the_level() -> None:  # C10, A12
    found = query(
        keys(QueryRetrieveLevel="IMAGE", StudyDate="20200101-", SOPClassUID="1.2.3"),
        options=RELATIONAL,
    )
    assert found.level is Level.INSTANCE
    assert set(found.identifier.tags()) == {0x00080020, 0x00080016}


def test_relational_queries_do_not_bring_the_patient_into_study_root() -> None:  # C9
    assert refusal(keys(QueryRetrieveLevel="PATIENT"), options=RELATIONAL).status == 0xA900


def test_one_study_and_series_above_are_what_is_searched_in() -> None:
    found = query(keys(QueryRetrieveLevel="IMAGE", StudyInstanceUID="1.2", SeriesInstanceUID="1.3"))
    assert (found.study_instance_uid, found.series_instance_uid) == ("1.2", "1.3")
    found = query(keys(QueryRetrieveLevel="STUDY", StudyInstanceUID="1.2"))
    assert (found.study_instance_uid, found.series_instance_uid) == (None, None)


@pytest.mark.parametrize(
    ("level", "unsupported"),
    [
        ("STUDY", {"SeriesInstanceUID": ""}),
        ("STUDY", {"SOPInstanceUID": "1.2.3"}),
        ("STUDY", {"RetrieveURL": ""}),
        ("STUDY", {"SOPClassesInStudy": ""}),
        ("STUDY", {"NumberOfPatientRelatedStudies": ""}),
        ("PATIENT", {"StudyDate": ""}),
        ("PATIENT", {"NumberOfPatientRelatedStudies": "2"}),
    ],
)
def test_keys_that_are_not_supported_are_left_out_and_told_of(  # C11
    level: str, unsupported: dict[str, str]
) -> None:
    found = (
        query(keys(QueryRetrieveLevel=level, PatientName="A*", **unsupported), PATIENT_ROOT_FIND)
        if level == "PATIENT"
        else query(keys(QueryRetrieveLevel=level, PatientName="A*", **unsupported))
    )
    assert not found.all_supported
    assert list(found.identifier.tags()) == [0x00100010]


def test_the_numbers_of_a_patient_are_supported_as_return_keys() -> None:
    found = query(
        keys(QueryRetrieveLevel="PATIENT", NumberOfPatientRelatedStudies=""), PATIENT_ROOT_FIND
    )
    assert found.all_supported
    assert found.wanted == {0x00201200: {}}


def test_elements_that_say_something_of_the_query_are_no_keys() -> None:
    found = query(
        keys(
            SpecificCharacterSet="ISO_IR 100",
            QueryRetrieveLevel="STUDY",
            RetrieveAETitle="SOMEONE",
            InstanceAvailability="OFFLINE",
            PatientName="Müller",
        )
    )
    assert found.all_supported
    assert list(found.identifier.tags()) == [0x00100010]
    assert found.character_set == ("ISO_IR 100",)
    assert found.identifier.matches({"00100010": {"vr": "PN", "Value": [{"Alphabetic": "MÜLLER"}]}})


def test_a_sequence_without_a_key_is_wanted_whole() -> None:  # C13
    for items in ([], [{}]):
        found = query(keys(QueryRetrieveLevel="STUDY", ProcedureCodeSequence=items))
        assert found.wanted == {0x00081032: {}}
        assert found.identifier.is_universal


def test_the_keys_of_an_item_are_matched_and_wanted() -> None:  # C13
    identifier = keys(
        QueryRetrieveLevel="STUDY",
        ProcedureCodeSequence=[{"CodeValue": "C1", "CodeMeaning": ""}],
    )
    found = query(identifier)
    assert found.wanted == {0x00081032: {0x00080100: {}, 0x00080104: {}}}
    match = {"00081032": {"vr": "SQ", "Value": [{"00080100": {"vr": "SH", "Value": ["C1"]}}]}}
    assert found.identifier.matches(match)
    assert not found.identifier.matches({})


def test_two_items_are_no_key() -> None:  # C13
    error = refusal(
        keys(
            QueryRetrieveLevel="STUDY",
            ProcedureCodeSequence=[{"CodeValue": "C1"}, {"CodeValue": "C2"}],
        )
    )
    assert error.status == 0xA900
    assert error.offending_element == (0x00081032,)


def test_a_value_that_cannot_be_matched_is_refused_by_its_element() -> None:  # C13
    error = refusal(keys(QueryRetrieveLevel="STUDY", StudyDate="2020-01-01"))
    assert error.status == 0xA900
    assert error.offending_element == (0x00080020,)
    assert error.comment.startswith("00080020: expected")


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT])
def test_lists_of_uids_have_backslashes(syntax: str) -> None:  # C13
    identifier = keys(QueryRetrieveLevel="STUDY", StudyInstanceUID=["1.2", "1.3"])
    found = read_query(encoded(identifier, syntax), syntax, STUDY_ROOT_FIND, NOTHING)
    for uid, is_match in (("1.2", True), ("1.3", True), ("1.4", False)):
        study = {"0020000D": {"vr": "UI", "Value": [uid]}}
        assert found.identifier.matches(study) is is_match


def test_alternatives_of_any_key_are_understood() -> None:
    found = query(keys(QueryRetrieveLevel="STUDY", ModalitiesInStudy=["CT", "MR"]))
    assert found.identifier.matches({"00080061": {"vr": "CS", "Value": ["MR"]}})


def test_dates_and_times_are_combined_only_where_that_was_agreed() -> None:  # A12
    identifier = keys(QueryRetrieveLevel="STUDY", StudyDate="20200101-20200103", StudyTime="10-12")
    night = {
        "00080020": {"vr": "DA", "Value": ["20200102"]},
        "00080030": {"vr": "TM", "Value": ["23"]},
    }
    assert not query(identifier).identifier.matches(night)
    combined = query(identifier, options=FindOptions(date_time_matching=True))
    assert combined.identifier.matches(night)


def test_the_zone_of_a_query_counts_only_where_that_was_agreed() -> None:  # A12
    identifier = keys(QueryRetrieveLevel="STUDY", TimezoneOffsetFromUTC="+0200", StudyDate="2020")
    identifier.StudyDate = "20200101"
    assert query(identifier).identifier.zone is None
    adjusted = query(identifier, options=FindOptions(timezone_query_adjustment=True))
    assert adjusted.identifier.zone == 120
    assert 0x00080201 in adjusted.wanted


def test_empty_values_are_matched_only_where_that_was_agreed() -> None:  # A12
    identifier = keys(QueryRetrieveLevel="STUDY", AccessionNumber='""')
    assert not query(identifier).identifier.matches({})
    assert query(identifier, options=FindOptions(empty_value_matching=True)).identifier.matches({})


def test_what_we_negotiate_is_what_we_do() -> None:  # A12
    assert SUPPORTED_OPTIONS.answer(b"\1\1\1\1\1\1\1") == b"\1\1\0\1\0\1\1"
    assert SUPPORTED_OPTIONS.answer(b"\0") == b"\0"


def test_private_keys_need_their_creator_and_the_level_of_instances() -> None:
    identifier = keys(QueryRetrieveLevel="IMAGE", StudyInstanceUID="1.2", SeriesInstanceUID="1.3")
    identifier.add_new(0x00231001, "LO", "x")
    assert not query(identifier).all_supported
    identifier.add_new(0x00230010, "LO", "AcmeCompany")
    found = query(identifier)
    assert found.all_supported
    assert [block.creator for block in found.identifier.private] == ["AcmeCompany"]
    identifier.QueryRetrieveLevel = "STUDY"
    assert not query(identifier).all_supported


@pytest.mark.parametrize("data", [b"", b"\x08\0\x52\0CS\x10\0STUDY ", b"\xff" * 40])
def test_an_identifier_that_cannot_be_read_is_refused(data: bytes) -> None:
    with pytest.raises(IdentifierRefusedError) as refused:
        read_query(data, EXPLICIT, STUDY_ROOT_FIND, NOTHING)
    assert refused.value.status == (0xA900 if not data else 0xC000)
