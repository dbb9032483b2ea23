"""The answer to an instance that was not stored."""

from __future__ import annotations


class IntakeRefused(Exception):  # noqa: N818 - an answer to the sender, not a fault of the program
    """An instance was not stored, and nothing is left of it.

    `failure_reason` is a value of Failure Reason (0008,1197), see `dicom.failure_reason`; `message`
    says what was wrong, without patient data. The UIDs are there if they could be read.
    """

    def __init__(
        self,
        failure_reason: int,
        message: str,
        sop_class_uid: str | None = None,
        sop_instance_uid: str | None = None,
    ) -> None:
        super().__init__(message)
        self.failure_reason = failure_reason
        self.message = message
        self.sop_class_uid = sop_class_uid
        self.sop_instance_uid = sop_instance_uid

    def plain(self) -> IntakeRefused:
        """The same without the frames it came through, and so without what these hold."""
        return IntakeRefused(
            self.failure_reason, self.message, self.sop_class_uid, self.sop_instance_uid
        )
