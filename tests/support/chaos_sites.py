"""Sites that faults are let loose on, with the engines that they stand on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from chaos_senders import Door
from chaos_truth import Site
from nats_servers import NatsServer, nats_server
from object_stores import SwiftStore, running
from platform_process import Platform
from postgres_servers import PostgresServer, own_postgres_server
from site_documents import binding, config_map, core, dimse, secret, service

from imaging_ingestion.cli.fhir_receiver import FhirReceiver, create_fhir_receiver
from imaging_ingestion.http_server import HttpServer

#: Seconds of quiet: short, so that revisions come in the middle of it all.
REVISIONING_DELAY = 1


@dataclass
class Stage:
    """A site under test, what it delivers to, and what it stands on (None: it has its own)."""

    platforms: Sequence[Platform]
    target: Platform
    fhir: FhirReceiver
    http: aiohttp.ClientSession
    postgres: PostgresServer | None = None
    nats: NatsServer | None = None
    store: SwiftStore | None = None
    doors: list[Door] = field(default_factory=list)

    @property
    def site(self) -> Site:
        """As its first replica tells it."""
        return Site(self.http, self.platforms[0].port)

    @property
    def delivered(self) -> Site:
        """The site that the STOW binding delivers to."""
        return Site(self.http, self.target.port)

    def logs(self) -> str:
        """The ends of what the processes said."""
        return "\n".join(one.log.read_text()[-6000:] for one in (*self.platforms, self.target))


def documents(target: Platform, fhir_port: int, dimse_port: int, *others: str, **more: str) -> str:
    """The site: one space over both protocols, a STOW binding, a FHIR binding.

    `more` are fields of the core, but `bucketSecretName`, which is the services'.
    """
    space = {"bucketConfigName": "default"}
    if "bucketSecretName" in more:
        space["bucketSecretName"] = more.pop("bucketSecretName")
    return "---\n".join(
        (
            core(revisioningDelay=REVISIONING_DELAY, **more),
            service("web", **space),
            dimse("scanners", port=dimse_port, **space),
            binding("DicomInstanceBinding", "forward", bindingConfigName="forward"),
            config_map("forward", STOW_ENDPOINT=f"{target.dicomweb}/studies"),
            binding("DicomStudyBinding", "fhir", bindingConfigName="fhir"),
            config_map("fhir", FHIR_ENDPOINT=f"http://127.0.0.1:{fhir_port}/fhir"),
            *others,
        )
    )


@asynccontextmanager
async def _receivers(
    stack: AsyncExitStack, folder: Path
) -> AsyncIterator[tuple[Platform, FhirReceiver, int, aiohttp.ClientSession]]:
    target = Platform(folder / "target")
    stack.callback(_end, target)
    await asyncio.to_thread(target.start)
    app = create_fhir_receiver()
    server = HttpServer(app, "127.0.0.1", 0)
    await server.start()
    stack.push_async_callback(server.stop)
    http = await stack.enter_async_context(aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(60)))
    yield target, app.state.receiver, server.port, http


@asynccontextmanager
async def embedded_stage(
    folder: Path, *, prefix: tuple[str, ...] = (), options: tuple[str, ...] = ()
) -> AsyncIterator[Stage]:
    """Everything on one machine: SQLite, a folder, the embedded broker; not started yet."""
    async with AsyncExitStack() as stack, _receivers(stack, folder) as (target, fhir, port, http):
        platform = Platform(folder / "up", prefix=prefix, options=options)
        platform.site = documents(target, port, platform.dimse_port, config_map("default"))
        stack.callback(_end, platform)
        doors = [(platform.port, platform.dimse_port)]
        yield Stage([platform], target, fhir, http, doors=doors)


@asynccontextmanager
async def distributed_stage(folder: Path, replicas: int = 2) -> AsyncIterator[Stage]:
    """PostgreSQL, NATS JetStream and an S3 store under some replicas, which are not started yet."""
    async with AsyncExitStack() as stack, _receivers(stack, folder) as (target, fhir, port, http):
        postgres = await stack.enter_async_context(own_postgres_server())
        await postgres.execute("CREATE DATABASE images")
        jetstream = folder / "jetstream"
        nats = stack.enter_context(nats_server(f'jetstream {{ store_dir: "{jetstream}" }}\n'))
        store = stack.enter_context(running(SwiftStore))
        assert isinstance(store, SwiftStore)
        bucket = store.settings(store.new_bucket())
        hidden = {key: value for key, value in bucket.items() if key.startswith("AWS_")}
        shown = {key: value for key, value in bucket.items() if key not in hidden}
        platforms = []
        for number in range(replicas):
            platform = Platform(folder / f"up{number}")
            platform.site = documents(
                target,
                port,
                platform.dimse_port,
                config_map("default", **shown),
                secret("default", **hidden),
                config_map("db", DB_HOST="127.0.0.1", DB_PORT=str(postgres.port), DB_NAME="images"),
                secret("db", DB_USER="postgres"),
                bucketSecretName="default",
                databaseConfigName="db",
                databaseSecretName="db",
                broker=f"{{kind: jetstream, natsUrl: '{nats.address}'}}",
            )
            stack.callback(_end, platform)
            platforms.append(platform)
        doors = [(platform.port, platform.dimse_port) for platform in platforms]
        yield Stage(platforms, target, fhir, http, postgres, nats, store, doors)


def _end(platform: Platform) -> None:
    if platform.process is not None:
        platform.stop()
        platform.kill()
