"""What a spool is to do. The environment names are read in `tunnel.settings`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

#: Bytes of each suffix of a quantity, as Kubernetes writes them.
_UNITS: Final[dict[str, int]] = {
    "": 1,
    **{letter: 1000**power for power, letter in enumerate("kMGT", 1)},
    **{f"{letter}i": 1024**power for power, letter in enumerate("KMGT", 1)},
}
_QUANTITY: Final = re.compile(r"(\d{1,15})(k|[MGT]|[KMGT]i|)")
#: The name of the subscription that sends instances on.
SUBSCRIPTION: Final = "spool"
MIN_FREE: Final = 1 << 30


@dataclass(frozen=True, slots=True)
class SpoolSettings:
    """`quota`: bytes of objects, at most (None: as the disk has room); `min_free`: bytes that stay
    free on the disk. `streams`: studies that are sent at a time. `keep`: seconds for which it is
    known what was delivered. `contexts`: folder of DIMSE_CONFIG_PATH.
    """

    directory: Path
    quota: int | None = None
    min_free: int = MIN_FREE
    streams: int = 4
    keep: float = 7 * 86400.0
    contexts: Path | None = None

    @property
    def database(self) -> Path:
        """The file of the manifest."""
        return self.directory / "spool.db"

    @property
    def objects(self) -> Path:
        """The folder of the objects."""
        return self.directory / "objects"


def read_quantity(text: str) -> int:
    """Bytes of a quantity such as `50Gi`, `500M` or `1000000`. Raises ValueError."""
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no number of bytes; such as 50Gi or 500M was expected")
    return int(match[1]) * _UNITS[match[2]]
