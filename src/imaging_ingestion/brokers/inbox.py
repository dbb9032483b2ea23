"""Events that a carrier brings for bindings become deliveries of the ledger.

An event of our own log says how far the log has been carried. So a binding is given everything
that it wants up to there, in the log's order, in the transaction that moves its position: an event
that comes twice, late, or after a newer one changes nothing, and one that never comes is made good
by the next. From there on the `Dispatcher` delivers, as with the embedded broker.

What is not of this log (from another core, from another program) goes into the log first, once, and
then the same way. The outbox does not carry it: it came from there.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy.engine import Connection

from imaging_ingestion.brokers.dispatcher import BrokerSettings, Clock
from imaging_ingestion.brokers.group_commit import Groups
from imaging_ingestion.brokers.log_broker import published_row
from imaging_ingestion.events.broker import Subscription
from imaging_ingestion.events.model import Event
from imaging_ingestion.manifest import changes, deliveries, outbox
from imaging_ingestion.manifest.changes import Change
from imaging_ingestion.manifest.database import Database
from imaging_ingestion.manifest.database_error import is_away
from imaging_ingestion.manifest.event_data import event_of


@dataclass(frozen=True, slots=True)
class _Arrival:
    events: Sequence[Event]
    bindings: Collection[str] | None


class Inbox:
    """The inbox of one core in this process."""

    def __init__(
        self,
        database: Database,
        settings: BrokerSettings,
        on_logged: Callable[[], None],
        on_due: Callable[[Iterable[str]], None],
        *,
        clock: Clock,
    ) -> None:
        """`on_logged` is called after each commit that adds to the log, `on_due` with the bindings
        that have new deliveries."""
        self._database = database
        self._core = settings.core
        self._on_logged = on_logged
        self._on_due = on_due
        self._clock = clock
        self._subscriptions: dict[str, Subscription] = {}
        self._groups: Groups[_Arrival, None] = Groups(self._take, hopeless=is_away)

    def add(self, subscription: Subscription) -> None:
        """Let a binding have events. It is known to the database before any come."""
        self._subscriptions[subscription.name] = subscription

    @property
    def subscriptions(self) -> Collection[Subscription]:
        """Of the bindings that have events here."""
        return self._subscriptions.values()

    async def take(self, events: Sequence[Event], bindings: Collection[str] | None = None) -> None:
        """Give events to bindings (None: to all), durably when this returns.

        An event of our own log carries its number there (`Event.seq`). Calls at one time share
        transactions. Raises what the database raises, and ValueError for an event without identity.
        """
        if events:
            await self._groups.take(_Arrival(events, bindings))

    async def reach(self, number: int, bindings: Collection[str] | None = None) -> None:
        """Give bindings everything in the log up to a number."""
        names = self._subscriptions.keys() if bindings is None else bindings
        await self._reach(dict.fromkeys(names, number))

    async def stop(self) -> None:
        """Wait for everything taken so far."""
        await self._groups.stop()

    async def _take(self, arrivals: Sequence[_Arrival]) -> Sequence[None]:
        events = [event for arrival in arrivals for event in arrival.events]
        owned = await self._database.read(outbox.owned, events, self._core)
        numbers = {
            (event.source, event.id): event.seq or 0
            for event, is_owned in zip(events, owned, strict=True)
            if is_owned
        }
        foreign = [event for event, is_owned in zip(events, owned, strict=True) if not is_owned]
        if foreign:
            numbers |= await self._publish(foreign)
        reached: dict[str, int] = {}
        for arrival in arrivals:
            known = self._subscriptions.keys()
            names = known if arrival.bindings is None else known & set(arrival.bindings)
            for event in arrival.events:
                number = numbers[event.source, event.id]
                for name in names:
                    if self._subscriptions[name].event_type == event.type:
                        reached[name] = max(reached.get(name, 0), number)
        await self._reach(reached)
        return [None] * len(arrivals)

    async def _publish(self, events: Sequence[Event]) -> Mapping[tuple[str, str], int]:
        """The numbers of events from outside in the log."""
        now = self._clock() // 1000
        rows = [published_row(event, now, by_carrier=True) for event in events]
        if await self._database.write(changes.publish, rows):
            self._on_logged()
        keys = [(event.source, event.id) for event in events]
        return await self._database.read(changes.published_numbers, keys)

    async def _reach(self, numbers: Mapping[str, int]) -> None:
        left = dict(numbers)
        while left:
            more = await self._database.write(self._fan_out, left)
            self._on_due(left)
            left = {name: left[name] for name in more}

    def _fan_out(self, connection: Connection, numbers: Mapping[str, int]) -> list[str]:
        """A page of the log for each binding, up to its number; those that have more to read."""
        now = self._clock() // 1000
        more = []
        for name in sorted(numbers):  # locks are taken in one order
            of = self._subscriptions[name]
            if deliveries.fan_out(
                connection,
                name,
                of.event_type,
                self._wants(of),
                now,
                by_study=of.by_study,
                up_to=numbers[name],
            ):
                more.append(name)
        return more

    def _wants(self, of: Subscription) -> Callable[[Change], bool]:
        return lambda entry: of.wants(event_of(entry, of.event_type, self._core))
