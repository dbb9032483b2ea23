"""One real space whose query, retrieve and commitment services listen on a loopback port."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from retrieve_site import RetrieveSite, retrieve_site

from imaging_ingestion.association.association import Association
from imaging_ingestion.association.connect import connect as associate
from imaging_ingestion.association.incoming import Service
from imaging_ingestion.association.listener import Listener
from imaging_ingestion.association.policy import IngestionServices, ingestion_policy
from imaging_ingestion.association.services.commitment import CommitmentService
from imaging_ingestion.association.services.commitment_reporter import (
    CommitmentReporter,
    CommitmentSettings,
)
from imaging_ingestion.association.services.destination import (
    Connect,
    Connector,
    Destination,
    Destinations,
)
from imaging_ingestion.association.services.find import FindService, FindSettings
from imaging_ingestion.association.services.get import GetService
from imaging_ingestion.association.services.move import MoveService
from imaging_ingestion.association.services.storing import Storing
from imaging_ingestion.association.services.transcoder import Transcoder
from imaging_ingestion.dimse.requestor import Proposal
from imaging_ingestion.events.retry import RetryPolicy

AE_TITLE = "INGESTION"
#: Reports are tried again at once, and nothing that is missing is waited for.
QUICK = CommitmentSettings(
    retry=RetryPolicy(first=0.05, longest=0.2),
    patience=timedelta(0),
    poll=timedelta(milliseconds=100),
    grace=timedelta(seconds=2),
)


@dataclass
class QuerySite:
    """What listens at `port`, over a site with DICOMweb."""

    site: RetrieveSite
    port: int
    reporter: CommitmentReporter
    listener: Listener

    async def call(
        self, *proposals: Proposal, services: Mapping[str, Service] | None = None
    ) -> Association:
        """An association with it, by our own requestor."""
        return await associate(
            "127.0.0.1",
            self.port,
            proposals,
            called_ae_title=AE_TITLE,
            calling_ae_title="TEST",
            services=services,
        )


@asynccontextmanager
async def listening(
    site: RetrieveSite,
    destinations: Iterable[Destination] = (),
    *,
    find: FindSettings | None = None,
    commitment: CommitmentSettings = QUICK,
    transcoder: Transcoder | None = None,
    connect: Connect | None = None,
) -> AsyncIterator[QuerySite]:
    """The services over a site that is there."""
    known = Destinations(destinations)
    storing = Storing(site.space, site.database, transcoder)
    call = connect or Connector()
    reporter = CommitmentReporter(site.database, site.space, known, call, commitment)
    services = IngestionServices(
        site.service.intake,
        "test",
        find=FindService(site.database, site.space.name, find),
        move=MoveService(storing, known, call),
        get=GetService(storing),
        commitment=CommitmentService(reporter),
    )
    policy = ingestion_policy(services, AE_TITLE, operations=1)
    listener = Listener(policy, services.performers())
    reporter.start()
    try:
        port = await listener.listen("127.0.0.1", 0)
        yield QuerySite(site, port, reporter, listener)
    finally:
        await listener.stop()
        await reporter.stop()


@asynccontextmanager
async def query_site(
    folder: Path, destinations: Iterable[Destination] = (), *, database_url: str | None = None
) -> AsyncIterator[QuerySite]:
    """The services over a fresh space in `folder`."""
    async with (
        retrieve_site(folder, database_url=database_url) as site,
        listening(site, destinations) as found,
    ):
        yield found


async def run(
    *command: str | Path, timeout: float = 60.0, cwd: Path | None = None
) -> tuple[int, str]:
    """Run a tool; its exit code and what it said."""
    process = await asyncio.create_subprocess_exec(
        *map(str, command),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=cwd,
    )
    try:
        async with asyncio.timeout(timeout):
            output, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise
    return process.returncode or 0, output.decode("utf-8", "replace")
