"""Which representation to answer with (PS3.18 8.7, RFC 9110 12.5.1): a pure decision.

A resource lists what it can offer, best first. What the client accepts comes from the `accept`
query parameter, which goes first (8.3.3.1), or the Accept header. What nobody understands is
ignored.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

#: Entries of one Accept header that are looked at; more is no browser and no viewer.
_MAX_RANGES = 100
_NAME = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_MEDIA = re.compile(rf"\s*({_NAME})/({_NAME})\s*")
_PARAMETER = re.compile(
    rf";\s*(?:({_NAME})\s*=\s*(?:\"((?:[^\"\\]|\\.)*)\"|([^\s;,\"]*))\s*)?", re.DOTALL
)
_QUOTED_PAIR = re.compile(r"\\(.)", re.DOTALL)

#: Media types that only a rendered resource has (PS3.18 table 8.7.4-1): no form of DICOM.
_RENDERED = frozenset(
    {
        "application/pdf",
        "image/gif",
        "image/png",
        "text/html",
        "text/plain",
        "text/rtf",
        "text/xml",
    }
)
_DICOM = frozenset({"application/dicom", "application/dicom+json", "application/dicom+xml"})


@dataclass(frozen=True, slots=True)
class MediaRange:
    """One entry of an Accept header: `type` like "multipart/related" or "*/*", lower case."""

    type: str
    parameters: Mapping[str, str] = field(default_factory=dict)
    q: float = 1.0

    @property
    def root_type(self) -> str | None:
        """For multipart/related: the type of the parts, lower case."""
        value = self.parameters.get("type")
        return None if value is None else value.strip().lower()

    @property
    def transfer_syntax(self) -> str | None:
        """The `transfer-syntax` parameter: a UID or "*"."""
        return self.parameters.get("transfer-syntax")


@dataclass(frozen=True, slots=True)
class Offer:
    """A representation a resource has.

    `part_type` is set for multipart/related. `transfer_syntaxes` are those it can be had in, None
    if the notion does not apply; an entry without the parameter asks for `default_syntax`.
    """

    type: str
    part_type: str | None = None
    transfer_syntaxes: frozenset[str] | None = None
    default_syntax: str | None = None

    def __str__(self) -> str:
        if self.part_type is None:
            return self.type
        return f'{self.type}; type="{self.part_type}"'


@dataclass(frozen=True, slots=True)
class Choice:
    """The offer to answer with, and the transfer syntax asked for ("*" for whatever it has)."""

    offer: Offer
    transfer_syntax: str | None = None


class MixedMediaTypesError(ValueError):
    """An Accept header that asks for DICOM and for rendered media types at once."""


def parse_accept(text: str) -> tuple[MediaRange, ...]:
    """The well-formed entries of an Accept header, in the order given (H5, H8, H9).

    One pass, so that a hostile header costs no more than its length.
    """
    ranges: list[MediaRange] = []
    position = 0
    while position < len(text) and len(ranges) < _MAX_RANGES:
        media, position = _parse_range(text, position)
        if media is not None:
            ranges.append(media)
    return tuple(ranges)


def _parse_range(text: str, position: int) -> tuple[MediaRange | None, int]:
    """One entry, None if it is malformed, and where the next one begins."""
    head = _MEDIA.match(text, position)
    if head is None:
        return None, _next_entry(text, position)
    parameters: dict[str, str] = {}
    repeated = False
    position = head.end()
    while found := _PARAMETER.match(text, position):
        position = found.end()
        if found[1] is None:
            continue  # a semicolon too many
        name = found[1].lower()
        repeated = repeated or name in parameters  # H9: two transfer syntaxes, say
        parameters[name] = found[3] if found[2] is None else _QUOTED_PAIR.sub(r"\1", found[2])
    if position < len(text) and text[position] != ",":
        return None, _next_entry(text, position)
    try:
        q = float(parameters.pop("q", "1"))
    except ValueError:
        q = -1.0
    if repeated or not 0 <= q <= 1:
        return None, position + 1
    return MediaRange(f"{head[1]}/{head[2]}".lower(), parameters, q), position + 1


def _next_entry(text: str, position: int) -> int:
    comma = text.find(",", position)
    return len(text) if comma < 0 else comma + 1


def accepted(header: str | None, query: Sequence[str]) -> tuple[MediaRange, ...]:
    """What the client accepts: the query parameter, if any, instead of the header (H2).

    No header at all is `*/*` (H1, decided lenient). Raises MixedMediaTypesError (H3).
    """
    if query:
        ranges = tuple(
            media for text in query for media in parse_accept(text) if "*" not in media.type
        )
    elif header is None or not header.strip():
        return (MediaRange("*/*"),)
    else:
        ranges = parse_accept(header)
    wanted = {media.type for media in ranges if media.q > 0}
    is_dicom = wanted & _DICOM or any(media.root_type in _DICOM for media in ranges)
    if is_dicom and wanted & _RENDERED:
        raise MixedMediaTypesError(
            "DICOM and rendered media types are accepted at once (PS3.18 8.7.5): ask for one kind"
        )
    return ranges


def negotiate(ranges: Sequence[MediaRange], offers: Sequence[Offer]) -> Choice | None:
    """The best offer for the client, or None if none is acceptable (406).

    The entries that name an offer's media type most precisely say what it is worth (H4), q=0
    excludes it. Of the offers the highest q wins; among equals the one named more precisely, then
    the one named first, then the first of the offers.
    """
    best: tuple[float, int, int, int] | None = None
    choice: Choice | None = None
    for order, offer in enumerate(offers):
        named = [(place, media, _matches(media, offer)) for place, media in enumerate(ranges)]
        precision = max((found for _, _, found in named if found is not None), default=None)
        if precision is None:
            continue
        for place, media, found in named:
            if found != precision or media.q == 0 or not _has_syntax(media, offer):
                continue
            rank = (media.q, precision, -place, -order)
            if best is None or rank > best:
                best = rank
                asked = media.transfer_syntax if offer.transfer_syntaxes is not None else None
                choice = Choice(offer, asked or offer.default_syntax)
    return choice


def _matches(media: MediaRange, offer: Offer) -> int | None:
    """How precisely an entry names an offer (0 `*/*`, 1 `type/*`, 2 and more exact); None: not.

    Transfer syntaxes do not count: two entries that differ in them only are alternatives.
    """
    if media.type == "*/*":
        return 0
    if media.type == offer.type.split("/", 1)[0] + "/*":
        return 1
    if media.type != offer.type:
        return None
    if offer.part_type is None or media.root_type is None:
        return 2
    return 3 if media.root_type in {offer.part_type, "*/*"} else None


def _has_syntax(media: MediaRange, offer: Offer) -> bool:
    asked = media.transfer_syntax
    if asked is None or asked == "*" or offer.transfer_syntaxes is None:
        return True
    return asked in offer.transfer_syntaxes
