"""`move`: have an application entity send instances to another one (PS3.4 C.4.2)."""

from __future__ import annotations

from collections.abc import Sequence

from imaging_ingestion.cli.dimse.keys import identifier, level_of, parse_keys
from imaging_ingestion.cli.dimse.peer import DimseOptions, Peer, checked_ae_title
from imaging_ingestion.cli.dimse.retrieval import Outcome, progress, retrieve, show
from imaging_ingestion.cli.dimse.session import FailedError, associated, run
from imaging_ingestion.dimse.command import CMoveRequest
from imaging_ingestion.dimse.requestor import Proposal
from imaging_ingestion.dimse.sop_class import (
    DATA_SET_TRANSFER_SYNTAXES,
    PATIENT_ROOT_MOVE,
    STUDY_ROOT_MOVE,
)


def move(
    to: str, destination: str, keys: Sequence[str], options: DimseOptions, *, as_json: bool
) -> None:
    """Send one C-MOVE and show how it goes."""
    outcome = run(_move(to, destination, keys, options), to)
    said = (
        f"{outcome.completed} completed, {outcome.failed} failed, {outcome.warning} with warnings"
    )
    show(outcome, said, as_json=outcome.as_json() if as_json else None)


async def _move(to: str, destination: str, given: Sequence[str], options: DimseOptions) -> Outcome:
    keys = parse_keys(given)
    level = level_of(keys)
    sop_class = PATIENT_ROOT_MOVE if level == "patient" else STUDY_ROOT_MOVE
    request = CMoveRequest(
        message_id=0,
        affected_sop_class_uid=sop_class,
        move_destination=checked_ae_title(destination),
    )
    proposals = [Proposal(sop_class, DATA_SET_TRANSFER_SYNTAXES)]
    async with associated(Peer.parse(to), options, proposals) as association:
        context = association.agreement.context_for(sop_class)
        if context is None:
            raise FailedError(f"{to} does not move instances")
        with progress("moving") as bar:
            task = bar.add_task("move", total=0)

            def report(outcome: Outcome) -> None:
                done = outcome.completed + outcome.failed + outcome.warning
                bar.update(task, completed=done, total=done + outcome.remaining)

            asked = identifier(level, keys, context.transfer_syntax)
            return await retrieve(association, context, request, asked, report)
