"""QIDO-RS over HTTP: what is wrong with a request is said, and nothing else is disturbed."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from recorded import data_set, record
from retrieve_site import RetrieveSite, retrieve_site
from search_site import uid_of

from imaging_ingestion.manifest.query import Search

pytestmark = pytest.mark.asyncio(loop_scope="session")

EVERY_STUDY = 5


@pytest.mark.parametrize(
    ("query", "detail"),
    [
        # Q7
        ("0010002G=1", "0010002G is no attribute: expected a keyword, or a tag of eight"),
        ("0010=1", "0010 is no attribute"),
        ("00100020.=1", "00100020. is no attribute"),
        (".PatientID=1", ".PatientID is no attribute"),
        ("=1", "(unprintable) is no attribute"),
        ("1%0d%0aX-Evil:%201=1", "(unprintable) is no attribute"),
        # Q8
        ("PatientID=1&PatientID=2", "the parameter PatientID is given twice"),
        ("PatientID=1&00100020=1", "the parameter 00100020 is given twice"),
        ("PatientName=Smith&fuzzymatching=true&fuzzymatching=true", "the parameter fuzzymatching"),
        # H11
        ("fuzzymatching=yes", "the parameter fuzzymatching: expected true or false"),
        ("fuzzymatching=", "the parameter fuzzymatching: expected true or false"),
        ("emptyvaluematching=1", "the parameter emptyvaluematching: expected true or false"),
        ("includefield=", "(unprintable) is no attribute"),
        ("includefield=PatientID,,StudyID", "(unprintable) is no attribute"),
        ("includefield=0010002G", "0010002G is no attribute"),
        ("StudyInstanceUID=1..2", "the parameter StudyInstanceUID: expected a UID"),
        ("StudyInstanceUID=1.2,", "the parameter StudyInstanceUID: expected a UID"),
        ("StudyInstanceUID=" + "1" * 65, "the parameter StudyInstanceUID: expected a UID"),
        ("NumberOfStudyRelatedSeries=many", "the parameter NumberOfStudyRelatedSeries: expected"),
        ("PatientWeight=heavy", "the parameter PatientWeight: expected a number"),
        ("PatientAge=12", "the parameter PatientAge: expected an age"),
        ("PatientID=a%00b", "the parameter PatientID: expected a text without NUL"),
        ("PatientName=a%3Db%3Dc%3Dd", "the parameter PatientName: expected at most three"),
        ("ProcedureCodeSequence=1", "the parameter ProcedureCodeSequence: expected no value"),
        ("PatientID.PatientName=1", "the parameter PatientID.PatientName: expected a path"),
        ("PatientID=%5CP1&multiplevaluematching=true", "the parameter PatientID: expected a value"),
        ("PatientID=" + "x" * 1025, "the parameter PatientID: expected a value of at most 1024"),
        # Percent-encoding
        ("PatientName=%FF", "the query string is not percent-encoded UTF-8"),
        ("PatientName=%C3", "the query string is not percent-encoded UTF-8"),
        ("PatientName=%ED%A0%80", "the query string is not percent-encoded UTF-8"),
        ("PatientName=%", "the query string is not percent-encoded UTF-8"),
        ("PatientName=%zz", "the query string is not percent-encoded UTF-8"),
        ("PatientName=50%", "the query string is not percent-encoded UTF-8"),
        ("%4=1", "the query string is not percent-encoded UTF-8"),
    ],
)
async def test_a_bad_parameter_is_named_and_what_is_expected_is_said(
    search_site: RetrieveSite, query: str, detail: str
) -> None:
    answer = await search_site.get(f"/studies?{query}")
    assert answer.status == 400, answer.body
    assert answer.detail.startswith(detail)


@pytest.mark.parametrize(
    "path",
    [
        "/studies/x/series",
        "/studies/1..2/instances",
        "/studies/1.2/series/1.2.%41/instances",
        f"/studies/{'1' * 65}/series",
        "/studies/1.2%00/series",
        "/studies/%FF/series",
    ],
)
async def test_a_malformed_uid_in_the_path_is_a_bad_request(
    search_site: RetrieveSite, path: str
) -> None:
    # W30
    answer = await search_site.get(path)
    assert answer.status == 400
    assert "is no UID: digits and single dots, at most 64 characters" in answer.detail


@pytest.mark.parametrize(
    "query",
    [
        "PatientID=" + "*" * 1000,
        "PatientID=" + "*?" * 500,
        "PatientID=" + "?" * 1000,
        "PatientID=" + "*a" * 500,
        "PatientID=" + "a*" * 500 + "b",
        "PatientName=" + "*^" * 500,
        "StudyDescription=" + "*[" * 500,
        "StudyDescription=" + "*%25_" * 300,
        "PatientComments=" + "*a" * 500 + "b",  # row by row
        "PatientComments=" + "?*" * 500,
        "ModalitiesInStudy=" + "*C*" * 300,
    ],
)
async def test_hostile_wildcards_are_answered(search_site: RetrieveSite, query: str) -> None:
    answer = await search_site.get(f"/studies?{query}")
    assert answer.status in {200, 204}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("PatientID", "x{}"),
        ("PatientID", "*x{}*"),
        ("PatientID", "*x{}*%C3%A9"),  # an accented letter is looked for in every spelling
        ("PatientName", "*x{}*"),
        ("PatientName", "*x{}*%C3%A9"),
        ("ModalitiesInStudy", "x{}%C3%A9"),
        ("StudyDate", "2{:03}0101-"),
        ("PatientComments", "*x{}*%C3%A9"),
    ],
)
async def test_many_values_are_matched_up_to_a_limit(
    search_site: RetrieveSite, key: str, value: str
) -> None:
    # H11: more than a database could be asked at once
    def query(count: int) -> str:
        values = "%5C".join(value.format(number) for number in range(count))
        return f"multiplevaluematching=true&{key}={values}"

    answer = await search_site.get(f"/studies?{query(100)}")
    assert answer.status in {200, 204}, answer.body
    answer = await search_site.get(f"/studies?{query(101)}")
    assert answer.status == 400
    assert answer.detail == f"the parameter {key}: expected at most 100 values"


async def test_many_uids_are_matched_up_to_a_limit(search_site: RetrieveSite) -> None:
    # Q13
    uids = [f"1.2.{number}" for number in range(999)]
    answer = await search_site.get(f"/studies?StudyInstanceUID={uid_of('A')},{','.join(uids)}")
    assert len(answer.json) == 1
    answer = await search_site.get(f"/studies?StudyInstanceUID={','.join([*uids, '1.3', '1.4'])}")
    assert answer.status == 400
    assert answer.detail == "the parameter StudyInstanceUID: expected at most 1000 values"


async def test_hundreds_of_parameters_are_answered_and_more_refused(
    search_site: RetrieveSite,
) -> None:
    # H10
    unknown = "&".join(f"Unknown{number}=x" for number in range(500))
    answer = await search_site.get(f"/studies?{unknown}")
    assert answer.status == 200
    assert len(answer.json) == EVERY_STUDY
    (warning,) = answer.warnings
    assert warning.endswith("Unknown18, Unknown19")
    assert len(warning) < 1000
    keys = "&".join(f"0008{number:04X}=" for number in range(0x1000, 0x1000 + 500))
    assert (await search_site.get(f"/studies?{keys}")).status == 200
    answer = await search_site.get(f"/studies?{unknown}&x=1")
    assert answer.status == 400
    assert answer.detail == "the query has more than 500 parameters"


async def test_a_warning_about_long_names_stays_short(search_site: RetrieveSite) -> None:
    path = ".".join(["RequestAttributesSequence"] * 200)
    query = "&".join(f"{path}.{number:08X}=x" for number in range(5))
    answer = await search_site.get(f"/studies?{query}")
    assert answer.status == 200
    assert len(answer.headers["Warning"]) < 1000


async def test_a_path_that_is_too_deep_is_a_bad_request(search_site: RetrieveSite) -> None:
    path = ".".join(["ReferencedStudySequence"] * 9)
    answer = await search_site.get(f"/studies?{path}=1.2")
    assert answer.status == 400
    assert "expected a path of at most 8 attributes" in answer.detail


async def test_a_query_of_sixty_thousand_characters_is_answered(
    search_site: RetrieveSite,
) -> None:
    answer = await search_site.get("/studies?Unknown=" + "x" * 60_000)
    assert answer.status == 200
    assert len(answer.json) == EVERY_STUDY


# H5: what nobody understands is ignored, however much it is
@pytest.mark.parametrize(
    "accept",
    [
        ",".join(["image/x"] * 4000),
        ";" * 50_000,
        "a" * 50_000,
        "," * 50_000,
        '"' * 50_000,
        "application/dicom;" + " " * 50_000 + "x",
        'application/dicom;a="' + "\\" * 50_000,
        "text/html;q=2,application/dicom;q=nan",
    ],
)
async def test_an_accept_header_of_nonsense_names_nothing_that_is_available(
    search_site: RetrieveSite, accept: str
) -> None:
    answer = await search_site.get("/studies", accept)
    assert answer.status == 406
    assert answer.json["available"]


async def test_an_accept_header_of_100_kilobytes_is_refused(search_site: RetrieveSite) -> None:
    # Too large, unless it arrived whole: then it has been paid for, and names nothing there is.
    answer = await search_site.get("/studies", "image/x," * 12_500)
    assert answer.status in {406, 431}


async def test_a_url_of_100_kilobytes_is_refused(search_site: RetrieveSite) -> None:
    answer = await search_site.get("/studies?Unknown=" + "x" * 100_000)
    assert answer.status in {400, 414, 431}


async def test_a_search_that_has_to_look_at_too_much_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Q25: 413, and what would help
    limited = partial(Search, scan_limit=250)
    monkeypatch.setattr("imaging_ingestion.dicomweb.qido.Search", limited)
    async with retrieve_site(tmp_path) as site:
        made = [data_set(StudyInstanceUID="1.2", SeriesInstanceUID="1.2.1") for _ in range(300)]
        await site.database.write(record, *made)
        answer = await site.get("/instances?ImageComments=rare")
        assert answer.status == 413
        assert "more than 250 data sets: add a key that is kept in an index" in answer.detail
        assert (await site.get("/instances?PatientID=rare")).status == 204
