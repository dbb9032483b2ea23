"""Conversations to start fuzzing from; what fuzzing finds goes into the corpus beside them.

python tests/fuzz/seeds.py      # writes corpus/seed-*
"""

from __future__ import annotations

from pathlib import Path

from associations import ACCEPT, joined
from dimse_drive import CT_IMAGE_STORAGE, SYNTAXES

from imaging_ingestion.dimse.command import (
    CCancelRequest,
    CEchoRequest,
    CFindRequest,
    Command,
    CStoreRequest,
    CStoreResponse,
    NActionRequest,
    NEventReportRequest,
)
from imaging_ingestion.dimse.message import MessageWriter
from imaging_ingestion.dimse.pdu import (
    Abort,
    AssociateReject,
    AssociateRequest,
    ReleaseRequest,
    ReleaseResponse,
    encode_pdu,
)
from imaging_ingestion.dimse.pdu_items import (
    OperationsWindow,
    PresentationContextProposal,
    RoleSelection,
    SopClassCommonExtendedNegotiation,
    SopClassExtendedNegotiation,
    UserIdentity,
    UserInformation,
)
from imaging_ingestion.dimse.sop_class import (
    STORAGE_SERVICE_CLASS,
    STUDY_ROOT_FIND,
    VERIFICATION,
)

CORPUS = Path(__file__).parent / "corpus"

ACCEPTOR, REQUESTOR = 0, 1
RELEASE_ASKED, ABORTED, LOST, ARTIM = 2, 4, 6, 8

REQUEST = encode_pdu(
    AssociateRequest(
        "INGESTION",
        "SCANNER",
        (
            PresentationContextProposal(1, CT_IMAGE_STORAGE, SYNTAXES),
            PresentationContextProposal(3, VERIFICATION, SYNTAXES),
            PresentationContextProposal(5, STUDY_ROOT_FIND, SYNTAXES),
            PresentationContextProposal(7, "1.2.3.4", SYNTAXES),
            PresentationContextProposal(11, "1.2.840.10008.9.9.9", SYNTAXES),
        ),
        UserInformation(
            max_pdu_length=4096,
            implementation_class_uid="1.2.3",
            implementation_version_name="SEED",
            operations_window=OperationsWindow(5, 5),
            role_selections=(RoleSelection(CT_IMAGE_STORAGE, scu_role=True, scp_role=True),),
            sop_class_extended=(SopClassExtendedNegotiation(STUDY_ROOT_FIND, b"\1\1\1"),),
            sop_class_common_extended=(
                SopClassCommonExtendedNegotiation("1.2.3.4", STORAGE_SERVICE_CLASS, ("1.2.3",)),
            ),
            user_identity=UserIdentity(2, b"user", b"pass", positive_response_requested=True),
        ),
    )
)
ACCEPTED = encode_pdu(ACCEPT)
RELEASE_RQ, RELEASE_RP = encode_pdu(ReleaseRequest()), encode_pdu(ReleaseResponse())
STORE = CStoreRequest(
    message_id=1, affected_sop_class_uid=CT_IMAGE_STORAGE, affected_sop_instance_uid="1.2.3.4"
)


def message(context_id: int, command: Command, data_set: bytes = b"", length: int = 0) -> bytes:
    """A message on the wire."""
    writer = MessageWriter(length)
    wire = joined(writer.command(context_id, command, has_data_set=bool(data_set)).buffers)
    if data_set:
        wire += joined(writer.data_set(data_set, is_last=True).buffers)
    return wire


ECHO = message(3, CEchoRequest(message_id=2, affected_sop_class_uid=VERIFICATION))
FIND = message(5, CFindRequest(message_id=3, affected_sop_class_uid=STUDY_ROOT_FIND), b"identifier")
CANCEL = message(5, CCancelRequest(message_id_being_responded_to=3))
ACTION = message(
    3,
    NActionRequest(
        message_id=4,
        requested_sop_class_uid=VERIFICATION,
        requested_sop_instance_uid="1.2",
        action_type_id=1,
    ),
    b"information",
)
REPORT = message(
    1,
    NEventReportRequest(
        message_id=9,
        affected_sop_class_uid=VERIFICATION,
        affected_sop_instance_uid="1.2",
        event_type_id=1,
    ),
)
STORED = message(
    1,
    CStoreResponse(message_id_being_responded_to=1, status=0xA700, error_comment="disk full"),
)

#: By name: flags, how it is cut, what the peer sends (see `dimse_drive`).
SEEDS: dict[str, tuple[int, int, bytes]] = {
    "store-and-release": (
        ACCEPTOR,
        0,
        REQUEST + message(1, STORE, bytes(500), 128) + ECHO + RELEASE_RQ,
    ),
    "all-commands-in-pieces": (
        ACCEPTOR,
        7,
        REQUEST + ECHO + FIND + CANCEL + ACTION + REPORT + RELEASE_RQ,
    ),
    "abort-inside-a-data-set": (
        ACCEPTOR,
        0,
        REQUEST + message(1, STORE, bytes(500), 128)[:-60] + encode_pdu(Abort()),
    ),
    "lost-inside-a-data-set": (ACCEPTOR | LOST, 50, REQUEST + message(1, STORE, bytes(900))),
    "we-abort": (ACCEPTOR | ABORTED, 50, REQUEST + message(1, STORE, bytes(900))),
    "collision": (ACCEPTOR | RELEASE_ASKED, 1, REQUEST + RELEASE_RQ + RELEASE_RP),
    "requestor": (REQUESTOR, 0, ACCEPTED + STORED + RELEASE_RQ),
    "requestor-collision": (
        REQUESTOR | RELEASE_ASKED,
        10,
        ACCEPTED + STORED + RELEASE_RQ + RELEASE_RP,
    ),
    "rejected": (REQUESTOR, 0, encode_pdu(AssociateReject(2, 3, 2))),
    "silence": (ACCEPTOR | ARTIM, 0, b""),
    "tls": (ACCEPTOR, 0, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(32)),
    "http": (ACCEPTOR, 0, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
    "four-gigabytes": (ACCEPTOR, 0, b"\1\0\xff\xff\xff\xff" + bytes(64)),
    "empty-pdu": (ACCEPTOR, 0, REQUEST + b"\4\0\0\0\0\0"),
    "value-exceeds-pdu": (ACCEPTOR, 0, REQUEST + b"\4\0\0\0\0\6\0\0\0\xff\1\3"),
    "wrong-context": (ACCEPTOR, 0, REQUEST + message(9, STORE, b"ab")),
    "refused-context": (ACCEPTOR, 0, REQUEST + message(11, STORE, b"ab")),
    "wrong-group-length": (
        ACCEPTOR,
        0,
        REQUEST + ECHO.replace(b"\0\0\0\0\4\0\0\0", b"\0\0\0\0\4\0\0\1", 1),
    ),
    "two-requests": (ACCEPTOR, 0, REQUEST + REQUEST),
    "data-before-the-association": (ACCEPTOR, 3, ECHO + REQUEST),
    "duplicate-message-id": (ACCEPTOR, 0, REQUEST + ECHO + ECHO + RELEASE_RQ),
}


def main() -> None:
    """Write the seeds."""
    CORPUS.mkdir(exist_ok=True)
    for name, (flags, cut, wire) in SEEDS.items():
        (CORPUS / f"seed-{name}").write_bytes(bytes((flags, cut)) + wire)


if __name__ == "__main__":
    main()
