"""The upper layer, driven by real bytes into every state, and on from there by every event."""

from __future__ import annotations

import pytest
from associations import (
    ACCEPT,
    REQUEST,
    established,
    joined,
    layer_in,
    p_data,
    roles_of,
)

from imaging_ingestion.dimse.error import (
    AssociationOverError,
    EncodingError,
    InvalidParameterError,
    LocalProtocolError,
    UnexpectedPduError,
    UnrecognizedPduError,
    WrongStateError,
)
from imaging_ingestion.dimse.event import (
    Aborted,
    AbortOrigin,
    AssociateAccepted,
    AssociateRejected,
    AssociateRequested,
    ConnectionClosed,
    ReleaseConfirmed,
    ReleaseRequested,
)
from imaging_ingestion.dimse.p_data import PDataReceived, fragment
from imaging_ingestion.dimse.pdu import (
    Abort,
    AssociateReject,
    AssociateRequest,
    ReleaseRequest,
    ReleaseResponse,
    decode_pdu,
    encode_pdu,
)
from imaging_ingestion.dimse.pdu_items import UserInformation
from imaging_ingestion.dimse.pdu_reader import MAX_ASSOCIATE_LENGTH
from imaging_ingestion.dimse.rejection import (
    CALLED_AE_TITLE_NOT_RECOGNIZED,
    PROTOCOL_VERSION_NOT_SUPPORTED,
)
from imaging_ingestion.dimse.state import ACTIONS, TRANSITIONS, Evt, State
from imaging_ingestion.dimse.upper_layer import Role, UpperLayer

GARBAGE = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"  # a TLS ClientHello

RECEIVED = {
    Evt.A_ASSOCIATE_AC_RECEIVED: encode_pdu(ACCEPT),
    Evt.A_ASSOCIATE_RJ_RECEIVED: encode_pdu(CALLED_AE_TITLE_NOT_RECOGNIZED),
    Evt.A_ASSOCIATE_RQ_RECEIVED: encode_pdu(REQUEST),
    Evt.P_DATA_TF_RECEIVED: p_data(),
    Evt.A_RELEASE_RQ_RECEIVED: encode_pdu(ReleaseRequest()),
    Evt.A_RELEASE_RP_RECEIVED: encode_pdu(ReleaseResponse()),
    Evt.A_ABORT_RECEIVED: encode_pdu(Abort(2, 6)),
    Evt.INVALID_PDU_RECEIVED: GARBAGE,
}
ASKED = {
    Evt.A_ASSOCIATE_REQUEST: REQUEST,
    Evt.A_ASSOCIATE_RESPONSE_ACCEPT: ACCEPT,
    Evt.A_ASSOCIATE_RESPONSE_REJECT: CALLED_AE_TITLE_NOT_RECOGNIZED,
    Evt.P_DATA_REQUEST: fragment(1, b"ab", is_command=True, is_last=True, max_pdu_length=0),
    Evt.A_RELEASE_REQUEST: ReleaseRequest(),
    Evt.A_RELEASE_RESPONSE: ReleaseResponse(),
    Evt.A_ABORT_REQUEST: Abort(),
}

# PS3.8 tables 9-6 to 9-9 in the order: what is sent, what is issued, the ARTIM timer (+ started, -
# stopped), whether the connection is closed by us.
DOES = {
    "AE-1": ("", "", "", False),
    "AE-2": ("01", "", "", False),
    "AE-3": ("", "AssociateAccepted", "", False),
    "AE-4": ("", "AssociateRejected", "", True),
    "AE-5": ("", "", "+", False),
    "AE-6": ("", "AssociateRequested", "-", False),
    "AE-7": ("02", "", "", False),
    "AE-8": ("03", "", "+", False),
    "DT-1": ("04", "", "", False),
    "DT-2": ("", "PDataReceived", "", False),
    "AR-1": ("05", "", "", False),
    "AR-2": ("", "ReleaseRequested", "", False),
    "AR-3": ("", "ReleaseConfirmed", "", True),
    "AR-4": ("06", "", "+", False),
    "AR-5": ("", "ConnectionClosed", "-", True),
    "AR-6": ("", "PDataReceived", "", False),
    "AR-7": ("04", "", "", False),
    "AR-8": ("", "ReleaseRequested", "", False),
    "AR-9": ("06", "", "", False),
    "AR-10": ("", "ReleaseConfirmed", "", False),
    # The standard issues nothing in AA-1; a fault of the peer is told to the driver all the same.
    "AA-1": ("07", "Aborted", "+", False),
    "AA-2": ("", "", "-", True),
    "AA-3": ("", "Aborted", "", True),
    "AA-4": ("", "Aborted", "", True),
    "AA-5": ("", "ConnectionClosed", "-", True),
    "AA-6": ("", "", "", False),
    "AA-7": ("07", "", "", False),
    "AA-8": ("07", "Aborted", "+", False),
}
CASES = [
    pytest.param(event, state, role, id=f"Evt{int(event)}-Sta{int(state)}-{role.name}")
    for event in Evt
    for state in State
    for role in roles_of(state)
    # The same call is the one event for a requestor and the other for an acceptor.
    if (event, role)
    not in (
        (Evt.TRANSPORT_CONNECTION_CONFIRMED, Role.ACCEPTOR),
        (Evt.TRANSPORT_CONNECTION_INDICATED, Role.REQUESTOR),
    )
]


def apply(layer: UpperLayer, event: Evt) -> tuple[list[object], bytes]:
    """Let an event happen; what was issued, and what is to be sent."""
    events: list[object] = []
    out = b""
    if event in RECEIVED:
        events += layer.receive_data(RECEIVED[event])
    elif event in ASKED:
        out = joined(layer.send(ASKED[event]))
    elif event is Evt.TRANSPORT_CONNECTION_CLOSED:
        events += layer.receive_eof()
    elif event is Evt.ARTIM_EXPIRED:
        layer.artim_expired()
    else:
        out = joined(layer.connection_made())
    return events, out + joined(layer.data_to_send())


@pytest.mark.parametrize(("event", "state", "role"), CASES)
def test_each_event_in_each_state_does_what_the_standard_says(
    event: Evt, state: State, role: Role
) -> None:
    layer = layer_in(state, role)
    running, starts = layer.artim_running, layer.artim_starts
    action = TRANSITIONS.get((event, state))
    if event is Evt.A_ASSOCIATE_REQUEST and role is Role.ACCEPTOR:
        action = None
    if action is None:
        check_empty_cell(layer, event, state)
        assert (layer.artim_running, layer.artim_starts) == (running, starts)
        return
    events, out = apply(layer, event)
    sent, issued, artim, closes = DOES[action.value]
    if event is Evt.A_ABORT_REQUEST:
        issued = ""
    assert [type(e).__name__ for e in events] == [issued][: len(issued)]
    assert out[:1].hex() == sent
    step = ACTIONS[action]
    acceptor = role is Role.ACCEPTOR and step.for_acceptor
    assert layer.state is (acceptor or step.next_state)
    assert layer.must_close is closes
    assert layer.artim_starts - starts == (artim == "+")
    assert layer.artim_running is {"+": True, "-": False, "": running}[artim]


def check_empty_cell(layer: UpperLayer, event: Evt, state: State) -> None:
    if event is Evt.ARTIM_EXPIRED or (event, state) == (
        Evt.TRANSPORT_CONNECTION_CLOSED,
        State.STA1,
    ):
        assert apply(layer, event) == ([], b"")
    elif (event, state) == (Evt.A_RELEASE_RESPONSE, State.STA10):
        assert apply(layer, event) == ([], b"")  # kept, see the test of the collision
    else:
        with pytest.raises(AssociationOverError if state is State.STA13 else WrongStateError):
            apply(layer, event)
    assert layer.state is state


# A1
def test_an_association_is_made_used_and_released() -> None:
    requestor, acceptor = UpperLayer(Role.REQUESTOR), UpperLayer(Role.ACCEPTOR)
    assert requestor.send(REQUEST) == []
    assert acceptor.connection_made() == []
    assert acceptor.artim_running
    assert acceptor.receive_data(joined(requestor.connection_made())) == [
        AssociateRequested(REQUEST)
    ]
    assert not acceptor.artim_running
    assert requestor.receive_data(joined(acceptor.send(ACCEPT))) == [AssociateAccepted(ACCEPT)]

    data = fragment(1, b"0123456789", is_command=False, is_last=True, max_pdu_length=0)
    (event,) = acceptor.receive_data(joined(requestor.send(data)))
    assert event == PDataReceived(1, False, True, memoryview(b"0123456789"))

    assert acceptor.receive_data(joined(requestor.send(ReleaseRequest()))) == [ReleaseRequested()]
    assert requestor.receive_data(joined(acceptor.send(ReleaseResponse()))) == [ReleaseConfirmed()]
    assert requestor.must_close
    assert acceptor.artim_running
    assert acceptor.receive_eof() == [ConnectionClosed()]
    assert acceptor.must_close
    assert not acceptor.artim_running


def test_a_rejected_requestor_closes() -> None:
    layer = layer_in(State.STA5, Role.REQUESTOR)
    events = layer.receive_data(encode_pdu(CALLED_AE_TITLE_NOT_RECOGNIZED))
    assert events == [AssociateRejected(AssociateReject(1, 1, 7))]
    assert layer.must_close


# A3
def test_another_protocol_version_is_rejected_whatever_the_rest_looks_like() -> None:
    layer = layer_in(State.STA2, Role.ACCEPTOR)
    request = bytearray(encode_pdu(REQUEST))
    request[6:8] = b"\x00\x02"
    request[74:] = b"\xff" * (len(request) - 74)
    assert layer.receive_data(request) == []
    assert layer.data_to_send() == [encode_pdu(PROTOCOL_VERSION_NOT_SUPPORTED)]
    assert AssociateReject(1, 2, 2) == PROTOCOL_VERSION_NOT_SUPPORTED
    assert layer.state is State.STA13
    assert layer.artim_running


# A3
def test_a_peer_with_more_versions_than_ours_is_accepted() -> None:
    layer = layer_in(State.STA2, Role.ACCEPTOR)
    request = bytearray(encode_pdu(REQUEST))
    request[6:8] = b"\xff\xff"
    (event,) = layer.receive_data(request)
    assert isinstance(event, AssociateRequested)


# A16
@pytest.mark.parametrize("state", [State.STA2, State.STA3, State.STA5, State.STA6, State.STA8])
@pytest.mark.parametrize(
    ("data", "reason", "error"),
    [
        (b"\x08\x00\x00\x00\x00\x04abcd", 1, UnrecognizedPduError),
        (GARBAGE, 1, UnrecognizedPduError),
        (b"\x04\x00\x00\x00\x00\x05abcde", 6, InvalidParameterError),
        (b"\x01\x00\x00\x00\x00\x10" + bytes(16), 6, InvalidParameterError),
    ],
    ids=["type 8", "TLS", "short P-DATA", "short A-ASSOCIATE"],
)
def test_what_is_no_pdu_is_answered_by_an_abort_with_its_reason(
    state: State, data: bytes, reason: int, error: type
) -> None:
    layer = layer_in(state, roles_of(state)[0])
    (event,) = layer.receive_data(data)
    assert isinstance(event, Aborted)
    assert (event.source, event.reason, event.origin) == (2, reason, AbortOrigin.LOCAL)
    assert isinstance(event.error, error)
    assert layer.data_to_send() == [encode_pdu(Abort(2, reason))]
    assert layer.state is State.STA13
    assert layer.artim_running
    # What follows garbage is garbage.
    assert layer.receive_data(encode_pdu(REQUEST) + p_data()) == []
    assert layer.data_to_send() == []


# A16
def test_an_unexpected_pdu_is_answered_by_an_abort_with_its_reason() -> None:
    layer = established()
    (event,) = layer.receive_data(encode_pdu(ACCEPT))
    assert isinstance(event, Aborted)
    assert (event.source, event.reason) == (2, 2)
    assert isinstance(event.error, UnexpectedPduError)
    assert str(event.error) == "A-ASSOCIATE-AC in STA6"
    assert layer.data_to_send() == [encode_pdu(Abort(2, 2))]


# A16
def test_events_before_the_fault_are_not_lost() -> None:
    layer = established()
    events = layer.receive_data(p_data(b"good") + b"\x00")
    assert [type(event) for event in events] == [PDataReceived, Aborted]


# A17
def test_silence_after_connect_closes_when_artim_expires() -> None:
    layer = layer_in(State.STA2, Role.ACCEPTOR)
    assert layer.artim_running
    layer.artim_expired()
    assert layer.must_close
    assert not layer.artim_running
    assert layer.receive_data(encode_pdu(REQUEST)) == []
    assert layer.receive_eof() == []


# A18
def test_an_abort_of_the_peer_ends_everything_at_once() -> None:
    layer = established()
    events = layer.receive_data(p_data(is_last=False) + encode_pdu(Abort(0, 0)) + p_data())
    assert [type(event) for event in events] == [PDataReceived, Aborted]
    assert events[1] == Aborted(0, 0, AbortOrigin.PEER)
    assert layer.must_close
    assert layer.data_to_send() == []
    with pytest.raises(AssociationOverError):
        layer.send(ReleaseRequest())


def test_a_lost_connection_is_an_abort_by_the_provider() -> None:
    layer = established()
    assert layer.receive_eof() == [Aborted(2, 0, AbortOrigin.CONNECTION)]
    assert layer.receive_eof() == []
    assert layer.must_close


# A19
def test_a_release_collision_ends_well_for_both() -> None:
    requestor, acceptor = established(Role.REQUESTOR), established(Role.ACCEPTOR)
    from_requestor = joined(requestor.send(ReleaseRequest()))
    from_acceptor = joined(acceptor.send(ReleaseRequest()))
    assert requestor.receive_data(from_acceptor) == [ReleaseRequested(collision=True)]
    assert acceptor.receive_data(from_requestor) == [ReleaseRequested(collision=True)]
    # Both answer at once; the acceptor's answer waits for its turn (Sta10, Sta12).
    assert acceptor.send(ReleaseResponse()) == []
    answer = joined(requestor.send(ReleaseResponse()))
    assert acceptor.receive_data(answer) == [ReleaseConfirmed()]
    answer = joined(acceptor.data_to_send())
    assert acceptor.state is State.STA13
    assert requestor.receive_data(answer) == [ReleaseConfirmed()]
    assert requestor.must_close
    assert acceptor.receive_eof() == [ConnectionClosed()]


# A19
def test_in_a_collision_the_acceptor_may_answer_late() -> None:
    acceptor = layer_in(State.STA12, Role.ACCEPTOR)
    assert joined(acceptor.send(ReleaseResponse())) == encode_pdu(ReleaseResponse())


def test_data_still_comes_in_after_our_release_request() -> None:
    layer = layer_in(State.STA7, Role.REQUESTOR)
    (event,) = layer.receive_data(p_data())
    assert isinstance(event, PDataReceived)
    with pytest.raises(WrongStateError):
        layer.send(fragment(1, b"ab", is_command=True, is_last=True, max_pdu_length=0))


def test_data_still_goes_out_after_the_peers_release_request() -> None:
    layer = layer_in(State.STA8, Role.ACCEPTOR)
    data = fragment(1, b"ab", is_command=True, is_last=True, max_pdu_length=0)
    assert joined(layer.send(data)) == p_data(b"ab", is_command=True)


# A7
def test_a_p_data_longer_than_announced_is_refused_at_its_header() -> None:
    layer = established()
    assert ACCEPT.user_information.max_pdu_length == 16384
    longest = joined(
        fragment(1, bytes(16378), is_command=False, is_last=True, max_pdu_length=0).buffers
    )
    assert len(layer.receive_data(longest)) == 1
    header = b"\x04\x00" + (16385).to_bytes(4, "big")
    (event,) = layer.receive_data(header)
    assert isinstance(event, Aborted)
    assert event.reason == 6
    assert layer.held == 0


# A7
def test_the_requestors_own_limit_is_enforced_too() -> None:
    layer = established(Role.REQUESTOR)
    (event,) = layer.receive_data(b"\x04\x00" + (16385).to_bytes(4, "big"))
    assert isinstance(event, Aborted)


# A7
def test_nothing_longer_than_the_peers_limit_is_sent() -> None:
    layer = established()
    assert layer.peer_max_pdu_length == 16384
    too_long = fragment(1, bytes(16380), is_command=False, is_last=True, max_pdu_length=0)
    with pytest.raises(LocalProtocolError, match="16384"):
        layer.send(too_long)
    assert layer.data_to_send() == []
    assert layer.state is State.STA6


def test_a_peer_that_does_not_say_its_limit_is_taken_for_a_small_one() -> None:
    layer = layer_in(State.STA2, Role.ACCEPTOR)
    silent = AssociateRequest("A", "B", REQUEST.presentation_contexts, UserInformation())
    layer.receive_data(encode_pdu(silent))
    assert layer.peer_max_pdu_length == 16384


# A20
@pytest.mark.parametrize("kind", [1, 2, 3, 5, 6, 7])
def test_a_length_of_4_gb_is_refused_before_anything_is_kept(kind: int) -> None:
    layer = layer_in(State.STA2, Role.ACCEPTOR)
    (event,) = layer.receive_data(bytes((kind, 0, 0xFF, 0xFF, 0xFF, 0xFF)))
    assert isinstance(event, Aborted)
    assert event.reason == 6
    assert layer.held == 0


# A20
@pytest.mark.parametrize("kind", range(1, 8))
def test_a_pdu_without_content_is_refused(kind: int) -> None:
    layer = layer_in(State.STA2, Role.ACCEPTOR)
    (event,) = layer.receive_data(bytes((kind, 0, 0, 0, 0, 0)))
    assert isinstance(event, Aborted)
    assert event.reason == 6


# A20
def test_a_slow_associate_request_is_kept_as_it_comes_and_not_as_it_is_announced() -> None:
    layer = layer_in(State.STA2, Role.ACCEPTOR)
    layer.receive_data(b"\x01\x00" + MAX_ASSOCIATE_LENGTH.to_bytes(4, "big"))
    assert layer.held == 6
    layer.receive_data(bytes(1000))
    assert layer.held == 1006


def test_the_limit_of_an_associate_request_can_be_set() -> None:
    layer = UpperLayer(Role.ACCEPTOR, max_associate_length=100)
    layer.connection_made()
    (event,) = layer.receive_data(b"\x01\x00\x00\x00\x00\x65")
    assert isinstance(event, Aborted)


def test_after_our_abort_what_the_peer_still_sends_is_ignored_until_it_closes() -> None:
    layer = established()
    assert joined(layer.send(Abort())) == encode_pdu(Abort(0, 0))
    assert layer.artim_running
    assert layer.receive_data(p_data() + encode_pdu(ReleaseRequest())) == []
    assert layer.receive_data(p_data()[:15]) == []
    assert layer.receive_data(p_data()[15:]) == []
    assert layer.data_to_send() == []
    assert layer.receive_data(encode_pdu(REQUEST)) == []
    assert isinstance(decode_pdu(joined(layer.data_to_send())), Abort)  # AA-7
    assert layer.receive_eof() == [ConnectionClosed()]


def test_an_abort_can_carry_the_reason_of_a_peers_error() -> None:
    layer = established()
    abort = Abort.because_of(InvalidParameterError("…"))
    assert joined(layer.send(abort)) == encode_pdu(Abort(2, 6))


def test_nothing_is_received_before_there_is_a_connection() -> None:
    with pytest.raises(WrongStateError):
        UpperLayer(Role.ACCEPTOR).receive_data(b"\x01")
    with pytest.raises(WrongStateError):
        layer_in(State.STA4, Role.REQUESTOR).receive_data(b"\x01")


def test_a_request_that_cannot_be_encoded_changes_nothing() -> None:
    layer = UpperLayer(Role.REQUESTOR)
    with pytest.raises(EncodingError):
        layer.send(AssociateRequest("FAR TOO LONG A TITLE", "B", (), UserInformation()))
    assert layer.state is State.STA1
    layer.send(REQUEST)


def test_a_connection_that_cannot_be_made_is_told() -> None:
    layer = layer_in(State.STA4, Role.REQUESTOR)
    assert layer.receive_eof() == [Aborted(2, 0, AbortOrigin.CONNECTION)]


def test_a_request_can_be_taken_back_before_there_is_a_connection() -> None:
    layer = layer_in(State.STA4, Role.REQUESTOR)
    assert layer.send(Abort()) == []
    assert layer.must_close
    with pytest.raises(AssociationOverError):
        layer.connection_made()
