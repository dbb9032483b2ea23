"""Numbers of bytes as Kubernetes writes them."""

from __future__ import annotations

import re
from typing import Final

#: Bytes of each suffix of a quantity.
_UNITS: Final[dict[str, int]] = {
    "": 1,
    **{letter: 1000**power for power, letter in enumerate("kMGT", 1)},
    **{f"{letter}i": 1024**power for power, letter in enumerate("KMGT", 1)},
}
_QUANTITY: Final = re.compile(r"(\d{1,15})(k|[MGT]|[KMGT]i|)")


def read_quantity(text: str) -> int:
    """Bytes of a quantity such as `50Gi`, `500M` or `1000000`. Raises ValueError."""
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no number of bytes; such as 50Gi or 500M was expected")
    return int(match[1]) * _UNITS[match[2]]
