"""Statuses of DIMSE responses, in the standard's words (PS3.7 annex C, PS3.4 B.2.3 and C.4).

A `Status` is the number that goes on the wire, with its kind and its meaning. A code means
different things to different services; `describe` knows them, and the ranges (A7xx) too.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Final


class StatusKind(Enum):
    """What a status says of the operation."""

    SUCCESS = auto()
    PENDING = auto()
    CANCEL = auto()
    WARNING = auto()
    FAILURE = auto()


class Service(Enum):
    """The services whose statuses have meanings of their own."""

    C_STORE = auto()
    C_FIND = auto()
    C_MOVE = auto()
    C_GET = auto()
    OTHER = auto()


class Status(int):
    """A status code that carries its meaning."""

    meaning: str

    def __new__(cls, code: int, meaning: str) -> Status:
        """A named code."""
        status = super().__new__(cls, code)
        status.meaning = meaning
        return status

    @property
    def kind(self) -> StatusKind:
        """What it says of the operation."""
        return kind_of(self)

    def __repr__(self) -> str:
        return f"<{int(self):04X}H {self.meaning}>"


# PS3.7 annex C: any service.
SUCCESS: Final = Status(0x0000, "Success")
CANCEL: Final = Status(0xFE00, "Cancel")
PENDING: Final = Status(0xFF00, "Pending")
REQUESTED_OPTIONAL_ATTRIBUTES_NOT_SUPPORTED: Final = Status(
    0x0001, "Warning: requested optional attributes are not supported"
)
ATTRIBUTE_LIST_ERROR: Final = Status(0x0107, "Warning: attribute list error")
ATTRIBUTE_VALUE_OUT_OF_RANGE: Final = Status(0x0116, "Warning: attribute value out of range")
NO_SUCH_ATTRIBUTE: Final = Status(0x0105, "No such attribute")
INVALID_ATTRIBUTE_VALUE: Final = Status(0x0106, "Invalid attribute value")
PROCESSING_FAILURE: Final = Status(0x0110, "Processing failure")
DUPLICATE_SOP_INSTANCE: Final = Status(0x0111, "Duplicate SOP instance")
NO_SUCH_SOP_INSTANCE: Final = Status(0x0112, "No such SOP instance")
NO_SUCH_EVENT_TYPE: Final = Status(0x0113, "No such event type")
NO_SUCH_ARGUMENT: Final = Status(0x0114, "No such argument")
INVALID_ARGUMENT_VALUE: Final = Status(0x0115, "Invalid argument value")
INVALID_SOP_INSTANCE: Final = Status(0x0117, "Invalid SOP instance")
NO_SUCH_SOP_CLASS: Final = Status(0x0118, "No such SOP class")
CLASS_INSTANCE_CONFLICT: Final = Status(0x0119, "Class-instance conflict")
MISSING_ATTRIBUTE: Final = Status(0x0120, "Missing attribute")
MISSING_ATTRIBUTE_VALUE: Final = Status(0x0121, "Missing attribute value")
SOP_CLASS_NOT_SUPPORTED: Final = Status(0x0122, "Refused: SOP class not supported")
NO_SUCH_ACTION_TYPE: Final = Status(0x0123, "No such action type")
NOT_AUTHORIZED: Final = Status(0x0124, "Refused: not authorized")
DUPLICATE_INVOCATION: Final = Status(0x0210, "Duplicate invocation")
UNRECOGNIZED_OPERATION: Final = Status(0x0211, "Unrecognized operation")
MISTYPED_ARGUMENT: Final = Status(0x0212, "Mistyped argument")
RESOURCE_LIMITATION: Final = Status(0x0213, "Resource limitation")

# PS3.4 table B.2-1: C-STORE.
STORE_OUT_OF_RESOURCES: Final = Status(0xA700, "Refused: out of resources")
STORE_DATA_SET_DOES_NOT_MATCH_SOP_CLASS: Final = Status(
    0xA900, "Error: data set does not match SOP class"
)
STORE_CANNOT_UNDERSTAND: Final = Status(0xC000, "Error: cannot understand")
STORE_COERCION_OF_DATA_ELEMENTS: Final = Status(0xB000, "Warning: coercion of data elements")
STORE_ELEMENTS_DISCARDED: Final = Status(0xB006, "Warning: elements discarded")
STORE_WARNING_DATA_SET_DOES_NOT_MATCH_SOP_CLASS: Final = Status(
    0xB007, "Warning: data set does not match SOP class"
)

# PS3.4 table C.4-1: C-FIND.
FIND_OUT_OF_RESOURCES: Final = Status(0xA700, "Refused: out of resources")
FIND_DATA_SET_DOES_NOT_MATCH_SOP_CLASS: Final = Status(
    0xA900, "Error: data set does not match SOP class"
)
FIND_UNABLE_TO_PROCESS: Final = Status(0xC000, "Failed: unable to process")
FIND_MATCHING_REACHED_RESPONSE_LIMIT: Final = Status(
    0xB001, "Warning: matching reached response limit, subsequent request may return more matches"
)
FIND_CANCEL: Final = Status(0xFE00, "Matching terminated due to cancel request")
FIND_PENDING: Final = Status(
    0xFF00, "Matches are continuing: any optional keys were supported as required keys"
)
FIND_PENDING_OPTIONAL_KEY_NOT_SUPPORTED: Final = Status(
    0xFF01,
    "Matches are continuing: one or more optional keys were not supported for existence or "
    "matching",
)

# PS3.4 tables C.4-2 and C.4-3: C-MOVE and C-GET.
RETRIEVE_OUT_OF_RESOURCES_MATCHES: Final = Status(
    0xA701, "Refused: out of resources, unable to calculate number of matches"
)
RETRIEVE_OUT_OF_RESOURCES_SUBOPERATIONS: Final = Status(
    0xA702, "Refused: out of resources, unable to perform sub-operations"
)
MOVE_DESTINATION_UNKNOWN: Final = Status(0xA801, "Refused: move destination unknown")
RETRIEVE_DATA_SET_DOES_NOT_MATCH_SOP_CLASS: Final = Status(
    0xA900, "Error: data set does not match SOP class"
)
RETRIEVE_UNABLE_TO_PROCESS: Final = Status(0xC000, "Failed: unable to process")
RETRIEVE_WARNING: Final = Status(
    0xB000, "Sub-operations complete: one or more failures or warnings"
)
RETRIEVE_CANCEL: Final = Status(0xFE00, "Sub-operations terminated due to a cancel indication")
RETRIEVE_PENDING: Final = Status(0xFF00, "Sub-operations are continuing")

_GENERAL = (
    SUCCESS,
    CANCEL,
    PENDING,
    REQUESTED_OPTIONAL_ATTRIBUTES_NOT_SUPPORTED,
    ATTRIBUTE_LIST_ERROR,
    ATTRIBUTE_VALUE_OUT_OF_RANGE,
    NO_SUCH_ATTRIBUTE,
    INVALID_ATTRIBUTE_VALUE,
    PROCESSING_FAILURE,
    DUPLICATE_SOP_INSTANCE,
    NO_SUCH_SOP_INSTANCE,
    NO_SUCH_EVENT_TYPE,
    NO_SUCH_ARGUMENT,
    INVALID_ARGUMENT_VALUE,
    INVALID_SOP_INSTANCE,
    NO_SUCH_SOP_CLASS,
    CLASS_INSTANCE_CONFLICT,
    MISSING_ATTRIBUTE,
    MISSING_ATTRIBUTE_VALUE,
    SOP_CLASS_NOT_SUPPORTED,
    NO_SUCH_ACTION_TYPE,
    NOT_AUTHORIZED,
    DUPLICATE_INVOCATION,
    UNRECOGNIZED_OPERATION,
    MISTYPED_ARGUMENT,
    RESOURCE_LIMITATION,
)
_STORE = (
    STORE_COERCION_OF_DATA_ELEMENTS,
    STORE_ELEMENTS_DISCARDED,
    STORE_WARNING_DATA_SET_DOES_NOT_MATCH_SOP_CLASS,
)
_FIND = (
    FIND_MATCHING_REACHED_RESPONSE_LIMIT,
    FIND_CANCEL,
    FIND_PENDING,
    FIND_PENDING_OPTIONAL_KEY_NOT_SUPPORTED,
)
_RETRIEVE = (
    RETRIEVE_OUT_OF_RESOURCES_MATCHES,
    RETRIEVE_OUT_OF_RESOURCES_SUBOPERATIONS,
    RETRIEVE_WARNING,
    RETRIEVE_CANCEL,
    RETRIEVE_PENDING,
)


def _words(*groups: tuple[Status, ...]) -> dict[int, str]:
    return {int(status): status.meaning for group in groups for status in group}


_MEANINGS: Final[dict[Service, dict[int, str]]] = {
    Service.C_STORE: _words(_GENERAL, _STORE),
    Service.C_FIND: _words(_GENERAL, _FIND),
    Service.C_MOVE: _words(_GENERAL, _RETRIEVE, (MOVE_DESTINATION_UNKNOWN,)),
    Service.C_GET: _words(_GENERAL, _RETRIEVE),
    Service.OTHER: _words(_GENERAL),
}
#: The ranges: the first and the last code, and the status that stands for them.
_RANGES: Final[dict[Service, tuple[tuple[int, int, Status], ...]]] = {
    Service.C_STORE: (
        (0xA700, 0xA7FF, STORE_OUT_OF_RESOURCES),
        (0xA900, 0xA9FF, STORE_DATA_SET_DOES_NOT_MATCH_SOP_CLASS),
        (0xC000, 0xCFFF, STORE_CANNOT_UNDERSTAND),
    ),
    Service.C_FIND: (
        (0xA700, 0xA7FF, FIND_OUT_OF_RESOURCES),
        (0xA900, 0xA9FF, FIND_DATA_SET_DOES_NOT_MATCH_SOP_CLASS),
        (0xC000, 0xCFFF, FIND_UNABLE_TO_PROCESS),
    ),
    Service.C_MOVE: (
        (0xA900, 0xA9FF, RETRIEVE_DATA_SET_DOES_NOT_MATCH_SOP_CLASS),
        (0xC000, 0xCFFF, RETRIEVE_UNABLE_TO_PROCESS),
    ),
    Service.C_GET: (
        (0xA900, 0xA9FF, RETRIEVE_DATA_SET_DOES_NOT_MATCH_SOP_CLASS),
        (0xC000, 0xCFFF, RETRIEVE_UNABLE_TO_PROCESS),
    ),
    Service.OTHER: (),
}


def kind_of(code: int) -> StatusKind:
    """What a code says of the operation (PS3.7 annex C); an unknown one is a failure."""
    if code == SUCCESS:
        return StatusKind.SUCCESS
    if code in (PENDING, FIND_PENDING_OPTIONAL_KEY_NOT_SUPPORTED):
        return StatusKind.PENDING
    if code == CANCEL:
        return StatusKind.CANCEL
    if code >> 12 == 0xB or code in (
        REQUESTED_OPTIONAL_ATTRIBUTES_NOT_SUPPORTED,
        ATTRIBUTE_LIST_ERROR,
        ATTRIBUTE_VALUE_OUT_OF_RANGE,
    ):
        return StatusKind.WARNING
    return StatusKind.FAILURE


def describe(code: int, service: Service = Service.OTHER) -> str:
    """A code in words, with the code itself, for a log or a person."""
    meaning = _MEANINGS[service].get(code)
    if meaning is None:
        meaning = next(
            (status.meaning for first, last, status in _RANGES[service] if first <= code <= last),
            f"{kind_of(code).name.lower()} without a meaning of its own",
        )
    return f"{code:04X}H {meaning}"
