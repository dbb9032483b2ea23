"""What WADO-RS asks of the manifest, on both databases."""

from __future__ import annotations

import pytest
import zstandard
from pydicom.dataset import Dataset
from recorded import data_set, record

from imaging_ingestion.manifest.database import Database
from imaging_ingestion.manifest.deletion import delete_instances
from imaging_ingestion.manifest.retrieve import (
    Place,
    UnknownResourceError,
    contents,
    find_place,
    instances_page,
    live_instance,
    metadata_page,
)


def instance(study: str, series: str, sop: str, **attributes: object) -> Dataset:
    return data_set(
        StudyInstanceUID=f"1.{study}",
        SeriesInstanceUID=f"1.{study}.{series}",
        SOPInstanceUID=f"1.{study}.{series}.{sop}",
        **attributes,
    )


@pytest.fixture
async def filled(database: Database) -> Database:
    """Two studies: one of two series with three instances, one of one instance."""
    for one in (
        instance("1", "1", "1"),
        instance("1", "1", "2"),
        instance("1", "2", "1"),
        instance("2", "1", "1"),
    ):
        await database.write(record, one)
    return database


async def delete(database: Database, *uids: str | None) -> None:
    await database.write(delete_instances, "default", *uids, 1, 1)


async def sops(database: Database, place: Place, after: int = 0, limit: int = 100) -> list[str]:
    page = await database.read(instances_page, place, after, limit)
    return [one.sop_instance_uid for one in page]


async def test_each_level_has_its_instances_in_order_of_arrival(filled: Database) -> None:
    for uids, expected in (
        (("1.1",), ["1.1.1.1", "1.1.1.2", "1.1.2.1"]),
        (("1.1", "1.1.1"), ["1.1.1.1", "1.1.1.2"]),
        (("1.1", "1.1.1", "1.1.1.2"), ["1.1.1.2"]),
        (("1.2",), ["1.2.1.1"]),
    ):
        place = await filled.read(find_place, "default", *uids)
        assert await sops(filled, place) == expected
        found = await filled.read(contents, place)
        assert found.number_of_instances == len(expected)
        assert found.transfer_syntax_uids == {"1.2.840.10008.1.2.1"}
        assert found.object_size > 100 * len(expected)


@pytest.mark.parametrize(
    ("space", "uids", "level"),
    [
        ("other", ("1.1",), "study"),
        ("default", ("1.9",), "study"),
        ("default", ("1.9", "1.1.1"), "study"),
        ("default", ("1.1", "1.9"), "series"),
        ("default", ("1.1", "1.2.1"), "series"),
        ("default", ("1.1", "1.1.1", "1.9"), "instance"),
        ("default", ("1.1", "1.1.1", "1.1.2.1"), "instance"),
        ("default", ("1.1", "1.1.1", "1.2.1.1"), "instance"),
    ],
)
async def test_what_is_not_there_is_named(
    filled: Database, space: str, uids: tuple[str, ...], level: str
) -> None:
    # W30
    with pytest.raises(UnknownResourceError, match=f"the {level} is not known") as caught:
        await filled.read(find_place, space, *uids)
    assert (caught.value.level, caught.value.deleted) == (level, False)


async def test_what_was_there_is_told_from_what_never_was(filled: Database) -> None:
    # H14
    async def gone(*uids: str) -> str:
        with pytest.raises(UnknownResourceError, match="has been deleted") as caught:
            await filled.read(find_place, "default", *uids)
        assert caught.value.deleted
        return caught.value.level

    await delete(filled, "1.1", "1.1.1", "1.1.1.1")
    assert await gone("1.1", "1.1.1", "1.1.1.1") == "instance"
    await delete(filled, "1.1", "1.1.1", None)
    assert await gone("1.1", "1.1.1") == "series"
    assert await gone("1.1", "1.1.1", "1.1.1.2") == "series"
    await delete(filled, "1.1", None, None)
    assert await gone("1.1") == "study"
    await filled.write(record, instance("1", "1", "1"))
    place = await filled.read(find_place, "default", "1.1", "1.1.1", "1.1.1.1")
    assert await sops(filled, place) == ["1.1.1.1"]


async def test_pages_go_on_behind_a_key(filled: Database) -> None:
    place = await filled.read(find_place, "default", "1.1")
    first = await filled.read(instances_page, place, 0, 2)
    assert [one.sop_instance_uid for one in first] == ["1.1.1.1", "1.1.1.2"]
    await filled.write(record, instance("1", "1", "3"))
    assert await sops(filled, place, first[-1].pk) == ["1.1.2.1", "1.1.1.3"]


async def test_the_digest_changes_with_what_a_resource_consists_of(filled: Database) -> None:
    # W33
    place = await filled.read(find_place, "default", "1.1")
    other = await filled.read(find_place, "default", "1.2")

    async def digest() -> bytes:
        return (await filled.read(contents, place)).digest

    of_other = (await filled.read(contents, other)).digest
    seen = [await digest()]
    await filled.write(record, instance("1", "1", "1"))  # the same bytes
    assert await digest() == seen[-1]
    await filled.write(record, instance("1", "1", "3"))
    seen.append(await digest())
    await filled.write(record, instance("1", "1", "1", ImageComments="replaced"))
    seen.append(await digest())
    await delete(filled, "1.1", "1.1.1", "1.1.1.3")
    seen.append(await digest())
    assert len(set(seen)) == 4
    assert (await filled.read(contents, other)).digest == of_other


async def test_a_page_of_metadata_has_at_most_so_many_bytes_and_at_least_one_row(
    database: Database,
) -> None:
    # W34
    noise = [f"{n:05}" * 200 for n in range(10)]
    await database.write(
        record, *(instance("1", "1", str(n), ImageComments=text) for n, text in enumerate(noise))
    )
    place = await database.read(find_place, "default", "1.1")
    every = await database.read(metadata_page, place, 0, 100, 1 << 20)
    assert len(every) == 10
    size = sum(len(row.json_zstd) for row in every)
    found = []
    while page := await database.read(
        metadata_page, place, found[-1].pk if found else 0, 100, size // 3
    ):
        before_last = sum(len(row.json_zstd) for row in page[:-1])
        assert before_last < size // 3
        found += page
    assert found == every
    page = await database.read(metadata_page, place, 0, 100, 1)
    assert page == every[:1]
    text = zstandard.ZstdDecompressor().decompress(every[0].json_zstd)
    assert b'"00080018"' in text


async def test_an_instance_is_looked_up_again_by_its_uid(filled: Database) -> None:
    place = await filled.read(find_place, "default", "1.1", "1.1.1", "1.1.1.1")
    (first,) = await filled.read(instances_page, place, 0, 1)
    assert await filled.read(live_instance, "default", "1.1.1.1") == first
    await filled.write(record, instance("1", "1", "1", ImageComments="replaced"))
    replaced = await filled.read(live_instance, "default", "1.1.1.1")
    assert replaced is not None
    assert replaced.sha256 != first.sha256
    assert await filled.read(live_instance, "other", "1.1.1.1") is None
    await delete(filled, "1.1", "1.1.1", "1.1.1.1")
    assert await filled.read(live_instance, "default", "1.1.1.1") is None
