"""What a spool's manifest keeps, settles and forgets."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from event_core import SECOND, ledger_of, record, stored

from imaging_ingestion.events.model import DICOM_AVAILABLE
from imaging_ingestion.manifest import deliveries, spooled
from imaging_ingestion.manifest.database import Database
from imaging_ingestion.manifest.schema import change, instance, instance_metadata, series, study
from imaging_ingestion.manifest.spooled import Settled, Waiting

NOW = 1000 * SECOND
LATER = 2000 * SECOND
KEY = "default/1"


async def spool(database: Database, *sops: str, **fields: Any) -> None:
    """A spool with these instances."""
    await database.write(deliveries.subscribe, "spool")
    for sop in sops:
        await record(database, stored(sop, **fields))
    await fan_out(database)


async def fan_out(database: Database) -> None:
    await database.write(
        deliveries.fan_out, "spool", DICOM_AVAILABLE, lambda _: True, NOW, by_study=True
    )


async def waiting(database: Database, after: int = 0) -> list[Waiting]:
    return await database.read(spooled.waiting, "spool", KEY, after, 100)


async def settle(database: Database, ones: list[Waiting], state: str = "delivered") -> None:
    await database.write(spooled.settle, "spool", [Settled(one, state, state) for one in ones], NOW)


async def rows(database: Database, table: sa.Table) -> int:
    def count(connection: sa.Connection) -> int:
        return int(connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one())

    return await database.read(count)


def sops(ones: list[Waiting]) -> list[tuple[str | None, bool]]:
    return [(one.change.sop_instance_uid, one.instance is not None) for one in ones]


async def test_what_was_delivered_is_removed_with_what_it_was_in(database: Database) -> None:
    await spool(database, "1", "2", "3")
    ones = await waiting(database)
    assert sops(ones) == [("1", True), ("2", True), ("3", True)]
    await settle(database, ones[:2])
    assert sops(await waiting(database)) == [("3", True)]
    assert [row.number_of_instances for row in await all_of(database, study)] == [1]
    await settle(database, ones[2:])
    for table in (instance, instance_metadata, series, study):
        assert await rows(database, table) == 0
    found = await database.read(spooled.backlog, "spool")
    assert (found.waiting, found.dead, found.delivered, found.oldest) == (0, 0, 3, None)
    assert await database.read(spooled.kept) == 0


async def all_of(database: Database, table: sa.Table) -> list[Any]:
    return await database.read(lambda connection: list(connection.execute(sa.select(table))))


async def test_an_instance_that_comes_again_after_it_went_is_new(database: Database) -> None:
    await spool(database, "1")
    await settle(database, await waiting(database))
    await record(database, stored("1"))
    await fan_out(database)
    assert sops(await waiting(database)) == [("1", True)]


async def test_other_bytes_that_came_meanwhile_stay(database: Database) -> None:
    await spool(database, "1")
    sent = await waiting(database)
    await record(database, stored("1", "other"))
    await fan_out(database)
    await settle(database, sent)
    assert sops(await waiting(database)) == [("1", True)]


async def test_of_several_deliveries_of_an_instance_the_last_sends_it(database: Database) -> None:
    await spool(database, "1", "2")
    await record(database, stored("1", "other"))
    await fan_out(database)
    assert sops(await waiting(database)) == [("1", False), ("2", True), ("1", True)]


async def test_a_delivery_in_hand_is_left_to_who_has_it(database: Database) -> None:
    await spool(database, "1", "2")
    await database.write(deliveries.claim, "spool", NOW, SECOND, 1, 7, by_study=True)
    await settle(database, await waiting(database))
    assert [row.state for row in await ledger_of(database)] == ["pending", "delivered"]
    assert await rows(database, instance) == 0


async def test_a_dead_letter_is_kept_and_revived_when_it_comes_again(database: Database) -> None:
    await spool(database, "1", "2")
    await settle(database, (await waiting(database))[:1], "dead")
    assert sops(await waiting(database)) == [("2", True)]
    assert await rows(database, instance) == 2
    assert await database.write(spooled.revive, "spool", "1", "2", NOW) == 0
    assert await database.write(spooled.revive, "spool", "1", "1", NOW) == 1
    assert sops(await waiting(database)) == [("1", True), ("2", True)]
    found = await database.read(spooled.backlog, "spool")
    assert (found.waiting, found.dead) == (2, 0)


async def test_dead_letters_are_discarded_but_not_what_waits(database: Database) -> None:
    await spool(database, "1", "2", "3")
    ones = await waiting(database)
    await settle(database, ones[:2], "dead")
    await record(database, stored("2", "other"))
    await fan_out(database)
    number, names = await database.write(spooled.discard, "spool", None, 100)
    assert number == 2
    assert ones[0].instance is not None
    assert names == [ones[0].instance.object_name]
    assert sops(await waiting(database)) == [("3", True), ("2", True)]
    assert await database.write(spooled.discard, "spool", None, 100) == (0, [])


async def test_what_is_old_is_forgotten_but_not_what_waits_or_is_dead(database: Database) -> None:
    await spool(database, "1", "2", "3", "4")
    ones = await waiting(database)
    await settle(database, ones[:2])
    await settle(database, ones[2:3], "dead")
    while await database.write(spooled.prune, "spool", LATER, 1):
        pass
    assert [(row.event_id, row.state) for row in await ledger_of(database)] == [
        ("available/3/1", "dead"),
        ("available/4/1", "pending"),
    ]
    kept = {row.sop_instance_uid for row in await all_of(database, change) if row.kind == "stored"}
    assert kept == {"3", "4"}
    assert sops(await waiting(database)) == [("4", True)]
    found = await database.read(spooled.backlog, "spool")
    assert (found.waiting, found.dead, found.delivered) == (1, 1, 0)


async def test_the_studies_that_wait_are_told(database: Database) -> None:
    await spool(database, "1", "2")
    await record(database, stored("9", study="5", space="OTHER"))
    await fan_out(database)
    found = await database.read(spooled.waiting_studies, "spool", 10)
    assert [(one.space, one.study_instance_uid, one.waiting) for one in found] == [
        ("default", "1", 2),
        ("OTHER", "5", 1),
    ]


async def test_objects_that_rows_refer_to_are_known(database: Database) -> None:
    await spool(database, "1")
    (one,) = await waiting(database)
    assert one.instance is not None
    name = one.instance.object_name
    names = {name: "1", "elsewhere/1-abc.dcm": "1", "elsewhere/2-abc.dcm": "2"}
    assert await database.read(spooled.known_objects, names) == {name}
