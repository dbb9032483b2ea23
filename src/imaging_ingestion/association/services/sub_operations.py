"""C-STORE sub-operations of a retrieval, counted (PS3.7 9.1.3 and 9.1.4, PS3.4 C.4.2 and C.4.3).

Pure: what a response is to say follows from what has been recorded.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final

from imaging_ingestion.dicom.dataset_write import LONGEST_SHORT_VALUE, write_data_set
from imaging_ingestion.dimse import status
from imaging_ingestion.dimse.command import Request, Response, respond
from imaging_ingestion.dimse.status import Status, StatusKind, kind_of

_FAILED_SOP_INSTANCE_UID_LIST: Final = "00080058"
_MOST: Final = 0xFFFF  # the numbers of sub-operations are US


class Outcome(Enum):
    """How a sub-operation ended."""

    COMPLETED = auto()
    WARNING = auto()
    FAILED = auto()


def outcome_of(status_code: int) -> Outcome:
    """What the status of a C-STORE response makes of the sub-operation."""
    kind = kind_of(status_code)
    if kind is StatusKind.SUCCESS:
        return Outcome.COMPLETED
    return Outcome.WARNING if kind is StatusKind.WARNING else Outcome.FAILED


@dataclass(slots=True)
class SubOperations:
    """The sub-operations of one retrieval. `total` is how many there are in all."""

    total: int
    completed: int = 0
    failed: int = 0
    warning: int = 0
    _failed_uids: list[str] = field(default_factory=list)
    _failed_length: int = 0

    @property
    def remaining(self) -> int:
        """Those that have not been recorded."""
        return self.total - self.completed - self.failed - self.warning

    @property
    def lists_all_failures(self) -> bool:
        """Whether the list of failures still has room for one of any length."""
        return self._failed_length <= LONGEST_SHORT_VALUE - 65

    def record(self, outcome: Outcome, sop_instance_uid: str | None) -> None:
        """Note how one ended. Without its UID a failure is only counted."""
        if outcome is Outcome.COMPLETED:
            self.completed += 1
        elif outcome is Outcome.WARNING:
            self.warning += 1
        else:
            self.failed += 1
            # In explicit VR a list of UIDs has 65534 bytes at most; the number is right anyhow.
            if sop_instance_uid is not None and self.lists_all_failures:
                self._failed_uids.append(sop_instance_uid)
                self._failed_length += len(sop_instance_uid) + 1

    def fail_rest(self) -> None:
        """Count what remains as failed."""
        self.failed += self.remaining

    def response(
        self, request: Request, status_code: int, *, error_comment: str | None = None
    ) -> Response:
        """A response with the numbers as they are; more than fit are told as the most that fit.

        How many remain is said while some may be sent, or would have been (PS3.7 9.1.4.1).
        """
        goes_on = kind_of(status_code) in (StatusKind.PENDING, StatusKind.CANCEL)
        return respond(
            request,
            status_code,
            error_comment=error_comment,
            number_of_remaining_suboperations=min(self.remaining, _MOST) if goes_on else None,
            number_of_completed_suboperations=min(self.completed, _MOST),
            number_of_failed_suboperations=min(self.failed, _MOST),
            number_of_warning_suboperations=min(self.warning, _MOST),
        )

    def final_status(self) -> Status:
        """The status of the final response where all have been recorded (C.4.2.3.1)."""
        if self.failed and self.failed == self.total:
            return status.RETRIEVE_OUT_OF_RESOURCES_SUBOPERATIONS
        return status.RETRIEVE_WARNING if self.failed or self.warning else status.SUCCESS

    def identifier(self, transfer_syntax_uid: str) -> bytes | None:
        """The identifier of the final response; None if nothing failed (C.4.2.1.4.2)."""
        if not self._failed_uids:
            return None
        element = {"vr": "UI", "Value": self._failed_uids}
        return write_data_set({_FAILED_SOP_INSTANCE_UID_LIST: element}, transfer_syntax_uid)
