"""pynetdicom at both ends of the tunnel: every normative service, and the real negotiation."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest
from nats_servers import NatsServer, nats
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, generate_uid
from pynetdicom import AE, build_role, evt
from pynetdicom.pdu_primitives import (
    SOPClassCommonExtendedNegotiation,
    SOPClassExtendedNegotiation,
    UserIdentityNegotiation,
)
from pynetdicom.sop_class import (
    CTImageStorage,
    InstanceAvailabilityNotification,
    ModalityPerformedProcedureStep,
    ModalityPerformedProcedureStepRetrieve,
    ModalityWorklistInformationFind,
    PrintJob,
    StorageCommitmentPushModel,
    StudyRootQueryRetrieveInformationModelFind,
    Verification,
)
from tunnel_proxies import Behind, Pair, proxies

__all__ = ["nats"]

UNKNOWN = "1.2.3.4.5.6"
COMMITMENT_INSTANCE = "1.2.840.10008.1.20.1.1"
SYNTAXES = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]


class Scp:
    """A pynetdicom SCP of everything, and what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Any]] = []
        self.requested: Any = None
        self.ae = AE(ae_title="TARGET")
        self.ae.maximum_pdu_size = 31000
        for uid in (
            Verification,
            ModalityPerformedProcedureStep,
            ModalityPerformedProcedureStepRetrieve,
            ModalityWorklistInformationFind,
            StorageCommitmentPushModel,
            InstanceAvailabilityNotification,
            PrintJob,
            StudyRootQueryRetrieveInformationModelFind,
        ):
            self.ae.add_supported_context(uid, SYNTAXES)
        self.ae.add_supported_context(CTImageStorage, SYNTAXES, scu_role=True, scp_role=True)

    def handlers(self) -> list[tuple[Any, Callable[..., Any]]]:
        def answer(name: str) -> Callable[[Any], Any]:
            def handle(event: Any) -> Any:
                data = None
                for field in ("attribute_list", "modification_list", "action_information"):
                    try:
                        data = getattr(event, field)
                        break
                    except AttributeError:
                        continue
                self.asked.append((name, data))
                if name == "N-DELETE":
                    return 0x0000
                reply = Dataset()
                reply.PatientName = f"{name}^Reply"
                return 0x0000, reply

            return handle

        return [
            (evt.EVT_ACCEPTED, self._accepted),
            (evt.EVT_REQUESTED, self._accepted),
            (evt.EVT_N_CREATE, answer("N-CREATE")),
            (evt.EVT_N_SET, answer("N-SET")),
            (evt.EVT_N_GET, answer("N-GET")),
            (evt.EVT_N_ACTION, answer("N-ACTION")),
            (evt.EVT_N_DELETE, answer("N-DELETE")),
            (evt.EVT_C_FIND, self._find),
            (evt.EVT_USER_ID, self._identity),
        ]

    def _accepted(self, event: Any) -> None:
        self.requested = event.assoc.requestor.primitive

    def _identity(self, event: Any) -> tuple[bool, bytes]:
        return event.primary_field == b"someone", b"the answer"

    def _find(self, event: Any) -> Iterator[tuple[int, Dataset | None]]:
        for number in range(50):
            if event.is_cancelled:
                yield 0xFE00, None
                return
            found = Dataset()
            found.PatientName = f"Worklist^{number}"
            yield 0xFF00, found


@contextmanager
def listening(scp: Scp) -> Iterator[int]:
    server = scp.ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=scp.handlers())
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()


@asynccontextmanager
async def tunnelled(nats: NatsServer, scp: Scp, **values: str) -> AsyncIterator[Pair]:
    with listening(scp) as port:
        async with proxies(nats.address, Behind(port), far_values=values) as pair:
            yield pair


async def asking(
    pair: Pair, ask: Callable[[Any], Any], *contexts: str, **options: Any
) -> tuple[Any, Any]:
    """What an association tells that asks something; the association."""

    def work() -> tuple[Any, Any]:
        ae = AE(ae_title="ASKER")
        for uid in contexts:
            ae.add_requested_context(uid, SYNTAXES)
        association = ae.associate("127.0.0.1", pair.near.port, **options)
        assert association.is_established
        try:
            return ask(association), association
        finally:
            association.release()

    return await asyncio.to_thread(work)


def some(**attributes: str) -> Dataset:
    data = Dataset()
    for name, value in attributes.items():
        setattr(data, name, value)
    return data


async def test_mpps_is_created_and_set(nats: NatsServer) -> None:
    scp, uid = Scp(), generate_uid()

    def ask(association: Any) -> list[Any]:
        created = some(PerformedProcedureStepStatus="IN PROGRESS", PatientName="A^B")
        done = some(PerformedProcedureStepStatus="COMPLETED")
        return [
            association.send_n_create(created, ModalityPerformedProcedureStep, uid),
            association.send_n_set(done, ModalityPerformedProcedureStep, uid),
        ]

    async with tunnelled(nats, scp) as pair:
        answers, _ = await asking(pair, ask, ModalityPerformedProcedureStep)
    assert [(status.Status, str(data.PatientName)) for status, data in answers] == [
        (0, "N-CREATE^Reply"),
        (0, "N-SET^Reply"),
    ]
    assert [(name, data.PerformedProcedureStepStatus) for name, data in scp.asked] == [
        ("N-CREATE", "IN PROGRESS"),
        ("N-SET", "COMPLETED"),
    ]


async def test_n_get_n_action_and_n_delete_are_relayed(nats: NatsServer) -> None:
    scp, uid = Scp(), generate_uid()

    def ask(association: Any) -> list[Any]:
        return [
            association.send_n_get([0x00100010], ModalityPerformedProcedureStepRetrieve, uid),
            association.send_n_action(
                some(TransactionUID=uid), 1, StorageCommitmentPushModel, COMMITMENT_INSTANCE
            ),
            (association.send_n_delete(PrintJob, uid), None),
        ]

    contexts = (ModalityPerformedProcedureStepRetrieve, StorageCommitmentPushModel, PrintJob)
    async with tunnelled(nats, scp) as pair:
        answers, _ = await asking(pair, ask, *contexts)
    assert [status.Status for status, _ in answers] == [0, 0, 0]
    assert [name for name, _ in scp.asked] == ["N-GET", "N-ACTION", "N-DELETE"]


async def test_storage_commitment_is_reported_through_the_other_channel(nats: NatsServer) -> None:
    scp, reports = Scp(), []
    modality = AE(ae_title="MODALITY")
    modality.add_supported_context(
        StorageCommitmentPushModel, SYNTAXES, scu_role=False, scp_role=True
    )

    def report_came(event: Any) -> tuple[int, None]:
        reports.append((event.event_type, event.event_information.TransactionUID))
        return 0x0000, None

    server = modality.start_server(
        ("127.0.0.1", 0),
        block=False,
        evt_handlers=[(evt.EVT_N_EVENT_REPORT, report_came)],
    )
    uid = generate_uid()

    def commit(association: Any) -> Any:
        asked = some(TransactionUID=uid)
        return association.send_n_action(asked, 1, StorageCommitmentPushModel, COMMITMENT_INSTANCE)

    def report(port: int) -> int:
        archive = AE(ae_title="TARGET")
        archive.add_requested_context(StorageCommitmentPushModel, SYNTAXES)
        role = build_role(StorageCommitmentPushModel, scp_role=True, scu_role=False)
        association = archive.associate("127.0.0.1", port, ext_neg=[role])
        assert association.is_established
        (context,) = association.accepted_contexts
        assert context.as_scp  # the roles of the real peers
        status, _ = association.send_n_event_report(
            some(TransactionUID=uid), 1, StorageCommitmentPushModel, COMMITMENT_INSTANCE
        )
        association.release()
        return int(status.Status)

    try:
        with listening(scp) as port:
            back = Behind(server.server_address[1], "MODALITY")
            async with proxies(nats.address, Behind(port), back) as pair:
                (status, _), _ = await asking(pair, commit, StorageCommitmentPushModel)
                assert status.Status == 0
                assert await asyncio.to_thread(report, pair.far.port) == 0
    finally:
        server.shutdown()
    assert reports == [(1, uid)]


async def test_an_event_is_reported_on_the_requestors_own_association(nats: NatsServer) -> None:
    scp, reports = Scp(), []
    uid = generate_uid()

    def report_came(event: Any) -> tuple[int, None]:
        reports.append(event.event_information.TransactionUID)
        return 0x0000, None

    def requested(event: Any) -> tuple[int, None]:
        association = event.assoc
        association.send_n_event_report(
            some(TransactionUID=uid), 1, StorageCommitmentPushModel, COMMITMENT_INSTANCE
        )
        return 0x0000, None

    scp_handlers = [(evt.EVT_N_ACTION, requested)]
    server = scp.ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=scp_handlers)

    def ask(association: Any) -> Any:
        return association.send_n_action(
            some(TransactionUID=uid), 1, StorageCommitmentPushModel, COMMITMENT_INSTANCE
        )

    try:
        behind = Behind(server.server_address[1])
        async with proxies(nats.address, behind) as pair:
            (status, _), _ = await asking(
                pair,
                ask,
                StorageCommitmentPushModel,
                evt_handlers=[(evt.EVT_N_EVENT_REPORT, report_came)],
            )
    finally:
        server.shutdown()
    assert status.Status == 0
    assert reports == [uid]


async def test_a_worklist_query_can_be_cancelled(nats: NatsServer) -> None:
    def ask(association: Any) -> list[int]:
        query = some(PatientName="*")
        statuses = []
        for status, _ in association.send_c_find(query, ModalityWorklistInformationFind, msg_id=7):
            statuses.append(status.Status)
            if len(statuses) == 1:
                association.send_c_cancel(7, None, ModalityWorklistInformationFind)
        return statuses

    async with tunnelled(nats, Scp()) as pair:
        statuses, _ = await asking(pair, ask, ModalityWorklistInformationFind)
    assert statuses[0] == 0xFF00
    assert statuses[-1] in (0xFE00, 0x0000)  # the query may have been over before
    assert len(statuses) <= 51


async def test_the_negotiation_is_that_of_the_real_peers(nats: NatsServer) -> None:
    scp = Scp()
    identity = UserIdentityNegotiation()
    identity.user_identity_type = 5
    identity.primary_field = b"someone"
    identity.positive_response_requested = True
    extended = SOPClassExtendedNegotiation()
    extended.sop_class_uid = StudyRootQueryRetrieveInformationModelFind
    extended.service_class_application_information = b"\x01\x01"
    common = SOPClassCommonExtendedNegotiation()
    common.sop_class_uid = CTImageStorage
    common.service_class_uid = "1.2.840.10008.4.2"
    role = build_role(CTImageStorage, scp_role=True)
    options = {
        "ext_neg": [identity, extended, common, role],
        "max_pdu": 23456,
        "ae_title": "CALLED",
    }

    async with tunnelled(nats, scp) as pair:
        _, association = await asking(
            pair,
            lambda one: one.send_c_echo(),
            Verification,
            CTImageStorage,
            StudyRootQueryRetrieveInformationModelFind,
            UNKNOWN,
            **options,
        )
    accepted = association.acceptor.primitive
    assert accepted.maximum_length_received == 31000
    answers = [item for item in accepted.user_information if hasattr(item, "server_response")]
    assert [item.server_response for item in answers] == [b"the answer"]
    results = {context.abstract_syntax: context for context in association.accepted_contexts}
    assert results[CTImageStorage].as_scp
    rejected = [context.abstract_syntax for context in association.rejected_contexts]
    assert rejected == [UNKNOWN]
    asked = scp.requested
    assert asked.maximum_length_received == 23456
    assert asked.calling_ae_title == "ASKER"
    assert asked.called_ae_title == "TARGET"  # as DIMSE_TARGET_AE says
    assert accepted.called_ae_title == "CALLED"  # as it was asked for
    kinds = {type(item).__name__ for item in asked.user_information}
    assert kinds >= {
        "UserIdentityNegotiation",
        "SOPClassExtendedNegotiation",
        "SOPClassCommonExtendedNegotiation",
        "SCP_SCU_RoleSelectionNegotiation",
        "ImplementationClassUIDNotification",
    }


async def test_a_target_that_refuses_an_identity_rejects_the_association(nats: NatsServer) -> None:
    identity = UserIdentityNegotiation()
    identity.user_identity_type = 1
    identity.primary_field = b"a stranger"
    identity.positive_response_requested = True

    def work(port: int) -> tuple[bool, Any]:
        ae = AE(ae_title="ASKER")
        ae.add_requested_context(Verification)
        association = ae.associate("127.0.0.1", port, ext_neg=[identity])
        return association.is_rejected, association.acceptor.primitive

    with listening(Scp()) as direct:
        async with proxies(nats.address, Behind(direct)) as pair:
            through = await asyncio.to_thread(work, pair.near.port)
            directly = await asyncio.to_thread(work, direct)
    assert through[0]
    words = [
        (answer.result, answer.result_source, answer.diagnostic)
        for answer in (through[1], directly[1])
    ]
    assert words[0] == words[1]


@pytest.mark.parametrize(
    ("values", "calling"),
    [
        ({}, "ASKER"),
        ({"DIMSE_AE": "PROXY"}, "PROXY"),
        ({"DIMSE_AE": "PROXY", "DIMSE_CALLING_AE": "*"}, "ASKER"),
        ({"DIMSE_CALLING_AE": "OTHER"}, "OTHER"),
    ],
)
async def test_the_target_is_called_by_the_title_that_the_proxy_is_told(
    nats: NatsServer, values: dict[str, str], calling: str
) -> None:
    scp = Scp()
    async with tunnelled(nats, scp, **values) as pair:
        await asking(pair, lambda one: one.send_c_echo(), Verification)
    assert scp.requested.calling_ae_title == calling
