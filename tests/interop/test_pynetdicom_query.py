"""pynetdicom queries and retrieves, and is the destination of what we send (C9 to C26)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from identifiers import keys
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, build_role, evt
from pynetdicom.pdu_primitives import SOPClassExtendedNegotiation
from pynetdicom.sop_class import (
    CTImageStorage,
    MRImageStorage,
    PatientRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)
from query_site import AE_TITLE, QuerySite, listening
from recorded import data_set, part10
from retrieve_site import RetrieveSite, retrieve_site

from imaging_ingestion.association.services.destination import Destination

FIND, GET, MOVE = (
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)
PLAIN = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]
STUDY = {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": "1.1"}
Responses = list[tuple[Dataset, Dataset | None]]


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[RetrieveSite]:
    async with retrieve_site(tmp_path) as found:
        yield found


async def store(site: RetrieveSite, number: int, study: str = "1.1", **attributes: Any) -> None:
    """CT instances <study>.1.<number> of one series of the study."""
    for index in range(1, number + 1):
        made = data_set(
            StudyInstanceUID=study,
            SeriesInstanceUID=f"{study}.1",
            SOPInstanceUID=f"{study}.1.{index}",
            **attributes,
        )
        await site.store(part10(made))


@contextmanager
def associated(asked: QuerySite, sop_class: str, **how: Any) -> Iterator[tuple[AE, Any]]:
    ae = AE("TEST")
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 30
    ae.add_requested_context(sop_class, PLAIN)
    for storage in how.pop("storage", ()):
        ae.add_requested_context(storage, PLAIN)
    association = ae.associate("127.0.0.1", asked.port, ae_title=AE_TITLE, **how)
    assert association.is_established
    try:
        yield ae, association
    finally:
        association.release()


def responses(found: Any) -> Responses:
    return list(found)


def numbers(status: Dataset) -> tuple[int | None, ...]:
    return tuple(
        status.get(f"NumberOf{name}Suboperations")
        for name in ("Remaining", "Completed", "Failed", "Warning")
    )


def find(
    asked: QuerySite, query: Dataset, sop_class: str = FIND, options: bytes = b""
) -> Responses:
    item = SOPClassExtendedNegotiation()
    item.sop_class_uid = sop_class
    item.service_class_application_information = options
    with associated(asked, sop_class, ext_neg=[item] if options else []) as (_, association):
        if options:
            (answer,) = association.acceptor.sop_class_extended.values()
            assert len(answer) <= len(options)
        return responses(association.send_c_find(query, sop_class))


async def test_a_find_is_answered_by_pending_responses_and_a_final_one(  # C11, C12
    site: RetrieveSite,
) -> None:
    await store(site, 1, PatientName="Müller^Jörg", PatientID="P1")
    async with listening(site) as asked:
        query = keys(**STUDY, PatientName="", PatientID="", AccessionNumber="")
        found = await asyncio.to_thread(find, asked, query)
    assert [status.Status for status, _ in found] == [0xFF00, 0x0000]
    identifier, nothing = found[0][1], found[1][1]
    assert nothing is None
    assert identifier is not None
    assert {element.keyword for element in identifier} == {
        "SpecificCharacterSet",
        "QueryRetrieveLevel",
        "RetrieveAETitle",
        "InstanceAvailability",
        "AccessionNumber",
        "PatientName",
        "PatientID",
        "StudyInstanceUID",
    }
    assert identifier.PatientName == "Müller^Jörg"
    assert identifier.AccessionNumber == ""


async def test_relational_queries_have_to_be_negotiated(site: RetrieveSite) -> None:  # C10, A12
    await store(site, 2)
    query = keys(QueryRetrieveLevel="IMAGE", SOPInstanceUID="1.1.1.2")
    async with listening(site) as asked:
        refused = await asyncio.to_thread(find, asked, query)
        found = await asyncio.to_thread(find, asked, query, FIND, b"\1")
    assert [status.Status for status, _ in refused] == [0xA900]
    assert [status.Status for status, _ in found] == [0xFF00, 0x0000]
    assert found[0][1].StudyInstanceUID == "1.1"


async def test_the_zone_of_a_query_is_adjusted_where_that_is_agreed(site: RetrieveSite) -> None:
    # A12
    await store(site, 1, StudyDate="20200115", StudyTime="2330", TimezoneOffsetFromUTC="+0000")
    query = keys(QueryRetrieveLevel="STUDY", StudyDate="20200116", TimezoneOffsetFromUTC="+0900")
    async with listening(site) as asked:
        unadjusted = await asyncio.to_thread(find, asked, query)
        adjusted = await asyncio.to_thread(find, asked, query, FIND, b"\1\1\0\1")
    assert [status.Status for status, _ in unadjusted] == [0x0000]
    assert [status.Status for status, _ in adjusted] == [0xFF00, 0x0000]
    assert adjusted[0][1].TimezoneOffsetFromUTC == "+0000"


async def test_patients_are_found_by_both_ends(site: RetrieveSite) -> None:  # C9
    await store(site, 1, "1.1", PatientID="P1", PatientName="Smith^John")
    await store(site, 2, "1.2", PatientID="P1", PatientName="Smith^John")
    query = keys(
        QueryRetrieveLevel="PATIENT",
        PatientID="P*",
        PatientName="",
        NumberOfPatientRelatedStudies="",
        NumberOfPatientRelatedSeries="",
        NumberOfPatientRelatedInstances="",
    )
    async with listening(site) as asked:
        model = PatientRootQueryRetrieveInformationModelFind
        found = await asyncio.to_thread(find, asked, query, model)
        wrong = await asyncio.to_thread(find, asked, query)
    ((_, patient), (last, _)) = found
    assert last.Status == 0x0000
    assert patient is not None
    assert (
        patient.PatientName,
        patient.NumberOfPatientRelatedStudies,
        patient.NumberOfPatientRelatedSeries,
        patient.NumberOfPatientRelatedInstances,
    ) == ("Smith^John", 2, 2, 3)
    assert [status.Status for status, _ in wrong] == [0xA900]
    assert wrong[0][0].OffendingElement == 0x00080052


async def test_a_cancelled_find_ends_before_its_results(site: RetrieveSite) -> None:  # C15
    for number in range(1, 600):
        made = data_set(
            StudyInstanceUID=f"1.{number}",
            SeriesInstanceUID=f"2.{number}",
            SOPInstanceUID=f"3.{number}",
        )
        await site.store(part10(made))

    def ask(asked: QuerySite) -> list[int]:
        with associated(asked, FIND) as (_, association):
            found = []
            for status, _ in association.send_c_find(
                keys(QueryRetrieveLevel="STUDY", StudyInstanceUID=""), FIND, msg_id=7
            ):
                found.append(status.Status)
                if len(found) == 3:
                    association.send_c_cancel(7, query_model=FIND)
                if len(found) >= 3:
                    time.sleep(0.002)  # a requestor that takes its time
            again = responses(
                association.send_c_find(
                    keys(QueryRetrieveLevel="STUDY", StudyInstanceUID="1.5"), FIND
                )
            )
            assert [status.Status for status, _ in again] == [0xFF00, 0x0000]
            return found

    async with listening(site) as asked:
        found = await asyncio.to_thread(ask, asked)
    assert found[-1] == 0xFE00
    assert len(found) < 600


async def test_a_cancel_after_the_end_is_ignored(site: RetrieveSite) -> None:  # C15
    await store(site, 1)

    def ask(asked: QuerySite) -> None:
        with associated(asked, FIND) as (_, association):
            for _ in range(2):
                found = responses(association.send_c_find(keys(**STUDY), FIND, msg_id=7))
                assert [status.Status for status, _ in found] == [0xFF00, 0x0000]
                association.send_c_cancel(7, query_model=FIND)

    async with listening(site) as asked:
        await asyncio.to_thread(ask, asked)


class StorageScp:
    """pynetdicom's storage SCP as a destination; `answer` makes the status of each instance."""

    def __init__(self, answer: Callable[[int, Any], int] = lambda number, event: 0) -> None:
        self.answer = answer
        self.events: list[tuple[str, Any, Any]] = []
        self.associations = 0

    def on_store(self, event: Any) -> int:
        status = self.answer(len(self.events), event)
        request = event.request
        self.events.append(
            (
                request.AffectedSOPInstanceUID,
                request.MoveOriginatorApplicationEntityTitle,
                request.MoveOriginatorMessageID,
            )
        )
        return status

    def on_accepted(self, event: Any) -> None:
        self.associations += 1

    @property
    def uids(self) -> list[str]:
        return [uid for uid, _, _ in self.events]


@contextmanager
def storage_scp(
    scp: StorageScp, contexts: tuple[str, ...] = (CTImageStorage, MRImageStorage)
) -> Iterator[Destination]:
    ae = AE("PYNETDICOM")
    for uid in contexts:
        ae.add_supported_context(uid, PLAIN)
    handlers = [(evt.EVT_C_STORE, scp.on_store), (evt.EVT_ACCEPTED, scp.on_accepted)]
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    try:
        yield Destination("PYNETDICOM", "127.0.0.1", server.socket.getsockname()[1])
    finally:
        server.shutdown()


def move(asked: QuerySite, query: Dataset, to: str = "PYNETDICOM", cancel_at: int = 0) -> Responses:
    with associated(asked, MOVE) as (_, association):
        found: Responses = []
        for status, identifier in association.send_c_move(query, to, MOVE, msg_id=9, priority=1):
            found.append((status, identifier))
            if len(found) == cancel_at:
                association.send_c_cancel(9, query_model=MOVE)
        return found


def adds_up(found: Responses, total: int) -> bool:
    return all(
        sum(number or 0 for number in numbers(status)) == total
        for status, _ in found
        if status.Status == 0xFF00
    )


async def test_a_move_to_pynetdicom_counts_and_tells_its_originator(  # C19, C22
    site: RetrieveSite,
) -> None:
    await store(site, 4)
    scp = StorageScp()
    with storage_scp(scp) as destination:
        async with listening(site, [destination]) as asked:
            found = await asyncio.to_thread(move, asked, keys(**STUDY))
    assert sorted(scp.uids) == [f"1.1.1.{number}" for number in range(1, 5)]
    assert {(title, message) for _, title, message in scp.events} == {("TEST", 9)}
    assert adds_up(found, 4)
    last, identifier = found[-1]
    assert last.Status == 0x0000
    assert numbers(last) == (None, 4, 0, 0)
    assert identifier is None or len(identifier) == 0


async def test_a_move_to_pynetdicom_that_warns_and_fails(site: RetrieveSite) -> None:
    # C19, C20, C21, C23
    await store(site, 5)
    statuses = {1: 0xB000, 2: 0xA700, 4: 0xC000}
    scp = StorageScp(lambda number, event: statuses.get(number, 0))
    with storage_scp(scp) as destination:
        async with listening(site, [destination]) as asked:
            found = await asyncio.to_thread(move, asked, keys(**STUDY))
    assert adds_up(found, 5)
    last, identifier = found[-1]
    assert last.Status == 0xB000
    assert numbers(last) == (None, 2, 2, 1)
    assert identifier is not None
    assert list(identifier.FailedSOPInstanceUIDList) == [scp.uids[2], scp.uids[4]]


async def test_a_move_to_pynetdicom_that_aborts_in_the_middle(site: RetrieveSite) -> None:  # C23
    await store(site, 4)

    def answer(number: int, event: Any) -> int:
        if number == 1:
            event.assoc.abort()
        return 0

    scp = StorageScp(answer)
    with storage_scp(scp) as destination:
        async with listening(site, [destination]) as asked:
            found = await asyncio.to_thread(move, asked, keys(**STUDY))
    last, identifier = found[-1]
    assert last.Status == 0xB000
    assert numbers(last) == (None, 3, 1, 0)
    assert identifier is not None
    assert identifier.FailedSOPInstanceUIDList == scp.uids[1]
    assert scp.associations == 2
    assert adds_up(found, 4)


async def test_a_move_of_what_pynetdicom_does_not_take(site: RetrieveSite) -> None:  # C20, C22
    await store(site, 2)
    scp = StorageScp()
    with storage_scp(scp, (MRImageStorage,)) as destination:
        async with listening(site, [destination]) as asked:
            found = await asyncio.to_thread(move, asked, keys(**STUDY))
    last, identifier = found[-1]
    assert last.Status == 0xA702
    assert numbers(last) == (None, 0, 2, 0)
    assert identifier is not None
    assert list(identifier.FailedSOPInstanceUIDList) == ["1.1.1.1", "1.1.1.2"]
    assert scp.events == []


async def test_a_cancelled_move_tells_how_far_it_came(site: RetrieveSite) -> None:  # C24
    await store(site, 40)

    def slowly(number: int, event: Any) -> int:
        time.sleep(0.01)
        return 0

    scp = StorageScp(slowly)
    with storage_scp(scp) as destination:
        async with listening(site, [destination]) as asked:
            found = await asyncio.to_thread(move, asked, keys(**STUDY), "PYNETDICOM", 3)
    last, _ = found[-1]
    assert last.Status == 0xFE00
    remaining, completed, failed, warning = numbers(last)
    assert remaining
    assert remaining + completed + failed + warning == 40
    assert len(scp.events) == completed


async def test_a_move_to_nowhere(site: RetrieveSite) -> None:  # C18
    await store(site, 1)
    async with listening(site) as asked:
        found = await asyncio.to_thread(move, asked, keys(**STUDY), "NOWHERE")
    assert [status.Status for status, _ in found] == [0xA801]


def get(
    asked: QuerySite,
    query: Dataset,
    scp: StorageScp,
    *,
    storage: tuple[str, ...] = (CTImageStorage,),
    with_role: bool = True,
    cancel_at: int = 0,
) -> Responses:
    roles = [build_role(uid, scp_role=True) for uid in storage] if with_role else []
    with associated(
        asked,
        GET,
        storage=storage,
        ext_neg=roles,
        evt_handlers=[(evt.EVT_C_STORE, scp.on_store)],
    ) as (_, association):
        found: Responses = []
        for status, identifier in association.send_c_get(query, GET, msg_id=9):
            found.append((status, identifier))
            if len(found) == cancel_at:
                association.send_c_cancel(9, query_model=GET)
        return found


async def test_a_get_sends_on_the_same_association(site: RetrieveSite) -> None:  # C26
    await store(site, 3)
    scp = StorageScp()
    async with listening(site) as asked:
        found = await asyncio.to_thread(get, asked, keys(**STUDY), scp)
    assert sorted(scp.uids) == ["1.1.1.1", "1.1.1.2", "1.1.1.3"]
    assert adds_up(found, 3)
    assert found[-1][0].Status == 0x0000
    assert numbers(found[-1][0]) == (None, 3, 0, 0)


async def test_a_get_of_what_has_no_context_fails(site: RetrieveSite) -> None:  # C26
    await store(site, 1)
    mr = data_set(
        SOPClassUID=MRImageStorage,
        StudyInstanceUID="1.1",
        SeriesInstanceUID="1.1.2",
        SOPInstanceUID="1.1.2.1",
    )
    await site.store(part10(mr))
    scp = StorageScp()
    async with listening(site) as asked:
        found = await asyncio.to_thread(get, asked, keys(**STUDY), scp)
    last, identifier = found[-1]
    assert last.Status == 0xB000
    assert numbers(last) == (None, 1, 1, 0)
    assert identifier is not None
    assert identifier.FailedSOPInstanceUIDList == "1.1.2.1"


async def test_a_get_without_the_role_of_a_provider_fails(site: RetrieveSite) -> None:  # C26, A11
    await store(site, 2)
    scp = StorageScp()
    async with listening(site) as asked:
        found = await asyncio.to_thread(get, asked, keys(**STUDY), scp, with_role=False)
    last, _ = found[-1]
    assert last.Status == 0xA702
    assert numbers(last) == (None, 0, 2, 0)
    assert scp.events == []


async def test_a_cancelled_get_tells_how_far_it_came(site: RetrieveSite) -> None:  # C24, C26
    await store(site, 30)

    def slowly(number: int, event: Any) -> int:
        time.sleep(0.01)
        return 0

    scp = StorageScp(slowly)
    async with listening(site) as asked:
        found = await asyncio.to_thread(get, asked, keys(**STUDY), scp, cancel_at=3)
    last, _ = found[-1]
    assert last.Status == 0xFE00
    remaining, completed, failed, warning = numbers(last)
    assert remaining
    assert remaining + completed + failed + warning == 30
