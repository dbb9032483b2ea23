"""An upper layer on a link: its timer, its last words, its end."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from imaging_ingestion.association.wire import Wire
from imaging_ingestion.dimse.event import Aborted, AbortOrigin, AssociateRequested, Event
from imaging_ingestion.dimse.pdu import Abort, AssociateReject, Buffer, decode_pdu, encode_pdu
from imaging_ingestion.dimse.rejection import NO_REASON_GIVEN
from imaging_ingestion.dimse.requestor import Proposal, build_request
from imaging_ingestion.dimse.upper_layer import Role

ARTIM = 0.05
REQUEST = build_request(
    [Proposal("1.2.840.10008.1.1", ("1.2.840.10008.1.2",))],
    called_ae_title="A",
    calling_ae_title="B",
)


class KeptLink:
    """A link whose other end is the test."""

    peer = "memory"
    is_congested = False
    unsent = 0

    def __init__(self) -> None:
        self.written = b""
        self.is_closed = False
        self.aborted = asyncio.Event()

    def write(self, buffers: Sequence[Buffer]) -> None:
        self.written += b"".join(map(bytes, buffers))

    async def drain(self) -> None:
        return

    def pause_reading(self) -> None:
        return

    def resume_reading(self) -> None:
        return

    def close(self) -> None:
        self.is_closed = True

    def abort(self) -> None:
        self.aborted.set()


@pytest.fixture
async def link() -> KeptLink:
    return KeptLink()


@pytest.fixture
async def wire(link: KeptLink) -> Wire:
    made = Wire(Role.ACCEPTOR, artim=ARTIM)
    made.made(link)
    return made


async def is_aborted(link: KeptLink) -> bool:
    async with asyncio.timeout(30):
        return await link.aborted.wait()


async def test_silence_ends_the_link_after_the_artim_time(wire: Wire, link: KeptLink) -> None:
    assert await is_aborted(link)  # A17
    assert link.written == b""


async def test_a_request_stops_the_timer(wire: Wire, link: KeptLink) -> None:
    events: list[Event] = []
    wire.sink = events.append
    wire.receive(encode_pdu(REQUEST))
    await asyncio.sleep(3 * ARTIM)
    assert [type(event) for event in events] == [AssociateRequested]
    assert not link.aborted.is_set()


async def test_half_a_request_does_not_stop_the_timer(wire: Wire, link: KeptLink) -> None:
    wire.receive(encode_pdu(REQUEST)[:-1])
    assert await is_aborted(link)


async def test_a_peer_that_does_not_close_after_a_rejection_is_closed(
    wire: Wire, link: KeptLink
) -> None:
    wire.receive(encode_pdu(REQUEST))
    wire.send(NO_REASON_GIVEN)
    assert isinstance(decode_pdu(link.written), AssociateReject)
    assert not link.aborted.is_set()
    assert await is_aborted(link)


async def test_garbage_is_answered_and_the_link_ends_though_the_peer_does_not_close(
    wire: Wire, link: KeptLink
) -> None:
    events: list[Event] = []
    wire.sink = events.append
    wire.receive(b"GET / HTTP/1.1\r\n\r\n")
    (event,) = events
    assert isinstance(event, Aborted)
    assert event.origin is AbortOrigin.LOCAL
    assert isinstance(decode_pdu(link.written), Abort)
    assert await is_aborted(link)


async def test_lingering_is_begun_once_and_ends_with_the_link(wire: Wire, link: KeptLink) -> None:
    wire.receive(encode_pdu(REQUEST))
    wire.linger()
    await asyncio.sleep(0.6 * ARTIM)
    wire.linger()  # does not begin anew
    await asyncio.sleep(0.6 * ARTIM)
    assert link.aborted.is_set()


async def test_no_timer_is_left_when_the_link_is_lost(link: KeptLink) -> None:
    told: list[str] = []
    wire = Wire(Role.ACCEPTOR, artim=ARTIM, on_lost=lambda: told.append("lost"))
    wire.sink = lambda event: told.append(type(event).__name__)
    wire.made(link)
    assert (wire.is_open, wire.was_made) == (True, True)
    wire.receive(encode_pdu(REQUEST))
    wire.linger()
    wire.lost("a cable was pulled")
    assert (wire.is_open, wire.was_made) == (False, True)
    assert wire.loss == "a cable was pulled"
    assert told == ["AssociateRequested", "Aborted", "lost"]  # `on_lost` last of all
    await asyncio.sleep(3 * ARTIM)
    assert not link.aborted.is_set()


async def test_a_requestor_asks_when_the_link_is_made(link: KeptLink) -> None:
    wire = Wire(Role.REQUESTOR, artim=ARTIM)
    wire.layer.send(REQUEST)
    assert not wire.was_made
    wire.made(link)
    assert decode_pdu(link.written) == REQUEST
