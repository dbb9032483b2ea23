"""Unique identifiers (PS3.5 section 9): checked once, where they come in."""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_LENGTH = 64

_COMPONENTS = re.compile(r"[0-9]+(?:\.[0-9]+)*")
_LEADING_ZERO = re.compile(r"(?:^|\.)0[0-9]")


class InvalidUidError(ValueError):
    """The text is no usable UID; the message says why, without quoting it."""


@dataclass(frozen=True, slots=True)
class UidCheck:
    """A usable UID, and what is wrong with it all the same."""

    uid: str
    warning: str | None = None


def check_uid(raw: str) -> UidCheck:
    """Check a UID as it was received.

    Digits and dots, at most 64 characters (PS3.5 9.1). Padding at the ends is removed; a component
    with a leading zero is forbidden by the standard but common, so it passes with a warning.
    Raises InvalidUidError.
    """
    if len(raw) <= MAX_LENGTH and _COMPONENTS.fullmatch(raw):
        if _LEADING_ZERO.search(raw):
            return UidCheck(raw, "a component has a leading zero")
        return UidCheck(raw)
    uid = raw.strip(" \0")
    if not uid:
        raise InvalidUidError("is empty")
    if len(uid) > MAX_LENGTH:
        raise InvalidUidError(f"is {len(uid)} characters long; at most {MAX_LENGTH} are allowed")
    if not _COMPONENTS.fullmatch(uid):
        raise InvalidUidError("is not made of numbers separated by single dots")
    return UidCheck(uid, check_uid(uid).warning or "is padded with spaces")


def is_uid(text: str) -> bool:
    """Whether the text, exactly as it is, can be a UID."""
    return len(text) <= MAX_LENGTH and _COMPONENTS.fullmatch(text) is not None
