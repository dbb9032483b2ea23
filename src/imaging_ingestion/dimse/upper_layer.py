"""One association over one connection: bytes in, events out; primitives in, bytes out (PS3.8).

    layer = UpperLayer(Role.ACCEPTOR)
    write(layer.connection_made())
    for event in layer.receive_data(received):
        if isinstance(event, AssociateRequested):
            write(layer.send(AssociateAccept(…)))
    write(layer.data_to_send())
    if layer.must_close: close()

It does no I/O and knows no time. Whoever drives it keeps three rules: write what `send` and
`connection_made` return, and `data_to_send` after any other call; keep the ARTIM timer as
`artim_running` and `artim_starts` say; and when `must_close`, close the connection after writing.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Final

from imaging_ingestion.dimse.error import (
    AbortReason,
    AbortSource,
    AssociationOverError,
    LocalProtocolError,
    UnexpectedPduError,
    WrongStateError,
)
from imaging_ingestion.dimse.event import (
    Aborted,
    AbortOrigin,
    AssociateAccepted,
    AssociateRejected,
    AssociateRequested,
    ConnectionClosed,
    Event,
    ReleaseConfirmed,
    ReleaseRequested,
)
from imaging_ingestion.dimse.p_data import PDataReceived, PDataRequest
from imaging_ingestion.dimse.pdu import (
    PROTOCOL_VERSION,
    Abort,
    AssociateAccept,
    AssociateReject,
    AssociateRequest,
    Buffer,
    Pdu,
    ReleaseRequest,
    ReleaseResponse,
    encode_pdu,
)
from imaging_ingestion.dimse.pdu_reader import MAX_ASSOCIATE_LENGTH, InvalidPdu, Item, PduReader
from imaging_ingestion.dimse.rejection import PROTOCOL_VERSION_NOT_SUPPORTED
from imaging_ingestion.dimse.state import (
    ACTIONS,
    TAKES_DATA,
    TRANSITIONS,
    Action,
    Effect,
    Evt,
    State,
)

#: For a peer that does not say how long its P-DATA-TF may be, though it must (PS3.8 annex D.1).
ASSUMED_MAX_PDU_LENGTH: Final = 16384

Primitive = Pdu | PDataRequest
_Item = Item | PDataRequest | None  # what an event of the table comes with


class Role(Enum):
    """Who asked for the association."""

    REQUESTOR = auto()
    ACCEPTOR = auto()


_RECEIVED: Final[dict[type, Evt]] = {
    AssociateRequest: Evt.A_ASSOCIATE_RQ_RECEIVED,
    AssociateAccept: Evt.A_ASSOCIATE_AC_RECEIVED,
    AssociateReject: Evt.A_ASSOCIATE_RJ_RECEIVED,
    PDataReceived: Evt.P_DATA_TF_RECEIVED,
    ReleaseRequest: Evt.A_RELEASE_RQ_RECEIVED,
    ReleaseResponse: Evt.A_RELEASE_RP_RECEIVED,
    Abort: Evt.A_ABORT_RECEIVED,
    InvalidPdu: Evt.INVALID_PDU_RECEIVED,
}
_ASKED: Final[dict[type, Evt]] = {
    AssociateRequest: Evt.A_ASSOCIATE_REQUEST,
    AssociateAccept: Evt.A_ASSOCIATE_RESPONSE_ACCEPT,
    AssociateReject: Evt.A_ASSOCIATE_RESPONSE_REJECT,
    PDataRequest: Evt.P_DATA_REQUEST,
    ReleaseRequest: Evt.A_RELEASE_REQUEST,
    ReleaseResponse: Evt.A_RELEASE_RESPONSE,
    Abort: Evt.A_ABORT_REQUEST,
}


class UpperLayer:
    """The DICOM upper layer for one connection. Lengths are in bytes."""

    def __init__(self, role: Role, *, max_associate_length: int = MAX_ASSOCIATE_LENGTH) -> None:
        self.role = role
        self.state = State.STA1
        #: Whether the ARTIM timer is to run (PS3.8 9.1.5).
        self.artim_running = False
        #: How often it was started: when this has grown, start the clock anew.
        self.artim_starts = 0
        #: The connection is to be closed, after what `data_to_send` has is written.
        self.must_close = False
        #: The longest P-DATA-TF the peer takes; 0: any. Known when the association is.
        self.peer_max_pdu_length = 0
        self._reader = PduReader(max_associate_length=max_associate_length)
        self._out: list[Buffer] = []
        self._events: list[Event] = []
        self._request: AssociateRequest | None = None
        self._answer_release_later = False

    @property
    def held(self) -> int:
        """How many received bytes are kept, waiting for more."""
        return self._reader.held

    def data_to_send(self) -> list[Buffer]:
        """Take what is to be written, in order."""
        out, self._out = self._out, []
        return out

    def connection_made(self) -> list[Buffer]:
        """The connection is open. What to write. Raises WrongStateError."""
        if self.role is Role.ACCEPTOR:
            self._local(Evt.TRANSPORT_CONNECTION_INDICATED, None)
        else:
            self._local(Evt.TRANSPORT_CONNECTION_CONFIRMED, self._request)
        return self.data_to_send()

    def receive_data(self, data: Buffer) -> list[Event]:
        """Take bytes from the connection, any number of them.

        Never raises for what the peer sent: its faults are events. The events hold views of `data`.
        Raises WrongStateError before there is a connection.
        """
        if self.state is State.STA1 and self.must_close:
            return []  # closed on our side, while these were on their way
        if self.state in (State.STA1, State.STA4):
            raise WrongStateError("there is no connection yet")
        events: list[Event] = []
        for item in self._reader.receive(data):
            if type(item) is PDataReceived and self.state in TAKES_DATA:
                events.append(item)  # DT-2 and AR-6 without the way through the table
            elif not self.must_close:
                self._event(_RECEIVED[type(item)], item)
                if self._events:
                    events += self._take_events()
        return events

    def receive_eof(self) -> list[Event]:
        """The connection was closed by the peer, or lost."""
        if self.state is State.STA1:
            self.must_close = True
            return []
        self._event(Evt.TRANSPORT_CONNECTION_CLOSED, None)
        self.must_close = True
        return self._take_events() or [ConnectionClosed()]

    def artim_expired(self) -> None:
        """The ARTIM timer ran out; nothing happens if it is not running (any more)."""
        if self.artim_running:
            self._event(Evt.ARTIM_EXPIRED, None)

    def send(self, primitive: Primitive) -> list[Buffer]:
        """Ask for something; what to write, with all that is still to be written.

        An AssociateRequest is written by `connection_made`. A ReleaseResponse may be given as soon
        as ReleaseRequested was seen: in a collision it is kept until it is the acceptor's turn.
        Raises WrongStateError (AssociationOverError if it has ended), LocalProtocolError,
        EncodingError; then nothing has changed.
        """
        if isinstance(primitive, ReleaseResponse) and self.state is State.STA10:
            self._answer_release_later = True
            return self.data_to_send()
        if isinstance(primitive, PDataRequest) and 0 < self.peer_max_pdu_length < primitive.longest:
            raise LocalProtocolError(
                f"a P-DATA-TF of {primitive.longest} bytes; the peer takes "
                f"{self.peer_max_pdu_length} at most"
            )
        self._local(_ASKED[type(primitive)], primitive)
        return self.data_to_send()

    def _local(self, evt: Evt, primitive: Primitive | None) -> None:
        if (evt, self.state) not in TRANSITIONS or self.must_close or not self._has_right_to(evt):
            what = type(primitive).__name__ if primitive is not None else evt.name.lower()
            if self.state is State.STA13 or self.must_close:
                raise AssociationOverError(f"the association is over: {what} comes too late")
            raise WrongStateError(f"{what} is not possible in {self.state.name}")
        self._event(evt, primitive)

    def _has_right_to(self, evt: Evt) -> bool:
        """Only a requestor requests; the table does not tell the roles apart in Sta1."""
        return evt is not Evt.A_ASSOCIATE_REQUEST or self.role is Role.REQUESTOR

    def _event(self, evt: Evt, item: _Item) -> None:
        """Go through the table. Raises EncodingError before anything has changed."""
        action = TRANSITIONS[evt, self.state]
        step = ACTIONS[action]
        if step.otherwise is not None and not _acceptable(item):
            step = step.otherwise
        if Effect.SEND_ABORT in step.effects and not isinstance(item, Abort | InvalidPdu):
            name = evt.name.removesuffix("_RECEIVED").replace("_", "-")
            item = InvalidPdu(UnexpectedPduError(f"{name} in {self.state.name}"))
        out = _encode(step.effects, item)
        for effect in step.effects:
            match effect:
                case Effect.ISSUE:
                    self._events.append(_indication(action, item))
                case Effect.START_ARTIM:
                    self.artim_running = True
                    self.artim_starts += 1
                case Effect.STOP_ARTIM:
                    self.artim_running = False
                case Effect.CLOSE:
                    self.must_close = True
                case _:
                    pass  # CONNECT is the driver's work, and what is sent is in `out`
        if action is Action.AA_1 and not isinstance(item, Abort):
            # There was no association to issue anything to, but the driver will want to know why.
            self._events.append(_indication(action, item))
        self._out += out
        self._learn(evt, item)
        acceptor = self.role is Role.ACCEPTOR
        next_state = step.for_acceptor if acceptor and step.for_acceptor else step.next_state
        self.state = next_state
        if self.state is State.STA12 and self._answer_release_later:
            self._event(Evt.A_RELEASE_RESPONSE, ReleaseResponse())

    def _learn(self, evt: Evt, item: _Item) -> None:
        """Keep what later steps depend on: who takes P-DATA-TF of which length."""
        if isinstance(item, AssociateRequest) and evt is Evt.A_ASSOCIATE_REQUEST:
            self._request = item
        if isinstance(item, AssociateRequest | AssociateAccept):
            stated = item.user_information.max_pdu_length
            if evt in (Evt.A_ASSOCIATE_RQ_RECEIVED, Evt.A_ASSOCIATE_AC_RECEIVED):
                self.peer_max_pdu_length = ASSUMED_MAX_PDU_LENGTH if stated is None else stated
            else:
                self._reader.max_pdu_length = stated or 0

    def _take_events(self) -> list[Event]:
        events, self._events = self._events, []
        return events


def _encode(effects: tuple[Effect, ...], item: _Item) -> list[Buffer]:
    """What an action sends."""
    if isinstance(item, PDataRequest):
        return item.buffers
    if isinstance(item, InvalidPdu) and Effect.SEND_ABORT in effects:
        return [encode_pdu(Abort.because_of(item.error))]
    if Effect.SEND_REJECT in effects:
        return [encode_pdu(PROTOCOL_VERSION_NOT_SUPPORTED)]
    if isinstance(item, PDataReceived | InvalidPdu | None):
        return []
    if Effect.CONNECT in effects:
        encode_pdu(item)  # only to see that it will be possible when there is a connection
    return [encode_pdu(item)] if {Effect.SEND, Effect.SEND_ABORT} & set(effects) else []


def _indication(action: Action, item: _Item) -> Event:
    """The indication or confirmation that an action issues."""
    match action, item:
        case Action.DT_2 | Action.AR_6, PDataReceived():
            return item
        case Action.AE_6, AssociateRequest():
            return AssociateRequested(item)
        case Action.AE_3, AssociateAccept():
            return AssociateAccepted(item)
        case Action.AE_4, AssociateReject():
            return AssociateRejected(item)
        case Action.AR_2 | Action.AR_8, _:
            return ReleaseRequested(collision=action is Action.AR_8)
        case Action.AR_3 | Action.AR_10, _:
            return ReleaseConfirmed()
        case Action.AA_3, Abort():
            return Aborted(item.source, item.reason, AbortOrigin.PEER)
        case Action.AA_4, _:
            provider, unspecified = AbortSource.SERVICE_PROVIDER, AbortReason.NOT_SPECIFIED
            return Aborted(provider, unspecified, AbortOrigin.CONNECTION)
        case Action.AA_1 | Action.AA_8, InvalidPdu(error):
            return Aborted(error.abort_source, error.abort_reason, AbortOrigin.LOCAL, error)
        case _:
            raise AssertionError(f"{action.value} issues nothing for {type(item).__name__}")


def _acceptable(item: _Item) -> bool:
    """Whether the service provider accepts a request (AE-6): version 1 is one it offers."""
    return isinstance(item, AssociateRequest) and bool(item.protocol_version & PROTOCOL_VERSION)
