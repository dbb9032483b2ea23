"""From a log entry to its event: identity, routing, data, and references to large data."""

from __future__ import annotations

import json
from datetime import datetime

import pytest
from cloudevents.core.v1.event import CloudEvent
from event_core import record, stored

from imaging_ingestion.events.model import (
    DICOM_AVAILABLE,
    IMAGE_STORED,
    STUDY_REVISION,
    Event,
)
from imaging_ingestion.manifest import changes, revision
from imaging_ingestion.manifest.changes import Change
from imaging_ingestion.manifest.database import Database
from imaging_ingestion.manifest.deletion import delete_instances
from imaging_ingestion.manifest.event_data import (
    INLINE_LIMIT,
    SpaceRoots,
    event_of,
    with_data,
)

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def roots_of(space: str) -> SpaceRoots:
    return SpaceRoots(
        f"http://127.0.0.1/spaces/{space}/dicom-web", f"https://images.example/{space}"
    )


async def whole(database: Database, entry: Change, event_type: str) -> Event:
    event = event_of(entry, event_type, "core")
    return await database.read(with_data, event, entry, "core", roots_of, "http://127.0.0.1/api")


async def entries(database: Database, *kinds: str) -> list[Change]:
    page = await database.read(changes.since, 0, 1000, kinds=kinds or None)
    return page.entries


@pytest.mark.parametrize("event_type", [IMAGE_STORED, DICOM_AVAILABLE, STUDY_REVISION])
def test_an_event_is_a_cloudevent_in_the_eyes_of_the_sdk(event_type: str) -> None:  # E1, E2
    entry = Change(
        seq=7,
        at=1_700_000_000_123_456,
        kind="revised" if event_type == STUDY_REVISION else "stored",
        space="clinical",
        study_instance_uid="1.2",
        series_instance_uid=None if event_type == STUDY_REVISION else "1.2.3",
        sop_instance_uid=None if event_type == STUDY_REVISION else "1.2.3.4",
        version=2,
        traceparent=TRACE,
    )
    context = event_of(entry, event_type, "a core/of ours").context()
    # The SDK checks which attributes there are, their names and what they hold.
    checked = CloudEvent(
        {**context, "time": datetime.fromisoformat(context["time"])}, {"some": "data"}
    )
    assert checked.get_specversion() == "1.0"
    assert checked.get_type() == event_type
    assert checked.get_source() == "/imaging-ingestion/a%20core%2Fof%20ours/clinical"
    assert checked.get_extension("partitionkey") == "1.2"
    assert checked.get_extension("traceparent") == TRACE
    assert context["time"] == "2023-11-14T22:13:20.123456+00:00"
    assert all(name.isalnum() and name.islower() and len(name) <= 20 for name in context)


async def test_identities_are_unique_over_spaces_types_contents_and_levels(  # E1
    database: Database,
) -> None:
    # A SOP Instance UID that is also the Study Instance UID, in two spaces, with two contents.
    for space in ("default", "research"):
        await record(database, stored("1", space=space), stored("1", "b", space=space))
    for study_pk in (1, 2):
        await database.write(revision.revise, study_pk, 1, lambda *_: "http://x")
    events = [
        event_of(entry, event_type, "core")
        for entry in await entries(database)
        for event_type in (
            [STUDY_REVISION] if entry.kind == "revised" else [IMAGE_STORED, DICOM_AVAILABLE]
        )
    ]
    assert len(events) == 10
    assert len({(event.source, event.id) for event in events}) == 10
    again = [
        event_of(entry, DICOM_AVAILABLE, "core") for entry in await entries(database, "stored")
    ]
    assert {(e.source, e.id) for e in again} <= {(e.source, e.id) for e in events}


async def test_an_available_instance_is_told_with_its_internal_url(database: Database) -> None:
    await record(database, stored("7", provider="ct", traceparent=TRACE), now=1_500_000)
    (entry,) = await entries(database)
    event = await whole(database, entry, DICOM_AVAILABLE)
    assert event.json() == {
        "provider": "ct",
        "endpoint": ("http://127.0.0.1/spaces/default/dicom-web/studies/1/series/1.1/instances/7"),
    }
    assert (event.seq, event.space, event.provider, event.traceparent) == (
        1,
        "default",
        "ct",
        TRACE,
    )
    assert event.time == "1970-01-01T00:00:01.500000+00:00"


async def test_a_stored_image_is_told_with_its_elements_and_its_place(
    database: Database,
) -> None:
    metadata = json.dumps(
        {
            "00080016": {"vr": "UI", "Value": ["1.2.840.10008.5.1.4.1.1.2"]},
            "00081140": {"vr": "SQ", "Value": [{}]},
            "7FE00010": {"vr": "OW", "BulkDataURI": "@7FE00010"},
        }
    )
    image = stored("7", metadata=metadata)
    await record(database, image)
    (entry,) = await entries(database)
    event = await whole(database, entry, IMAGE_STORED)
    root = "http://127.0.0.1/spaces/default/dicom-web"
    assert event.json() == {
        "image": {
            "transferSyntaxUID": "1.2.840.10008.1.2.1",
            "elements": [
                {
                    "group": "0008",
                    "element": "0016",
                    "vr": "UI",
                    "value": "1.2.840.10008.5.1.4.1.1.2",
                },
                {"group": "0008", "element": "1140", "vr": "SQ", "value": None},
                {"group": "7FE0", "element": "0010", "vr": "OW", "value": None},
            ],
        },
        "store": {
            "provider": "provider",
            "bucketName": "default",
            "objectName": image.object_name,
            "wadoInternalEndpoint": root,
            "wadoExternalEndpoint": "https://images.example/default",
        },
    }
    await database.write(delete_instances, "default", "1", None, None, 1, 0)
    event = await whole(database, entry, IMAGE_STORED)
    assert (event.data, event.dataref) == (None, None)


@pytest.mark.parametrize("more", [-1, 0, 1])
async def test_data_above_the_limit_is_told_by_reference(  # E10
    database: Database, more: int
) -> None:
    def comment(length: int) -> str:
        return json.dumps({"00104000": {"vr": "UT", "Value": ["x" * length]}})

    await record(database, stored("7", metadata=comment(0)))
    (entry,) = await entries(database)
    shortest = await whole(database, entry, IMAGE_STORED)
    assert shortest.data is not None
    length = INLINE_LIMIT - len(shortest.data) + more
    await record(database, stored("8", metadata=comment(length)))
    entry = (await entries(database))[-1]
    event = await whole(database, entry, IMAGE_STORED)
    if more > 0:
        assert event.data is None
        assert event.dataref == ("http://127.0.0.1/api/events/2?core=core&type=ImageStoredEvent")
        assert "datacontenttype" not in event.context()
    else:
        assert event.data is not None
        assert len(event.data) == INLINE_LIMIT + more
        assert event.dataref is None
