"""What the upper layer tells its user: small frozen values.

An association, and the object that follows it, ends with exactly one of AssociateRejected,
ReleaseConfirmed (to the requestor), Aborted, or ConnectionClosed. After an abort that was our own
answer to the peer's fault, the peer closes the connection, which is told as ConnectionClosed, too.
"""

from __future__ import annotations

from enum import Enum, auto

import msgspec

from imaging_ingestion.dimse.error import RemoteProtocolError
from imaging_ingestion.dimse.p_data import PDataReceived
from imaging_ingestion.dimse.pdu import AssociateAccept, AssociateReject, AssociateRequest


class AbortOrigin(Enum):
    """Who ended the association."""

    PEER = auto()  # it sent A-ABORT
    LOCAL = auto()  # it broke the protocol, and we sent A-ABORT; `error` says how
    CONNECTION = auto()  # the connection was lost: A-P-ABORT without a PDU


class AssociateRequested(msgspec.Struct, frozen=True):
    """A-ASSOCIATE indication: answer by AssociateAccept or AssociateReject."""

    request: AssociateRequest


class AssociateAccepted(msgspec.Struct, frozen=True):
    """A-ASSOCIATE confirmation: the association is there."""

    accept: AssociateAccept


class AssociateRejected(msgspec.Struct, frozen=True):
    """A-ASSOCIATE confirmation: there is no association."""

    reject: AssociateReject


class ReleaseRequested(msgspec.Struct, frozen=True):
    """A-RELEASE indication: answer by ReleaseResponse, when everything is sent.

    `collision`: we had asked for release at the same time; the answer is the same.
    """

    collision: bool = False


class ReleaseConfirmed(msgspec.Struct, frozen=True):
    """A-RELEASE confirmation: the peer agreed to the release we asked for."""


class Aborted(msgspec.Struct, frozen=True):
    """A-ABORT or A-P-ABORT indication: the association is gone, with all that was under way.

    `source` and `reason` are those of the A-ABORT that was received or sent (PS3.8 table 9-26).
    """

    source: int
    reason: int
    origin: AbortOrigin
    error: RemoteProtocolError | None = None


class ConnectionClosed(msgspec.Struct, frozen=True):
    """The connection was closed while there was no association (any more)."""


Event = (
    AssociateRequested
    | AssociateAccepted
    | AssociateRejected
    | PDataReceived
    | ReleaseRequested
    | ReleaseConfirmed
    | Aborted
    | ConnectionClosed
)
