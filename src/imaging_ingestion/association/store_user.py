"""C-STORE as SCU: what to propose, which presentation context to take, and one instance sent.

An instance goes in the transfer syntax it is in wherever the peer accepts that. For each such kind
of instance there is a context of its own, so that the acceptor cannot choose another; one more for
each SOP class offers what its instances could be brought into (PS3.5 10.1).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass

from imaging_ingestion.association.association import Association
from imaging_ingestion.association.services.transcoder import Transcoder
from imaging_ingestion.dicom.transfer_syntax import encoding_of
from imaging_ingestion.dimse.command import CStoreRequest, Response
from imaging_ingestion.dimse.negotiation import MAX_CONTEXTS, AcceptedContext, Agreement
from imaging_ingestion.dimse.requestor import Proposal
from imaging_ingestion.dimse.sop_class import STORAGE_SERVICE_CLASS, is_storage

#: SOP class and transfer syntax.
Kind = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Proposed:
    """What to propose, and the kinds of instances that it is for."""

    proposals: tuple[Proposal, ...]
    kinds: frozenset[Kind]


def proposals_of(
    sop_class_uid: str, transfer_syntaxes: Sequence[str], transcoder: Transcoder | None
) -> list[Proposal]:
    """One proposal with a context for each syntax, and perhaps one with all that is possible."""
    # PS3.7 D.3.3.6: what a class that the peer may not know is for.
    service_class = None if is_storage(sop_class_uid) else STORAGE_SERVICE_CLASS
    made = [
        Proposal(
            sop_class_uid, tuple(transfer_syntaxes), separate=True, service_class_uid=service_class
        )
    ]
    if transcoder is not None:
        found = dict.fromkeys(t for uid in transfer_syntaxes for t in transcoder.targets(uid))
        others = tuple(target for target in found if target not in transfer_syntaxes)
        if others:
            made.append(Proposal(sop_class_uid, others, service_class_uid=service_class))
    return made


def propose(kinds: Iterable[Kind], transcoder: Transcoder | None) -> Proposed:
    """Proposals for as many of these kinds, the first ones first, as one association has room for.

    That is 128 presentation contexts (PS3.8 9.3.2.2).
    """
    by_class: dict[str, list[str]] = {}
    room = MAX_CONTEXTS
    for sop_class, syntax in dict.fromkeys(kinds):
        needed = 1 if sop_class in by_class or transcoder is None else 2
        if needed <= room:
            room -= needed
            by_class.setdefault(sop_class, []).append(syntax)
    return Proposed(
        tuple(
            proposal
            for sop_class, syntaxes in by_class.items()
            for proposal in proposals_of(sop_class, syntaxes, transcoder)
        ),
        frozenset((sop_class, uid) for sop_class, uids in by_class.items() for uid in uids),
    )


def context_for(
    agreement: Agreement, kind: Kind, transcoder: Transcoder | None
) -> AcceptedContext | None:
    """The best presentation context for an instance of a kind; None if there is none."""
    sop_class, syntax = kind
    own = agreement.context_for(sop_class, syntax)
    if own is not None or transcoder is None:
        return own
    for target in transcoder.targets(syntax):
        context = agreement.context_for(sop_class, target)
        if context is not None:
            return context
    return None


async def store(
    association: Association,
    context: AcceptedContext,
    request: CStoreRequest,
    data_set: AsyncIterator[bytes],
    transfer_syntax_uid: str,
    transcoder: Transcoder | None,
) -> Response:
    """Send an instance; the peer's answer. The data set is in `transfer_syntax_uid`.

    Raises AssociationError, and what `data_set` and `transcoder` raise. Nothing is sent before the
    data set has begun, so what fails by then leaves the association as it is.
    """
    async with AsyncExitStack() as stack:
        pieces = data_set
        if context.transfer_syntax != transfer_syntax_uid:
            assert transcoder is not None  # `context_for` has chosen by it
            pieces = await stack.enter_async_context(
                transcoder.converted(data_set, transfer_syntax_uid, context.transfer_syntax)
            )
        first = await anext(pieces, b"")
        is_deflated = encoding_of(context.transfer_syntax).deflated
        whole = await stack.enter_async_context(
            aclosing(_joined(first, pieces, is_deflated=is_deflated))
        )
        responses = association.request(context.context_id, request, whole)
        async for answer in await stack.enter_async_context(aclosing(responses)):
            return answer.response  # C-STORE has one
    raise AssertionError("an association ends a request with a response or an error")


async def _joined(
    first: bytes, rest: AsyncIterator[bytes], *, is_deflated: bool
) -> AsyncGenerator[bytes, None]:
    """All of it. A deflated data set gets the null byte that makes its length even (PS3.5 A.5).

    Files come without it, and dcmtk ends an association on which a fragment is odd.
    """
    size = len(first)
    yield first
    async for piece in rest:
        size += len(piece)
        yield piece
    if is_deflated and size % 2:
        yield b"\0"
