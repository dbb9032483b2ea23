"""What a check finds."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from imaging_ingestion.manifest.plan import Place

#: What lies in a space under a name that no object of ours can have.
NO_OBJECT = "its name is no path inside the space"


class FindingKind(StrEnum):
    """How a space and its manifest differ."""

    MISSING = "missing"  # the manifest has the instance, the space not its object
    WRONG_SIZE = "wrong size"  # the object is not as long as it was stored
    WRONG_DIGEST = "wrong digest"  # its bytes are not those that were stored
    UNREADABLE = "unreadable"  # the space did not give it: it may be right
    ORPHAN = "orphan"  # nothing in the manifest refers to the object
    LEFTOVER = "leftover"  # the object of an instance that was deleted


@dataclass(frozen=True, slots=True)
class Finding:
    """One difference. `place` is None if the UIDs are not known.

    `modified` is when the object was written (microseconds since the epoch), of an orphan; `detail`
    says more, without patient data; `repair` what was done about it, None if nothing.
    """

    kind: FindingKind
    space: str
    object_name: str
    place: Place | None = None
    modified: int | None = None
    detail: str | None = None
    repair: str | None = None
