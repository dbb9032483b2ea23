"""`up --workers 2`: two processes and one that watches them are one site."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from dimse_site import CT, ECHO, Sent, store
from platform_process import Platform, free_port
from site_documents import config_map, core, dimse, resource
from up_dimse import call, get, instance, instances_in, running, site, stored, text_of, until

from imaging_ingestion.association.error import AssociationError

ROOT = "1.2.826.0.1.3680043.8.498.84"
SENDERS = 6


@pytest.fixture
def source(dicom_file: Callable[[str], Path]) -> Path:
    return dicom_file("CT_small.dcm")


class TwoWorkers(Platform):
    """A site that has started when both of its workers have."""

    def start(self) -> Platform:
        super().start()
        up = 'imaging_ingestion_worker_up{worker="2"} 1.0'
        try:
            while up not in text_of(f"{self.url}/metrics"):
                time.sleep(0.02)  # polling another process: there is nothing to wait on
        except BaseException:
            self.stop()
            raise
        return self


def two_workers(folder: Path, text: str | None = None, **more: int) -> Platform:
    return TwoWorkers(folder, text, options=("--workers", "2"), **more)


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """A site whose studies settle soon; each test has a study of its own."""
    port = free_port()
    shared = two_workers(tmp_path_factory.mktemp("workers"), site(port), dimse_port=port).start()
    yield shared
    assert shared.stop() == 0
    assert "Traceback" not in shared.log.read_text()


def workers(platform: Platform) -> list[psutil.Process]:
    """The processes that the supervisor has now."""
    assert platform.process is not None
    return psutil.Process(platform.process.pid).children()


def connections(process: psutil.Process, port: int) -> int:
    """How many it has accepted at a port."""
    established = psutil.CONN_ESTABLISHED
    return sum(
        one.status == established and one.laddr.port == port for one in process.net_connections()
    )


def metrics(platform: Platform) -> dict[str, float]:
    """What /metrics says, by name and labels."""
    lines = text_of(f"{platform.url}/metrics").splitlines()
    return {
        name: float(value)
        for name, _, value in (line.rpartition(" ") for line in lines if line[:1] != "#")
    }


def log_of(platform: Platform, study: str) -> list[dict[str, object]]:
    """The entries of the log about a study; that of all is dense."""
    entries: list[dict[str, object]] = []
    last = 0
    while True:
        page = get(f"{platform.url}/api/changes?since={last}&limit=1000")
        assert [one["seq"] for one in page["changes"]] == list(range(last + 1, page["last"] + 1))
        entries += page["changes"]
        last = page["last"]
        if not page["more"]:
            return [one for one in entries if one.get("study_instance_uid") == study]


class Sender:
    """Stores instances of a study one after the other, and remembers what was acknowledged."""

    def __init__(self, number: int, platform: Platform, source: Path, count: int) -> None:
        self.study = f"{ROOT}.1{number}"
        self.acknowledged: dict[str, bytes] = {}
        self._left: list[Sent] = [instance(source, self.study, n)[1] for n in range(1, count + 1)]
        self._platform = platform

    async def run(self) -> None:
        """Until all are acknowledged, however often a connection breaks."""
        while self._left:
            try:
                association = await call(self._platform.dimse_port, CT)
                while self._left:
                    sent = self._left[0]
                    if (await store(association, sent)).status == 0:
                        self.acknowledged[sent.sop_instance] = sent.data_set
                        del self._left[0]
                await association.release()
            except AssociationError:
                await asyncio.sleep(0.02)  # its worker was killed; another one takes the next call


# ---- work is shared


async def test_associations_are_shared_evenly(platform: Platform) -> None:
    associations = [await call(platform.dimse_port, ECHO) for _ in range(4)]
    assert [connections(one, platform.dimse_port) for one in workers(platform)] == [2, 2]
    for one in associations:
        await one.release()


async def test_http_connections_are_shared_evenly(platform: Platform) -> None:
    clients = []
    for _ in range(4):
        client = socket.create_connection(("127.0.0.1", platform.port))
        client.sendall(b"GET /healthz/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert await asyncio.to_thread(client.recv, 1) == b"H"
        clients.append(client)
    assert [connections(one, platform.port) for one in workers(platform)] == [2, 2]
    for client in clients:
        client.close()


async def test_what_one_worker_stores_is_found_by_all_and_counted_of_each(
    platform: Platform, source: Path
) -> None:
    study = f"{ROOT}.2"
    associations = [await call(platform.dimse_port, CT) for _ in range(2)]
    for number, association in enumerate(associations):
        _, sent = instance(source, study, number)
        assert (await store(association, sent)).status == 0
    for _ in range(4):  # each time by whichever worker
        assert len(instances_in(platform.dicomweb, study)) == 2
        told = metrics(platform)
        assert "worker=2" in platform.log.read_text()
        for worker in ("1", "2"):
            assert told[f'imaging_ingestion_worker_up{{worker="{worker}"}}'] == 1
            labels = f'service="scanners",status="0000",worker="{worker}"'
            assert told[f"imaging_ingestion_dimse_stores_total{{{labels}}}"] >= 1
    for association in associations:
        await association.release()


async def test_whoever_follows_the_log_hears_of_every_workers_commits(
    platform: Platform, source: Path
) -> None:
    study = f"{ROOT}.3"
    followers = []
    for _ in range(2):  # one in each worker
        reader, writer = await asyncio.open_connection("127.0.0.1", platform.port)
        path = f"/api/changes/stream?study={study}"
        writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        await reader.readuntil(b": following")
        followers.append((reader, writer))
    association = await call(platform.dimse_port, CT)
    assert (await store(association, instance(source, study, 1)[1])).status == 0
    async with asyncio.timeout(30):
        for reader, writer in followers:
            await reader.readuntil(f"{study}.1.1".encode())
            writer.close()
    await association.release()


# ---- processes die


async def test_what_was_acknowledged_survives_kills_of_workers_and_happened_once(
    platform: Platform, source: Path
) -> None:
    senders = [Sender(number, platform, source, 25) for number in range(SENDERS)]
    tasks = [asyncio.create_task(sender.run()) for sender in senders]
    before = {one.pid for one in workers(platform)}
    for kills, victim in enumerate(before, 1):
        await until(
            lambda enough=30 * kills: sum(len(one.acknowledged) for one in senders) >= enough,
            "ingest",
        )
        os.kill(victim, signal.SIGKILL)
        await until(lambda gone=victim: all(w.pid != gone for w in workers(platform)), "death")
        await until(lambda: len(workers(platform)) == 2, "another worker")
    async with asyncio.timeout(60):
        await asyncio.gather(*tasks)
    assert not before & {one.pid for one in workers(platform)}
    for sender in senders:
        assert instances_in(platform.dicomweb, sender.study) == set(sender.acknowledged)
        for sop, data_set in sender.acknowledged.items():
            assert stored(platform.dicomweb, sender.study, sop) == data_set
        kinds = Counter(
            (one.get("sop_instance_uid"), one["kind"]) for one in log_of(platform, sender.study)
        )
        assert all(kinds[sop, "stored"] == 1 for sop in sender.acknowledged)
    await until(
        lambda: all(
            any(one["kind"] == "revised" for one in log_of(platform, sender.study))
            for sender in senders
        ),
        "revisions",
    )
    for sender in senders:
        revisions = [one for one in log_of(platform, sender.study) if one["kind"] == "revised"]
        assert [one["version"] for one in revisions] == list(range(len(revisions)))
    assert "worker.died" in platform.log.read_text()
    await until(lambda: "worker_up" in text_of(f"{platform.url}/metrics"), "metrics")


async def test_workers_stop_when_their_supervisor_is_killed(tmp_path: Path, source: Path) -> None:
    platform = two_workers(tmp_path)
    await asyncio.to_thread(platform.start)
    left = workers(platform)
    association = await call(platform.dimse_port, CT)
    assert (await store(association, instance(source, f"{ROOT}.4", 1)[1])).status == 0
    await association.release()
    platform.kill()
    gone, alive = await asyncio.to_thread(psutil.wait_procs, left, 30)
    assert len(gone) == 2, alive
    assert platform.log.read_text().count("site.abandoned") == 2
    async with running(platform):  # on the same ports and data
        assert len(instances_in(platform.dicomweb, f"{ROOT}.4")) == 1


# ---- start and stop


async def test_what_is_in_hand_is_finished_when_it_stops(tmp_path: Path, source: Path) -> None:
    platform = two_workers(tmp_path)
    await asyncio.to_thread(platform.start)
    associations = [await call(platform.dimse_port, CT) for _ in range(2)]  # one of each worker
    stopping = asyncio.create_task(asyncio.to_thread(platform.stop))
    await until(lambda: platform.log.read_text().count("site.stopping") == 2, "the signal")
    for number, association in enumerate(associations):
        sent = instance(source, f"{ROOT}.5", number)[1]
        assert (await store(association, sent)).status == 0
        await association.release()
    assert await stopping == 0
    async with running(platform):
        assert len(instances_in(platform.dicomweb, f"{ROOT}.5")) == 2


async def test_mistakes_are_told_once(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("not a folder")
    with pytest.raises(RuntimeError, match="ended with 2") as caught:
        await asyncio.to_thread(two_workers(tmp_path).start)
    assert str(caught.value).count("not a folder") == 1


async def test_two_sites_over_one_folder_are_one(tmp_path: Path, source: Path) -> None:
    first, second = two_workers(tmp_path), two_workers(tmp_path)
    async with running(first), running(second):
        study = f"{ROOT}.6"
        association = await call(second.dimse_port, CT)
        assert (await store(association, instance(source, study, 9)[1])).status == 0
        await association.release()
        assert len(instances_in(first.dicomweb, study)) == 1


# ---- what there is once


async def test_proxies_and_the_sites_own_nats_server_go_on_when_any_process_is_killed(
    tmp_path: Path, source: Path
) -> None:
    door, kept = free_port(), free_port()
    platform = two_workers(
        tmp_path,
        "---\n".join(
            (
                core(revisioningDelay=1),
                dimse("scanners", natsSubjectRoot="SITE"),
                resource("DimseProxy", "door", natsSubjectRoot="SITE", port=door),
                resource(
                    "DimseProxy", "kept", natsSubjectRoot="SITE", port=kept, dimseConfigName="kept"
                ),
                # Nobody tells the other side of a worker's death: it is found after that long.
                config_map("kept", DIMSE_PROXY_MODE="spool", DIMSE_NATS_REPLY_TIMEOUT="2"),
            )
        ),
    )
    study = f"{ROOT}.7"

    async def send(port: int, number: int) -> None:
        """Until it is acknowledged: where a process was killed, that may take another try."""
        while True:
            try:
                association = await call(port, CT)
                if (await store(association, instance(source, study, number)[1])).status == 0:
                    await association.release()
                    return
            except AssociationError:
                await asyncio.sleep(0.05)

    async with running(platform):
        nats, first, second = workers(platform)
        await send(door, 1)
        await send(kept, 2)
        for number, victim in enumerate((first, second, nats)):
            os.kill(victim.pid, signal.SIGKILL)
            async with asyncio.timeout(40):
                await send(door, 10 + number)
                await send(kept, 20 + number)
        everything = {f"{study}.1.{n}" for n in (1, 2, 10, 11, 12, 20, 21, 22)}
        await until(lambda: instances_in(platform.dicomweb, study) == everything, "the spool")
