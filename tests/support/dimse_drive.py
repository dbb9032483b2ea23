"""One association driven by any bytes, with everything checked that must hold whatever they are.

Input: a byte of flags, a byte that says how the rest is cut, and the rest, which is what the peer
sends. Flags: bit 0: we are the requestor; bits 1 and 2: what we do in the middle (0 nothing, 1 ask
for release, 2 abort, 3 lose the connection); bit 3: the ARTIM timer expires at the end.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

from associations import REQUEST

from imaging_ingestion.dimse.acceptor import (
    Acceptance,
    AcceptorPolicy,
    ContextPolicy,
    UnknownStorage,
    negotiate,
)
from imaging_ingestion.dimse.command import CCancelRequest, RefusedRequest, Request, respond
from imaging_ingestion.dimse.error import LocalProtocolError, RemoteProtocolError
from imaging_ingestion.dimse.event import (
    Aborted,
    AssociateAccepted,
    AssociateRejected,
    AssociateRequested,
    ConnectionClosed,
    Event,
    ReleaseConfirmed,
    ReleaseRequested,
)
from imaging_ingestion.dimse.extended_negotiation import FindOptions
from imaging_ingestion.dimse.message import CommandReceived, MessageReader, MessageWriter
from imaging_ingestion.dimse.negotiation import Agreement
from imaging_ingestion.dimse.operations import PerformedOperations
from imaging_ingestion.dimse.p_data import PDataReceived
from imaging_ingestion.dimse.pdu import (
    Abort,
    AssociateReject,
    Buffer,
    ReleaseRequest,
    ReleaseResponse,
)
from imaging_ingestion.dimse.pdu_reader import InvalidPdu, PduReader
from imaging_ingestion.dimse.requestor import interpret
from imaging_ingestion.dimse.sop_class import STUDY_ROOT_FIND, VERIFICATION
from imaging_ingestion.dimse.state import State
from imaging_ingestion.dimse.upper_layer import Primitive, Role, UpperLayer

CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
SYNTAXES = ("1.2.840.10008.1.2.1", "1.2.840.10008.1.2")
MAX_ASSOCIATE_LENGTH = 1 << 16
MAX_COMMAND_SET_LENGTH = 4096

POLICY = AcceptorPolicy(
    {
        CT_IMAGE_STORAGE: ContextPolicy(SYNTAXES, requestor_may_be_scp=True),
        VERIFICATION: ContextPolicy(SYNTAXES),
        STUDY_ROOT_FIND: ContextPolicy(
            SYNTAXES, answer_extended=FindOptions(relational_queries=True).answer
        ),
    },
    unknown_storage=UnknownStorage.PRIVATE,
    unknown_storage_policy=ContextPolicy(SYNTAXES),
    max_pdu_length=16384,
)
RELEASE, ABORT, LOSE = 1, 2, 3


@dataclass
class Driver:
    """Answers as a service would, and checks."""

    layer: UpperLayer
    events: list[Event] = field(default_factory=list)
    commands: list[CommandReceived] = field(default_factory=list)
    data_set_bytes: int = 0
    sent: bytearray = field(default_factory=bytearray)
    _ends: int = 0
    _agreement: Agreement | None = None
    _reader: MessageReader | None = None
    _writer: MessageWriter | None = None
    _operations: PerformedOperations = field(default_factory=lambda: PerformedOperations(0))

    def receive(self, data: memoryview) -> None:
        """What the peer sends next."""
        self.take(self.layer.receive_data(data))
        assert self.layer.held <= MAX_ASSOCIATE_LENGTH + 6

    def take(self, events: list[Event]) -> None:
        """Act on events."""
        for event in events:
            self.events.append(event)
            self._ends += isinstance(event, AssociateRejected | Aborted)
            match event:
                case AssociateRequested(request):
                    answer = negotiate(request, POLICY)
                    if isinstance(answer, AssociateReject):
                        self.send(answer)
                    else:
                        assert isinstance(answer, Acceptance)
                        self._begin(answer.agreement)
                        self.send(answer.accept)
                case AssociateAccepted(accept):
                    try:
                        self._begin(interpret(REQUEST, accept))
                    except RemoteProtocolError as error:
                        self.send(Abort.because_of(error))
                case PDataReceived():
                    self._p_data(event)
                case ReleaseRequested():
                    self.send(ReleaseResponse())
                case AssociateRejected() | ReleaseConfirmed() | Aborted() | ConnectionClosed():
                    pass
        self.check()

    def send(self, primitive: Primitive) -> None:
        """Ask for something; it may come too late, which is not an error of the peer."""
        try:
            self._wrote(self.layer.send(primitive))
        except LocalProtocolError:
            self._wrote(self.layer.data_to_send())

    def _wrote(self, buffers: list[Buffer]) -> None:
        for buffer in buffers:
            self.sent += buffer

    def _begin(self, agreement: Agreement) -> None:
        self._agreement = agreement
        self._reader = MessageReader(
            agreement.contexts, max_command_set_length=MAX_COMMAND_SET_LENGTH
        )
        self._writer = MessageWriter(agreement.max_sent_pdu_length)

    def _p_data(self, part: PDataReceived) -> None:
        if self._reader is None or self._writer is None or self.layer.state is State.STA13:
            return
        try:
            got = self._reader.receive(part)
        except RemoteProtocolError as error:
            self.send(Abort.because_of(error))
            return
        if not isinstance(got, CommandReceived):
            self.data_set_bytes += len(got.data) if got else 0
            return
        self.commands.append(got)
        match got.command:
            case RefusedRequest() as refused:
                self.send(self._writer.command(got.context_id, refused.response()))
            case Request(message_id=message_id) as request:
                duplicate = self._operations.begin(message_id)
                answer = respond(request, duplicate or 0)
                self.send(self._writer.command(got.context_id, answer))
            case CCancelRequest(message_id_being_responded_to=message_id):
                self._operations.end(message_id)

    def check(self) -> None:
        """What always holds."""
        layer = self.layer
        self._wrote(layer.data_to_send())
        if layer.artim_running:
            assert layer.state in (State.STA2, State.STA13)
        if layer.state is State.STA13:
            assert layer.artim_running
        assert layer.must_close is (layer.state is State.STA1)
        assert self._ends <= 1

    def check_sent(self) -> None:
        """What was sent is whole PDUs, none of them longer than the peer takes."""
        reader = PduReader()
        if self._agreement is not None:
            reader.max_pdu_length = self._agreement.max_sent_pdu_length
        assert not any(isinstance(item, InvalidPdu) for item in reader.receive(self.sent))
        assert reader.held == 0


def drive(data: bytes) -> Driver:
    """Run one input."""
    flags, cut = (data[0], data[1]) if len(data) >= 2 else (0, 0)
    wire = memoryview(data)[2:]
    role = Role.REQUESTOR if flags & 1 else Role.ACCEPTOR
    driver = Driver(UpperLayer(role, max_associate_length=MAX_ASSOCIATE_LENGTH))
    if role is Role.REQUESTOR:
        driver.send(REQUEST)
    driver._wrote(driver.layer.connection_made())
    middle = len(wire) // 2
    surprise = flags >> 1 & 3
    for start, stop in _pieces(wire, cut):
        if surprise and start >= middle:
            _surprise(driver, surprise)
            surprise = 0
        driver.receive(wire[start:stop])
    if flags & 8:
        driver.layer.artim_expired()
        driver.check()
    driver.take(driver.layer.receive_eof())
    assert driver.layer.must_close
    assert driver.layer.receive_eof() == []
    assert driver.data_set_bytes <= len(wire)
    driver.check_sent()
    return driver


def _pieces(wire: memoryview, cut: int) -> list[tuple[int, int]]:
    """Where to cut: all along, and behind the first PDU, for a peer waits for its answer."""
    places = set(range(0, len(wire), cut or max(1, len(wire)))) | {len(wire)}
    if len(wire) >= 6:
        first = 6 + int.from_bytes(wire[2:6], "big")
        places |= {min(first, len(wire))}
    at = sorted(places)
    return list(pairwise(at))


def _surprise(driver: Driver, what: int) -> None:
    if what == RELEASE:
        driver.send(ReleaseRequest())
    elif what == ABORT:
        driver.send(Abort())
    else:
        driver.take(driver.layer.receive_eof())
    driver.check()
