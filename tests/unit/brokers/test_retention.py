"""A space keeps to its rules, and loses nothing that somebody has not got yet."""

from __future__ import annotations

import asyncio

from event_core import SECOND, ManualClock, Target, record, running, settings, stored, until
from sqlalchemy.engine import Connection

from imaging_ingestion.brokers.embedded import EmbeddedBroker
from imaging_ingestion.brokers.retention import Retention
from imaging_ingestion.brokers.settling import Settling
from imaging_ingestion.events.broker import RefusedError, Subscription
from imaging_ingestion.events.model import STUDY_REVISION, Event
from imaging_ingestion.manifest import changes, overview, usage
from imaging_ingestion.manifest.database import Database
from imaging_ingestion.manifest.retention import Rules

DAY = 86_400


def retention(database: Database, clock: ManualClock, rules: Rules, *bindings: str) -> Retention:
    from datetime import timedelta

    delay = timedelta(seconds=30)
    return Retention(database, {"default": rules}, bindings, delay, lambda: None, clock=clock)


async def settle(database: Database, clock: ManualClock) -> None:
    clock.forward(30)
    await Settling(database, lambda *_: "http://x", lambda: None, clock=clock).settle_due()


async def come(database: Database, clock: ManualClock, study: str, *contents: str) -> None:
    """A study, settled."""
    batch = [stored(f"{study}.{n}", one, study=study) for n, one in enumerate(contents)]
    await record(database, *batch, now=clock.now, delay=30 * SECOND)
    await settle(database, clock)


async def there(database: Database) -> list[str]:
    return sorted(one.study_instance_uid for one in await database.read(overview.studies))


async def test_a_study_goes_when_it_has_not_changed_for_too_long(database: Database) -> None:
    clock = ManualClock()
    rule = retention(database, clock, Rules(10 * DAY * SECOND, None))
    await come(database, clock, "1", "a", "b")
    clock.forward(6 * DAY)
    await come(database, clock, "2", "c")
    assert await rule.expire() == 0
    clock.forward(4 * DAY)
    assert await rule.expire() == 1
    assert await there(database) == ["2"]
    await settle(database, clock)
    page = await database.read(changes.since, 0, 100, study_instance_uid="1")
    kinds = [entry.kind for entry in page.entries]
    assert kinds == ["stored", "stored", "revised", "deleted", "deleted", "revised"]


async def test_over_its_quota_a_space_lets_go_of_what_changed_first(database: Database) -> None:
    clock = ManualClock()
    rule = retention(database, clock, Rules(None, 10))
    for study in ("1", "2", "3"):
        await come(database, clock, study, "x" * 4)
    await come(database, clock, "1", "y" * 4)  # it has changed: now it is the last
    assert (await database.read(usage.usage, "default")).bytes == 12
    assert await rule.expire() == 1
    assert await there(database) == ["1", "3"]
    assert await rule.expire() == 0


async def test_two_processes_do_not_let_go_of_twice_as_much(database: Database) -> None:
    clock = ManualClock()
    for study in range(8):
        await come(database, clock, str(study), "x" * 4)
    two = [retention(database, clock, Rules(None, 24)) for _ in range(2)]
    await asyncio.gather(*(one.expire() for one in two))
    await two[0].expire()
    assert len(await there(database)) == 6


async def test_a_study_that_is_not_settled_stays(database: Database) -> None:
    clock = ManualClock()
    rule = retention(database, clock, Rules(1, 0))
    await record(database, stored("1"), now=clock.now, delay=30 * SECOND)
    clock.forward(20)
    assert await rule.expire() == 0
    await settle(database, clock)
    clock.forward(1)
    assert await rule.expire() == 1


async def test_what_a_binding_has_not_got_stays_also_as_a_dead_letter(database: Database) -> None:
    clock = ManualClock()
    rule = retention(database, clock, Rules(1, None), "fhir")

    def refuse(_event: Event, _times: int) -> None:
        raise RefusedError("no")

    target = Target()
    broker = EmbeddedBroker(database, settings())
    broker.subscribe(Subscription("fhir", STUDY_REVISION), target)
    target.gate.clear()
    async with running(broker):
        await come(database, clock, "1", "a")
        clock.forward(10)
        assert await rule.expire() == 0  # the log has not been read
        broker.committed()
        await until(lambda: target.seen)
        assert await rule.expire() == 0  # it is being delivered
        target.fail = refuse
        target.gate.set()
        await until(lambda: _state(database, "dead"))
        assert await rule.expire() == 0
        assert await there(database) == ["1"]


async def _state(database: Database, state: str) -> bool:
    from imaging_ingestion.manifest import ledger

    def ask(connection: Connection) -> bool:
        return bool(ledger.page(connection, state=state))

    return await database.read(ask)
