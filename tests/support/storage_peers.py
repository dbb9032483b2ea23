"""Storage SCPs of our own, for retrievals: they keep what comes, and answer as a test wants."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from imaging_ingestion.association.association import Association
from imaging_ingestion.association.incoming import IncomingRequest
from imaging_ingestion.association.listener import Listener
from imaging_ingestion.association.services.destination import Destination
from imaging_ingestion.dimse.acceptor import AcceptorPolicy, ContextPolicy, UnknownStorage
from imaging_ingestion.dimse.command import CStoreRequest, Response, respond
from imaging_ingestion.dimse.requestor import Proposal
from imaging_ingestion.dimse.sop_class import storage_sop_classes, storage_transfer_syntaxes

EXPLICIT, IMPLICIT = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"
ALL_SYNTAXES = storage_transfer_syntaxes()

#: The status of a request, by how many came before it.
Statuses = Callable[[int, CStoreRequest], int]


@dataclass
class Arrived:
    """One instance as it came."""

    request: CStoreRequest
    transfer_syntax: str
    data_set: bytes


@dataclass
class Collector:
    """Takes instances. `before` is awaited before each is answered, and may end the association."""

    statuses: Statuses = lambda number, request: 0
    before: Callable[[int, IncomingRequest], object] | None = None
    arrived: list[Arrived] = field(default_factory=list)
    associations: list[Association] = field(default_factory=list)

    async def perform(self, request: IncomingRequest) -> None:
        command = request.command
        assert isinstance(command, CStoreRequest)
        number = len(self.arrived)
        data_set = await request.read_data_set(1 << 30)
        if request.association not in self.associations:
            self.associations.append(request.association)
        if self.before is not None:
            waiting = self.before(number, request)
            if asyncio.iscoroutine(waiting):
                await waiting
        self.arrived.append(Arrived(command, request.context.transfer_syntax, data_set))
        await request.respond(respond(command, self.statuses(number, command)))

    @property
    def uids(self) -> list[str]:
        """Of what came, in order."""
        return [one.request.affected_sop_instance_uid for one in self.arrived]


def get_proposals(
    sop_class: str, kinds: Sequence[tuple[str, str]], *, as_scp: bool = True
) -> list[Proposal]:
    """For C-GET: the class itself, and contexts for kinds (SOP class, transfer syntax)."""
    by_class: dict[str, list[str]] = {}
    for storage_class, syntax in kinds:
        by_class.setdefault(storage_class, []).append(syntax)
    return [
        Proposal(sop_class, (EXPLICIT, IMPLICIT)),
        *(
            Proposal(uid, tuple(syntaxes), as_scu=not as_scp, as_scp=as_scp, separate=True)
            for uid, syntaxes in by_class.items()
        ),
    ]


@asynccontextmanager
async def destination(
    collector: Collector,
    ae_title: str = "WORKSTATION",
    *,
    syntaxes: tuple[str, ...] = ALL_SYNTAXES,
    policy: AcceptorPolicy | None = None,
    port: int = 0,
) -> AsyncIterator[tuple[Destination, Listener]]:
    """A listening storage SCP."""
    storage = ContextPolicy(syntaxes)
    contexts = dict.fromkeys(storage_sop_classes(), storage)
    policy = policy or AcceptorPolicy(
        contexts,
        frozenset({ae_title}),
        unknown_storage=UnknownStorage.DECLARED,
        unknown_storage_policy=storage,
    )
    services = AnyService(collector)
    listener = Listener(policy, services)
    port = await listener.listen("127.0.0.1", port)
    try:
        yield Destination(ae_title, "127.0.0.1", port), listener
    finally:
        await listener.stop()


class AnyService(dict):
    """The collector for every abstract syntax, private ones too."""

    def __init__(self, collector: Collector) -> None:
        super().__init__()
        self._collector = collector

    def get(self, key: str, default: object = None) -> Collector:
        return self._collector


def numbers(response: Response) -> tuple[int | None, ...]:
    """Remaining, completed, failed and warning sub-operations of a response."""
    return (
        response.number_of_remaining_suboperations,
        response.number_of_completed_suboperations,
        response.number_of_failed_suboperations,
        response.number_of_warning_suboperations,
    )
