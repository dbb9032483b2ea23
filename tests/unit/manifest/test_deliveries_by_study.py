"""Deliveries that are ordered by study: one of each study at a time, found among many."""

from __future__ import annotations

from typing import Any

from event_core import SECOND, plans_of, reads_a_table_whole, record, stored

from imaging_ingestion.events.model import DICOM_AVAILABLE
from imaging_ingestion.manifest import deliveries
from imaging_ingestion.manifest.database import Database
from imaging_ingestion.manifest.deliveries import Claim, Result

LEASE = 30 * SECOND
NOW = 1000 * SECOND


async def waiting(database: Database, *places: tuple[str, str]) -> None:
    """A subscription with a delivery for each (study, instance)."""
    await database.write(deliveries.subscribe, "b")
    for study, sop in places:
        await record(database, stored(sop, study=study))
    await database.write(
        deliveries.fan_out, "b", DICOM_AVAILABLE, lambda _: True, NOW, by_study=True
    )


async def claim(database: Database, **more: Any) -> list[Claim]:
    return await database.write(deliveries.claim, "b", NOW, LEASE, 10, 1, by_study=True, **more)


async def end(database: Database, claims: list[Claim], state: str, next_at: int | None) -> None:
    results = [
        Result(claim=one, event_id="e", state=state, answer="", next_at=next_at) for one in claims
    ]
    await database.write(deliveries.complete, "b", results, NOW)


def sops(claims: list[Claim]) -> list[str | None]:
    return [one.change.sop_instance_uid for one in claims]


async def test_the_first_of_each_study_has_its_turn(database: Database) -> None:
    await waiting(database, ("1", "1.1"), ("1", "1.2"), ("2", "2.1"), ("1", "1.3"), ("2", "2.2"))
    first = await claim(database)
    assert sops(first) == ["1.1", "2.1"]
    assert await claim(database) == []
    await end(database, first[:1], "delivered", None)
    assert sops(await claim(database)) == ["1.2"]


async def test_one_that_is_to_be_tried_later_is_waited_for(database: Database) -> None:
    await waiting(database, ("1", "1.1"), ("1", "1.2"), ("2", "2.1"))
    first = await claim(database)
    await end(database, first[:1], "pending", NOW + SECOND)
    await end(database, first[1:], "dead", None)
    assert await claim(database) == []
    outlook = await database.read(deliveries.outlook, "b", DICOM_AVAILABLE, 0, (), by_study=True)
    assert outlook.due == NOW + SECOND


async def test_the_first_ones_are_found_by_their_indexes(database: Database) -> None:
    await waiting(database, ("1", "1.1"))
    plans = await plans_of(database, deliveries.claim, "b", NOW, LEASE, 10, 1, (), by_study=True)
    for sql, plan in plans:
        # The keys are few, and what was found is sorted.
        lines = [line for line in plan.splitlines() if "keys" not in line]
        assert not reads_a_table_whole("\n".join(lines), sorting=True), (sql, plan)
