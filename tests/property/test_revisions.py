"""Whatever is stored, replaced, moved and deleted: revisions tell exactly that, once, in order."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pytest
import sqlalchemy as sa
from event_core import SECOND, ManualClock, stored
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from manifest_databases import postgres_database

from imaging_ingestion.brokers.settling import Settling
from imaging_ingestion.manifest import changes, revision
from imaging_ingestion.manifest.database import Database, open_database
from imaging_ingestion.manifest.deletion import delete_instances
from imaging_ingestion.manifest.migrate import migrate
from imaging_ingestion.manifest.record import record_batch

DELAY = 30


class Store(NamedTuple):
    """Instances that arrive together, each (study, series, SOP, content), and the policy."""

    batch: tuple[tuple[str, str, str, str], ...]
    policy: str


class Delete(NamedTuple):
    """A study, one of its series, or one instance, is deleted."""

    study: str
    series: str | None
    sop: str | None


class Quiet(NamedTuple):
    """Time passes, and what is due is settled, by two at once."""

    seconds: int


_study = st.sampled_from(["1", "2"])
_series = st.sampled_from(["8", "9"])
_sop = st.sampled_from(["10", "11", "12"])
_store = st.builds(
    Store,
    st.lists(st.tuples(_study, _series, _sop, st.sampled_from("ab")), min_size=1, max_size=4).map(
        tuple
    ),
    st.sampled_from(["replace", "replace", "replace", "keep"]),
)
_delete = st.one_of(
    st.builds(Delete, _study, st.none(), st.none()),
    st.builds(Delete, _study, _series, st.none()),
    st.builds(Delete, _study, _series, _sop),
)
_quiet = st.builds(Quiet, st.sampled_from([1, DELAY - 1, DELAY, 10 * DELAY]))
_operations = st.lists(st.one_of(_store, _store, _delete, _quiet), min_size=1, max_size=14)

Place = tuple[str, str, str]  # study, series, SOP


@dataclass
class Model:
    """What ought to be, in the simplest words."""

    live: dict[Place, str] = field(default_factory=dict)
    due: dict[str, int] = field(default_factory=dict)

    def store(self, operation: Store, now: int) -> None:
        """Instances arrive."""
        for study, series, sop, content in operation.batch:
            place = (study, series, sop)
            current = next((one for one in self.live if one[2] == sop), None)
            if current == place and self.live[place] == content:
                continue
            if current is not None and operation.policy == "keep":
                continue
            if current is not None and current != place:
                self._remove(current, now)
            self.live[place] = content
            self.due[study] = now + DELAY * SECOND

    def delete(self, operation: Delete, now: int) -> None:
        """Whatever is there of it goes."""
        for place in list(self.live):
            if (
                place[0] == operation.study
                and operation.series in {None, place[1]}
                and operation.sop in {None, place[2]}
            ):
                self._remove(place, now)

    def _remove(self, place: Place, now: int) -> None:
        del self.live[place]
        self.due[place[0]] = now + DELAY * SECOND

    def of_study(self, study: str) -> dict[str, str]:
        """The contents of a study, as change sets name them."""
        return {f"{p[1]}/{p[2]}": content for p, content in self.live.items() if p[0] == study}


class Manifest(NamedTuple):
    """A database with the event loop that it lives on."""

    runner: asyncio.Runner
    database: Database


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def manifest(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Manifest]:
    """A migrated database for all examples: each has a space of its own."""
    with asyncio.Runner() as runner:
        if request.param == "postgresql":
            server = sa.make_url(request.getfixturevalue("postgres_url"))
            made = postgres_database(server)
            url = runner.run(made.__aenter__())
        else:
            url = f"sqlite:///{tmp_path_factory.mktemp('revisions') / 'manifest.db'}"
        database = open_database(url)
        runner.run(migrate(database))
        try:
            yield Manifest(runner, database)
        finally:
            runner.run(database.close())
            if request.param == "postgresql":
                runner.run(made.__aexit__(None, None, None))


@settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(_operations)
def test_the_change_sets_of_a_study_replayed_are_the_study(
    manifest: Manifest, operations: list[Store | Delete | Quiet]
) -> None:
    manifest.runner.run(_check(manifest.database, uuid.uuid4().hex, operations))


async def _check(database: Database, space: str, operations: list[Store | Delete | Quiet]) -> None:
    clock, model = ManualClock(), Model()
    announced: dict[str, dict[str, str]] = {}  # study to contents, at its last settling
    expected: dict[str, list[dict[str, list[str]]]] = {}  # study to change sets
    settlers = [
        Settling(database, lambda *_: "http://x", lambda: None, clock=clock) for _ in range(2)
    ]
    for operation in [*operations, Quiet(DELAY)]:
        if isinstance(operation, Store):
            batch = [
                stored(sop, content, study=study, series=series, space=space,
                       policy=operation.policy)
                for study, series, sop, content in operation.batch
            ]  # fmt: skip
            await database.write(record_batch, batch, clock.now, DELAY * SECOND)
            model.store(operation, clock.now)
        elif isinstance(operation, Delete):
            await database.write(delete_instances, space, *operation, clock.now, DELAY * SECOND)
            model.delete(operation, clock.now)
        else:
            clock.forward(operation.seconds)
            await asyncio.gather(*(one.settle_due() for one in settlers))
            for study in [s for s, due in model.due.items() if due <= clock.now]:
                del model.due[study]
                before, now = announced.get(study, {}), model.of_study(study)
                difference = {
                    "additions": sorted(now.keys() - before.keys()),
                    "deletions": sorted(before.keys() - now.keys()),
                    "modifications": sorted(k for k in now.keys() & before if now[k] != before[k]),
                }
                if any(difference.values()):
                    expected.setdefault(study, []).append(difference)
                    announced[study] = now
    assert not model.due
    log = await database.read(changes.since, 0, 10_000_000, kinds=["revised"], space=space)
    for study in ("1", "2"):
        event(f"revisions of a study: {len(expected.get(study, ()))}")
        told = await _told(database, space, study)
        assert [data["revision"] for data in told] == list(range(len(told)))
        change_sets = [
            {kind: sorted(names) for kind, names in data["changeSet"].items()} for data in told
        ]
        assert change_sets == expected.get(study, [])
        # What a consumer has who only ever read the change sets:
        has: set[str] = set()
        for data in told:
            change = data["changeSet"]
            assert not has & set(change["additions"])
            assert has >= {*change["deletions"], *change["modifications"]}
            has = (has | set(change["additions"])) - set(change["deletions"])
            assert has == {
                f"{series['seriesInstanceUID']}/{instance['sopInstanceUID']}"
                for series in data["study"]["series"]
                for instance in series["instances"]
            }
        assert has == model.of_study(study).keys()
        logged = [e.version for e in log.entries if e.study_instance_uid == study]
        assert logged == list(range(len(told)))


async def _told(database: Database, space: str, study: str) -> list[dict[str, Any]]:
    """The data of every revision of a study, in their order."""
    numbers = await database.read(revision.numbers, space, study)
    found = [
        await database.read(revision.load, space, study, number) for number, _ in numbers or []
    ]
    return [json.loads(data or b"null") for data in found]
