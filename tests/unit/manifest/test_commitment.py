"""Requests for storage commitment as rows: durable, claimed by one, tried again, forgotten."""

from __future__ import annotations

import pytest
from pydicom.uid import generate_uid
from recorded import CT_IMAGE_STORAGE, data_set, record

from imaging_ingestion.manifest import commitment
from imaging_ingestion.manifest.commitment import (
    CommitmentRequest,
    DuplicateTransactionError,
    Reference,
)
from imaging_ingestion.manifest.database import Database, open_database
from imaging_ingestion.manifest.deletion import delete_instances

SPACE = "default"
SECOND = 1_000_000


def request(transaction_uid: str = "1.2.3", requester: str = "SCANNER") -> CommitmentRequest:
    return CommitmentRequest(
        transaction_uid, requester, "INGESTION", (Reference("1.2", "1.5"), Reference("1.3", "1.6"))
    )


async def take(
    database: Database, asked: CommitmentRequest, now: int = 0, token: int = 1, until: int = 30
) -> commitment.Claim:
    return await database.write(
        commitment.take_request, SPACE, asked, now, token=token, until=until
    )


async def due(
    database: Database, now: int, token: int = 2, space: str = SPACE, limit: int = 10
) -> list[commitment.Claim]:
    return await database.write(
        commitment.claim_due, space, now, limit, token=token, until=now + 30
    )


async def test_a_request_survives_a_restart(database: Database, database_url: str) -> None:  # C30
    await take(database, request())
    again = open_database(database_url)
    try:
        (claim,) = await due(again, 30)
        assert claim.request == request()
        assert claim.attempt == 2
        assert claim.requested_at == 0
    finally:
        await again.close()


async def test_a_request_is_its_takers_until_the_claim_runs_out(database: Database) -> None:
    claim = await take(database, request())
    assert await due(database, 29) == []
    assert await database.write(commitment.renew, claim, 60)
    assert await due(database, 59) == []
    (stolen,) = await due(database, 60)
    assert stolen.pk == claim.pk
    assert not await database.write(commitment.renew, claim, 100)
    assert not await database.write(
        commitment.finish, claim, commitment.REPORTED, 61, answer="0000H"
    )
    assert await database.write(commitment.finish, stolen, commitment.REPORTED, 61, answer="0000H")


async def test_the_time_of_the_next_one_is_known(database: Database) -> None:
    assert await database.read(commitment.next_due, SPACE) is None
    await take(database, request("1.2"), until=50)
    await take(database, request("1.3"), until=40)
    assert await database.read(commitment.next_due, SPACE) == 40
    assert await database.read(commitment.next_due, "other") is None


async def test_a_failed_try_is_followed_by_another_when_it_is_due(database: Database) -> None:
    # C30
    claim = await take(database, request())
    await database.write(
        commitment.finish, claim, commitment.PENDING, 10, answer="away", next_at=500
    )
    assert await due(database, 499) == []
    (again,) = await due(database, 500)
    assert again.attempt == 2
    await database.write(commitment.finish, again, commitment.DEAD, 501, answer="given up")
    assert await due(database, 10_000) == []


async def test_what_is_given_back_is_due_and_was_no_try(database: Database) -> None:
    claim = await take(database, request())
    await database.write(commitment.release, [claim], 10)
    (again,) = await due(database, 10)
    assert again.attempt == claim.attempt


async def test_a_transaction_uid_is_in_use_until_its_report_was_taken(database: Database) -> None:
    # C29
    claim = await take(database, request())
    with pytest.raises(DuplicateTransactionError):
        await take(database, request())
    await take(database, request(requester="OTHER"))
    await database.write(commitment.finish, claim, commitment.REPORTED, 10, answer="0000H")
    await take(database, request())


async def test_only_those_of_the_space_and_no_more_than_wanted_are_claimed(
    database: Database,
) -> None:
    for number in range(5):
        await take(database, request(f"1.2.{number}"), until=number)
    assert await due(database, 100, space="other") == []
    first = await due(database, 100, limit=2)
    assert [claim.request.transaction_uid for claim in first] == ["1.2.0", "1.2.1"]
    assert len(await due(database, 100)) == 3


async def test_answered_requests_are_forgotten_after_a_while(database: Database) -> None:
    done = await take(database, request("1.2"))
    dead = await take(database, request("1.3"))
    await take(database, request("1.4"))
    await database.write(commitment.finish, done, commitment.REPORTED, 10, answer="0000H")
    await database.write(commitment.finish, dead, commitment.DEAD, 20, answer="away")
    assert await database.write(commitment.forget, SPACE, 15) == 1
    assert await database.write(commitment.forget, SPACE, 1000) == 1
    assert len(await due(database, 1000)) == 1


async def test_only_live_instances_are_named(database: Database) -> None:
    made = [data_set(SOPInstanceUID=generate_uid()) for _ in range(3)]
    await database.write(record, *made)
    uids = [str(one.SOPInstanceUID) for one in made]
    await database.write(delete_instances, SPACE, str(made[0].StudyInstanceUID), None, None, 1, 1)
    found = await database.read(commitment.instances_named, SPACE, [*uids, "1.2.3"])
    assert set(found) == set(uids[1:])
    assert {one.sop_class_uid for one in found.values()} == {CT_IMAGE_STORAGE}
    assert await database.read(commitment.instances_named, "other", uids) == {}
