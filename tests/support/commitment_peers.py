"""Requesters of storage commitment, by pynetdicom."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from identifiers import keys
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.sop_class import StorageCommitmentPushModel, StorageCommitmentPushModelInstance
from query_site import AE_TITLE

from imaging_ingestion.association.services.destination import Destination

PLAIN = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]
TRANSACTION = "1.2.840.99999.1"


def action(references: list[tuple[str, str]], transaction: str = TRANSACTION) -> Dataset:
    return keys(
        TransactionUID=transaction,
        ReferencedSOPSequence=[
            {"ReferencedSOPClassUID": sop_class, "ReferencedSOPInstanceUID": uid}
            for sop_class, uid in references
        ],
    )


class Requester:
    """Takes reports, on any association; `answer` makes the status of each."""

    def __init__(self, answer: Callable[[int], int] = lambda number: 0) -> None:
        self.answer = answer
        self.reports: list[tuple[int, Dataset, str]] = []
        self.came = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def on_report(self, event: Any) -> tuple[int, None]:
        status = self.answer(len(self.reports))
        # The one that asked for the association tells on whose it came.
        side = "same" if event.assoc.is_requestor else "new"
        request = event.request
        assert request.AffectedSOPClassUID == StorageCommitmentPushModel
        assert request.AffectedSOPInstanceUID == StorageCommitmentPushModelInstance
        self.reports.append((request.EventTypeID, event.event_information, side))
        self._loop.call_soon_threadsafe(self.came.set)
        return status, None

    @property
    def handlers(self) -> list[Any]:
        return [(evt.EVT_N_EVENT_REPORT, self.on_report)]

    async def report(self, number: int = 1) -> tuple[int, Dataset, str]:
        """That report, once it is there."""
        async with asyncio.timeout(20):
            while len(self.reports) < number:
                self.came.clear()
                await self.came.wait()
        return self.reports[number - 1]


@asynccontextmanager
async def requester_listens(requester: Requester, port: int = 0) -> AsyncIterator[Destination]:
    ae = AE("SCANNER")
    ae.add_supported_context(StorageCommitmentPushModel, PLAIN, scu_role=False, scp_role=True)
    server = ae.start_server(("127.0.0.1", port), block=False, evt_handlers=requester.handlers)
    try:
        yield Destination("SCANNER", "127.0.0.1", server.socket.getsockname()[1])
    finally:
        await asyncio.to_thread(server.shutdown)


def associate(port: int, requester: Requester) -> Any:
    ae = AE("SCANNER")
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 30
    ae.add_requested_context(StorageCommitmentPushModel, PLAIN)
    association = ae.associate(
        "127.0.0.1", port, ae_title=AE_TITLE, evt_handlers=requester.handlers
    )
    assert association.is_established
    return association


@asynccontextmanager
async def associated(port: int, requester: Requester) -> AsyncIterator[Any]:
    association = await asyncio.to_thread(associate, port, requester)
    try:
        yield association
    finally:
        await asyncio.to_thread(association.release)


def ask(
    association: Any,
    information: Dataset,
    *,
    action_type: int = 1,
    instance: str = StorageCommitmentPushModelInstance,
) -> Dataset:
    """The status that N-ACTION is answered with, and what goes with it."""
    # The thread that serves pynetdicom's association may just have passed the point where it is to
    # wait, and then takes our answer for a request. What it does there takes it a millisecond.
    association._reactor_checkpoint.clear()
    time.sleep(0.02)
    status, _ = association.send_n_action(
        information, action_type, StorageCommitmentPushModel, instance
    )
    return status


def ask_and_leave(port: int, requester: Requester, information: Dataset) -> int:
    association = associate(port, requester)
    try:
        return int(ask(association, information).Status)
    finally:
        association.release()


def committed(information: Dataset) -> list[tuple[str, str]]:
    return [
        (item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID)
        for item in information.get("ReferencedSOPSequence", [])
    ]


def failed(information: Dataset) -> dict[str, int]:
    return {
        str(item.ReferencedSOPInstanceUID): int(item.FailureReason)
        for item in information.get("FailedSOPSequence", [])
    }
