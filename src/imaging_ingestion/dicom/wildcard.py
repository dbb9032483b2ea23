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
    """The pattern, with neighbouring `*` made one and neighbouring literals joined."""
    joined: list[Token] = []
    for kind, group in groupby(tokens, key=_kind):
        if kind is Wild.MANY:
            joined.append(Wild.MANY)
        elif kind is Wild.ONE:
            joined.extend(Wild.ONE for _ in group)
        else:
            literal = "".join(str(token) for token in group)
            if literal:
                joined.append(literal)
    return Pattern(tuple(joined))


def _kind(token: Token) -> Wild | None:
    return token if isinstance(token, Wild) else None


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
