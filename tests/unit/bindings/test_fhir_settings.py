"""What a site may say of its FHIR mapping, and what it is told when that is wrong."""

from __future__ import annotations

from datetime import UTC
from zoneinfo import ZoneInfo

import pytest

from imaging_ingestion.bindings.fhir.binding import mapping_settings
from imaging_ingestion.bindings.fhir.imaging_study import MappingSettings


def test_nothing_said_is_utc_and_a_namespace_for_each_provider() -> None:
    assert mapping_settings(None, None) == MappingSettings(UTC, None)


def test_what_is_said_is_taken() -> None:
    settings = mapping_settings("Europe/Berlin", "urn:oid:1.2.3")
    assert settings == MappingSettings(ZoneInfo("Europe/Berlin"), "urn:oid:1.2.3")


@pytest.mark.parametrize(
    ("time_zone", "system", "told"),
    [
        ("Mars/Olympus", None, "FHIR_TIME_ZONE: 'Mars/Olympus' is no time zone"),
        (None, "our hospital", "FHIR_PATIENT_ID_SYSTEM: a URI was expected, found 'our hospital'"),
    ],
)
def test_what_is_wrong_is_told_with_its_setting(
    time_zone: str | None, system: str | None, told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        mapping_settings(time_zone, system)
