"""Storage commitment, with pynetdicom as the requester (C27 to C30)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from commitment_peers import (
    TRANSACTION,
    Requester,
    action,
    ask,
    ask_and_leave,
    associated,
    committed,
    failed,
    requester_listens,
)
from identifiers import keys
from platform_process import free_port
from pydicom.dataset import Dataset
from pynetdicom.sop_class import (
    CTImageStorage,
    MRImageStorage,
)
from query_site import AE_TITLE, QUICK, listening
from recorded import data_set, part10
from retrieve_site import RetrieveSite, retrieve_site

from imaging_ingestion.association.services.destination import Destination
from imaging_ingestion.events.retry import RetryPolicy
from imaging_ingestion.manifest import commitment
from imaging_ingestion.manifest.commitment import CommitmentRequest, Reference
from imaging_ingestion.manifest.schema import commitment as commitment_table

#: What a request is waited with for, by services that are `PATIENT`.
LATE = (CTImageStorage, "1.2.99")
PATIENT = replace(QUICK, patience=timedelta(seconds=60), grace=timedelta(0))


@pytest.fixture
async def site(tmp_path: Path, database_url: str) -> AsyncIterator[RetrieveSite]:
    async with retrieve_site(tmp_path, database_url=database_url) as found:
        yield found


async def store(site: RetrieveSite, number: int = 2) -> list[tuple[str, str]]:
    """CT instances, as references."""
    made = [
        data_set(StudyInstanceUID="1.1", SeriesInstanceUID="1.1.1", SOPInstanceUID=f"1.2.{index}")
        for index in range(1, number + 1)
    ]
    for one in made:
        await site.store(part10(one))
    return [(str(one.SOPClassUID), str(one.SOPInstanceUID)) for one in made]


async def store_late(site: RetrieveSite) -> None:
    made = data_set(StudyInstanceUID="1.1", SeriesInstanceUID="1.1.1", SOPInstanceUID=LATE[1])
    await site.store(part10(made))


async def rows(site: RetrieveSite) -> list[Any]:
    def read(connection: sa.Connection) -> list[Any]:
        return list(connection.execute(sa.select(commitment_table)))

    return await site.database.read(read)


async def until(site: RetrieveSite, is_so: Callable[[Any], bool]) -> Any:
    """A request, once that is so of all of them."""
    async with asyncio.timeout(20):
        while not all(map(is_so, found := await rows(site))):  # noqa: ASYNC110 - rows tell nobody
            await asyncio.sleep(0.02)
    return found[0]


async def reported(site: RetrieveSite, requester: Requester) -> tuple[int, Dataset, str]:
    """The one report, once its answer has come back and nothing is under way any more."""
    report = await requester.report()
    await settled(site, commitment.REPORTED)
    return report


async def settled(site: RetrieveSite, state: str) -> Any:
    """A request, once all are in that state."""
    return await until(site, lambda row: row.state == state)


async def test_what_is_safe_is_reported_on_the_association_that_asks(  # C27, C28
    site: RetrieveSite,
) -> None:
    references = await store(site)
    requester = Requester()

    async with listening(site) as asked, associated(asked.port, requester) as association:
        status = await asyncio.to_thread(ask, association, action(references))
        assert status.Status == 0x0000
        event_type, information, side = await reported(site, requester)
        row = await settled(site, commitment.REPORTED)
    assert (event_type, side) == (1, "same")
    assert information.TransactionUID == TRANSACTION
    assert information.RetrieveAETitle == AE_TITLE
    assert committed(information) == references
    assert "FailedSOPSequence" not in information
    assert (row.attempts, row.requester, row.number_of_items) == (1, "SCANNER", 2)


async def test_each_failure_is_reported_with_its_reason(site: RetrieveSite) -> None:  # C28, C29
    references = await store(site, 4)
    (lost,) = [name async for name in site.space.names() if "1.2.3" in name]
    await site.space.delete(lost)
    await site.delete("1.1", "1.1.1", "1.2.4")
    wanted = [
        references[0],
        (MRImageStorage, "1.2.2"),
        (CTImageStorage, "1.2.3"),
        (CTImageStorage, "1.2.4"),
        (CTImageStorage, "1.9.9"),
        ("1.2.840.10008.1.1", "1.9.8"),
    ]
    requester = Requester()
    async with listening(site) as asked, associated(asked.port, requester) as association:
        await asyncio.to_thread(ask, association, action(wanted))
        event_type, information, _ = await reported(site, requester)
    assert event_type == 2
    assert information.TransactionUID == TRANSACTION
    assert committed(information) == references[:1]
    assert failed(information) == {
        "1.2.2": 0x0119,
        "1.2.3": 0x0110,
        "1.2.4": 0x0112,
        "1.9.9": 0x0112,
        "1.9.8": 0x0122,
    }


async def test_an_object_of_another_size_is_not_committed(site: RetrieveSite) -> None:  # C29
    references = await store(site, 1)
    (name,) = [name async for name in site.space.names()]
    writer = site.space.writer()
    await writer.write(b"something else")
    await site.space.publish([(await writer.seal(), name)])
    requester = Requester()
    async with listening(site) as asked, associated(asked.port, requester) as association:
        await asyncio.to_thread(ask, association, action(references))
        _, information, _ = await reported(site, requester)
    assert failed(information) == {"1.2.1": 0x0110}


async def test_a_requester_that_has_left_is_called(site: RetrieveSite) -> None:  # C28
    references = [*await store(site), LATE]
    requester = Requester()
    async with (
        requester_listens(requester) as destination,
        listening(site, [destination], commitment=PATIENT) as asked,
    ):
        assert (
            await asyncio.to_thread(ask_and_leave, asked.port, requester, action(references)) == 0
        )
        await store_late(site)
        event_type, information, side = await reported(site, requester)
    assert (event_type, side) == (1, "new")
    assert committed(information) == references


async def test_a_requester_that_is_away_is_tried_again(site: RetrieveSite) -> None:  # C30
    references = [*await store(site), LATE]
    port = free_port()
    requester = Requester()
    scanner = Destination("SCANNER", "127.0.0.1", port)
    async with listening(site, [scanner], commitment=PATIENT) as asked:
        assert (
            await asyncio.to_thread(ask_and_leave, asked.port, requester, action(references)) == 0
        )
        await store_late(site)
        row = await until(site, lambda row: row.attempts > 2)
        assert "no association" in row.answer
        assert requester.reports == []
        async with requester_listens(requester, port):
            await requester.report()
            row = await settled(site, commitment.REPORTED)
    assert row.attempts > 2
    assert [side for _, _, side in requester.reports] == ["new"]


async def test_a_report_is_owed_after_a_restart(site: RetrieveSite) -> None:  # C30
    references = await store(site)
    requester = Requester()
    wanted = [*references, LATE]
    async with listening(site, commitment=PATIENT) as asked:
        assert await asyncio.to_thread(ask_and_leave, asked.port, requester, action(wanted)) == 0
    (row,) = await rows(site)
    assert (row.state, row.claim) == (commitment.PENDING, None)
    async with requester_listens(requester) as destination, listening(site, [destination]):
        event_type, information, _ = await reported(site, requester)
    assert event_type == 2
    assert information.TransactionUID == TRANSACTION


async def test_a_report_that_a_dead_process_owed_is_sent_by_another(  # C30
    site: RetrieveSite,
) -> None:
    references = await store(site)
    items = tuple(Reference(*pair) for pair in references)
    request = CommitmentRequest(TRANSACTION, "SCANNER", AE_TITLE, items)
    # What a process leaves that is killed right after it has answered N-ACTION.
    await site.database.write(
        commitment.take_request, "default", request, 0, token=1, until=30_000_000
    )
    requester = Requester()
    async with requester_listens(requester) as destination, listening(site, [destination]):
        event_type, information, _ = await reported(site, requester)
        row = await settled(site, commitment.REPORTED)
    assert event_type == 1
    assert committed(information) == references
    assert row.attempts == 2


async def test_a_requester_that_fails_to_take_a_report_gets_it_again(site: RetrieveSite) -> None:
    # C30
    references = await store(site)
    requester = Requester(lambda number: 0x0110 if number < 2 else 0x0000)
    async with requester_listens(requester) as destination, listening(site, [destination]) as asked:
        await asyncio.to_thread(ask_and_leave, asked.port, requester, action(references))
        await requester.report(3)
        row = await settled(site, commitment.REPORTED)
    assert len(requester.reports) == 3
    assert row.answer.startswith("0000H")


async def test_a_request_is_given_up_at_last(site: RetrieveSite) -> None:  # C30
    references = await store(site)
    requester = Requester()
    soon = replace(PATIENT, retry=RetryPolicy(first=0.01, longest=0.02, attempts=3))
    async with listening(site, commitment=soon) as asked:
        await asyncio.to_thread(ask_and_leave, asked.port, requester, action([*references, LATE]))
        await store_late(site)
        row = await settled(site, commitment.DEAD)
    assert row.attempts == 3
    assert row.answer == "SCANNER is not named by this site"


async def test_what_is_recorded_a_moment_later_is_waited_for(site: RetrieveSite) -> None:  # C30
    references = [(CTImageStorage, "1.2.1"), (CTImageStorage, "1.2.2")]
    requester = Requester()
    async with (
        listening(site, commitment=PATIENT) as asked,
        associated(asked.port, requester) as association,
    ):
        await asyncio.to_thread(ask, association, action(references))
        assert requester.reports == []
        await store(site)
        event_type, information, _ = await reported(site, requester)
    assert event_type == 1
    assert committed(information) == references


async def test_a_transaction_uid_in_use_is_a_duplicate(site: RetrieveSite) -> None:  # C29
    await store(site)
    wanted = [(CTImageStorage, "1.9.9")]
    requester = Requester()
    async with (
        listening(site, commitment=PATIENT) as asked,
        associated(asked.port, requester) as association,
    ):
        first = await asyncio.to_thread(ask, association, action(wanted))
        second = await asyncio.to_thread(ask, association, action(wanted))
        other = await asyncio.to_thread(ask, association, action(wanted, "1.2.3"))
    assert [one.Status for one in (first, second, other)] == [0x0000, 0x0131, 0x0000]
    assert second.ErrorComment == "the Transaction UID is in use"


async def test_requests_that_cannot_be_are_refused(site: RetrieveSite) -> None:  # C27
    one = action([(CTImageStorage, "1.2.1")])
    cases: list[tuple[Dataset | None, dict[str, Any], int]] = [
        (one, {"action_type": 2}, 0x0123),
        (one, {"instance": "1.2.3"}, 0x0112),
        (action([]), {}, 0x0115),
        (keys(ReferencedSOPSequence=[{"ReferencedSOPClassUID": CTImageStorage}]), {}, 0x0115),
        (action([(CTImageStorage, "")]), {}, 0x0115),
        (action([("", "1.2.1")]), {}, 0x0115),
        (action([(CTImageStorage, "no UID")]), {}, 0x0115),
        (None, {}, 0x0115),
    ]
    async with listening(site) as asked, associated(asked.port, Requester()) as association:
        for information, how, status in cases:
            answer = await asyncio.to_thread(ask, association, information, **how)
            assert answer.Status == status, information
    assert await rows(site) == []


async def test_thousands_of_instances_are_committed_at_once(site: RetrieveSite) -> None:  # C27
    (reference,) = await store(site, 1)
    wanted = [reference, *((CTImageStorage, f"1.9.{number}") for number in range(5000))]
    requester = Requester()
    async with listening(site) as asked, associated(asked.port, requester) as association:
        await asyncio.to_thread(ask, association, action(wanted))
        event_type, information, _ = await reported(site, requester)
    assert event_type == 2
    assert committed(information) == [reference]
    assert len(failed(information)) == 5000


async def test_a_request_is_held_for_as_long_as_the_work_takes(site: RetrieveSite) -> None:  # C30
    requester = Requester()
    busy = replace(PATIENT, lease=timedelta(seconds=2), at_once=2)
    async with listening(site, commitment=busy) as asked, associated(asked.port, requester) as one:
        await asyncio.to_thread(ask, one, action([LATE]))
        (taken,) = await rows(site)
        await until(site, lambda row: row.next_at > taken.next_at + 2_000_000)
        await store_late(site)
        await requester.report()
        row = await settled(site, commitment.REPORTED)
    assert row.attempts == 1
    assert len(requester.reports) == 1


async def test_what_there_is_no_room_for_at_once_has_its_turn(site: RetrieveSite) -> None:  # C30
    requester = Requester()
    busy = replace(PATIENT, lease=timedelta(seconds=0.5), at_once=1)
    async with (
        requester_listens(requester) as destination,
        listening(site, [destination], commitment=busy) as asked,
        associated(asked.port, requester) as one,
    ):
        for number in range(3):
            wanted = action([LATE], f"1.2.3.{number}")
            await asyncio.to_thread(ask, one, wanted)
        await store_late(site)
        await requester.report(3)
        await settled(site, commitment.REPORTED)
    uids = {information.TransactionUID for _, information, _ in requester.reports}
    assert uids == {"1.2.3.0", "1.2.3.1", "1.2.3.2"}
