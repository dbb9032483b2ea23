"""`/events`: what is done with CloudEvents that are POSTed to a site, and what it answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from event_core import until
from events_site import FOREIGN, EventsSite, events_site, image_stored
from http_recorder import Recorder, http_recorder
from instances import with_uids
from site_documents import binding, config_map, core, service

from imaging_ingestion.events.http_binding import LARGEST_BODY

UPSTREAM_REVISION = (
    Path(__file__).parents[1] / "data/upstream/study-revision-event.json"
).read_bytes()
SOP_INSTANCE_UID = ("0008", "0018", "UI")
STRUCTURED = {"Content-Type": "application/cloudevents+json"}
BATCHED = {"Content-Type": "application/cloudevents-batch+json; charset=utf-8"}

Made = Callable[[int], bytes]


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[EventsSite]:
    documents = (core(revisioningDelay=3600), service("clinical"))
    async with events_site(tmp_path, *documents) as running:
        yield running


@pytest.fixture
def made(dicom_file: Callable[[str], Path]) -> Made:
    """An instance of the study 1.2."""
    return lambda number: with_uids(dicom_file("CT_small.dcm"), "1.2", "1.2.1", f"1.2.1.{number}")


def put(site: EventsSite, name: str, content: bytes) -> None:
    """Another writer puts an object into the default space."""
    file = site.data / "spaces" / "default" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)


def told(name: str, number: int | None = None, **store: str) -> dict[str, Any]:
    elements = [] if number is None else [(*SOP_INSTANCE_UID, f"1.2.1.{number}")]
    return image_stored("default", name, *elements, **store)


def as_json(event_type: str, data: object, **attributes: object) -> dict[str, Any]:
    return {"id": "1", **FOREIGN, "type": event_type, "data": data, **attributes}


async def own_event(site: EventsSite, number: int, event_type: str) -> dict[str, Any]:
    """An event of the site's own log as its outbox sends it."""
    (entry,) = [entry for entry in await site.log() if entry["seq"] == number]
    path = (
        f"studies/{entry['study_instance_uid']}/series/{entry['series_instance_uid']}"
        f"/instances/{entry['sop_instance_uid']}"
    )
    prefix = {"ImageStoredEvent": "stored", "DicomAvailableEvent": "available"}[event_type]
    return {
        "specversion": "1.0",
        "id": f"{prefix}/{entry['sop_instance_uid']}/{entry['version']}",
        "source": f"/imaging-ingestion/core/{entry['space']}",
        "type": event_type,
        "subject": path,
        "partitionkey": entry["study_instance_uid"],
        "lognumber": number,
        "data": await site.get(f"/api/events/{number}?type={event_type}"),
    }


async def test_our_own_image_stored_event_changes_nothing_and_is_answered(
    site: EventsSite, made: Made
) -> None:
    await site.store(made(1))
    event = await own_event(site, 1, "ImageStoredEvent")
    for _ in range(2):
        answer = await site.post(STRUCTURED, json.dumps(event).encode())
        assert answer.status == 200
        assert answer.context["type"] == "DicomAvailableEvent"
        assert answer.context["id"] == "available/1.2.1.1/1"
        assert answer.context["source"] == "/imaging-ingestion/core/default"
        assert answer.context["subject"] == "studies/1.2/series/1.2.1/instances/1.2.1.1"
        assert (answer.context["partitionkey"], answer.context["lognumber"]) == ("1.2", "1")
        assert answer.headers["Content-Type"] == "application/json"
        endpoint = f"{site.url}/spaces/default/dicom-web/{answer.context['subject']}"
        assert answer.json() == {"provider": "default", "endpoint": endpoint}
    assert len(await site.log()) == 1


async def test_an_own_event_whose_data_is_elsewhere_is_known_by_its_number(
    site: EventsSite, made: Made
) -> None:
    """A claim check of our own (E10): nothing is fetched."""
    await site.store(made(1))
    event = await own_event(site, 1, "ImageStoredEvent")
    del event["data"]
    event["dataref"] = "http://elsewhere.invalid/api/events/1"
    answer = await site.post(STRUCTURED, json.dumps(event).encode())
    assert (answer.status, answer.context["id"]) == (200, "available/1.2.1.1/1")


@pytest.mark.parametrize(
    "change", [{"id": "stored/1.2.1.1/2"}, {"source": "/else"}, {"lognumber": 9}]
)
async def test_an_event_that_only_says_it_is_ours_is_looked_into(
    site: EventsSite, made: Made, change: dict[str, Any]
) -> None:
    await site.store(made(1))
    event = {**await own_event(site, 1, "ImageStoredEvent"), **change}
    event["data"]["store"]["objectName"] = "other"
    answer = await site.post(STRUCTURED, json.dumps(event).encode())
    assert (answer.status, answer.json()["detail"]) == (
        404,
        "store.objectName: object 'other': it is not in the space",
    )


async def test_another_writers_object_is_recorded_from_itself(site: EventsSite, made: Made) -> None:
    put(site, "a0f3c8d2-uuid", made(1))
    lie = image_stored("default", "a0f3c8d2-uuid", (*SOP_INSTANCE_UID, "9.9"), provider="upstream")
    for _ in range(2):
        answer = await site.send("ImageStoredEvent", lie)
        assert answer.status == 200
        assert (answer.context["id"], answer.context["lognumber"]) == ("available/1.2.1.1/1", "1")
        assert answer.json()["provider"] == "upstream"
    (entry,) = await site.log()
    assert (entry["kind"], entry["sop_instance_uid"]) == ("stored", "1.2.1.1")
    (found,) = await site.get("/dicom-web/instances?StudyInstanceUID=1.2")
    assert found["00080018"]["Value"] == ["1.2.1.1"]
    async with site.client.get(
        answer.json()["endpoint"], headers={"Accept": "application/dicom; transfer-syntax=*"}
    ) as got:
        assert await got.read() == made(1)


async def test_the_same_event_many_times_at_once_records_one_instance(
    site: EventsSite, made: Made
) -> None:
    put(site, "x", made(1))
    answers = await asyncio.gather(
        *(site.send("ImageStoredEvent", told("x", 1)) for _ in range(20))
    )
    assert {(one.status, one.context["lognumber"]) for one in answers} == {(200, "1")}
    assert len(await site.log()) == 1


async def test_an_object_that_was_replaced_in_its_place_is_recorded_again(
    site: EventsSite, made: Made
) -> None:
    """A writer that uses its names twice."""
    put(site, "x", made(1))
    await site.send("ImageStoredEvent", told("x", 1))
    put(site, "x", made(1) + b"\xfc\xff\xfc\xffOB\0\0\4\0\0\0\1\2\3\4")
    answer = await site.send("ImageStoredEvent", told("x", 1), id="2")
    assert answer.context["id"] == "available/1.2.1.1/2"
    assert [entry["kind"] for entry in await site.log()] == ["stored", "replaced"]


async def test_identical_bytes_under_another_name_change_nothing_and_stay(
    site: EventsSite, made: Made
) -> None:
    await site.store(made(1))
    put(site, "copy", made(1))
    answer = await site.send("ImageStoredEvent", told("copy", 1))
    assert (answer.status, answer.context["lognumber"]) == (200, "1")
    assert len(await site.log()) == 1
    assert (site.data / "spaces/default/copy").exists()


async def test_a_space_that_keeps_its_instances_refuses_other_bytes(
    tmp_path: Path, made: Made
) -> None:
    documents = (core(revisioningDelay=3600), service("clinical", conflictPolicy="keep"))
    async with events_site(tmp_path, *documents) as site:
        await site.store(made(1))
        put(site, "other", made(1) + b"\xfc\xff\xfc\xffOB\0\0\2\0\0\0\1\2")
        answer = await site.send("ImageStoredEvent", told("other", 1))
        assert answer.status == 422
        assert "keeps the instance that it has" in answer.json()["detail"]
        assert (site.data / "spaces/default/other").exists()


async def test_a_space_with_a_quarantine_keeps_the_other_bytes_aside(
    tmp_path: Path, made: Made
) -> None:
    documents = (core(revisioningDelay=3600), service("clinical", conflictPolicy="quarantine"))
    async with events_site(tmp_path, *documents) as site:
        await site.store(made(1))
        put(site, "other", made(1) + b"\xfc\xff\xfc\xffOB\0\0\2\0\0\0\1\2")
        for _ in range(2):
            answer = await site.send("ImageStoredEvent", told("other", 1))
            assert (answer.status, answer.body) == (202, b"")
        assert [entry["kind"] for entry in await site.log()] == ["stored", "quarantined"]


@pytest.mark.parametrize(
    ("data", "status", "why"),
    [
        (told("missing"), 404, "store.objectName: object 'missing': it is not in the space"),
        (image_stored("elsewhere", "x"), 422, "store.bucketName: no space of this core is called"),
        (told("note"), 422, "store.objectName: object 'note'"),
        (told("../core.db"), 422, "store.objectName: no name of an object"),
        (told(".incoming/x"), 422, "store.objectName: no name of an object"),
        (told("a\0b"), 422, "store.objectName: no name of an object"),
        (told("x", provider="a\0b"), 400, "store.provider"),
        ({"store": {}}, 400, "the data is not that of an event of type ImageStoredEvent"),
        (b"{", 400, "the data is not that of an event of type ImageStoredEvent"),
        (b"", 400, "an event of type ImageStoredEvent has JSON data"),
    ],
)
async def test_an_image_stored_event_that_cannot_be_recorded_is_refused(
    site: EventsSite, data: object, status: int, why: str
) -> None:
    put(site, "note", b"no image")
    answer = await site.send("ImageStoredEvent", data)
    assert (answer.status, answer.headers["Content-Type"]) == (status, "application/problem+json")
    assert why in answer.json()["detail"]
    assert await site.log() == []


async def test_a_dataref_is_never_fetched(site: EventsSite) -> None:
    async with http_recorder() as other:
        for event_type in ("ImageStoredEvent", "DicomAvailableEvent"):
            answer = await site.send(event_type, b"", dataref=f"{other.url}/data")
            assert answer.status == 400
            assert "a dataref is not followed" in answer.json()["detail"]
        answer = await site.send(
            "StudyRevisionEvent", b"", dataref=f"{other.url}/data", subject="studies/1.2"
        )
        assert answer.status == 202  # passed on untouched
        assert other.requests == []
    (entry,) = await site.log("published")
    assert json.loads(entry["detail"])["dataref"] == f"{other.url}/data"


@pytest.mark.parametrize(
    ("headers", "body", "status", "why"),
    [
        (STRUCTURED, b"{}", 400, "the attribute specversion is missing"),
        (STRUCTURED, b"nonsense", 400, "a CloudEvent as a JSON object was expected"),
        (BATCHED, b"{}", 400, "a JSON array of CloudEvents was expected"),
        ({"Content-Type": "application/cloudevents+avro"}, b"", 415, "cloudevents+json"),
        ({"Content-Type": "application/json"}, b"{}", 400, "no CloudEvent"),
        ({"ce-specversion": "0.3", "ce-id": "1"}, b"", 400, "only 1.0 is known"),
        (STRUCTURED, bytes(LARGEST_BODY + 1), 413, "at most 8 MiB"),
    ],
)
async def test_what_is_no_event_gets_a_problem_that_says_why(
    site: EventsSite, headers: dict[str, str], body: bytes, status: int, why: str
) -> None:
    """E8."""
    answer = await site.post(headers, body)
    assert (answer.status, answer.headers["Content-Type"]) == (status, "application/problem+json")
    assert why in answer.json()["detail"]


async def test_events_are_posted_and_nothing_else(site: EventsSite) -> None:
    async with site.client.get(f"{site.url}/events") as answer:
        assert (answer.status, answer.headers["Allow"]) == (405, "POST")
        assert answer.content_type == "application/problem+json"


async def test_a_batch_is_taken_whole(site: EventsSite, made: Made) -> None:
    """E5."""
    assert (await site.post(BATCHED, b"[]")).status == 202
    for number in range(3):
        put(site, f"x{number}", made(number))
    batch = [as_json("ImageStoredEvent", told(f"x{n}", n), id=str(n)) for n in range(3)]
    batch.append(as_json("StudyRevisionEvent", json.loads(UPSTREAM_REVISION)))
    answer = await site.post(BATCHED, json.dumps(batch).encode())
    assert (answer.status, answer.body) == (202, b"")
    assert [entry["kind"] for entry in await site.log()] == [*3 * ["stored"], "published"]


async def test_a_batch_with_one_event_that_cannot_be_taken_leaves_nothing(
    site: EventsSite, made: Made
) -> None:
    put(site, "x", made(1))
    batch = [
        as_json("StudyRevisionEvent", json.loads(UPSTREAM_REVISION)),
        as_json("ImageStoredEvent", told("x", 1), id="2"),
        as_json("ImageStoredEvent", told("missing"), id="3"),
    ]
    assert (await site.post(BATCHED, json.dumps(batch).encode())).status == 404
    assert await site.log() == []


async def test_each_core_has_its_own_events(tmp_path: Path, made: Made) -> None:
    documents = (
        core("first", revisioningDelay=3600),
        service("one", "first"),
        core("second", revisioningDelay=3600),
        service("two", "second", bucketConfigName="other"),
        config_map("other"),
    )
    async with events_site(tmp_path, *documents) as site:
        await site.send("SomethingEvent", {}, path="/events", id="a")
        await site.send("SomethingEvent", {}, path="/cores/first/events", id="b")
        await site.send("SomethingEvent", {}, path="/cores/second/events", id="c")
        assert (await site.send("SomethingEvent", {}, path="/cores/third/events")).status == 404
        logged = [
            [entry["event_id"] for entry in await site.log(path=f"/api/changes?core={name}")]
            for name in ("first", "second")
        ]
        assert logged == [["a", "b"], ["c"]]


async def test_an_event_of_unknown_type_is_in_the_log_once_with_all_it_said(
    site: EventsSite,
) -> None:
    """E8."""
    for _ in range(2):
        answer = await site.send("SomethingEvent", {"a": 1}, mood="fine", subject="x%20y")
        assert (answer.status, answer.body) == (202, b"")
    (entry,) = await site.log()
    assert (entry["kind"], entry["source"]) == ("published", "imaging-ingestion-stow")
    kept = json.loads(entry["detail"])
    assert (kept["type"], kept["subject"], kept["extensions"]) == (
        "SomethingEvent",
        "x y",
        {"mood": "fine"},
    )


def bound(fhir: Recorder) -> tuple[str, ...]:
    return (
        core(revisioningDelay=3600),
        service("clinical"),
        binding("DicomStudyBinding", "fhir", bindingConfigName="fhir"),
        config_map("fhir", FHIR_ENDPOINT=f"{fhir.url}/r4", SELECTOR="def.*"),
    )


async def test_upstreams_revision_reaches_the_binding_that_wants_its_provider(
    tmp_path: Path,
) -> None:
    async with http_recorder() as fhir, events_site(tmp_path, *bound(fhir)) as site:
        answer = await site.send("StudyRevisionEvent", UPSTREAM_REVISION, id="a")
        assert (answer.status, answer.body) == (202, b"")
        revision = json.loads(UPSTREAM_REVISION)
        revision["study"]["series"][0]["providerName"] = "another"
        assert (await site.send("StudyRevisionEvent", revision, id="b")).status == 202

        async def tried() -> Any:
            return (await site.get("/api/deliveries"))["deliveries"]

        (delivery,) = await until(tried)
        assert delivery["event_id"] == "a"
        await until(lambda: fhir.requests)
        assert "1.2.124.113532.46233.47622.18032.20170405.164342.1007839753" in (
            fhir.requests[0].target
        )
