"""What can go wrong with the tunnel, for whoever uses it."""

from __future__ import annotations

from collections.abc import Sequence

from imaging_ingestion.tunnel.frame import Reason


class TunnelError(Exception):
    """The stream is not there, or not any more. `reason` is for metrics and answers."""

    def __init__(self, reason: Reason, text: str) -> None:
        super().__init__(text or reason.word.replace("_", " "))
        self.reason = reason


class SettingsError(ValueError):
    """Settings that cannot be used; `problems` are sentences that name the settings."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = tuple(problems)
