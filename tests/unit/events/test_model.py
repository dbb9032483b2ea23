"""The payloads: upstream's events parse, and nothing of them is lost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from imaging_ingestion.events.model import (
    ChangeSet,
    DicomAvailable,
    Event,
    ImageStored,
    StudyRevision,
)

#: As Alvearie Imaging Ingestion publishes it.
UPSTREAM_REVISION = json.loads(
    (Path(__file__).parents[2] / "data/upstream/study-revision-event.json").read_text()
)


def lost(original: Any, found: Any, path: str = "$") -> list[str]:
    """What of `original` is not in `found`; more may be there."""
    if isinstance(original, dict):
        return [
            gone
            for key, value in original.items()
            for gone in (
                lost(value, found[key], f"{path}.{key}") if key in found else [f"{path}.{key}"]
            )
        ]
    if isinstance(original, list):
        if len(original) != len(found):
            return [path]
        return [
            gone
            for number, pair in enumerate(zip(original, found, strict=True))
            for gone in lost(*pair, f"{path}[{number}]")
        ]
    return [] if original == found else [path]


@pytest.mark.parametrize(
    ("payload", "kind"),
    [
        (UPSTREAM_REVISION, StudyRevision),
        ({"provider": "p", "endpoint": "http://x/studies/1/series/2/instances/3"}, DicomAvailable),
        (
            {
                "image": {
                    "transferSyntaxUID": "1.2.840.10008.1.2.1",
                    "elements": [{"group": "0008", "element": "0018", "vr": "UI", "value": "1"}],
                },
                "store": {
                    "provider": "p",
                    "bucketName": "b",
                    "objectName": "o",
                    "wadoInternalEndpoint": "http://in",
                    "wadoExternalEndpoint": "http://out",
                },
            },
            ImageStored,
        ),
    ],
)
def test_upstreams_payloads_parse_and_nothing_of_them_is_lost(
    payload: dict[str, Any], kind: type[msgspec.Struct]
) -> None:
    decoded = msgspec.json.decode(json.dumps(payload), type=kind)
    assert lost(payload, json.loads(msgspec.json.encode(decoded))) == []


def test_the_comparison_itself_notices_what_is_lost() -> None:
    assert lost({"a": [{"b": 1}]}, {"a": [{"c": 1}]}) == ["$.a[0].b"]
    assert lost({"a": [1, 2]}, {"a": [1]}) == ["$.a"]
    assert lost({"a": 1}, {"a": 2}) == ["$.a"]


def test_a_change_set_is_true_if_something_changed() -> None:
    assert not ChangeSet()
    assert ChangeSet(additions=("1/2",))
    assert ChangeSet(deletions=("1/2",))
    assert ChangeSet(modifications=("1/2",))


def test_the_context_of_an_event_has_no_empty_attribute() -> None:  # E1
    event = Event(id="1", source="/s", type="T", subject="", time="2026-01-01T00:00:00Z")
    assert event.context() == {
        "specversion": "1.0",
        "id": "1",
        "source": "/s",
        "type": "T",
        "time": "2026-01-01T00:00:00Z",
    }
    assert event.json() is None


def test_an_event_survives_being_written_down() -> None:
    event = Event(
        id="1",
        source="/s",
        type="T",
        subject="x",
        time="2026-01-01T00:00:00Z",
        data=b'{"a":"\xc3\xa4"}',
        traceparent="00-1",
        study_instance_uid="1.2",
    )
    again = msgspec.json.decode(msgspec.json.encode(event), type=Event)
    assert again == event
    assert again.json() == {"a": "ä"}
    assert again.context()["partitionkey"] == "1.2"
