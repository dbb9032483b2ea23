"""The spool at work: a small core whose one subscription sends everything on.

spool = Spool(settings, tunnel, metrics, …)
await spool.start()
…
await spool.stop()
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import time
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Final

import structlog
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from imaging_ingestion.association.config import (
    ConfigFileError,
    StorageContexts,
    read_storage_contexts,
)
from imaging_ingestion.association.incoming import IncomingRequest
from imaging_ingestion.association.services.store import StoreService
from imaging_ingestion.brokers.embedded import BrokerSettings, EmbeddedBroker
from imaging_ingestion.dimse import status
from imaging_ingestion.dimse.command import CStoreRequest, respond
from imaging_ingestion.events.broker import Subscription
from imaging_ingestion.events.model import DICOM_AVAILABLE
from imaging_ingestion.events.retry import RetryPolicy
from imaging_ingestion.events.stored import StoredInstance, StoreOutcome, StoreResult
from imaging_ingestion.intake import Intake, IntakeSettings
from imaging_ingestion.manifest.database import SqliteDatabase
from imaging_ingestion.manifest.event_data import SpaceRoots
from imaging_ingestion.manifest.migrate import NewerSchemaError, migrate
from imaging_ingestion.manifest.spooled import backlog, kept, known_objects, prune, revive
from imaging_ingestion.nats_client.settings import SettingsError
from imaging_ingestion.storage.directory import DirectorySpace
from imaging_ingestion.tunnel.spool.courtesy import Courtesy
from imaging_ingestion.tunnel.spool.forward import Forwarder
from imaging_ingestion.tunnel.spool.metrics import SpoolMetrics
from imaging_ingestion.tunnel.spool.origin import Origin
from imaging_ingestion.tunnel.spool.quota import Quota, SpoolSpace
from imaging_ingestion.tunnel.spool.settings import SUBSCRIPTION, SpoolSettings
from imaging_ingestion.tunnel.spool.way import Way
from imaging_ingestion.tunnel.tunnel import Tunnel

log = structlog.get_logger(__name__)

#: What the target says of an instance may change for about two weeks.
_RETRY: Final = RetryPolicy(first=1.0, longest=60.0, attempts=20_000)
#: Titles under which instances wait, at most: callers choose them, unless DIMSE_AE does.
_TITLES: Final = 64
#: Seconds between two looks at the backlog, and at what is old.
_LOOK: Final = 2.0
_PRUNE: Final = 60.0
#: Seconds in which instances come that are noted to be sent together: a commit of their own for
#: each would halve the rate at which they are taken in (benchmarks/spool.py).
_PACE: Final = 0.5
_PRUNED: Final = 1000  # at once
#: Nobody reads what was replaced, and the quota counts it.
_INTAKE: Final = IntakeSettings(removes_replaced=True)
_SWEPT: Final = 500


class Spool:
    """Keeps instances until the far proxy has them."""

    def __init__(self, settings: SpoolSettings, tunnel: Tunnel, metrics: SpoolMetrics) -> None:
        self.settings = settings
        self._metrics = metrics
        self.way = Way(tunnel, settings.streams)
        self.quota = Quota(settings.directory, settings.quota, settings.min_free)
        self._courtesy = Courtesy()
        self._stack = AsyncExitStack()
        self._intakes: dict[str, Intake] = {}
        self._looking: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Open what is kept, and begin to send it. Raises SettingsError, OSError."""
        async with AsyncExitStack() as stack:
            directory = self.settings.directory
            directory.mkdir(parents=True, exist_ok=True)
            stack.callback(os.close, _locked(directory / "lock"))
            self._database = SqliteDatabase(self.settings.database)
            stack.push_async_callback(self._database.close)
            try:
                await migrate(self._database)
            except (DBAPIError, NewerSchemaError) as error:
                reason = getattr(error, "orig", None) or error
                raise SettingsError(
                    [f"{self.settings.database} cannot be used: {reason}"]
                ) from error
            self._directory = DirectorySpace("spool", self.settings.objects)
            stack.push_async_callback(self._directory.close)
            self._space = SpoolSpace("spool", self._directory, self.quota)
            await self._sweep()
            self.quota.kept = await self._database.read(kept)
            self._forwarder = Forwarder(self._database, self._space, self.way, self._courtesy)
            stack.push_async_callback(self._forwarder.stop)
            self._broker = _Broker(self._database, _broker_settings())
            self._broker.subscribe(
                Subscription(
                    SUBSCRIPTION,
                    DICOM_AVAILABLE,
                    concurrency=self.settings.streams,
                    retry=_RETRY,
                    by_study=True,
                    pace=_PACE,
                ),
                self._forwarder.deliver,
            )
            await self._broker.start()
            stack.push_async_callback(self.way.close)
            stack.push_async_callback(self._broker.stop)
            self._looking = asyncio.create_task(self._look())
            self._stack = stack.pop_all()

    async def stop(self) -> None:
        """Send nothing more. What is being taken in must have ended."""
        self.way.stop()
        for intake in self._intakes.values():
            await intake.close()
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait({self._looking})
        await self._stack.aclose()

    async def perform(self, request: IncomingRequest) -> None:
        """Take an instance in (see `association.incoming.Service`)."""
        command = request.command
        agreement = request.association.agreement
        if not isinstance(command, CStoreRequest):
            await request.respond(respond(command, status.UNRECOGNIZED_OPERATION))
            return
        intake = self._intake(agreement.called_ae_title)
        if intake is None:
            comment = "instances for too many AE titles wait"
            answer = respond(command, status.STORE_OUT_OF_RESOURCES, error_comment=comment)
            await request.respond(answer)
            return
        provider = str(Origin.of(agreement.calling_ae_title, command))
        with self._courtesy:
            await StoreService(intake, provider, self._metrics.answered).perform(request)

    def _intake(self, title: str) -> Intake | None:
        found = self._intakes.get(title)
        if found is None and len(self._intakes) < _TITLES:
            space = SpoolSpace(title, self._directory, self.quota)
            found = self._intakes[title] = Intake(space, self._broker, _INTAKE)
        return found

    async def prune(self) -> None:
        """Forget what was delivered long enough ago."""
        more = True
        while more:
            before = int((time.time() - self.settings.keep) * 1e6)
            more = await self._database.write(prune, SUBSCRIPTION, before, _PRUNED)

    # ---- its own

    async def _sweep(self) -> None:
        """Remove objects without a row: nobody was told that they are here."""
        names: dict[str, str] = {}
        async for name in self._space.names():
            names[name] = name.rsplit("/", 1)[-1].split("-", 1)[0]
            if len(names) == _SWEPT:
                await self._remove_unknown(names)
                names = {}
        await self._remove_unknown(names)

    async def _remove_unknown(self, names: dict[str, str]) -> None:
        if names:
            known = await self._database.read(known_objects, names)
            for name in names.keys() - known:
                await self._space.delete(name)
                log.info("spool.swept", object_name=name)

    async def _look(self) -> None:
        """Keep the metrics, and forget what is old."""
        prune_at = 0.0
        loop = asyncio.get_running_loop()
        while True:
            try:
                found = await self._database.read(backlog, SUBSCRIPTION)
                self._metrics.show(found, self.quota, is_open=self.way.closed_by is None)
                if loop.time() >= prune_at:
                    await self.prune()
                    prune_at = loop.time() + _PRUNE
                    # Dead letters may have been discarded by another process.
                    self.quota.kept = await self._database.read(kept)
            except (SQLAlchemyError, OSError) as error:
                log.error("spool.not_looked_at", error=type(error).__name__)  # noqa: TRY400
            await asyncio.sleep(_LOOK)


class _Broker(EmbeddedBroker):
    """Sends a dead letter again that a sender sends again: it was told that it is stored."""

    async def accept(self, stored: StoredInstance) -> StoreOutcome:
        outcome = await super().accept(stored)
        if outcome.result is StoreResult.UNCHANGED:
            now = time.time_ns() // 1000
            uids = (stored.study_instance_uid, stored.sop_instance_uid)
            if await self._database.write(revive, SUBSCRIPTION, *uids, now):
                self.committed()
        return outcome


def _broker_settings() -> BrokerSettings:
    """There are no revisions, and nothing answers HTTP: events stay in the process."""
    return BrokerSettings(
        core="spool",
        revisioning_delay=timedelta(0),
        roots_of=lambda _space: SpaceRoots("", ""),
        api_url="",
    )


def _locked(path: os.PathLike[str]) -> int:
    """The descriptor of a file that no other process has. Raises SettingsError, OSError."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise SettingsError([f"{path}: another proxy uses this spool"]) from None
    return descriptor


def storage_contexts(settings: SpoolSettings) -> StorageContexts:
    """What is taken. Raises SettingsError."""
    if settings.contexts is None:
        return StorageContexts()
    try:
        return read_storage_contexts(settings.contexts)
    except (ConfigFileError, OSError) as error:
        raise SettingsError([f"DIMSE_CONFIG_PATH: {error}"]) from error
