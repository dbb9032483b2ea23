"""Associations over a link that is no socket, as a tunnel is; and how they wait for each other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace

import pytest
from piecewise_link import PiecewiseLink, link
from stow_site import until

from imaging_ingestion.association.association import Association
from imaging_ingestion.association.connect import Asking, ConnectSettings
from imaging_ingestion.association.error import (
    AssociationAbortedError,
    AssociationRejectedError,
    PeerTimeoutError,
)
from imaging_ingestion.association.incoming import IncomingRequest
from imaging_ingestion.association.limits import AssociationLimits
from imaging_ingestion.association.listener import Listener, ListenerSettings
from imaging_ingestion.dimse.acceptor import AcceptorPolicy, ContextPolicy
from imaging_ingestion.dimse.command import CFindRequest, CStoreRequest, respond
from imaging_ingestion.dimse.requestor import Proposal, build_request
from imaging_ingestion.dimse.sop_class import STUDY_ROOT_FIND

CT, EXPLICIT = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1"
STORE = CStoreRequest(message_id=0, affected_sop_class_uid=CT, affected_sop_instance_uid="1.2.3")
FIND = CFindRequest(message_id=0, affected_sop_class_uid=STUDY_ROOT_FIND)
LIMITS = AssociationLimits(progress=20.0, held=50_000, least_progress=100)
HELD = LIMITS.held


class Keep:
    """Keeps what comes, when it is let."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.go.set()
        self.data = bytearray()
        self.cancelled = False

    async def perform(self, request: IncomingRequest) -> None:
        async for piece in request.data_set():
            await self.go.wait()
            self.data += piece
        await request.respond(respond(request.command, 0))


class Find:
    """Answers with as many matches as wanted."""

    def __init__(self, matches: int, size: int) -> None:
        self.matches, self.size = matches, size
        self.sent = 0
        self.cancelled = asyncio.Event()

    async def perform(self, request: IncomingRequest) -> None:
        await request.read_data_set(1000)
        for _ in range(self.matches):
            if request.cancelled.is_set():
                self.cancelled.set()
                await request.respond(respond(request.command, 0xFE00))
                return
            await request.respond(respond(request.command, 0xFF00), bytes(self.size))
            self.sent += 1
            await asyncio.sleep(0)
        await request.respond(respond(request.command, 0))


@asynccontextmanager
async def linked(
    service: object,
    *,
    cut: int = 1 << 16,
    high: int = 1 << 20,
    max_pdu_length: int = 16384,
    limits: AssociationLimits = LIMITS,
) -> AsyncIterator[tuple[Association, PiecewiseLink, Listener]]:
    """An association with a listener, both of this process."""
    syntaxes = ContextPolicy((EXPLICIT,))
    listener = Listener(
        AcceptorPolicy({CT: syntaxes, STUDY_ROOT_FIND: syntaxes}, max_pdu_length=max_pdu_length),
        {CT: service, STUDY_ROOT_FIND: service},  # type: ignore[dict-item]
        ListenerSettings(limits=limits, artim=1.0),
    )
    asking = Asking(
        build_request(
            [Proposal(CT, (EXPLICIT,)), Proposal(STUDY_ROOT_FIND, (EXPLICIT,))],
            called_ae_title="A", calling_ae_title="B", max_pdu_length=max_pdu_length,
        ),
        {},
        ConnectSettings(limits=limits, artim=5.0),
    )  # fmt: skip
    near = link(asking.wire, listener.accept(), cut=cut, high=high)
    try:
        yield await asking.association(), near, listener
    finally:
        await listener.stop()
        near.abort()
        await near.gone()


async def stored(association: Association, data: object) -> int:
    async with aclosing(association.request(1, STORE, data)) as answers:  # type: ignore[arg-type]
        (answer,) = [answer async for answer in answers]
    return answer.response.status


@pytest.mark.parametrize("cut", [1, 7, 1000, 1 << 16])
@pytest.mark.parametrize("size", [0, 1, 20_001])
async def test_any_pieces_of_the_link_carry_the_same(cut: int, size: int) -> None:
    keep = Keep()
    data = bytes(range(256)) * 100
    async with linked(keep, cut=cut) as (association, near, listener):
        assert await stored(association, data[:size]) == 0
        await association.release()
        await near.gone()
        assert keep.data == data[:size]
        assert listener.associations == 0


@pytest.mark.parametrize("max_pdu_length", [128, 4096, 1 << 17, 0])
async def test_any_length_of_pdus_carries_the_same(max_pdu_length: int) -> None:
    keep = Keep()
    data = bytes(range(251)) * 200

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(data), 777):  # an odd number
            yield data[start : start + 777]

    async with linked(keep, max_pdu_length=max_pdu_length) as (association, _, _):
        assert await stored(association, pieces()) == 0
        assert keep.data == data
        await association.release()


async def test_a_service_that_is_slow_lets_the_sender_wait() -> None:
    keep = Keep()
    keep.go.clear()
    taken = 0

    async def pieces() -> AsyncIterator[bytes]:
        nonlocal taken
        for _ in range(200):
            taken += 10_000
            yield bytes(10_000)

    async with linked(keep, cut=5000, high=20_000) as (association, near, _):
        storing = asyncio.ensure_future(stored(association, pieces()))
        await until(lambda: taken > HELD + 20_000, "it is full")
        await asyncio.sleep(0.1)
        # What waits: at the service, on the link, and the piece that was being sent.
        assert taken < HELD + 20_000 + 6 * 10_000
        keep.go.set()
        assert await storing == 0
        assert len(keep.data) == 2_000_000
        assert near.most_unsent < 60_000


async def test_a_reader_of_answers_that_is_slow_lets_the_peer_wait() -> None:
    find = Find(matches=2000, size=1000)
    async with linked(find, high=20_000) as (association, near, _):
        count = 0
        async with aclosing(association.request(3, FIND, b"xx")) as answers:
            async for _ in answers:
                count += 1
                if count == 5:
                    await until(lambda: near.pauses > 0, "the peer waits")
                    await asyncio.sleep(0.1)
                    assert find.sent < 3 * HELD / 1000
        assert count == 2001
        await association.release()


async def test_closing_the_answers_early_cancels_and_the_association_goes_on() -> None:
    find = Find(matches=100_000, size=10)
    async with linked(find) as (association, _, _):
        async with aclosing(association.request(3, FIND, b"xx")) as answers:
            async for answer in answers:
                assert answer.response.status == 0xFF00
                assert answer.data_set == bytes(10)
                break
        async with asyncio.timeout(30):
            await find.cancelled.wait()
        find.matches = 3
        async with aclosing(association.request(3, FIND, b"xx")) as answers:
            assert [a.response.status async for a in answers] == [0xFF00] * 3 + [0]
        await association.release()


async def test_a_link_that_is_cut_ends_both_sides() -> None:
    keep = Keep()
    keep.go.clear()
    async with linked(keep) as (association, near, listener):
        storing = asyncio.ensure_future(stored(association, bytes(30_000)))
        await until(lambda: near.unsent == 0, "it is sent")
        near.cut_off()
        with pytest.raises(AssociationAbortedError, match="connection was lost"):
            await storing
        await near.gone()
        await until(lambda: listener.associations == 0, "the association is forgotten")


async def test_a_link_on_which_nothing_moves_is_given_up() -> None:
    keep = Keep()
    impatient = replace(LIMITS, progress=0.3)
    async with linked(keep, high=10_000, limits=impatient) as (association, near, _):
        assert near.other is not None
        near.other.pause_reading()
        with pytest.raises(PeerTimeoutError, match="does not read"):
            await stored(association, bytes(100_000))
        near.other.resume_reading()


async def test_a_rejection_comes_over_any_link() -> None:
    listener = Listener(AcceptorPolicy({}, frozenset({"OTHER"})), {})
    asking = Asking(
        build_request([Proposal(CT, (EXPLICIT,))], called_ae_title="A", calling_ae_title="B"),
        {},
        ConnectSettings(),
    )
    near = link(asking.wire, listener.accept())
    with pytest.raises(AssociationRejectedError):
        await asking.association()
    await listener.stop()
    await near.gone()
