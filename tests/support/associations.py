"""Upper layers brought into any state by the bytes and primitives that lead there."""

from __future__ import annotations

from imaging_ingestion.dimse.p_data import fragment
from imaging_ingestion.dimse.pdu import (
    AssociateAccept,
    AssociateRequest,
    Buffer,
    ReleaseRequest,
    ReleaseResponse,
    encode_pdu,
)
from imaging_ingestion.dimse.pdu_items import (
    PresentationContextProposal,
    PresentationContextResult,
    UserInformation,
)
from imaging_ingestion.dimse.rejection import NO_REASON_GIVEN
from imaging_ingestion.dimse.state import State
from imaging_ingestion.dimse.upper_layer import Role, UpperLayer

CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
VERIFICATION = "1.2.840.10008.1.1"
EXPLICIT = "1.2.840.10008.1.2.1"
IMPLICIT = "1.2.840.10008.1.2"

REQUEST = AssociateRequest(
    "INGESTION",
    "SCANNER",
    (PresentationContextProposal(1, CT_IMAGE_STORAGE, (EXPLICIT, IMPLICIT)),),
    UserInformation(16384, "1.2.3", "TEST"),
)
ACCEPT = AssociateAccept(
    "INGESTION",
    "SCANNER",
    (PresentationContextResult(1, 0, EXPLICIT),),
    UserInformation(16384, "1.2.4", "TEST_SCP"),
)


def joined(buffers: list[Buffer]) -> bytes:
    """What buffers are on the wire."""
    return b"".join(buffers)


def p_data(data: bytes = b"abcd", **how: bool) -> bytes:
    """One P-DATA-TF on context 1: a data set fragment, unless told otherwise."""
    flags = {"is_command": False, "is_last": True} | how
    return joined(fragment(1, data, max_pdu_length=0, **flags).buffers)


#: States that only one of the roles can be in.
REQUESTOR_ONLY = {State.STA4, State.STA5, State.STA9, State.STA11}
ACCEPTOR_ONLY = {State.STA2, State.STA3, State.STA10, State.STA12}


def roles_of(state: State) -> list[Role]:
    """Who can be in a state."""
    roles = []
    if state not in ACCEPTOR_ONLY:
        roles.append(Role.REQUESTOR)
    if state not in REQUESTOR_ONLY:
        roles.append(Role.ACCEPTOR)
    return roles


def layer_in(state: State, role: Role) -> UpperLayer:
    """A layer in a state; what it had to say on the way there is taken out."""
    layer = UpperLayer(role)
    if state is not State.STA1:
        _associate(layer, state)
    if state in (State.STA7, State.STA9, State.STA10, State.STA11, State.STA12):
        layer.send(ReleaseRequest())
    if state in (State.STA8, State.STA9, State.STA10, State.STA11, State.STA12):
        layer.receive_data(encode_pdu(ReleaseRequest()))
    if state is State.STA11:
        layer.send(ReleaseResponse())
    if state is State.STA12:
        layer.receive_data(encode_pdu(ReleaseResponse()))
    if state is State.STA13 and role is Role.REQUESTOR:
        layer.receive_data(encode_pdu(ACCEPT))  # a second one: our abort, and the state after it
    layer.data_to_send()
    assert layer.state is state, f"meant to be in {state.name}, is in {layer.state.name}"
    return layer


def _associate(layer: UpperLayer, state: State) -> None:
    if layer.role is Role.REQUESTOR:
        layer.send(REQUEST)
        if state is not State.STA4:
            layer.connection_made()
        if state not in (State.STA4, State.STA5):
            layer.receive_data(encode_pdu(ACCEPT))
        return
    layer.connection_made()
    if state is not State.STA2:
        layer.receive_data(encode_pdu(REQUEST))
    if state is State.STA13:
        layer.send(NO_REASON_GIVEN)
    elif state not in (State.STA2, State.STA3):
        layer.send(ACCEPT)


def established(role: Role = Role.ACCEPTOR) -> UpperLayer:
    """A layer with an association."""
    return layer_in(State.STA6, role)
