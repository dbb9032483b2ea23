"""When to try a failed delivery again: a pure decision (exponential backoff with jitter)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Delays double from `first` to `longest` seconds; after `attempts` tries it is a dead letter.

    The defaults try for about three days, so that a target may be away over a weekend.
    """

    first: float = 1.0
    longest: float = 900.0
    attempts: int = 300
    jitter: float = 0.1  # share of the delay that varies

    def delay(
        self, attempt: int, *, random: float, retry_after: float | None = None
    ) -> float | None:
        """Seconds until the next try after `attempt` (from 1) failed; None to give up.

        `random` is a number in [0, 1); `retry_after` is the target's own wish in seconds, honoured
        up to `longest`.
        """
        if attempt >= self.attempts:
            return None
        delay = min(self.first * 2.0 ** min(attempt - 1, 62), self.longest)
        delay *= 1 + self.jitter * (2 * random - 1)
        if retry_after is not None:  # later by chance, never earlier than wished
            delay = max(delay, min(retry_after, self.longest) * (1 + self.jitter * random))
        return delay


def retry_after_seconds(value: str | None, now: datetime | None = None) -> float | None:
    """The seconds that a Retry-After header asks for (RFC 9110 10.2.3); None if it says nothing."""
    value = (value or "").strip()
    if value.isascii() and value.isdecimal():
        return float(value[:15])
    try:
        when = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    if when.tzinfo is None:
        return None
    return max(0.0, (when - (now or datetime.now(UTC))).total_seconds())
