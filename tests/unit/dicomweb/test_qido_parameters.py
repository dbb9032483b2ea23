"""The query string of a search (PS3.18 8.3.4), as it is read before anything is asked."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imaging_ingestion.dicom.criterion import AnyOf, TextIs, Universal
from imaging_ingestion.dicomweb.problem import HttpProblemError
from imaging_ingestion.dicomweb.qido_parameters import (
    MOST_PARAMETERS,
    Resource,
    SearchParameters,
    parse_search,
)
from imaging_ingestion.manifest.attribute_levels import Level

STUDIES = Resource(Level.STUDY)
INSTANCES = Resource(Level.INSTANCE)
PATIENT_ID, PATIENT_NAME = 0x00100020, 0x00100010


def parsed(query: str, resource: Resource = STUDIES) -> SearchParameters:
    return parse_search(query.encode(), resource)


def refused(query: str, resource: Resource = STUDIES) -> str:
    """What the 400 says."""
    with pytest.raises(HttpProblemError) as caught:
        parse_search(query.encode(), resource)
    assert caught.value.status == 400
    return caught.value.detail


def test_nothing_asks_for_everything() -> None:
    parameters = parsed("")
    assert parameters == SearchParameters(parameters.identifier)
    assert parameters.identifier.is_universal
    assert (parameters.limit, parameters.offset) == (None, 0)


@pytest.mark.parametrize("name", ["PatientID", "00100020"])
def test_keys_are_named_by_keyword_or_tag(name: str) -> None:
    # Q5
    parameters = parsed(f"{name}=a%20b")
    assert parameters.identifier.criteria == {PATIENT_ID: AnyOf((TextIs(("a b",)),))}
    assert [key.path for key in parameters.matched] == [(PATIENT_ID,)]


def test_the_digits_of_a_tag_have_no_case() -> None:
    # Q5
    assert parsed("0020000d=1.2").identifier == parsed("0020000D=1.2").identifier


@pytest.mark.parametrize("query", ["PatientID=", "PatientID", "PatientID=%20"])
def test_a_key_without_value_asks_nothing_and_is_returned(query: str) -> None:
    # Q10
    parameters = parsed(query)
    assert isinstance(parameters.identifier.criteria[PATIENT_ID], Universal)
    assert [key.path for key in parameters.matched] == [(PATIENT_ID,)]


@pytest.mark.parametrize(
    ("query", "tags"),
    [
        ("includefield=PatientID", {PATIENT_ID}),
        ("includefield=00100020&includefield=PatientName", {PATIENT_ID, PATIENT_NAME}),
        ("includefield=PatientID,%2000100010", {PATIENT_ID, PATIENT_NAME}),
        ("includefield=00400275.00401001", {0x00400275}),
        ("includefield=00231001", {0x00231001}),
    ],
)
def test_attributes_are_included_in_every_way_of_asking(query: str, tags: set[int]) -> None:
    # Q26
    parameters = parsed(query, INSTANCES)
    assert parameters.include == tags
    assert not parameters.include_all


def test_all_is_all_whatever_stands_beside_it() -> None:
    # Q26
    assert parsed("includefield=all").include_all
    parameters = parsed("includefield=PatientID,all&includefield=StudyID")
    assert parameters.include_all


@pytest.mark.parametrize("query", ["includefield=NoSuchKeyword", "NoSuchKeyword=1", "patientid=1"])
def test_what_nobody_knows_is_ignored_and_named(query: str) -> None:
    # Q7, H10
    assert parsed(query).ignored == (query.replace("includefield=", "").partition("=")[0],)


def test_a_name_that_could_not_stand_in_a_header_is_not_repeated() -> None:
    assert parsed("a%0d%0ab=1&%E2%98%83=1&" + "x" * 65 + "=1").ignored == ("(unprintable)",)


@pytest.mark.parametrize(
    ("resource", "name", "is_matched"),
    [
        (STUDIES, "PatientID", True),
        (STUDIES, "Modality", False),
        (STUDIES, "SOPInstanceUID", False),
        (Resource(Level.SERIES), "Modality", True),
        (Resource(Level.SERIES), "PatientID", True),
        (Resource(Level.SERIES, Level.STUDY), "PatientID", False),
        (Resource(Level.SERIES, Level.STUDY), "Modality", True),
        (INSTANCES, "PatientID", True),
        (Resource(Level.INSTANCE, Level.STUDY), "Modality", True),
        (Resource(Level.INSTANCE, Level.SERIES), "Modality", False),
        (Resource(Level.INSTANCE, Level.SERIES), "Rows", True),
        # Made for the answer, or no part of a data set.
        (INSTANCES, "RetrieveURL", False),
        (INSTANCES, "SpecificCharacterSet", False),
        (INSTANCES, "TransferSyntaxUID", False),
    ],
)
def test_a_resource_matches_the_attributes_of_its_levels(
    resource: Resource, name: str, is_matched: bool
) -> None:
    # Q33, Q34
    parameters = parsed(f"{name}=", resource)
    assert bool(parameters.matched) is is_matched
    assert parameters.ignored == (() if is_matched else (name,))


def test_the_zone_of_the_request_belongs_to_every_resource() -> None:
    # Q17
    resource = Resource(Level.INSTANCE, Level.SERIES)
    assert parsed("TimezoneOffsetFromUTC=%2B0930", resource).identifier.zone == 570


@pytest.mark.parametrize("name", ["accept", "charset"])
def test_parameters_that_others_read_are_no_keys(name: str) -> None:
    parameters = parsed(f"{name}=x&{name}=y")
    assert parameters.ignored == ()
    assert parameters.matched == ()


@pytest.mark.parametrize(
    ("query", "detail"),
    [
        ("PatientID=1&00100020=2", "the parameter 00100020 is given twice"),
        ("Modality=1&Modality=2", "the parameter Modality is given twice"),  # though ignored
        ("limit=1&limit=1", "the parameter limit is given twice"),
        ("limit=x", "the parameter limit: expected a whole number from 0 to 4294967295"),
        ("offset=-1", "the parameter offset: expected a whole number from 0 to 4294967295"),
        ("fuzzymatching=TRUE", "the parameter fuzzymatching: expected true or false"),
        ("StudyDate=x", "the parameter StudyDate: expected a date YYYYMMDD of the calendar"),
        ("00080020=x", "the parameter 00080020: expected a date YYYYMMDD of the calendar"),
        ("PatientName=%FF", "the query string is not percent-encoded UTF-8; a percent sign"),
        ("PatientName=%", "the query string is not percent-encoded UTF-8; a percent sign"),
        ("1=1", "1 is no attribute: expected a keyword, or a tag"),
    ],
)
def test_what_is_wrong_is_named_with_what_is_expected(query: str, detail: str) -> None:
    # H11
    assert refused(query).startswith(detail)


def test_bytes_that_are_no_ascii_are_refused() -> None:
    with pytest.raises(HttpProblemError, match="not percent-encoded"):
        parse_search("PatientName=Müller".encode(), STUDIES)


def test_more_parameters_than_anybody_needs_are_refused() -> None:
    parsed("&".join(["x=1"] * 1 + [f"x{n}=1" for n in range(MOST_PARAMETERS - 1)]))
    assert refused("&" * MOST_PARAMETERS + "x=1").startswith("the query has more than 500")


def test_a_plus_is_a_blank() -> None:
    (key,) = parsed("PatientID=a+b").matched
    assert key.text == "a b"


def status_of(query: bytes) -> int:
    """200, or the status of the error, which says something."""
    try:
        parse_search(query, INSTANCES)
    except HttpProblemError as error:
        return error.status if error.detail else 0
    return 200


@given(st.text(max_size=60), st.text(max_size=60))
def test_any_parameter_is_parsed_or_refused(name: str, value: str) -> None:
    assert status_of(f"{name}={value}".encode("utf-8", "replace")) in {200, 400}


@given(st.binary(max_size=80))
def test_any_query_string_is_parsed_or_refused(query: bytes) -> None:
    assert status_of(query) in {200, 400}
