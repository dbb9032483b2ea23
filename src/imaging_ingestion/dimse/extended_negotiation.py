"""Service-class application information of SOP class extended negotiation (PS3.7 D.3.3.5).

One byte for each option, 1 for "supported"; the bytes at the end may be missing. An answer has as
many bytes as were offered at most, and never accepts what was not offered.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass


@dataclass(frozen=True, slots=True)
class FindOptions:
    """Options of C-FIND (PS3.4 tables C.5-1 and C.5-2)."""

    relational_queries: bool = False
    date_time_matching: bool = False
    fuzzy_semantic_matching: bool = False
    timezone_query_adjustment: bool = False
    enhanced_multi_frame_conversion: bool = False
    empty_value_matching: bool = False
    multiple_value_matching: bool = False

    @classmethod
    def of(cls, information: bytes) -> FindOptions:
        """What the bytes say; none at all say nothing."""
        return cls(*_flags(information, 7))

    def encoded(self) -> bytes:
        """As an offer, without zeros at the end; relational-queries is always there."""
        return _encoded(astuple(self))

    def answer(self, offered: bytes) -> bytes:
        """What of an offer we support."""
        return _both(offered, astuple(self))


@dataclass(frozen=True, slots=True)
class RetrieveOptions:
    """Options of C-MOVE and C-GET (PS3.4 tables C.5-3 and C.5-4)."""

    relational_retrieval: bool = False
    enhanced_multi_frame_conversion: bool = False

    @classmethod
    def of(cls, information: bytes) -> RetrieveOptions:
        """What the bytes say."""
        return cls(*_flags(information, 2))

    def encoded(self) -> bytes:
        """As an offer."""
        return _encoded(astuple(self))

    def answer(self, offered: bytes) -> bytes:
        """What of an offer we support."""
        return _both(offered, astuple(self))


def _flags(information: bytes, count: int) -> tuple[bool, ...]:
    return tuple(byte == 1 for byte in information[:count].ljust(count, b"\0"))


def _encoded(flags: tuple[bool, ...]) -> bytes:
    return bytes(flags).rstrip(b"\0") or b"\0"


def _both(offered: bytes, supported: tuple[bool, ...]) -> bytes:
    pairs = zip(_flags(offered, len(supported)), supported, strict=True)
    return bytes(offer and support for offer, support in pairs)[: max(1, len(offered))]
