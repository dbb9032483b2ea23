"""What differs between space and manifest is found, and repaired where nothing can be lost."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from audited_site import AuditedSite
from instances import padded, with_uids
from spaces import get, names, put

from imaging_ingestion.audit import FindingKind
from imaging_ingestion.events.stored import ConflictPolicy
from imaging_ingestion.intake import IntakeRefused
from imaging_ingestion.manifest.schema import object_removal
from imaging_ingestion.storage.directory import DirectorySpace
from imaging_ingestion.storage.object_name import object_name

MISSING, ORPHAN = FindingKind.MISSING, FindingKind.ORPHAN


@pytest.fixture(scope="module")
def ct(dicom_file: Callable[[str], Path]) -> Callable[[int], bytes]:
    """Instances of one study, by number."""
    source = dicom_file("CT_small.dcm")
    return lambda number: with_uids(source, "1.2.9", "1.2.9.1", f"1.2.9.1.{number}")


async def test_a_space_as_its_manifest_says_has_no_differences(
    site: AuditedSite, ct: Callable[[int], bytes]
) -> None:
    await site.take_in([ct(1), ct(2), padded(ct(1), 10)])
    assert await site.check(deep=True) == []


async def test_a_missing_object_is_told_with_its_uids_and_not_repaired(
    site: AuditedSite, ct: Callable[[int], bytes]
) -> None:
    await site.take_in([ct(1), ct(2)])
    gone = await site.object_of("1.2.9.1.2")
    await site.space.delete(gone)
    for repair in (False, True):
        (found,) = await site.check(repair=repair)
        assert (found.kind, found.object_name, found.repair) == (MISSING, gone, None)
        assert found.place == ("1.2.9", "1.2.9.1", "1.2.9.1.2")
    assert len((await site.rows())["instance"]) == 2


async def test_changed_bytes_are_found_by_their_number_or_else_by_their_digest(
    site: AuditedSite, ct: Callable[[int], bytes]
) -> None:
    await site.take_in([ct(1), ct(2)])
    shorter, changed = [await site.object_of(f"1.2.9.1.{number}") for number in (1, 2)]
    await put(site.space, shorter, ct(1)[:-1])
    await put(site.space, changed, ct(2)[:-1] + b"\x55")
    assert [(one.kind, one.object_name) for one in await site.check()] == [
        (FindingKind.WRONG_SIZE, shorter)
    ]
    assert {(one.kind, one.object_name) for one in await site.check(deep=True, repair=True)} == {
        (FindingKind.WRONG_SIZE, shorter),
        (FindingKind.WRONG_DIGEST, changed),
    }
    assert {shorter, changed} == set(await names(site.space))


async def test_an_orphan_that_the_manifest_does_not_have_is_recorded_and_announced(
    site: AuditedSite, ct: Callable[[int], bytes]
) -> None:
    await site.take_in([ct(1)])
    await put(site.space, "of/another/writer", ct(2))
    (found,) = await site.check()
    assert (found.kind, found.object_name, found.repair) == (ORPHAN, "of/another/writer", None)
    (repaired,) = await site.check(repair=True)
    assert repaired.repair == "recorded and announced"
    assert await site.log() == ["stored", "stored"]
    assert await site.check(deep=True) == []


async def test_a_second_object_of_the_same_content_is_removed(
    site: AuditedSite, ct: Callable[[int], bytes]
) -> None:
    await site.take_in([ct(1)])
    live = await site.object_of("1.2.9.1.1")
    await put(site.space, "copy", ct(1))
    (found,) = await site.check(repair=True)
    assert found.repair == f"removed: {live} has the same content"
    assert await names(site.space) == [live]


async def test_a_missing_object_is_replaced_by_another_one_of_the_same_content(
    site: AuditedSite, ct: Callable[[int], bytes]
) -> None:
    await site.take_in([ct(1)])
    live = await site.object_of("1.2.9.1.1")
    await put(site.space, "copy", ct(1))
    await site.space.delete(live)
    (found,) = await site.check(repair=True)
    assert found.repair is not None
    assert found.repair.startswith("the instance is in it now")
    assert await site.object_of("1.2.9.1.1") == "copy"
    assert (await site.log(), await site.check(deep=True)) == (["stored"], [])


async def test_a_damaged_object_keeps_no_whole_one_from_taking_its_place(
    folder_site: AuditedSite, ct: Callable[[int], bytes]
) -> None:
    await folder_site.take_in([ct(1)])
    live = await folder_site.object_of("1.2.9.1.1")
    await put(folder_site.space, "copy", ct(1))
    await put(folder_site.space, live, ct(1)[:-1] + b"\x55")
    await folder_site.check(repair=True)
    assert await folder_site.object_of("1.2.9.1.1") == "copy"


async def test_what_was_replaced_is_removed_only_while_its_successor_is_whole(
    folder_site: AuditedSite, ct: Callable[[int], bytes]
) -> None:
    folder_site.write_at("older", ct(1), datetime.now(UTC) - timedelta(seconds=2))
    await folder_site.take_in([padded(ct(1), 100)])
    live = await folder_site.object_of("1.2.9.1.1")
    whole = await get(folder_site.space, live)
    await put(folder_site.space, live, whole[:-1] + b"\x55")
    await folder_site.check(repair=True)
    assert "older" in await names(folder_site.space)
    await put(folder_site.space, live, whole)
    (found,) = await folder_site.check(repair=True)
    assert found.repair == f"removed: it was replaced by {live}"
    assert await names(folder_site.space) == [live]


async def test_a_newer_object_than_the_live_one_is_an_arrival_that_was_not_recorded(
    folder_site: AuditedSite, ct: Callable[[int], bytes]
) -> None:
    await folder_site.take_in([ct(1)])
    later = datetime.now(UTC) + timedelta(seconds=2)
    folder_site.write_at("newer", padded(ct(1), 100), later)
    (found,) = await folder_site.check(repair=True)
    assert found.repair == "recorded and announced"
    assert await folder_site.object_of("1.2.9.1.1") == "newer"
    assert await folder_site.log() == ["stored", "replaced"]


async def test_where_the_first_is_kept_other_content_is_left_alone(
    folder_site: AuditedSite, ct: Callable[[int], bytes]
) -> None:
    folder_site.policy = ConflictPolicy.KEEP
    await folder_site.take_in([ct(1)])
    with pytest.raises(IntakeRefused):
        await folder_site.take_in([padded(ct(1), 100)])
    later = datetime.now(UTC) + timedelta(seconds=2)
    folder_site.write_at("refused", padded(ct(1), 100), later)
    (found,) = await folder_site.check(repair=True)
    assert (found.kind, found.repair) == (ORPHAN, None)
    assert "refused" in await names(folder_site.space)


async def test_what_is_no_instance_is_told_and_stays(
    folder_site: AuditedSite, ct: Callable[[int], bytes]
) -> None:
    await put(folder_site.space, "notes.txt", b"of somebody")
    await put(folder_site.space, object_name("1.2.9", "1", "2", bytes(32), "ab"), ct(1))
    (folder_site.space.root / os.fsdecode(b"K\xf6ln.txt")).write_bytes(b"not UTF-8")
    found = await folder_site.check(repair=True)
    assert [(one.kind, one.repair) for one in found] == [(ORPHAN, None)] * 3
    assert len(await names(folder_site.space)) == 3


async def test_an_object_that_is_to_be_removed_is_no_orphan(
    folder_site: AuditedSite, ct: Callable[[int], bytes]
) -> None:
    await put(folder_site.space, "replaced", ct(1))
    removal = {"space": folder_site.space.name, "object_name": "replaced", "next_at": 0}
    await folder_site.database.write(
        lambda c: c.execute(sa.insert(object_removal).values(removal)) and None
    )
    assert await folder_site.check() == []


async def test_of_two_within_a_second_neither_is_taken_for_the_older(
    folder_site: AuditedSite, ct: Callable[[int], bytes]
) -> None:
    await folder_site.take_in([ct(1)])
    live = await folder_site.object_of("1.2.9.1.1")
    folder_site.write_at("other", padded(ct(1), 100), datetime.now(UTC))
    (found,) = await folder_site.check(repair=True)
    assert (found.kind, found.repair) == (ORPHAN, None)
    assert await folder_site.object_of("1.2.9.1.1") == live


async def test_what_came_while_the_check_was_listing_is_not_told(
    folder_site: AuditedSite, ct: Callable[[int], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    await folder_site.take_in([ct(1)])
    listing = DirectorySpace.objects

    async def meanwhile(space: DirectorySpace):  # type: ignore[no-untyped-def]
        async for one in listing(space):
            yield one
        await folder_site.take_in([ct(2), padded(ct(1), 100)])

    monkeypatch.setattr(DirectorySpace, "objects", meanwhile)
    assert await folder_site.check(deep=True) == []


async def test_an_object_within_the_grace_is_not_told(
    folder_site: AuditedSite, ct: Callable[[int], bytes]
) -> None:
    await put(folder_site.space, "arriving", ct(1))
    assert await folder_site.check(grace=timedelta(minutes=5)) == []
    assert [one.kind for one in await folder_site.check()] == [ORPHAN]
