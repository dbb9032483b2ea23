"""QIDO-RS over HTTP: what the keys of a search find (PS3.18 8.3.4.1, PS3.4 C.2.2.2)."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from retrieve_site import RetrieveSite
from search_site import ODD_CHARACTERS, found, uid_of

pytestmark = pytest.mark.asyncio(loop_scope="session")

EVERY_STUDY = set("ABCDE")


# Q33
@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("StudyDate=20200115", "A"),
        ("StudyTime=103000.5", "A"),
        ("AccessionNumber=ACC2", "B"),
        ("ModalitiesInStudy=US", "D"),
        ("ReferringPhysicianName=House%5EGregory", "A"),
        ("PatientName=Smith%5EJohn", "A"),
        ("PatientID=P3", "C"),
        (f"StudyInstanceUID={uid_of('D')}", "D"),
        ("StudyID=S2", "B"),
        # Beyond those required: in columns, and not.
        ("PatientSex=M", "A"),
        ("PatientBirthDate=19600229", "A"),
        ("StudyDescription=Knee", "B"),
        ("PatientWeight=70.5", "A"),
        ("NumberOfStudyRelatedInstances=3", "A"),
        ("NumberOfStudyRelatedSeries=2", "A"),
    ],
)
async def test_each_key_of_the_study_level_matches(
    search_site: RetrieveSite, query: str, expected: str
) -> None:
    assert await found(search_site, query) == set(expected)


# Q33
@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("Modality=SR", {"A2"}),
        (f"SeriesInstanceUID={uid_of('B1')}", {"B1"}),
        ("SeriesNumber=1", {"A1"}),
        ("PerformedProcedureStepStartDate=20200101-20200131", {"A1"}),
        ("PerformedProcedureStepStartTime=10", {"A1"}),
        ("RequestAttributesSequence.RequestedProcedureID=R2", {"A1"}),
        ("RequestAttributesSequence.ScheduledProcedureStepID=STEP1", {"A1"}),
        ("SeriesDescription=Ax*", {"A1"}),
        ("BodyPartExamined=HEAD", {"A1"}),
        ("NumberOfSeriesRelatedInstances=2", {"A1"}),
        ("PatientID=P1&Modality=CT", {"A1"}),  # and the keys of the study above
    ],
)
async def test_each_key_of_the_series_level_matches(
    search_site: RetrieveSite, query: str, expected: set[str]
) -> None:
    assert await found(search_site, query, "/series") == expected


# Q33
@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("SOPClassUID=1.2.840.10008.5.1.4.1.1.6.1", {"D1.1"}),
        (f"SOPInstanceUID={uid_of('A1.2')}", {"A1.2"}),
        ("InstanceNumber=2", {"A1.2"}),
        ("InstanceNumber=1&Modality=MR", {"B1.1"}),  # "01" is 1
        ("Rows=512", {"A1.1", "A1.2"}),
        ("Columns=256&NumberOfFrames=2", {"A1.1"}),
        ("ImageComments=%C3%9Cber*", {"D1.1"}),
        ("PatientName=Smith*&SeriesNumber=2&InstanceNumber=1", {"A2.1"}),
    ],
)
async def test_each_key_of_the_instance_level_matches(
    search_site: RetrieveSite, query: str, expected: set[str]
) -> None:
    assert await found(search_site, query, "/instances") == expected


# Q5
@pytest.mark.parametrize("name", ["PatientID", "00100020"])
async def test_a_keyword_and_its_tag_are_the_same_key(search_site: RetrieveSite, name: str) -> None:
    assert await found(search_site, f"{name}=P1") == {"A"}


async def test_a_keyword_is_case_sensitive_and_a_tag_is_not(search_site: RetrieveSite) -> None:
    # Q5, Q7
    answer = await search_site.get("/studies?patientid=P1")
    assert len(answer.json) == len(EVERY_STUDY)
    assert answer.warnings == [
        "The following parameters are not supported here and have been ignored: patientid"
    ]
    assert await found(search_site, "0020000d=" + uid_of("C")) == {"C"}


# Q6
@pytest.mark.parametrize(
    "path",
    [
        "RequestAttributesSequence.RequestedProcedureID",
        "00400275.00401001",
        "00400275.RequestedProcedureID",
    ],
)
async def test_a_key_may_reach_into_the_items_of_a_sequence(
    search_site: RetrieveSite, path: str
) -> None:
    assert await found(search_site, f"{path}=R1", "/series") == {"A1"}
    assert await found(search_site, f"{path}=R3", "/series") == set()


async def test_two_keys_into_a_sequence_are_satisfied_by_one_item(
    search_site: RetrieveSite,
) -> None:
    # Q6 (PS3.4 C.2.2.2.6)
    step = "00400275.00400009"
    assert await found(search_site, f"00400275.00401001=R1&{step}=STEP1", "/series") == {"A1"}
    assert await found(search_site, f"00400275.00401001=R1&{step}=STEP2", "/series") == set()


# Q9
@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("PatientID=P1", "A"),
        ("PatientID=p1", "B"),
        ("PatientID=P", ""),
        ("PatientID=P1%20%20", "A"),
        ("PatientID=%20P1", "A"),
        ("PatientID=P%204", "D"),
        ("PatientID=P+4", "D"),
        ("StudyDescription=head+and+neck", ""),
        ("PatientName=smith%5Ejohn", "A"),
        ("PatientName=SMITH%5EJOHN", "A"),
    ],
)
async def test_a_single_value_is_compared_exactly_but_for_names_and_blanks_at_the_ends(
    search_site: RetrieveSite, query: str, expected: str
) -> None:
    assert await found(search_site, query) == set(expected)


# Q10
@pytest.mark.parametrize("query", ["PatientComments=", "PatientComments=*", "00104000="])
async def test_an_empty_value_matches_everything_and_returns_the_attribute(
    search_site: RetrieveSite, query: str
) -> None:
    results = await search_site.search(f"/studies?{query}")
    assert len(results) == len(EVERY_STUDY)
    assert [result["00104000"].get("Value") for result in results].count(None) == 4


# Q11
@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("PatientID=P*", "ACD"),
        ("PatientID=?1", "AB"),
        ("PatientID=*1", "AB"),
        ("PatientID=*", "ABCDE"),
        ("PatientID=P?4", "D"),
        ("PatientID=??????*", "E"),
        ("PatientName=Sm*", "AB"),
        ("PatientName=*john*", "A"),
        ("PatientName=s*th%5Ej???", "AB"),
        ("AccessionNumber=ACC?", "AB"),
        ("AccessionNumber=*", "ABCDE"),
        ("StudyDescription=*n*", "AB"),
        ("ReferringPhysicianName=h*", "A"),
        ("PatientComments=likes*", "A"),
        ("ModalitiesInStudy=?R", "ABE"),
    ],
)
async def test_wildcards_stand_for_other_characters(
    search_site: RetrieveSite, query: str, expected: str
) -> None:
    assert await found(search_site, query) == set(expected)


# Q11
@pytest.mark.parametrize(
    "query",
    [
        "StudyDate=2020*",
        "StudyTime=10*",
        "StudyInstanceUID=1.2.*",
        "PatientWeight=7*",
        "NumberOfStudyRelatedSeries=?",
    ],
)
async def test_a_wildcard_where_the_vr_has_none_is_a_bad_value(
    search_site: RetrieveSite, query: str
) -> None:
    answer = await search_site.get(f"/studies?{query}")
    assert answer.status == 400
    name = query.partition("=")[0]
    assert answer.detail.startswith(f"the parameter {name}: expected ")


# Q12
@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (f"PatientID={quote(ODD_CHARACTERS)}", "E"),
        ("PatientID=%25", ""),
        ("PatientID=_1", ""),
        ("PatientID=100%25*", "E"),
        ("PatientID=100_*", ""),
        ("PatientID=%5BP%5D1", ""),
        ("PatientID=.1", ""),
        ("PatientID=*%5C*", ""),
        ("PatientID=%27%20OR%20%271%27=%271", ""),
        ("PatientID=x%27;DROP%20TABLE%20study;--", ""),
        ("StudyDescription=100%25*%5Ba-z%5D", "E"),
        ("StudyDescription=*%25*", "E"),
    ],
)
async def test_characters_that_other_languages_use_mean_themselves(
    search_site: RetrieveSite, query: str, expected: str
) -> None:
    assert await found(search_site, query) == set(expected)
    assert await found(search_site, "") == EVERY_STUDY


# Q12
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Müller^Jörg", "D"),  # ISO_IR 100
        ("müller^*", "D"),
        ("Mu\u0308ller^Jo\u0308rg", "D"),  # the same, decomposed
        ("Иванов^Иван", "E"),  # ISO_IR 144
        ("иван*", "E"),
        ("山田^太郎", "C"),  # ISO 2022 IR 87
        ("*太*", "C"),
        ("Yamada^Tarou=山田^太郎", "C"),
        ("Yamada^Tarou=山田^次郎", ""),
        ("やまだ*", "C"),
    ],
)
async def test_names_in_utf_8_match_whatever_their_character_set_was(
    search_site: RetrieveSite, name: str, expected: str
) -> None:
    assert await found(search_site, f"PatientName={quote(name)}") == set(expected)


# Q13
@pytest.mark.parametrize("separator", [",", "%2C", "%5C", ",%20"])
async def test_a_list_of_uids_finds_each(search_site: RetrieveSite, separator: str) -> None:
    query = f"StudyInstanceUID={uid_of('A')}{separator}{uid_of('D')}{separator}1.2.3"
    assert await found(search_site, query) == {"A", "D"}
    series = f"SeriesInstanceUID={uid_of('A1')}{separator}{uid_of('D1')}"
    assert await found(search_site, series, "/series") == {"A1", "D1"}


# Q14
@pytest.mark.parametrize(
    ("dates", "expected"),
    [
        ("20200115", "A"),
        ("20200101-20200131", "AB"),
        ("20200115-20200115", "A"),
        ("20200131-", "BE"),
        ("-20200115", "AD"),
        ("-19000101", ""),
    ],
)
async def test_a_range_of_dates_has_both_its_ends(
    search_site: RetrieveSite, dates: str, expected: str
) -> None:
    assert await found(search_site, f"StudyDate={dates}") == set(expected)


# Q14
@pytest.mark.parametrize(
    "dates",
    [
        "2020-01-01",
        "20200131-20200101",
        "20201301",
        "20200230",
        "2020011",
        "202001155",
        "-",
        "--",
        "20200101-20200102-20200103",
        "today",
        "２０２００１１５",  # noqa: RUF001 - digits, but not those of DICOM
    ],
)
async def test_what_is_no_date_or_no_range_is_a_bad_value(
    search_site: RetrieveSite, dates: str
) -> None:
    answer = await search_site.get(f"/studies?StudyDate={quote(dates)}")
    assert answer.status == 400
    assert answer.detail.startswith("the parameter StudyDate: expected a ")


# Q15
@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ("10", "AD"),  # any time of that hour, and the value that says no more than the hour
        ("1030", "A"),
        ("103000", "A"),
        ("103000.5", "A"),
        ("103000.500000", "A"),
        ("103000.6", ""),
        ("10-1029", "D"),
        ("1030-", "AB"),
        ("-10", "ADE"),
        ("2359-235959", "B"),
        ("00-00", "E"),
    ],
)
async def test_times_are_compared_by_the_precision_given(
    search_site: RetrieveSite, times: str, expected: str
) -> None:
    assert await found(search_site, f"StudyTime={times}") == set(expected)


# Q15
@pytest.mark.parametrize("times", ["24", "1060", "10:30", "2300-0100", "1", "noon"])
async def test_what_is_no_time_is_a_bad_value(search_site: RetrieveSite, times: str) -> None:
    answer = await search_site.get(f"/studies?StudyTime={times}")
    assert answer.status == 400
    assert answer.detail.startswith("the parameter StudyTime: expected a ")


# Q16
@pytest.mark.parametrize(
    ("dates", "times", "expected"),
    [
        # One range from a moment on the first day to a moment on the last (C.2.2.2.5.4).
        ("20200115-20200131", "1100-2300", ""),
        ("20200115-20200131", "1000-2300", "A"),
        ("20200114-20200131", "1100-2359", "AB"),
        ("20200131-20200201", "1200-0030", "BE"),
        ("20200115-", "1031-", "BE"),
        # A single date with a range of times is a question for that day.
        ("20200115", "1000-1100", "A"),
        ("20200115", "1100-1200", ""),
    ],
)
async def test_a_range_of_dates_and_one_of_times_are_one_range(
    search_site: RetrieveSite, dates: str, times: str, expected: str
) -> None:
    assert await found(search_site, f"StudyDate={dates}&StudyTime={times}") == set(expected)


# Q17
@pytest.mark.parametrize(
    ("query", "expected"),
    [
        # B is of 31 January 23:59 at +0900, which is 14:59 in UTC.
        ("StudyDate=20200131&StudyTime=1459&TimezoneOffsetFromUTC=%2B0000", "B"),
        ("StudyDate=20200131&StudyTime=2359&TimezoneOffsetFromUTC=%2B0000", ""),
        ("StudyDate=20200201&StudyTime=0059&TimezoneOffsetFromUTC=%2B1000", "B"),
        ("StudyDate=20200201&TimezoneOffsetFromUTC=%2B1000", "BE"),  # E does not tell its zone
        ("StudyDate=20200131&StudyTime=2359&TimezoneOffsetFromUTC=%2B0900", "B"),
        ("StudyDate=20200131&StudyTime=0959&TimezoneOffsetFromUTC=-0500", "B"),
        # A plus sign that was not encoded arrives as a blank.
        ("StudyDate=20200131&StudyTime=1459&TimezoneOffsetFromUTC=+0000", "B"),
    ],
)
async def test_the_offset_of_the_request_tells_the_zone_of_its_dates_and_times(
    search_site: RetrieveSite, query: str, expected: str
) -> None:
    assert await found(search_site, query) == set(expected)


async def test_an_offset_that_is_none_is_a_bad_value(search_site: RetrieveSite) -> None:
    # Q17
    answer = await search_site.get("/studies?TimezoneOffsetFromUTC=1500")
    assert answer.status == 400
    assert answer.detail.startswith("the parameter TimezoneOffsetFromUTC: expected an offset")


async def test_fuzzy_matching_is_literal_and_a_warning_says_so(search_site: RetrieveSite) -> None:
    # Q18
    answer = await search_site.get("/studies?PatientName=John%5ESmith&fuzzymatching=true")
    assert answer.json == []
    assert answer.warnings == [
        "The fuzzymatching parameter is not supported. Only literal matching has been performed."
    ]
    for answer in (
        await search_site.get("/studies?PatientName=Smith%5EJohn&fuzzymatching=false"),
        await search_site.get("/studies?PatientName=Smith%5EJohn"),
    ):
        assert len(answer.json) == 1
        assert answer.warnings == []


# Q19
@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("AccessionNumber=%22%22&emptyvaluematching=true", "CDE"),
        ("PatientComments=%22%22&emptyvaluematching=true", "BCDE"),
        ("AccessionNumber=%22%22", ""),
        ("AccessionNumber=ACC1%5CACC2&multiplevaluematching=true", "AB"),
        ("PatientID=P1%5CP3%5C100*&multiplevaluematching=true", "ACE"),
        ("PatientName=Smith*%5CM%C3%BCller*&multiplevaluematching=true", "ABD"),
        ("ModalitiesInStudy=SR%5CUS&multiplevaluematching=true", "AD"),
        ("StudyDate=20200115%5C20200131-&multiplevaluematching=true", "ABE"),
        ("PatientComments=likes*%5Cx&multiplevaluematching=true", "A"),
        ("AccessionNumber=ACC1%5CACC2", ""),
    ],
)
async def test_empty_and_multiple_value_matching_are_done_where_asked_for(
    search_site: RetrieveSite, query: str, expected: str
) -> None:
    answer = await search_site.get(f"/studies?{query}")
    assert answer.warnings == []
    assert await found(search_site, query) == set(expected)


# Q20
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("SMITH", ""),
        ("SMITH*", "AB"),
        ("Smith^John", "A"),
        ("Smith^John^^^", "A"),
        ("Yamada^Tarou", "C"),
        ("Yamada", ""),
    ],
)
async def test_a_name_without_its_other_components_is_another_name(
    search_site: RetrieveSite, name: str, expected: str
) -> None:
    assert await found(search_site, f"PatientName={quote(name)}") == set(expected)


async def test_modalities_in_study_finds_any_and_returns_all(search_site: RetrieveSite) -> None:
    # Q21
    assert await found(search_site, "ModalitiesInStudy=CT") == {"A", "C"}
    (result,) = await search_site.search("/studies?ModalitiesInStudy=SR")
    assert result["00080061"] == {"vr": "CS", "Value": ["CT", "SR"]}


# Q34
@pytest.mark.parametrize(
    ("resource", "query", "ignored"),
    [
        ("/studies/{A}/series", "PatientName=Nobody", "PatientName"),
        ("/studies/{A}/instances", "StudyDate=19000101", "StudyDate"),
        ("/studies/{A}/series/{A1}/instances", "Modality=XX", "Modality"),
        ("/studies", "Modality=XX", "Modality"),
        ("/studies", "SOPClassUID=1.2", "SOPClassUID"),
        ("/series", "InstanceNumber=77", "InstanceNumber"),
        ("/studies", "NoSuchKeyword=77", "NoSuchKeyword"),  # Q7, H10
        ("/studies", "RetrieveURL=77", "RetrieveURL"),
    ],
)
async def test_a_key_that_the_resource_cannot_match_is_ignored_with_a_warning(
    search_site: RetrieveSite, resource: str, query: str, ignored: str
) -> None:
    path = resource.format(A=uid_of("A"), A1=uid_of("A1"))
    answer = await search_site.get(f"{path}?{query}")
    everything = await search_site.get(path)
    assert answer.status == 200
    assert answer.body == everything.body
    assert answer.warnings == [
        f"The following parameters are not supported here and have been ignored: {ignored}"
    ]


async def test_private_attributes_match_in_the_block_of_their_creator(
    search_site: RetrieveSite,
) -> None:
    # Q36: wherever the creator's block is, and only there
    query = "00230010=AcmeCompany&00231001="
    assert await found(search_site, query + "x", "/instances") == {"A1.1"}
    assert await found(search_site, query + "y", "/instances") == {"B1.1"}
    assert await found(search_site, "00230010=Other&00231001=x", "/instances") == {"B1.1"}
    assert await found(search_site, query + "z", "/instances") == set()


async def test_a_private_attribute_without_its_creator_is_a_bad_request(
    search_site: RetrieveSite,
) -> None:
    # Q36
    answer = await search_site.get("/instances?00231001=x")
    assert answer.status == 400
    assert "its private creator, 00230010, as a key beside it" in answer.detail
