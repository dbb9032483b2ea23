"""C-MOVE: instances go to a destination that the site names, whatever the destination does."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from identifiers import decoded, encoded, keys
from instances import with_uids
from platform_process import free_port
from pydicom.dataset import FileMetaDataset
from pydicom.pixels import pixel_array
from query_site import AE_TITLE, QuerySite, listening
from recorded import data_set, part10
from retrieve_site import RetrieveSite, retrieve_site
from storage_peers import EXPLICIT, IMPLICIT, Collector, destination, numbers

from imaging_ingestion.association.association import Answer, AssociationLimits
from imaging_ingestion.association.connect import ConnectSettings
from imaging_ingestion.association.incoming import IncomingRequest
from imaging_ingestion.association.services import move, retrieval
from imaging_ingestion.association.services.destination import Connector, Destination
from imaging_ingestion.dimse.acceptor import AcceptorPolicy
from imaging_ingestion.dimse.command import CMoveRequest
from imaging_ingestion.dimse.requestor import Proposal
from imaging_ingestion.dimse.sop_class import STUDY_ROOT_MOVE
from imaging_ingestion.transcoding.transcoder import Transcoder


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[RetrieveSite]:
    async with retrieve_site(tmp_path) as found:
        yield found


async def store(site: RetrieveSite, number: int, **attributes: Any) -> list[str]:
    """Instances 1.2.<number> of the CT study 1.1; their UIDs."""
    uids = [f"1.2.{index}" for index in range(1, number + 1)]
    for uid in uids:
        made = data_set(
            StudyInstanceUID="1.1", SeriesInstanceUID="1.1.1", SOPInstanceUID=uid, **attributes
        )
        await site.store(part10(made))
    return uids


async def move_study(
    asked: QuerySite, to: str = "WORKSTATION", *, priority: int = 0, study: str = "1.1"
) -> list[Answer]:
    """Every response to C-MOVE of a study, in order."""
    association = await asked.call(Proposal(STUDY_ROOT_MOVE, (EXPLICIT,)))
    context = association.agreement.context_for(STUDY_ROOT_MOVE)
    assert context is not None
    request = CMoveRequest(
        message_id=0,
        affected_sop_class_uid=STUDY_ROOT_MOVE,
        move_destination=to,
        priority=priority,
    )
    identifier = encoded(keys(QueryRetrieveLevel="STUDY", StudyInstanceUID=study))
    answers = [
        answer async for answer in association.request(context.context_id, request, identifier)
    ]
    await association.release()
    return answers


def final(answers: list[Answer]) -> tuple[str, tuple[int | None, ...]]:
    """The final status, and its numbers."""
    return f"{answers[-1].response.status:04X}", numbers(answers[-1].response)


def failed_uids(answers: list[Answer]) -> list[str]:
    data = answers[-1].data_set
    if data is None:
        return []
    value = decoded(data).FailedSOPInstanceUIDList
    return [value] if isinstance(value, str) else list(value)


async def test_instances_arrive_as_they_are_stored_and_say_who_wanted_them(  # C19, C22
    site: RetrieveSite,
) -> None:
    uids = await store(site, 3)
    collector = Collector()
    async with destination(collector) as (workstation, _), listening(site, [workstation]) as asked:
        answers = await move_study(asked, "workstation ", priority=2)
    assert collector.uids == uids
    for one in collector.arrived:
        assert one.request.priority == 2
        assert one.request.move_originator_application_entity_title == "TEST"
        assert one.request.move_originator_message_id == 1
        assert one.transfer_syntax == EXPLICIT
        assert decoded(one.data_set).SOPInstanceUID == one.request.affected_sop_instance_uid
    (association,) = collector.associations
    assert association.agreement.calling_ae_title == AE_TITLE
    assert [numbers(answer.response) for answer in answers] == [
        (2, 1, 0, 0),
        (1, 2, 0, 0),
        (None, 3, 0, 0),
    ]
    assert final(answers)[0] == "0000"
    await asyncio.wait_for(association.closed(), 10)
    assert str(association.end) == "the peer released the association"


async def test_a_destination_that_is_not_named_is_unknown(site: RetrieveSite) -> None:  # C18
    await store(site, 1)
    async with listening(site) as asked:
        (answer,) = await move_study(asked, "NOWHERE")
    assert answer.response.status == 0xA801
    assert "NOWHERE" in (answer.response.error_comment or "")


async def test_nothing_that_matches_needs_no_association(site: RetrieveSite) -> None:  # C25
    async with listening(site, [Destination("WORKSTATION", "127.0.0.1", 1)]) as asked:
        answers = await move_study(asked)
    assert final(answers) == ("0000", (None, 0, 0, 0))
    assert len(answers) == 1


async def test_a_destination_that_is_away_fails_all_at_once(site: RetrieveSite) -> None:
    # C20, C21, C23
    uids = await store(site, 3)
    async with listening(site, [Destination("WORKSTATION", "127.0.0.1", free_port())]) as asked:
        answers = await move_study(asked)
    assert final(answers) == ("A702", (None, 0, 3, 0))
    assert failed_uids(answers) == uids
    assert "no association" in (answers[-1].response.error_comment or "")


async def test_a_destination_that_rejects_us_fails_all_at_once(site: RetrieveSite) -> None:  # C23
    await store(site, 2)
    policy = AcceptorPolicy({}, calling_ae_titles=frozenset({"SOMEBODY"}))
    async with (
        destination(Collector(), policy=policy) as (workstation, _),
        listening(site, [workstation]) as asked,
    ):
        answers = await move_study(asked)
    assert final(answers) == ("A702", (None, 0, 2, 0))


async def test_warnings_and_failures_of_the_destination_are_counted(  # C19, C20, C21, C23
    site: RetrieveSite,
) -> None:
    uids = await store(site, 4)
    statuses = {0: 0xB007, 2: 0xA700, 3: 0xC000}
    collector = Collector(lambda number, _: statuses.get(number, 0))
    async with destination(collector) as (workstation, _), listening(site, [workstation]) as asked:
        answers = await move_study(asked)
    assert [numbers(answer.response) for answer in answers] == [
        (3, 0, 0, 1),
        (2, 1, 0, 1),
        (1, 1, 1, 1),
        (None, 1, 2, 1),
    ]
    assert final(answers)[0] == "B000"
    assert failed_uids(answers) == uids[2:]


async def abort(request: IncomingRequest) -> None:
    await request.association.abort()


async def test_a_destination_that_aborts_once_loses_one_instance(site: RetrieveSite) -> None:
    # C23
    uids = await store(site, 4)
    done: list[int] = []

    def before(number: int, request: IncomingRequest) -> Any:
        if number == 1 and not done:
            done.append(number)
            return abort(request)
        return None

    collector = Collector(before=before)
    async with destination(collector) as (workstation, _), listening(site, [workstation]) as asked:
        answers = await move_study(asked)
    assert final(answers) == ("B000", (None, 3, 1, 0))
    assert failed_uids(answers) == [uids[1]]
    assert collector.uids == [uids[0], *uids[2:]]
    assert len(collector.associations) == 2


async def test_a_destination_that_always_aborts_is_given_up(site: RetrieveSite) -> None:  # C23
    uids = await store(site, 6)
    collector = Collector(before=lambda number, request: abort(request) if number >= 2 else None)
    async with destination(collector) as (workstation, _), listening(site, [workstation]) as asked:
        answers = await move_study(asked)
    assert final(answers) == ("B000", (None, 2, 4, 0))
    assert failed_uids(answers) == uids[2:]
    assert len(collector.associations) == 2


async def test_a_destination_that_never_answers_is_given_up(  # C23
    site: RetrieveSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store(site, 3)
    forever = asyncio.Event()
    collector = Collector(before=lambda number, request: wait(forever))
    impatient = Connector(ConnectSettings(limits=AssociationLimits(response=0.2)))
    async with (
        destination(collector) as (workstation, _),
        listening(site, [workstation], connect=impatient) as asked,
    ):
        answers = await move_study(asked)
    assert final(answers) == ("A702", (None, 0, 3, 0))
    assert "did not answer" in (answers[-1].response.error_comment or "")


async def wait(event: asyncio.Event) -> None:
    await event.wait()


async def test_a_destination_that_does_not_agree_to_the_release_holds_nobody_up(
    site: RetrieveSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store(site, 1)
    monkeypatch.setattr(move, "RELEASE_TIMEOUT", timedelta(seconds=0.1))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await relay(reader, writer, workstation.port)

    collector = Collector()
    async with destination(collector) as (workstation, _):
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with listening(site, [replace(workstation, port=port)]) as asked, server:
            answers = await move_study(asked)
    assert final(answers) == ("0000", (None, 1, 0, 0))


async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
    """Pass everything on but what answers an A-RELEASE-RQ."""
    up_reader, up_writer = await asyncio.open_connection("127.0.0.1", port)

    async def down() -> None:
        while data := await up_reader.read(1 << 16):
            if not data.startswith(b"\x06"):
                writer.write(data)

    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(down())
        try:
            while data := await reader.read(1 << 16):
                up_writer.write(data)
        except ConnectionError:
            pass
        task.cancel()
        up_writer.close()
        writer.close()


async def test_a_transfer_syntax_that_is_refused_fails_its_instances(site: RetrieveSite) -> None:
    # C22
    await store(site, 2)
    collector = Collector()
    async with (
        destination(collector, syntaxes=(IMPLICIT,)) as (workstation, _),
        listening(site, [workstation]) as asked,
    ):
        answers = await move_study(asked)
    assert final(answers) == ("A702", (None, 0, 2, 0))
    assert collector.arrived == []


COMPRESSED = (
    "MR_small_RLE.dcm",
    "MR_small_jp2klossless.dcm",
    "MR_small_jpeg_ls_lossless.dcm",
    "SC_rgb_jpeg_dcmtk.dcm",
    "image_dfl.dcm",
    "MR_small_bigendian.dcm",
)


@pytest.fixture
async def transcoder() -> AsyncIterator[Transcoder]:
    made = Transcoder()
    yield made
    await made.close()


@pytest.mark.parametrize("target", [EXPLICIT, IMPLICIT])
async def test_what_is_refused_is_brought_into_what_is_not(  # C22
    site: RetrieveSite, transcoder: Transcoder, dicom_file, target: str
) -> None:
    stored: dict[str, bytes] = {}
    for number, name in enumerate(COMPRESSED, 1):
        content = with_uids(dicom_file(name), "1.1", "1.1.1", f"1.2.{number}")
        await site.store(content)
        stored[f"1.2.{number}"] = content
    collector = Collector()
    async with (
        destination(collector, syntaxes=(target,)) as (workstation, _),
        listening(site, [workstation], transcoder=transcoder) as asked,
    ):
        answers = await move_study(asked)
    assert final(answers) == ("0000", (None, len(COMPRESSED), 0, 0))
    for one in collector.arrived:
        assert one.transfer_syntax == target
        expected = pydicom.dcmread(io.BytesIO(stored[one.request.affected_sop_instance_uid]))
        found = decoded(one.data_set, target)
        found.file_meta = FileMetaDataset()
        found.file_meta.TransferSyntaxUID = pydicom.uid.UID(target)
        assert found.SOPInstanceUID == expected.SOPInstanceUID
        assert found.PatientName == expected.PatientName
        assert np.array_equal(pixel_array(found, raw=True), pixel_array(expected, raw=True))


async def test_what_cannot_be_brought_into_another_fails_alone(  # C22
    site: RetrieveSite, transcoder: Transcoder, dicom_file
) -> None:
    content = with_uids(dicom_file("MR_small_RLE.dcm"), "1.1", "1.1.1", "1.2.1")
    at = content.rindex(b"\xfe\xff\x00\xe0") + 8
    await site.store(content[:at] + b"\xff" * 64 + content[at + 64 :])  # no RLE header
    await site.store(with_uids(dicom_file("CT_small.dcm"), "1.1", "1.1.1", "1.2.2"))
    collector = Collector()
    async with (
        destination(collector, syntaxes=(IMPLICIT,)) as (workstation, _),
        listening(site, [workstation], transcoder=transcoder) as asked,
    ):
        answers = await move_study(asked)
    assert final(answers) == ("B000", (None, 1, 1, 0))
    assert failed_uids(answers) == ["1.2.1"]
    assert collector.uids == ["1.2.2"]
    assert len(collector.associations) == 1


async def test_an_own_transfer_syntax_goes_before_another(  # C22
    site: RetrieveSite, transcoder: Transcoder
) -> None:
    await store(site, 1)
    collector = Collector()
    async with (
        destination(collector, syntaxes=(IMPLICIT, EXPLICIT)) as (workstation, _),
        listening(site, [workstation], transcoder=transcoder) as asked,
    ):
        await move_study(asked)
    assert [one.transfer_syntax for one in collector.arrived] == [EXPLICIT]


async def test_more_kinds_than_an_association_has_contexts_take_several(  # C22
    site: RetrieveSite,
) -> None:
    number = 140
    for index in range(number):
        made = data_set(
            SOPClassUID=f"1.2.3.{index}",
            StudyInstanceUID="1.1",
            SeriesInstanceUID="1.1.1",
            SOPInstanceUID=f"1.2.{index}",
        )
        await site.store(part10(made))
    collector = Collector()
    async with destination(collector) as (workstation, _), listening(site, [workstation]) as asked:
        answers = await move_study(asked)
    assert final(answers) == ("0000", (None, number, 0, 0))
    assert set(collector.uids) == {f"1.2.{index}" for index in range(number)}
    assert [len(one.agreement.contexts) for one in collector.associations] == [127, 13]


async def test_the_end_of_the_request_ends_the_sub_operations(site: RetrieveSite) -> None:  # A18
    await store(site, 5)
    began, go_on = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        began.set()
        await go_on.wait()

    collector = Collector(before=lambda number, request: hold())
    async with destination(collector) as (workstation, _), listening(site, [workstation]) as asked:
        association = await asked.call(Proposal(STUDY_ROOT_MOVE, (EXPLICIT,)))
        context = association.agreement.context_for(STUDY_ROOT_MOVE)
        assert context is not None
        request = CMoveRequest(
            message_id=0,
            affected_sop_class_uid=STUDY_ROOT_MOVE,
            move_destination="WORKSTATION",
        )
        identifier = encoded(keys(QueryRetrieveLevel="STUDY", StudyInstanceUID="1.1"))
        answers = association.request(context.context_id, request, identifier)
        moving = asyncio.create_task(anext(answers))
        await asyncio.wait_for(began.wait(), 10)
        await association.abort()
        await asyncio.gather(moving, return_exceptions=True)
        (sub_association,) = collector.associations
        await asyncio.wait_for(sub_association.closed(), 10)
        assert "aborted" in str(sub_association.end)
        go_on.set()
    assert len(collector.arrived) <= 1


async def test_an_instance_that_has_become_another_kind_is_counted(site: RetrieveSite) -> None:
    uids = await store(site, 3)

    async def replace_second() -> None:
        made = data_set(
            SOPClassUID="1.2.3.4",
            StudyInstanceUID="1.1",
            SeriesInstanceUID="1.1.1",
            SOPInstanceUID=uids[1],
        )
        await site.store(part10(made))

    # The rows are read a page at a time: a page of one, so that each is read when it is its turn.
    collector = Collector(before=lambda number, _: replace_second() if number == 0 else None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retrieval, "_PAGE", 1)
        async with (
            destination(collector) as (workstation, _),
            listening(site, [workstation]) as asked,
        ):
            answers = await move_study(asked)
    assert final(answers) == ("B000", (None, 2, 1, 0))
    assert failed_uids(answers) == [uids[1]]


async def test_a_destination_with_tls_needs_it_to_be_configured(site: RetrieveSite) -> None:
    await store(site, 1)
    async with listening(site, [Destination("SAFE", "127.0.0.1", 2762, tls=True)]) as asked:
        answers = await move_study(asked, "SAFE")
    assert final(answers) == ("A702", (None, 0, 1, 0))
    assert "TLS" in (answers[-1].response.error_comment or "")
