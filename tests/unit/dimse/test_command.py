"""Commands and their command sets (PS3.7 9.3, 10.3, annex E)."""

from __future__ import annotations

import struct

import pytest

from imaging_ingestion.dimse import status
from imaging_ingestion.dimse.command import (
    COMMANDS,
    CCancelRequest,
    CEchoRequest,
    CEchoResponse,
    CFindRequest,
    CFindResponse,
    CGetRequest,
    CMoveRequest,
    CMoveResponse,
    CStoreRequest,
    CStoreResponse,
    NActionRequest,
    NActionResponse,
    NCreateRequest,
    NCreateResponse,
    NDeleteRequest,
    NEventReportRequest,
    NEventReportResponse,
    NGetRequest,
    NSetRequest,
    Priority,
    RefusedRequest,
    respond,
)
from imaging_ingestion.dimse.command_codec import decode_command, encode_command
from imaging_ingestion.dimse.error import EncodingError, MessageError

CT, INSTANCE = "1.2.840.10008.5.1.4.1.1.2", "1.2.3.4.5"


def element(number: int, value: bytes) -> bytes:
    return struct.pack("<HHL", 0, number, len(value)) + value


def us(number: int, value: int) -> bytes:
    return element(number, struct.pack("<H", value))


def command_set(*elements: bytes, length: int | None = None) -> bytes:
    body = b"".join(elements)
    size = len(body) if length is None else length
    return struct.pack("<HHLL", 0, 0, 4, size) + body


def store_request(**changes: bytes | None) -> bytes:
    """A C-STORE-RQ from its elements, some of them changed or left out."""
    elements = {
        "sop_class": element(0x0002, CT.encode() + b"\0"),
        "field": us(0x0100, 0x0001),
        "message_id": us(0x0110, 7),
        "priority": us(0x0700, 0),
        "data_set": us(0x0800, 0x0001),
        "instance": element(0x1000, INSTANCE.encode() + b"\0"),
    } | changes
    return command_set(*(e for e in elements.values() if e is not None))


def test_a_command_set_is_laid_out_as_in_the_standard() -> None:
    request = CEchoRequest(message_id=7, affected_sop_class_uid="1.2.840.10008.1.1")
    assert encode_command(request) == command_set(
        element(0x0002, b"1.2.840.10008.1.1\0"),
        us(0x0100, 0x0030),
        us(0x0110, 7),
        us(0x0800, 0x0101),
    )


def test_elements_are_in_ascending_order_and_padded_to_even_lengths() -> None:
    request = CStoreRequest(
        message_id=1,
        affected_sop_class_uid="1.2.3",
        affected_sop_instance_uid="1.2.3.4",
        priority=Priority.HIGH,
        move_originator_application_entity_title="MOVER",
        move_originator_message_id=9,
    )
    assert encode_command(request, has_data_set=True) == command_set(
        element(0x0002, b"1.2.3\0"),
        us(0x0100, 0x0001),
        us(0x0110, 1),
        us(0x0700, 1),
        us(0x0800, 0x0001),
        element(0x1000, b"1.2.3.4\0"),
        element(0x1030, b"MOVER "),
        us(0x1031, 9),
    )


# PS3.7 table E.1-1
@pytest.mark.parametrize(
    ("field", "name"),
    [
        (0x0001, "CStoreRequest"),
        (0x8001, "CStoreResponse"),
        (0x0010, "CGetRequest"),
        (0x8010, "CGetResponse"),
        (0x0020, "CFindRequest"),
        (0x8020, "CFindResponse"),
        (0x0021, "CMoveRequest"),
        (0x8021, "CMoveResponse"),
        (0x0030, "CEchoRequest"),
        (0x8030, "CEchoResponse"),
        (0x0100, "NEventReportRequest"),
        (0x8100, "NEventReportResponse"),
        (0x0110, "NGetRequest"),
        (0x8110, "NGetResponse"),
        (0x0120, "NSetRequest"),
        (0x8120, "NSetResponse"),
        (0x0130, "NActionRequest"),
        (0x8130, "NActionResponse"),
        (0x0140, "NCreateRequest"),
        (0x8140, "NCreateResponse"),
        (0x0150, "NDeleteRequest"),
        (0x8150, "NDeleteResponse"),
        (0x0FFF, "CCancelRequest"),
    ],
)
def test_each_command_has_the_command_field_of_the_standard(field: int, name: str) -> None:
    assert COMMANDS[field].__name__ == name
    assert len(COMMANDS) == 23


def test_a_request_is_read() -> None:
    assert decode_command(store_request()) == (
        CStoreRequest(message_id=7, affected_sop_class_uid=CT, affected_sop_instance_uid=INSTANCE),
        True,
    )


# C6
def test_the_move_originator_is_read() -> None:
    command, _ = decode_command(
        store_request(aet=element(0x1030, b"MOVER   "), message=us(0x1031, 9))
    )
    assert isinstance(command, CStoreRequest)
    assert command.move_originator_application_entity_title == "MOVER"
    assert command.move_originator_message_id == 9


# A23
@pytest.mark.parametrize("padding", [b"", b"\0", b" ", b"\0\0\0", b"  \0 "])
def test_uids_are_read_with_any_padding_or_none(padding: bytes) -> None:
    raw = store_request(
        sop_class=element(0x0002, CT.encode() + padding),
        instance=element(0x1000, b" " * bool(padding) + INSTANCE.encode() + padding),
    )
    command, _ = decode_command(raw)
    assert isinstance(command, CStoreRequest)
    assert (command.affected_sop_class_uid, command.affected_sop_instance_uid) == (CT, INSTANCE)


def test_unknown_and_retired_elements_are_ignored() -> None:
    raw = store_request(retired=us(0x5010, 1), unknown=element(0x0FFE, b"whatever"))
    assert isinstance(decode_command(raw)[0], CStoreRequest)


def test_empty_optional_elements_are_absent() -> None:
    raw = store_request(priority=element(0x0700, b""), aet=element(0x1030, b""))
    command, _ = decode_command(raw)
    assert isinstance(command, CStoreRequest)
    assert command.priority == Priority.MEDIUM
    assert command.move_originator_application_entity_title is None


# A22
@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\0" * 11,
        store_request()[12:],  # without a group length
        command_set(us(0x0100, 1), length=9),
        command_set(us(0x0100, 1), length=11),
        command_set(us(0x0100, 1), length=0),
        store_request() + b"\0",
        command_set(b"\0\0\0\1"),
        command_set(struct.pack("<HHL", 0, 0x0002, 5) + b"1.2"),
        command_set(struct.pack("<HHL", 0, 0x0002, 0xFFFFFFFF) + b"1.2"),
        command_set(struct.pack("<HHL", 8, 0x0016, 4) + b"1.2\0"),
        store_request(again=us(0x0110, 8)),
        store_request(field=None),
        store_request(field=element(0x0100, b"\1")),
        store_request(data_set=None),
        store_request(message_id=None, instance=None),  # nobody to refuse it to
        store_request(message_id=element(0x0110, b"\1\0\0\0"), instance=None),
        store_request(field=us(0x0100, 0x8999)),  # a response to what nobody can have asked
        command_set(us(0x0100, 0x8001), us(0x0120, 1), us(0x0800, 0x0101)),  # without a status
        command_set(us(0x0100, 0x8001), us(0x0800, 0x0101), us(0x0900, 0)),
        command_set(us(0x0100, 0x0FFF), us(0x0800, 0x0101)),  # cancel of what?
    ],
)
def test_what_is_no_command_set_cannot_be_answered(raw: bytes) -> None:
    with pytest.raises(MessageError) as caught:
        decode_command(raw)
    assert (caught.value.abort_source, caught.value.abort_reason) == (0, 0)


def test_a_request_without_its_message_id_cannot_be_answered() -> None:
    with pytest.raises(MessageError, match=r"Message ID \(0000,0110\) is missing"):
        decode_command(store_request(message_id=None))


# A22
@pytest.mark.parametrize("has_data_set", [True, False])
def test_an_unknown_command_is_refused_as_unrecognized(has_data_set: bool) -> None:
    raw = store_request(
        field=us(0x0100, 0x0FF0), data_set=us(0x0800, 1 if has_data_set else 0x0101)
    )
    refused, follows = decode_command(raw)
    assert isinstance(refused, RefusedRequest)
    assert follows is has_data_set
    assert (refused.status, refused.message_id) == (0x0211, 7)
    response = encode_command(refused.response())
    assert us(0x0100, 0x8FF0) in response
    assert us(0x0120, 7) in response
    assert us(0x0900, 0x0211) in response
    assert us(0x0800, 0x0101) in response


# C5, A22
@pytest.mark.parametrize(
    ("raw", "code", "comment", "offender"),
    [
        (store_request(instance=None), 0xC000, "Affected SOP Instance UID (0000,1000)", 0x1000),
        (store_request(sop_class=None), 0xC000, "Affected SOP Class UID (0000,0002)", 0x0002),
        (store_request(instance=element(0x1000, b"")), 0xC000, "is missing", 0x1000),
        (store_request(instance=element(0x1000, b"abc\0")), 0x0117, "separated", 0x1000),
        (store_request(instance=element(0x1000, b"1." * 33)), 0x0117, "at most 64", 0x1000),
        (store_request(sop_class=element(0x0002, b"1..2")), 0x0122, "separated", 0x0002),
        (store_request(priority=element(0x0700, b"\0")), 0xC000, "1 bytes", 0x0700),
        (store_request(data_set=us(0x0800, 0x0101)), 0xC000, "no data set", 0x0800),
        (
            command_set(us(0x0100, 0x0030), us(0x0110, 7), us(0x0800, 0x0101)),
            0x0212,
            "is missing",
            0x0002,
        ),
        (
            command_set(element(0x0003, b"1..2"), us(0x0100, 0x0130), us(0x0110, 7), us(0x0800, 1)),
            0x0118,
            "Requested SOP Class UID",
            0x0003,
        ),
        (
            command_set(
                element(0x0003, b"1.2\0"),
                us(0x0100, 0x0110),
                us(0x0110, 7),
                us(0x0800, 0x0101),
                element(0x1001, b"1.3\0"),
                element(0x1005, b"\x08\0\x18"),
            ),
            0x0212,
            "no list of tags",
            0x1005,
        ),
    ],
)
def test_a_request_that_is_not_whole_is_refused_in_its_services_terms(
    raw: bytes, code: int, comment: str, offender: int
) -> None:
    refused, _ = decode_command(raw)
    assert isinstance(refused, RefusedRequest)
    assert refused.status == code
    assert comment in refused.error_comment
    assert refused.offending_element == (offender,)
    assert refused.message_id == 7
    response = refused.response()
    assert response.command_field == refused.command_field | 0x8000
    assert us(0x0900, code) in encode_command(response)


# C2
def test_a_refusal_names_the_instance_where_it_can_be_read() -> None:
    refused, _ = decode_command(store_request(data_set=us(0x0800, 0x0101)))
    assert isinstance(refused, RefusedRequest)
    decoded, _ = decode_command(encode_command(refused.response()))
    assert isinstance(decoded, CStoreResponse)
    assert decoded.affected_sop_class_uid == CT
    assert decoded.affected_sop_instance_uid == INSTANCE


@pytest.mark.parametrize("field", [0x0010, 0x0020, 0x0021, 0x0120])
def test_requests_that_need_a_data_set_are_refused_without(field: int) -> None:
    raw = command_set(
        element(0x0002, b"1.2\0"),
        element(0x0003, b"1.2\0"),
        us(0x0100, field),
        us(0x0110, 7),
        element(0x0600, b"DEST"),
        us(0x0800, 0x0101),
        element(0x1001, b"1.3\0"),
    )
    refused, _ = decode_command(raw)
    assert isinstance(refused, RefusedRequest)
    assert refused.error_comment == "the request has no data set"


def test_a_response_with_a_uid_that_is_none_is_still_read() -> None:
    raw = command_set(
        element(0x0002, b"abc\0"),
        us(0x0100, 0x8001),
        us(0x0120, 7),
        us(0x0800, 0x0101),
        us(0x0900, 0xA700),
        element(0x0901, b"\x08\0\x18\0\0\0\2\0"),
        element(0x0902, b"disk full "),
        us(0x0903, 5),
    )
    assert decode_command(raw)[0] == CStoreResponse(
        message_id_being_responded_to=7,
        status=0xA700,
        affected_sop_class_uid="abc",
        offending_element=(0x00080018, 0x00000002),
        error_comment="disk full",
        error_id=5,
    )


# C2
@pytest.mark.parametrize(
    ("request_", "response"),
    [
        (
            CStoreRequest(
                message_id=3, affected_sop_class_uid=CT, affected_sop_instance_uid=INSTANCE
            ),
            CStoreResponse(
                message_id_being_responded_to=3,
                status=0,
                affected_sop_class_uid=CT,
                affected_sop_instance_uid=INSTANCE,
            ),
        ),
        (
            CEchoRequest(message_id=3, affected_sop_class_uid="1.2"),
            CEchoResponse(message_id_being_responded_to=3, status=0, affected_sop_class_uid="1.2"),
        ),
        (
            CFindRequest(message_id=3, affected_sop_class_uid="1.2"),
            CFindResponse(message_id_being_responded_to=3, status=0, affected_sop_class_uid="1.2"),
        ),
        (
            NActionRequest(
                message_id=3,
                requested_sop_class_uid="1.2",
                requested_sop_instance_uid="1.3",
                action_type_id=1,
            ),
            NActionResponse(
                message_id_being_responded_to=3,
                status=0,
                affected_sop_class_uid="1.2",
                affected_sop_instance_uid="1.3",
                action_type_id=1,
            ),
        ),
        (
            NEventReportRequest(
                message_id=3,
                affected_sop_class_uid="1.2",
                affected_sop_instance_uid="1.3",
                event_type_id=2,
            ),
            NEventReportResponse(
                message_id_being_responded_to=3,
                status=0,
                affected_sop_class_uid="1.2",
                affected_sop_instance_uid="1.3",
                event_type_id=2,
            ),
        ),
    ],
)
def test_a_response_repeats_what_was_asked(request_: object, response: object) -> None:
    assert respond(request_, status.SUCCESS) == response  # type: ignore[arg-type]


# C19
def test_a_response_can_have_more_fields() -> None:
    request = CMoveRequest(message_id=3, affected_sop_class_uid="1.2", move_destination="DEST")
    response = respond(
        request,
        status.PENDING,
        number_of_remaining_suboperations=2,
        number_of_completed_suboperations=1,
        number_of_failed_suboperations=0,
        number_of_warning_suboperations=0,
    )
    assert isinstance(response, CMoveResponse)
    assert us(0x1022, 0) in encode_command(response)
    created = respond(
        NCreateRequest(message_id=1, affected_sop_class_uid="1.2"),
        0,
        affected_sop_instance_uid="1.9",
    )
    assert isinstance(created, NCreateResponse)
    assert created.affected_sop_instance_uid == "1.9"


def test_an_error_comment_is_made_to_fit() -> None:
    request = CEchoRequest(message_id=3, affected_sop_class_uid="1.2")
    response = respond(request, 0x0110, error_comment="ein Fehler: Größe\n\\ zu groß " + "x" * 99)
    raw = encode_command(response)
    comment = b"ein Fehler: Gr??e / zu gro? " + b"x" * 36
    assert element(0x0902, comment) in raw
    assert len(comment) == 64


@pytest.mark.parametrize(
    "command",
    [
        CEchoRequest(message_id=65536, affected_sop_class_uid="1.2"),
        CEchoRequest(message_id=-1, affected_sop_class_uid="1.2"),
        CEchoRequest(message_id=1, affected_sop_class_uid=""),
        CEchoRequest(message_id=1, affected_sop_class_uid="1." * 33),
        CMoveRequest(message_id=1, affected_sop_class_uid="1.2", move_destination="D" * 17),
        CEchoRequest(message_id="1", affected_sop_class_uid="1.2"),  # type: ignore[arg-type]
    ],
)
def test_a_command_that_cannot_be_encoded_is_our_own_error(command: CEchoRequest) -> None:
    with pytest.raises(EncodingError):
        encode_command(command)


@pytest.mark.parametrize(
    "command",
    [
        CCancelRequest(message_id_being_responded_to=9),
        CGetRequest(message_id=1, affected_sop_class_uid="1.2", priority=Priority.LOW),
        NGetRequest(
            message_id=1,
            requested_sop_class_uid="1.2",
            requested_sop_instance_uid="1.3",
            attribute_identifier_list=(0x00100010, 0x7FE00010),
        ),
        NGetRequest(message_id=1, requested_sop_class_uid="1.2", requested_sop_instance_uid="1.3"),
        NSetRequest(message_id=1, requested_sop_class_uid="1.2", requested_sop_instance_uid="1.3"),
        NDeleteRequest(
            message_id=1, requested_sop_class_uid="1.2", requested_sop_instance_uid="1.3"
        ),
        CMoveResponse(
            message_id_being_responded_to=1,
            status=0xFF00,
            number_of_remaining_suboperations=1,
            number_of_completed_suboperations=2,
            number_of_failed_suboperations=3,
            number_of_warning_suboperations=4,
        ),
    ],
)
def test_commands_are_read_as_they_were_written(command: CCancelRequest) -> None:
    assert decode_command(encode_command(command, has_data_set=True)) == (command, True)
