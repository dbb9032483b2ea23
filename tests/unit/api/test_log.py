"""The log over HTTP: pages, waiting, the stream, and references to large data."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import pytest
from api_site import ApiSite, api_site
from event_core import published, record, roots_of, stored, until

from imaging_ingestion.api import log as log_module
from imaging_ingestion.events.model import IMAGE_STORED
from imaging_ingestion.manifest import changes, revision
from imaging_ingestion.manifest.database import Database
from imaging_ingestion.manifest.deletion import delete_instances
from imaging_ingestion.manifest.event_data import event_of, with_data


async def test_the_log_is_read_page_by_page_to_its_end(site: ApiSite) -> None:
    await record(site.database, *(stored(str(n)) for n in range(5)), now=7)
    seen, last, more = [], 0, True
    while more:
        page = await site.get("/changes", since=last, limit=2)
        seen += page["changes"]
        last, more = page["last"], page["more"]
    assert [entry["sop_instance_uid"] for entry in seen] == list("01234")
    assert seen[0] == {
        "seq": 1,
        "at": 7,
        "kind": "stored",
        "space": "default",
        "study_instance_uid": "1",
        "series_instance_uid": "1.1",
        "sop_instance_uid": "0",
        "provider": "provider",
        "version": 1,
    }
    assert await site.get("/changes", since=last) == {"changes": [], "last": 5, "more": False}


async def test_the_log_is_filtered_by_kind_space_and_study(site: ApiSite) -> None:
    await record(site.database, stored("1"), stored("2", study="2"), stored("3", space="research"))
    await record(site.database, stored("1", "b"))

    async def found(parameters: list[tuple[str, str]]) -> list[int]:
        page = await site.ask("GET", "/changes", 200, params=parameters)
        return [entry["seq"] for entry in page["changes"]]

    assert await found([("kind", "replaced")]) == [4]
    assert await found([("kind", "replaced"), ("kind", "stored")]) == [1, 2, 3, 4]
    assert await found([("space", "research")]) == [3]
    assert await found([("study", "1"), ("space", "default")]) == [1, 4]
    assert await found([("study", "404")]) == []


async def test_whoever_waits_is_answered_by_the_next_entry_at_once(site: ApiSite) -> None:
    waiting = asyncio.create_task(site.get("/changes", since=0, wait=60))
    done, _ = await asyncio.wait({waiting}, timeout=0.3)
    assert not done
    await site.broker.accept(stored("1"))
    page = await asyncio.wait_for(waiting, 10)
    assert [entry["seq"] for entry in page["changes"]] == [1]


async def test_whoever_waits_for_something_else_goes_on_waiting(site: ApiSite) -> None:
    waiting = asyncio.create_task(
        site.ask("GET", "/changes", 200, params={"since": 0, "wait": 60, "kind": "published"})
    )
    await site.broker.accept(stored("1"))
    done, _ = await asyncio.wait({waiting}, timeout=0.3)
    assert not done
    await site.broker.publish([published(1)])
    assert [entry["seq"] for entry in (await waiting)["changes"]] == [2]


async def test_waiting_ends_empty_handed_when_its_time_is_over(site: ApiSite) -> None:
    assert await site.get("/changes", wait=0.05) == {"changes": [], "last": 0, "more": False}


async def test_what_another_process_logs_ends_the_wait_too(site: ApiSite) -> None:
    waiting = asyncio.create_task(site.get("/changes", wait=60))
    await asyncio.wait({waiting}, timeout=0.2)
    await record(site.database, stored("1"))  # no commit of the broker
    assert len((await asyncio.wait_for(waiting, 30))["changes"]) == 1


class Stream:
    """What a client of server-sent events understands of an answer."""

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self._lines = answer.content
        self.last_id: str | None = None

    async def event(self) -> dict[str, Any]:
        """The next event; ids without data are remembered, comments skipped."""
        data: list[str] = []
        while True:
            line = (await asyncio.wait_for(self._lines.readline(), 30)).decode().rstrip("\n")
            if line.startswith("id: "):
                self.last_id = line[4:]
            elif line.startswith("data: "):
                data.append(line[6:])
            elif not line and data:
                found: dict[str, Any] = json.loads("\n".join(data))
                return found


async def test_the_stream_tells_what_was_and_what_comes(site: ApiSite) -> None:
    await record(site.database, stored("1"), stored("2"))
    async with site.client.get(f"{site.url}/changes/stream", params={"since": 1}) as answer:
        assert answer.content_type == "text/event-stream"
        assert answer.headers["Cache-Control"] == "no-store"
        stream = Stream(answer)
        assert (await stream.event())["seq"] == 2
        await site.broker.accept(stored("3"))
        assert (await stream.event())["sop_instance_uid"] == "3"
        assert stream.last_id == "3"


async def test_a_stream_is_resumed_by_the_last_event_id(site: ApiSite) -> None:
    await record(site.database, *(stored(str(n)) for n in range(4)))
    for header, first in (("2", 3), ("", 1), ("x", 1), ("²", 1), ("9" * 30, 1), ("-1", 1)):
        async with site.client.get(
            f"{site.url}/changes/stream", headers={"Last-Event-ID": header}
        ) as answer:
            assert answer.status == 200
            assert (await Stream(answer).event())["seq"] == first


async def test_a_filtered_stream_resumes_behind_what_it_passed_over(
    site: ApiSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_module, "_STREAM_IDLE", 0.0)
    await record(site.database, *(stored(str(n)) for n in range(4)))
    async with site.client.get(
        f"{site.url}/changes/stream", params={"space": "research"}
    ) as answer:
        stream = Stream(answer)
        waiting = asyncio.create_task(stream.event())
        await until(lambda: stream.last_id == "4")
        assert not waiting.done()
        await record(site.database, stored("9", space="research"))
        assert (await waiting)["seq"] == 5


async def test_streams_and_waits_end_when_the_server_stops(database: Database) -> None:
    async with api_site(core=database) as site:
        answer = await site.client.get(f"{site.url}/changes/stream")
        waiting = asyncio.create_task(site.get("/changes", wait=60))
        await asyncio.wait({waiting}, timeout=0.2)
    assert (await asyncio.wait_for(waiting, 10))["changes"] == []
    assert b"following" in await answer.read()


async def test_the_dataref_of_a_large_revision_leads_to_its_data(  # E10
    database: Database, empty_database_url: Any
) -> None:
    from imaging_ingestion.manifest.database import open_database
    from imaging_ingestion.manifest.migrate import migrate

    async with empty_database_url() as url:
        second = open_database(url)
        await migrate(second)
        try:
            async with api_site(first=database, second=second) as site:
                comment = '{"00104000":{"vr":"LT","Value":["' + "x" * 300_000 + '"]}}'
                await record(second, stored("1", study_attributes=comment))
                await second.write(revision.revise, 1, 1, lambda *_: "http://x")
                (entry,) = (await second.read(changes.since, 0, 9, kinds=["revised"])).entries
                event = event_of(entry, "StudyRevisionEvent", "second")
                event = await second.read(with_data, event, entry, "second", roots_of, site.url)
                assert event.dataref is not None
                async with site.client.get(event.dataref) as answer:
                    assert answer.status == 200
                    assert answer.content_type == "application/json"
                    data = await answer.json()
                assert len(data["study"]["dicomJson"]["00104000"]["Value"][0]) == 300_000
                assert data["changeSet"]["additions"] == ["1.1/1"]
        finally:
            await second.close()


async def test_the_dataref_of_a_large_image_leads_to_its_data(site: ApiSite) -> None:  # E10
    text = json.dumps({"00104000": {"vr": "UT", "Value": ["x" * 300_000]}})
    await record(site.database, stored("1", metadata=text))
    (entry,) = (await site.database.read(changes.since, 0, 9)).entries
    event = await site.database.read(
        with_data,
        event_of(entry, IMAGE_STORED, "core"),
        entry,
        "core",
        roots_of,
        site.url,
    )
    assert event.dataref is not None
    async with site.client.get(event.dataref) as answer:
        elements = (await answer.json())["image"]["elements"]
    assert [len(element["value"]) for element in elements] == [300_000]
    available = await site.get("/events/1", type="DicomAvailableEvent")
    assert available["endpoint"].endswith("/default/dicom-web/studies/1/series/1.1/instances/1")
    await site.database.write(delete_instances, "default", "1", None, None, 1, 0)
    assert "deleted" in (await site.get("/events/1", 404))["detail"]
    assert "entry 2" in (await site.get("/events/2", 404))["detail"]
    assert "entry 3" in (await site.get("/events/3", 404))["detail"]


async def test_the_data_of_an_event_from_outside_is_told_and_never_run(site: ApiSite) -> None:
    page = b"<script>alert(1)</script>"
    await site.broker.publish([published(1), published(2, data=page, content_type="text/html")])
    assert await site.get("/events/1") == {"number": 1}
    async with site.client.get(f"{site.url}/events/2") as answer:
        assert (answer.status, answer.content_type) == (200, "application/octet-stream")
        assert await answer.read() == page
