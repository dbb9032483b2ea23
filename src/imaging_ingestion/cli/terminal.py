"""What people read: consoles that print text as it is, whatever stands in a file or a data set."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from rich.console import Console

#: Where nobody's terminal says how wide it is: wide enough for a UID beside other columns.
_WIDTH = 200


def console(*, stderr: bool = False) -> Console:
    """A console without markup: `[brackets]` in a description are the description's."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else _WIDTH
    return Console(stderr=stderr, markup=False, highlight=False, emoji=False, width=width)


def plain(text: str | Path) -> str:
    """Text that a terminal shows and does not obey; what it could not show is escaped."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(text))
