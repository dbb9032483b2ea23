"""The association requestor's part: what to ask for, and what the answer means."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from imaging_ingestion.dicom.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from imaging_ingestion.dimse.error import (
    InvalidParameterError,
    LocalProtocolError,
    UnexpectedParameterError,
)
from imaging_ingestion.dimse.negotiation import (
    DEFAULT_MAX_PDU_LENGTH,
    MAX_CONTEXTS,
    AcceptedContext,
    Agreement,
    ContextResult,
    not_above,
)
from imaging_ingestion.dimse.p_data import SMALLEST_MAX_PDU_LENGTH
from imaging_ingestion.dimse.pdu import AssociateAccept, AssociateRequest
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
from imaging_ingestion.dimse.upper_layer import ASSUMED_MAX_PDU_LENGTH


@dataclass(frozen=True, slots=True)
class Proposal:
    """One abstract syntax to propose, with our roles on it.

    `separate`: a context for each transfer syntax, so that the acceptor cannot choose among them
    and accepts each it knows. `extended` is service-class application information;
    `service_class_uid` declares which service the class belongs to.
    """

    abstract_syntax: str
    transfer_syntaxes: tuple[str, ...]
    as_scu: bool = True
    as_scp: bool = False
    separate: bool = False
    extended: bytes | None = None
    service_class_uid: str | None = None


def build_request(
    proposals: Sequence[Proposal],
    *,
    called_ae_title: str,
    calling_ae_title: str,
    max_pdu_length: int = DEFAULT_MAX_PDU_LENGTH,
    operations_window: OperationsWindow | None = None,
    user_identity: UserIdentity | None = None,
    implementation_class_uid: str = IMPLEMENTATION_CLASS_UID,
    implementation_version_name: str = IMPLEMENTATION_VERSION_NAME,
) -> AssociateRequest:
    """An A-ASSOCIATE-RQ. `max_pdu_length` is what we take, in bytes.

    Raises LocalProtocolError where more than 128 contexts would be needed.
    """
    pairs = list(_contexts(proposals))
    if len(pairs) > MAX_CONTEXTS:
        raise LocalProtocolError(f"{len(pairs)} presentation contexts; {MAX_CONTEXTS} is the most")
    by_class = {proposal.abstract_syntax: proposal for proposal in proposals}
    return AssociateRequest(
        called_ae_title,
        calling_ae_title,
        tuple(
            PresentationContextProposal(2 * number + 1, abstract_syntax, transfer_syntaxes)
            for number, (abstract_syntax, transfer_syntaxes) in enumerate(pairs)
        ),
        UserInformation(
            max_pdu_length=max_pdu_length,
            implementation_class_uid=implementation_class_uid,
            implementation_version_name=implementation_version_name,
            operations_window=operations_window,
            role_selections=tuple(
                RoleSelection(uid, proposal.as_scu, proposal.as_scp)
                for uid, proposal in by_class.items()
                if proposal.as_scp or not proposal.as_scu
            ),
            sop_class_extended=tuple(
                SopClassExtendedNegotiation(uid, proposal.extended)
                for uid, proposal in by_class.items()
                if proposal.extended is not None
            ),
            sop_class_common_extended=tuple(
                SopClassCommonExtendedNegotiation(uid, proposal.service_class_uid)
                for uid, proposal in by_class.items()
                if proposal.service_class_uid is not None
            ),
            user_identity=user_identity,
        ),
    )


def _contexts(proposals: Sequence[Proposal]) -> Iterator[tuple[str, tuple[str, ...]]]:
    for proposal in proposals:
        if proposal.separate:
            for syntax in proposal.transfer_syntaxes:
                yield proposal.abstract_syntax, (syntax,)
        else:
            yield proposal.abstract_syntax, proposal.transfer_syntaxes


def interpret(request: AssociateRequest, accept: AssociateAccept) -> Agreement:
    """What an acceptance means for us, who asked.

    A context without a result is not accepted. Raises UnexpectedParameterError,
    InvalidParameterError where the answer does not fit the question.
    """
    proposals = {context.context_id: context for context in request.presentation_contexts}
    asked, answered = request.user_information, accept.user_information
    asked_roles = {role.sop_class_uid: role for role in asked.role_selections}
    roles = {role.sop_class_uid: role for role in answered.role_selections}
    contexts = {}
    for result in accept.presentation_contexts:
        proposal = proposals.get(result.context_id)
        if proposal is None:
            raise UnexpectedParameterError(
                f"an answer to presentation context {result.context_id}, which was not proposed"
            )
        if result.result == ContextResult.ACCEPTANCE:
            uid = proposal.abstract_syntax
            contexts[result.context_id] = _accepted(
                proposal, result, asked_roles.get(uid), roles.get(uid)
            )
    stated = answered.max_pdu_length
    if stated and stated < SMALLEST_MAX_PDU_LENGTH:
        raise InvalidParameterError(f"the acceptor takes P-DATA-TF of {stated} bytes at most")
    window = _window(asked.operations_window, answered.operations_window)
    offered = {item.sop_class_uid for item in asked.sop_class_extended}
    return Agreement(
        called_ae_title=request.called_ae_title,
        calling_ae_title=request.calling_ae_title,
        contexts=contexts,
        max_sent_pdu_length=ASSUMED_MAX_PDU_LENGTH if stated is None else stated,
        max_received_pdu_length=asked.max_pdu_length or 0,
        max_operations_invoked=window.max_operations_invoked,
        max_operations_performed=window.max_operations_performed,
        extended={
            item.sop_class_uid: item.application_information
            for item in answered.sop_class_extended
            if item.sop_class_uid in offered
        },
        peer_implementation_class_uid=answered.implementation_class_uid,
        peer_implementation_version_name=answered.implementation_version_name,
        user_identity_response=answered.user_identity_response,
    )


def _accepted(
    proposal: PresentationContextProposal,
    result: PresentationContextResult,
    asked: RoleSelection | None,
    answered: RoleSelection | None,
) -> AcceptedContext:
    if result.transfer_syntax not in proposal.transfer_syntaxes:
        raise InvalidParameterError(
            f"presentation context {result.context_id} is accepted in a transfer syntax that was "
            "not proposed"
        )
    scu, scp = True, False
    if asked is not None and answered is not None:  # else the default roles (PS3.7 D.3.3.4)
        scu = asked.scu_role and answered.scu_role
        scp = asked.scp_role and answered.scp_role
    return AcceptedContext(
        result.context_id, proposal.abstract_syntax, result.transfer_syntax, scu, scp
    )


def _window(asked: OperationsWindow | None, answered: OperationsWindow | None) -> OperationsWindow:
    if asked is None or answered is None:
        return OperationsWindow()
    return OperationsWindow(
        not_above(asked.max_operations_invoked, answered.max_operations_invoked),
        not_above(asked.max_operations_performed, answered.max_operations_performed),
    )
