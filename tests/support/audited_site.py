"""A space and its manifest as a site makes them, for tests that lose or damage either."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from manifest_databases import postgres_database
from spaces import AnySpace, spaces_of
from sqlalchemy.engine import Connection

from imaging_ingestion.audit import Check, Finding, Rebuild, Rebuilt, Repair
from imaging_ingestion.brokers.embedded import BrokerSettings, EmbeddedBroker
from imaging_ingestion.events.stored import ConflictPolicy
from imaging_ingestion.intake import FoundError, Intake, IntakeSettings, Received
from imaging_ingestion.manifest.database import Database, open_database
from imaging_ingestion.manifest.event_data import SpaceRoots
from imaging_ingestion.manifest.migrate import migrate
from imaging_ingestion.manifest.schema import (
    change,
    instance,
    instance_metadata,
    metadata,
    series,
    space_usage,
    study,
)
from imaging_ingestion.storage.directory import DirectorySpace

PROVIDER = "provider"
NO_GRACE = timedelta(0)
DELAY = timedelta(seconds=30)
#: What differs between a manifest and the one rebuilt: keys, times, and revisions.
_OWN = {
    *("id", "study_pk", "series_pk", "instance_pk"),
    *("created_at", "changed_at", "stored_at"),
    *("revision", "revision_due_at"),
}


class _Keeping:
    """A space of which nothing is removed."""

    def __init__(self, space: AnySpace) -> None:
        self._space = space

    def __getattr__(self, name: str) -> Any:
        return getattr(self._space, name)

    async def delete(self, name: str) -> None:
        """Nothing happens."""


@dataclass
class AuditedSite:
    """One space with one manifest."""

    space: AnySpace
    database: Database
    policy: ConflictPolicy = ConflictPolicy.REPLACE

    async def take_in(self, instances: Sequence[bytes], *, removing: bool = True) -> list[Received]:
        """Store instances one after the other, as a running site does.

        Unless `removing`, what they replace stays, as if its removal had failed.
        """
        settings = BrokerSettings(
            core="core",
            revisioning_delay=DELAY,
            roots_of=lambda space: SpaceRoots(f"http://{space}", f"http://{space}"),
            api_url="http://api",
        )
        broker = EmbeddedBroker(self.database, settings)
        space = self.space if removing else _Keeping(self.space)
        intake = Intake(space, broker, IntakeSettings(conflict_policy=self.policy))
        received = []
        for content in instances:
            reception = intake.receive(source="test", provider=PROVIDER)
            await reception.write(content)
            received.append(await reception.finish())
        await intake.close()
        await broker.stop()
        return received

    async def rebuild(
        self,
        *,
        announce: bool = False,
        grace: timedelta = NO_GRACE,
        progress: Callable[[int, int], None] = lambda _done, _total: None,
        unusable: Callable[[FoundError], None] = lambda _error: None,
    ) -> Rebuilt:
        rebuild = Rebuild(
            provider=PROVIDER,
            conflict_policy=self.policy,
            revisioning_delay=DELAY,
            grace=grace,
            announce=announce,
        )
        return await rebuild.run(
            self.space,
            self.database,
            listed=lambda _number: None,
            progress=progress,
            unusable=unusable,
        )

    async def check(
        self, *, deep: bool = False, repair: bool = False, grace: timedelta = NO_GRACE
    ) -> list[Finding]:
        repairing = Repair(self.space, self.database, PROVIDER, self.policy, DELAY)
        found = Check(grace=grace, deep=deep).run(
            self.space,
            self.database,
            listed=lambda _number: None,
            progress=lambda _done, _total: None,
        )
        told = [(await repairing.of(one)) if repair else one async for one in found]
        return [one for one in told if one is not None]

    def write_at(self, name: str, content: bytes, modified: datetime) -> None:
        """Put an object that was written at some time into a folder."""
        assert isinstance(self.space, DirectorySpace)
        file = self.space.root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        os.utime(file, (modified.timestamp(),) * 2)

    async def lose_manifest(self) -> None:
        """Nothing is left of it but empty tables."""

        def empty(connection: Connection) -> None:
            for table in reversed(metadata.sorted_tables):
                connection.execute(sa.delete(table))

        await self.database.write(empty)

    async def rows(self) -> dict[str, list[dict[str, Any]]]:
        """Everything in the manifest that a space can tell, in the order of the UIDs."""
        return await self.database.read(_rows)

    async def log(self) -> list[str]:
        """The kinds of the log's entries."""

        def kinds(connection: Connection) -> list[str]:
            return list(
                connection.execute(sa.select(change.c.kind).order_by(change.c.seq)).scalars()
            )

        return await self.database.read(kinds)

    async def object_of(self, sop_instance_uid: str) -> str:
        """The name of a live instance's object."""
        statement = sa.select(instance.c.object_name).where(
            instance.c.sop_instance_uid == sop_instance_uid, instance.c.deleted_at.is_(None)
        )
        return await self.database.read(lambda c: str(c.execute(statement).scalar_one()))

    async def due(self) -> list[int]:
        """The times at which studies are due."""
        statement = sa.select(study.c.revision_due_at).where(study.c.revision_due_at.is_not(None))
        return await self.database.read(lambda c: list(c.execute(statement).scalars()))


#: Every kind of space, and every kind of database: nothing depends on which go together.
PAIRS = ["directory-sqlite", "directory-postgresql", "swift-sqlite", "azurite-postgresql"]


@pytest.fixture(params=PAIRS)
async def site(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[AuditedSite]:
    """An empty site, of each of the pairs."""
    kind, _, database = request.param.partition("-")
    async with AsyncExitStack() as stack:
        url = f"sqlite:///{tmp_path / 'manifest.db'}"
        if database == "postgresql":
            server = sa.make_url(request.getfixturevalue("postgres_url"))
            template = request.getfixturevalue("migrated_template")
            url = await stack.enter_async_context(postgres_database(server, template))
        opened = open_database(url)
        stack.push_async_callback(opened.close)
        await migrate(opened)
        space = spaces_of(kind, request, tmp_path)("space")
        stack.push_async_callback(space.close)
        yield AuditedSite(space, opened)


@pytest.fixture
async def folder_site(tmp_path: Path) -> AsyncIterator[AuditedSite]:
    """An empty site in a folder, with SQLite."""
    opened = open_database(f"sqlite:///{tmp_path / 'manifest.db'}")
    await migrate(opened)
    folder = DirectorySpace("clinical", tmp_path / "space")
    yield AuditedSite(folder, opened)
    await folder.close()
    await opened.close()


def _rows(connection: Connection) -> dict[str, list[dict[str, Any]]]:
    of_instance = (
        sa.select(
            instance,
            study.c.study_instance_uid,
            series.c.series_instance_uid,
            instance_metadata.c.json_zstd,
        )
        .join(series, series.c.id == instance.c.series_pk)
        .join(study, study.c.id == instance.c.study_pk)
        .join(instance_metadata)
        .where(instance.c.deleted_at.is_(None))
        .order_by(instance.c.space, instance.c.sop_instance_uid)
    )
    of_series = (
        sa.select(series, study.c.study_instance_uid)
        .join(study)
        .order_by(series.c.space, study.c.study_instance_uid, series.c.series_instance_uid)
    )
    statements = {
        "study": sa.select(study).order_by(study.c.space, study.c.study_instance_uid),
        "series": of_series,
        "instance": of_instance,
        "usage": sa.select(space_usage).order_by(space_usage.c.space),
    }
    return {
        name: [
            {key: value for key, value in row.items() if key not in _OWN}
            for row in connection.execute(statement).mappings()
        ]
        for name, statement in statements.items()
    }
