"""WADO-RS streams: first bytes at once, bounded memory, and nothing left open (W34, W35)."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import aiohttp
import pytest
from instances import multipart
from platform_process import Platform
from recorded import data_set, part10
from retrieve_site import AS_STORED, RetrieveSite, retrieve_site
from stow_site import until

from imaging_ingestion.storage.directory import DirectoryReader

MIB = 1 << 20
STUDY = "/studies/1.2"


def instances(count: int, size: int) -> Iterator[bytes]:
    """Instances of one series with `size` bytes of noise for pixels, each under its own UID."""
    made = data_set(
        StudyInstanceUID="1.2", SeriesInstanceUID="1.2.1", SOPInstanceUID="1.2.1.1000000"
    )
    made.Rows, made.Columns = 16, min(size // 32, 32768)
    made.BitsAllocated, made.SamplesPerPixel = 16, 1
    made.NumberOfFrames = size // (made.Rows * made.Columns * 2)
    made.add_new(0x7FE00010, "OW", hashlib.shake_256(b"noise").digest(size))
    template = part10(made)
    for number in range(count):
        yield template.replace(b".1000000", b".%d" % (1_000_000 + number))


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[RetrieveSite]:
    async with retrieve_site(tmp_path) as running:
        yield running


def open_objects(site: RetrieveSite) -> list[str]:
    """Objects of the space that this process has open."""
    found = []
    for entry in Path("/proc/self/fd").iterdir():
        try:
            target = os.readlink(entry)
        except FileNotFoundError:  # closed meanwhile
            continue
        if target.startswith(f"{site.space.root}/") and ".incoming" not in target:
            found.append(target)
    return found


class Gate:
    """Lets the first objects be opened, and the others once it is opened itself."""

    def __init__(self, site: RetrieveSite, free: int) -> None:
        self.opened = 0
        self.freed = asyncio.Event()
        self._open: Callable[[str], Awaitable[DirectoryReader]] = site.space.open
        self._free = free
        site.space.open = self  # type: ignore[method-assign, assignment]

    async def __call__(self, name: str) -> DirectoryReader:
        self.opened += 1
        if self.opened > self._free:
            await self.freed.wait()
        return await self._open(name)


async def test_the_first_instance_arrives_before_the_last_one_is_read(
    site: RetrieveSite,
) -> None:
    # W34
    stored = list(instances(20, 4096))
    await site.store_all(stored)
    gate = Gate(site, 4)
    async with site.client.get(site.url + STUDY, headers={"Accept": AS_STORED}) as answer:
        assert answer.status == 200
        body = bytearray()
        async with asyncio.timeout(30):
            while body.count(b"\r\nContent-Length: ") < 4:
                body += await answer.content.readany()
            assert not gate.freed.is_set()
            assert gate.opened <= 8
            gate.freed.set()
            body += await answer.content.read()
    assert gate.opened == 20
    assert all(one in body for one in stored)
    await until(lambda: not open_objects(site), "every object is closed")


async def test_metadata_arrives_before_the_last_of_it_is_read(
    site: RetrieveSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    # W34
    monkeypatch.setattr("imaging_ingestion.dicomweb.wado_metadata.METADATA_PAGE", 5)
    await site.store_all(instances(20, 64))
    freed = asyncio.Event()
    reads = 0
    database = site.service.database
    read = database.read

    async def gated(fn, *args):  # type: ignore[no-untyped-def]
        nonlocal reads
        if fn.__name__ == "metadata_page":
            reads += 1
            if reads > 2:
                await freed.wait()
        return await read(fn, *args)

    monkeypatch.setattr(database, "read", gated)
    async with site.client.get(f"{site.url}{STUDY}/metadata") as answer:
        body = bytearray()
        async with asyncio.timeout(30):
            while body.count(b'"00080018"') < 10:
                body += await answer.content.readany()
            freed.set()
            body += await answer.content.read()
    assert body.count(b'"00080018"') == 20


async def test_an_object_that_goes_missing_on_the_way_cuts_the_answer_short(
    site: RetrieveSite,
) -> None:
    # W31: what has begun cannot become an error; it must not look whole either
    await site.store_all(instances(20, 4096))
    names = sorted([name async for name in site.space.names()])
    (last,) = [name for name in names if "1.2.1.1000019" in name]
    gate = Gate(site, 4)
    async with site.client.get(site.url + STUDY, headers={"Accept": AS_STORED}) as answer:
        assert answer.status == 200
        await answer.content.readany()
        await site.space.delete(last)
        gate.freed.set()
        with pytest.raises(aiohttp.ClientPayloadError):
            await answer.content.read()
    await until(lambda: not open_objects(site), "every object is closed")
    assert (await site.get(f"{STUDY}/series/1.2.1/instances/1.2.1.1000000")).status == 200


@pytest.mark.parametrize(
    "resource",
    [
        STUDY,
        f"{STUDY}/series/1.2.1/instances/1.2.1.1000000",
        f"{STUDY}/series/1.2.1/instances/1.2.1.1000001/frames/1",
        f"{STUDY}/series/1.2.1/instances/1.2.1.1000002/bulkdata/7FE00010",
    ],
)
async def test_clients_that_go_away_leave_nothing_open(site: RetrieveSite, resource: str) -> None:
    # W35
    await site.store_all(instances(6, 20 * MIB))
    tasks = asyncio.all_tasks()

    async def abort(number: int) -> None:
        async with aiohttp.ClientSession() as client:
            url = site.url + resource
            answer = await client.get(url, headers={"Accept": AS_STORED + ", */*;q=0.5"})
            assert answer.status == 200
            if number % 3:
                await answer.content.readany()
            answer.close()  # with most of it unread

    await asyncio.gather(*(abort(number) for number in range(12)))
    await until(lambda: not open_objects(site), "every object is closed")
    await until(lambda: not asyncio.all_tasks() - tasks, "no task is left")
    answer = await site.get(f"{STUDY}/series/1.2.1/instances/1.2.1.1000003", AS_STORED)
    assert len(answer.parts[0].body) > 20 * MIB


async def test_a_client_that_goes_away_while_objects_are_opened_leaves_nothing_open(
    site: RetrieveSite,
) -> None:
    # W35
    await site.store_all(instances(12, 4096))
    gate = Gate(site, 2)
    for _ in range(8):
        get = asyncio.create_task(site.client.get(site.url + STUDY, headers={"Accept": AS_STORED}))
        opened = gate.opened
        await until(lambda opened=opened: gate.opened >= opened + 4, "objects are being opened")
        get.cancel()
        with pytest.raises(asyncio.CancelledError):
            await get
    gate.freed.set()
    await until(lambda: not open_objects(site), "every object is closed")


async def test_answers_that_send_no_body_leave_nothing_open(site: RetrieveSite) -> None:
    # W35, H20, W33
    await site.store_all(instances(6, 4096))
    one = f"{STUDY}/series/1.2.1/instances/1.2.1.1000001"
    for path, accept in (
        (STUDY, AS_STORED),
        (one, "application/dicom"),
        (f"{one}/frames/1", None),
        (f"{one}/bulkdata/7FE00010", None),
    ):
        head = await site.get(path, accept, "HEAD")
        assert head.status == 200
        same = await site.get(path, accept, If_None_Match=head.headers["ETag"])
        assert same.status == 304
        await site.get(path, "image/png")
        await site.get(path, accept, Range="bytes=99999999-")
        await site.get(f"{path}9", accept)
    await until(lambda: not open_objects(site), "every object is closed")


def _memory(platform: Platform, field: str) -> int:
    assert platform.process is not None
    status = Path(f"/proc/{platform.process.pid}/status").read_text()
    found = re.search(rf"{field}:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) * 1024


async def test_a_study_of_a_thousand_instances_costs_little_memory(tmp_path: Path) -> None:
    # W34: whoever reads slowly holds back the server, which holds little meanwhile
    count, size = 1000, 256 << 10
    platform = await asyncio.to_thread(Platform(tmp_path).start)
    try:
        async with aiohttp.ClientSession(read_bufsize=1 << 18) as client:
            stored = instances(count, size)
            for _ in range(count // 50):
                body, content_type = multipart([next(stored) for _ in range(50)])
                url = f"{platform.dicomweb}/studies"
                headers = {"Content-Type": content_type, "Accept": "application/dicom+json"}
                async with client.post(url, data=body, headers=headers) as answer:
                    assert answer.status == 200, await answer.text()
            assert platform.process is not None
            references = Path(f"/proc/{platform.process.pid}/clear_refs")
            await asyncio.to_thread(references.write_text, "5")  # the peak is now
            before = _memory(platform, "VmRSS")
            for accept, path in (
                (AS_STORED, STUDY),
                ("application/dicom+json", f"{STUDY}/metadata"),
            ):
                received = [
                    await _read_slowly(client, platform.dicomweb + path, accept, pause)
                    for pause in (True, False)
                ]
                assert received[0] == received[1]
                if path == STUDY:
                    assert received[0] > count * size
            assert _memory(platform, "VmHWM") - before < 48 * MIB
    finally:
        await asyncio.to_thread(platform.stop)
        shutil.rmtree(platform.data)


async def _read_slowly(client: aiohttp.ClientSession, url: str, accept: str, pause: bool) -> int:
    """How many bytes there are. With `pause` the client is the slower side for a while."""
    received = 0
    async with client.get(url, headers={"Accept": accept}) as answer:
        assert answer.status == 200
        async for piece in answer.content.iter_any():
            received += len(piece)
            if pause and received < 8 * MIB:
                await asyncio.sleep(0.02)  # a client that reads slowly is what is tested
    return received
