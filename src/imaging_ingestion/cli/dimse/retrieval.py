"""What `move` and `get` have in common: a request, its progress, and how it ended."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass

from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

from imaging_ingestion.association.association import Association
from imaging_ingestion.cli.terminal import console, plain
from imaging_ingestion.dicom.dataset_read import read_data_set
from imaging_ingestion.dicom.header import ScanError
from imaging_ingestion.dimse.command import CGetRequest, CMoveRequest, RetrieveResponse
from imaging_ingestion.dimse.negotiation import AcceptedContext
from imaging_ingestion.dimse.status import Service, StatusKind, describe, kind_of

_FAILED_SOP_INSTANCE_UID_LIST = 0x00080058


@dataclass(slots=True)
class Outcome:
    """Numbers of sub-operations, and the status in the end. `problem` in words; None: all well."""

    remaining: int = 0
    completed: int = 0
    failed: int = 0
    warning: int = 0
    status: int = 0
    problem: str | None = None
    failed_uids: tuple[str, ...] = ()

    def take(self, response: RetrieveResponse) -> None:
        """Note what a response says; what it does not say stays."""
        self.status = response.status
        for name in ("remaining", "completed", "failed", "warning"):
            number = getattr(response, f"number_of_{name}_suboperations")
            if number is not None:
                setattr(self, name, number)

    def as_json(self) -> dict[str, object]:
        """All of it for machines."""
        return {
            "status": f"{self.status:04X}",
            "completed": self.completed,
            "failed": self.failed,
            "warning": self.warning,
            "failed_sop_instance_uids": list(self.failed_uids),
            "problem": self.problem,
        }


async def retrieve(
    association: Association,
    context: AcceptedContext,
    request: CMoveRequest | CGetRequest,
    identifier: bytes,
    report: Callable[[Outcome], None],
) -> Outcome:
    """Send the request and follow it to its end. Raises AssociationError."""
    service = Service.C_MOVE if isinstance(request, CMoveRequest) else Service.C_GET
    outcome = Outcome()
    answers = association.request(context.context_id, request, identifier)
    async with aclosing(answers):
        async for answer in answers:
            response = answer.response
            if isinstance(response, RetrieveResponse):
                outcome.take(response)
            if kind_of(response.status) is StatusKind.PENDING:
                report(outcome)
                continue
            outcome.remaining = 0
            if kind_of(response.status) is not StatusKind.SUCCESS:
                told = (describe(response.status, service), response.error_comment)
                outcome.problem = ": ".join(filter(None, told))
            if answer.data_set is not None:
                outcome.failed_uids = _failed(answer.data_set, context.transfer_syntax)
    return outcome


def progress(what: str) -> Progress:
    """A bar for sub-operations, on standard error."""
    return Progress(
        SpinnerColumn(),
        TextColumn(what),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f} instances"),
        console=console(stderr=True),
        transient=True,
    )


def show(outcome: Outcome, said: str, *, as_json: dict[str, object] | None) -> None:
    """Print how it ended; exit code 1 unless everything arrived."""
    if as_json is not None:
        print(json.dumps(as_json, indent=1))
    else:
        for uid in outcome.failed_uids:
            print(plain(f"failed: {uid}"))
        print(plain(said))
        if outcome.problem is not None:
            print(plain(outcome.problem))
    if outcome.failed or kind_of(outcome.status) is StatusKind.FAILURE:
        raise SystemExit(1)


def _failed(data_set: bytes, transfer_syntax_uid: str) -> tuple[str, ...]:
    try:
        found = read_data_set(data_set, transfer_syntax_uid).texts(_FAILED_SOP_INSTANCE_UID_LIST)
    except ScanError:
        return ()  # the numbers say it, too
    return tuple(uid for uid in found if uid)
