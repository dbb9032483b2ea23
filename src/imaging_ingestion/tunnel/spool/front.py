"""Takes associations of local peers whose instances are kept here.

Storage is ours. What else a peer proposes is asked of the target, through the tunnel, and answered
as it answers; where it cannot be asked, it is refused, and storage goes on (docs/spool.md).
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from typing import Final

import structlog

from imaging_ingestion.association.association import Association
from imaging_ingestion.association.caller import Caller
from imaging_ingestion.association.config import StorageContexts
from imaging_ingestion.association.connect import Asking, ConnectSettings
from imaging_ingestion.association.error import (
    AssociationError,
    AssociationReleasedError,
    NotConnectedError,
)
from imaging_ingestion.association.incoming import Service
from imaging_ingestion.association.limits import AssociationLimits
from imaging_ingestion.association.listener import Listener, ListenerSettings
from imaging_ingestion.association.performing import Services
from imaging_ingestion.dimse.acceptor import Acceptance, AcceptorPolicy, UnknownStorage
from imaging_ingestion.dimse.negotiation import (
    DEFAULT_MAX_PDU_LENGTH,
    AcceptedContext,
    ContextResult,
)
from imaging_ingestion.dimse.pdu import AssociateAccept, AssociateReject, AssociateRequest
from imaging_ingestion.dimse.pdu_items import (
    PresentationContextProposal,
    PresentationContextResult,
    RoleSelection,
)
from imaging_ingestion.dimse.sop_class import (
    GET_CLASSES,
    STORAGE_SERVICE_CLASS,
    is_private,
    is_storage,
)
from imaging_ingestion.tunnel.spool.relaying import Relaying
from imaging_ingestion.tunnel.spool.way import begin_to_ask
from imaging_ingestion.tunnel.tunnel import Tunnel

log = structlog.get_logger(__name__)

#: Seconds for the target to answer, while the peer waits for us.
_PATIENCE: Final = 10.0
#: Operations that one peer may have under way (see `association.policy.OPERATIONS`).
_OPERATIONS: Final = 8
#: How long an operation takes is for the two to say who talk to each other.
_DAYS: Final = 7 * 86400.0
_LIMITS: Final = AssociationLimits(response=_DAYS, idle=_DAYS, progress=300.0)


@dataclass(frozen=True, slots=True)
class Joined(Acceptance):
    """An acceptance that stands for two: storage is ours, `others` go to the target."""

    target: Association
    to_target: Relaying
    from_target: Relaying
    others: frozenset[str]  # abstract syntaxes


class Front(Listener):
    """Its addresses are the proxy's. `store` performs C-STORE."""

    def __init__(
        self,
        tunnel: Tunnel,
        store: Service,
        storage: StorageContexts,
        ae_title: str | None,
        settings: ListenerSettings,
    ) -> None:
        policy = AcceptorPolicy(
            storage.contexts(),
            None if ae_title is None else frozenset({ae_title}),
            unknown_storage=storage.unknown_storage,
            unknown_storage_policy=storage.policy(),
            max_operations_performed=_OPERATIONS,
        )
        super().__init__(policy, {}, settings)
        self._tunnel = tunnel
        self._store = store
        self._storage = storage
        self._listed = policy.contexts
        self._following: set[asyncio.Task[None]] = set()

    def is_for_us(self, request: AssociateRequest) -> bool:
        """Whether a peer proposes storage that is ours."""
        return bool(self._ours(request))

    async def decide(self, request: AssociateRequest, peer: str) -> Acceptance | AssociateReject:
        """See `Listener.decide`."""
        ours = self._ours(request)
        rest = tuple(one for one in request.presentation_contexts if one not in ours)
        storage = replace(request, presentation_contexts=ours)
        if not rest:
            return await super().decide(storage, peer)
        asked = await self._ask_target(replace(request, presentation_contexts=rest), peer)
        if asked is None:
            decision = await super().decide(storage, peer)
            if isinstance(decision, AssociateReject):
                return decision
            return replace(decision, accept=_answer(request, decision.accept, ()))
        target, accept, from_target = asked
        # The target has judged who it is.
        unnamed = replace(storage.user_information, user_identity=None)
        decision = await super().decide(replace(storage, user_information=unnamed), peer)
        if isinstance(decision, AssociateReject):
            self._begin(target.abort(), self._following)
            return decision
        joined = _join(request, decision, target, accept, from_target)
        # In this very step it is taken, or nobody is there any more.
        asyncio.get_running_loop().call_soon(self._not_taken, joined)
        return joined

    def associate(self, caller: Caller, acceptance: Acceptance) -> Association:
        """See `Listener.associate`."""
        association = super().associate(caller, acceptance)
        if isinstance(acceptance, Joined):
            acceptance.to_target.join(acceptance.target)
            acceptance.from_target.join(association)
            self._begin(self._follow(association, acceptance.target), self._following)
        return association

    def services_for(self, acceptance: Acceptance) -> Services:
        """See `Listener.services_for`."""
        if not isinstance(acceptance, Joined):
            return Services({}, self._store)
        return Services(dict.fromkeys(acceptance.others, acceptance.to_target), self._store)

    async def stop(self, *, grace: float | None = None) -> None:
        """See `Listener.stop`."""
        await super().stop(grace=grace)
        while self._following:
            await asyncio.wait(self._following)

    # ---- its own

    def _ours(self, request: AssociateRequest) -> tuple[PresentationContextProposal, ...]:
        """The contexts of storage that we are to be the SCP of."""
        proposed = request.presentation_contexts
        information = request.user_information
        # Only for C-GET a peer takes instances on its own association (PS3.4 C.5.3).
        gets = any(one.abstract_syntax in GET_CLASSES for one in proposed)
        roles = {one.sop_class_uid: one for one in information.role_selections}
        declared = {
            one.sop_class_uid
            for one in information.sop_class_common_extended
            if one.service_class_uid == STORAGE_SERVICE_CLASS
        }
        return tuple(
            one
            for one in proposed
            if self._is_storage(one.abstract_syntax, declared)
            and _is_sent(roles.get(one.abstract_syntax), gets)
        )

    def _is_storage(self, uid: str, declared: Collection[str]) -> bool:
        """Also what is then refused, for DIMSE_CONFIG_PATH does not list it."""
        takes_private = self._storage.unknown_storage is UnknownStorage.PRIVATE
        return (
            uid in self._listed
            or is_storage(uid)
            or uid in declared
            or (takes_private and is_private(uid))
        )

    async def _ask_target(
        self, request: AssociateRequest, peer: str
    ) -> tuple[Association, AssociateAccept, Relaying] | None:
        """An association with the target, and how it answered; None if there is none."""
        from_target = Relaying()
        settings = ConnectSettings(artim=_PATIENCE, limits=_LIMITS)
        asking = Asking(_trimmed(request), Services({}, from_target), settings)
        try:
            if not self._tunnel.is_up:
                raise NotConnectedError("no connection to NATS")
            async with asyncio.timeout(_PATIENCE):
                await begin_to_ask(self._tunnel, asking, for_spool=False)
                target = await asking.association()
        except (AssociationError, TimeoutError) as error:
            why = str(error) or "no answer in time"
            log.warning("spool.storage_only", peer=peer, why=why)
            return None
        assert asking.accept is not None
        return target, asking.accept, from_target

    def _not_taken(self, joined: Joined) -> None:
        if not joined.to_target.is_joined:
            self._begin(joined.target.abort(), self._following)

    @staticmethod
    async def _follow(association: Association, target: Association) -> None:
        """End the association with the target as the peer's ends."""
        await association.closed()
        try:
            if isinstance(association.end, AssociationReleasedError):
                await target.release()
            else:
                await target.abort()
        except AssociationError as error:
            log.debug("spool.target_not_released", why=str(error))


def _is_sent(role: RoleSelection | None, gets: bool) -> bool:
    """Whether instances come from the peer on such a context, and do not go to it."""
    return role is None or (role.scu_role and not (role.scp_role and gets))


def _trimmed(request: AssociateRequest) -> AssociateRequest:
    """With what belongs to its presentation contexts only."""
    classes = {one.abstract_syntax for one in request.presentation_contexts}
    asked = request.user_information
    information = replace(
        asked,
        max_pdu_length=DEFAULT_MAX_PDU_LENGTH,
        role_selections=tuple(one for one in asked.role_selections if one.sop_class_uid in classes),
        sop_class_extended=tuple(
            one for one in asked.sop_class_extended if one.sop_class_uid in classes
        ),
        sop_class_common_extended=tuple(
            one for one in asked.sop_class_common_extended if one.sop_class_uid in classes
        ),
    )
    return replace(request, user_information=information)


def _answer(
    request: AssociateRequest,
    accept: AssociateAccept,
    others: Iterable[PresentationContextResult],
) -> AssociateAccept:
    """Our acceptance with the results of the other contexts, in the order they were proposed."""
    by_id = {one.context_id: one for one in (*accept.presentation_contexts, *others)}
    results = tuple(
        by_id.get(
            one.context_id,
            PresentationContextResult(
                one.context_id, ContextResult.NO_REASON, next(iter(one.transfer_syntaxes), "")
            ),
        )
        for one in request.presentation_contexts
    )
    return replace(accept, presentation_contexts=results)


def _join(
    request: AssociateRequest,
    ours: Acceptance,
    target: Association,
    theirs: AssociateAccept,
    from_target: Relaying,
) -> Joined:
    """One acceptance of two."""
    agreed = target.agreement
    contexts = dict(ours.agreement.contexts)
    for number, one in agreed.contexts.items():
        # What we are to the target, the peer is to us.
        contexts[number] = AcceptedContext(
            number, one.abstract_syntax, one.transfer_syntax, as_scu=one.as_scp, as_scp=one.as_scu
        )
    our_information, their_information = ours.accept.user_information, theirs.user_information
    accept = _answer(request, ours.accept, theirs.presentation_contexts)
    information = replace(
        our_information,
        role_selections=our_information.role_selections + their_information.role_selections,
        sop_class_extended=their_information.sop_class_extended,
        user_identity_response=their_information.user_identity_response,
    )
    agreement = replace(ours.agreement, contexts=contexts, extended=agreed.extended)
    return Joined(
        replace(accept, user_information=information),
        agreement,
        target,
        Relaying(),
        from_target,
        frozenset(one.abstract_syntax for one in agreed.contexts.values()),
    )
