"""A manifest of ten million instances on PostgreSQL beside an empty one.

    python benchmarks/large_manifest.py

Builds it (`synthetic_manifest`), prints what each table and index takes, and measures

- recording into the empty and into the full one, in turns: the median of the rounds, and the ratio;
  with UIDs that one device counts up, and with random ones;
- searches by QIDO-RS over HTTP, each with other values every time: p50, p99 and the slowest.

With `--server` a server that is there already is used, and a database `large` that is there already
is measured as it is.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AsyncExitStack
from datetime import date, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlencode

import aiohttp
import asyncpg
import msgspec
from starlette.applications import Starlette
from starlette.routing import Mount

from imaging_ingestion.brokers.embedded import BrokerSettings, EmbeddedBroker
from imaging_ingestion.brokers.group_commit import GroupCommit
from imaging_ingestion.dicomweb.app import create_dicomweb
from imaging_ingestion.dicomweb.service import DicomwebService
from imaging_ingestion.events.stored import StoredInstance
from imaging_ingestion.http_server import HttpServer
from imaging_ingestion.intake import Intake
from imaging_ingestion.manifest.database import Database, open_database
from imaging_ingestion.manifest.event_data import SpaceRoots
from imaging_ingestion.manifest.migrate import migrate
from imaging_ingestion.storage.directory import DirectorySpace
from postgres_server import new_database, postgres_server
from record import instances
from synthetic_manifest import FIRST_DAY, YEARS, build, print_sizes

ROUNDS = 60
#: Instances that are on their way at once, and how many a round takes in.
AT_ONCE = 64
A_ROUND = 512

Keys = Mapping[str, str]


class Sample:
    """Values that are in the manifest, drawn anew each time."""

    def __init__(self, studies: list[asyncpg.Record], series: list[asyncpg.Record]) -> None:
        self._studies, self._series = studies, series
        self._random = random.Random(7)

    @classmethod
    async def of(cls, connection: asyncpg.Connection) -> Sample:
        """Some thousand studies of those that are there."""
        studies = await connection.fetch(
            "SELECT * FROM study WHERE id % 23 = 0 AND space = 'default' LIMIT 4000"
        )
        series = await connection.fetch(
            "SELECT s.series_instance_uid, s.study_pk, t.study_instance_uid, i.sop_instance_uid"
            " FROM series s JOIN study t ON t.id = s.study_pk, LATERAL (SELECT sop_instance_uid"
            " FROM instance WHERE series_pk = s.id LIMIT 1) AS i WHERE s.id % 97 = 0 LIMIT 3000"
        )
        return cls(studies, series)

    def study(self) -> asyncpg.Record:
        """A study's row."""
        return self._random.choice(self._studies)

    def series(self) -> asyncpg.Record:
        """A series with its study's UID and the UID of one of its instances."""
        return self._random.choice(self._series)

    def days(self, most: int) -> str:
        """A range of Study Dates of `most` days at most."""
        first = date.fromisoformat(FIRST_DAY) + timedelta(self._random.randrange(YEARS * 365 - 40))
        return f"{first:%Y%m%d}-{first + timedelta(self._random.randrange(most)):%Y%m%d}"

    def choice(self, *values: str) -> str:
        """One of them."""
        return self._random.choice(values)

    def number(self, below: int) -> str:
        """A whole number."""
        return str(self._random.randrange(below))


def searches(s: Sample) -> Mapping[str, Callable[[], tuple[str, Keys]]]:
    """What is measured: path and keys by what it is called. The first seven are the aims'."""
    common = ("CT", "MR", "DX")
    page = {"limit": "50"}
    return {
        "Patient ID": lambda: ("studies", {"PatientID": s.study()["patient_id"]}),
        "dates of a month and modality": lambda: (
            "studies",
            {"StudyDate": s.days(31), "ModalitiesInStudy": s.choice(*common), **page},
        ),
        "accession number": lambda: (
            "studies",
            {"AccessionNumber": s.study()["accession_number"]},
        ),
        "beginning of a name, 5 characters": lambda: (
            "studies",
            {"PatientName": s.study()["patient_name"][:5] + "*", **page},
        ),
        "beginning of a name, 2 characters": lambda: (
            "studies",
            {"PatientName": s.study()["patient_name"][:2] + "*", **page},
        ),
        "newest 50": lambda: ("studies", page),
        "newest 50 of a modality": lambda: (
            "studies",
            {"ModalitiesInStudy": s.choice(*common), **page},
        ),
        "a day": lambda: ("studies", {"StudyDate": s.days(1), **page}),
        "all dates and a rare modality": lambda: (
            "studies",
            {"StudyDate": "20100101-20241231", "ModalitiesInStudy": "PT", **page},
        ),
        "Study Instance UID": lambda: (
            "studies",
            {"StudyInstanceUID": s.study()["study_instance_uid"]},
        ),
        "name, sex and date of birth": lambda: (
            "studies",
            {
                "PatientName": s.study()["patient_name"],
                "PatientSex": s.choice("F", "M"),
                "StudyDate": "20100101-20241231",
            },
        ),
        "beginning of a referring physician's name": lambda: (
            "studies",
            {"ReferringPhysicianName": f"House^Gregory^{s.number(500)}", **page},
        ),
        "description that is not in an index": lambda: (
            "studies",
            {"StudyDescription": s.choice(*common) + " of*", **page},
        ),
        "PatientName=*": lambda: ("studies", {"PatientName": "*", **page}),
        "wildcard in front": lambda: (
            "studies",
            {"PatientName": f"*{s.study()['patient_name'][3:8]}*", **page},
        ),
        "wildcard in front, nothing found": lambda: (
            "studies",
            {"PatientName": f"*zz{s.number(99999)}*", **page},
        ),
        "page at offset 1,000": lambda: ("studies", {"offset": "1000", **page}),
        "page at offset 50,000": lambda: ("studies", {"offset": "50000", **page}),
        "series of a study": lambda: (f"studies/{s.study()['study_instance_uid']}/series", {}),
        "instances of a series": lambda: (
            "studies/{study_instance_uid}/series/{series_instance_uid}/instances".format(
                **s.series()
            ),
            {},
        ),
        "series by UID": lambda: (
            "series",
            {"SeriesInstanceUID": s.series()["series_instance_uid"]},
        ),
        "newest 50 series of a modality": lambda: (
            "series",
            {"Modality": s.choice(*common), **page},
        ),
        "instance by UID": lambda: (
            "instances",
            {"SOPInstanceUID": s.series()["sop_instance_uid"]},
        ),
        "instances of a patient": lambda: (
            "instances",
            {"PatientID": s.study()["patient_id"], **page},
        ),
        "newest 50 instances": lambda: ("instances", page),
    }


async def measure_searches(
    folder: Path, database: Database, sample: Sample, times: int, first: int
) -> None:
    """Print a line for each of the first searches."""
    async with AsyncExitStack() as stack:
        space = DirectorySpace("default", folder / "space")
        stack.push_async_callback(space.close)
        settings = BrokerSettings(
            core="benchmark",
            revisioning_delay=timedelta(seconds=30),
            roots_of=lambda space: SpaceRoots(f"http://x/{space}", f"http://x/{space}"),
            api_url="http://x/api",
        )
        intake = Intake(space, EmbeddedBroker(database, settings))
        stack.push_async_callback(intake.close)
        service = DicomwebService("default", space, database, intake)
        application = Starlette(routes=[Mount("/dicom-web", create_dicomweb(service))])
        server = HttpServer(application, "127.0.0.1", 0)
        await server.start()
        stack.push_async_callback(server.stop)
        client = await stack.enter_async_context(aiohttp.ClientSession())
        root = f"http://127.0.0.1:{server.port}/dicom-web"
        for name, ask in list(searches(sample).items())[:first]:
            taken: list[float] = []
            found: list[int] = []
            for turn in range(times + 5):
                path, keys = ask()
                began = time.perf_counter()
                async with client.get(f"{root}/{path}?{urlencode(keys)}") as answer:
                    body = await answer.read()
                if turn >= 5:
                    taken.append((time.perf_counter() - began) * 1e3)
                    found.append(
                        len(msgspec.json.decode(body))
                        if answer.status == 200
                        else -answer.status * (answer.status != 204)
                    )
            taken.sort()
            print(
                f"{name:44s} p50 {statistics.median(taken):7.1f} ms  p99"
                f" {taken[int(len(taken) * 0.99)]:7.1f} ms  slowest {taken[-1]:7.1f} ms  results"
                f" {min(found)} to {max(found)}",
                flush=True,
            )


def _source(uids: str) -> Iterator[StoredInstance]:
    """New instances without end, under UIDs that nobody else has, in rows as long as those there.

    (Shorter ones would fill gaps all over the table.) One device counts its UIDs up; `random` ones
    go to another page of the index each.
    """
    root = "1.2.826.0.1.3680043.8.498"
    first = time.time_ns()
    for number, stored in enumerate(instances()):
        study, series = (f"{root}.{first + number // size}.{size}" for size in (1000, 100))
        last = random.getrandbits(63) if uids == "random" else first + number
        sop_instance_uid = f"{root}.{last}.{number % 1000}"
        folder = f"ab/{study}/{series}/{sop_instance_uid}"
        yield msgspec.structs.replace(
            stored,
            study_instance_uid=study,
            series_instance_uid=series,
            sop_instance_uid=sop_instance_uid,
            object_name=f"{folder}/0123456789abcdef.dcm",
        )


async def measure_recording(empty: Database, full: Database, uids: str) -> None:
    """Print the rate of each, and how the full one compares with the empty one."""
    rates: dict[Database, list[float]] = {empty: [], full: []}
    sources = {one: _source(uids) for one in rates}
    for turn in range(ROUNDS + 1):
        for one in (empty, full) if turn % 2 else (full, empty):
            batch = list(itertools.islice(sources[one], A_ROUND))
            taken = await _take(one, batch)
            if turn:  # the first warms both up
                rates[one].append(A_ROUND / taken)
    ratios = [full / empty for empty, full in zip(*rates.values(), strict=True)]
    for name, one in (("empty", empty), ("full", full)):
        values = rates[one]
        print(
            f"{uids} UIDs, {name:5s}: {statistics.median(values):6.0f} instances/s"
            f" ({min(values):.0f} to {max(values):.0f})"
        )
    print(f"full beside empty, round by round: {statistics.median(ratios):.3f}", flush=True)


async def _take(database: Database, batch: list[StoredInstance]) -> float:
    """Record instances, some at once as senders would; the seconds that it took."""
    commits = GroupCommit(database, timedelta(seconds=30), lambda: None)
    window = asyncio.Semaphore(AT_ONCE)

    async def one(stored: StoredInstance) -> None:
        async with window:
            await commits.accept(stored)

    began = time.perf_counter()
    await asyncio.gather(*map(one, batch))
    return time.perf_counter() - began


async def run(server: str, arguments: argparse.Namespace) -> None:
    """All of it."""
    url = server.replace("/postgres?", "/large?")
    connection = await asyncpg.connect(server)
    there = await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = 'large'")
    await connection.close()
    if not there:
        url = await new_database(server, "large")
    empty_url = await new_database(server, "small")
    full, empty = open_database(url), open_database(empty_url)
    try:
        await migrate(full)
        await migrate(empty)
        connection = await asyncpg.connect(url)
        if not there:
            began = time.monotonic()
            await build(connection, arguments.studies, arguments.metadata)
            print(f"built in {time.monotonic() - began:.0f} s")
        await print_sizes(connection)
        sample = await Sample.of(connection)
        await connection.close()
        with TemporaryDirectory() as folder:
            if "record" in arguments.what:
                for uids in ("sequential", "random"):
                    await measure_recording(empty, full, uids)
            if "search" in arguments.what:
                await measure_searches(Path(folder), full, sample, arguments.times, arguments.first)
    finally:
        await full.close()
        await empty.close()


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--studies", type=int, default=100_000)
    parser.add_argument("--metadata", type=int, default=416, help="bytes of a compressed data set")
    parser.add_argument("--times", type=int, default=300, help="of each search")
    parser.add_argument("--first", type=int, default=99, help="of the searches, as many")
    parser.add_argument("--server", help="postgresql://…/postgres?…, a server that is there")
    parser.add_argument("--what", nargs="+", default=["record", "search"])
    arguments = parser.parse_args()
    if arguments.server:
        asyncio.run(run(arguments.server, arguments))
        return
    with postgres_server() as server:
        asyncio.run(run(server, arguments))


if __name__ == "__main__":
    main()
