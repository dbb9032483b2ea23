"""DIMSE commands as values (PS3.7 sections 9.3 and 10.3).

Fields are the elements of the command set by their names in the standard; what is mandatory there
has no default here. Command Field and Command Data Set Type are not fields: the type says the
one, and whoever reads or writes the message knows the other.
"""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar, Final

import msgspec


class Priority(IntEnum):
    """Priority (0000,0700)."""

    MEDIUM = 0
    HIGH = 1
    LOW = 2


class Command(msgspec.Struct, frozen=True, kw_only=True):
    """Any command."""

    COMMAND_FIELD: ClassVar[int]


class Request(Command, frozen=True, kw_only=True):
    """A request that is answered by responses."""

    message_id: int
    #: Whether the message must have a data set; None: it may.
    NEEDS_DATA_SET: ClassVar[bool | None] = None


class Response(Command, frozen=True, kw_only=True):
    """A response. `offending_element` is a list of tags, as ints."""

    message_id_being_responded_to: int
    status: int
    offending_element: tuple[int, ...] | None = None
    error_comment: str | None = None
    error_id: int | None = None


class InstanceResponse(Response, frozen=True, kw_only=True):
    """A response about one instance."""

    affected_sop_class_uid: str | None = None
    affected_sop_instance_uid: str | None = None


class InstanceRequest(Request, frozen=True, kw_only=True):
    """A request to an instance that exists."""

    requested_sop_class_uid: str
    requested_sop_instance_uid: str


class RetrieveResponse(Response, frozen=True, kw_only=True):
    """A response of C-GET or C-MOVE, with numbers of sub-operations."""

    affected_sop_class_uid: str | None = None
    number_of_remaining_suboperations: int | None = None
    number_of_completed_suboperations: int | None = None
    number_of_failed_suboperations: int | None = None
    number_of_warning_suboperations: int | None = None


class CStoreRequest(Request, frozen=True, kw_only=True):
    """C-STORE-RQ (table 9.3-1)."""

    COMMAND_FIELD = 0x0001
    NEEDS_DATA_SET = True
    affected_sop_class_uid: str
    affected_sop_instance_uid: str
    priority: int = Priority.MEDIUM
    move_originator_application_entity_title: str | None = None
    move_originator_message_id: int | None = None


class CStoreResponse(InstanceResponse, frozen=True, kw_only=True):
    """C-STORE-RSP (table 9.3-2)."""

    COMMAND_FIELD = 0x8001


class CFindRequest(Request, frozen=True, kw_only=True):
    """C-FIND-RQ (table 9.3-3)."""

    COMMAND_FIELD = 0x0020
    NEEDS_DATA_SET = True
    affected_sop_class_uid: str
    priority: int = Priority.MEDIUM


class CFindResponse(Response, frozen=True, kw_only=True):
    """C-FIND-RSP (table 9.3-4)."""

    COMMAND_FIELD = 0x8020
    affected_sop_class_uid: str | None = None


class CGetRequest(Request, frozen=True, kw_only=True):
    """C-GET-RQ (table 9.3-6)."""

    COMMAND_FIELD = 0x0010
    NEEDS_DATA_SET = True
    affected_sop_class_uid: str
    priority: int = Priority.MEDIUM


class CGetResponse(RetrieveResponse, frozen=True, kw_only=True):
    """C-GET-RSP (table 9.3-7)."""

    COMMAND_FIELD = 0x8010


class CMoveRequest(Request, frozen=True, kw_only=True):
    """C-MOVE-RQ (table 9.3-9)."""

    COMMAND_FIELD = 0x0021
    NEEDS_DATA_SET = True
    affected_sop_class_uid: str
    move_destination: str
    priority: int = Priority.MEDIUM


class CMoveResponse(RetrieveResponse, frozen=True, kw_only=True):
    """C-MOVE-RSP (table 9.3-10)."""

    COMMAND_FIELD = 0x8021


class CEchoRequest(Request, frozen=True, kw_only=True):
    """C-ECHO-RQ (table 9.3-12)."""

    COMMAND_FIELD = 0x0030
    NEEDS_DATA_SET = False
    affected_sop_class_uid: str


class CEchoResponse(Response, frozen=True, kw_only=True):
    """C-ECHO-RSP (table 9.3-13)."""

    COMMAND_FIELD = 0x8030
    affected_sop_class_uid: str | None = None


class CCancelRequest(Command, frozen=True, kw_only=True):
    """C-CANCEL-RQ of a C-FIND, C-GET or C-MOVE (tables 9.3-5, -8, -11); it has no response."""

    COMMAND_FIELD = 0x0FFF
    message_id_being_responded_to: int


class NEventReportRequest(Request, frozen=True, kw_only=True):
    """N-EVENT-REPORT-RQ (table 10.3-1)."""

    COMMAND_FIELD = 0x0100
    affected_sop_class_uid: str
    affected_sop_instance_uid: str
    event_type_id: int


class NEventReportResponse(InstanceResponse, frozen=True, kw_only=True):
    """N-EVENT-REPORT-RSP (table 10.3-2)."""

    COMMAND_FIELD = 0x8100
    event_type_id: int | None = None


class NGetRequest(InstanceRequest, frozen=True, kw_only=True):
    """N-GET-RQ (table 10.3-3); without a list, all attributes are asked for."""

    COMMAND_FIELD = 0x0110
    NEEDS_DATA_SET = False
    attribute_identifier_list: tuple[int, ...] | None = None


class NGetResponse(InstanceResponse, frozen=True, kw_only=True):
    """N-GET-RSP (table 10.3-4)."""

    COMMAND_FIELD = 0x8110


class NSetRequest(InstanceRequest, frozen=True, kw_only=True):
    """N-SET-RQ (table 10.3-5)."""

    COMMAND_FIELD = 0x0120
    NEEDS_DATA_SET = True


class NSetResponse(InstanceResponse, frozen=True, kw_only=True):
    """N-SET-RSP (table 10.3-6)."""

    COMMAND_FIELD = 0x8120


class NActionRequest(InstanceRequest, frozen=True, kw_only=True):
    """N-ACTION-RQ (table 10.3-7)."""

    COMMAND_FIELD = 0x0130
    action_type_id: int


class NActionResponse(InstanceResponse, frozen=True, kw_only=True):
    """N-ACTION-RSP (table 10.3-8)."""

    COMMAND_FIELD = 0x8130
    action_type_id: int | None = None


class NCreateRequest(Request, frozen=True, kw_only=True):
    """N-CREATE-RQ (table 10.3-9)."""

    COMMAND_FIELD = 0x0140
    affected_sop_class_uid: str
    affected_sop_instance_uid: str | None = None


class NCreateResponse(InstanceResponse, frozen=True, kw_only=True):
    """N-CREATE-RSP (table 10.3-10)."""

    COMMAND_FIELD = 0x8140


class NDeleteRequest(InstanceRequest, frozen=True, kw_only=True):
    """N-DELETE-RQ (table 10.3-11)."""

    COMMAND_FIELD = 0x0150
    NEEDS_DATA_SET = False


class NDeleteResponse(InstanceResponse, frozen=True, kw_only=True):
    """N-DELETE-RSP (table 10.3-12)."""

    COMMAND_FIELD = 0x8150


#: A request's response has its command field, with the highest bit set (PS3.7 table E.1-1).
RESPONSE_BIT: Final = 0x8000

COMMANDS: Final[dict[int, type[Command]]] = {
    command.COMMAND_FIELD: command
    for command in (
        CStoreRequest,
        CStoreResponse,
        CGetRequest,
        CGetResponse,
        CFindRequest,
        CFindResponse,
        CMoveRequest,
        CMoveResponse,
        CEchoRequest,
        CEchoResponse,
        CCancelRequest,
        NEventReportRequest,
        NEventReportResponse,
        NGetRequest,
        NGetResponse,
        NSetRequest,
        NSetResponse,
        NActionRequest,
        NActionResponse,
        NCreateRequest,
        NCreateResponse,
        NDeleteRequest,
        NDeleteResponse,
    )
}


class RefusedRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request that can only be answered by a failure: not a command we know, or not a whole one.

    `status` is that failure, in the terms of the service asked for.
    """

    command_field: int
    message_id: int
    status: int
    error_comment: str
    offending_element: tuple[int, ...] | None = None
    affected_sop_class_uid: str | None = None
    affected_sop_instance_uid: str | None = None

    def response(self) -> RefusalResponse:
        """The answer."""
        return RefusalResponse(
            command_field=self.command_field | RESPONSE_BIT,
            message_id_being_responded_to=self.message_id,
            status=self.status,
            offending_element=self.offending_element,
            error_comment=self.error_comment,
            affected_sop_class_uid=self.affected_sop_class_uid,
            affected_sop_instance_uid=self.affected_sop_instance_uid,
        )


class RefusalResponse(InstanceResponse, frozen=True, kw_only=True):
    """The response to any refused request, also to one whose command nobody knows."""

    command_field: int


def respond(
    request: Request,
    status: int,
    *,
    error_comment: str | None = None,
    offending_element: tuple[int, ...] | None = None,
    **more: int | str | None,
) -> Response:
    """The response to a request, with its Message ID and SOP class and instance (PS3.7 9.1.1.1).

    `more` are fields of that response: numbers of sub-operations, the UID of a created instance.
    """
    response = COMMANDS[request.COMMAND_FIELD | RESPONSE_BIT]
    values: dict[str, object] = {
        "message_id_being_responded_to": request.message_id,
        "status": int(status),
        "error_comment": error_comment,
        "offending_element": offending_element,
    }
    for field in ("sop_class_uid", "sop_instance_uid", "event_type_id", "action_type_id"):
        name = field if field.endswith("_id") else f"affected_{field}"
        asked = getattr(request, name, None) or getattr(request, f"requested_{field}", None)
        if asked is not None and name in response.__struct_fields__:
            values[name] = asked
    made = response(**{**values, **more})
    assert isinstance(made, Response)
    return made
