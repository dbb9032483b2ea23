"""Memory is bounded, whatever comes in by C-STORE: the peak of a real process.

The peak is the kernel's own count (VmHWM). Instances are made while they are sent. How long the
longest one is may be told by IMAGING_INGESTION_TEST_LARGE (MiB; 1024 unless told).
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from dimse_site import CT, CT_IMAGE_STORAGE, ct
from platform_process import free_port
from raw_peer import store_request

from imaging_ingestion.dimse.command import Command, CStoreResponse
from imaging_ingestion.dimse.event import AssociateAccepted, Event
from imaging_ingestion.dimse.message import CommandReceived, MessageReader, MessageWriter
from imaging_ingestion.dimse.negotiation import Agreement
from imaging_ingestion.dimse.p_data import PDataReceived
from imaging_ingestion.dimse.requestor import build_request, interpret
from imaging_ingestion.dimse.upper_layer import Role, UpperLayer

MIB = 1 << 20
LIMIT = 300 * MIB
LARGE = int(os.environ.get("IMAGING_INGESTION_TEST_LARGE", "1024")) * MIB
SERVER = Path(__file__).resolve().parents[2] / "benchmarks" / "dimse_server.py"
#: Not zeros: nothing on the way may make it smaller.
NOISE = hashlib.shake_256(b"noise").digest(MIB)


class Peer:
    """A blocking SCU that sends as fast as it is let."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=300)
        self._layer = UpperLayer(Role.REQUESTOR)
        request = build_request([CT], called_ae_title="X", calling_ae_title="LARGE")
        self._layer.send(request)
        self.send(self._layer.connection_made())
        answer = self._receive()
        assert isinstance(answer, AssociateAccepted), answer
        self.agreement: Agreement = interpret(request, answer.accept)
        self._reader = MessageReader(self.agreement.contexts)

    def send(self, buffers: list[bytes | bytearray | memoryview]) -> None:
        """Send all of it."""
        for buffer in buffers:
            self.socket.sendall(buffer)

    def answer(self) -> Command:
        """The next response."""
        while True:
            part = self._receive()
            assert isinstance(part, PDataReceived), part
            event = self._reader.receive(part)
            if isinstance(event, CommandReceived):
                assert isinstance(event.command, CStoreResponse)
                return event.command

    def _receive(self) -> Event:
        while True:
            events = self._layer.receive_data(self.socket.recv(65536))
            if events:
                (event,) = events
                return event


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], int, Path]]:
    port, data = free_port(), tmp_path / "data"
    command = [sys.executable, str(SERVER), "--port", str(port), "--data", str(data)]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 60
        while True:
            assert process.poll() is None, (tmp_path / "log").read_text()
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.05)
        yield process, port, data
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        shutil.rmtree(data, ignore_errors=True)


def peak(process: subprocess.Popen[bytes]) -> int:
    """The most memory that the process ever had, in bytes."""
    status = Path(f"/proc/{process.pid}/status").read_text()
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
    writer = MessageWriter(peer.agreement.max_sent_pdu_length)
    request = store_request(CT_IMAGE_STORAGE, ct(number=number).sop_instance)
    peer.send(writer.command(1, request, has_data_set=True).buffers)
    for piece in data_set(number, size):
        peer.send(writer.data_set(piece, is_last=False).buffers)
    peer.send(writer.data_set(b"", is_last=True).buffers)
    answer = peer.answer()
    assert isinstance(answer, CStoreResponse)
    return answer.status


def objects(data: Path) -> list[int]:
    """Sizes of the objects."""
    return [p.stat().st_size for p in (data / "space").rglob("*.dcm") if p.is_file()]


def test_a_large_multi_frame_instance_is_stored_in_little_memory(
    server: tuple[subprocess.Popen[bytes], int, Path],
) -> None:
    process, port, data = server
    peer = Peer(port)
    began = time.monotonic()
    assert store(peer, 1, LARGE) == 0
    seconds = time.monotonic() - began
    peer.socket.close()
    (size,) = objects(data)
    assert size > min(LARGE, 0xFFFFFFFE)
    print(f"{size / MIB:.0f} MiB in {seconds:.1f} s, peak {peak(process) / MIB:.0f} MiB")
    assert peak(process) < LIMIT


def test_many_large_instances_at_once_share_the_memory(
    server: tuple[subprocess.Popen[bytes], int, Path],
) -> None:
    process, port, data = server
    statuses: list[int] = []

    def work(number: int) -> None:
        peer = Peer(port)
        statuses.append(store(peer, number, 32 * MIB))
        peer.socket.close()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(1, 33)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [0] * 32
    assert len(objects(data)) == 32
    print(f"peak {peak(process) / MIB:.0f} MiB")
    assert peak(process) < LIMIT


def test_a_hundred_instances_that_stop_in_the_middle_cost_little(
    server: tuple[subprocess.Popen[bytes], int, Path],
) -> None:
    process, port, _ = server
    peers = []
    for number in range(100):
        peer = Peer(port)
        writer = MessageWriter(peer.agreement.max_sent_pdu_length)
        request = store_request(CT_IMAGE_STORAGE, ct(number=number).sop_instance)
        peer.send(writer.command(1, request, has_data_set=True).buffers)
        pieces = data_set(number, 8 * MIB)
        for _ in range(3):
            peer.send(writer.data_set(next(pieces), is_last=False).buffers)
        peers.append(peer)
    last = Peer(port)
    assert store(last, 1000, MIB) == 0
    for peer in [*peers, last]:
        peer.socket.close()
    print(f"peak {peak(process) / MIB:.0f} MiB")
    assert peak(process) < LIMIT
