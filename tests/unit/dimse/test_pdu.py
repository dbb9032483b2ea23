"""The PDUs' bytes, as PS3.8 9.3 and PS3.7 annex D.3.3 lay them out."""

from __future__ import annotations

import struct

import pytest
from associations import ACCEPT, CT_IMAGE_STORAGE, EXPLICIT, IMPLICIT, REQUEST

from imaging_ingestion.dimse.error import EncodingError, InvalidParameterError, describe_abort
from imaging_ingestion.dimse.pdu import (
    Abort,
    AssociateAccept,
    AssociateReject,
    AssociateRequest,
    ReleaseRequest,
    ReleaseResponse,
    check_ae_title,
    decode_pdu,
    encode_pdu,
)
from imaging_ingestion.dimse.pdu_items import (
    OperationsWindow,
    PresentationContextProposal,
    PresentationContextResult,
    RoleSelection,
    SopClassCommonExtendedNegotiation,
    SopClassExtendedNegotiation,
    UserIdentity,
    UserInformation,
)
from imaging_ingestion.dimse.rejection import (
    LOCAL_LIMIT_EXCEEDED,
    describe_rejection,
    is_transient,
)


def item(kind: int, content: bytes) -> bytes:
    return struct.pack(">BBH", kind, 0, len(content)) + content


def counted(content: bytes) -> bytes:
    return struct.pack(">H", len(content)) + content


def associate(items: bytes, kind: int = 1, titles: bytes = b"CALLED".ljust(16) * 2) -> bytes:
    body = struct.pack(">HH", 1, 0) + titles + bytes(32) + items
    return struct.pack(">BBL", kind, 0, len(body)) + body


CONTEXT = item(
    0x20, b"\x01\0\0\0" + item(0x30, CT_IMAGE_STORAGE.encode()) + item(0x40, EXPLICIT.encode())
)


def decoded(user_items: bytes) -> UserInformation:
    """What a request's user information says."""
    pdu = decode_pdu(associate(CONTEXT + item(0x50, user_items)))
    assert isinstance(pdu, AssociateRequest)
    return pdu.user_information


def test_the_small_pdus_are_ten_bytes() -> None:
    assert encode_pdu(AssociateReject(1, 2, 3)) == b"\3\0\0\0\0\4\0\1\2\3"
    assert encode_pdu(ReleaseRequest()) == b"\5\0\0\0\0\4\0\0\0\0"
    assert encode_pdu(ReleaseResponse()) == b"\6\0\0\0\0\4\0\0\0\0"
    assert encode_pdu(Abort(2, 6)) == b"\7\0\0\0\0\4\0\0\2\6"


def test_a_request_is_laid_out_as_in_the_standard() -> None:
    application = item(0x10, b"1.2.840.10008.3.1.1.1")
    context = item(
        0x20,
        b"\1\0\0\0"
        + item(0x30, CT_IMAGE_STORAGE.encode())
        + item(0x40, EXPLICIT.encode())
        + item(0x40, IMPLICIT.encode()),
    )
    user = item(
        0x50,
        item(0x51, struct.pack(">L", 16384)) + item(0x52, b"1.2.3") + item(0x55, b"TEST"),
    )
    titles = b"INGESTION".ljust(16) + b"SCANNER".ljust(16)
    assert encode_pdu(REQUEST) == associate(application + context + user, titles=titles)


def test_an_acceptance_is_laid_out_as_in_the_standard() -> None:
    application = item(0x10, b"1.2.840.10008.3.1.1.1")
    context = item(0x21, b"\1\0\0\0" + item(0x40, EXPLICIT.encode()))
    user = item(
        0x50,
        item(0x51, struct.pack(">L", 16384)) + item(0x52, b"1.2.4") + item(0x55, b"TEST_SCP"),
    )
    titles = b"INGESTION".ljust(16) + b"SCANNER".ljust(16)
    assert encode_pdu(ACCEPT) == associate(application + context + user, 2, titles)


def test_all_user_information_is_laid_out_as_in_the_standard() -> None:
    information = UserInformation(
        max_pdu_length=0,
        implementation_class_uid="1.2",
        implementation_version_name="V",
        operations_window=OperationsWindow(3, 0),
        role_selections=(RoleSelection("1.3", scu_role=False, scp_role=True),),
        sop_class_extended=(SopClassExtendedNegotiation("1.4", b"\1\0\1"),),
        sop_class_common_extended=(SopClassCommonExtendedNegotiation("1.5", "1.6", ("1.7", "1")),),
        user_identity=UserIdentity(2, b"name", b"code", positive_response_requested=True),
        user_identity_response=b"ticket",
    )
    laid_out = b"".join(
        (
            item(0x51, bytes(4)),
            item(0x52, b"1.2"),
            item(0x53, b"\0\3\0\0"),
            item(0x54, counted(b"1.3") + b"\0\1"),
            item(0x55, b"V"),
            item(0x56, counted(b"1.4") + b"\1\0\1"),
            item(
                0x57,
                counted(b"1.5") + counted(b"1.6") + counted(counted(b"1.7") + counted(b"1")),
            ),
            item(0x58, b"\2\1" + counted(b"name") + counted(b"code")),
            item(0x59, counted(b"ticket")),
        )
    )
    pdu = AssociateRequest("A", "B", REQUEST.presentation_contexts, information)
    assert encode_pdu(pdu).endswith(item(0x50, laid_out))
    assert decode_pdu(encode_pdu(pdu)) == pdu


# A1, A23
@pytest.mark.parametrize("field", [b"  INGESTION", b"INGESTION\0\0", b"INGESTION", b" INGESTION "])
def test_ae_titles_lose_their_padding(field: bytes) -> None:
    pdu = decode_pdu(associate(CONTEXT, titles=field.ljust(16)[:16] + b"scanner 1".ljust(16)))
    assert isinstance(pdu, AssociateRequest)
    assert (pdu.called_ae_title, pdu.calling_ae_title) == ("INGESTION", "scanner 1")


# A23
def test_uids_lose_their_padding() -> None:
    context = item(0x20, b"\1\0\0\0" + item(0x30, b"1.2.3\0") + item(0x40, b"1.2.840.10008.1.2 "))
    pdu = decode_pdu(associate(item(0x10, b"1.2.840.10008.3.1.1.1\0") + context))
    assert isinstance(pdu, AssociateRequest)
    assert pdu.application_context_name == "1.2.840.10008.3.1.1.1"
    assert pdu.presentation_contexts == (PresentationContextProposal(1, "1.2.3", (IMPLICIT,)),)


# A21
def test_unknown_items_are_skipped_at_every_level() -> None:
    unknown = item(0x99, b"whatever")
    context = item(0x20, b"\1\0\0\0" + unknown + item(0x30, b"1.2") + unknown)
    user = item(0x50, unknown + item(0x51, b"\0\0\1\0") + item(0x5A, b"") + item(0xFF, b"\0"))
    pdu = decode_pdu(associate(unknown + context + unknown + user + unknown))
    assert isinstance(pdu, AssociateRequest)
    assert pdu.presentation_contexts == (PresentationContextProposal(1, "1.2", ()),)
    assert pdu.user_information == UserInformation(max_pdu_length=256)


def test_reserved_bytes_are_not_tested() -> None:
    encoded = bytearray(encode_pdu(REQUEST))
    encoded[1] = 0xFF
    encoded[8:10] = b"\xff\xff"
    encoded[42:74] = b"\xff" * 32
    position = 74
    while position < len(encoded):  # the second byte of each item
        encoded[position + 1] = 0xFF
        position += 4 + int.from_bytes(encoded[position + 2 : position + 4], "big")
    at_context = encoded.index(b"\x20\xff", 74)
    encoded[at_context + 5 : at_context + 8] = b"\xff\xff\xff"
    assert decode_pdu(encoded) == REQUEST


@pytest.mark.parametrize(
    "items",
    [
        b"\x20\0\0",
        item(0x20, b"\1\0\0\0" + item(0x30, b"1.2"))[:-1],
        b"\x20\0\xff\xff\1\0\0\0",
        item(0x20, b"\1\0\0"),
        item(0x20, b"\1\0\0\0" + item(0x40, b"1.2")),
        item(0x20, b"\1\0\0\0" + b"\x30\0\0\xff1.2"),
        item(0x50, item(0x51, b"\0\0\0")),
        item(0x50, item(0x51, b"\0\0\0\0\0")),
        item(0x50, item(0x53, b"\0\1")),
        item(0x50, item(0x54, counted(b"1.2") + b"\1")),
        item(0x50, item(0x54, counted(b"1.2") + b"\1\1\1")),
        item(0x50, item(0x54, b"\0\xff1.2")),
        item(0x50, item(0x54, b"\0")),
        item(0x50, item(0x56, b"\0\x04123")),
        item(0x50, item(0x57, counted(b"1.2"))),
        item(0x50, item(0x57, counted(b"1.2") + counted(b"1.3") + counted(b"\0\x04123"))),
        item(0x50, item(0x58, b"\1")),
        item(0x50, item(0x58, b"\1\0\0\x051234")),
        item(0x50, item(0x58, b"\2\0" + counted(b"name") + b"\0\x05code")),
        item(0x50, item(0x59, b"\0\1")),
        item(0x50, b"\x51\0\0"),
    ],
)
def test_a_length_that_cannot_be_is_an_invalid_parameter(items: bytes) -> None:
    with pytest.raises(InvalidParameterError):
        decode_pdu(associate(items))


# A5
@pytest.mark.parametrize("context_id", [0, 2, 254])
def test_an_even_context_id_is_an_invalid_parameter(context_id: int) -> None:
    context = item(0x20, bytes((context_id, 0, 0, 0)) + item(0x30, b"1.2"))
    with pytest.raises(InvalidParameterError, match="odd"):
        decode_pdu(associate(context))


# A6
@pytest.mark.parametrize(("kind", "context"), [(1, CONTEXT), (2, item(0x21, b"\1\0\3\0"))])
def test_a_context_id_that_occurs_twice_is_an_invalid_parameter(kind: int, context: bytes) -> None:
    with pytest.raises(InvalidParameterError, match="twice"):
        decode_pdu(associate(context + context, kind))


# A5
def test_128_contexts_are_read() -> None:
    contexts = b"".join(
        item(0x20, bytes((n, 0, 0, 0)) + item(0x30, b"1.2") + item(0x40, b"1.3"))
        for n in range(1, 256, 2)
    )
    pdu = decode_pdu(associate(contexts))
    assert isinstance(pdu, AssociateRequest)
    assert len(pdu.presentation_contexts) == 128


@pytest.mark.parametrize("content", [b"\3\0\4\0", b"\3\0\4\0" + item(0x40, b""), b"\3\0\1\0\x40"])
def test_the_transfer_syntax_of_a_refused_context_means_nothing(content: bytes) -> None:
    pdu = decode_pdu(associate(item(0x21, content), 2))
    assert isinstance(pdu, AssociateAccept)
    (result,) = pdu.presentation_contexts
    assert result == PresentationContextResult(3, content[2])


@pytest.mark.parametrize("syntaxes", [b"", item(0x40, b"1.2") * 2])
def test_an_accepted_context_has_exactly_one_transfer_syntax(syntaxes: bytes) -> None:
    with pytest.raises(InvalidParameterError, match="transfer syntaxes"):
        decode_pdu(associate(item(0x21, b"\3\0\0\0" + syntaxes), 2))


def test_a_user_identity_without_a_secondary_field_is_read() -> None:
    information = decoded(item(0x58, b"\1\0" + counted(b"name")))
    assert information.user_identity == UserIdentity(1, b"name")


# A15
@pytest.mark.parametrize("kind", [2, 3, 4, 5])
def test_no_secret_of_a_user_identity_is_in_its_text(kind: int) -> None:
    primary = b"username" if kind == 2 else b"secret1"
    identity = UserIdentity(kind, primary, b"secret2")
    request = AssociateRequest("A", "B", (), UserInformation(user_identity=identity))
    assert "secret1" not in f"{request!r} {identity} {identity!r}"
    assert "secret2" not in f"{request!r} {identity} {identity!r}"
    answered = UserInformation(user_identity_response=b"secret3")
    assert "secret3" not in repr(answered)


@pytest.mark.parametrize(
    "title",
    ["", " ", "A" * 17, "A\\B", "Ä", "A\n", " A", "A ", "A\0", "\N{CJK UNIFIED IDEOGRAPH-4E00}"],
)
def test_what_cannot_be_an_ae_title_is_not_sent(title: str) -> None:
    with pytest.raises(EncodingError):
        check_ae_title(title)
    with pytest.raises(EncodingError):
        encode_pdu(AssociateRequest(title, "B", (), UserInformation()))
    with pytest.raises(EncodingError):
        encode_pdu(AssociateRequest("A", title, (), UserInformation()))


def test_an_acceptance_returns_whatever_titles_were_asked_for() -> None:
    pdu = AssociateAccept("", "\xff" * 16, (), UserInformation())
    assert decode_pdu(encode_pdu(pdu)) == pdu


@pytest.mark.parametrize(
    "pdu",
    [
        AssociateRequest("A", "B", (PresentationContextProposal(2, "1.2", ()),), UserInformation()),
        AssociateRequest(
            "A", "B", (PresentationContextProposal(257, "1.2", ()),), UserInformation()
        ),
        AssociateRequest(
            "A", "B", (PresentationContextProposal(1, "1.2", ()),) * 2, UserInformation()
        ),
        AssociateRequest("A", "B", (), UserInformation(max_pdu_length=1 << 32)),
        AssociateRequest("A", "B", (), UserInformation(max_pdu_length=-1)),
        AssociateRequest("A", "B", (), UserInformation(implementation_version_name="V" * 17)),
        AssociateRequest("A", "B", (), UserInformation(implementation_version_name="")),
        AssociateRequest(
            "A", "B", (), UserInformation(operations_window=OperationsWindow(1 << 16, 1))
        ),
        AssociateRequest(
            "A", "B", (), UserInformation(user_identity=UserIdentity(5, bytes(1 << 16)))
        ),
        AssociateRequest(
            "A", "B", (), UserInformation(user_identity=UserIdentity(5, bytes((1 << 16) - 1)))
        ),
        AssociateRequest("A", "B", (), UserInformation(), application_context_name="\u4e00"),
        AssociateReject(256, 1, 1),
        Abort(-1, 0),
    ],
)
def test_what_cannot_be_encoded_is_our_own_error(pdu: AssociateRequest) -> None:
    with pytest.raises(EncodingError):
        encode_pdu(pdu)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\5\0\0\0\0",
        b"\5\0\0\0\0\4\0\0\0",
        b"\5\0\0\0\0\4\0\0\0\0\0",
        b"\5\0\0\0\0\3\0\0\0",
        b"\4\0\0\0\0\6\0\0\0\2\1\3",
        b"\x2a\0\0\0\0\0",
    ],
)
def test_only_one_whole_pdu_is_decoded(data: bytes) -> None:
    with pytest.raises(InvalidParameterError):
        decode_pdu(data)


def test_rejections_and_aborts_have_words() -> None:
    assert describe_rejection(LOCAL_LIMIT_EXCEEDED) == (
        "rejected for now by the service provider (presentation): local limit exceeded"
    )
    assert describe_rejection(AssociateReject(9, 9, 9)) == (
        "rejected (result 9) by the service (source 9): reason 9"
    )
    assert is_transient(LOCAL_LIMIT_EXCEEDED)
    assert not is_transient(AssociateReject(1, 1, 7))
    assert describe_abort(0, 6) == "by the service user"
    assert describe_abort(2, 6) == "by the service provider: invalid PDU parameter value"
    assert describe_abort(2, 3) == "by the service provider: reason 3"
    assert str(Abort(2, 1)) == "by the service provider: unrecognized PDU"
