"""Carries events to Knative Eventing: each is POSTed to K_SINK, in HTTP binary mode (E3, E11).

Only a 2xx counts. Events of one study go one after the other, in their order; several studies go at
once. What the sink has taken of a batch that failed is not sent again by this process.

An answer that speaks of the event itself (400, 413, 415, 422 and the like) is a refusal for good.
One that speaks of the moment, the address or the credentials (3xx, 401, 403, 404, 408, 409, 425,
429, 5xx) would meet every event: the sink counts as away, and everything waits. Redirects are not
followed: events go where the site says, nowhere else.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Final

import aiohttp
import msgspec

from imaging_ingestion.brokers.outbox import CarrierAwayError, CarrierRefusedError
from imaging_ingestion.events.attributes import MalformedEventError, check_extensions
from imaging_ingestion.events.http_binding import binary_message
from imaging_ingestion.events.model import Event
from imaging_ingestion.events.retry import retry_after_seconds
from imaging_ingestion.manifest.event_data import INLINE_LIMIT

#: Requests on their way together.
CONCURRENCY: Final = 16
CONNECT_TIMEOUT: Final = 10.0  # seconds
ANSWER_TIMEOUT: Final = 60.0  # seconds from the start of a request to the end of its answer
#: A sink is left alone for as long as it asks, but not longer.
LONGEST_WISH: Final = 900.0  # seconds
#: Characters of an answer that are told on.
_QUOTED: Final = 200
_NOT_OF_THE_EVENT = frozenset({401, 403, 404, 407, 408, 409, 425, 429})


class KnativeCarrier:
    """The carrier (`brokers.outbox.Carrier`) to one sink."""

    largest_data = INLINE_LIMIT

    def __init__(
        self,
        sink: str,
        *,
        extensions: Mapping[str, str] | None = None,
        ca_certs: str | None = None,
        concurrency: int = CONCURRENCY,
    ) -> None:
        """`sink` is a URL (K_SINK); `extensions` are set on every event (K_CE_OVERRIDES).

        `ca_certs` (PEM, K_CA_CERTS) are trusted beside the system's. Raises ValueError for
        certificates that cannot be read.
        """
        self._sink = sink
        self._extensions = dict(extensions or {})
        self._concurrency = concurrency
        self._tls: ssl.SSLContext | bool = True
        if ca_certs:
            self._tls = ssl.create_default_context()
            try:
                self._tls.load_verify_locations(cadata=ca_certs)
            except ssl.SSLError as error:
                raise ValueError(f"no certificates in PEM: {error.reason}") from error
        self._session: aiohttp.ClientSession | None = None
        self._taken: set[tuple[str, str]] = set()  # of a batch that has not been taken whole
        self._not_before = 0.0  # on the loop's clock

    async def start(self) -> None:
        """See `Carrier.start`."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._concurrency, ssl=self._tls),
            timeout=aiohttp.ClientTimeout(total=ANSWER_TIMEOUT, sock_connect=CONNECT_TIMEOUT),
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("Content-Type",),  # an event without data has none
        )

    async def stop(self) -> None:
        """See `Carrier.stop`."""
        if self._session is not None:
            await self._session.close()

    async def carry(self, events: Sequence[Event]) -> None:
        """See `Carrier.carry`."""
        wished = self._not_before - asyncio.get_running_loop().time()
        if wished > 0:
            raise CarrierAwayError(f"the sink wants to be left alone for {wished:.0f} s more")
        lanes: dict[str | None, deque[Event]] = {}
        for event in events:
            if _key(event) not in self._taken:
                lanes.setdefault(event.study_instance_uid, deque()).append(event)
        waiting = deque(lanes.values())
        failures: list[CarrierAwayError | CarrierRefusedError] = []

        async def work() -> None:
            while waiting and not failures:
                lane = waiting.popleft()
                while lane and not failures:
                    event = lane.popleft()
                    try:
                        await self._post(event)
                    except (CarrierAwayError, CarrierRefusedError) as error:
                        failures.append(error)
                    else:
                        self._taken.add(_key(event))

        async with asyncio.TaskGroup() as workers:
            for _ in range(min(self._concurrency, len(waiting))):
                workers.create_task(work())
        if failures:
            raise failures[0]
        self._taken.clear()

    async def _post(self, event: Event) -> None:
        """Hand over one event. Raises CarrierAwayError, CarrierRefusedError."""
        assert self._session is not None, "the carrier has not been started"
        if self._extensions:
            told = {**event.extensions, **self._extensions}
            event = msgspec.structs.replace(event, extensions=told)
        message = binary_message(event)
        headers = message.headers
        if event.traceparent:
            headers["traceparent"] = event.traceparent
        try:
            async with self._session.post(
                self._sink, headers=headers, data=message.body or None, allow_redirects=False
            ) as answer:
                if 200 <= answer.status < 300:
                    await answer.release()
                    return
                text = (await answer.content.read(4 * _QUOTED)).decode("utf-8", "replace")
                self._judge(event, answer, text.strip()[:_QUOTED])
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise CarrierAwayError(_told(error)) from error

    def _judge(self, event: Event, answer: aiohttp.ClientResponse, text: str) -> None:
        """What an answer that is no success means. Raises CarrierAwayError, CarrierRefusedError."""
        told = f"{answer.status}: {text}" if text else str(answer.status)
        wish = retry_after_seconds(answer.headers.get("Retry-After"))
        if answer.status in {429, 503} and wish is not None:
            self._not_before = asyncio.get_running_loop().time() + min(wish, LONGEST_WISH)
        if 400 <= answer.status < 500 and answer.status not in _NOT_OF_THE_EVENT:
            raise CarrierRefusedError(event, told)
        raise CarrierAwayError(told)


def read_overrides(text: str) -> dict[str, str]:
    """The extensions of a K_CE_OVERRIDES, `{"extensions": {name: value}}`. Raises ValueError."""
    try:
        overrides = msgspec.json.decode(text, type=_Overrides)
        check_extensions(overrides.extensions)
    except (msgspec.DecodeError, MalformedEventError) as error:
        raise ValueError(f"K_CE_OVERRIDES: {error}") from error
    return overrides.extensions


class _Overrides(msgspec.Struct):
    extensions: dict[str, str] = msgspec.field(default_factory=dict)


def _key(event: Event) -> tuple[str, str]:
    return event.source, event.id


def _told(error: Exception) -> str:
    """An error in words, with host and port but without the path or credentials of the sink."""
    name = type(error).__name__
    match error:
        case aiohttp.ClientConnectorError() | aiohttp.ServerDisconnectedError():
            return f"{name}: {error}"
        case TimeoutError():
            return f"{name}: the sink did not answer in time"
        case _:
            return name
