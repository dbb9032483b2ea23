"""Who sent an instance: kept with it as its provider, in one text.

AE titles have no backslash (PS3.5 6.2), so that it can separate them.
"""

from __future__ import annotations

from dataclasses import dataclass

from imaging_ingestion.dimse.command import CStoreRequest


@dataclass(frozen=True, slots=True)
class Origin:
    """A calling AE title, and of a sub-operation of C-MOVE the originator and its Message ID."""

    calling_ae_title: str
    move_originator: str | None = None
    move_message_id: int | None = None

    @classmethod
    def of(cls, calling_ae_title: str, request: CStoreRequest) -> Origin:
        """Of an instance that comes."""
        return cls(
            calling_ae_title,
            request.move_originator_application_entity_title,
            request.move_originator_message_id,
        )

    @classmethod
    def read(cls, text: str) -> Origin:
        """What `str` wrote."""
        calling, _, rest = text.partition("\\")
        originator, _, message_id = rest.partition("\\")
        return cls(calling, originator or None, int(message_id) if message_id else None)

    def __str__(self) -> str:
        if self.move_originator is None:
            return self.calling_ae_title
        message_id = "" if self.move_message_id is None else str(self.move_message_id)
        return "\\".join((self.calling_ae_title, self.move_originator, message_id))

    def request(self, sop_class_uid: str, sop_instance_uid: str) -> CStoreRequest:
        """The C-STORE-RQ that sends an instance on; the association numbers it."""
        return CStoreRequest(
            message_id=0,
            affected_sop_class_uid=sop_class_uid,
            affected_sop_instance_uid=sop_instance_uid,
            move_originator_application_entity_title=self.move_originator,
            move_originator_message_id=self.move_message_id,
        )
