"""Which stored representation answers an Accept header (PS3.18 8.7.3): a pure decision.

Pixels leave in the transfer syntax they are stored in; this version does not transcode. So an entry
of the header can be *served*, would need *transcoding*, or means nothing here. Of the two ways to
send what is stored, as parts or bare, that one wins which the client weighs more; the entry that
names it most precisely tells its weight. If none can be served but one would be by transcoding, the
answer is 501, else 406 (W4, W5, H4).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from imaging_ingestion.dicom.transfer_syntax import (
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    frame_media_type,
    is_lossy,
)
from imaging_ingestion.dicomweb.negotiation import MediaRange
from imaging_ingestion.dicomweb.problem import not_acceptable, not_implemented

ANY = "*"
DICOM = "application/dicom"
OCTET_STREAM = "application/octet-stream"
MULTIPART = "multipart/related"

#: Compressed pixels as frames or bulk data (PS3.18 table 8.7.3-5).
_COMPRESSED = frozenset(
    (
        "image/jpeg",
        "image/jls",
        "image/jp2",
        "image/jpx",
        "image/jphc",
        "image/jxl",
        "image/dicom-rle",
        "video/mpeg2",
        "video/mp4",
        "video/h265",
    )
)


class Fit(Enum):
    """How an entry of an Accept header fits what is stored."""

    SERVED = 2
    TRANSCODING = 1
    NONE = 0


@dataclass(frozen=True, slots=True)
class Representation:
    """What the answer is: parts of a media type, or one bare payload of it."""

    media_type: str
    multipart: bool


@dataclass(frozen=True, slots=True)
class Stored:
    """What is there: `media_type` in these transfer syntaxes.

    `single` says that a bare payload is possible: there is one part only. `plain` are transfer
    syntaxes an entry may name beside the stored ones because the bytes are the same.
    """

    media_type: str
    transfer_syntax_uids: frozenset[str]
    single: bool
    plain: frozenset[str] = frozenset()

    @classmethod
    def instances(cls, transfer_syntax_uids: frozenset[str], *, single: bool) -> Stored:
        """Instances as application/dicom."""
        return cls(DICOM, transfer_syntax_uids, single)

    @classmethod
    def codestreams(cls, transfer_syntax_uid: str, *, single: bool) -> Stored:
        """Compressed frames as they are stored (W16)."""
        media_type = frame_media_type(transfer_syntax_uid).lower()
        return cls(media_type, frozenset((transfer_syntax_uid,)), single)

    @classmethod
    def octets(cls, transfer_syntax_uid: str, *, single: bool) -> Stored:
        """A native value: its bytes, little endian whatever the data set's encoding (W12)."""
        plain = frozenset((EXPLICIT_VR_LITTLE_ENDIAN,))
        return cls(OCTET_STREAM, frozenset((transfer_syntax_uid,)), single, plain)


def represent(ranges: Sequence[MediaRange], stored: Stored) -> Representation:
    """The representation to answer with.

    Raises HttpProblemError: 501 if transcoding would be needed, 406 if nothing fits.
    """
    best: _Worth | None = None
    chosen: Representation | None = None
    for multipart in (True, False) if stored.single else (True,):
        worth = _worth(ranges, stored, multipart=multipart)
        if worth is not None and (best is None or worth > best):
            best, chosen = worth, Representation(stored.media_type, multipart)
    if chosen is not None:
        return chosen
    if _could_transcode(ranges, stored):
        syntaxes = ", ".join(sorted(stored.transfer_syntax_uids))
        raise not_implemented(
            "this version does not transcode: ask for what is stored with transfer-syntax=* "
            f'({MULTIPART}; type="{stored.media_type}"; transfer-syntax=*). Stored: {syntaxes}'
        )
    available = [f'{MULTIPART}; type="{stored.media_type}"; transfer-syntax=*']
    if stored.single:
        available.append(f"{stored.media_type}; transfer-syntax=*")
    raise not_acceptable(available)


class _Worth(NamedTuple):
    """What a representation is worth to the client: greater is better (H4)."""

    q: float
    precision: int
    place: int  # of the entry in the header, counted down


def _worth(ranges: Sequence[MediaRange], stored: Stored, *, multipart: bool) -> _Worth | None:
    """What the entries that name a representation most precisely say; None: not acceptable."""
    named = [
        _Worth(media.q, _precision(media), -place)
        for place, media in enumerate(ranges)
        if _serves(media, stored, multipart=multipart)
    ]
    precision = max((worth.precision for worth in named), default=0)
    best = max((worth for worth in named if worth.precision == precision), default=None)
    return best if best is not None and best.q > 0 else None


def _serves(media: MediaRange, stored: Stored, *, multipart: bool) -> bool:
    """Whether an entry is about a representation: accepts it as it is, or excludes it."""
    if media.q == 0 and media.transfer_syntax is None:
        named = _named_type(media, multipart=multipart, stored_type=stored.media_type)
        return named == stored.media_type
    return _fit(media, stored, multipart=multipart) is Fit.SERVED


def _could_transcode(ranges: Sequence[MediaRange], stored: Stored) -> bool:
    return any(
        media.q > 0 and _fit(media, stored, multipart=multipart) is Fit.TRANSCODING
        for media in ranges
        for multipart in ((True, False) if stored.single else (True,))
    )


def _precision(media: MediaRange) -> int:
    if media.type.endswith("/*"):
        return 0 if media.type == "*/*" else 1
    return 2 + ("type" in media.parameters) + (media.transfer_syntax is not None)


def _fit(media: MediaRange, stored: Stored, *, multipart: bool) -> Fit:
    """How one entry fits, as a multipart body or a bare payload."""
    named = _named_type(media, multipart=multipart, stored_type=stored.media_type)
    if named is None:
        return Fit.NONE
    asked = media.transfer_syntax
    if named == stored.media_type:
        return _fit_syntax(asked, stored, is_wildcard=media.type in {"*/*", "multipart/*"})
    if stored.media_type in _COMPRESSED:
        # Viewers ask for octets "as stored" and read the part's own Content-Type.
        if named == OCTET_STREAM:
            is_stored = asked == ANY or asked in stored.transfer_syntax_uids
            return Fit.SERVED if is_stored else Fit.TRANSCODING
        return Fit.TRANSCODING if named in _COMPRESSED else Fit.NONE
    is_pixel_type = stored.media_type == OCTET_STREAM and named in _COMPRESSED
    return Fit.TRANSCODING if is_pixel_type and stored.plain else Fit.NONE


def _named_type(media: MediaRange, *, multipart: bool, stored_type: str) -> str | None:
    """The media type of the parts an entry asks for; None if it asks for something else."""
    if media.type == "*/*":
        return stored_type
    if multipart:
        if media.type not in {MULTIPART, "multipart/*"}:
            return None
        root = media.root_type
        return stored_type if root in {None, "*/*"} else root
    kind, _, name = media.type.partition("/")
    if kind == "multipart":
        return None
    if name == "*":
        return stored_type if stored_type.startswith(f"{kind}/") else None
    return media.type


def _fit_syntax(asked: str | None, stored: Stored, *, is_wildcard: bool) -> Fit:
    """Whether the transfer syntax asked for (or the default) is what is stored."""
    have = stored.transfer_syntax_uids
    if asked == ANY or (asked is not None and have == {asked}) or asked in stored.plain:
        return Fit.SERVED
    if asked is None:
        if stored.media_type == DICOM:
            # Explicit VR Little Endian, but for pixels stored with loss (8.7.3.4, W2).
            fits = all(uid == EXPLICIT_VR_LITTLE_ENDIAN or is_lossy(uid) for uid in have)
        else:
            # A codestream names its type. Octets without a name are decoded pixels (W19), unless
            # the client takes anything.
            fits = stored.media_type != OCTET_STREAM or bool(stored.plain) or is_wildcard
        return Fit.SERVED if fits else Fit.TRANSCODING
    return Fit.TRANSCODING if _is_known(asked) else Fit.NONE


def _is_known(uid: str) -> bool:
    """Whether it is a transfer syntax of the web that transcoding could make (8.7.3)."""
    known = {EXPLICIT_VR_LITTLE_ENDIAN, DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN}
    return uid in known or frame_media_type(uid) != OCTET_STREAM
