"""A broker of Knative's kind, as a real HTTP server: its data plane's contract, and its faults.

    POST /            the ingress: an event in binary mode is kept, then answered 202
    triggers          each delivers the events of its type to its subscriber, a few at a time, in
                      the order of arrival but for that; 404, 408, 409, 429, 5xx and silence are
                      tried again, any other failure is a dead letter; an event in the answer goes
                      back into the broker

What was kept outlives `stop`, as on a durable channel; while it is stopped its port refuses.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
from aiohttp import web
from cloudevents.core.bindings.http import HTTPMessage, from_binary
from cloudevents.core.formats.json import JSONFormat
from platform_process import free_port

RETRIES = 600  # with PAUSE between them: longer than any test holds a subscriber back
PAUSE = 0.1  # seconds
AT_ONCE = 8  # deliveries of one trigger
_RETRIED = frozenset({404, 408, 409, 429})


@dataclass(frozen=True)
class Kept:
    """An event as it came in."""

    headers: Mapping[str, str]
    body: bytes

    def __getitem__(self, attribute: str) -> str:
        return self.headers.get(f"ce-{attribute}", "")


@dataclass(frozen=True)
class Delivery:
    """How the delivery of an event to a trigger's subscriber ended."""

    event: Kept
    status: int
    answer: str
    tries: int


@dataclass
class Trigger:
    """Delivers events of one type (None: all) to a subscriber; `copies` of each, one after another.

    `order` may change the order of what waits.
    """

    event_type: str | None
    subscriber: str
    copies: int = 1
    order: Callable[[list[Kept]], list[Kept]] = lambda waiting: waiting
    waiting: list[Kept] = field(default_factory=list)
    delivered: list[Delivery] = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def dead(self) -> list[Delivery]:
        """What the subscriber did not take."""
        return [one for one in self.delivered if not 200 <= one.status < 300]


class KnativeBroker:
    """The broker. `sink` is what K_SINK names."""

    def __init__(self) -> None:
        self.port = free_port()
        self.kept: list[Kept] = []
        self.replies: list[Kept] = []
        self.triggers: list[Trigger] = []
        self.refuse: Callable[[Kept], web.Response | None] = lambda _event: None
        self._runner: web.ServerRunner | None = None
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def sink(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def subscribe(self, *triggers: Trigger) -> None:
        """Begin to deliver to these, from now on."""
        self.triggers += triggers
        self._tasks += [asyncio.create_task(self._deliver(trigger)) for trigger in triggers]

    async def start(self) -> None:
        self._runner = web.ServerRunner(web.Server(self._ingress))
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()

    async def stop(self) -> None:
        """The ingress goes away, in the middle of whatever comes."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def close(self) -> None:
        await self.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def ids(self, event_type: str) -> list[str]:
        """The ids of the events of a type, in the order of their first arrival."""
        return list(dict.fromkeys(one["id"] for one in self.kept if one["type"] == event_type))

    async def _ingress(self, request: web.BaseRequest) -> web.Response:
        headers = {name.lower(): value for name, value in request.headers.items()}
        event = Kept(headers, await request.content.read())
        if request.method != "POST":
            return web.Response(status=405)
        try:
            from_binary(HTTPMessage(dict(headers), event.body), JSONFormat())
        except ValueError as error:
            return web.Response(status=400, text=str(error))
        refusal = self.refuse(event)
        if refusal is not None:
            return refusal
        self._keep(event)
        return web.Response(status=202)

    def _keep(self, event: Kept) -> None:
        self.kept.append(event)
        for trigger in self.triggers:
            if trigger.event_type in {None, event["type"]}:
                trigger.waiting += trigger.copies * [event]
                trigger.news.set()

    async def _deliver(self, trigger: Trigger) -> None:
        async with aiohttp.ClientSession() as client:
            while True:
                await trigger.news.wait()
                trigger.news.clear()
                while trigger.waiting:
                    batch, trigger.waiting = deque(trigger.order(trigger.waiting)), []
                    async with asyncio.TaskGroup() as workers:
                        for _ in range(min(AT_ONCE, len(batch))):
                            workers.create_task(self._work(client, trigger, batch))

    async def _work(
        self, client: aiohttp.ClientSession, trigger: Trigger, batch: deque[Kept]
    ) -> None:
        while batch:
            event = batch.popleft()
            trigger.delivered.append(await self._send(client, trigger, event))

    async def _send(self, client: aiohttp.ClientSession, trigger: Trigger, event: Kept) -> Delivery:
        headers = {
            name: value
            for name, value in event.headers.items()
            if name.startswith("ce-") or name in {"content-type", "traceparent"}
        }
        tries, status, text = 0, 0, ""
        while tries < RETRIES:
            tries += 1
            try:
                async with client.post(
                    trigger.subscriber, headers=headers, data=event.body or None
                ) as answer:
                    status, body = answer.status, await answer.read()
                    text = body.decode("utf-8", "replace")
                    if 200 <= status < 300:
                        self._reply(answer.headers, body)
                        break
                    if status < 500 and status not in _RETRIED:
                        break
            except (aiohttp.ClientError, OSError) as error:
                status, text = 0, str(error)
            await asyncio.sleep(PAUSE)  # a broker's back-off
        return Delivery(event, status, text, tries)

    def _reply(self, headers: Mapping[str, str], body: bytes) -> None:
        told = {name.lower(): value for name, value in headers.items()}
        if "ce-specversion" in told:
            event = Kept(told, body)
            self.replies.append(event)
            self._keep(event)


@asynccontextmanager
async def knative_broker(*triggers: Trigger) -> AsyncIterator[KnativeBroker]:
    """A broker that answers."""
    broker = KnativeBroker()
    await broker.start()
    broker.subscribe(*triggers)
    try:
        yield broker
    finally:
        await broker.close()
