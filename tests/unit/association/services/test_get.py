"""C-GET: instances come back on the association that asks, as they were stored (C26)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from identifiers import decoded, encoded, keys
from instances import with_uids
from query_site import QuerySite, query_site
from recorded import CT_IMAGE_STORAGE, data_set, part10
from storage_peers import EXPLICIT, Collector, get_proposals, numbers

from imaging_ingestion.association.association import Answer, Association
from imaging_ingestion.dicom.scan import scan_bytes
from imaging_ingestion.dimse.command import CGetRequest
from imaging_ingestion.dimse.sop_class import PATIENT_ROOT_GET, STUDY_ROOT_GET
from imaging_ingestion.intake import IntakeRefused

CT_KIND = (CT_IMAGE_STORAGE, EXPLICIT)
DEFLATED = "1.2.840.10008.1.2.1.99"


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[QuerySite]:
    async with query_site(tmp_path) as found:
        yield found


async def associate(
    site: QuerySite,
    collector: Collector,
    kinds: list[tuple[str, str]] | None = None,
    *,
    sop_class: str = STUDY_ROOT_GET,
    as_scp: bool = True,
) -> Association:
    chosen = [CT_KIND] if kinds is None else kinds
    services = dict.fromkeys({uid for uid, _ in chosen}, collector)
    proposals = get_proposals(sop_class, chosen, as_scp=as_scp)
    return await site.call(*proposals, services=services)


async def get(
    association: Association, *, sop_class: str = STUDY_ROOT_GET, priority: int = 0, **wanted: Any
) -> list[Answer]:
    """Every response, in order."""
    context = association.agreement.context_for(sop_class)
    assert context is not None
    request = CGetRequest(message_id=0, affected_sop_class_uid=sop_class, priority=priority)
    identifier = encoded(keys(**wanted), context.transfer_syntax)
    return [answer async for answer in association.request(context.context_id, request, identifier)]


async def store(site: QuerySite, number: int, **attributes: Any) -> list[str]:
    """Instances 1.2.<number> of the CT study 1.1; their UIDs."""
    uids = [f"1.2.{index}" for index in range(1, number + 1)]
    for uid in uids:
        made = data_set(
            StudyInstanceUID="1.1", SeriesInstanceUID="1.1.1", SOPInstanceUID=uid, **attributes
        )
        await site.site.store(part10(made))
    return uids


def data_set_of(file: bytes) -> bytes:
    return file[scan_bytes(file).dataset_offset :]


async def test_every_real_file_comes_back_with_the_bytes_of_its_data_set(  # C8, C22, C26
    site: QuerySite, dicom_files: list[Path]
) -> None:
    stored: dict[str, bytes] = {}
    kinds: set[tuple[str, str]] = set()
    for number, path in enumerate(dicom_files):
        content = path.read_bytes()
        if len(content) > 4 << 20:
            continue
        try:
            received = await site.site.store(content)
        except IntakeRefused:
            continue  # no DICOM, or no UIDs: the tests of the intake tell which
        header = scan_bytes(content)
        stored[received.sop_instance_uid] = content
        kinds.add((received.sop_class_uid, header.transfer_syntax_uid))
        assert number < 5000
    assert len(stored) > 100
    collector = Collector()
    ordered = sorted(kinds)
    arrived: dict[str, bytes] = {}
    for start in range(0, len(ordered), 100):
        association = await associate(site, collector, ordered[start : start + 100])
        answers = await get(
            association,
            QueryRetrieveLevel="STUDY",
            StudyInstanceUID=sorted({study_of(content) for content in stored.values()}),
        )
        await association.release()
        _, completed, failed, warning = numbers(answers[-1].response)
        assert completed + failed == len(stored)
        assert warning == 0
    arrived = {one.request.affected_sop_instance_uid: one.data_set for one in collector.arrived}
    assert arrived.keys() == stored.keys()
    for uid, content in stored.items():
        own = data_set_of(content)
        if len(own) % 2 and scan_bytes(content).transfer_syntax_uid == DEFLATED:
            own += b"\0"  # PS3.5 A.5
        assert arrived[uid] == own, uid


def study_of(content: bytes) -> str:
    return str(scan_bytes(content).text(0x0020000D))


async def test_the_numbers_of_every_response_add_up(site: QuerySite) -> None:  # C19, C26
    uids = await store(site, 4)
    statuses = {1: 0xB000, 2: 0xA700}
    collector = Collector(lambda number, _: statuses.get(number, 0))
    association = await associate(site, collector)
    answers = await get(association, priority=1, QueryRetrieveLevel="STUDY", StudyInstanceUID="1.1")
    assert collector.uids == uids
    assert [one.request.priority for one in collector.arrived] == [1] * 4
    assert {one.request.move_originator_message_id for one in collector.arrived} == {None}
    assert [hex(answer.response.status) for answer in answers] == ["0xff00"] * 3 + ["0xb000"]
    assert [numbers(answer.response) for answer in answers] == [
        (3, 1, 0, 0),
        (2, 1, 0, 1),
        (1, 1, 1, 1),
        (None, 2, 1, 1),
    ]
    assert [answer.data_set for answer in answers[:-1]] == [None] * 3
    assert decoded(answers[-1].data_set or b"").FailedSOPInstanceUIDList == uids[2]
    await association.release()


@pytest.mark.parametrize(
    ("sop_class", "wanted", "arrive"),
    [
        (PATIENT_ROOT_GET, {"QueryRetrieveLevel": "PATIENT", "PatientID": "P1"}, 3),
        (PATIENT_ROOT_GET, {"QueryRetrieveLevel": "PATIENT", "PatientID": "P*"}, 0),
        (
            PATIENT_ROOT_GET,
            {"QueryRetrieveLevel": "STUDY", "PatientID": "P1", "StudyInstanceUID": "1.1"},
            3,
        ),
        (
            PATIENT_ROOT_GET,
            {"QueryRetrieveLevel": "STUDY", "PatientID": "P2", "StudyInstanceUID": "1.1"},
            0,
        ),
        (STUDY_ROOT_GET, {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": ["1.1", "1.9"]}, 3),
        (
            STUDY_ROOT_GET,
            {
                "QueryRetrieveLevel": "SERIES",
                "StudyInstanceUID": "1.1",
                "SeriesInstanceUID": ["1.1.1", "1.1.2"],
            },
            3,
        ),
        (
            STUDY_ROOT_GET,
            {
                "QueryRetrieveLevel": "IMAGE",
                "StudyInstanceUID": "1.1",
                "SeriesInstanceUID": "1.1.1",
                "SOPInstanceUID": ["1.2.1", "1.2.3", "1.2.9"],
            },
            2,
        ),
    ],
)
async def test_each_level_takes_its_unique_keys(  # C25
    site: QuerySite, sop_class: str, wanted: dict[str, Any], arrive: int
) -> None:
    await store(site, 3, PatientID="P1")
    collector = Collector()
    association = await associate(site, collector, sop_class=sop_class)
    answers = await get(association, sop_class=sop_class, **wanted)
    assert len(collector.arrived) == arrive
    assert answers[-1].response.status == 0x0000
    assert numbers(answers[-1].response) == (None, arrive, 0, 0)
    assert answers[-1].data_set is None
    await association.release()


@pytest.mark.parametrize(
    ("wanted", "offending"),
    [
        ({"StudyInstanceUID": "1.1"}, 0x00080052),
        ({"QueryRetrieveLevel": "PATIENT", "PatientID": "P1"}, 0x00080052),
        ({"QueryRetrieveLevel": "STUDY"}, 0x0020000D),
        ({"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": ""}, 0x0020000D),
        ({"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": "*"}, 0x0020000D),
        ({"QueryRetrieveLevel": "SERIES", "SeriesInstanceUID": "1.1.1"}, 0x0020000D),
    ],
)
async def test_an_identifier_that_breaks_the_rules_is_refused(  # C10
    site: QuerySite, wanted: dict[str, str], offending: int
) -> None:
    await store(site, 1)
    collector = Collector()
    association = await associate(site, collector)
    (answer,) = await get(association, **wanted)
    assert answer.response.status == 0xA900
    assert answer.response.offending_element == (offending,)
    assert answer.response.error_comment
    assert collector.arrived == []
    await association.release()


@pytest.mark.parametrize("as_scp", [False, True])
async def test_a_context_that_is_missing_fails_its_instances(  # C26
    site: QuerySite, as_scp: bool
) -> None:
    uids = await store(site, 2)
    collector = Collector()
    other = [("1.2.840.10008.5.1.4.1.1.4", EXPLICIT)]
    association = await associate(site, collector, other if as_scp else [CT_KIND], as_scp=as_scp)
    answers = await get(association, QueryRetrieveLevel="STUDY", StudyInstanceUID="1.1")
    assert answers[-1].response.status == 0xA702
    assert numbers(answers[-1].response) == (None, 0, 2, 0)
    assert decoded(answers[-1].data_set or b"").FailedSOPInstanceUIDList == uids
    assert collector.arrived == []
    await association.release()


async def test_an_instance_whose_object_is_lost_fails(site: QuerySite) -> None:
    uids = await store(site, 3)
    names = [name async for name in site.site.space.names()]
    (lost,) = [name for name in names if uids[1] in name]
    await site.site.space.delete(lost)
    collector = Collector()
    association = await associate(site, collector)
    answers = await get(association, QueryRetrieveLevel="STUDY", StudyInstanceUID="1.1")
    assert answers[-1].response.status == 0xB000
    assert numbers(answers[-1].response) == (None, 2, 1, 0)
    assert decoded(answers[-1].data_set or b"").FailedSOPInstanceUIDList == uids[1]
    await association.release()


async def test_what_is_replaced_or_deleted_on_the_way_is_taken_as_it_is(site: QuerySite) -> None:
    await store(site, 3)

    async def change(number: int) -> None:
        if number == 0:
            newer = data_set(
                StudyInstanceUID="1.1",
                SeriesInstanceUID="1.1.1",
                SOPInstanceUID="1.2.2",
                PatientComments="newer",
            )
            await site.site.store(part10(newer))
            await site.site.delete("1.1", "1.1.1", "1.2.3")

    collector = Collector(before=lambda number, _request: change(number))
    association = await associate(site, collector)
    answers = await get(association, QueryRetrieveLevel="STUDY", StudyInstanceUID="1.1")
    completed, failed = numbers(answers[-1].response)[1:3]
    assert completed + failed == 3
    assert collector.uids[:2] == ["1.2.1", "1.2.2"]
    await association.release()


async def test_a_requestor_that_goes_away_in_the_middle_harms_nobody(site: QuerySite) -> None:
    # A18
    await store(site, 3)

    collector = Collector()
    association = await associate(site, collector)
    began = asyncio.Event()
    collector.before = lambda _number, _request: began.set()
    getting = asyncio.create_task(
        get(association, QueryRetrieveLevel="STUDY", StudyInstanceUID="1.1")
    )
    await asyncio.wait_for(began.wait(), 10)
    await association.abort()
    await asyncio.gather(getting, return_exceptions=True)
    again = await associate(site, Collector())
    answers = await get(again, QueryRetrieveLevel="STUDY", StudyInstanceUID="1.1")
    assert numbers(answers[-1].response) == (None, 3, 0, 0)
    await again.release()


async def test_a_file_without_file_meta_is_sent_from_its_first_byte(
    site: QuerySite, dicom_file
) -> None:
    whole = with_uids(dicom_file("CT_small.dcm"), "1.1", "1.1.1", "1.2.1")
    bare = data_set_of(whole)
    await site.site.store(bare)
    collector = Collector()
    association = await associate(site, collector)
    await get(association, QueryRetrieveLevel="STUDY", StudyInstanceUID="1.1")
    assert [one.data_set for one in collector.arrived] == [bare]
    await association.release()
