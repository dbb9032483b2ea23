"""The variable items of A-ASSOCIATE PDUs (PS3.8 9.3.2 and 9.3.3, PS3.7 annex D.3.3).

Values, and how they are read and written. Reading checks every length, skips items it does not know
(PS3.8 9.3.1) and never tests a reserved byte. UIDs lose the padding that some peers add.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from imaging_ingestion.dimse.error import EncodingError, InvalidParameterError

APPLICATION_CONTEXT = 0x10
PRESENTATION_CONTEXT_RQ = 0x20
PRESENTATION_CONTEXT_AC = 0x21
ABSTRACT_SYNTAX = 0x30
TRANSFER_SYNTAX = 0x40
USER_INFORMATION = 0x50
MAXIMUM_LENGTH = 0x51
IMPLEMENTATION_CLASS_UID = 0x52
ASYNCHRONOUS_OPERATIONS_WINDOW = 0x53
ROLE_SELECTION = 0x54
IMPLEMENTATION_VERSION_NAME = 0x55
SOP_CLASS_EXTENDED_NEGOTIATION = 0x56
SOP_CLASS_COMMON_EXTENDED_NEGOTIATION = 0x57
USER_IDENTITY_RQ = 0x58
USER_IDENTITY_AC = 0x59

_ITEM = struct.Struct(">BxH")
_LENGTH = struct.Struct(">H")
_WINDOW = struct.Struct(">HH")
_MAXIMUM_LENGTH = struct.Struct(">L")

#: The kinds of user identity whose primary field is a name and not a secret (PS3.7 D.3.3.7.1).
_NAMED = (1, 2)


@dataclass(frozen=True, slots=True)
class PresentationContextProposal:
    """A presentation context as the requestor proposes it (PS3.8 9.3.2.2)."""

    context_id: int
    abstract_syntax: str
    transfer_syntaxes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PresentationContextResult:
    """The acceptor's answer to one context (PS3.8 9.3.3.2); see `negotiation.ContextResult`.

    The transfer syntax means something only where the result is acceptance.
    """

    context_id: int
    result: int
    transfer_syntax: str = ""


@dataclass(frozen=True, slots=True)
class OperationsWindow:
    """Asynchronous operations window, from the requestor's side; 0 is unlimited (PS3.7 D.3.3.3)."""

    max_operations_invoked: int = 1
    max_operations_performed: int = 1


@dataclass(frozen=True, slots=True)
class RoleSelection:
    """Roles of the association requestor for one SOP class (PS3.7 D.3.3.4)."""

    sop_class_uid: str
    scu_role: bool
    scp_role: bool


@dataclass(frozen=True, slots=True)
class SopClassExtendedNegotiation:
    """Service-class application information of one SOP class (PS3.7 D.3.3.5)."""

    sop_class_uid: str
    application_information: bytes


@dataclass(frozen=True, slots=True)
class SopClassCommonExtendedNegotiation:
    """Which service a SOP class belongs to, and its general SOP classes (PS3.7 D.3.3.6)."""

    sop_class_uid: str
    service_class_uid: str
    related_general_sop_class_uids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class UserIdentity:
    """Who the requestor says it is (PS3.7 D.3.3.7).

    Kinds: 1 username, 2 username and passcode, 3 Kerberos service ticket, 4 SAML assertion, 5 JSON
    Web Token. Its text form never shows a secret.
    """

    kind: int
    primary_field: bytes
    secondary_field: bytes = b""
    positive_response_requested: bool = False

    def __repr__(self) -> str:
        shown = repr(self.primary_field) if self.kind in _NAMED else "(secret)"
        return f"UserIdentity(kind={self.kind}, primary_field={shown})"


@dataclass(frozen=True, slots=True)
class UserInformation:
    """The user information item of a request or an acceptance (PS3.8 annex D, PS3.7 D.3.3).

    `max_pdu_length` is in bytes, 0 without limit; None: the item was not there.
    """

    max_pdu_length: int | None = None
    implementation_class_uid: str | None = None
    implementation_version_name: str | None = None
    operations_window: OperationsWindow | None = None
    role_selections: tuple[RoleSelection, ...] = ()
    sop_class_extended: tuple[SopClassExtendedNegotiation, ...] = ()
    sop_class_common_extended: tuple[SopClassCommonExtendedNegotiation, ...] = ()
    user_identity: UserIdentity | None = None
    user_identity_response: bytes | None = field(default=None, repr=False)


def items(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Each item's type and content. Raises InvalidParameterError."""
    position, end = 0, len(data)
    while position < end:
        if end - position < 4:
            raise InvalidParameterError(f"{end - position} bytes are left, too few for an item")
        kind, length = _ITEM.unpack_from(data, position)
        position += 4
        if length > end - position:
            raise InvalidParameterError(
                f"item {kind:02X}H says it has {length} bytes where {end - position} are left"
            )
        yield kind, data[position : position + length]
        position += length


def item(kind: int, content: bytes) -> bytes:
    """An item around its content. Raises EncodingError."""
    if len(content) > 0xFFFF:
        raise EncodingError(f"item {kind:02X}H would have {len(content)} bytes; 65535 is the most")
    return _ITEM.pack(kind, len(content)) + content


def read_text(data: memoryview) -> str:
    """A UID or a name, without padding.

    Any byte can be read: what it means is decided by comparing, and nothing unknown is accepted.
    """
    return str(data, "latin-1").strip(" \0")


def write_text(text: str) -> bytes:
    """A UID or a name, never padded (PS3.8 annex F.1). Raises EncodingError."""
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        raise EncodingError("a UID or a name has a character that cannot be encoded") from None


def read_proposal(data: memoryview) -> PresentationContextProposal:
    """Item 20H. Raises InvalidParameterError."""
    context_id, body = _context(data)
    abstract_syntax: str | None = None
    transfer_syntaxes = []
    for kind, content in items(body):
        if kind == ABSTRACT_SYNTAX:
            abstract_syntax = read_text(content)
        elif kind == TRANSFER_SYNTAX:
            transfer_syntaxes.append(read_text(content))
    if abstract_syntax is None:
        raise InvalidParameterError(f"presentation context {context_id} has no abstract syntax")
    return PresentationContextProposal(context_id, abstract_syntax, tuple(transfer_syntaxes))


def write_proposal(context: PresentationContextProposal) -> bytes:
    """Item 20H. Raises EncodingError."""
    content = [
        bytes((context.context_id, 0, 0, 0)),
        item(ABSTRACT_SYNTAX, write_text(context.abstract_syntax)),
        *(item(TRANSFER_SYNTAX, write_text(syntax)) for syntax in context.transfer_syntaxes),
    ]
    return item(PRESENTATION_CONTEXT_RQ, b"".join(content))


def read_result(data: memoryview) -> PresentationContextResult:
    """Item 21H. Raises InvalidParameterError."""
    context_id, body = _context(data)
    if data[2] != 0:  # 9.3.3.2: not significant then, so not even read
        return PresentationContextResult(context_id, data[2])
    syntaxes = [read_text(content) for kind, content in items(body) if kind == TRANSFER_SYNTAX]
    if len(syntaxes) != 1:
        raise InvalidParameterError(
            f"presentation context {context_id} is accepted with {len(syntaxes)} transfer syntaxes"
        )
    return PresentationContextResult(context_id, 0, syntaxes[0])


def write_result(context: PresentationContextResult) -> bytes:
    """Item 21H. Raises EncodingError."""
    return item(
        PRESENTATION_CONTEXT_AC,
        bytes((context.context_id, 0, context.result, 0))
        + item(TRANSFER_SYNTAX, write_text(context.transfer_syntax)),
    )


def _context(data: memoryview) -> tuple[int, memoryview]:
    if len(data) < 4:
        raise InvalidParameterError(f"a presentation context item of {len(data)} bytes")
    if not data[0] & 1:
        raise InvalidParameterError(f"presentation context id {data[0]} is not odd")
    return data[0], data[4:]


def read_user_information(data: memoryview) -> UserInformation:
    """Item 50H. Raises InvalidParameterError."""
    max_pdu_length: int | None = None
    class_uid: str | None = None
    version_name: str | None = None
    window: OperationsWindow | None = None
    roles: list[RoleSelection] = []
    extended: list[SopClassExtendedNegotiation] = []
    common: list[SopClassCommonExtendedNegotiation] = []
    identity: UserIdentity | None = None
    response: bytes | None = None
    for kind, content in items(data):
        match kind:
            case 0x51:
                _fixed(kind, content, 4)
                (max_pdu_length,) = _MAXIMUM_LENGTH.unpack(content)
            case 0x52:
                class_uid = read_text(content)
            case 0x53:
                _fixed(kind, content, 4)
                window = OperationsWindow(*_WINDOW.unpack(content))
            case 0x54:
                uid, rest = _counted(kind, content)
                _fixed(kind, rest, 2)
                roles.append(RoleSelection(read_text(uid), rest[0] == 1, rest[1] == 1))
            case 0x55:
                version_name = read_text(content)
            case 0x56:
                uid, rest = _counted(kind, content)
                extended.append(SopClassExtendedNegotiation(read_text(uid), bytes(rest)))
            case 0x57:
                common.append(_read_common_extended(content))
            case 0x58:
                identity = _read_identity(content)
            case 0x59:
                response = bytes(_counted(kind, content)[0])
            case _:
                pass  # PS3.8 9.3.1: unrecognized items are ignored
    return UserInformation(
        max_pdu_length,
        class_uid,
        version_name,
        window,
        tuple(roles),
        tuple(extended),
        tuple(common),
        identity,
        response,
    )


def _read_common_extended(content: memoryview) -> SopClassCommonExtendedNegotiation:
    kind = SOP_CLASS_COMMON_EXTENDED_NEGOTIATION
    sop_class, rest = _counted(kind, content)
    service_class, rest = _counted(kind, rest)
    related, _reserved = _counted(kind, rest) if len(rest) else (rest, rest)
    uids = []
    while related:
        uid, related = _counted(kind, related)
        uids.append(read_text(uid))
    return SopClassCommonExtendedNegotiation(
        read_text(sop_class), read_text(service_class), tuple(uids)
    )


def _read_identity(content: memoryview) -> UserIdentity:
    if len(content) < 2:
        raise InvalidParameterError(f"a user identity item of {len(content)} bytes")
    primary, rest = _counted(USER_IDENTITY_RQ, content[2:])
    # Some peers leave the secondary field out altogether where it is to be empty.
    secondary = _counted(USER_IDENTITY_RQ, rest)[0] if len(rest) else rest
    return UserIdentity(content[0], bytes(primary), bytes(secondary), content[1] == 1)


def write_user_information(information: UserInformation) -> bytes:
    """Item 50H, its sub-items by ascending type. Raises EncodingError."""
    content = []
    if information.max_pdu_length is not None:
        content.append(item(MAXIMUM_LENGTH, _MAXIMUM_LENGTH.pack(information.max_pdu_length)))
    if information.implementation_class_uid is not None:
        uid = write_text(information.implementation_class_uid)
        content.append(item(IMPLEMENTATION_CLASS_UID, uid))
    if information.operations_window is not None:
        window = information.operations_window
        pair = (window.max_operations_invoked, window.max_operations_performed)
        content.append(item(ASYNCHRONOUS_OPERATIONS_WINDOW, _WINDOW.pack(*pair)))
    for role in information.role_selections:
        flags = bytes((role.scu_role, role.scp_role))
        content.append(item(ROLE_SELECTION, _count(write_text(role.sop_class_uid)) + flags))
    if information.implementation_version_name is not None:
        name = write_text(information.implementation_version_name)
        if not 1 <= len(name) <= 16:  # PS3.7 D.3.3.2.3
            raise EncodingError("an implementation version name has 1 to 16 characters")
        content.append(item(IMPLEMENTATION_VERSION_NAME, name))
    for extended in information.sop_class_extended:
        uid = _count(write_text(extended.sop_class_uid))
        content.append(item(SOP_CLASS_EXTENDED_NEGOTIATION, uid + extended.application_information))
    for common in information.sop_class_common_extended:
        uids = (_count(write_text(uid)) for uid in common.related_general_sop_class_uids)
        content.append(
            item(
                SOP_CLASS_COMMON_EXTENDED_NEGOTIATION,
                _count(write_text(common.sop_class_uid))
                + _count(write_text(common.service_class_uid))
                + _count(b"".join(uids)),
            )
        )
    if information.user_identity is not None:
        identity = information.user_identity
        flags = bytes((identity.kind, identity.positive_response_requested))
        fields = _count(identity.primary_field) + _count(identity.secondary_field)
        content.append(item(USER_IDENTITY_RQ, flags + fields))
    if information.user_identity_response is not None:
        content.append(item(USER_IDENTITY_AC, _count(information.user_identity_response)))
    return item(USER_INFORMATION, b"".join(content))


def _counted(kind: int, data: memoryview) -> tuple[memoryview, memoryview]:
    """What stands behind its 2-byte length, and the rest."""
    if len(data) < 2:
        raise InvalidParameterError(f"item {kind:02X}H ends where a length should be")
    (length,) = _LENGTH.unpack_from(data)
    if length > len(data) - 2:
        raise InvalidParameterError(
            f"item {kind:02X}H: a field says it has {length} bytes where {len(data) - 2} are left"
        )
    return data[2 : 2 + length], data[2 + length :]


def _count(content: bytes) -> bytes:
    if len(content) > 0xFFFF:
        raise EncodingError(f"a field would have {len(content)} bytes; 65535 is the most")
    return _LENGTH.pack(len(content)) + content


def _fixed(kind: int, content: memoryview, length: int) -> None:
    if len(content) != length:
        raise InvalidParameterError(
            f"item {kind:02X}H has {len(content)} bytes where {length} are expected"
        )
