"""Which studies an association has brought, told when it is released."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from imaging_ingestion.association.association import Association
from imaging_ingestion.association.error import AssociationReleasedError

#: Studies of one association that are remembered.
_MOST: Final = 1000

#: Told the calling AE title, and the studies.
OnReleased = Callable[[str, frozenset[str]], None]


class Arrivals:
    """Of every association of a service. One that was aborted says nothing of its studies."""

    def __init__(self, on_released: OnReleased) -> None:
        self._on_released = on_released
        self._studies: dict[Association, set[str]] = {}

    def note(self, association: Association, study_instance_uid: str) -> None:
        """An instance of the study was stored on the association."""
        studies = self._studies.setdefault(association, set())
        if len(studies) < _MOST:
            studies.add(study_instance_uid)

    def ended(self, association: Association) -> None:
        """The association has ended, and everything that was under way on it."""
        studies = self._studies.pop(association, None)
        if studies and isinstance(association.end, AssociationReleasedError):
            self._on_released(association.agreement.calling_ae_title, frozenset(studies))
