"""Which representation to answer with (PS3.18 8.7, RFC 9110 12.5.1): a pure decision.

A resource lists what it can offer, best first. What the client accepts comes from the `accept`
query parameter, which goes first (8.3.3.1), or the Accept header. What nobody understands is ignored.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

#: Entries of one Accept header that are looked at; more is no browser and no viewer.
_MAX_RANGES = 100
_NAME = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_MEDIA = re.compile(rf"\s*({_NAME})/({_NAME})\s*")
_PARAMETER = re.compile(rf"\s*;\s*({_NAME})\s*=\s*(?:\"((?:[^\"\\]|\\.)*)\"|([^\s;,\"]*))\s*")
_SPLIT = re.compile(r"""((?:[^,"]|"(?:[^"\\]|\\.)*")+)""")


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


def parse_accept(text: str) -> tuple[MediaRange, ...]:
    """The well-formed entries of an Accept header, in the order given (H5, H8, H9)."""
    ranges = []
    for entry in _SPLIT.findall(text)[:_MAX_RANGES]:
        parsed = _parse_range(entry)
        if parsed is not None:
            ranges.append(parsed)
    return tuple(ranges)


def _parse_range(entry: str) -> MediaRange | None:
    head = _MEDIA.match(entry)
    if head is None:
        return None
    parameters: dict[str, str] = {}
    position = head.end()
    while position < len(entry):
        found = _PARAMETER.match(entry, position)
        if found is None:
            return None
        name = found[1].lower()
        value = found[3] if found[2] is None else re.sub(r"\\(.)", r"\1", found[2])
        if name in parameters:
            return None  # H9: two transfer syntaxes, say
        parameters[name] = value
        position = found.end()
    try:
        q = float(parameters.pop("q", "1"))
    except ValueError:
        return None
    if not 0 <= q <= 1:
        return None
    return MediaRange(f"{head[1]}/{head[2]}".lower(), parameters, q)


def accepted(header: str | None, query: Sequence[str]) -> tuple[MediaRange, ...]:
    """What the client accepts: the query parameter, if any, instead of the header (H2).

    No header at all is `*/*` (H1, decided lenient).
    """
    if query:
        return tuple(
            media for text in query for media in parse_accept(text) if "*" not in media.type
        )
    if header is None or not header.strip():
        return (MediaRange("*/*"),)
    return parse_accept(header)


def negotiate(ranges: Sequence[MediaRange], offers: Sequence[Offer]) -> Choice | None:
    """The best offer for the client, or None if none is acceptable (406).

    The highest q wins; among equals what the client names more precisely, then what it names first,
    then the order of the offers (H4). A range with q=0 excludes what it matches.
    """
    best: tuple[float, int, int, int] | None = None
    choice: Choice | None = None
    for order, offer in enumerate(offers):
        for place, media in enumerate(ranges):
            specificity = _matches(media, offer)
            if specificity is None or media.q == 0 or _excluded(ranges, offer, specificity):
                continue
            rank = (media.q, specificity, -place, -order)
            if best is None or rank > best:
                best = rank
                named = media.transfer_syntax if specificity > 1 else None
                choice = Choice(offer, named or offer.default_syntax)
    return choice


def _excluded(ranges: Sequence[MediaRange], offer: Offer, specificity: int) -> bool:
    """Whether an entry at least as precise says q=0 to this offer."""
    return any(
        media.q == 0 and (found := _matches(media, offer)) is not None and found >= specificity
        for media in ranges
    )


def _matches(media: MediaRange, offer: Offer) -> int | None:
    """How precisely an entry names an offer (0 `*/*`, 1 `type/*`, 2 and more exact); None: not."""
    if media.type == "*/*":
        return 0
    kind = offer.type.split("/", 1)[0]
    if media.type == f"{kind}/*":
        return 1
    if media.type != offer.type:
        return None
    precision = 2
    if offer.part_type is not None and media.root_type is not None:
        if media.root_type not in {offer.part_type, "*/*"}:
            return None
        precision += 1
    asked = media.transfer_syntax
    if asked is not None and offer.transfer_syntaxes is not None:
        if asked != "*" and asked not in offer.transfer_syntaxes:
            return None
        precision += 1
    return precision
