"""`up` with a Knative broker: events go to its ingress, and come back by triggers."""

from __future__ import annotations

import asyncio
import io
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from event_core import until
from events_site import FOREIGN, EventsSite, events_site, image_stored
from http_recorder import Answer, http_recorder
from instances import with_uids
from knative_broker import KnativeBroker, Trigger, knative_broker
from platform_process import Platform
from pydicom.dataset import Dataset, FileMetaDataset
from site_documents import binding, config_map, core, service

from imaging_ingestion.cli.fhir_receiver import FhirReceiver, create_fhir_receiver
from imaging_ingestion.http_server import HttpServer

DEADLINE = 60.0  # seconds for what happens by itself
TYPES = ("ImageStoredEvent", "DicomAvailableEvent", "StudyRevisionEvent")
CT_IMAGE_STORAGE, EXPLICIT = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1"


@dataclass
class KnativeSite:
    """A site as a process, its broker, and its bindings' targets."""

    site: EventsSite
    platform: Platform
    broker: KnativeBroker
    target: EventsSite  # of the STOW binding
    fhir: FhirReceiver

    async def deliveries(self, name: str) -> Counter[str]:
        """How many deliveries of a binding are in which state."""
        bindings = (await self.site.get("/api/bindings"))["bindings"]
        (found,) = [one for one in bindings if one["name"] == name]
        return Counter({state: found[state] for state in ("pending", "delivered", "dead")})

    async def delivered(self, name: str, number: int) -> None:
        """Wait until a binding has delivered so many, and nothing else is there."""

        async def done() -> bool:
            return await self.deliveries(name) == Counter(delivered=number)

        await until(done, DEADLINE)

    async def target_has(self, *sops: str) -> None:
        found = await self.target.get("/dicom-web/instances?limit=5000")
        assert {one["00080018"]["Value"][0] for one in found or []} == set(sops)


@asynccontextmanager
async def knative_site(
    folder: Path,
    *,
    delay: float = 0.3,
    triggers: Callable[[str], list[Trigger]] | None = None,
    forward_to: str | None = None,
) -> AsyncIterator[KnativeSite]:
    app = create_fhir_receiver()
    server = HttpServer(app, "127.0.0.1", 0)
    await server.start()
    try:
        async with (
            events_site(
                folder / "target", core(revisioningDelay=3600), service("archive")
            ) as target,
            knative_broker() as broker,
            aiohttp.ClientSession() as client,
        ):
            documents = (
                core(revisioningDelay=delay, broker=f"{{kind: knative, sink: '{broker.sink}'}}"),
                service("clinical"),
                binding("DicomInstanceBinding", "forward", bindingConfigName="forward"),
                config_map("forward", STOW_ENDPOINT=forward_to or f"{target.url}/dicom-web"),
                binding("DicomStudyBinding", "fhir", bindingConfigName="fhir"),
                config_map("fhir", FHIR_ENDPOINT=f"http://127.0.0.1:{server.port}/fhir"),
            )
            platform = Platform(folder / "site", "---\n".join(documents))
            try:
                await asyncio.to_thread(platform.start)
                events = f"{platform.url}/events"
                made = [Trigger(one, events) for one in TYPES]
                broker.subscribe(*(triggers(events) if triggers is not None else made))
                site = EventsSite(platform.url, platform.data, client)
                yield KnativeSite(site, platform, broker, target, app.state.receiver)
                assert await asyncio.to_thread(platform.stop) == 0, platform.log.read_text()
                assert "Traceback" not in platform.log.read_text()
            finally:
                platform.kill()
    finally:
        await server.stop()


Made = Callable[[str, int], bytes]


@pytest.fixture
def made(dicom_file: Callable[[str], Path]) -> Made:
    """An instance of a study."""
    return lambda study, number: with_uids(
        dicom_file("CT_small.dcm"), study, f"{study}.1", f"{study}.1.{number}"
    )


def sops(study: str, number: int) -> list[str]:
    return [f"{study}.1.{n}" for n in range(number)]


async def test_events_go_round_once_and_reach_every_binding(tmp_path: Path, made: Made) -> None:
    async with knative_site(tmp_path) as up:
        await asyncio.gather(
            *(up.site.store(*(made(study, n) for n in range(5))) for study in ("1.2", "1.3"))
        )
        await up.delivered("forward", 10)
        await up.target_has(*sops("1.2", 5), *sops("1.3", 5))
        await up.delivered("fhir", 2)
        assert len(up.fhir.store.all("ImagingStudy")) == 2
        await until(lambda: sum(len(one.delivered) for one in up.broker.triggers) == 32)
        # Each came once from the outbox; the answers to the ImageStoredEvents are the same events
        # as the outbox sends.
        assert Counter(one["type"] for one in up.broker.kept) == {
            "ImageStoredEvent": 10, "DicomAvailableEvent": 20, "StudyRevisionEvent": 2
        }  # fmt: skip
        assert len(up.broker.ids("DicomAvailableEvent")) == 10
        assert {one["id"] for one in up.broker.replies} == set(up.broker.ids("DicomAvailableEvent"))
        assert not any(one.dead for one in up.broker.triggers)
        kinds = Counter(entry["kind"] for entry in await up.site.log())
        assert kinds == {"stored": 10, "revised": 2, "delivered": 12}


def only_revisions(events: str) -> list[Trigger]:
    return [Trigger("StudyRevisionEvent", events)]


async def test_without_a_trigger_a_binding_gets_nothing_and_then_all_of_it(
    tmp_path: Path, made: Made
) -> None:
    async with knative_site(tmp_path, triggers=only_revisions) as up:
        await up.site.store(made("1.2", 0), made("1.2", 1))
        await up.delivered("fhir", 1)
        assert await up.deliveries("forward") == Counter()
        up.broker.subscribe(Trigger("DicomAvailableEvent", f"{up.platform.url}/events"))
        await up.site.store(made("1.2", 2))
        await up.delivered("forward", 3)  # the last event says how far the log has been carried


async def test_a_broker_that_is_away_holds_nothing_up_and_loses_nothing(
    tmp_path: Path, made: Made
) -> None:
    async with knative_site(tmp_path) as up:
        first, rest = range(5), range(5, 20)

        async def scan(numbers: range) -> None:
            for number in numbers:
                await up.site.store(made("1.2", number))  # is answered, and is found
                found = await up.site.get("/dicom-web/instances?StudyInstanceUID=1.2")
                assert len(found) == number + 1

        async with asyncio.TaskGroup() as scanner:
            scanner.create_task(scan(first))
            await until(lambda: up.broker.kept)
            await up.broker.stop()
        await scan(rest)
        await until(lambda: "outbox.carrier_away" in up.platform.log.read_text(), DEADLINE)
        await up.broker.start()
        await up.delivered("forward", 20)
        await up.target_has(*sops("1.2", 20))
        assert not any(one.dead for one in up.broker.triggers)


async def test_a_broker_that_fails_at_random_gets_each_event_in_its_order(
    tmp_path: Path, made: Made
) -> None:
    async with knative_site(tmp_path) as up:
        asked = Counter[str]()

        def refuse(event: Any) -> web.Response | None:
            asked["all"] += 1
            return web.Response(status=503) if asked["all"] % 4 == 0 else None

        up.broker.refuse = refuse
        for number in range(8):
            await up.site.store(made("1.2", number))
        await up.delivered("forward", 8)
        numbers = [int(one["lognumber"]) for one in up.broker.kept if one not in up.broker.replies]
        assert numbers == sorted(numbers)


async def test_what_comes_many_times_and_in_any_order_is_delivered_once(
    tmp_path: Path, made: Made
) -> None:
    def troubled(events: str) -> list[Trigger]:
        return [
            Trigger(one, events, copies=3, order=lambda waiting: waiting[::-1]) for one in TYPES
        ]

    async with knative_site(tmp_path, triggers=troubled) as up:
        await asyncio.gather(*(up.site.store(made("1.2", number)) for number in range(8)))
        await up.delivered("forward", 8)
        await up.target_has(*sops("1.2", 8))

        async def settled() -> bool:
            (study,) = up.fhir.store.all("ImagingStudy") or [{}]
            return study.get("numberOfInstances") == 8

        await until(settled, DEADLINE)
        await until(lambda: not any(one.waiting for one in up.broker.triggers))
        assert not any(one.dead for one in up.broker.triggers)
        kinds = Counter(entry["kind"] for entry in await up.site.log())
        assert (kinds["stored"], kinds["published"], kinds["failed"]) == (8, 0, 0)


async def test_a_trigger_without_a_filter_brings_everything_and_starts_no_loop(
    tmp_path: Path, made: Made
) -> None:
    """Dead letters are events of our own, too."""

    def everything(events: str) -> list[Trigger]:
        return [Trigger(None, events)]

    async with (
        http_recorder(lambda _: Answer(400, b"no")) as refusing,
        knative_site(tmp_path, triggers=everything, forward_to=refusing.url) as up,
    ):
        await up.site.store(made("1.2", 0))
        await until(lambda: up.broker.ids("DeliveryFailedEvent"), DEADLINE)
        await up.delivered("fhir", 1)
        # Stored, available twice, revised, failed: each went round, and that was all.
        await until(lambda: len(up.broker.triggers[0].delivered) == 5)
        assert len(up.broker.kept) == 5
        assert not up.broker.triggers[0].dead
        kinds = Counter(entry["kind"] for entry in await up.site.log())
        assert kinds == {"stored": 1, "revised": 1, "failed": 1, "delivered": 1}


async def test_another_writers_events_are_recorded_and_announced_and_delivered(
    tmp_path: Path, made: Made
) -> None:
    """As with upstream's STOW service in front of the same bucket."""
    async with knative_site(tmp_path) as up:
        (up.site.data / "spaces/default/a0f3c8d2").write_bytes(made("1.2", 0))
        told = image_stored("default", "a0f3c8d2", ("0008", "0018", "UI", "1.2.1.0"))
        headers = {f"ce-{name}": value for name, value in {**FOREIGN, "id": "7"}.items()}
        headers |= {"ce-type": "ImageStoredEvent", "Content-Type": "application/json"}
        async with up.site.client.post(up.broker.sink, headers=headers, json=told) as answer:
            assert answer.status == 202
        await up.delivered("forward", 1)
        await up.delivered("fhir", 1)
        await up.target_has("1.2.1.0")
        revision = Path(__file__).parents[1] / "data/upstream/study-revision-event.json"
        headers["ce-type"] = "StudyRevisionEvent"
        async with up.site.client.post(
            up.broker.sink, headers=headers, data=revision.read_bytes()
        ) as answer:
            assert answer.status == 202
        await up.delivered("fhir", 2)
        assert len(up.fhir.store.all("ImagingStudy")) == 2
        assert not any(one.dead for one in up.broker.triggers)
        assert len(up.broker.ids("StudyRevisionEvent")) == 2  # what was foreign did not come back


async def test_a_site_that_is_killed_goes_on_where_it_was(tmp_path: Path, made: Made) -> None:
    async with knative_site(tmp_path) as up:
        await up.site.store(*(made("1.2", number) for number in range(20)))
        up.platform.kill()
        await asyncio.to_thread(up.platform.start)
        await up.delivered("forward", 20)
        await up.target_has(*sops("1.2", 20))
        assert not any(one.dead for one in up.broker.triggers)


def small(number: int) -> bytes:
    """An instance without pixels, with UIDs as long as they may be."""
    made = Dataset()
    made.SOPClassUID = CT_IMAGE_STORAGE
    made.StudyInstanceUID = "1.2." + "3" * 60
    made.SeriesInstanceUID = "1.2." + "4" * 60
    made.SOPInstanceUID = f"1.2.{number}." + "5" * (59 - len(str(number)))
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = EXPLICIT
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    buffer = io.BytesIO()
    made.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


async def test_a_large_revision_goes_as_a_reference_and_arrives_whole(tmp_path: Path) -> None:
    """E10."""
    async with knative_site(tmp_path, delay=2, triggers=only_revisions) as up:
        await up.site.store(*(small(number) for number in range(1000)))
        await up.delivered("fhir", 1)
        (study,) = up.fhir.store.all("ImagingStudy")
        assert study["numberOfInstances"] == 1000
        (event,) = [one for one in up.broker.kept if one["type"] == "StudyRevisionEvent"]
        assert (event.body, "content-type" in event.headers) == (b"", False)
        async with up.site.client.get(event["dataref"]) as answer:
            text = await answer.read()
        assert len(text) > 256 << 10
        assert len(json.loads(text)["changeSet"]["additions"]) == 1000
