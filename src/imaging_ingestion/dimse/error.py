"""Whose fault it was.

`LocalProtocolError`: this program asked for what the protocol does not allow; nothing was sent and
nothing changed. `RemoteProtocolError`: the peer broke the protocol; each class knows the A-ABORT
that answers it (PS3.8 9.3.8).
"""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar


class AbortSource(IntEnum):
    """Source of an A-ABORT PDU (PS3.8 table 9-26)."""

    SERVICE_USER = 0
    SERVICE_PROVIDER = 2


class AbortReason(IntEnum):
    """Reason of an A-ABORT PDU whose source is the service provider (PS3.8 table 9-26)."""

    NOT_SPECIFIED = 0
    UNRECOGNIZED_PDU = 1
    UNEXPECTED_PDU = 2
    UNRECOGNIZED_PDU_PARAMETER = 4
    UNEXPECTED_PDU_PARAMETER = 5
    INVALID_PDU_PARAMETER_VALUE = 6


_REASON_WORDS = {
    AbortReason.NOT_SPECIFIED: "reason not specified",
    AbortReason.UNRECOGNIZED_PDU: "unrecognized PDU",
    AbortReason.UNEXPECTED_PDU: "unexpected PDU",
    AbortReason.UNRECOGNIZED_PDU_PARAMETER: "unrecognized PDU parameter",
    AbortReason.UNEXPECTED_PDU_PARAMETER: "unexpected PDU parameter",
    AbortReason.INVALID_PDU_PARAMETER_VALUE: "invalid PDU parameter value",
}


def describe_abort(source: int, reason: int) -> str:
    """An A-ABORT in words, for a log or a person."""
    if source != AbortSource.SERVICE_PROVIDER:  # 9.3.8: the reason is not significant then
        return "by the service user"
    words = _REASON_WORDS.get(AbortReason(reason)) if reason in set(AbortReason) else None
    return f"by the service provider: {words or f'reason {reason}'}"


class DimseError(Exception):
    """Any error of this package."""


class LocalProtocolError(DimseError):
    """This program's own fault: what it asked for is not possible now. Nothing was sent."""


class WrongStateError(LocalProtocolError):
    """The state of the association does not allow that (an empty cell of PS3.8 table 9-10)."""


class AssociationOverError(WrongStateError):
    """The association has ended, perhaps a moment ago by the peer: nothing more can be sent."""


class EncodingError(LocalProtocolError):
    """A value that cannot be encoded: too long, out of range, or not in the repertoire."""


class RemoteProtocolError(DimseError):
    """The peer broke the protocol; the message says how, without data of the peer's patients."""

    abort_source: ClassVar[AbortSource] = AbortSource.SERVICE_PROVIDER
    abort_reason: ClassVar[AbortReason] = AbortReason.NOT_SPECIFIED


class UnrecognizedPduError(RemoteProtocolError):
    """No PDU begins like that."""

    abort_reason = AbortReason.UNRECOGNIZED_PDU


class UnexpectedPduError(RemoteProtocolError):
    """A PDU that the state of the association does not allow."""

    abort_reason = AbortReason.UNEXPECTED_PDU


class UnexpectedParameterError(RemoteProtocolError):
    """A parameter that does not belong there, such as a context that was not accepted."""

    abort_reason = AbortReason.UNEXPECTED_PDU_PARAMETER


class InvalidParameterError(RemoteProtocolError):
    """A length or another value that cannot be."""

    abort_reason = AbortReason.INVALID_PDU_PARAMETER_VALUE


class MessageError(RemoteProtocolError):
    """A DIMSE message that cannot be read. DIMSE is a user of the upper layer, so it aborts as one.

    Answered by A-ABORT only where no response is possible; see `command.RefusedRequest`.
    """

    abort_source = AbortSource.SERVICE_USER
