"""The answers of A-ASSOCIATE-RJ, in the standard's words (PS3.8 table 9-21)."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from imaging_ingestion.dimse.pdu import AssociateReject


class RejectResult(IntEnum):
    """Whether trying again as it is can help."""

    REJECTED_PERMANENT = 1
    REJECTED_TRANSIENT = 2


class RejectSource(IntEnum):
    """Who rejects."""

    SERVICE_USER = 1
    SERVICE_PROVIDER_ACSE = 2
    SERVICE_PROVIDER_PRESENTATION = 3


_PERMANENT, _TRANSIENT = RejectResult.REJECTED_PERMANENT, RejectResult.REJECTED_TRANSIENT
_USER = RejectSource.SERVICE_USER
_ACSE = RejectSource.SERVICE_PROVIDER_ACSE
_PRESENTATION = RejectSource.SERVICE_PROVIDER_PRESENTATION

NO_REASON_GIVEN: Final = AssociateReject(_PERMANENT, _USER, 1)
APPLICATION_CONTEXT_NAME_NOT_SUPPORTED: Final = AssociateReject(_PERMANENT, _USER, 2)
CALLING_AE_TITLE_NOT_RECOGNIZED: Final = AssociateReject(_PERMANENT, _USER, 3)
CALLED_AE_TITLE_NOT_RECOGNIZED: Final = AssociateReject(_PERMANENT, _USER, 7)
#: Also the answer to a user identity that is not accepted (PS3.7 D.3.3.7).
NO_REASON_GIVEN_BY_ACSE: Final = AssociateReject(_PERMANENT, _ACSE, 1)
PROTOCOL_VERSION_NOT_SUPPORTED: Final = AssociateReject(_PERMANENT, _ACSE, 2)
TEMPORARY_CONGESTION: Final = AssociateReject(_TRANSIENT, _PRESENTATION, 1)
LOCAL_LIMIT_EXCEEDED: Final = AssociateReject(_TRANSIENT, _PRESENTATION, 2)

_WORDS: dict[tuple[int, int], str] = {
    (_USER, 1): "no reason given",
    (_USER, 2): "application context name not supported",
    (_USER, 3): "calling AE title not recognized",
    (_USER, 7): "called AE title not recognized",
    (_ACSE, 1): "no reason given",
    (_ACSE, 2): "protocol version not supported",
    (_PRESENTATION, 1): "temporary congestion",
    (_PRESENTATION, 2): "local limit exceeded",
}
_RESULTS: dict[int, str] = {_PERMANENT: "permanently", _TRANSIENT: "for now"}
_SOURCES: dict[int, str] = {
    _USER: "user",
    _ACSE: "provider (ACSE)",
    _PRESENTATION: "provider (presentation)",
}


def describe_rejection(reject: AssociateReject) -> str:
    """An A-ASSOCIATE-RJ in words, for a log or a person; any value can be described."""
    source, reason = reject.source, reject.reason
    result = _RESULTS.get(reject.result, f"(result {reject.result})")
    who = _SOURCES.get(source, f"(source {source})")
    words = _WORDS.get((source, reason))
    return f"rejected {result} by the service {who}: {words or f'reason {reason}'}"


def is_transient(reject: AssociateReject) -> bool:
    """Whether the same request may be accepted later."""
    return reject.result == RejectResult.REJECTED_TRANSIENT
