"""Commands from and to command sets; what is wrong with a request becomes the answer to it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import msgspec

from imaging_ingestion.dicom.uid import InvalidUidError, check_uid
from imaging_ingestion.dimse import command_set, status
from imaging_ingestion.dimse.command import (
    COMMANDS,
    RESPONSE_BIT,
    CFindRequest,
    CGetRequest,
    CMoveRequest,
    Command,
    CStoreRequest,
    RefusalResponse,
    RefusedRequest,
    Request,
)
from imaging_ingestion.dimse.command_set import ELEMENTS, Element, ElementError, Value
from imaging_ingestion.dimse.error import MessageError
from imaging_ingestion.dimse.pdu import Buffer

_MESSAGE_ID: Final = ELEMENTS["message_id"]
_DATA_SET_TYPE = Element(command_set.COMMAND_DATA_SET_TYPE, "US", "Command Data Set Type")
_COMMAND_FIELD = Element(command_set.COMMAND_FIELD, "US", "Command Field")

#: How each service says that a request makes no sense to it (PS3.4 B.2.3 and C.4); to the others
#: it is a mistyped argument (PS3.7 annex C.5.15).
_NOT_UNDERSTOOD: Final[dict[type[Command], int]] = {
    CStoreRequest: status.STORE_CANNOT_UNDERSTAND,
    CFindRequest: status.FIND_UNABLE_TO_PROCESS,
    CMoveRequest: status.RETRIEVE_UNABLE_TO_PROCESS,
    CGetRequest: status.RETRIEVE_UNABLE_TO_PROCESS,
}


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    element: Element
    required: bool


@dataclass(frozen=True, slots=True)
class _Fault:
    """What is wrong with a request."""

    element: Element
    comment: str
    status: int


def decode_command(data: Buffer) -> tuple[Command | RefusedRequest, bool]:
    """A command, and whether a data set follows it.

    Raises MessageError for what cannot be answered: no command set at all, a response that cannot
    be read, a request without its Message ID.
    """
    elements = command_set.split(data)
    command_field = _number(elements, _COMMAND_FIELD)
    has_data_set = _number(elements, _DATA_SET_TYPE) != command_set.NO_DATA_SET
    command = COMMANDS.get(command_field)
    if command is None:
        if command_field & RESPONSE_BIT:
            raise MessageError(f"a response with the unknown command field {command_field:04X}H")
        fault = _Fault(
            _COMMAND_FIELD,
            f"command {command_field:04X}H is not known",
            status.UNRECOGNIZED_OPERATION,
        )
        return _refuse(command_field, elements, fault), has_data_set
    values, fault_found = _read_fields(command, elements)
    if issubclass(command, Request):
        if fault_found is None and command.NEEDS_DATA_SET and not has_data_set:
            fault_found = _Fault(
                _DATA_SET_TYPE, "the request has no data set", _not_understood(command)
            )
        if fault_found is not None:
            return _refuse(command_field, elements, fault_found), has_data_set
    elif fault_found is not None:
        raise MessageError(f"{command.__name__}: {fault_found.comment}")
    return command(**values), has_data_set


def encode_command(command: Command, *, has_data_set: bool = False) -> bytes:
    """The command set of a command. Raises EncodingError."""
    values: list[tuple[Element, Value]] = []
    for field in _fields(type(command)):
        value = getattr(command, field.name)
        if value is not None:
            values.append((field.element, value))
    if isinstance(command, RefusalResponse):
        command_field = command.command_field
    else:
        command_field = command.COMMAND_FIELD
    return command_set.join(values, command_field, has_data_set=has_data_set)


@cache
def _fields(command: type[Command]) -> tuple[_Field, ...]:
    return tuple(
        _Field(field.name, ELEMENTS[field.name], field.required)
        for field in msgspec.structs.fields(command)
        if field.name in ELEMENTS
    )


def _read_fields(
    command: type[Command], elements: dict[int, memoryview]
) -> tuple[dict[str, Any], _Fault | None]:
    """The fields' values, and the first thing that is wrong with them."""
    values: dict[str, Any] = {}
    for field in _fields(command):
        element = field.element
        raw = elements.get(element.number)
        try:
            value = command_set.read(element.vr, raw) if raw is not None else None
            if element.vr == "UI" and value is not None and issubclass(command, Request):
                value = check_uid(str(value)).uid
        except ElementError as error:
            return values, _Fault(element, f"{element} {error}", _not_understood(command))
        except InvalidUidError as error:
            return values, _Fault(element, f"{element} {error}", _invalid_uid(command, element))
        if value is None and field.required:
            return values, _Fault(element, f"{element} is missing", _not_understood(command))
        if value is not None:
            values[field.name] = value
    return values, None


def _not_understood(command: type[Command]) -> int:
    return _NOT_UNDERSTOOD.get(command, status.MISTYPED_ARGUMENT)


def _invalid_uid(command: type[Command], element: Element) -> int:
    if element.number in (0x1000, 0x1001):
        return status.INVALID_SOP_INSTANCE
    composite = command.COMMAND_FIELD < 0x0100
    return status.SOP_CLASS_NOT_SUPPORTED if composite else status.NO_SUCH_SOP_CLASS


def _refuse(command_field: int, elements: dict[int, memoryview], fault: _Fault) -> RefusedRequest:
    return RefusedRequest(
        command_field=command_field,
        message_id=_number(elements, _MESSAGE_ID),
        status=int(fault.status),
        error_comment=fault.comment,
        offending_element=(fault.element.tag,),
        affected_sop_class_uid=_uid(elements, 0x0002, 0x0003),
        affected_sop_instance_uid=_uid(elements, 0x1000, 0x1001),
    )


def _number(elements: dict[int, memoryview], element: Element) -> int:
    """A number without which nothing can be answered. Raises MessageError."""
    try:
        value = command_set.read("US", elements.get(element.number, memoryview(b"")))
    except ElementError as error:
        raise MessageError(f"{element} {error}") from None
    if value is None:
        raise MessageError(f"{element} is missing")
    assert isinstance(value, int)
    return value


def _uid(elements: dict[int, memoryview], *numbers: int) -> str | None:
    """The first of these elements that has a valid UID."""
    for number in numbers:
        try:
            return check_uid(str(elements.get(number, b""), "latin-1")).uid
        except InvalidUidError:
            continue
    return None
