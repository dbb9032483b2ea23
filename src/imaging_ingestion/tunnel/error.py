"""What can go wrong with the tunnel, for whoever uses it."""

from __future__ import annotations

from imaging_ingestion.tunnel.frame import Reason


class TunnelError(Exception):
    """The stream is not there, or not any more. `reason` is for metrics and answers."""

    def __init__(self, reason: Reason, text: str) -> None:
        super().__init__(text or reason.word.replace("_", " "))
        self.reason = reason
