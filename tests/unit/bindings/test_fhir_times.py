"""DICOM dates and times as FHIR's (F6): whatever comes in, what comes out is valid or nothing."""

from __future__ import annotations

import re
from datetime import UTC, datetime, tzinfo
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imaging_ingestion.bindings.fhir.times import fhir_date, fhir_date_time, zone_of

# R4 2.24.0.1
FHIR_DATE_TIME = re.compile(
    r"([0-9]([0-9]([0-9][1-9]|[1-9]0)|[1-9]00)|[1-9]000)(-(0[1-9]|1[0-2])(-(0[1-9]|[1-2][0-9]|"
    r"3[0-1])(T([01][0-9]|2[0-3]):[0-5][0-9]:([0-5][0-9]|60)(\.[0-9]+)?(Z|(\+|-)((0[0-9]|1[0-3])"
    r":[0-5][0-9]|14:00)))?)?)?"
)
BERLIN = ZoneInfo("Europe/Berlin")


@pytest.mark.parametrize(
    ("time", "told"),
    [
        ("235960", "23:59:59"),
        ("000000", "00:00:00"),
        ("0102", "01:02:00"),
        ("01", "01:00:00"),
        ("010203.1", "01:02:03.100"),
        ("010203.000999", "01:02:03"),
        ("010203.999999", "01:02:03.999"),
        ("01:02:03.5", "01:02:03.500"),
        (" 010203 ", "01:02:03"),
    ],
)
def test_a_time_is_told_to_the_millisecond(time: str, told: str) -> None:
    assert fhir_date_time("20200101", time, None, UTC) == f"2020-01-01T{told}+00:00"


@pytest.mark.parametrize(
    "time", ["24", "1", "0160", "010261", "01:0203", "010203.", "x", "", None, "010203-010204"]
)
def test_without_a_valid_time_only_the_date_is_told(time: str | None) -> None:
    assert fhir_date_time("20200101", time, None, UTC) == "2020-01-01"


@pytest.mark.parametrize(
    ("offset", "told"),
    [
        ("+0000", "+00:00"),
        ("-1200", "-12:00"),
        ("+1400", "+14:00"),
        ("+0545", "+05:45"),
        ("+1401", "+01:00"),
        ("-1201", "+01:00"),
        ("+0160", "+01:00"),
        ("0100", "+01:00"),
        ("CET", "+01:00"),
        (None, "+01:00"),
    ],
)
def test_an_offset_is_that_of_the_instance_or_of_the_zone(offset: str | None, told: str) -> None:
    assert fhir_date_time("20200101", "1200", offset, BERLIN) == f"2020-01-01T12:00:00{told}"


def test_the_offset_of_local_mean_time_is_told_in_minutes() -> None:
    assert fhir_date_time("18900101", "1200", None, BERLIN) == "1890-01-01T12:00:00+00:53"


@pytest.mark.parametrize("zone", [UTC, BERLIN, ZoneInfo("Asia/Kathmandu")])
@given(
    date=st.one_of(
        st.from_regex(r"[0-9]{4}\.?[0-9]{2}\.?[0-9]{2}", fullmatch=True), st.text(max_size=10)
    ),
    time=st.one_of(st.from_regex(r"[0-9:.]{0,14}", fullmatch=True), st.text(max_size=14)),
    offset=st.one_of(st.none(), st.from_regex(r"[+-][0-9]{4}", fullmatch=True), st.text()),
)
def test_what_is_told_is_valid(zone: tzinfo, date: str, time: str, offset: str | None) -> None:
    told = fhir_date_time(date, time, offset, zone)
    if told is None:
        assert fhir_date(date) is None
    else:
        assert FHIR_DATE_TIME.fullmatch(told)
        assert told.startswith(fhir_date(date) or "?")
        datetime.fromisoformat(told)


@pytest.mark.parametrize("name", ["Europe/Nowhere", "", "../etc/passwd", "Europe"])
def test_a_zone_that_is_not_known_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="no time zone"):
        zone_of(name)


def test_utc_is_known_without_a_zone_database() -> None:
    assert zone_of("UTC") is UTC
