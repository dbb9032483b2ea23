"""Conditional and range requests (RFC 9110 sections 13 and 14): pure decisions."""

from __future__ import annotations

import re
from dataclasses import dataclass

from starlette.datastructures import Headers

from imaging_ingestion.dicomweb.problem import HttpProblemError

_TAG = re.compile(r'(?:W/)?"([^"]*)"')
_RANGE = re.compile(r"\s*bytes\s*=\s*([0-9]{0,18})\s*-\s*([0-9]{0,18})\s*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Slice:
    """`length` bytes from `offset` of `size`."""

    offset: int
    length: int
    size: int

    @property
    def content_range(self) -> str:
        """The Content-Range header."""
        return f"bytes {self.offset}-{self.offset + self.length - 1}/{self.size}"


def is_unchanged(headers: Headers, etag: str) -> bool:
    """Whether the client has this representation already: If-None-Match, compared weakly."""
    wanted = headers.get("if-none-match")
    if wanted is None:
        return False
    return wanted.strip() == "*" or _opaque(etag) in _TAG.findall(wanted)


def requested_slice(headers: Headers, size: int, etag: str) -> Slice | None:
    """The part of a payload of `size` bytes that a Range header asks for; None for all of it.

    A header that is malformed, names several ranges, or belongs to another state of the resource
    (If-Range) is as good as none. Raises HttpProblemError 416 for a range outside.
    """
    found = _RANGE.fullmatch(headers.get("range", ""))
    if_range = headers.get("if-range")
    if found is None or not (found[1] or found[2]):
        return None
    if if_range is not None and (if_range.strip() != etag or etag.startswith("W/")):
        return None
    if found[1]:
        first = int(found[1])
        last = min(int(found[2]), size - 1) if found[2] else size - 1
        if found[2] and int(found[2]) < first:
            return None
    else:
        first, last = max(size - int(found[2]), 0), size - 1
    if first > last:
        raise HttpProblemError(
            416,
            "Range Not Satisfiable",
            f"the payload has {size} bytes",
            headers={"Content-Range": f"bytes */{size}"},
        )
    return Slice(first, last - first + 1, size)


def _opaque(etag: str) -> str:
    found = _TAG.fullmatch(etag)
    assert found is not None
    return found[1]
