"""SELECTOR: which providers' events a binding wants."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass


class SelectorError(ValueError):
    """A SELECTOR is no list of regular expressions."""


@dataclass(frozen=True, slots=True)
class Selector:
    """Regular expressions, one of which must match the whole provider name; none wants all."""

    patterns: Sequence[re.Pattern[str]] = ()

    def wants(self, provider: str) -> bool:
        """Whether events of this provider are wanted."""
        return not self.patterns or any(p.fullmatch(provider) for p in self.patterns)


def parse_selector(text: str | None) -> Selector:
    """Read a comma-separated SELECTOR. Raises SelectorError."""
    patterns = []
    for part in (text or "").split(","):
        if not part.strip():
            continue
        try:
            patterns.append(re.compile(part.strip()))
        except re.error as error:
            raise SelectorError(
                f"SELECTOR: {part.strip()!r} is no regular expression: {error}"
            ) from error
    return Selector(tuple(patterns))
