"""The association acceptor's decision: a request and a policy make an answer.

Whatever needs waiting (is the passcode right? how many associations are there?) is found out by the
caller and given in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto

from imaging_ingestion.dicom.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from imaging_ingestion.dicom.uid import is_uid
from imaging_ingestion.dimse import rejection
from imaging_ingestion.dimse.error import LocalProtocolError
from imaging_ingestion.dimse.negotiation import (
    DEFAULT_MAX_PDU_LENGTH,
    AcceptedContext,
    Agreement,
    ContextResult,
    not_above,
)
from imaging_ingestion.dimse.p_data import SMALLEST_MAX_PDU_LENGTH
from imaging_ingestion.dimse.pdu import (
    DICOM_APPLICATION_CONTEXT,
    PROTOCOL_VERSION,
    AssociateAccept,
    AssociateReject,
    AssociateRequest,
)
from imaging_ingestion.dimse.pdu_items import (
    OperationsWindow,
    PresentationContextProposal,
    PresentationContextResult,
    RoleSelection,
    SopClassExtendedNegotiation,
    UserIdentity,
    UserInformation,
)
from imaging_ingestion.dimse.sop_class import STORAGE_SERVICE_CLASS, is_private
from imaging_ingestion.dimse.upper_layer import ASSUMED_MAX_PDU_LENGTH

KERBEROS, SAML = 3, 4


class UnknownStorage(Enum):
    """What to do with an abstract syntax that the policy does not name."""

    REFUSE = auto()
    DECLARED = auto()  # accept it if the requestor declares it as storage (PS3.7 D.3.3.6)
    PRIVATE = auto()  # accept that, and any private SOP class


@dataclass(frozen=True, slots=True)
class ContextPolicy:
    """How one abstract syntax is accepted.

    `transfer_syntaxes`: the most wanted first; the requestor's order has no meaning. The roles are
    those the requestor may have. `answer_extended` makes the answer to the application information
    of extended negotiation; without it, or with None from it, there is no answer.
    """

    transfer_syntaxes: tuple[str, ...]
    requestor_may_be_scu: bool = True
    requestor_may_be_scp: bool = False
    answer_extended: Callable[[bytes], bytes | None] | None = None


@dataclass(frozen=True, slots=True)
class AcceptorPolicy:
    """Whom and what an acceptor accepts.

    `ae_titles` are ours, `calling_ae_titles` those that may call; None: any. Titles are compared
    without regard to case unless `case_sensitive`. User identities of `verified_identity_kinds` are
    verified by the caller (see `identity_to_verify`). Numbers of operations: 0 is unlimited.
    """

    contexts: Mapping[str, ContextPolicy]
    ae_titles: frozenset[str] | None = None
    calling_ae_titles: frozenset[str] | None = None
    case_sensitive: bool = False
    unknown_storage: UnknownStorage = UnknownStorage.REFUSE
    unknown_storage_policy: ContextPolicy | None = None
    max_pdu_length: int = DEFAULT_MAX_PDU_LENGTH
    max_operations_invoked: int = 1
    max_operations_performed: int = 1
    verified_identity_kinds: frozenset[int] = frozenset()
    identity_required: bool = False
    implementation_class_uid: str = IMPLEMENTATION_CLASS_UID
    implementation_version_name: str = IMPLEMENTATION_VERSION_NAME


@dataclass(frozen=True, slots=True)
class IdentityVerdict:
    """What the caller found out about a user identity; `response` goes to the requestor."""

    accepted: bool
    response: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Acceptance:
    """The PDU to answer with, and what it means for us."""

    accept: AssociateAccept
    agreement: Agreement


def identity_to_verify(request: AssociateRequest, policy: AcceptorPolicy) -> UserIdentity | None:
    """The user identity that the caller has to judge before `negotiate`; None if there is none."""
    identity = request.user_information.user_identity
    if identity is not None and identity.kind in policy.verified_identity_kinds:
        return identity
    return None


def negotiate(
    request: AssociateRequest,
    policy: AcceptorPolicy,
    *,
    at_limit: bool = False,
    identity: IdentityVerdict | None = None,
) -> Acceptance | AssociateReject:
    """Decide a request. `at_limit`: no further association can be served just now.

    Raises LocalProtocolError if there was an identity to verify and no verdict is given.
    """
    reject = _objection(request, policy, at_limit) or _identity_objection(request, policy, identity)
    if reject is not None:
        return reject
    asked = request.user_information
    proposed_roles = {role.sop_class_uid: role for role in reversed(asked.role_selections)}
    results: list[PresentationContextResult] = []
    contexts: dict[int, AcceptedContext] = {}
    for proposal in request.presentation_contexts:
        accepted = _decide(proposal, request, policy, proposed_roles.get(proposal.abstract_syntax))
        if isinstance(accepted, AcceptedContext):
            contexts[accepted.context_id] = accepted
            syntax = accepted.transfer_syntax
            results.append(PresentationContextResult(proposal.context_id, 0, syntax))
        else:
            # 9.3.3.2: a transfer syntax must be there and means nothing; any one of the proposed.
            syntax = next(iter(proposal.transfer_syntaxes), "")
            results.append(PresentationContextResult(proposal.context_id, accepted, syntax))
    classes = {context.abstract_syntax for context in contexts.values()}
    extended = dict(_extended_answers(request, policy, classes))
    window = _window(asked.operations_window, policy)
    information = UserInformation(
        max_pdu_length=policy.max_pdu_length,
        implementation_class_uid=policy.implementation_class_uid,
        implementation_version_name=policy.implementation_version_name,
        operations_window=window,
        role_selections=tuple(_role_answers(proposed_roles, request, policy, classes)),
        sop_class_extended=tuple(
            SopClassExtendedNegotiation(uid, answer) for uid, answer in extended.items()
        ),
        user_identity_response=_identity_response(request, policy, identity),
    )
    stated = asked.max_pdu_length
    agreed = window or OperationsWindow()
    return Acceptance(
        AssociateAccept(
            request.called_ae_title, request.calling_ae_title, tuple(results), information
        ),
        Agreement(
            called_ae_title=request.called_ae_title,
            calling_ae_title=request.calling_ae_title,
            contexts=contexts,
            max_sent_pdu_length=ASSUMED_MAX_PDU_LENGTH if stated is None else stated,
            max_received_pdu_length=policy.max_pdu_length,
            # The window is told from the requestor's side: what it performs, we invoke.
            max_operations_invoked=agreed.max_operations_performed,
            max_operations_performed=agreed.max_operations_invoked,
            extended=extended,
            peer_implementation_class_uid=asked.implementation_class_uid,
            peer_implementation_version_name=asked.implementation_version_name,
        ),
    )


def _objection(
    request: AssociateRequest, policy: AcceptorPolicy, at_limit: bool
) -> AssociateReject | None:
    stated = request.user_information.max_pdu_length
    if not request.protocol_version & PROTOCOL_VERSION:
        return rejection.PROTOCOL_VERSION_NOT_SUPPORTED
    if request.application_context_name != DICOM_APPLICATION_CONTEXT:
        return rejection.APPLICATION_CONTEXT_NAME_NOT_SUPPORTED
    if not _is_one_of(request.called_ae_title, policy.ae_titles, policy):
        return rejection.CALLED_AE_TITLE_NOT_RECOGNIZED
    if not _is_one_of(request.calling_ae_title, policy.calling_ae_titles, policy):
        return rejection.CALLING_AE_TITLE_NOT_RECOGNIZED
    if at_limit:
        return rejection.LOCAL_LIMIT_EXCEEDED
    if not request.presentation_contexts or (stated and stated < SMALLEST_MAX_PDU_LENGTH):
        return rejection.NO_REASON_GIVEN
    return None


def _is_one_of(title: str, titles: frozenset[str] | None, policy: AcceptorPolicy) -> bool:
    if titles is None:
        return True
    if policy.case_sensitive:
        return title in {t.strip(" ") for t in titles}
    return title.lower() in {t.strip(" ").lower() for t in titles}


def _identity_objection(
    request: AssociateRequest, policy: AcceptorPolicy, verdict: IdentityVerdict | None
) -> AssociateReject | None:
    """PS3.7 D.3.3.7: a user identity that is not accepted is answered by A-ASSOCIATE-RJ."""
    given = request.user_information.user_identity
    refused = rejection.NO_REASON_GIVEN_BY_ACSE
    if identity_to_verify(request, policy) is not None:
        if verdict is None:
            raise LocalProtocolError("the user identity was not verified")
        return None if verdict.accepted else refused
    if policy.identity_required:
        return refused
    # A ticket or an assertion is meant to be checked, which we cannot; a mere name may be ignored.
    return refused if given is not None and given.kind in (KERBEROS, SAML) else None


def _identity_response(
    request: AssociateRequest, policy: AcceptorPolicy, verdict: IdentityVerdict | None
) -> bytes | None:
    """Only where a positive response was asked for and there is one (PS3.7 D.3.3.7)."""
    given = identity_to_verify(request, policy)
    if given is None or verdict is None or not given.positive_response_requested:
        return None
    return verdict.response


def _decide(
    proposal: PresentationContextProposal,
    request: AssociateRequest,
    policy: AcceptorPolicy,
    role: RoleSelection | None,
) -> AcceptedContext | ContextResult:
    context = _policy_for(proposal.abstract_syntax, request, policy)
    if context is None:
        return ContextResult.ABSTRACT_SYNTAX_NOT_SUPPORTED
    offered = set(proposal.transfer_syntaxes)
    syntax = next((syntax for syntax in context.transfer_syntaxes if syntax in offered), None)
    if syntax is None:
        return ContextResult.TRANSFER_SYNTAXES_NOT_SUPPORTED
    requestor_scu, requestor_scp = _roles(role, context)
    if not requestor_scu and not requestor_scp:
        return ContextResult.USER_REJECTION
    return AcceptedContext(
        proposal.context_id,
        proposal.abstract_syntax,
        syntax,
        as_scu=requestor_scp,
        as_scp=requestor_scu,
    )


def _policy_for(
    abstract_syntax: str, request: AssociateRequest, policy: AcceptorPolicy
) -> ContextPolicy | None:
    named = policy.contexts.get(abstract_syntax)
    if named is not None or policy.unknown_storage is UnknownStorage.REFUSE:
        return named
    declared = any(
        item.sop_class_uid == abstract_syntax and item.service_class_uid == STORAGE_SERVICE_CLASS
        for item in request.user_information.sop_class_common_extended
    )
    private = policy.unknown_storage is UnknownStorage.PRIVATE and is_private(abstract_syntax)
    acceptable = is_uid(abstract_syntax) and (declared or private)
    return policy.unknown_storage_policy if acceptable else None


def _roles(role: RoleSelection | None, context: ContextPolicy) -> tuple[bool, bool]:
    """The requestor's roles: never more than proposed; SCU where nothing is (PS3.7 D.3.3.4)."""
    scu, scp = (role.scu_role, role.scp_role) if role else (True, False)
    return scu and context.requestor_may_be_scu, scp and context.requestor_may_be_scp


def _role_answers(
    proposed: Mapping[str, RoleSelection],
    request: AssociateRequest,
    policy: AcceptorPolicy,
    accepted_classes: set[str],
) -> Iterator[RoleSelection]:
    for uid, role in proposed.items():
        context = _policy_for(uid, request, policy)
        if context is not None and uid in accepted_classes:
            yield RoleSelection(uid, *_roles(role, context))


def _extended_answers(
    request: AssociateRequest, policy: AcceptorPolicy, accepted_classes: set[str]
) -> Iterator[tuple[str, bytes]]:
    for offer in request.user_information.sop_class_extended:
        context = _policy_for(offer.sop_class_uid, request, policy)
        if offer.sop_class_uid in accepted_classes and context and context.answer_extended:
            answer = context.answer_extended(offer.application_information)
            if answer is not None:
                yield offer.sop_class_uid, answer


def _window(offered: OperationsWindow | None, policy: AcceptorPolicy) -> OperationsWindow | None:
    """Never above the offer, and absent where nothing was offered (PS3.7 D.3.3.3)."""
    if offered is None:
        return None
    return OperationsWindow(
        not_above(offered.max_operations_invoked, policy.max_operations_performed),
        not_above(offered.max_operations_performed, policy.max_operations_invoked),
    )
