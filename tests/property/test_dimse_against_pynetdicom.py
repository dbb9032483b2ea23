"""Our bytes read by pynetdicom, and its bytes read by us."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from dimse_values import COMMAND_VALUES, UIDS, accepts, requests
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.uid import UID
from pynetdicom.dimse_messages import _MESSAGE_TYPES, DIMSEMessage
from pynetdicom.pdu import (
    A_ABORT_RQ,
    A_ASSOCIATE_AC,
    A_ASSOCIATE_RJ,
    A_ASSOCIATE_RQ,
    A_RELEASE_RP,
    A_RELEASE_RQ,
    P_DATA_TF,
)
from pynetdicom.pdu_primitives import A_ASSOCIATE
from pynetdicom.presentation import PresentationContext

from imaging_ingestion.dicom.dictionary import keyword_of
from imaging_ingestion.dimse.command import COMMANDS, Command
from imaging_ingestion.dimse.command_codec import decode_command, encode_command
from imaging_ingestion.dimse.command_set import ELEMENTS
from imaging_ingestion.dimse.message import (
    CommandReceived,
    DataSetFragment,
    MessageReader,
    MessageWriter,
)
from imaging_ingestion.dimse.p_data import PDataReceived
from imaging_ingestion.dimse.pdu import (
    Abort,
    AssociateAccept,
    AssociateReject,
    AssociateRequest,
    Buffer,
    ReleaseRequest,
    ReleaseResponse,
    decode_pdu,
    encode_pdu,
)
from imaging_ingestion.dimse.pdu_reader import PduReader


@pytest.fixture(autouse=True, scope="module")
def quiet() -> Iterator[None]:
    """pynetdicom warns of every UID that is not a well-known one."""
    logger = logging.getLogger("pynetdicom")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(level)


def items_of(pdu: Any) -> dict[str, list[Any]]:
    """The user information sub-items of pynetdicom's PDU by their class names."""
    found: dict[str, list[Any]] = {}
    for item in pdu.user_information.user_data:
        found.setdefault(type(item).__name__, []).append(item)
    return found


def check_user_information(theirs: Any, ours: AssociateRequest | AssociateAccept) -> None:
    information, items = ours.user_information, items_of(theirs)

    def one(name: str) -> Any:
        (item,) = items.get(name, [None])
        return item

    assert one("MaximumLengthSubItem").maximum_length_received == information.max_pdu_length
    assert (
        one("ImplementationClassUIDSubItem").implementation_class_uid
        == information.implementation_class_uid
    )
    name = one("ImplementationVersionNameSubItem")
    assert (name and name.implementation_version_name) == information.implementation_version_name
    window = one("AsynchronousOperationsWindowSubItem")
    if information.operations_window is None:
        assert window is None
    else:
        assert (
            window.maximum_number_operations_invoked,
            window.maximum_number_operations_performed,
        ) == (
            information.operations_window.max_operations_invoked,
            information.operations_window.max_operations_performed,
        )
    assert [
        (item.uid, item.scu_role, item.scp_role)
        for item in items.get("SCP_SCU_RoleSelectionSubItem", [])
    ] == [(r.sop_class_uid, r.scu_role, r.scp_role) for r in information.role_selections]
    assert [
        (item.uid, item.service_class_application_information)
        for item in items.get("SOPClassExtendedNegotiationSubItem", [])
    ] == [(e.sop_class_uid, e.application_information) for e in information.sop_class_extended]
    assert [
        (
            item.sop_class_uid,
            item.service_class_uid,
            tuple(item.related_general_sop_class_identification),
        )
        for item in items.get("SOPClassCommonExtendedNegotiationSubItem", [])
    ] == [
        (c.sop_class_uid, c.service_class_uid, c.related_general_sop_class_uids)
        for c in information.sop_class_common_extended
    ]
    identity = one("UserIdentitySubItemRQ")
    if information.user_identity is None:
        assert identity is None
    else:
        assert identity.user_identity_type == information.user_identity.kind
        assert identity.primary_field == information.user_identity.primary_field
        assert (identity.secondary_field or b"") == information.user_identity.secondary_field
        assert (
            bool(identity.positive_response_requested)
            is information.user_identity.positive_response_requested
        )
    response = one("UserIdentitySubItemAC")
    assert (response and response.server_response) == information.user_identity_response


@settings(deadline=None)
@given(requests(complete=True))
def test_pynetdicom_reads_our_requests(ours: AssociateRequest) -> None:
    encoded = encode_pdu(ours)
    theirs = A_ASSOCIATE_RQ()
    theirs.decode(encoded)
    assert theirs.called_ae_title.strip() == ours.called_ae_title
    assert theirs.calling_ae_title.strip() == ours.calling_ae_title
    assert theirs.application_context_name == ours.application_context_name
    assert [
        (c.presentation_context_id, c.abstract_syntax, tuple(c.transfer_syntax))
        for c in theirs.presentation_context
    ] == [
        (c.context_id, c.abstract_syntax, c.transfer_syntaxes) for c in ours.presentation_contexts
    ]
    check_user_information(theirs, ours)
    # And back: what it writes is what we wrote.
    assert decode_pdu(theirs.encode()) == ours


@settings(deadline=None)
@given(accepts(complete=True))
def test_pynetdicom_reads_our_acceptances(ours: AssociateAccept) -> None:
    theirs = A_ASSOCIATE_AC()
    theirs.decode(encode_pdu(ours))
    assert [
        (c.presentation_context_id, c.result, c.transfer_syntax)
        for c in theirs.presentation_context
    ] == [(c.context_id, c.result, c.transfer_syntax) for c in ours.presentation_contexts]
    check_user_information(theirs, ours)
    assert decode_pdu(theirs.encode()) == ours


@settings(deadline=None)
@given(requests(complete=True))
def test_we_read_what_pynetdicom_makes_of_a_request_primitive(asked: AssociateRequest) -> None:
    theirs = A_ASSOCIATE_RQ()
    theirs.decode(encode_pdu(asked))
    primitive = theirs.to_primitive()
    made = A_ASSOCIATE_RQ()
    made.from_primitive(primitive)
    ours = decode_pdu(made.encode())
    assert isinstance(ours, AssociateRequest)
    assert ours.presentation_contexts == asked.presentation_contexts
    # It keeps its own order of the items in a set; the values are what counts.
    check_user_information_unordered(made, ours)


def check_user_information_unordered(theirs: Any, ours: AssociateRequest) -> None:
    information = ours.user_information
    items = items_of(theirs)
    assert {
        (item.uid, bool(item.scu_role), bool(item.scp_role))
        for item in items.get("SCP_SCU_RoleSelectionSubItem", [])
    } == {(r.sop_class_uid, r.scu_role, r.scp_role) for r in information.role_selections}
    (length,) = items["MaximumLengthSubItem"]
    assert length.maximum_length_received == information.max_pdu_length


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(UIDS, st.lists(UIDS, min_size=1, max_size=3, unique=True)),
        min_size=1,
        max_size=5,
    )
)
def test_we_read_a_request_that_pynetdicom_made_from_scratch(
    contexts: list[tuple[str, list[str]]],
) -> None:
    primitive = A_ASSOCIATE()
    primitive.application_context_name = UID("1.2.840.10008.3.1.1.1")
    primitive.calling_ae_title = "SCANNER"
    primitive.called_ae_title = "INGESTION"
    made = []
    for number, (abstract_syntax, transfer_syntaxes) in enumerate(contexts):
        context = PresentationContext()
        context.context_id = 2 * number + 1
        context.abstract_syntax = UID(abstract_syntax)
        context.transfer_syntax = [UID(uid) for uid in transfer_syntaxes]
        made.append(context)
    primitive.presentation_context_definition_list = made
    primitive.user_information = []
    theirs = A_ASSOCIATE_RQ()
    theirs.from_primitive(primitive)
    ours = decode_pdu(theirs.encode())
    assert isinstance(ours, AssociateRequest)
    assert (ours.called_ae_title, ours.calling_ae_title) == ("INGESTION", "SCANNER")
    assert [
        (c.context_id, c.abstract_syntax, list(c.transfer_syntaxes))
        for c in ours.presentation_contexts
    ] == [(2 * n + 1, abstract, syntaxes) for n, (abstract, syntaxes) in enumerate(contexts)]


@pytest.mark.parametrize("source", [1, 2, 3])
@pytest.mark.parametrize("reason", [1, 2])
def test_rejections_mean_the_same(source: int, reason: int) -> None:
    ours = AssociateReject(1, source, reason)
    theirs = A_ASSOCIATE_RJ()
    theirs.decode(encode_pdu(ours))
    assert (theirs.result, theirs.source, theirs.reason_diagnostic) == (1, source, reason)
    assert theirs.encode() == encode_pdu(ours)


def test_release_and_abort_are_the_same_bytes() -> None:
    assert A_RELEASE_RQ().encode() == encode_pdu(ReleaseRequest())
    assert A_RELEASE_RP().encode() == encode_pdu(ReleaseResponse())
    for source, reason in [(0, 0), (2, 1), (2, 2), (2, 6)]:
        theirs = A_ABORT_RQ()
        theirs.source, theirs.reason_diagnostic = source, reason
        assert theirs.encode() == encode_pdu(Abort(source, reason))


def attributes_of(command: Command) -> dict[str, Any]:
    """A command's values by the keywords of the data dictionary."""
    return {
        str(keyword_of(ELEMENTS[name].tag)): getattr(command, name)
        for name in command.__struct_fields__
        if getattr(command, name) is not None
    }


def comparable(value: Any) -> Any:
    """pydicom gives one tag alone, and several as a list."""
    if isinstance(value, list | tuple) or type(value).__name__ == "MultiValue":
        values = tuple(int(v) for v in value)
        return values[0] if len(values) == 1 else values
    return str(value) if isinstance(value, str) else int(value)


def pdus_of(buffers: list[Buffer]) -> list[bytes]:
    """Single P-DATA-TF PDUs."""
    wire, found = b"".join(buffers), []
    while wire:
        size = 6 + int.from_bytes(wire[2:6], "big")
        found.append(wire[:size])
        wire = wire[size:]
    return found


@settings(deadline=None)
@given(COMMAND_VALUES, st.binary(min_size=2, max_size=2000), st.integers(128, 600))
def test_pynetdicom_reads_our_messages(
    command: Command, content: bytes, max_pdu_length: int
) -> None:
    writer = MessageWriter(max_pdu_length)
    buffers = writer.command(5, command, has_data_set=True).buffers
    buffers += writer.data_set(content, is_last=True).buffers
    message = DIMSEMessage()
    complete = False
    for pdu in pdus_of(buffers):
        theirs = P_DATA_TF()
        theirs.decode(pdu)
        assert not complete
        complete = message.decode_msg(theirs.to_primitive())
    assert complete
    assert message.context_id == 5
    assert message.command_set.CommandField == command.COMMAND_FIELD
    assert message.data_set.getvalue() == content
    for keyword, value in attributes_of(command).items():
        assert comparable(message.command_set[keyword].value) == comparable(value), keyword


@settings(deadline=None)
@given(COMMAND_VALUES, st.integers(0, 60).map(lambda n: bytes(2 * n)), st.integers(16, 200))
def test_we_read_pynetdicoms_messages(
    command: Command, content: bytes, max_pdu_length: int
) -> None:
    name, message_type = _MESSAGE_TYPES[command.COMMAND_FIELD]
    message = message_type()
    for tag in [element.tag for element in message.command_set]:
        del message.command_set[tag]
    message.command_set.CommandGroupLength = 0
    for keyword, value in attributes_of(command).items():
        setattr(message.command_set, keyword, list(value) if isinstance(value, tuple) else value)
    message.command_set.CommandField = command.COMMAND_FIELD
    message.command_set.CommandDataSetType = 0x0001 if content else 0x0101
    message._set_command_group_length()
    message.data_set.write(content)
    reader, pdus = MessageReader({7}), PduReader()
    got: Any = None
    data = b""
    for primitive in message.encode_msg(7, max_pdu_length):
        theirs = P_DATA_TF()
        theirs.from_primitive(primitive)
        for part in pdus.receive(theirs.encode()):
            assert isinstance(part, PDataReceived)
            match reader.receive(part):
                case CommandReceived() as received:
                    got = received
                case DataSetFragment(data=view):
                    data += bytes(view)
    assert data == content
    assert not reader.in_message
    assert got.context_id == 7
    expected = decode_command(encode_command(command, has_data_set=bool(content)))
    assert (got.command, got.has_data_set) == expected, name


def test_every_command_of_pynetdicom_is_one_of_ours() -> None:
    assert set(_MESSAGE_TYPES) == set(COMMANDS)
