"""The upper layer's state machine as data, to be read beside PS3.8 9.2.

Theory of operation. One connection carries at most one association. Whatever happens, whether a PDU
arrives, the user asks for something, the connection opens or closes, or a timer expires, is one of
19 events. In each of 13 states an event has one action, found in TRANSITIONS (table 9-10), and an
action is a few effects and a next state, found in ACTIONS (tables 9-6 to 9-9). An empty cell cannot
happen by what a peer does; if it is an event of ours, we have no right to it.

    Sta1   idle                    ── requestor: Evt1 ──>  Sta4   waiting for the connection
    Sta2   acceptor, connected,    ── Evt6 ──>             Sta3   the user decides
           waiting for a request
    Sta4   ── Evt2, request sent ──>                       Sta5   waiting for the answer
    Sta3, Sta5 ── accepted ──>     Sta6   data both ways
    Sta6   ── release asked for by us ──>  Sta7   ── by the peer ──>  Sta8
    Sta9 to Sta12   both asked at the same time: the acceptor answers when it has been answered
    Sta13  over; waiting for the peer to close, but no longer than the ARTIM timer lets it

The ARTIM timer (9.1.5) runs in Sta2 and Sta13 only. Nothing here knows the time: START_ARTIM and
STOP_ARTIM are effects, and its expiry is Evt18.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum, auto
from typing import Final


class State(IntEnum):
    """The states of tables 9-1 to 9-5."""

    STA1 = 1  # Idle
    STA2 = 2  # Transport connection open (awaiting A-ASSOCIATE-RQ PDU)
    STA3 = 3  # Awaiting local A-ASSOCIATE response primitive (from local user)
    STA4 = 4  # Awaiting transport connection opening to complete
    STA5 = 5  # Awaiting A-ASSOCIATE-AC or A-ASSOCIATE-RJ PDU
    STA6 = 6  # Association established and ready for data transfer
    STA7 = 7  # Awaiting A-RELEASE-RP PDU
    STA8 = 8  # Awaiting local A-RELEASE response primitive (from local user)
    STA9 = 9  # Release collision requestor side; awaiting A-RELEASE response (from local user)
    STA10 = 10  # Release collision acceptor side; awaiting A-RELEASE-RP PDU
    STA11 = 11  # Release collision requestor side; awaiting A-RELEASE-RP PDU
    STA12 = 12  # Release collision acceptor side; awaiting A-RELEASE response (from local user)
    STA13 = 13  # Awaiting transport connection close indication (association no longer exists)


class Evt(IntEnum):
    """The events of table 9-10."""

    A_ASSOCIATE_REQUEST = 1
    TRANSPORT_CONNECTION_CONFIRMED = 2
    A_ASSOCIATE_AC_RECEIVED = 3
    A_ASSOCIATE_RJ_RECEIVED = 4
    TRANSPORT_CONNECTION_INDICATED = 5
    A_ASSOCIATE_RQ_RECEIVED = 6
    A_ASSOCIATE_RESPONSE_ACCEPT = 7
    A_ASSOCIATE_RESPONSE_REJECT = 8
    P_DATA_REQUEST = 9
    P_DATA_TF_RECEIVED = 10
    A_RELEASE_REQUEST = 11
    A_RELEASE_RQ_RECEIVED = 12
    A_RELEASE_RP_RECEIVED = 13
    A_RELEASE_RESPONSE = 14
    A_ABORT_REQUEST = 15
    A_ABORT_RECEIVED = 16
    TRANSPORT_CONNECTION_CLOSED = 17
    ARTIM_EXPIRED = 18
    INVALID_PDU_RECEIVED = 19


class Effect(Enum):
    """What an action does. The PDU or primitive meant is the one that belongs to the event."""

    CONNECT = auto()  # issue TRANSPORT CONNECT request
    SEND = auto()  # send the PDU that the user asked for
    SEND_ABORT = auto()  # send A-ABORT: the user's, or the answer to the peer's fault
    SEND_REJECT = auto()  # send A-ASSOCIATE-RJ in the provider's own name
    ISSUE = auto()  # issue the indication or confirmation to the user
    START_ARTIM = auto()  # start it, or start it again
    STOP_ARTIM = auto()
    CLOSE = auto()  # close the transport connection


class Action(Enum):
    """The actions of tables 9-6 to 9-9."""

    AE_1 = "AE-1"
    AE_2 = "AE-2"
    AE_3 = "AE-3"
    AE_4 = "AE-4"
    AE_5 = "AE-5"
    AE_6 = "AE-6"
    AE_7 = "AE-7"
    AE_8 = "AE-8"
    DT_1 = "DT-1"
    DT_2 = "DT-2"
    AR_1 = "AR-1"
    AR_2 = "AR-2"
    AR_3 = "AR-3"
    AR_4 = "AR-4"
    AR_5 = "AR-5"
    AR_6 = "AR-6"
    AR_7 = "AR-7"
    AR_8 = "AR-8"
    AR_9 = "AR-9"
    AR_10 = "AR-10"
    AA_1 = "AA-1"
    AA_2 = "AA-2"
    AA_3 = "AA-3"
    AA_4 = "AA-4"
    AA_5 = "AA-5"
    AA_6 = "AA-6"
    AA_7 = "AA-7"
    AA_8 = "AA-8"


@dataclass(frozen=True, slots=True)
class Step:
    """An action's effects, in order, and the state after it.

    `for_acceptor` is the next state of an association acceptor where the role matters (AR-8);
    `otherwise` is taken where the service provider does not accept the request (AE-6).
    """

    effects: tuple[Effect, ...]
    next_state: State
    for_acceptor: State | None = None
    otherwise: Step | None = None


# fmt: off
_E, _S = Effect, State
ACTIONS: Final[dict[Action, Step]] = {
    # Table 9-6. Association establishment related actions
    Action.AE_1: Step((_E.CONNECT,), _S.STA4),
    Action.AE_2: Step((_E.SEND,), _S.STA5),
    Action.AE_3: Step((_E.ISSUE,), _S.STA6),
    Action.AE_4: Step((_E.ISSUE, _E.CLOSE), _S.STA1),
    Action.AE_5: Step((_E.START_ARTIM,), _S.STA2),
    Action.AE_6: Step((_E.STOP_ARTIM, _E.ISSUE), _S.STA3,
                      otherwise=Step((_E.SEND_REJECT, _E.START_ARTIM), _S.STA13)),
    Action.AE_7: Step((_E.SEND,), _S.STA6),
    Action.AE_8: Step((_E.SEND, _E.START_ARTIM), _S.STA13),
    # Table 9-7. Data transfer related actions
    Action.DT_1: Step((_E.SEND,), _S.STA6),
    Action.DT_2: Step((_E.ISSUE,), _S.STA6),
    # Table 9-8. Association release related actions
    Action.AR_1: Step((_E.SEND,), _S.STA7),
    Action.AR_2: Step((_E.ISSUE,), _S.STA8),
    Action.AR_3: Step((_E.ISSUE, _E.CLOSE), _S.STA1),
    Action.AR_4: Step((_E.SEND, _E.START_ARTIM), _S.STA13),
    Action.AR_5: Step((_E.STOP_ARTIM,), _S.STA1),
    Action.AR_6: Step((_E.ISSUE,), _S.STA7),
    Action.AR_7: Step((_E.SEND,), _S.STA8),
    Action.AR_8: Step((_E.ISSUE,), _S.STA9, for_acceptor=_S.STA10),
    Action.AR_9: Step((_E.SEND,), _S.STA11),
    Action.AR_10: Step((_E.ISSUE,), _S.STA12),
    # Table 9-9. Association abort related actions
    Action.AA_1: Step((_E.SEND_ABORT, _E.START_ARTIM), _S.STA13),
    Action.AA_2: Step((_E.STOP_ARTIM, _E.CLOSE), _S.STA1),
    Action.AA_3: Step((_E.ISSUE, _E.CLOSE), _S.STA1),
    Action.AA_4: Step((_E.ISSUE,), _S.STA1),
    Action.AA_5: Step((_E.STOP_ARTIM,), _S.STA1),
    Action.AA_6: Step((), _S.STA13),
    Action.AA_7: Step((_E.SEND_ABORT,), _S.STA13),
    Action.AA_8: Step((_E.SEND_ABORT, _E.ISSUE, _E.START_ARTIM), _S.STA13),
}

AE1, AE2, AE3, AE4 = Action.AE_1, Action.AE_2, Action.AE_3, Action.AE_4
AE5, AE6, AE7, AE8 = Action.AE_5, Action.AE_6, Action.AE_7, Action.AE_8
DT1, DT2 = Action.DT_1, Action.DT_2
AR1, AR2, AR3, AR4, AR5 = Action.AR_1, Action.AR_2, Action.AR_3, Action.AR_4, Action.AR_5
AR6, AR7, AR8, AR9, ARX = Action.AR_6, Action.AR_7, Action.AR_8, Action.AR_9, Action.AR_10
AA1, AA2, AA3, AA4 = Action.AA_1, Action.AA_2, Action.AA_3, Action.AA_4
AA5, AA6, AA7, AA8 = Action.AA_5, Action.AA_6, Action.AA_7, Action.AA_8
___ = None

# Table 9-10. ARX is AR-10.
_TABLE: Final[tuple[tuple[Action | None, ...], ...]] = (
    # Sta1  2    3    4    5    6    7    8    9    10   11   12   13
    (AE1, ___, ___, ___, ___, ___, ___, ___, ___, ___, ___, ___, ___),  # Evt1  request
    (___, ___, ___, AE2, ___, ___, ___, ___, ___, ___, ___, ___, ___),  # Evt2  connected
    (___, AA1, AA8, ___, AE3, AA8, AA8, AA8, AA8, AA8, AA8, AA8, AA6),  # Evt3  AC PDU
    (___, AA1, AA8, ___, AE4, AA8, AA8, AA8, AA8, AA8, AA8, AA8, AA6),  # Evt4  RJ PDU
    (AE5, ___, ___, ___, ___, ___, ___, ___, ___, ___, ___, ___, ___),  # Evt5  connection came
    (___, AE6, AA8, ___, AA8, AA8, AA8, AA8, AA8, AA8, AA8, AA8, AA7),  # Evt6  RQ PDU
    (___, ___, AE7, ___, ___, ___, ___, ___, ___, ___, ___, ___, ___),  # Evt7  accept
    (___, ___, AE8, ___, ___, ___, ___, ___, ___, ___, ___, ___, ___),  # Evt8  reject
    (___, ___, ___, ___, ___, DT1, ___, AR7, ___, ___, ___, ___, ___),  # Evt9  data
    (___, AA1, AA8, ___, AA8, DT2, AR6, AA8, AA8, AA8, AA8, AA8, AA6),  # Evt10 P-DATA-TF PDU
    (___, ___, ___, ___, ___, AR1, ___, ___, ___, ___, ___, ___, ___),  # Evt11 release
    (___, AA1, AA8, ___, AA8, AR2, AR8, AA8, AA8, AA8, AA8, AA8, AA6),  # Evt12 release RQ PDU
    (___, AA1, AA8, ___, AA8, AA8, AR3, AA8, AA8, ARX, AR3, AA8, AA6),  # Evt13 release RP PDU
    (___, ___, ___, ___, ___, ___, ___, AR4, AR9, ___, ___, AR4, ___),  # Evt14 release answer
    (___, ___, AA1, AA2, AA1, AA1, AA1, AA1, AA1, AA1, AA1, AA1, ___),  # Evt15 abort
    (___, AA2, AA3, ___, AA3, AA3, AA3, AA3, AA3, AA3, AA3, AA3, AA2),  # Evt16 A-ABORT PDU
    (___, AA5, AA4, AA4, AA4, AA4, AA4, AA4, AA4, AA4, AA4, AA4, AR5),  # Evt17 closed
    (___, AA2, ___, ___, ___, ___, ___, ___, ___, ___, ___, ___, AA2),  # Evt18 ARTIM
    (___, AA1, AA8, ___, AA8, AA8, AA8, AA8, AA8, AA8, AA8, AA8, AA7),  # Evt19 invalid PDU
)
# fmt: on

TRANSITIONS: Final[dict[tuple[Evt, State], Action]] = {
    (event, state): action
    for event, row in zip(Evt, _TABLE, strict=True)
    for state, action in zip(State, row, strict=True)
    if action is not None
}
#: The states in which P-DATA-TF goes to the user.
TAKES_DATA: Final = frozenset(
    state for (_, state), action in TRANSITIONS.items() if action in (Action.DT_2, Action.AR_6)
)
