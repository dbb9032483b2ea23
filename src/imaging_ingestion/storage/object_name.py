"""What the objects of a space are called.

    3f/1.2.840.113619.2.1/1.2.840.113619.2.1.1/1.2.840.113619.2.1.1.7-90ab…-5c1d….dcm
    |  study              series               SOP Instance UID       |     |
    |                                            sha256 of the content     arrival
    two digits of the study's SHA-1

A person finds an object by its UIDs; the leading digits spread studies evenly over directories and
over the partitions of an object store. The name tells the content, so that `check` and `rebuild`
need no manifest. The last part is different for each arrival: an object's name is never used
twice, so removing the object of an older arrival can never take away that of a newer one, whatever
runs between them and in whichever process.
"""

from __future__ import annotations

import hashlib
import itertools
import re
import secrets
from collections.abc import Iterator
from typing import NamedTuple

_NO_PART = frozenset({"", ".", ".."})
_UID = re.compile(r"[0-9.]{1,64}", re.ASCII)
_ARRIVAL = re.compile(r"[0-9a-f]{1,32}", re.ASCII)
#: What a directory keeps there is not published; no object of any space has its name there.
INCOMING = ".incoming"
#: Hexadecimal digits of the content's SHA-256 in the name.
DIGEST_DIGITS = 16
_NAME = re.compile(
    rf"([0-9a-f]{{2}})/([0-9.]{{1,64}})/([0-9.]{{1,64}})/([0-9.]{{1,64}})"
    rf"-([0-9a-f]{{{DIGEST_DIGITS}}})-([0-9a-f]{{1,32}})\.dcm",
    re.ASCII,
)


class ObjectName(NamedTuple):
    """What the name of an object tells."""

    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    digest: str  # the first digits of the content's SHA-256
    arrival: str

    @property
    def uids(self) -> tuple[str, str, str]:
        """The UIDs of study, series and instance."""
        return self[:3]

    def is_of(self, sha256: bytes) -> bool:
        """Whether it is a name of the content with this digest."""
        return sha256.hex().startswith(self.digest)


def arrivals() -> Iterator[str]:
    """Arrivals that no other process, nor this one again, will ever give: hexadecimal digits.

    48 random bits once, then a count: asking the system for random bits costs 45 us an instance.
    """
    start = secrets.token_hex(6)
    return (f"{start}{count:x}" for count in itertools.count())


def object_name(study: str, series: str, sop: str, sha256: bytes, arrival: str) -> str:
    """The name of an instance's object.

    `study`, `series` and `sop` are UIDs that `dicom.uid.check_uid` has passed; `sha256` (32 bytes)
    is the digest of the object; `arrival` tells this arrival from others (see `arrivals`).
    Raises ValueError if any of them could lead out of its place in the name.
    """
    for uid in (study, series, sop):
        if _UID.fullmatch(uid) is None or uid in {".", ".."}:
            raise ValueError(f"{uid!r} is not a UID: 1 to 64 digits and dots expected")
    if len(sha256) != hashlib.sha256().digest_size:
        raise ValueError(f"a SHA-256 digest has 32 bytes, not {len(sha256)}")
    if _ARRIVAL.fullmatch(arrival) is None:
        raise ValueError(f"{arrival!r} is not an arrival: 1 to 32 hexadecimal digits expected")
    digest = sha256.hex()[:DIGEST_DIGITS]
    return f"{_spread(study)}/{study}/{series}/{sop}-{digest}-{arrival}.dcm"


def parse_object_name(name: str) -> ObjectName | None:
    """What a name made by `object_name` tells; None for any other writer's."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    spread, *told = match.groups()
    found = ObjectName(*told)
    return found if spread == _spread(found.study_instance_uid) else None


def check_object_name(name: str) -> str:
    """A name that is a path inside a space. Raises ValueError for one that is not."""
    parts = name.split("/")
    if parts[0] == INCOMING or not _NO_PART.isdisjoint(parts) or "\0" in name:
        raise ValueError(f"{name!r} names no object: a path inside the space expected")
    return name


def _spread(study: str) -> str:
    return hashlib.sha1(study.encode("ascii"), usedforsecurity=False).hexdigest()[:2]
