"""What a spool is to do. The environment names are read in `tunnel.settings`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

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
