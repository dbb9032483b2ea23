"""What an event from elsewhere is about, by its data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from imaging_ingestion.events.attributes import MalformedEventError
from imaging_ingestion.events.model import Event
from imaging_ingestion.events.routing import routed

UPSTREAM_REVISION = (
    Path(__file__).parents[2] / "data/upstream/study-revision-event.json"
).read_bytes()
ROOTS = {"http://site/spaces/clinical/dicom-web": "clinical"}


def event(event_type: str, data: object = None, **fields: Any) -> Event:
    text = data if isinstance(data, bytes | None) else json.dumps(data).encode()
    values = {"id": "1", "source": "upstream", "subject": "", "time": "", **fields}
    return Event(type=event_type, data=text, **values)


def refusal(of: Event) -> str:
    with pytest.raises(MalformedEventError) as caught:
        routed(of, ROOTS)
    return str(caught.value)


@pytest.mark.parametrize(
    ("root", "space"),
    [("http://site/spaces/clinical/dicom-web", "clinical"), ("http://elsewhere/wado-rs", "")],
)
def test_an_available_instance_is_routed_by_its_endpoint(root: str, space: str) -> None:
    data = {"provider": "p", "endpoint": f"{root}/studies/1.2/series/1.3/instances/1.4"}
    found = routed(event("DicomAvailableEvent", data), ROOTS)
    assert (found.space, found.provider) == (space, "p")
    uids = (found.study_instance_uid, found.series_instance_uid, found.sop_instance_uid)
    assert uids == ("1.2", "1.3", "1.4")


def test_upstreams_revision_is_routed_by_its_study_and_provider() -> None:
    found = routed(event("StudyRevisionEvent", UPSTREAM_REVISION), ROOTS)
    uid = "1.2.124.113532.46233.47622.18032.20170405.164342.1007839753"
    assert (found.study_instance_uid, found.provider, found.space) == (uid, "default", "")
    assert found.data == UPSTREAM_REVISION


@pytest.mark.parametrize(
    "fields", [{"subject": "studies/1.2"}, {"extensions": {"partitionkey": "1.2"}}]
)
def test_a_revision_whose_data_is_elsewhere_is_routed_by_its_attributes(
    fields: dict[str, Any],
) -> None:
    """E10."""
    found = routed(event("StudyRevisionEvent", None, dataref="http://x/1", **fields), ROOTS)
    assert (found.study_instance_uid, found.dataref) == ("1.2", "http://x/1")


@pytest.mark.parametrize(
    ("event_type", "data", "fields", "why"),
    [
        ("DicomAvailableEvent", {"provider": "p"}, {}, "`endpoint`"),
        ("DicomAvailableEvent", {"provider": "p", "endpoint": "http://x/1"}, {}, "WADO-RS URL"),
        ("DicomAvailableEvent", b"<a/>", {"content_type": "text/xml"}, "has JSON data"),
        ("StudyRevisionEvent", None, {"dataref": "http://x/1"}, "no Study Instance UID"),
        ("StudyRevisionEvent", None, {"dataref": "http://x/1", "subject": "studies/x"}, "UID"),
        ("StudyRevisionEvent", None, {}, "has JSON data"),
        ("StudyRevisionEvent", {"revision": 0}, {}, "required field"),
        ("StudyRevisionEvent", b"[" * 100_000, {}, "the data is not that of"),
    ],
)
def test_data_that_is_not_that_of_its_type_is_refused(
    event_type: str, data: object, fields: dict[str, Any], why: str
) -> None:
    assert why in refusal(event(event_type, data, **fields))


@pytest.mark.parametrize("provider", ["a\0b", "x" * 300, "a\nb"])
def test_a_provider_that_cannot_be_recorded_is_refused(provider: str) -> None:
    data = {"provider": provider, "endpoint": "http://x/studies/1/series/2/instances/3"}
    assert "provider" in refusal(event("DicomAvailableEvent", data))


def test_an_event_of_another_type_stays_as_it_is() -> None:
    other = event("SomethingEvent", b"\0")
    assert routed(other, ROOTS) is other
