"""The seven PDUs as values, and their bytes (PS3.8 9.3).

Six of them are small values, encoded and decoded whole here. P-DATA-TF carries everything else and
is never a value: `pdu_reader` hands out the fragments as views of what was received, and `fragment`
lays headers between views of what is to be sent.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from imaging_ingestion.dimse import pdu_items
from imaging_ingestion.dimse.error import (
    AbortReason,
    AbortSource,
    EncodingError,
    InvalidParameterError,
    RemoteProtocolError,
    describe_abort,
)
from imaging_ingestion.dimse.pdu_items import (
    PresentationContextProposal,
    PresentationContextResult,
    UserInformation,
)

A_ASSOCIATE_RQ: Final = 0x01
A_ASSOCIATE_AC: Final = 0x02
A_ASSOCIATE_RJ: Final = 0x03
P_DATA_TF: Final = 0x04
A_RELEASE_RQ: Final = 0x05
A_RELEASE_RP: Final = 0x06
A_ABORT: Final = 0x07

HEADER = struct.Struct(">BxL")  # type, reserved, length of what follows
#: What A-ASSOCIATE-RQ and -AC have before their items: version, reserved, two titles, reserved.
_ASSOCIATE = struct.Struct(">HH16s16s32x")
ASSOCIATE_FIXED_LENGTH: Final = _ASSOCIATE.size

#: The only application context there is (PS3.7 annex A.2.1).
DICOM_APPLICATION_CONTEXT: Final = "1.2.840.10008.3.1.1.1"
PROTOCOL_VERSION: Final = 1  # bit 0 (PS3.8 9.3.2)

Buffer = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class AssociateRequest:
    """A-ASSOCIATE-RQ (PS3.8 9.3.2). AE titles are without their padding."""

    called_ae_title: str
    calling_ae_title: str
    presentation_contexts: tuple[PresentationContextProposal, ...]
    user_information: UserInformation
    application_context_name: str = DICOM_APPLICATION_CONTEXT
    protocol_version: int = PROTOCOL_VERSION


@dataclass(frozen=True, slots=True)
class AssociateAccept:
    """A-ASSOCIATE-AC (PS3.8 9.3.3). Its AE titles are reserved: sent as asked for, never tested."""

    called_ae_title: str
    calling_ae_title: str
    presentation_contexts: tuple[PresentationContextResult, ...]
    user_information: UserInformation
    application_context_name: str = DICOM_APPLICATION_CONTEXT
    protocol_version: int = PROTOCOL_VERSION


@dataclass(frozen=True, slots=True)
class AssociateReject:
    """A-ASSOCIATE-RJ (PS3.8 9.3.4, table 9-21); `rejection` has the ones we send by name."""

    result: int
    source: int
    reason: int


@dataclass(frozen=True, slots=True)
class ReleaseRequest:
    """A-RELEASE-RQ (PS3.8 9.3.6)."""


@dataclass(frozen=True, slots=True)
class ReleaseResponse:
    """A-RELEASE-RP (PS3.8 9.3.7)."""


@dataclass(frozen=True, slots=True)
class Abort:
    """A-ABORT (PS3.8 9.3.8). What a service user sends is the default."""

    source: int = AbortSource.SERVICE_USER
    reason: int = AbortReason.NOT_SPECIFIED

    @classmethod
    def because_of(cls, error: RemoteProtocolError) -> Abort:
        """The A-ABORT that answers an error of the peer."""
        return cls(error.abort_source, error.abort_reason)

    def __str__(self) -> str:
        return describe_abort(self.source, self.reason)


Pdu = (
    AssociateRequest | AssociateAccept | AssociateReject | ReleaseRequest | ReleaseResponse | Abort
)


def encode_pdu(pdu: Pdu) -> bytes:
    """A PDU's bytes. Raises EncodingError."""
    try:
        kind, body = _encode(pdu)
    except (struct.error, ValueError) as error:
        raise EncodingError(f"{type(pdu).__name__}: {error}") from None
    return HEADER.pack(kind, len(body)) + body


def decode_pdu(data: Buffer) -> Pdu:
    """The value of exactly one whole PDU other than P-DATA-TF. Raises InvalidParameterError."""
    view = memoryview(data)
    if len(view) < HEADER.size or HEADER.unpack_from(view)[1] != len(view) - HEADER.size:
        raise InvalidParameterError("not exactly one PDU")
    decode = DECODERS.get(view[0])
    if decode is None:
        raise InvalidParameterError(f"PDU type {view[0]:02X}H cannot be decoded as a value")
    return decode(view[HEADER.size :])


def _encode(pdu: Pdu) -> tuple[int, bytes]:
    match pdu:
        case AssociateRequest():
            for title in (pdu.called_ae_title, pdu.calling_ae_title):
                check_ae_title(title)
            contexts = b"".join(map(pdu_items.write_proposal, pdu.presentation_contexts))
            return A_ASSOCIATE_RQ, _encode_associate(pdu, contexts)
        case AssociateAccept():
            contexts = b"".join(map(pdu_items.write_result, pdu.presentation_contexts))
            return A_ASSOCIATE_AC, _encode_associate(pdu, contexts)
        case AssociateReject():
            return A_ASSOCIATE_RJ, bytes((0, pdu.result, pdu.source, pdu.reason))
        case ReleaseRequest():
            return A_RELEASE_RQ, bytes(4)
        case ReleaseResponse():
            return A_RELEASE_RP, bytes(4)
        case Abort():
            return A_ABORT, bytes((0, 0, pdu.source, pdu.reason))


def _encode_associate(pdu: AssociateRequest | AssociateAccept, contexts: bytes) -> bytes:
    _check_context_ids([context.context_id for context in pdu.presentation_contexts], EncodingError)
    called, calling = (
        pdu_items.write_text(title).ljust(16)[:16]
        for title in (pdu.called_ae_title, pdu.calling_ae_title)
    )
    name = pdu_items.write_text(pdu.application_context_name)
    return b"".join(
        (
            _ASSOCIATE.pack(pdu.protocol_version, 0, called, calling),
            pdu_items.item(pdu_items.APPLICATION_CONTEXT, name),
            contexts,
            pdu_items.write_user_information(pdu.user_information),
        )
    )


def check_ae_title(title: str) -> None:
    """Whether it can be an AE title (VR AE, PS3.5 table 6.2-1). Raises EncodingError."""
    if not (
        1 <= len(title) <= 16
        and title.strip(" ") == title
        and all(" " <= c <= "~" and c != "\\" for c in title)
    ):
        raise EncodingError(
            "an AE title has 1 to 16 characters of ASCII, without backslash or spaces at its ends"
        )


def _decode_request(body: memoryview) -> AssociateRequest:
    version, called, calling = _decode_fixed(body)
    if not version & PROTOCOL_VERSION:
        # Another version may lay out the rest otherwise; the answer is the same whatever it says.
        return AssociateRequest(called, calling, (), UserInformation(), "", version)
    name, contexts, information = "", [], UserInformation()
    for kind, content in pdu_items.items(body[ASSOCIATE_FIXED_LENGTH:]):
        if kind == pdu_items.APPLICATION_CONTEXT:
            name = pdu_items.read_text(content)
        elif kind == pdu_items.PRESENTATION_CONTEXT_RQ:
            contexts.append(pdu_items.read_proposal(content))
        elif kind == pdu_items.USER_INFORMATION:
            information = pdu_items.read_user_information(content)
    _check_context_ids([context.context_id for context in contexts], InvalidParameterError)
    return AssociateRequest(called, calling, tuple(contexts), information, name, version)


def _decode_accept(body: memoryview) -> AssociateAccept:
    version, called, calling = _decode_fixed(body)
    name, results, information = "", [], UserInformation()
    for kind, content in pdu_items.items(body[ASSOCIATE_FIXED_LENGTH:]):
        if kind == pdu_items.APPLICATION_CONTEXT:
            name = pdu_items.read_text(content)
        elif kind == pdu_items.PRESENTATION_CONTEXT_AC:
            results.append(pdu_items.read_result(content))
        elif kind == pdu_items.USER_INFORMATION:
            information = pdu_items.read_user_information(content)
    _check_context_ids([context.context_id for context in results], InvalidParameterError)
    return AssociateAccept(called, calling, tuple(results), information, name, version)


def _decode_fixed(body: memoryview) -> tuple[int, str, str]:
    if len(body) < ASSOCIATE_FIXED_LENGTH:
        raise InvalidParameterError(f"an A-ASSOCIATE PDU of {len(body)} bytes")
    version, _reserved, called, calling = _ASSOCIATE.unpack_from(body)
    return version, pdu_items.read_text(called), pdu_items.read_text(calling)


def _check_context_ids(ids: list[int], error: type[EncodingError | InvalidParameterError]) -> None:
    if len(set(ids)) != len(ids):
        raise error("a presentation context id occurs twice")
    if any(not 0 < id_ < 256 or not id_ & 1 for id_ in ids):
        raise error("a presentation context id is not odd and between 1 and 255")


def _decode_reject(body: memoryview) -> AssociateReject:
    _four(body)
    return AssociateReject(body[1], body[2], body[3])


def _decode_release_request(body: memoryview) -> ReleaseRequest:
    _four(body)
    return ReleaseRequest()


def _decode_release_response(body: memoryview) -> ReleaseResponse:
    _four(body)
    return ReleaseResponse()


def _decode_abort(body: memoryview) -> Abort:
    _four(body)
    return Abort(body[2], body[3])


def _four(body: memoryview) -> None:
    if len(body) != 4:
        raise InvalidParameterError(f"{len(body)} bytes in a PDU that always has 4")


DECODERS: Final[dict[int, Callable[[memoryview], Pdu]]] = {
    A_ASSOCIATE_RQ: _decode_request,
    A_ASSOCIATE_AC: _decode_accept,
    A_ASSOCIATE_RJ: _decode_reject,
    A_RELEASE_RQ: _decode_release_request,
    A_RELEASE_RP: _decode_release_response,
    A_ABORT: _decode_abort,
}
