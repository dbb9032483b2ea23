"""QIDO-RS over HTTP: limit, offset, and how many results are left (PS3.18 8.3.4.4)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import sqlalchemy as sa
from manifest_databases import postgres_database
from recorded import data_set, record
from retrieve_site import Answer, RetrieveSite, retrieve_site

from imaging_ingestion.dicomweb.service import DicomwebSettings

pytestmark = pytest.mark.asyncio(loop_scope="module")

#: Studies, each of which has a series with an instance; some share a date, and some have none.
STUDIES = 40
DATES = ["20200103", "20200101", None, "20200102"]
MOST = 25  # results that the server answers with at most


def _uid(number: int) -> str:
    return f"1.2.826.1.{number}"


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["sqlite", "postgresql"])
async def site(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[RetrieveSite]:
    """A site that is only read."""
    folder = tmp_path_factory.mktemp("paging")
    if request.param == "sqlite":
        async with _filled(folder, None) as running:
            yield running
        return
    server = sa.make_url(request.getfixturevalue("postgres_url"))
    template = request.getfixturevalue("migrated_template")
    async with postgres_database(server, template) as url, _filled(folder, url) as running:
        yield running


@asynccontextmanager
async def _filled(folder: Path, database_url: str | None) -> AsyncIterator[RetrieveSite]:
    """The site with its studies."""
    settings = DicomwebSettings(max_results=MOST)
    async with retrieve_site(folder, database_url=database_url, settings=settings) as site:
        made = [
            data_set(
                StudyInstanceUID=_uid(number),
                SeriesInstanceUID=f"{_uid(number)}.1",
                SOPInstanceUID=f"{_uid(number)}.1.1",
                PatientComments=f"comment {number % 2}",
                **({"StudyDate": DATES[number % 4]} if DATES[number % 4] else {}),
            )
            for number in range(STUDIES)
        ]
        for one in made:
            await site.database.write(record, one)
        yield site


def _studies(answer: Answer) -> list[str]:
    return [result["0020000D"]["Value"][0] for result in answer.json]


#: The newest date first, then the latest to arrive; those without a date last.
IN_ORDER = [
    _uid(number)
    for date in ("20200103", "20200102", "20200101", None)
    for number in reversed(range(STUDIES))
    if DATES[number % 4] == date
]
ODD = [uid for uid in IN_ORDER if int(uid.rpartition(".")[2]) % 2]


def _left(number: int, least: str = "") -> list[str]:
    return [f"There are {least}{number} additional results that can be requested"]


async def test_a_page_says_how_many_results_are_left(site: RetrieveSite) -> None:
    # Q22, Q23
    answer = await site.get("/studies?limit=10")
    assert answer.status == 200
    assert _studies(answer) == IN_ORDER[:10]
    assert answer.warnings == _left(30)
    assert answer.headers["Warning"] == f"299 {site.url}: {answer.warnings[0]}"
    last = await site.get("/studies?limit=10&offset=30")
    assert _studies(last) == IN_ORDER[30:]
    assert last.warnings == []


# Q24
@pytest.mark.parametrize("resource", ["/studies", "/series", "/instances"])
@pytest.mark.parametrize("limit", [1, 7, 10, 24])
@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", IN_ORDER),  # SQL says all
        ("&PatientComments=comment+1", ODD),  # the matcher decides row by row
        ("&StudyDate=20200102-", [uid for uid in IN_ORDER if uid in set(IN_ORDER[:20])]),
    ],
)
async def test_pages_join_without_gaps_and_repeats(
    site: RetrieveSite, resource: str, limit: int, query: str, expected: list[str]
) -> None:
    found: list[str] = []
    while True:
        answer = await site.get(f"{resource}?limit={limit}&offset={len(found)}{query}")
        again = await site.get(f"{resource}?limit={limit}&offset={len(found)}{query}")
        assert again.body == answer.body
        found += _studies(answer)
        left = len(expected) - len(found)
        assert answer.warnings == (_left(left) if left else [])
        if not left:
            break
    assert found == expected


async def test_no_limit_is_the_limit_of_the_server(site: RetrieveSite) -> None:
    # Q25
    for query in ("", "?limit=26", "?limit=4294967295"):
        answer = await site.get(f"/studies{query}")
        assert _studies(answer) == IN_ORDER[:MOST]
        assert answer.warnings == _left(STUDIES - MOST)


# Q22
@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=0&offset=3",
        "offset=40",
        "offset=41",
        "offset=4294967295",
        "limit=4294967295&offset=4294967295",
        "offset=4294967295&PatientComments=comment+1",
    ],
)
async def test_behind_the_last_result_and_with_a_limit_of_none_there_is_no_content(
    site: RetrieveSite, query: str
) -> None:
    answer = await site.get(f"/studies?{query}")
    assert (answer.status, answer.body) == (204, b"")
    assert answer.warnings == []


# Q22
@pytest.mark.parametrize("name", ["limit", "offset"])
@pytest.mark.parametrize(
    "value",
    [
        "-1",
        "%2B1",
        "1.5",
        "ten",
        "",
        "%20",
        "4294967296",
        "99999999999999999999",
        "1e3",
        "0x10",
        "%D9%A1",
        "1" * 5000,
    ],
)
async def test_what_is_no_unsigned_integer_is_a_bad_request(
    site: RetrieveSite, name: str, value: str
) -> None:
    answer = await site.get(f"/studies?{name}={value}")
    assert answer.status == 400
    assert answer.detail == f"the parameter {name}: expected a whole number from 0 to 4294967295"


async def test_a_limit_given_twice_is_a_bad_request(site: RetrieveSite) -> None:
    answer = await site.get("/studies?limit=1&limit=2")
    assert answer.status == 400
    assert answer.detail == "the parameter limit is given twice"


async def test_new_studies_do_not_move_those_of_later_pages(
    tmp_path: Path,
) -> None:
    # Q24: within a study results come in the order of arrival, so that what comes goes behind.
    async with retrieve_site(tmp_path) as site:

        def instance(number: int) -> Any:
            return data_set(
                StudyInstanceUID="1.2.3",
                SeriesInstanceUID="1.2.3.1",
                SOPInstanceUID=f"1.2.3.1.{number}",
            )

        await site.database.write(record, *(instance(number) for number in range(10)))
        first = await site.search("/studies/1.2.3/instances?limit=5")
        await site.database.write(record, *(instance(number) for number in range(10, 15)))
        second = await site.search("/studies/1.2.3/instances?offset=5")
        uids = [result["00080018"]["Value"][0] for result in first + second]
        assert uids == [f"1.2.3.1.{number}" for number in range(15)]


async def test_very_many_results_are_streamed_and_those_left_are_counted_so_far_only(
    tmp_path: Path,
) -> None:
    # Q23, Q25
    async with retrieve_site(tmp_path) as site:
        made = [
            data_set(
                StudyInstanceUID="1.2.3",
                SeriesInstanceUID="1.2.3.1",
                SOPInstanceUID=f"1.2.3.1.{number}",
                ImageComments=f"number {number}",
            )
            for number in range(2100)
        ]
        await site.database.write(record, *made)
        path = "/studies/1.2.3/instances"
        for query in ("", "?includefield=ImageComments", "?ImageComments=number*"):
            answer = await site.get(path + query)
            assert answer.headers["Transfer-Encoding"] == "chunked"
            found = [result["00080018"]["Value"][0] for result in answer.json]
            assert sorted(found) == sorted(str(one.SOPInstanceUID) for one in made)
            if query:
                comments = {result["00204000"]["Value"][0] for result in answer.json}
                assert len(comments) == 2100
        xml = 'multipart/related; type="application/dicom+xml"'
        assert len((await site.get(f"{path}?limit=1234", xml)).parts) == 1234
        answer = await site.get("/studies/1.2.3/instances?limit=10")
        assert answer.warnings == _left(2000, "at least ")
        answer = await site.get("/studies/1.2.3/instances?limit=10&offset=500")
        assert answer.warnings == _left(1590)
