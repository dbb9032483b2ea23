"""Associations over links in memory: turns, flow, cancellation, the end, whatever the order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

import msgspec
import pytest
from memory_link import CONGESTED, MemoryPeer, associated
from stow_site import until

from imaging_ingestion.association.association import Association
from imaging_ingestion.association.connect import ConnectSettings
from imaging_ingestion.association.error import (
    AssociationAbortedError,
    AssociationError,
    AssociationReleasedError,
    DataSetTooLongError,
    PeerTimeoutError,
)
from imaging_ingestion.association.incoming import IncomingRequest, Service
from imaging_ingestion.association.limits import AssociationLimits
from imaging_ingestion.association.listener import Listener, ListenerSettings
from imaging_ingestion.dimse.acceptor import AcceptorPolicy, ContextPolicy
from imaging_ingestion.dimse.command import (
    CCancelRequest,
    CEchoRequest,
    CFindRequest,
    CFindResponse,
    Command,
    CStoreRequest,
    Request,
    respond,
)
from imaging_ingestion.dimse.error import AbortReason, AbortSource
from imaging_ingestion.dimse.pdu_items import OperationsWindow
from imaging_ingestion.dimse.requestor import Proposal
from imaging_ingestion.dimse.sop_class import STUDY_ROOT_FIND, VERIFICATION

CT = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT, IMPLICIT = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"
PROPOSALS = [
    Proposal(VERIFICATION, (IMPLICIT,)),
    Proposal(CT, (EXPLICIT,)),
    Proposal(STUDY_ROOT_FIND, (IMPLICIT,)),
]
ECHO_CONTEXT, CT_CONTEXT, FIND_CONTEXT = 1, 3, 5
PENDING, CANCELLED = 0xFF00, 0xFE00
DEADLINE = 30.0

echo = CEchoRequest(message_id=0, affected_sop_class_uid=VERIFICATION)
find = CFindRequest(message_id=0, affected_sop_class_uid=STUDY_ROOT_FIND)


def store(message_id: int = 0) -> CStoreRequest:
    return CStoreRequest(
        message_id=message_id, affected_sop_class_uid=CT, affected_sop_instance_uid="1.2.3"
    )


def echo_number(number: int) -> CEchoRequest:
    return CEchoRequest(message_id=number, affected_sop_class_uid=VERIFICATION)


class Scripted:
    """Does what a test says, and keeps what was asked."""

    def __init__(self) -> None:
        self.requests: list[IncomingRequest] = []
        self.go = asyncio.Event()  # before it answers anything
        self.go.set()
        self.asked = asyncio.Event()
        self.cancelled = 0
        self.ended = asyncio.Event()

    async def perform(self, request: IncomingRequest) -> None:
        self.requests.append(request)
        self.asked.set()
        try:
            await self.go.wait()
            if isinstance(request.command, CFindRequest):
                await self._find(request)
            else:
                size = len(await request.read_data_set(1 << 30))
                assert (size > 0) == request.has_data_set
                await request.respond(respond(request.command, 0))
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.ended.set()

    async def _find(self, request: IncomingRequest) -> None:
        """Endless results, until it is cancelled."""
        while not request.cancelled.is_set():
            await request.respond(respond(request.command, PENDING), b"result")
            await asyncio.sleep(0)
        await request.respond(respond(request.command, CANCELLED))


@pytest.fixture
def service() -> Scripted:
    return Scripted()


@asynccontextmanager
async def listening(
    service: Service,
    *,
    limits: AssociationLimits | None = None,
    operations: int = 1,
    invoked: int = 1,
) -> AsyncIterator[Listener]:
    policy = AcceptorPolicy(
        {
            VERIFICATION: ContextPolicy((IMPLICIT,)),
            CT: ContextPolicy((EXPLICIT,), requestor_may_be_scp=True),
            STUDY_ROOT_FIND: ContextPolicy((IMPLICIT,)),
        },
        max_operations_performed=operations,
        max_operations_invoked=invoked,
    )
    settings = ListenerSettings(artim=5.0, grace=0.0, limits=limits or AssociationLimits())
    listener = Listener(
        policy, dict.fromkeys([VERIFICATION, CT, STUDY_ROOT_FIND], service), settings
    )
    try:
        async with asyncio.timeout(DEADLINE):
            yield listener
    finally:
        await listener.stop()


async def ask(
    association: Association, context_id: int, request: Request, data: bytes | None = None
) -> list[int]:
    """The statuses of all answers."""
    async with aclosing(association.request(context_id, request, data)) as answers:
        return [answer.response.status async for answer in answers]


# ---- requests and their turns


async def test_requests_are_answered_and_released(service: Scripted) -> None:
    async with listening(service) as listener:
        association, _ = await associated(listener, *PROPOSALS)
        assert await ask(association, ECHO_CONTEXT, echo) == [0]
        assert await ask(association, CT_CONTEXT, store(), b"data" * 1000) == [0]
        await association.release()
        assert isinstance(association.end, AssociationReleasedError)
        assert listener.associations == 0


@pytest.mark.parametrize("pieces", [[], [b""], [b"", b"ab", b""], [b"abc", b"d" * 300_000, b"e"]])
async def test_a_data_set_in_pieces_arrives_whole(pieces: list[bytes]) -> None:
    received: list[bytes] = []

    class Keeping:
        async def perform(self, request: IncomingRequest) -> None:
            received.append(await request.read_data_set(1 << 20))
            await request.respond(respond(request.command, 0))

    async def source() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    async with listening(Keeping()) as listener:
        association, _ = await associated(listener, *PROPOSALS)
        answers = association.request(CT_CONTEXT, store(), source())
        assert [answer.response.status async for answer in answers] == [0]
        await association.release()
    assert received == [b"".join(pieces)]


async def test_beyond_the_window_a_request_waits_for_its_turn(service: Scripted) -> None:
    service.go.clear()
    async with listening(service) as listener:
        association, _ = await associated(listener, *PROPOSALS)
        waiting = [asyncio.create_task(ask(association, ECHO_CONTEXT, echo)) for _ in range(3)]
        await service.asked.wait()
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(service.requests) == 1
        service.go.set()
        assert await asyncio.gather(*waiting) == [[0]] * 3
        await association.release()


async def test_within_the_window_requests_are_under_way_together(service: Scripted) -> None:  # A10
    service.go.clear()
    settings = ConnectSettings(operations_window=OperationsWindow(3, 1))
    async with listening(service, operations=5) as listener:
        association, _ = await associated(listener, *PROPOSALS, settings=settings)
        waiting = [asyncio.create_task(ask(association, ECHO_CONTEXT, echo)) for _ in range(5)]
        await until(lambda: len(service.requests) == 3, "three are under way")
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(service.requests) == 3
        assert len({request.command.message_id for request in service.requests}) == 3
        service.go.set()
        assert await asyncio.gather(*waiting) == [[0]] * 5
        await association.release()


async def test_both_sides_may_ask(service: Scripted) -> None:  # A11
    theirs = Scripted()
    async with listening(service) as listener:
        proposals = [Proposal(CT, (EXPLICIT,), as_scu=True, as_scp=True)]
        association, _ = await associated(listener, *proposals, services={CT: theirs})
        assert await ask(association, 1, store(), b"there") == [0]
        (request,) = service.requests
        assert await ask(request.association, 1, store(), b"back") == [0]
        assert len(theirs.requests) == 1
        await association.release()


async def test_a_request_in_a_role_that_was_not_agreed_is_refused(service: Scripted) -> None:
    peer = MemoryPeer()
    async with listening(service) as listener:
        await peer.associate(listener, Proposal(CT, (EXPLICIT,), as_scu=False, as_scp=True))
        peer.send(1, store(message_id=1), b"data")
        assert (await peer.answer()).status == 0x0122


# ---- what is cancelled


async def test_closing_the_answers_cancels_a_find(service: Scripted) -> None:  # C15
    async with listening(service) as listener:
        association, _ = await associated(listener, *PROPOSALS)
        async with aclosing(association.request(FIND_CONTEXT, find, b"keys")) as answers:
            async for answer in answers:
                assert answer.data_set == b"result"
                break
        await service.ended.wait()
        assert service.requests[0].cancelled.is_set()
        assert await ask(association, ECHO_CONTEXT, echo) == [0]
        await association.release()


async def test_a_cancelled_caller_cancels_a_find(service: Scripted) -> None:
    async with listening(service) as listener:
        association, _ = await associated(listener, *PROPOSALS)
        asking = asyncio.create_task(ask(association, FIND_CONTEXT, find, b"keys"))
        await service.asked.wait()
        asking.cancel()
        await service.ended.wait()
        assert service.requests[0].cancelled.is_set()
        await association.release()


async def test_a_caller_that_is_cancelled_in_the_middle_of_its_data_set_ends_the_association(
    service: Scripted,
) -> None:
    async def half() -> AsyncIterator[bytes]:
        yield b"half of it"
        yield b"and a bit"
        await asyncio.Event().wait()

    async with listening(service) as listener:
        association, _ = await associated(listener, *PROPOSALS)

        async def send() -> None:
            async for _ in association.request(CT_CONTEXT, store(), half()):
                pass

        sending = asyncio.create_task(send())
        await service.asked.wait()
        sending.cancel()
        await asyncio.wait([sending])
        assert isinstance(association.end, AssociationAbortedError)
        await until(lambda: service.cancelled == 1, "the service is cancelled")


async def test_an_answer_that_nobody_wants_any_more_does_not_keep_an_idle_association(
    service: Scripted,
) -> None:
    service.go.clear()
    limits = AssociationLimits(progress=0.05, idle=0.1)
    async with listening(service) as listener:
        association, _ = await associated(
            listener, *PROPOSALS, settings=ConnectSettings(limits=limits)
        )
        asking = asyncio.create_task(ask(association, ECHO_CONTEXT, echo))
        await service.asked.wait()
        asking.cancel()
        await asyncio.wait([asking])
        await association.closed()
        assert isinstance(association.end, PeerTimeoutError)


async def test_an_answer_that_is_waited_for_keeps_it(service: Scripted) -> None:
    service.go.clear()
    limits = AssociationLimits(progress=0.02, idle=0.04)
    async with listening(service) as listener:
        association, _ = await associated(
            listener, *PROPOSALS, settings=ConnectSettings(limits=limits)
        )
        asking = asyncio.create_task(ask(association, ECHO_CONTEXT, echo))
        await service.asked.wait()
        await asyncio.sleep(0.3)
        service.go.set()
        assert await asking == [0]
        await association.closed()
        assert isinstance(association.end, PeerTimeoutError)


# ---- flow


async def test_a_service_that_reads_slowly_lets_the_peer_wait(service: Scripted) -> None:
    service.go.clear()
    limits = AssociationLimits(held=10_000)
    async with listening(service, limits=limits) as listener:
        association, ours = await associated(listener, *PROPOSALS)
        sending = asyncio.create_task(ask(association, CT_CONTEXT, store(), bytes(500_000)))
        await until(lambda: ours.other.is_paused, "the peer waits")
        assert ours.other.taken < 300_000  # what is held, and one write
        taken = ours.other.taken
        for _ in range(50):
            await asyncio.sleep(0)
        assert ours.other.taken == taken
        service.go.set()
        assert await sending == [0]
        await association.release()


async def test_a_peer_that_asks_for_far_more_than_it_may_waits(service: Scripted) -> None:
    service.go.clear()
    peer = MemoryPeer()
    async with listening(service) as listener:
        end = await peer.associate(listener, Proposal(VERIFICATION, (IMPLICIT,)))
        for number in range(1, 51):
            peer.send(1, echo_number(number))
            await asyncio.sleep(0)
        await until(lambda: end.other.is_paused, "the peer waits")
        assert len(service.requests) < 20
        service.go.set()
        for _ in range(50):
            assert (await peer.answer()).status == 0
        assert not end.other.is_paused


async def test_a_peer_that_does_not_read_is_aborted(service: Scripted) -> None:
    limits = AssociationLimits(progress=0.1, least_progress=100)
    peer = MemoryPeer()
    async with listening(service, limits=limits) as listener:
        end = await peer.associate(listener, *PROPOSALS)
        peer.send(FIND_CONTEXT, msgspec.structs.replace(find, message_id=1), b"keys")
        await service.asked.wait()
        end.pause_reading()
        await until(lambda: listener.associations == 0, "the association is forgotten")
        assert service.ended.is_set()
        assert end.other.unsent < 2 * CONGESTED


async def test_a_data_set_that_is_too_long_to_be_held_is_refused_and_the_rest_goes_by() -> None:
    class Limited:
        async def perform(self, request: IncomingRequest) -> None:
            try:
                await request.read_data_set(1000)
            except DataSetTooLongError as error:
                await request.respond(respond(request.command, 0xC000, error_comment=str(error)))

    async with listening(Limited()) as listener:
        association, _ = await associated(listener, *PROPOSALS)
        for _ in range(2):
            assert await ask(association, CT_CONTEXT, store(), bytes(300_000)) == [0xC000]
        await association.release()


async def test_an_answer_that_is_too_long_to_be_held_ends_the_association(
    service: Scripted,
) -> None:
    class Long:
        async def perform(self, request: IncomingRequest) -> None:
            await request.respond(respond(request.command, PENDING), bytes(5000))

    settings = ConnectSettings(limits=AssociationLimits(answer_data_set=4000))
    async with listening(Long()) as listener:
        association, _ = await associated(listener, *PROPOSALS, settings=settings)
        with pytest.raises(AssociationAbortedError, match="over 4000 bytes"):
            await ask(association, FIND_CONTEXT, find, b"keys")


# ---- the end


async def test_a_release_waits_for_what_is_under_way(service: Scripted) -> None:
    service.go.clear()
    async with listening(service) as listener:
        association, _ = await associated(listener, *PROPOSALS)
        asking = asyncio.create_task(ask(association, ECHO_CONTEXT, echo))
        await service.asked.wait()
        releasing = asyncio.create_task(association.release())
        for _ in range(20):
            await asyncio.sleep(0)
        assert association.is_open
        service.go.set()
        assert await asking == [0]
        await releasing
        assert isinstance(association.end, AssociationReleasedError)


async def test_a_release_of_the_peer_waits_for_what_it_asked(service: Scripted) -> None:
    service.go.clear()
    peer = MemoryPeer()
    async with listening(service) as listener:
        await peer.associate(listener, *PROPOSALS)
        peer.send(ECHO_CONTEXT, echo_number(7))
        peer.release()
        await service.asked.wait()
        for _ in range(20):
            await asyncio.sleep(0)
        assert not peer.is_released
        service.go.set()
        assert (await peer.answer()).message_id_being_responded_to == 7
        await until(lambda: peer.is_released, "it is released")


async def test_both_may_ask_for_the_release_at_once(service: Scripted) -> None:  # A19
    async with listening(service) as listener:
        association, _ = await associated(listener, *PROPOSALS)
        await ask(association, ECHO_CONTEXT, echo)
        other = service.requests[0].association
        async with asyncio.TaskGroup() as group:
            group.create_task(association.release())
            group.create_task(other.release())
        for end in (association.end, other.end):
            assert isinstance(end, AssociationReleasedError)
        await until(lambda: listener.associations == 0, "the association is forgotten")


@pytest.mark.parametrize("how", ["abort", "cut"])
async def test_the_end_cancels_the_services_and_tells_all_who_wait(
    service: Scripted, how: str
) -> None:  # A18
    service.go.clear()
    async with listening(service) as listener:
        association, ours = await associated(listener, *PROPOSALS)
        waiting = [asyncio.create_task(ask(association, ECHO_CONTEXT, echo)) for _ in range(3)]
        await service.asked.wait()
        other = service.requests[0].association
        if how == "abort":
            await association.abort()
        else:
            ours.abort()
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(isinstance(outcome, AssociationAbortedError) for outcome in outcomes)
        await other.closed()
        assert service.cancelled == 1
        with pytest.raises(AssociationError):
            await ask(association, ECHO_CONTEXT, echo)
        await until(lambda: listener.associations == 0, "the association is forgotten")


async def test_closed_waits_for_a_service_that_takes_its_time_to_end() -> None:
    finished = asyncio.Event()
    begun = asyncio.Event()

    class Tidy:
        async def perform(self, request: IncomingRequest) -> None:
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0.05)
                finished.set()

    async with listening(Tidy()) as listener:
        association, _ = await associated(listener, *PROPOSALS)
        asking = asyncio.create_task(ask(association, ECHO_CONTEXT, echo))
        await begun.wait()
        await association.abort()
        await asyncio.wait([asking])
        assert listener.associations == 1
        await until(lambda: listener.associations == 0, "the association is forgotten")
        assert finished.is_set()


async def test_abort_and_release_are_harmless_when_it_has_ended(service: Scripted) -> None:
    async with listening(service) as listener:
        association, _ = await associated(listener, *PROPOSALS)
        await association.release()
        await association.release()
        await association.abort()
        assert isinstance(association.end, AssociationReleasedError)


# ---- what DIMSE does not allow


@pytest.mark.parametrize(
    "command",
    [
        CCancelRequest(message_id_being_responded_to=1),
        CFindResponse(message_id_being_responded_to=1, status=0),
    ],
)
async def test_a_data_set_where_none_is_expected_is_aborted(
    service: Scripted, command: Command
) -> None:
    peer = MemoryPeer()
    async with listening(service) as listener:
        await peer.associate(listener, *PROPOSALS)
        peer.send(FIND_CONTEXT, command, b"data")
        aborted = await peer.aborted()
        assert aborted.source == AbortSource.SERVICE_PROVIDER
        assert aborted.reason == AbortReason.UNEXPECTED_PDU_PARAMETER


async def test_a_cancel_of_nothing_means_nothing(service: Scripted) -> None:  # C15
    peer = MemoryPeer()
    async with listening(service) as listener:
        await peer.associate(listener, *PROPOSALS)
        peer.send(FIND_CONTEXT, CCancelRequest(message_id_being_responded_to=1))
        peer.send(ECHO_CONTEXT, echo_number(1))
        assert (await peer.answer()).status == 0
