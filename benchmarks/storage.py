"""Storage spaces: a directory beside an object store on the same machine.

    python benchmarks/storage.py [--objects N] [--large MB]

The store is OpenStack Swift with its S3 API, in one Python process with one copy on the same disk:
what it costs says little about other stores, so the same objects are also put by the library alone.
A real store is farther away and has more hands.

- small objects (530 KB, a CT image): written, sealed and published, one or many at a time
- a large object: the same, and read as a stream
- ranges of a large object (64 KiB, a frame): one at a time
- other ways of giving an object a name that is known only at its end: put it under another and copy
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import obstore

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests/support"))
from object_stores import SwiftStore, running

from imaging_ingestion.storage.cloud import CloudSpace
from imaging_ingestion.storage.cloud_settings import cloud_settings
from imaging_ingestion.storage.cloud_store import Patience, cloud_store
from imaging_ingestion.storage.directory import DirectorySpace

SMALL = 530_000
WRITE = 65_536
AT_ONCE = (1, 4, 16)
RANGES = 200
RANGE = 65_536
MB = 1_000_000

Space = DirectorySpace | CloudSpace


async def put(space: Space, name: str, content: bytes) -> None:
    """As intake does."""
    writer = space.writer()
    view = memoryview(content)
    for start in range(0, len(content), WRITE):
        await writer.write(view[start : start + WRITE])
    await space.publish([(await writer.seal(), name)])


async def rate(
    number: int, at_once: int, work: Callable[[int], Awaitable[None]]
) -> tuple[float, float]:
    """How many a second, and milliseconds of this process' CPU for each."""
    numbers = iter(range(number))

    async def worker() -> None:
        for each in numbers:
            await work(each)

    start, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(worker() for _ in range(at_once)))
    elapsed, cpu = time.perf_counter() - start, time.process_time() - cpu
    return number / elapsed, 1000 * cpu / number


def report(what: str, value: str) -> None:
    print(f"{what:<58} {value}", flush=True)


async def measure(label: str, space: Space, objects: int, large: int) -> None:
    """All of it over one space."""
    content = os.urandom(SMALL)
    for at_once in AT_ONCE:
        done, cpu = await rate(
            objects, at_once, lambda n, a=at_once: put(space, f"small/{a}/{n}", content)
        )
        report(
            f"{label}: small, {at_once} at once",
            f"{done:7.0f}/s {done * SMALL / MB:7.0f} MB/s, CPU {cpu:.2f} ms each",
        )
    content = os.urandom(large)
    done, cpu = await rate(2, 1, lambda n: put(space, f"large/{n}", content))
    report(
        f"{label}: large, written",
        f"{done * large / MB:7.0f} MB/s, CPU {cpu * MB / large:.2f} ms a MB",
    )
    reader = await space.open("large/0")
    start = time.perf_counter()
    size = sum([len(piece) async for piece in reader.stream()])
    report(f"{label}: large, read", f"{size / (time.perf_counter() - start) / MB:7.0f} MB/s")
    times = []
    for number in range(RANGES):
        offset = (2 << 20) + number * 7919 % (large - (4 << 20))
        start = time.perf_counter()
        await reader.read(offset, RANGE)
        times.append(1000 * (time.perf_counter() - start))
    await reader.close()
    times.sort()
    report(
        f"{label}: a range of 64 KiB",
        f"{statistics.median(times):7.2f} ms, 99 % in {times[len(times) * 99 // 100]:.2f} ms",
    )


async def compare_names(store: obstore.store.ObjectStore, objects: int, large: int) -> None:
    """Under its name at once, or under another first."""

    async def direct(name: str, content: bytes) -> None:
        await obstore.put_async(store, name, content, chunk_size=8 << 20, max_concurrency=4)

    async def copied(name: str, content: bytes) -> None:
        await direct(f"staging/{name}", content)
        await obstore.copy_async(store, f"staging/{name}", name)
        await obstore.delete_async(store, f"staging/{name}")

    for way in (direct, copied):
        content = os.urandom(SMALL)
        done, _ = await rate(
            objects, 16, lambda n, w=way, c=content: w(f"{w.__name__}/small/{n}", c)
        )
        report(f"the library alone, {way.__name__}: small, 16 at once", f"{done:7.0f}/s")
        content = os.urandom(large)
        done, _ = await rate(2, 1, lambda n, w=way, c=content: w(f"{w.__name__}/large/{n}", c))
        report(f"the library alone, {way.__name__}: large", f"{done * large / MB:7.0f} MB/s")


async def main(objects: int, large: int, swift: SwiftStore, folder: Path) -> None:
    patience = Patience(answer=timedelta(minutes=5))
    async with AsyncExitStack() as stack:
        directory = DirectorySpace("directory", folder / "space")
        stack.push_async_callback(directory.close)
        settings = cloud_settings(swift.settings(swift.new_bucket()))
        assert settings is not None
        store = cloud_store(settings, patience)
        cloud = CloudSpace("s3", store, settings.place, folder / "scratch")
        stack.push_async_callback(cloud.close)
        await measure("directory", directory, objects, large)
        await measure("s3", cloud, objects, large)
        await compare_names(store, objects, large)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--objects", type=int, default=200)
    parser.add_argument("--large", type=int, default=128, help="MB")
    arguments = parser.parse_args()
    with running(SwiftStore) as server, TemporaryDirectory() as scratch:
        assert isinstance(server, SwiftStore)
        asyncio.run(main(arguments.objects, arguments.large << 20, server, Path(scratch)))
