"""One binding's durable pull consumer: messages go to the inbox, and are acknowledged after that.

A message is acknowledged when its delivery is in the ledger, and not before; one whose time runs
out meanwhile comes again and changes nothing. Retries towards the target are the ledger's business,
so this hop has no limit while the database is away. What cannot be an event, or cannot be taken
however often it comes, goes to the stream of dead letters and is done with.

What the stream has lost (it was wiped, or its time ran out) is made good from the log: whenever the
consumer is made, the connection comes back, or nothing has come for a while.
"""

from __future__ import annotations

import asyncio
import traceback
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec
import structlog
from nats import errors
from nats.aio.msg import Msg
from nats.js import JetStreamContext, api
from nats.js.errors import NotFoundError

from imaging_ingestion.brokers.inbox import Inbox
from imaging_ingestion.brokers.jetstream_carrier import (
    MESSAGE_ID,
    dead_letter_headers,
    message_size,
)
from imaging_ingestion.brokers.jetstream_link import JetStreamLink, NotConnectedError
from imaging_ingestion.brokers.pause import pause
from imaging_ingestion.events.attributes import MalformedEventError
from imaging_ingestion.events.broker import Subscription
from imaging_ingestion.events.http_binding import UnknownFormatError
from imaging_ingestion.events.model import Event
from imaging_ingestion.events.nats_binding import event_of_message
from imaging_ingestion.manifest import outbox
from imaging_ingestion.manifest.database import Database
from imaging_ingestion.manifest.database_error import is_away

log = structlog.get_logger(__name__)

#: Times that a message is given to us before it is taken for one that cannot be taken.
MOST_TRIES: Final = 10
#: Seconds until a message that could not be taken comes again; they double up to the longest.
_FIRST_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 30.0
#: Seconds after which a consumer that nobody uses is forgotten by the server. Nothing is lost then.
_FORGOTTEN: Final = 14 * 86400.0
#: What a new consumer is given of the time before it: more than it takes to carry a batch, and
#: clocks to differ.
_OVERLAP: Final = timedelta(minutes=1)
_STATUS: Final = "Status"
_SIGN_OF_LIFE: Final = "100"


class JetStreamConsumer:
    """The consumer of one binding in this process; other processes share it."""

    def __init__(
        self, link: JetStreamLink, database: Database, subscription: Subscription, inbox: Inbox
    ) -> None:
        self._link = link
        self._database = database
        self._subscription = subscription
        self._inbox = inbox
        self._messages: deque[Msg] = deque()
        self._over = False  # the pull that was asked for has ended
        self._wake = asyncio.Event()
        self._changed = False  # the connection has come or gone
        self._stopping = False
        self._task: asyncio.Task[None] | None = None
        link.on_change(self._link_changed)

    def start(self) -> None:
        """Begin. The subscription is known to the database."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Take nothing more; what is in hand is finished."""
        self._stopping = True
        self._wake.set()
        if self._task is not None:
            await self._task

    def _link_changed(self) -> None:
        self._changed = True
        self._wake.set()

    @property
    def _name(self) -> str:
        return self._subscription.name

    async def _run(self) -> None:
        failures = 0
        while not self._stopping:
            self._wake.clear()
            self._changed = False
            pause = 0.0
            try:
                await self._consume()
                failures = 0
            except NotConnectedError:
                pause = _LONGEST_PAUSE  # or until the connection is there
            except Exception as error:  # noqa: BLE001 - logged, and begun again
                failures += 1
                pause = min(_FIRST_PAUSE * 2.0 ** min(failures - 1, 16), _LONGEST_PAUSE)
                self._log_failure("jetstream.consumer_failed", error)
            if pause:
                await self._sleep(pause)

    async def _consume(self) -> None:
        """Take messages while the connection and the consumer last."""
        context = await self._link.ready()
        await self._have_consumer(context)
        client = self._link.client()
        inbox = client.new_inbox()
        self._messages.clear()
        subscription = await client.subscribe(inbox, cb=self._arrived)
        try:
            await self._catch_up()
            while not self._stopping and not self._changed:
                await self._pull(inbox)
        finally:
            for message in self._messages:
                await _settled(message.nak())
            self._messages.clear()
            if client.is_connected:
                await _settled(subscription.unsubscribe())

    async def _pull(self, inbox: str) -> None:
        """Ask for messages, and take them as they come, until the server says that it is over."""
        settings = self._link.settings
        ask = {
            "batch": settings.batch,
            "max_bytes": max(settings.bytes_at_once, 2 * self._link.max_payload),
            "expires": int(settings.idle.total_seconds() * 1e9),
            "idle_heartbeat": int(settings.heartbeat.total_seconds() * 1e9),
        }
        names = self._link.names
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{names.events}.{names.consumer(self._name)}"
        self._over = False
        await self._link.client().publish(subject, msgspec.json.encode(ask), inbox)
        left = settings.batch
        while left > 0 and not self._stopping and not self._changed:
            if not self._messages:
                if self._over:
                    break
                if not await self._sleep(2.5 * settings.heartbeat.total_seconds()):
                    raise TimeoutError("JetStream gives no sign of life")
                continue
            batch = list(self._messages)
            self._messages.clear()
            left -= len(batch)
            await self._take(batch)
        if left == settings.batch and self._over and not self._changed:
            await self._catch_up()

    async def _arrived(self, message: Msg) -> None:
        status = (message.headers or {}).get(_STATUS) if not message.data else None
        if status is None:
            self._messages.append(message)
        elif status != _SIGN_OF_LIFE:
            # 404 and 408: nothing more for this pull; 409 and 503: the consumer is gone, or moves.
            self._over = True
            if status in {"409", "503"}:
                self._link.streams_are_gone()
                self._changed = True
        self._wake.set()

    async def _take(self, messages: Sequence[Msg]) -> None:
        """Messages become deliveries, and are acknowledged."""
        read: list[tuple[Msg, Event]] = []
        for message in messages:
            try:
                read.append((message, event_of_message(message.headers or {}, message.data)))
            except (MalformedEventError, UnknownFormatError) as error:
                await self._bury(message, str(error))
        try:
            await self._inbox.take([event for _, event in read], [self._name])
        except Exception as error:  # noqa: BLE001 - logged, and tried again
            self._log_failure("jetstream.not_taken", error)
            await self._give_back([message for message, _ in read], error)
            return
        for message, _ in read:
            await _settled(message.ack())

    async def _give_back(self, messages: Sequence[Msg], error: Exception) -> None:
        """They come again later; one that is at fault itself not for ever."""
        alone = len(messages) == 1
        for message in messages:
            tries = message.metadata.num_delivered
            if is_away(error) or tries < MOST_TRIES:
                pause = min(_FIRST_PAUSE * 2.0 ** min(tries - 1, 16), _LONGEST_PAUSE)
                await _settled(message.nak(delay=pause))
            elif alone:
                await self._bury(message, f"could not be taken: {type(error).__name__}")
            else:  # which of them it is shows when each comes alone
                await self._take([message])

    async def _bury(self, message: Msg, why: str) -> None:
        """A dead letter instead of an event. It is done with when that is stored."""
        number = message.metadata.sequence.stream
        log.warning("jetstream.not_an_event", binding=self._name, message=number, why=why)
        headers = {
            name: value
            for name, value in (message.headers or {}).items()
            if not name.lower().startswith("nats-")
        }
        headers |= dead_letter_headers(self._name, message.metadata.num_delivered, why)
        headers[MESSAGE_ID] = f"{self._link.names.events}/{self._name}/{number}"
        data = message.data
        if message_size(headers, data) > self._link.max_payload:
            data = b""  # what is told of it has to fit, too
        try:
            context = await self._link.ready()
            await context.publish(
                self._link.names.dead_letter(self._name, f"message-{number}"),
                data,
                headers=headers,
            )
        except (errors.Error, NotConnectedError, OSError, TimeoutError) as error:
            log.warning("jetstream.not_buried", message=number, error=type(error).__name__)
            await _settled(message.nak(delay=_LONGEST_PAUSE))
            return
        await _settled(message.term())

    async def _have_consumer(self, context: JetStreamContext) -> None:
        stream, wanted = self._link.names.events, self._wanted()
        assert wanted.durable_name is not None
        try:
            info = await context.consumer_info(stream, wanted.durable_name)
        except NotFoundError:
            await context.add_consumer(stream, wanted)
            log.info("jetstream.consumer_made", binding=self._name)
            return
        assert info.config is not None
        changed = {
            name: value
            for name in _MANAGED
            if (value := getattr(wanted, name)) != getattr(info.config, name)
        }
        if changed:
            await context.add_consumer(stream, replace(info.config, **changed))
            log.info("jetstream.consumer_changed", binding=self._name, fields=sorted(changed))

    def _wanted(self) -> api.ConsumerConfig:
        return api.ConsumerConfig(
            durable_name=self._link.names.consumer(self._name),
            # What was before comes from the log, but for what is being carried at this moment.
            deliver_policy=api.DeliverPolicy.BY_START_TIME,
            opt_start_time=datetime.now(UTC) - _OVERLAP,
            ack_policy=api.AckPolicy.EXPLICIT,
            ack_wait=self._link.settings.ack_wait.total_seconds(),
            max_deliver=-1,
            max_ack_pending=8 * self._link.settings.batch,
            filter_subject=self._link.names.of_type(self._subscription.event_type),
            inactive_threshold=_FORGOTTEN,
        )

    async def _catch_up(self) -> None:
        """All that has been carried is the binding's, whether the stream still has it or not."""
        carried = await self._database.read(outbox.position)
        await self._inbox.reach(carried, [self._name])

    async def _sleep(self, seconds: float) -> bool:
        """Until something happens; False if nothing did."""
        woken = await pause(self._wake, seconds)
        if woken:
            self._wake.clear()
        return woken

    def _log_failure(self, what: str, error: Exception) -> None:
        """Where an error came from, without its text: that may hold a patient's data."""
        text = str(error) if isinstance(error, errors.Error | TimeoutError) else ""
        log.warning(
            what,
            binding=self._name,
            error=type(error).__name__,
            why=text,
            stack="".join(traceback.format_tb(error.__traceback__)[-4:]),
        )


_MANAGED: Final = ("ack_wait", "max_deliver", "max_ack_pending", "filter_subject")


async def _settled(answer: Any) -> None:
    """Wait until an answer to the server is on its way; it is asked again if that is lost."""
    try:
        await answer
    except (errors.Error, OSError) as error:
        log.debug("jetstream.answer_lost", error=type(error).__name__)
