"""The broker port: events are accepted durably, handed to every subscription at least once.

A handler is idempotent: it may see an event again after a crash. It answers with a `Delivered`, or
raises `TryAgainError` (the target is away; the retry policy says when) or `RefusedError` (no use in
trying again: a dead letter, re-driven by `replay`). Any other exception counts as TryAgainError.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from imaging_ingestion.events.model import Event
from imaging_ingestion.events.retry import RetryPolicy
from imaging_ingestion.events.stored import StoredInstance, StoreOutcome


@dataclass(frozen=True, slots=True)
class Delivered:
    """The target has it. `answer` is kept in the delivery ledger."""

    answer: str = ""


class TryAgainError(Exception):
    """The delivery failed for now. `retry_after` (seconds) is the target's own wish, if any."""

    def __init__(self, answer: str, *, retry_after: float | None = None) -> None:
        super().__init__(answer)
        self.answer = answer
        self.retry_after = retry_after


class RefusedError(Exception):
    """The target refused; trying the same again cannot help."""

    def __init__(self, answer: str) -> None:
        super().__init__(answer)
        self.answer = answer


Handler = Callable[[Event], Awaitable[Delivered]]


@dataclass(frozen=True, slots=True)
class Subscription:
    """A named, durable reader of one event type.

    A new one begins with what happens from then on. Events about one instance, or about the
    revisions of one study, come one after the other, in their order; `by_study`: all events about
    one study do. After a look at the log the next waits `pace` seconds, so that one transaction
    serves many events.

    `wants` decides by routing fields alone (space, provider, UIDs: the event's data is not loaded).
    """

    name: str
    event_type: str
    concurrency: int = 4
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    wants: Callable[[Event], bool] = lambda _event: True
    by_study: bool = False
    pace: float = 0.0


@dataclass(frozen=True, slots=True)
class ReplayFilter:
    """Which deliveries to drive again. None means any."""

    binding: str | None = None
    state: str | None = "dead"
    space: str | None = None
    study_instance_uid: str | None = None
    since_seq: int | None = None


class Broker(Protocol):
    """What the rest of the system knows of a broker."""

    async def accept(self, stored: StoredInstance) -> StoreOutcome:
        """Take an ImageStoredEvent. Durable when this returns; many calls share one commit."""

    async def publish(self, events: Sequence[Event]) -> None:
        """Take events, durably and in order.

        An event whose source and id are known already changes nothing. Raises ValueError for one
        without id, source or type.
        """

    def subscribe(self, subscription: Subscription, handler: Handler) -> None:
        """Register a reader. Before `start`."""

    async def start(self) -> None:
        """Begin to hand out events."""

    async def stop(self) -> None:
        """Finish what is in hand, hand out nothing more."""

    async def replay(self, which: ReplayFilter) -> int:
        """Make deliveries due again from their first attempt; how many."""
