"""Carries events into a core's streams on NATS JetStream.

A batch is published at once, and done when the server has acknowledged every message. The id of a
message (`Nats-Msg-Id`) is made from the event's source and id, so what is carried again within the
window of duplicates is not stored again. It is a digest of both: CloudEvents promises only that the
two together are unique, and NATS looks at one text.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
from nats import errors
from nats.js import JetStreamContext
from nats.js.errors import APIError, NoStreamResponseError

from imaging_ingestion.brokers.jetstream_link import JetStreamLink, NotConnectedError
from imaging_ingestion.brokers.outbox import CarrierAwayError, CarrierRefusedError
from imaging_ingestion.events.model import DELIVERY_FAILED, DeliveryFailed, Event
from imaging_ingestion.events.nats_binding import message_of
from imaging_ingestion.manifest.event_data import INLINE_LIMIT

MESSAGE_ID: Final = "Nats-Msg-Id"
EXPECTED_STREAM: Final = "Nats-Expected-Stream"
#: Headers of a dead letter: for whom, how often it was tried, and the target's last answer.
BINDING: Final = "Imaging-Binding"
ATTEMPTS: Final = "Imaging-Attempts"
REASON: Final = "Imaging-Reason"

#: Seconds until a batch must have been acknowledged.
_ACKNOWLEDGED: Final = 10.0
#: Bytes that the headers of a message take at most, and what they leave to the data at least.
_HEADERS: Final = 16 << 10
_LEAST: Final = 256
#: JetStream's code for a message that is larger than its stream takes.
_TOO_LARGE: Final = 10054
#: Characters of a reason in a header.
_REASON_LENGTH: Final = 200


class JetStreamCarrier:
    """The carrier (`brokers.outbox.Carrier`) of one core."""

    def __init__(self, link: JetStreamLink) -> None:
        self._link = link

    @property
    def largest_data(self) -> int:
        """See `Carrier.largest_data`: what a message has room for."""
        return max(_LEAST, min(INLINE_LIMIT, self._link.max_payload - _HEADERS))

    async def start(self) -> None:
        """See `Carrier.start`."""
        await self._link.start()

    async def stop(self) -> None:
        """See `Carrier.stop`."""
        await self._link.stop()

    async def carry(self, events: Sequence[Event]) -> None:
        """See `Carrier.carry`."""
        try:
            context = await self._link.ready()
            async with asyncio.timeout(_ACKNOWLEDGED):
                await self._publish(context, events)
        except NoStreamResponseError as error:
            self._link.streams_are_gone()
            raise CarrierAwayError("no stream takes the events") from error
        except NotConnectedError as error:
            raise CarrierAwayError(str(error)) from error
        except TimeoutError as error:
            raise CarrierAwayError("JetStream did not acknowledge in time") from error
        except (errors.Error, OSError) as error:
            raise CarrierAwayError(_in_words(error)) from error

    async def _publish(self, context: JetStreamContext, events: Sequence[Event]) -> None:
        pending = []
        try:
            for event in events:
                sent = self._sent(event)
                # nats-py looks at the data only, and the server ends the connection.
                if sent.size > self._link.max_payload:
                    raise CarrierRefusedError(
                        event, f"NATS takes messages of {self._link.max_payload} bytes at most"
                    )
                future = await context.publish_async(sent.subject, sent.body, headers=sent.headers)
                pending.append((event, future))
            for event, future in pending:
                try:
                    await future
                except APIError as error:
                    if error.err_code == _TOO_LARGE:
                        raise CarrierRefusedError(event, _in_words(error)) from error
                    raise
        finally:
            for _, future in pending:
                future.cancel()  # of no effect on those that are done
            await asyncio.gather(*(future for _, future in pending), return_exceptions=True)

    def _sent(self, event: Event) -> _Sent:
        names = self._link.names
        message = message_of(event)
        headers = message.headers | {MESSAGE_ID: message_id(event)}
        if event.type != DELIVERY_FAILED or event.data is None:
            headers[EXPECTED_STREAM] = names.events
            return _Sent(names.event(event), headers, message.body)
        failed = msgspec.json.decode(event.data, type=DeliveryFailed)
        headers |= dead_letter_headers(failed.binding, failed.attempts, failed.reason)
        headers[EXPECTED_STREAM] = names.dead
        return _Sent(names.dead_letter(failed.binding, failed.number), headers, message.body)


@dataclass(frozen=True, slots=True)
class _Sent:
    subject: str
    headers: dict[str, str]
    body: bytes

    @property
    def size(self) -> int:
        """Its bytes."""
        return message_size(self.headers, self.body)


def message_id(event: Event) -> str:
    """What JetStream knows an event by."""
    return hashlib.sha256(f"{event.source}\n{event.id}".encode()).hexdigest()


def message_size(headers: Mapping[str, str], body: bytes) -> int:
    """Bytes as the server counts them: headers (`NATS/1.0`, lines, an empty one) and data."""
    lines = sum(len(name) + len(value.encode()) + 4 for name, value in headers.items())
    return 12 + lines + len(body)


def dead_letter_headers(binding: str, attempts: int, reason: str) -> dict[str, str]:
    """What a dead letter says without being read."""
    printable = "".join(one if one.isprintable() else " " for one in reason[:_REASON_LENGTH])
    return {BINDING: binding, ATTEMPTS: str(attempts), REASON: printable.strip()}


def _in_words(error: Exception) -> str:
    text = getattr(error, "description", None) or str(error).removeprefix("nats: ")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
