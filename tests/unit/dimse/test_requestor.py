"""What a requestor asks for, and what it makes of the answer."""

from __future__ import annotations

from dataclasses import replace

import pytest
from associations import CT_IMAGE_STORAGE, EXPLICIT, IMPLICIT, VERIFICATION

from imaging_ingestion.dimse.acceptor import Acceptance, AcceptorPolicy, ContextPolicy, negotiate
from imaging_ingestion.dimse.error import (
    InvalidParameterError,
    LocalProtocolError,
    UnexpectedParameterError,
)
from imaging_ingestion.dimse.extended_negotiation import FindOptions
from imaging_ingestion.dimse.negotiation import AcceptedContext, Agreement
from imaging_ingestion.dimse.pdu import (
    AssociateAccept,
    AssociateRequest,
    decode_pdu,
    encode_pdu,
)
from imaging_ingestion.dimse.pdu_items import (
    OperationsWindow,
    PresentationContextResult,
    RoleSelection,
    SopClassCommonExtendedNegotiation,
    SopClassExtendedNegotiation,
    UserInformation,
)
from imaging_ingestion.dimse.requestor import Proposal, build_request, interpret
from imaging_ingestion.dimse.sop_class import STORAGE_SERVICE_CLASS, STUDY_ROOT_FIND

TITLES = {"called_ae_title": "PACS", "calling_ae_title": "INGESTION"}


def answer(*results: PresentationContextResult, **information: object) -> AssociateAccept:
    user = UserInformation(**({"max_pdu_length": 16384} | information))  # type: ignore[arg-type]
    return AssociateAccept("PACS", "INGESTION", results, user)


def test_a_request_has_a_context_for_each_proposal_with_odd_ids() -> None:
    request = build_request(
        [
            Proposal(VERIFICATION, (IMPLICIT,)),
            Proposal(CT_IMAGE_STORAGE, (EXPLICIT, IMPLICIT), separate=True),
            Proposal(STUDY_ROOT_FIND, (EXPLICIT, IMPLICIT)),
        ],
        **TITLES,
    )
    assert [
        (c.context_id, c.abstract_syntax, c.transfer_syntaxes)
        for c in request.presentation_contexts
    ] == [
        (1, VERIFICATION, (IMPLICIT,)),
        (3, CT_IMAGE_STORAGE, (EXPLICIT,)),
        (5, CT_IMAGE_STORAGE, (IMPLICIT,)),
        (7, STUDY_ROOT_FIND, (EXPLICIT, IMPLICIT)),
    ]
    assert request.user_information.max_pdu_length == 131072
    assert request.user_information.operations_window is None
    assert decode_pdu(encode_pdu(request)) == request


def test_roles_and_options_are_in_the_request_only_where_they_are_not_the_default() -> None:
    request = build_request(
        [
            Proposal(VERIFICATION, (IMPLICIT,)),
            Proposal(CT_IMAGE_STORAGE, (EXPLICIT,), as_scu=False, as_scp=True),
            Proposal(STUDY_ROOT_FIND, (IMPLICIT,), extended=FindOptions(True).encoded()),
            Proposal("1.2.3", (IMPLICIT,), service_class_uid=STORAGE_SERVICE_CLASS),
        ],
        **TITLES,
    )
    information = request.user_information
    assert information.role_selections == (RoleSelection(CT_IMAGE_STORAGE, False, True),)
    assert information.sop_class_extended == (SopClassExtendedNegotiation(STUDY_ROOT_FIND, b"\1"),)
    assert information.sop_class_common_extended == (
        SopClassCommonExtendedNegotiation("1.2.3", STORAGE_SERVICE_CLASS),
    )


def test_129_contexts_are_too_many() -> None:
    fits = build_request([Proposal(CT_IMAGE_STORAGE, (IMPLICIT,))] * 128, **TITLES)
    assert fits.presentation_contexts[-1].context_id == 255
    with pytest.raises(LocalProtocolError, match="128"):
        build_request([Proposal(CT_IMAGE_STORAGE, (IMPLICIT,))] * 129, **TITLES)


REQUEST = build_request(
    [
        Proposal(CT_IMAGE_STORAGE, (EXPLICIT, IMPLICIT), as_scp=True),
        Proposal(VERIFICATION, (IMPLICIT,)),
        Proposal(STUDY_ROOT_FIND, (IMPLICIT,), extended=b"\1\1"),
    ],
    **TITLES,
    operations_window=OperationsWindow(4, 2),
)


def test_an_answer_says_what_may_be_used() -> None:
    agreement = interpret(
        REQUEST,
        answer(
            PresentationContextResult(1, 0, EXPLICIT),
            PresentationContextResult(3, 3, ""),
            PresentationContextResult(5, 0, IMPLICIT),
            max_pdu_length=0,
            implementation_class_uid="1.2",
            implementation_version_name="V",
            operations_window=OperationsWindow(9, 1),
            role_selections=(RoleSelection(CT_IMAGE_STORAGE, True, True),),
            sop_class_extended=(
                SopClassExtendedNegotiation(STUDY_ROOT_FIND, b"\1\0"),
                SopClassExtendedNegotiation(VERIFICATION, b"\1"),  # was not asked for
            ),
            user_identity_response=b"secret",
        ),
    )
    assert agreement == Agreement(
        called_ae_title="PACS",
        calling_ae_title="INGESTION",
        contexts={
            1: AcceptedContext(1, CT_IMAGE_STORAGE, EXPLICIT, as_scu=True, as_scp=True),
            5: AcceptedContext(5, STUDY_ROOT_FIND, IMPLICIT, as_scu=True, as_scp=False),
        },
        max_sent_pdu_length=0,
        max_received_pdu_length=131072,
        max_operations_invoked=4,  # never above our own offer
        max_operations_performed=1,
        extended={STUDY_ROOT_FIND: b"\1\0"},
        peer_implementation_class_uid="1.2",
        peer_implementation_version_name="V",
        user_identity_response=b"secret",
    )
    assert "secret" not in repr(agreement)  # A15
    assert agreement.context_for(VERIFICATION) is None
    assert agreement.context_for(CT_IMAGE_STORAGE, IMPLICIT) is None
    assert agreement.context_for(CT_IMAGE_STORAGE, as_scu=False) == agreement.contexts[1]


# A10, A11
def test_without_an_answer_the_defaults_hold() -> None:
    agreement = interpret(REQUEST, answer(PresentationContextResult(1, 0, EXPLICIT)))
    (context,) = agreement.contexts.values()
    assert (context.as_scu, context.as_scp) == (True, False)
    assert (agreement.max_operations_invoked, agreement.max_operations_performed) == (1, 1)
    assert agreement.extended == {}


# A11
@pytest.mark.parametrize(
    ("answered", "roles"),
    [
        ((True, True), (True, True)),
        ((True, False), (True, False)),
        ((False, True), (False, True)),
        ((False, False), (False, False)),
    ],
)
def test_a_role_counts_where_both_agree(
    answered: tuple[bool, bool], roles: tuple[bool, bool]
) -> None:
    agreement = interpret(
        REQUEST,
        answer(
            PresentationContextResult(1, 0, EXPLICIT),
            PresentationContextResult(3, 0, IMPLICIT),
            role_selections=(
                RoleSelection(CT_IMAGE_STORAGE, *answered),
                RoleSelection(VERIFICATION, False, True),  # was not asked for
            ),
        ),
    )
    assert (agreement.contexts[1].as_scu, agreement.contexts[1].as_scp) == roles
    assert (agreement.contexts[3].as_scu, agreement.contexts[3].as_scp) == (True, False)


def test_a_context_without_a_result_is_not_accepted() -> None:
    assert interpret(REQUEST, answer()).contexts == {}


@pytest.mark.parametrize(
    ("accept", "error"),
    [
        (answer(PresentationContextResult(7, 0, IMPLICIT)), UnexpectedParameterError),
        (answer(PresentationContextResult(7, 3)), UnexpectedParameterError),
        (answer(PresentationContextResult(1, 0, "1.2.3")), InvalidParameterError),
        (answer(max_pdu_length=100), InvalidParameterError),
    ],
)
def test_an_answer_that_does_not_fit_the_question_is_an_error(
    accept: AssociateAccept, error: type[Exception]
) -> None:
    with pytest.raises(error):
        interpret(REQUEST, accept)


def test_a_silent_acceptor_is_sent_small_pdus() -> None:
    assert interpret(REQUEST, answer(max_pdu_length=None)).max_sent_pdu_length == 16384


def test_both_sides_come_to_the_same_agreement() -> None:
    policy = AcceptorPolicy(
        {
            CT_IMAGE_STORAGE: ContextPolicy((EXPLICIT,), requestor_may_be_scp=True),
            VERIFICATION: ContextPolicy((EXPLICIT,)),
            STUDY_ROOT_FIND: ContextPolicy((IMPLICIT,), answer_extended=FindOptions(True).answer),
        },
        max_pdu_length=65536,
        max_operations_performed=3,
        max_operations_invoked=8,
    )
    sent = decode_pdu(encode_pdu(REQUEST))
    assert isinstance(sent, AssociateRequest)
    acceptance = negotiate(sent, policy)
    assert isinstance(acceptance, Acceptance)
    theirs = acceptance.agreement
    back = decode_pdu(encode_pdu(acceptance.accept))
    assert isinstance(back, AssociateAccept)
    ours = interpret(REQUEST, back)
    assert ours.contexts == {
        context_id: replace(context, as_scu=context.as_scp, as_scp=context.as_scu)
        for context_id, context in theirs.contexts.items()
    }
    assert (ours.max_sent_pdu_length, ours.max_received_pdu_length) == (
        theirs.max_received_pdu_length,
        theirs.max_sent_pdu_length,
    )
    assert (ours.max_operations_invoked, ours.max_operations_performed) == (3, 2)
    assert (theirs.max_operations_invoked, theirs.max_operations_performed) == (2, 3)
    assert ours.extended == theirs.extended == {STUDY_ROOT_FIND: b"\1\0"}
