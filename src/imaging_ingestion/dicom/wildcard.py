"""Patterns of wildcard matching (PS3.4 C.2.2.2.4): `*` is any characters, `?` is exactly one."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from itertools import groupby


class Wild(Enum):
    """What stands for other characters."""

    MANY = "*"
    ONE = "?"


Token = str | Wild

_WILDCARD = re.compile(r"([*?])")


@dataclass(frozen=True, slots=True)
class Pattern:
    """Literal pieces with wildcards between them; every character of a piece means itself."""

    tokens: tuple[Token, ...]

    @property
    def is_universal(self) -> bool:
        """Whether it asks nothing: `*` alone, or nothing at all."""
        return self.tokens in {(), (Wild.MANY,)}

    @property
    def prefix(self) -> str:
        """What every text that matches begins with."""
        first = self.tokens[0] if self.tokens else ""
        return first if isinstance(first, str) else ""

    @property
    def is_prefix(self) -> bool:
        """Whether it matches exactly the texts that begin with `prefix`."""
        return len(self.tokens) == 2 and bool(self.prefix) and self.tokens[1] is Wild.MANY

    def matches(self, text: str) -> bool:
        """Whether the whole text matches, character case and all."""
        return _expression(self.tokens).fullmatch(text) is not None


def has_wildcard(text: str) -> bool:
    """Whether a key holds a wildcard character."""
    return "*" in text or "?" in text


def pieces(text: str) -> list[Token]:
    """A key's literal pieces and wildcards in order, none of the pieces empty."""
    return [
        Wild(piece) if piece in {"*", "?"} else piece for piece in _WILDCARD.split(text) if piece
    ]


def pattern_of(tokens: list[Token]) -> Pattern:
    """The pattern in one spelling: literals joined, and each run of wildcards as `??…*`.

    `*?*?` is two characters or more, which `??*` says without looking everywhere for them.
    """
    joined: list[Token] = []
    for is_wild, group in groupby((token for token in tokens if token != ""), key=_is_wild):
        if is_wild:
            run = list(group)
            joined += [Wild.ONE] * run.count(Wild.ONE)
            joined += [Wild.MANY] * (Wild.MANY in run)
        else:
            joined.append("".join(str(token) for token in group))
    return Pattern(tuple(joined))


def _is_wild(token: Token) -> bool:
    return isinstance(token, Wild)


@lru_cache(maxsize=256)
def _expression(tokens: tuple[Token, ...]) -> re.Pattern[str]:
    """A regular expression that takes at most (length of text x length of pattern) steps.

    What lies between two `*` has a fixed length, so its leftmost occurrence is as good as any
    other: an atomic group takes it and never comes back (a plain `.*` would, once for each `*`).
    """
    chunks: list[list[str]] = [[]]
    for token in tokens:
        if token is Wild.MANY:
            chunks.append([])
        else:
            chunks[-1].append("." if token is Wild.ONE else re.escape(str(token)))
    first, *rest = ("".join(chunk) for chunk in chunks)
    if rest:
        *middle, last = rest
        first += "".join(f"(?>.*?{chunk})" for chunk in middle) + f".*{last}"
    return re.compile(first, re.DOTALL)
