"""A peer on a TCP connection that may say anything, and reads what is said to it PDU by PDU."""

from __future__ import annotations

import asyncio
import ssl
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from imaging_ingestion.dimse.command import Command, CStoreRequest, RefusedRequest
from imaging_ingestion.dimse.message import CommandReceived, MessageReader, MessageWriter
from imaging_ingestion.dimse.negotiation import Agreement
from imaging_ingestion.dimse.p_data import PDataReceived
from imaging_ingestion.dimse.pdu import (
    P_DATA_TF,
    Abort,
    AssociateAccept,
    AssociateReject,
    AssociateRequest,
    Pdu,
    ReleaseRequest,
    ReleaseResponse,
    decode_pdu,
    encode_pdu,
)
from imaging_ingestion.dimse.pdu_items import UserIdentity
from imaging_ingestion.dimse.pdu_reader import PduReader
from imaging_ingestion.dimse.requestor import Proposal, build_request, interpret

DEADLINE = 30.0  # seconds for whatever is waited for


class RawPeer:
    """One connection. Whatever it reads and is not what a test expects fails the test."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.agreement: Agreement | None = None
        self._answers: MessageReader | None = None

    async def send(self, *pieces: bytes) -> None:
        """Send bytes; does not mind if the other side has closed."""
        try:
            for piece in pieces:
                self.writer.write(piece)
                await self.writer.drain()
        except ConnectionError:
            return

    async def read(self) -> bytes:
        """The next whole PDU. Raises IncompleteReadError, ConnectionError."""
        async with asyncio.timeout(DEADLINE):
            head = await self.reader.readexactly(6)
            return head + await self.reader.readexactly(struct.unpack(">xxL", head)[0])

    async def pdu(self) -> Pdu:
        """The next PDU, which is to be none of P-DATA-TF."""
        data = await self.read()
        assert data[0] != P_DATA_TF, data
        return decode_pdu(data)

    async def closed(self) -> bytes:
        """What is still said until the other side closes."""
        async with asyncio.timeout(DEADLINE):
            try:
                return await self.reader.read()
            except ConnectionError:
                return b""

    async def aborted(self) -> tuple[int, int]:
        """Source and reason of the A-ABORT that comes next, and nothing else."""
        answer = await self.pdu()
        assert isinstance(answer, Abort), answer
        return answer.source, answer.reason

    async def ask(self, request: AssociateRequest) -> AssociateAccept | AssociateReject:
        """Ask for an association."""
        await self.send(encode_pdu(request))
        answer = await self.pdu()
        assert isinstance(answer, AssociateAccept | AssociateReject), answer
        if isinstance(answer, AssociateAccept):
            self.agreement = interpret(request, answer)
            self._answers = MessageReader(self.agreement.contexts)
        return answer

    async def associate(self, *proposals: Proposal, called: str = "INGESTION") -> Agreement:
        """An association, which is to be accepted."""
        answer = await self.ask(
            build_request(proposals, called_ae_title=called, calling_ae_title="RAW")
        )
        assert isinstance(answer, AssociateAccept), answer
        assert self.agreement is not None
        return self.agreement

    async def answer(self) -> Command | RefusedRequest:
        """The next command of the other side, which is to have no data set."""
        assert self._answers is not None
        pdus = PduReader()
        while True:
            for part in pdus.receive(await self.read()):
                assert isinstance(part, PDataReceived), part
                event = self._answers.receive(part)
                if event is not None:
                    assert isinstance(event, CommandReceived)
                    assert not event.has_data_set
                    return event.command

    async def release(self) -> None:
        """End the association, and the connection with it."""
        await self.send(encode_pdu(ReleaseRequest()))
        assert isinstance(await self.pdu(), ReleaseResponse)
        self.writer.close()

    def cut(self) -> None:
        """End the connection as a cable that is pulled does, with a reset."""
        self.writer.transport.abort()


@asynccontextmanager
async def raw_peer(port: int, tls: ssl.SSLContext | None = None) -> AsyncIterator[RawPeer]:
    """A connection to a loopback port."""
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=tls, server_hostname="localhost" if tls else None
    )
    try:
        yield RawPeer(reader, writer)
    finally:
        writer.transport.abort()


def message(
    context_id: int, command: Command, data_set: bytes | None = None, max_pdu_length: int = 16384
) -> bytes:
    """A whole message as P-DATA-TF PDUs."""
    writer = MessageWriter(max_pdu_length)
    buffers = writer.command(context_id, command, has_data_set=data_set is not None).buffers
    if data_set is not None:
        buffers += writer.data_set(data_set, is_last=True).buffers
    return b"".join(buffers)


def store_request(sop_class: str, sop_instance: str, message_id: int = 1) -> CStoreRequest:
    """A C-STORE-RQ."""
    return CStoreRequest(
        message_id=message_id,
        affected_sop_class_uid=sop_class,
        affected_sop_instance_uid=sop_instance,
    )


def as_proposals(classes: Sequence[str], syntaxes: Sequence[str]) -> list[Proposal]:
    """Each class in each of those syntaxes."""
    return [Proposal(uid, tuple(syntaxes)) for uid in classes]


def identified(proposal: Proposal, identity: UserIdentity) -> AssociateRequest:
    """A request with a user identity."""
    return build_request(
        [proposal],
        called_ae_title="INGESTION",
        calling_ae_title="RAW",
        user_identity=identity,
    )
