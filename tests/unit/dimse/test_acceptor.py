"""What an acceptor decides, line by line of the conformance list."""

from __future__ import annotations

from dataclasses import replace

import pytest
from associations import CT_IMAGE_STORAGE, EXPLICIT, IMPLICIT, VERIFICATION

from imaging_ingestion.dimse.acceptor import (
    Acceptance,
    AcceptorPolicy,
    ContextPolicy,
    IdentityVerdict,
    UnknownStorage,
    identity_to_verify,
    negotiate,
)
from imaging_ingestion.dimse.error import LocalProtocolError
from imaging_ingestion.dimse.extended_negotiation import FindOptions, RetrieveOptions
from imaging_ingestion.dimse.negotiation import AcceptedContext, ContextResult
from imaging_ingestion.dimse.pdu import (
    AssociateReject,
    AssociateRequest,
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
from imaging_ingestion.dimse.sop_class import STORAGE_SERVICE_CLASS, STUDY_ROOT_FIND

JPEG_LOSSLESS = "1.2.840.10008.1.2.4.70"
PRIVATE_CLASS = "1.2.826.0.1.3680043.9.9"
STANDARD_UNKNOWN = "1.2.840.10008.5.1.4.1.1.99999"

POLICY = AcceptorPolicy(
    contexts={
        VERIFICATION: ContextPolicy((EXPLICIT, IMPLICIT)),
        CT_IMAGE_STORAGE: ContextPolicy(
            (EXPLICIT, JPEG_LOSSLESS, IMPLICIT), requestor_may_be_scp=True
        ),
        STUDY_ROOT_FIND: ContextPolicy(
            (EXPLICIT, IMPLICIT),
            answer_extended=FindOptions(
                relational_queries=True, fuzzy_semantic_matching=True
            ).answer,
        ),
    },
    ae_titles=frozenset({"INGESTION", "ARCHIVE "}),
    calling_ae_titles=frozenset({"SCANNER"}),
)
CT = PresentationContextProposal(1, CT_IMAGE_STORAGE, (IMPLICIT, EXPLICIT))


def request(
    *contexts: PresentationContextProposal,
    called: str = "INGESTION",
    calling: str = "SCANNER",
    application_context: str = "1.2.840.10008.3.1.1.1",
    **information: object,
) -> AssociateRequest:
    user = UserInformation(**({"max_pdu_length": 16384} | information))  # type: ignore[arg-type]
    return AssociateRequest(called, calling, contexts or (CT,), user, application_context)


def accepted(
    asked: AssociateRequest, policy: AcceptorPolicy = POLICY, **how: IdentityVerdict
) -> Acceptance:
    """The acceptance, whose PDU must survive the wire."""
    answer = negotiate(asked, policy, **how)
    assert isinstance(answer, Acceptance), answer
    assert decode_pdu(encode_pdu(answer.accept)) is not None
    return answer


def answered(asked: AssociateRequest, policy: AcceptorPolicy = POLICY) -> UserInformation:
    return accepted(asked, policy).accept.user_information


# A1
def test_a_right_request_is_accepted() -> None:
    answer = accepted(request(called="INGESTION", calling="SCANNER"))
    assert (answer.accept.called_ae_title, answer.accept.calling_ae_title) == (
        "INGESTION",
        "SCANNER",
    )
    assert answer.accept.application_context_name == "1.2.840.10008.3.1.1.1"
    assert answer.agreement.contexts == {
        1: AcceptedContext(1, CT_IMAGE_STORAGE, EXPLICIT, as_scu=False, as_scp=True)
    }


# A1, A23
@pytest.mark.parametrize("called", ["INGESTION", "ingestion", "ARCHIVE"])
def test_titles_are_compared_without_case_and_padding(called: str) -> None:
    accepted(request(called=called, calling="Scanner"))


# A23
def test_titles_may_be_compared_with_case() -> None:
    strict = replace(POLICY, case_sensitive=True)
    accepted(request(called="ARCHIVE"), strict)
    assert negotiate(request(called="ingestion"), strict) == AssociateReject(1, 1, 7)


# A2, A3, A4
@pytest.mark.parametrize(
    ("asked", "at_limit", "reject"),
    [
        (request(called="NOBODY"), False, (1, 1, 7)),
        (request(called=""), False, (1, 1, 7)),
        (request(calling="NOBODY"), False, (1, 1, 3)),
        (request(application_context="1.2.3"), False, (1, 1, 2)),
        (request(application_context=""), False, (1, 1, 2)),
        (replace(request(), protocol_version=2), False, (1, 2, 2)),
        (request(), True, (2, 3, 2)),
        (request(called="NOBODY"), True, (1, 1, 7)),
        (AssociateRequest("INGESTION", "SCANNER", (), UserInformation()), False, (1, 1, 1)),
        (request(max_pdu_length=127), False, (1, 1, 1)),
    ],
)
def test_a_wrong_request_is_rejected_with_the_standards_reason(
    asked: AssociateRequest, at_limit: bool, reject: tuple[int, int, int]
) -> None:
    assert negotiate(asked, POLICY, at_limit=at_limit) == AssociateReject(*reject)


def test_without_lists_any_title_is_accepted() -> None:
    anyone = replace(POLICY, ae_titles=None, calling_ae_titles=None)
    accepted(request(called="", calling="\xff"), anyone)


# A5, A6
def test_each_context_gets_its_own_result() -> None:
    answer = accepted(
        request(
            CT,
            PresentationContextProposal(3, "1.2.3.4", (EXPLICIT,)),
            PresentationContextProposal(5, CT_IMAGE_STORAGE, ("1.2.3", "1.2.4")),
            PresentationContextProposal(7, CT_IMAGE_STORAGE, ()),
            PresentationContextProposal(255, VERIFICATION, (IMPLICIT,)),
        )
    )
    assert answer.accept.presentation_contexts == (
        PresentationContextResult(1, ContextResult.ACCEPTANCE, EXPLICIT),
        PresentationContextResult(3, ContextResult.ABSTRACT_SYNTAX_NOT_SUPPORTED, EXPLICIT),
        PresentationContextResult(5, ContextResult.TRANSFER_SYNTAXES_NOT_SUPPORTED, "1.2.3"),
        PresentationContextResult(7, ContextResult.TRANSFER_SYNTAXES_NOT_SUPPORTED, ""),
        PresentationContextResult(255, ContextResult.ACCEPTANCE, IMPLICIT),
    )
    assert list(answer.agreement.contexts) == [1, 255]


# A6
def test_an_association_without_any_accepted_context_is_still_accepted() -> None:
    answer = accepted(request(PresentationContextProposal(1, "1.2.3.4", (EXPLICIT,))))
    assert answer.agreement.contexts == {}


# A5
def test_128_contexts_are_answered() -> None:
    contexts = [
        PresentationContextProposal(n, CT_IMAGE_STORAGE, (EXPLICIT,)) for n in range(1, 256, 2)
    ]
    answer = accepted(request(*contexts))
    assert [r.context_id for r in answer.accept.presentation_contexts] == list(range(1, 256, 2))


# C8
def test_our_order_of_transfer_syntaxes_decides_and_not_the_requestors() -> None:
    answer = accepted(
        request(
            PresentationContextProposal(1, CT_IMAGE_STORAGE, (IMPLICIT, JPEG_LOSSLESS, EXPLICIT)),
            PresentationContextProposal(3, CT_IMAGE_STORAGE, (IMPLICIT, JPEG_LOSSLESS)),
            PresentationContextProposal(5, CT_IMAGE_STORAGE, (IMPLICIT,)),
        )
    )
    syntaxes = [context.transfer_syntax for context in answer.agreement.contexts.values()]
    assert syntaxes == [EXPLICIT, JPEG_LOSSLESS, IMPLICIT]
    assert answer.agreement.transfer_syntaxes_for(CT_IMAGE_STORAGE, as_scu=False) == syntaxes
    found = answer.agreement.context_for(CT_IMAGE_STORAGE, JPEG_LOSSLESS, as_scu=False)
    assert found is not None
    assert found.context_id == 3
    assert answer.agreement.context_for(CT_IMAGE_STORAGE) is None


# A7
def test_both_limits_of_the_pdu_length_are_kept() -> None:
    answer = accepted(request(max_pdu_length=4097), replace(POLICY, max_pdu_length=65536))
    assert answer.accept.user_information.max_pdu_length == 65536
    assert answer.agreement.max_received_pdu_length == 65536
    assert answer.agreement.max_sent_pdu_length == 4097
    assert accepted(request(max_pdu_length=0)).agreement.max_sent_pdu_length == 0
    assert accepted(request(max_pdu_length=None)).agreement.max_sent_pdu_length == 16384
    assert accepted(request(max_pdu_length=128)).agreement.max_sent_pdu_length == 128


# A9
def test_the_implementation_is_named() -> None:
    information = answered(request())
    assert information.implementation_class_uid
    assert 1 <= len(information.implementation_version_name or "") <= 16
    agreement = accepted(
        request(implementation_class_uid="1.2.3", implementation_version_name="THEIRS")
    ).agreement
    assert agreement.peer_implementation_class_uid == "1.2.3"
    assert agreement.peer_implementation_version_name == "THEIRS"


# A10
@pytest.mark.parametrize(
    ("offered", "ours", "answer"),
    [
        (None, (5, 5), None),
        ((1, 1), (5, 5), (1, 1)),
        ((8, 9), (1, 1), (1, 1)),
        ((8, 9), (5, 3), (3, 5)),  # ours: invoked, performed; the item is the requestor's view
        ((0, 0), (5, 3), (3, 5)),
        ((4, 4), (0, 0), (4, 4)),
        ((0, 0), (0, 0), (0, 0)),
    ],
)
def test_the_operations_window_is_never_above_the_offer(
    offered: tuple[int, int] | None, ours: tuple[int, int], answer: tuple[int, int] | None
) -> None:
    policy = replace(POLICY, max_operations_invoked=ours[0], max_operations_performed=ours[1])
    window = OperationsWindow(*offered) if offered else None
    got = accepted(request(operations_window=window), policy)
    assert got.accept.user_information.operations_window == (
        OperationsWindow(*answer) if answer else None
    )
    performed, invoked = answer or (1, 1)
    assert got.agreement.max_operations_performed == performed
    assert got.agreement.max_operations_invoked == invoked


# A11
@pytest.mark.parametrize(
    ("proposed", "answer", "our_roles"),
    [
        (None, None, (False, True)),
        ((True, False), (True, False), (False, True)),
        ((False, True), (False, True), (True, False)),
        ((True, True), (True, True), (True, True)),
    ],
)
def test_roles_are_answered_where_they_are_proposed(
    proposed: tuple[bool, bool] | None,
    answer: tuple[bool, bool] | None,
    our_roles: tuple[bool, bool],
) -> None:
    roles = (RoleSelection(CT_IMAGE_STORAGE, *proposed),) if proposed else ()
    got = accepted(request(role_selections=roles))
    assert got.accept.user_information.role_selections == (
        (RoleSelection(CT_IMAGE_STORAGE, *answer),) if answer else ()
    )
    (context,) = got.agreement.contexts.values()
    assert (context.as_scu, context.as_scp) == our_roles


# A11
def test_a_role_that_is_not_allowed_is_not_accepted() -> None:
    verification = PresentationContextProposal(1, VERIFICATION, (IMPLICIT,))
    both = accepted(
        request(verification, role_selections=(RoleSelection(VERIFICATION, True, True),))
    )
    assert both.accept.user_information.role_selections == (
        RoleSelection(VERIFICATION, scu_role=True, scp_role=False),
    )
    scp_only = accepted(
        request(verification, role_selections=(RoleSelection(VERIFICATION, False, True),))
    )
    assert scp_only.accept.presentation_contexts[0].result == ContextResult.USER_REJECTION
    assert scp_only.accept.user_information.role_selections == ()


# A11
def test_roles_are_answered_only_for_classes_that_are_offered_and_accepted() -> None:
    roles = (
        RoleSelection(CT_IMAGE_STORAGE, True, True),
        RoleSelection(STUDY_ROOT_FIND, True, True),
        RoleSelection("1.2.3.4", True, True),
        RoleSelection(CT_IMAGE_STORAGE, False, False),  # a second time: the first counts
    )
    assert answered(request(role_selections=roles)).role_selections == (roles[0],)


# A12
@pytest.mark.parametrize(
    ("offered", "answer"),
    [
        (b"\1", b"\1"),
        (b"\0", b"\0"),
        (b"\1\1", b"\1\0"),
        (b"\1\1\1", b"\1\0\1"),
        (b"\1\1\1\1\1\1\1", b"\1\0\1\0\0\0\0"),
        (b"\1\1\1\1\1\1\1\1\1", b"\1\0\1\0\0\0\0"),
        (b"\0\1\0", b"\0\0\0"),
        (b"", b"\0"),
        (b"\2", b"\0"),
    ],
)
def test_find_options_are_answered_by_what_is_both_offered_and_supported(
    offered: bytes, answer: bytes
) -> None:
    find = PresentationContextProposal(1, STUDY_ROOT_FIND, (IMPLICIT,))
    extended = (SopClassExtendedNegotiation(STUDY_ROOT_FIND, offered),)
    got = accepted(request(find, sop_class_extended=extended))
    assert got.accept.user_information.sop_class_extended == (
        SopClassExtendedNegotiation(STUDY_ROOT_FIND, answer),
    )
    assert got.agreement.extended == {STUDY_ROOT_FIND: answer}
    options = FindOptions.of(got.agreement.extended[STUDY_ROOT_FIND])
    assert options.relational_queries == answer.startswith(b"\1")


# A12
def test_extended_negotiation_is_not_in_the_answer_unless_asked_and_known() -> None:
    find = PresentationContextProposal(3, STUDY_ROOT_FIND, (IMPLICIT,))
    assert answered(request(CT, find)).sop_class_extended == ()
    extended = tuple(
        SopClassExtendedNegotiation(uid, b"\1")
        for uid in (CT_IMAGE_STORAGE, STUDY_ROOT_FIND, "1.2.3")
    )
    assert answered(request(CT, sop_class_extended=extended)).sop_class_extended == ()


def test_options_are_encoded_without_zeros_at_the_end() -> None:
    assert FindOptions().encoded() == b"\0"
    assert FindOptions(fuzzy_semantic_matching=True).encoded() == b"\0\0\1"
    assert FindOptions.of(b"\1\1").date_time_matching
    assert RetrieveOptions(relational_retrieval=True).encoded() == b"\1"
    assert RetrieveOptions.of(b"\0\1") == RetrieveOptions(enhanced_multi_frame_conversion=True)
    assert RetrieveOptions(relational_retrieval=True).answer(b"\1\1\1") == b"\1\0"


# A13
@pytest.mark.parametrize(
    ("mode", "uid", "service", "is_accepted"),
    [
        (UnknownStorage.REFUSE, PRIVATE_CLASS, STORAGE_SERVICE_CLASS, False),
        (UnknownStorage.DECLARED, PRIVATE_CLASS, STORAGE_SERVICE_CLASS, True),
        (UnknownStorage.DECLARED, STANDARD_UNKNOWN, STORAGE_SERVICE_CLASS, True),
        (UnknownStorage.DECLARED, PRIVATE_CLASS, None, False),
        (UnknownStorage.DECLARED, PRIVATE_CLASS, "1.2.840.10008.4.1", False),
        (UnknownStorage.DECLARED, "not a UID", STORAGE_SERVICE_CLASS, False),
        (UnknownStorage.PRIVATE, PRIVATE_CLASS, None, True),
        (UnknownStorage.PRIVATE, STANDARD_UNKNOWN, None, False),
        (UnknownStorage.PRIVATE, STANDARD_UNKNOWN, STORAGE_SERVICE_CLASS, True),
        (UnknownStorage.PRIVATE, "not a UID", None, False),
    ],
)
def test_an_unknown_class_is_accepted_as_storage_where_the_policy_says_so(
    mode: UnknownStorage, uid: str, service: str | None, is_accepted: bool
) -> None:
    policy = replace(
        POLICY, unknown_storage=mode, unknown_storage_policy=ContextPolicy((EXPLICIT,))
    )
    common = (SopClassCommonExtendedNegotiation(uid, service),) if service else ()
    got = accepted(
        request(PresentationContextProposal(1, uid, (EXPLICIT,)), sop_class_common_extended=common),
        policy,
    )
    assert (1 in got.agreement.contexts) is is_accepted
    assert got.accept.user_information.sop_class_common_extended == ()


NAME = UserIdentity(1, b"name")
NAME_ANSWERED = replace(NAME, positive_response_requested=True)
JWT_ANSWERED = UserIdentity(5, b"token", b"", positive_response_requested=True)
VERIFYING = replace(POLICY, verified_identity_kinds=frozenset({1, 2, 5}))


# A14
@pytest.mark.parametrize(
    ("identity", "verdict", "response"),
    [
        (NAME, IdentityVerdict(accepted=True), None),
        (NAME_ANSWERED, IdentityVerdict(accepted=True), b""),
        (JWT_ANSWERED, IdentityVerdict(accepted=True, response=b"new"), b"new"),
    ],
)
def test_an_accepted_identity_is_answered_only_where_an_answer_was_asked_for(
    identity: UserIdentity, verdict: IdentityVerdict, response: bytes | None
) -> None:
    asked = request(user_identity=identity)
    assert identity_to_verify(asked, VERIFYING) == identity
    got = accepted(asked, VERIFYING, identity=verdict)
    assert got.accept.user_information.user_identity_response == response


# A14
def test_a_refused_identity_is_rejected_by_acse() -> None:
    for identity in (NAME, NAME_ANSWERED, JWT_ANSWERED):
        answer = negotiate(
            request(user_identity=identity), VERIFYING, identity=IdentityVerdict(accepted=False)
        )
        assert answer == AssociateReject(1, 2, 1)


# A14
@pytest.mark.parametrize("kind", [1, 2, 3, 4, 5, 0, 6])
def test_an_identity_that_nobody_verifies_is_ignored_unless_it_is_meant_to_be_checked(
    kind: int,
) -> None:
    asked = request(user_identity=UserIdentity(kind, b"x", b"y", positive_response_requested=True))
    assert identity_to_verify(asked, POLICY) is None
    answer = negotiate(asked, POLICY)
    if kind in (3, 4):  # a Kerberos ticket, a SAML assertion
        assert answer == AssociateReject(1, 2, 1)
    else:
        assert isinstance(answer, Acceptance)
        assert answer.accept.user_information.user_identity_response is None


# A14
def test_where_an_identity_is_required_none_and_an_unverifiable_one_are_rejected() -> None:
    required = replace(VERIFYING, identity_required=True)
    assert negotiate(request(), required) == AssociateReject(1, 2, 1)
    kerberos = request(user_identity=UserIdentity(3, b"ticket"))
    assert negotiate(kerberos, required) == AssociateReject(1, 2, 1)
    accepted(request(user_identity=NAME), required, identity=IdentityVerdict(accepted=True))


def test_an_identity_that_was_not_verified_is_our_own_error() -> None:
    with pytest.raises(LocalProtocolError):
        negotiate(request(user_identity=NAME), VERIFYING)


# A15
def test_no_secret_is_in_the_text_of_a_verdict() -> None:
    assert "secret" not in repr(IdentityVerdict(accepted=True, response=b"secret"))
