"""Memory is bounded, whatever comes in by C-STORE or leaves by C-GET: the peak of a real process.

The peak is the kernel's own count (VmHWM). Instances are made while they are sent. How long the
longest one is may be told by IMAGING_INGESTION_TEST_LARGE (MiB; 1024 unless told).
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import pytest
from dimse_site import AE_TITLE, CT_IMAGE_STORAGE, EXPLICIT, ct
from identifiers import encoded, keys
from platform_process import Platform
from raw_peer import store_request

from imaging_ingestion.dimse.command import (
    CGetRequest,
    CGetResponse,
    CStoreRequest,
    CStoreResponse,
    Request,
    Response,
    respond,
)
from imaging_ingestion.dimse.event import AssociateAccepted, Event
from imaging_ingestion.dimse.message import (
    CommandReceived,
    MessageEvent,
    MessageReader,
    MessageWriter,
)
from imaging_ingestion.dimse.negotiation import Agreement
from imaging_ingestion.dimse.p_data import PDataReceived
from imaging_ingestion.dimse.requestor import Proposal, build_request, interpret
from imaging_ingestion.dimse.sop_class import STUDY_ROOT_GET
from imaging_ingestion.dimse.upper_layer import Role, UpperLayer

MIB = 1 << 20
LIMIT = 300 * MIB
STUDY = "1.2.826.0.1.3680043.8.498.7.1"  # of `ct`
LARGE = int(os.environ.get("IMAGING_INGESTION_TEST_LARGE", "1024")) * MIB
#: Not zeros: nothing on the way may make it smaller.
NOISE = hashlib.shake_256(b"noise").digest(MIB)


class Peer:
    """A blocking SCU that sends as fast as it is let. Its context 1 is CT, 3 C-GET."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=300)
        self._layer = UpperLayer(Role.REQUESTOR)
        self._events: deque[Event] = deque()
        proposals = [
            Proposal(CT_IMAGE_STORAGE, (EXPLICIT,), as_scp=True),
            Proposal(STUDY_ROOT_GET, (EXPLICIT,)),
        ]
        request = build_request(proposals, called_ae_title=AE_TITLE, calling_ae_title="LARGE")
        self._layer.send(request)
        self._write(self._layer.connection_made())
        answer = self._receive()
        assert isinstance(answer, AssociateAccepted), answer
        self.agreement: Agreement = interpret(request, answer.accept)
        self._reader = MessageReader(self.agreement.contexts)
        self._writer = MessageWriter(self.agreement.max_sent_pdu_length)

    def send(
        self,
        sop_class: str,
        command: Request | Response,
        data_set: Iterator[bytes | memoryview] | None = None,
    ) -> None:
        """Send a message."""
        context = self.agreement.context_for(sop_class)
        assert context is not None
        has_data_set = data_set is not None
        self._write(
            self._writer.command(context.context_id, command, has_data_set=has_data_set).buffers
        )
        for piece in data_set or ():
            self.go_on(piece)
        if has_data_set:
            self.go_on(b"", is_last=True)

    def go_on(self, piece: bytes | memoryview, *, is_last: bool = False) -> None:
        """Send the next piece of a data set."""
        self._write(self._writer.data_set(piece, is_last=is_last).buffers)

    def begin(self, sop_class: str, command: Request) -> None:
        """Send a command whose data set follows."""
        context = self.agreement.context_for(sop_class)
        assert context is not None
        self._write(self._writer.command(context.context_id, command, has_data_set=True).buffers)

    def message(self) -> MessageEvent:
        """The next command, or fragment of a data set."""
        while True:
            part = self._receive()
            assert isinstance(part, PDataReceived), part
            event = self._reader.receive(part)
            if event is not None:
                return event

    def _write(self, buffers: list[bytes | bytearray | memoryview]) -> None:
        for buffer in buffers:
            self.socket.sendall(buffer)

    def _receive(self) -> Event:
        while not self._events:
            self._events.extend(self._layer.receive_data(self.socket.recv(1 << 18)))
        return self._events.popleft()


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    running = Platform(tmp_path).start()
    try:
        yield running
    finally:
        assert running.stop() == 0
        shutil.rmtree(running.data)


def peak(platform: Platform) -> int:
    """The most memory that the process ever had, in bytes."""
    assert platform.process is not None
    status = Path(f"/proc/{platform.process.pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) * 1024


def data_set(number: int, size: int) -> Iterator[bytes | memoryview]:
    """A data set of about `size` bytes, in pieces."""
    whole = ct(number=number).data_set
    yield whole[: whole.index(b"\xe0\x7f\x10\x00OW")]
    left = min(size, 0xFFFFFFFE)
    yield b"\xe0\x7f\x10\x00OW\0\0" + struct.pack("<L", left)
    while left:
        piece = memoryview(NOISE)[: min(left, MIB)]
        left -= len(piece)
        yield piece


def store(peer: Peer, number: int, size: int) -> int:
    """Store one instance; the status."""
    request = store_request(CT_IMAGE_STORAGE, ct(number=number).sop_instance)
    peer.send(CT_IMAGE_STORAGE, request, data_set(number, size))
    answer = peer.message()
    assert isinstance(answer, CommandReceived)
    assert isinstance(answer.command, CStoreResponse)
    return answer.command.status


def retrieve(peer: Peer, number: int) -> tuple[int, bytes]:
    """Get one instance by C-GET; the length of its data set, and the SHA-256."""
    stored = ct(number=number)
    request = CGetRequest(message_id=7, affected_sop_class_uid=STUDY_ROOT_GET, priority=0)
    wanted = keys(QueryRetrieveLevel="STUDY", StudyInstanceUID=STUDY)
    peer.send(STUDY_ROOT_GET, request, iter([encoded(wanted, EXPLICIT)]))
    arriving: CStoreRequest | None = None
    digest, length = hashlib.sha256(), 0
    while True:
        event = peer.message()
        if not isinstance(event, CommandReceived):
            digest.update(event.data)
            length += len(event.data)
            if event.is_last:
                assert arriving is not None
                peer.send(CT_IMAGE_STORAGE, respond(arriving, 0))
        elif isinstance(event.command, CStoreRequest):
            arriving = event.command
            assert arriving.affected_sop_instance_uid == stored.sop_instance
        else:
            assert isinstance(event.command, CGetResponse)
            if event.command.status != 0xFF00:
                assert event.command.status == 0
                return length, digest.digest()


def objects(platform: Platform) -> list[int]:
    """Sizes of the objects."""
    return [p.stat().st_size for p in platform.data.rglob("*.dcm") if p.is_file()]


def test_a_large_multi_frame_instance_comes_and_goes_in_little_memory(platform: Platform) -> None:
    peer = Peer(platform.dimse_port)
    began = time.monotonic()
    assert store(peer, 1, LARGE) == 0
    stored = time.monotonic()
    (size,) = objects(platform)
    assert size > min(LARGE, 0xFFFFFFFE)
    came = peak(platform)
    length, digest = retrieve(peer, 1)
    print(
        f"{size / MIB:.0f} MiB: C-STORE {stored - began:.1f} s, peak {came / MIB:.0f} MiB; "
        f"C-GET {time.monotonic() - stored:.1f} s, peak {peak(platform) / MIB:.0f} MiB"
    )
    sent, whole = hashlib.sha256(), 0
    for piece in data_set(1, LARGE):
        sent.update(piece)
        whole += len(piece)
    assert (length, digest) == (whole, sent.digest())
    peer.socket.close()
    assert peak(platform) < LIMIT


def test_many_large_instances_at_once_share_the_memory(platform: Platform) -> None:
    statuses: list[int] = []

    def work(number: int) -> None:
        peer = Peer(platform.dimse_port)
        statuses.append(store(peer, number, 32 * MIB))
        peer.socket.close()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(1, 33)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [0] * 32
    assert len(objects(platform)) == 32
    print(f"peak {peak(platform) / MIB:.0f} MiB")
    assert peak(platform) < LIMIT


def test_a_hundred_instances_that_stop_in_the_middle_cost_little(platform: Platform) -> None:
    peers = []
    for number in range(100):
        peer = Peer(platform.dimse_port)
        peer.begin(
            CT_IMAGE_STORAGE, store_request(CT_IMAGE_STORAGE, ct(number=number).sop_instance)
        )
        pieces = data_set(number, 8 * MIB)
        for _ in range(3):
            peer.go_on(next(pieces))
        peers.append(peer)
    last = Peer(platform.dimse_port)
    assert store(last, 1000, MIB) == 0
    for peer in [*peers, last]:
        peer.socket.close()
    print(f"peak {peak(platform) / MIB:.0f} MiB")
    assert peak(platform) < LIMIT
