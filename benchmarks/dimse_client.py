"""A C-STORE SCU that costs next to nothing, so that a benchmark measures the server.

The PDUs of one instance are laid out once; for each further instance only its UIDs and its Message
ID are written over. TCP_NODELAY is on, what is received is acknowledged at once (a server that has
Nagle's algorithm on waits 40 ms for that otherwise), and every response is read before the next
request.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence

from corpus import Template, uid
from imaging_ingestion.dimse.command import CStoreRequest, CStoreResponse
from imaging_ingestion.dimse.event import AssociateAccepted, Event, ReleaseConfirmed
from imaging_ingestion.dimse.message import CommandReceived, MessageReader, MessageWriter
from imaging_ingestion.dimse.p_data import PDataReceived
from imaging_ingestion.dimse.pdu import Buffer, ReleaseRequest
from imaging_ingestion.dimse.requestor import Proposal, build_request, interpret
from imaging_ingestion.dimse.upper_layer import Role, UpperLayer

CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
MARK = (999999, 9999, 9)  # study, series and instance of the template
#: Our P-DATA-TF are no longer than this, whatever the peer takes.
LONGEST_PDU = 131072


class RefusedError(Exception):
    """There is no association, or an instance was not stored."""


class StoreClient:
    """One association for CT images. Raises RefusedError, OSError."""

    def __init__(self, host: str, port: int) -> None:
        self._socket = socket.create_connection((host, port), timeout=120)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._layer = UpperLayer(Role.REQUESTOR)
        self._layer.send(
            request := build_request(
                [Proposal(CT_IMAGE_STORAGE, (EXPLICIT_VR_LITTLE_ENDIAN,))],
                called_ae_title="BENCH",
                calling_ae_title="CLIENT",
            )
        )
        self._send(self._layer.connection_made())
        answer = self._receive()
        if not isinstance(answer, AssociateAccepted):
            self._socket.close()
            raise RefusedError(str(answer))
        agreement = interpret(request, answer.accept)
        context = agreement.context_for(CT_IMAGE_STORAGE)
        if context is None:
            self._socket.close()
            raise RefusedError("CT Image Storage is not accepted")
        self._context_id = context.context_id
        self._reader = MessageReader(agreement.contexts)
        longest = agreement.max_sent_pdu_length or LONGEST_PDU
        self._writer = MessageWriter(min(longest, LONGEST_PDU))
        self._message = bytearray()
        self._places: dict[str, list[int]] = {}
        self._message_id_at = 0
        self._message_id = 0

    def prepare(self, template: Template) -> None:
        """Lay out the PDUs of an instance."""
        whole = b"".join(template.instance(*MARK))
        data_set = whole[_file_meta_end(whole) :]
        sop_instance = uid(*MARK).decode()
        command = self._writer.command(
            self._context_id,
            CStoreRequest(
                message_id=0xAAAA,
                affected_sop_class_uid=CT_IMAGE_STORAGE,
                affected_sop_instance_uid=sop_instance,
            ),
            has_data_set=True,
        )
        pieces = command.buffers + self._writer.data_set(data_set, is_last=True).buffers
        self._message = bytearray(b"".join(pieces))
        study, series, _ = MARK
        marks = {
            "study": uid(study, 0, 0),
            "series": uid(study, series, 0),
            "sop": uid(*MARK),
        }
        self._places = {kind: _every(self._message, mark) for kind, mark in marks.items()}
        self._message_id_at = self._message.index(b"\0\0\x10\x01\x02\0\0\0\xaa\xaa") + 8

    def store(self, study: int, series: int, number: int) -> None:
        """Store one instance, and wait for the answer."""
        values = {
            "study": uid(study, 0, 0),
            "series": uid(study, series, 0),
            "sop": uid(study, series, number),
        }
        message = self._message
        for kind, places in self._places.items():
            value = values[kind]
            for at in places:
                message[at : at + len(value)] = value
        self._message_id = self._message_id % 65535 + 1
        struct.pack_into("<H", message, self._message_id_at, self._message_id)
        self._socket.sendall(message)
        answer = self._response()
        if answer.status or answer.message_id_being_responded_to != self._message_id:
            raise RefusedError(f"{answer.status:04X}H {answer.error_comment}")

    def close(self) -> None:
        """Release the association."""
        self._send(self._layer.send(ReleaseRequest()))
        answer = self._receive()
        self._socket.close()
        if not isinstance(answer, ReleaseConfirmed):
            raise RefusedError(str(answer))

    def _response(self) -> CStoreResponse:
        while True:
            part = self._receive()
            if not isinstance(part, PDataReceived):
                raise RefusedError(str(part))
            event = self._reader.receive(part)
            if isinstance(event, CommandReceived):
                assert isinstance(event.command, CStoreResponse)
                return event.command

    def _receive(self) -> Event:
        while True:
            # Not a lasting setting: the kernel goes back to delayed acknowledgements by itself.
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
            data = self._socket.recv(65536)
            events = self._layer.receive_data(data) if data else self._layer.receive_eof()
            if events:
                (event,) = events
                return event

    def _send(self, buffers: Sequence[Buffer]) -> None:
        self._socket.sendall(b"".join(buffers))


def _file_meta_end(data: bytes) -> int:
    """Where the data set begins in a Part 10 file."""
    (length,) = struct.unpack_from("<L", data, 140)
    return int(144 + length)


def _every(data: bytearray, mark: bytes) -> list[int]:
    places, at = [], data.find(mark)
    while at >= 0:
        places.append(at)
        at = data.find(mark, at + 1)
    return places
