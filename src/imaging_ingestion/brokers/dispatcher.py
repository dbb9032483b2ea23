"""Hands one subscription's events to its handler.

A dispatcher works in turns. While it is idle it only reads: is there anything to do, or when will
there be? Otherwise a turn is one transaction: it writes down how tries ended, fans new log entries
out, and claims as many deliveries as there are places. Each claim is a task that runs the handler.
So the more there is to do, the more one commit carries.

Whatever goes wrong (the database is away, a handler misbehaves) is logged, and work goes on.
"""

from __future__ import annotations

import asyncio
import random
import traceback
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta

import structlog
from sqlalchemy.engine import Connection

from imaging_ingestion.brokers.pause import pause
from imaging_ingestion.events.broker import (
    Handler,
    RefusedError,
    Subscription,
    TryAgainError,
)
from imaging_ingestion.events.model import Event
from imaging_ingestion.manifest import deliveries
from imaging_ingestion.manifest.changes import Change
from imaging_ingestion.manifest.database import Database
from imaging_ingestion.manifest.database_error import is_away
from imaging_ingestion.manifest.deliveries import Claim, Outlook, Result
from imaging_ingestion.manifest.event_data import RootsOf, event_of, with_data

log = structlog.get_logger(__name__)

#: How long a claimed delivery belongs to its process without a sign of life.
LEASE = timedelta(seconds=10)
#: How often a dispatcher looks for work that another process left: commits here wake it at once.
POLL = timedelta(seconds=1)
#: How long `stop` waits for handlers before it gives their deliveries back.
GRACE = timedelta(seconds=10)
_MICROSECOND = timedelta(microseconds=1)

Clock = Callable[[], int]  # nanoseconds since the epoch


@dataclass(frozen=True, slots=True)
class BrokerSettings:
    """What the broker needs to know of its surroundings.

    `roots_of` gives the DICOMweb roots of a space, `api_url` is the root of our API.
    """

    core: str
    revisioning_delay: timedelta
    roots_of: RootsOf
    api_url: str
    lease: timedelta = LEASE
    poll: timedelta = POLL
    grace: timedelta = GRACE


class Dispatcher:
    """One subscription at work in this process."""

    def __init__(
        self,
        database: Database,
        settings: BrokerSettings,
        clock: Clock,
        subscription: Subscription,
        handler: Handler,
        on_logged: Callable[[], None],
        *,
        reads_log: bool = True,
    ) -> None:
        """`on_logged` is called after each commit that adds to the log.

        Without `reads_log` somebody else makes deliveries of log entries (an `Inbox`).
        """
        self._database = database
        self._settings = settings
        self._clock = clock
        self._subscription = subscription
        self._handler = handler
        self._on_logged = on_logged
        self._reads_log = reads_log
        self._lease = settings.lease // _MICROSECOND
        self._wake = asyncio.Event()
        self._stopping = False
        self._task: asyncio.Task[None] | None = None
        # By number in the log: what is being tried, or has been and is not written down yet.
        self._in_hand: dict[int, tuple[Claim, asyncio.Task[None]]] = {}
        self._ended: list[Result] = []  # tries to be written down
        self._news = reads_log  # the log may have grown since it was fanned out
        self._more = False  # the last turn left something due
        self._scanned = 0  # how far the log was looked at in vain
        self._looked_at = 0.0  # when, on the loop's clock
        self._turned_at = 0.0
        self._woken_later: asyncio.TimerHandle | None = None
        self._random = random.SystemRandom()  # claims, jitter

    def wake(self) -> None:
        """The log has grown, or the ledger."""
        self._news = self._reads_log
        loop = asyncio.get_running_loop()
        early = self._turned_at + self._subscription.pace - loop.time()
        if early <= 0:
            self._wake.set()
        elif self._woken_later is None:
            self._woken_later = loop.call_later(early, self._wake_later)

    def _wake_later(self) -> None:
        self._woken_later = None
        self._wake.set()

    def start(self) -> None:
        """Begin. The subscription is known to the database."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Take nothing more; wait for what is in hand, `grace` at most, and give back the rest."""
        self._stopping = True
        self._wake.set()
        if self._task is not None:
            await self._task

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            renewing = tasks.create_task(self._renew())
            while not self._stopping:
                self._wake.clear()
                pause = await self._guarded(self._turn(tasks))
                if pause > 0:
                    await self._sleep(pause)
            await self._finish()
            renewing.cancel()
        if self._woken_later is not None:
            self._woken_later.cancel()

    async def _guarded(self, turn: Awaitable[float]) -> float:
        """A turn whose failure costs nothing but time; how many seconds to wait then."""
        try:
            return await turn
        except Exception as error:  # noqa: BLE001 - logged, and tried again
            self._log_failure("broker.dispatch_failed", error)
            if self._ended and not is_away(error):
                await self._write_one_by_one()
            return self._settings.poll.total_seconds()

    async def _finish(self) -> None:
        """Write down what ends within the grace, and give back the rest."""
        clock = asyncio.get_running_loop().time
        end = clock() + self._settings.grace.total_seconds()
        while self._in_hand and clock() < end:
            self._wake.clear()
            pause = await self._guarded(self._write_ended())
            await self._sleep(min(pause, max(0.0, end - clock())))
        given_up = [claim for claim, _ in self._in_hand.values()]
        late = [task for _, task in self._in_hand.values() if not task.done()]
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late)
        if given_up:
            try:
                await self._database.write(deliveries.release, self._name, given_up, self._now())
            except Exception as error:  # noqa: BLE001 - logged; their leases will run out
                self._log_failure("broker.release_failed", error)

    @property
    def _name(self) -> str:
        return self._subscription.name

    def _now(self) -> int:
        return self._clock() // 1000

    async def _turn(self, tasks: asyncio.TaskGroup) -> float:
        """Do what there is to do; how many seconds until there may be more (0: at once)."""
        ended = tuple(self._ended)
        free = self._subscription.concurrency - len(self._in_hand) + len(ended)
        poll = self._settings.poll.total_seconds()
        loop_time = self._turned_at = asyncio.get_running_loop().time()
        if loop_time - self._looked_at >= poll:
            self._news = self._reads_log  # another process may have logged something
        if not ended and not self._more:
            self._looked_at = loop_time
            outlook = await self._look()
            self._news = outlook.news
            now = self._now()
            if not outlook.news and (free <= 0 or outlook.due is None or outlook.due > now):
                due = None if free <= 0 else outlook.due
                return poll if due is None else min(poll, (due - now) / 1_000_000)
        news, self._news = self._news, False
        try:
            counted, more, claims = await self._database.write(
                self._write_turn, ended, news, free, self._others_in_hand(ended)
            )
        except BaseException:
            self._news = news
            raise
        if news:
            self._looked_at = loop_time
        self._written(ended, counted)
        for claim in claims:
            task = tasks.create_task(self._deliver(claim))
            self._in_hand[claim.change.seq] = claim, task
        self._news |= more
        self._more = more or (bool(claims) and len(claims) == free)
        return 0 if self._more or claims or ended else poll

    async def _look(self) -> Outlook:
        if not self._reads_log:
            due = await self._database.read(
                deliveries.next_due,
                self._name,
                tuple(self._in_hand),
                by_study=self._subscription.by_study,
            )
            return Outlook(False, 0, due)
        outlook = await self._database.read(
            deliveries.outlook,
            self._name,
            self._subscription.event_type,
            self._scanned,
            tuple(self._in_hand),
            by_study=self._subscription.by_study,
        )
        self._scanned = outlook.scanned
        return outlook

    def _others_in_hand(self, ended: Sequence[Result]) -> tuple[int, ...]:
        return tuple(self._in_hand.keys() - {result.claim.change.seq for result in ended})

    def _write_turn(
        self,
        connection: Connection,
        ended: Sequence[Result],
        news: bool,
        free: int,
        holding: Sequence[int],
    ) -> tuple[list[bool], bool, list[Claim]]:
        """A turn's transaction. The log comes last: its lock is held until the commit."""
        now = self._now()
        by_study = self._subscription.by_study
        more = news and deliveries.fan_out(
            connection,
            self._name,
            self._subscription.event_type,
            self._wants,
            now,
            by_study=by_study,
        )
        counted = deliveries.write_down(connection, self._name, ended, now) if ended else []
        claims = []
        if free > 0:
            token = self._random.getrandbits(63)
            claims = deliveries.claim(
                connection,
                self._name,
                now,
                self._lease,
                free,
                token,
                holding,
                by_study=by_study,
            )
        deliveries.log_ends(connection, self._name, ended, counted, now)
        return counted, more, claims

    async def _write_ended(self) -> float:
        """Write down how tries ended, and nothing else; how long to wait for more of them."""
        ended = tuple(self._ended)
        if ended:
            counted = await self._database.write(
                deliveries.complete, self._name, ended, self._now()
            )
            self._written(ended, counted)
        return self._settings.poll.total_seconds()

    async def _write_one_by_one(self) -> None:
        """As `_write_ended`, so that one that cannot be written holds up no other."""
        for result in tuple(self._ended):
            try:
                (counted,) = await self._database.write(
                    deliveries.complete, self._name, (result,), self._now()
                )
            except Exception as error:  # noqa: BLE001 - logged; its lease will run out
                self._log_failure("broker.result_lost", error, event_id=result.event_id)
                if is_away(error):
                    return
                counted = True
            self._written((result,), [counted])

    def _written(self, ended: Sequence[Result], counted: Sequence[bool]) -> None:
        """These tries are over, and their places free."""
        for result, counts in zip(ended, counted, strict=True):
            self._ended.remove(result)
            del self._in_hand[result.claim.change.seq]
            if not counts:
                log.warning("broker.lease_lost", binding=self._name, event_id=result.event_id)
        if ended:
            self._on_logged()

    async def _sleep(self, seconds: float) -> None:
        """Until a commit, a free place, the next due time, or the next look at the others' work."""
        await pause(self._wake, seconds)

    def _wants(self, entry: Change) -> bool:
        return self._subscription.wants(self._event(entry))

    def _event(self, entry: Change) -> Event:
        return event_of(entry, self._subscription.event_type, self._settings.core)

    async def _deliver(self, claim: Claim) -> None:
        self._ended.append(await self._try(claim))
        self._wake.set()

    async def _try(self, claim: Claim) -> Result:
        """One try of one delivery, and what is to follow from how it ended."""
        event = self._event(claim.change)
        retry_after = None
        try:
            state, answer = deliveries.DELIVERED, await self._hand_over(event, claim)
        except RefusedError as error:
            state, answer = deliveries.DEAD, error.answer
        except TryAgainError as error:
            state, answer, retry_after = deliveries.PENDING, error.answer, error.retry_after
        except Exception as error:  # noqa: BLE001 - logged; the port's rule: "try again"
            state, answer = deliveries.PENDING, f"{type(error).__name__}: {error}"
            self._log_failure("broker.handler_failed", error, event_id=event.id)
        next_at = None
        if state == deliveries.PENDING:
            delay = self._subscription.retry.delay(
                claim.attempt, random=self._random.random(), retry_after=retry_after
            )
            if delay is None:
                state, answer = deliveries.DEAD, f"given up after {claim.attempt} tries: {answer}"
            else:
                next_at = self._now() + int(delay * 1_000_000)
        if state != deliveries.DELIVERED:
            # The answer is in the ledger only: it may quote the patient.
            log.warning(
                "broker.not_delivered",
                binding=self._name,
                event_id=event.id,
                state=state,
                attempt=claim.attempt,
            )
        return Result(claim=claim, event_id=event.id, state=state, answer=answer, next_at=next_at)

    async def _hand_over(self, event: Event, claim: Claim) -> str:
        """Give the event to the handler; the target's answer."""
        if claim.attempt > self._subscription.retry.attempts:
            # Tries are counted when they begin. This one's last took its process with it.
            raise RefusedError(f"given up after {claim.attempt - 1} tries: the last never ended")
        event = await self._database.read(
            with_data,
            event,
            claim.change,
            self._settings.core,
            self._settings.roots_of,
            self._settings.api_url,
        )
        if event.data is None and event.dataref is None:
            return "gone: what it tells of was deleted before it could be delivered"
        return (await self._handler(event)).answer

    async def _renew(self) -> None:
        """Hold on to what is in hand while it takes longer than its lease."""
        while True:
            await asyncio.sleep(self._settings.lease.total_seconds() / 3)
            claims = [claim for claim, _ in self._in_hand.values()]
            if not claims:
                continue
            try:
                await self._database.write(
                    deliveries.renew, self._name, claims, self._now() + self._lease
                )
            except Exception as error:  # noqa: BLE001 - logged, and tried again
                self._log_failure("broker.renewal_failed", error)

    def _log_failure(self, what: str, error: Exception, **facts: object) -> None:
        """Where an error came from, without its text: that may hold a patient's data."""
        log.error(
            what,
            binding=self._name,
            error=type(error).__name__,
            stack="".join(traceback.format_tb(error.__traceback__)[-4:]),
            **facts,
        )
