"""A manifest that was lost is made again from its space alone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
import sqlalchemy as sa
from audited_site import AuditedSite
from instances import padded, with_uids
from spaces import names, put

from imaging_ingestion.events.stored import ConflictPolicy, StoredInstance
from imaging_ingestion.intake import Fault, FoundError, IntakeRefused, found_instance
from imaging_ingestion.manifest import revision
from imaging_ingestion.manifest.deletion import delete_instances
from imaging_ingestion.manifest.record_found import FoundResult, record_found
from imaging_ingestion.manifest.schema import announced, study

#: Real files: images of some kinds, compressed, a plan, a report.
REAL = ("CT_small.dcm", "MR_small.dcm", "JPEG2000.dcm", "rtplan.dcm", "reportsi.dcm")
SECOND = 1_000_000  # microseconds


@pytest.fixture(scope="module")
def corpus(dicom_file: Callable[[str], Path]) -> list[bytes]:
    """Real instances, and copies that make studies of several series."""
    ct = dicom_file("CT_small.dcm")
    copies = [
        with_uids(ct, f"1.2.{study}", f"1.2.{study}.{series}", f"1.2.{study}.{series}.{number}")
        for study in range(1, 4)
        for series in range(1, 4)
        for number in range(1, 5)
    ]
    return [dicom_file(name).read_bytes() for name in REAL] + copies


@pytest.fixture(scope="module")
def ct(dicom_file: Callable[[str], Path]) -> Callable[[int], bytes]:
    """Instances of one study, by number."""
    source = dicom_file("CT_small.dcm")
    return lambda number: with_uids(source, "1.2.9", "1.2.9.1", f"1.2.9.1.{number}")


async def test_the_manifest_is_row_for_row_what_it_was(
    site: AuditedSite, corpus: list[bytes]
) -> None:
    await site.take_in(corpus)
    before = await site.rows()
    assert len(before["instance"]) == len(corpus)
    await site.lose_manifest()
    result = await site.rebuild()
    assert (result.objects, result.recorded, result.unusable) == (len(corpus), len(corpus), 0)
    assert await site.rows() == before
    assert (await site.log(), await site.due()) == ([], [])
    assert await site.check(deep=True) == []


async def test_of_several_objects_of_an_instance_the_one_that_was_live_is_live_again(
    site: AuditedSite, ct: Callable[[int], bytes]
) -> None:
    await site.take_in([ct(1), padded(ct(1), 100)], removing=False)
    live = await site.object_of("1.2.9.1.1")
    (replaced,) = {*await names(site.space)} - {live}
    await site.lose_manifest()
    await site.rebuild()
    assert await site.object_of("1.2.9.1.1") == live
    assert {finding.object_name for finding in await site.check()} == {replaced}


async def test_nobody_is_told_of_what_was_rebuilt_but_of_all_that_happens_to_it_later(
    site: AuditedSite, ct: Callable[[int], bytes]
) -> None:
    await site.take_in([ct(1), ct(2), ct(3)])
    await site.lose_manifest()
    await site.rebuild()
    assert (await site.log(), await site.due()) == ([], [])
    await site.take_in([padded(ct(1), 50), ct(4)])
    now = time.time_ns() // 1000
    await site.database.write(delete_instances, site.space.name, "1.2.9", None, "1.2.9.1.2", now, 0)

    def settle(connection: sa.Connection) -> bytes | None:
        pk = connection.execute(sa.select(study.c.id)).scalar_one()
        made = revision.revise(connection, pk, now + 3600 * SECOND, lambda *_uids: "http://x")
        assert made is not None
        return revision.load(connection, made.space, made.study_instance_uid)

    told = await site.database.write(settle)
    assert told is not None
    changes = msgspec.json.decode(told)["changeSet"]
    assert changes == {
        "additions": ["1.2.9.1/1.2.9.1.4"],
        "deletions": ["1.2.9.1/1.2.9.1.2"],
        "modifications": ["1.2.9.1/1.2.9.1.1"],
    }


async def test_what_is_announced_is_announced_as_what_arrives(
    folder_site: AuditedSite, ct: Callable[[int], bytes]
) -> None:
    await folder_site.take_in([ct(1), ct(2)])
    await folder_site.lose_manifest()
    await folder_site.rebuild(announce=True)
    assert await folder_site.log() == ["stored", "stored"]
    assert len(await folder_site.due()) == 1


async def test_a_rebuild_that_was_stopped_goes_on_where_it_was(
    site: AuditedSite, corpus: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    await site.take_in(corpus)
    before = await site.rows()
    await site.lose_manifest()
    monkeypatch.setattr("imaging_ingestion.audit.rebuild.BATCH", 10)
    reached = asyncio.Event()

    def progress(done: int, _total: int) -> None:
        if done >= 20:
            reached.set()

    stopped = asyncio.create_task(site.rebuild(progress=progress))
    await reached.wait()
    stopped.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopped
    result = await site.rebuild()
    assert 20 <= result.known < len(corpus)
    assert result.recorded == len(corpus) - result.known
    assert await site.rows() == before


async def test_a_second_rebuild_changes_nothing(
    folder_site: AuditedSite, ct: Callable[[int], bytes]
) -> None:
    await folder_site.take_in([ct(1), ct(2)])
    await put(folder_site.space, "of/another/writer", ct(3))
    await folder_site.rebuild()
    before = await folder_site.rows()
    assert len(before["instance"]) == 3
    result = await folder_site.rebuild()
    assert (result.known, result.recorded) == (3, 0)
    assert await folder_site.rows() == before


async def test_a_space_that_keeps_the_first_has_the_first_again(
    folder_site: AuditedSite, ct: Callable[[int], bytes]
) -> None:
    folder_site.policy = ConflictPolicy.KEEP
    await folder_site.take_in([ct(1)])
    first = await folder_site.object_of("1.2.9.1.1")
    with pytest.raises(IntakeRefused):
        await folder_site.take_in([padded(ct(1), 100)])
    later = datetime.now(UTC) + timedelta(seconds=2)
    folder_site.write_at("refused", padded(ct(1), 100), later)  # its removal failed
    await folder_site.lose_manifest()
    result = await folder_site.rebuild()
    assert (result.recorded, result.not_taken) == (1, 1)
    assert await folder_site.object_of("1.2.9.1.1") == first


async def test_what_may_be_arriving_just_now_is_left_to_the_site_that_takes_it_in(
    folder_site: AuditedSite, ct: Callable[[int], bytes]
) -> None:
    await folder_site.take_in([ct(1)])
    await folder_site.lose_manifest()
    result = await folder_site.rebuild(grace=timedelta(minutes=5))
    assert (result.young, result.recorded) == (1, 0)
    assert await folder_site.check(grace=timedelta(minutes=5)) == []


async def test_what_is_no_instance_is_told_and_does_not_hold_up_the_rest(
    folder_site: AuditedSite, ct: Callable[[int], bytes]
) -> None:
    await folder_site.take_in([ct(1)])
    await put(folder_site.space, "notes.txt", b"of somebody")
    await put(folder_site.space, "half", ct(2)[:-500])
    await folder_site.lose_manifest()
    told: list[FoundError] = []
    result = await folder_site.rebuild(unusable=told.append)
    assert (result.recorded, result.unusable) == (1, 2)
    assert {error.object_name: error.fault for error in told} == {
        "notes.txt": Fault.NOT_DICOM,
        "half": Fault.MALFORMED,
    }


async def test_an_instance_that_was_deleted_does_not_come_back(
    folder_site: AuditedSite, ct: Callable[[int], bytes]
) -> None:
    await folder_site.take_in([ct(1), ct(2)])
    await put(folder_site.space, "older/copy", ct(1))
    later = time.time_ns() // 1000
    await folder_site.database.write(
        delete_instances, folder_site.space.name, "1.2.9", None, "1.2.9.1.1", later, 0
    )
    result = await folder_site.rebuild()
    assert (result.recorded, result.older) == (0, 1)
    assert [row["sop_instance_uid"] for row in (await folder_site.rows())["instance"]] == [
        "1.2.9.1.2"
    ]


async def test_what_a_running_site_has_recorded_goes_before_an_older_object(
    site: AuditedSite, ct: Callable[[int], bytes]
) -> None:
    await put(site.space, "older", padded(ct(1), 10))
    older = await found_instance(site.space, "older", provider="p", stored_at=SECOND)
    await site.take_in([ct(1)])  # after the older one was read, before it is recorded
    live = await site.object_of("1.2.9.1.1")

    def record(connection: sa.Connection, batch: list[StoredInstance]) -> list[FoundResult]:
        return record_found(connection, batch, 2 * SECOND, 0, announce=False)

    assert await site.database.write(record, [older]) == [FoundResult.OLDER]
    assert await site.object_of("1.2.9.1.1") == live
    newer = msgspec.structs.replace(older, stored_at=time.time_ns() // 1000 + 3600 * SECOND)
    assert await site.database.write(record, [newer]) == [FoundResult.RECORDED]
    assert await site.object_of("1.2.9.1.1") == "older"
    said = await site.database.read(lambda c: c.execute(sa.select(announced.c.sha256)).scalar_one())
    assert said == older.sha256
    assert len(await site.due()) == 1  # for what had arrived, not for what was found
