"""What a DIMSE ingestion service accepts, and who performs it: made from the services it has.

Whatever is not given is not offered: its presentation contexts are refused (abstract syntax not
supported), so a peer learns in the negotiation what there is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from imaging_ingestion.association.config import StorageContexts
from imaging_ingestion.association.incoming import Service
from imaging_ingestion.association.performing import Services
from imaging_ingestion.association.services import find_query, retrieve_request
from imaging_ingestion.association.services.arrivals import Arrivals
from imaging_ingestion.association.services.echo import EchoService
from imaging_ingestion.association.services.store import StoreService
from imaging_ingestion.dimse.acceptor import AcceptorPolicy, ContextPolicy
from imaging_ingestion.dimse.negotiation import DEFAULT_MAX_PDU_LENGTH
from imaging_ingestion.dimse.sop_class import (
    DATA_SET_TRANSFER_SYNTAXES,
    FIND_CLASSES,
    GET_CLASSES,
    MOVE_CLASSES,
    STORAGE_COMMITMENT_PUSH_MODEL,
    VERIFICATION,
)
from imaging_ingestion.intake import Intake

#: Operations that one peer may have under way at a time, if it asks for more than one (PS3.7
#: D.3.3.3). They wait for the disk at the same time, then; more than a few gain nothing.
OPERATIONS: Final = 8


@dataclass(frozen=True, slots=True)
class IngestionServices:
    """The services of one space under one AE title. C-ECHO is always there.

    `provider` is recorded with every instance that is stored, and `on_stored` is told the status of
    each C-STORE, `arrivals` which studies came on which association. Whatever is None is not
    offered.
    """

    intake: Intake
    provider: str
    find: Service | None = None
    move: Service | None = None
    get: Service | None = None
    commitment: Service | None = None
    on_stored: Callable[[int], None] | None = None
    arrivals: Arrivals | None = None

    def performers(self) -> Services:
        """Who performs what: storage is for whatever class the others are not."""
        store = StoreService(self.intake, self.provider, self.on_stored, self.arrivals)
        return Services({uid: service for uid, (service, _) in self._others()}, store)

    def contexts(self, storage: StorageContexts) -> dict[str, ContextPolicy]:
        """How each abstract syntax is accepted."""
        # A requestor takes part in C-GET as the SCP of storage (PS3.4 C.5.3).
        stored = storage.contexts(requestor_may_be_scp=self.get is not None)
        return {**stored, **{uid: policy for uid, (_, policy) in self._others()}}

    def _others(self) -> Iterator[tuple[str, tuple[Service, ContextPolicy]]]:
        plain = ContextPolicy(DATA_SET_TRANSFER_SYNTAXES)
        find = ContextPolicy(
            DATA_SET_TRANSFER_SYNTAXES, answer_extended=find_query.SUPPORTED_OPTIONS.answer
        )
        retrieve = ContextPolicy(
            DATA_SET_TRANSFER_SYNTAXES, answer_extended=retrieve_request.SUPPORTED_OPTIONS.answer
        )
        offered: list[tuple[frozenset[str], Service | None, ContextPolicy]] = [
            (frozenset({VERIFICATION}), EchoService(), plain),
            (FIND_CLASSES, self.find, find),
            (MOVE_CLASSES, self.move, retrieve),
            (GET_CLASSES, self.get, retrieve),
            (frozenset({STORAGE_COMMITMENT_PUSH_MODEL}), self.commitment, plain),
        ]
        for classes, service, policy in offered:
            if service is not None:
                for uid in classes:
                    yield uid, (service, policy)


def ingestion_policy(
    services: IngestionServices,
    ae_title: str,
    *,
    storage: StorageContexts | None = None,
    calling_ae_titles: frozenset[str] | None = None,
    verified_identity_kinds: frozenset[int] = frozenset(),
    identity_required: bool = False,
    max_pdu_length: int = DEFAULT_MAX_PDU_LENGTH,
    operations: int = OPERATIONS,
) -> AcceptorPolicy:
    """Whom and what the service accepts under its AE title.

    `storage` is what DIMSE_CONFIG_PATH allows (None: all of the standard, and private classes);
    `calling_ae_titles` who may call (None: anybody); `verified_identity_kinds` are those of the
    listener's verifier. `max_pdu_length` is in bytes.
    """
    chosen = storage or StorageContexts()
    return AcceptorPolicy(
        services.contexts(chosen),
        frozenset({ae_title}),
        calling_ae_titles,
        unknown_storage=chosen.unknown_storage,
        unknown_storage_policy=chosen.policy(requestor_may_be_scp=services.get is not None),
        max_pdu_length=max_pdu_length,
        max_operations_performed=operations,
        verified_identity_kinds=verified_identity_kinds,
        identity_required=identity_required,
    )
