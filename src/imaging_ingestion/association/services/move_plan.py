"""Which associations a C-MOVE needs: at most 128 presentation contexts on each (PS3.8 9.3.2.2)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from imaging_ingestion.association.services.transcoder import Transcoder
from imaging_ingestion.association.store_user import proposals_of
from imaging_ingestion.dimse.negotiation import MAX_CONTEXTS
from imaging_ingestion.dimse.requestor import Proposal
from imaging_ingestion.manifest.selection import Kind


@dataclass(frozen=True, slots=True)
class PlannedAssociation:
    """What to propose, and the instances that go over it."""

    proposals: tuple[Proposal, ...]
    kinds: tuple[Kind, ...]


def plan_associations(
    kinds: Iterable[Kind], transcoder: Transcoder | None
) -> Sequence[PlannedAssociation]:
    """Associations for instances of these kinds, as few as possible.

    Each kind has a context of its own, so that a destination that knows the transfer syntax cannot
    choose another. One more for a SOP class offers what its instances could be brought into.
    """
    planned: list[PlannedAssociation] = []
    proposals: list[Proposal] = []
    taken: list[Kind] = []
    room = MAX_CONTEXTS
    for sop_class, syntaxes in _by_class(kinds).items():
        at = 0
        while at < len(syntaxes):
            if room < 2:
                planned.append(PlannedAssociation(tuple(proposals), tuple(taken)))
                proposals, taken, room = [], [], MAX_CONTEXTS
            fitting = syntaxes[at : at + room - 1]
            at += len(fitting)
            made = proposals_of(sop_class, fitting, transcoder)
            proposals.extend(made)
            taken.extend(Kind(sop_class, syntax) for syntax in fitting)
            room -= len(fitting) + len(made) - 1
    if taken:
        planned.append(PlannedAssociation(tuple(proposals), tuple(taken)))
    return planned


def _by_class(kinds: Iterable[Kind]) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for kind in sorted(kinds):
        found[kind.sop_class_uid] = (
            *found.get(kind.sop_class_uid, ()),
            kind.transfer_syntax_uid,
        )
    return found
