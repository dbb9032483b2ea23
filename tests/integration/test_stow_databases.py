"""STOW-RS over a manifest in SQLite and in PostgreSQL: what one takes the other takes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from instances import with_uids
from stow_site import StowSite, stow_site, value

STUDY, SERIES = "1.2.826.0.1.3680043.8.498.8", "1.2.826.0.1.3680043.8.498.8.1"
PATIENT_ID = b"\x10\x00\x20\x00LO"


@pytest.fixture
async def site(tmp_path: Path, database_url: str) -> AsyncIterator[StowSite]:
    async with stow_site(tmp_path, database_url=database_url) as opened:
        yield opened


async def test_every_real_file_is_stored_or_refused_for_a_reason_of_its_own(
    site: StowSite, dicom_files: list[Path]
) -> None:
    last: dict[str, bytes] = {}
    for at in range(0, len(dicom_files), 60):
        batch = [await asyncio.to_thread(path.read_bytes) for path in dicom_files[at : at + 60]]
        response = await site.send(*batch)
        assert {reason for reason, _ in response.failures.values()} <= {0xC000, 0xC122, 0x0122}
        for item in response.stored:
            last[value(item, "00081155")] = batch[value(item, "00091003") - 1]
    await site.assert_holds(*last)
    rows = await site.recorded()
    assert {uid: row.object_size for uid, row in rows.items()} == {
        uid: len(data) for uid, data in last.items()
    }


STRANGE = {
    "NUL inside": b"A\0B\0",
    "only NUL": b"\0\0",
    "control characters": b"\x01\x02\x1b\x7f\r\n",
    "no character of its set": b"\xff\xfe\x80\x81",
    "a surrogate": b"\xed\xa0\x80 ",
    "quotes": b"'\"\\%_;--",
    "very long": b"x" * 65534,
    "a megabyte of escapes": b"\x01" * 65534,
}


@pytest.mark.parametrize("kind", STRANGE)
async def test_no_text_is_too_strange_to_be_stored(
    site: StowSite, dicom_file: Callable[[str], Path], kind: str
) -> None:
    text = STRANGE[kind]
    whole = with_uids(dicom_file("CT_small.dcm"), STUDY, SERIES, f"{SERIES}.1")
    at = whole.index(PATIENT_ID) + 6
    length = int.from_bytes(whole[at : at + 2], "little")
    data = whole[:at] + len(text).to_bytes(2, "little") + text + whole[at + 2 + length :]
    response = await site.send(data)
    assert response.status == 200, response.failures
    assert await site.fetch(STUDY, SERIES, f"{SERIES}.1") == data
    (found,) = await site.search(f"/studies?StudyInstanceUID={STUDY}")
    assert value(found, "0020000D") == STUDY
    answer = await site.get(f"/studies/{STUDY}/metadata")
    assert answer.status == 200
    assert answer.json[0]["00100020"]["vr"] == "LO"


async def test_many_requests_at_once_end_in_the_right_counts(
    site: StowSite, dicom_file: Callable[[str], Path]
) -> None:
    source = dicom_file("CT_small.dcm")
    uids = [f"{SERIES}.{number}" for number in range(60)]
    data = [with_uids(source, STUDY, SERIES, uid) for uid in uids]
    # Each instance in two requests, all at the same time.
    requests = [data[at : at + 6] for at in range(0, 60, 6)] * 2
    responses = await asyncio.gather(*(site.send(*parts) for parts in requests))
    assert {response.status for response in responses} == {200}
    results = [value(item, "00091001") for one in responses for item in one.stored]
    assert (results.count("CREATED"), results.count("UNCHANGED")) == (60, 60)
    await site.assert_holds(*uids)
    assert await site.counts() == {STUDY: 60}
