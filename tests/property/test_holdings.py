"""Whatever is stored, kept aside, decided about and deleted: the space holds what it ought to."""

from __future__ import annotations

import asyncio
import itertools
import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec
import pytest
import sqlalchemy as sa
from event_core import SECOND, ManualClock, stored
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from manifest_databases import postgres_database
from sqlalchemy.engine import Connection

from imaging_ingestion.brokers.settling import Settling
from imaging_ingestion.events.stored import StoredInstance, StoreResult
from imaging_ingestion.manifest import held, removal, resolving, revision, usage
from imaging_ingestion.manifest.database import Database, open_database
from imaging_ingestion.manifest.deletion import delete_instances
from imaging_ingestion.manifest.migrate import migrate
from imaging_ingestion.manifest.record import record_batch
from imaging_ingestion.manifest.schema import instance, object_removal, quarantine, series, study

DELAY = 30
Place = tuple[str, str, str]  # study, series, SOP


class Arrival(NamedTuple):
    """An instance arrives; or, if `again` is a number, an earlier arrival is told of once more."""

    place: Place
    content: str
    patient: str
    policy: str
    again: int | None


class Delete(NamedTuple):
    """A study, one of its series, or one instance, is deleted."""

    study: str
    series: str | None
    sop: str | None


class Decide(NamedTuple):
    """One of those that were ever kept aside is accepted or discarded, by two at once."""

    which: int
    accept: bool


class Quiet(NamedTuple):
    """Time passes, and what is due is settled."""


_place = st.tuples(
    st.sampled_from(["1", "2"]), st.sampled_from(["8", "9"]), st.sampled_from(["10", "11", "12"])
)
_arrival = st.builds(
    Arrival,
    _place,
    st.sampled_from("ab"),
    st.sampled_from("PQ"),
    st.sampled_from(["replace", "keep", "quarantine", "quarantine", "patient", "both"]),
    st.sampled_from([None, None, None, 0, 1, 2]),
)
_delete = st.one_of(
    st.builds(Delete, st.sampled_from(["1", "2"]), st.none(), st.none()),
    st.builds(Delete, st.sampled_from(["1", "2"]), st.sampled_from(["8", "9"]), st.none()),
    st.builds(lambda place: Delete(*place), _place),
)
_operations = st.lists(
    st.one_of(
        st.lists(_arrival, min_size=1, max_size=3).map(tuple),
        st.lists(_arrival, min_size=1, max_size=3).map(tuple),
        st.lists(_arrival, min_size=1, max_size=3).map(tuple),
        _delete,
        st.builds(Decide, st.integers(0, 5), st.booleans()),
        st.builds(Quiet),
    ),
    min_size=1,
    max_size=16,
)


class Waiting(NamedTuple):
    """An instance that was kept aside."""

    stored: StoredInstance
    resolution: str | None


@dataclass
class Model:
    """What ought to be, in the simplest words."""

    live: dict[Place, StoredInstance] = field(default_factory=dict)
    patients: dict[str, str] = field(default_factory=dict)  # by study, while it has an instance
    aside: list[Waiting] = field(default_factory=list)
    over: set[str] = field(default_factory=set)  # objects that are not coming back

    def arrive(self, one: StoredInstance) -> StoreResult:
        """An instance arrives."""
        place = place_of(one)
        current = next((live for live in self.live.values() if place_of(live)[2] == place[2]), None)
        if one.object_name in self.over:
            return StoreResult.UNCHANGED
        if any(w == Waiting(one, None) for w in self.aside):
            return StoreResult.QUARANTINED
        if current is not None and current.sha256 == one.sha256 and place_of(current) == place:
            return StoreResult.UNCHANGED
        if current is not None and one.conflict_policy == "keep":
            return StoreResult.KEPT
        others = [p for p in self.live if p[0] == place[0] and p[2] != place[2]]
        contradicts = others and self.patients[place[0]] != one.study["patient_id"]
        if (current is not None and one.conflict_policy == "quarantine") or (
            one.patient_conflict_policy == "quarantine" and contradicts
        ):
            if not any(
                (w.resolution, place_of(w.stored)[2], w.stored.sha256)
                == (None, place[2], one.sha256)
                for w in self.aside
            ):
                self.aside.append(Waiting(one, None))
            return StoreResult.QUARANTINED
        return self.take(one)

    def take(self, one: StoredInstance) -> StoreResult:
        """It is recorded."""
        place = place_of(one)
        current = next((p for p in self.live if p[2] == place[2]), None)
        if current is not None:
            self.end(current)
        self.live[place] = one
        self.patients[place[0]] = str(one.study["patient_id"])
        return StoreResult.CREATED if current is None else StoreResult.REPLACED

    def end(self, place: Place) -> None:
        """It is not there any more."""
        self.over.add(self.live.pop(place).object_name)

    def delete(self, which: Delete) -> int:
        """Whatever is there of it goes."""
        gone = [
            place
            for place in self.live
            if place[0] == which.study
            and which.series in {None, place[1]}
            and which.sop in {None, place[2]}
        ]
        for place in gone:
            self.end(place)
        return len(gone)

    def decide(self, number: int, *, accept: bool) -> None:
        """What waits is recorded, or given up."""
        one = self.aside[number].stored
        self.aside[number] = Waiting(one, "accepted" if accept else "discarded")
        if not accept:
            self.over.add(one.object_name)
            return
        current = self.live.get(place_of(one))
        if current is not None and current.sha256 == one.sha256:
            self.over.add(one.object_name)
        else:
            self.take(one)


def place_of(one: StoredInstance) -> Place:
    return one.study_instance_uid, one.series_instance_uid, one.sop_instance_uid


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
            url = f"sqlite:///{tmp_path_factory.mktemp('holdings') / 'manifest.db'}"
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
    max_examples=25,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(_operations)
def test_a_space_holds_what_it_ought_to(manifest: Manifest, operations: list[Any]) -> None:
    manifest.runner.run(_check(manifest.database, uuid.uuid4().hex, operations))


async def _check(database: Database, space: str, operations: list[Any]) -> None:
    clock, model = ManualClock(), Model()
    settling = Settling(database, lambda *_: "http://x", lambda: None, clock=clock)
    arrived: list[StoredInstance] = []
    for operation in [*operations, Quiet()]:
        if isinstance(operation, Delete):
            number = await database.write(
                delete_instances, space, *operation, clock.now, DELAY * SECOND
            )
            assert number == model.delete(operation)
        elif isinstance(operation, Decide):
            await _decide(database, space, clock, model, operation)
        elif isinstance(operation, Quiet):
            clock.forward(DELAY)
            await settling.settle_due()
        else:
            batch = [_stored(space, one, arrived) for one in operation]
            arrived += batch
            outcomes = await database.write(record_batch, batch, clock.now, DELAY * SECOND)
            expected = [model.arrive(one) for one in batch]
            assert [outcome.result for outcome in outcomes] == expected
            # Whoever put an object removes it if it is not needed, and never one that is.
            has = {one.object_name for one in model.live.values()}
            has |= {one.stored.object_name for one in model.aside if one.resolution is None}
            assert not has & {outcome.garbage for outcome in outcomes}
        clock.forward(1)
        assert await database.read(_live, space) == {
            place: one.object_name for place, one in model.live.items()
        }
        used = await database.read(usage.usage, space)
        assert (used.instances, used.bytes) == (
            len(model.live),
            sum(one.object_size for one in model.live.values()),
        )
    event(f"kept aside: {len(model.aside)}")
    rows = await database.read(_aside, space)
    assert rows == [(one.stored.object_name, one.resolution) for one in model.aside]
    to_go = await database.read(_to_go, space)
    assert to_go == model.over
    # Nothing that is to go is in use, so all of it is given out for removal, once.
    later = clock.now + removal.GRACE + SECOND
    claimed = await database.write(removal.claim, [space], later, later + 1, 1000)
    assert {one.object_name for one in claimed} == model.over
    assert await database.write(removal.claim, [space], later, later + 1, 1000) == []
    for study_uid in ("1", "2"):
        assert await _told(database, space, study_uid) == {
            f"{place[1]}/{place[2]}" for place in model.live if place[0] == study_uid
        }


def _stored(space: str, one: Arrival, arrived: list[StoredInstance]) -> StoredInstance:
    if one.again is not None and arrived:
        return arrived[one.again % len(arrived)]
    study_uid, series_uid, sop_uid = one.place
    made = stored(
        sop_uid,
        # As it is with bytes, they are of one place and one patient.
        f"{'/'.join(one.place)} {one.content} {one.patient}",
        study=study_uid,
        series=series_uid,
        space=space,
        policy={"patient": "replace", "both": "quarantine"}.get(one.policy, one.policy),
    )
    return msgspec.structs.replace(
        made,
        study={**made.study, "patient_id": one.patient},
        patient_conflict_policy="quarantine" if one.policy in {"patient", "both"} else "accept",
    )


async def _decide(
    database: Database, space: str, clock: ManualClock, model: Model, which: Decide
) -> None:
    """By two at once: the second finds it decided; and then somebody wants it otherwise."""
    if not model.aside:
        return
    number = which.which % len(model.aside)
    pk = (await database.read(held.page, space=space, resolved=True))[number].id
    wanted = "accepted" if which.accept else "discarded"

    async def decide(*, accept: bool) -> bool | str | None:
        try:
            if accept:
                decided = await database.write(resolving.accept, pk, clock.now, DELAY * SECOND)
            else:
                decided = await database.write(resolving.discard, pk, clock.now)
        except resolving.ResolvedOtherwiseError as error:
            return error.found.resolution
        return decided[1]

    both = await asyncio.gather(*(decide(accept=which.accept) for _ in range(2)))
    before = model.aside[number].resolution
    if before is None:
        assert sorted(map(str, both)) == ["False", "True"]
        model.decide(number, accept=which.accept)
        assert await decide(accept=not which.accept) == wanted
    else:
        assert both == [False if before == wanted else before] * 2


def _live(connection: Connection, space: str) -> dict[Place, str]:
    statement = (
        sa.select(
            study.c.study_instance_uid,
            series.c.series_instance_uid,
            instance.c.sop_instance_uid,
            instance.c.object_name,
        )
        .join(study, study.c.id == instance.c.study_pk)
        .join(series, series.c.id == instance.c.series_pk)
        .where(instance.c.space == space, instance.c.deleted_at.is_(None))
    )
    return {(row[0], row[1], row[2]): row[3] for row in connection.execute(statement)}


def _aside(connection: Connection, space: str) -> list[tuple[str, str | None]]:
    statement = (
        sa.select(quarantine.c.object_name, quarantine.c.resolution)
        .where(quarantine.c.space == space)
        .order_by(quarantine.c.id)
    )
    return [(row[0], row[1]) for row in connection.execute(statement)]


def _to_go(connection: Connection, space: str) -> set[str]:
    statement = sa.select(object_removal.c.object_name).where(object_removal.c.space == space)
    return set(connection.execute(statement).scalars())


async def _told(database: Database, space: str, study_uid: str) -> set[str]:
    """What a consumer has who only ever read the change sets."""
    has: set[str] = set()
    for number in itertools.count():
        data = await database.read(revision.load, space, study_uid, number)
        if data is None:
            return has
        change = json.loads(data)["changeSet"]
        assert not has & set(change["additions"])
        assert has >= {*change["deletions"], *change["modifications"]}
        has = (has | set(change["additions"])) - set(change["deletions"])
    raise AssertionError
