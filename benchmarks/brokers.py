"""What a broker delivers: instances recorded, carried, given to a binding's handler and answered.

    python benchmarks/brokers.py [--instances N] [--url DATABASE] [--rounds N]

The embedded broker and the one over NATS JetStream (a server of this machine, file storage) take
turns in one run. Senders accept instances as fast as they are recorded; the handler answers at
once. Told are instances a second until the last was accepted and until the last was delivered and
written down, events a second into the streams (each instance is two), and how long one instance
alone takes from its acceptance to its handler. The median of the rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import structlog

from imaging_ingestion.brokers.dispatcher import BrokerSettings
from imaging_ingestion.brokers.embedded import EmbeddedBroker
from imaging_ingestion.brokers.jetstream import JetStreamBroker, JetStreamSettings
from imaging_ingestion.brokers.log_broker import LogBroker
from imaging_ingestion.events.broker import Delivered, Subscription
from imaging_ingestion.events.model import DICOM_AVAILABLE, Event
from imaging_ingestion.events.stored import StoredInstance
from imaging_ingestion.manifest import ledger
from imaging_ingestion.manifest.database import Database, open_database
from imaging_ingestion.manifest.event_data import SpaceRoots
from imaging_ingestion.manifest.migrate import migrate
from imaging_ingestion.nats_client.settings import NatsSettings
from imaging_ingestion.site.nats_server import NatsServer
from record import instances

SENDERS = 64
ALONE = 30  # instances, one after the other
_POLL = 0.005

Make = Callable[[Database, BrokerSettings], LogBroker]


def settings(core: str) -> BrokerSettings:
    return BrokerSettings(
        core=core,
        revisioning_delay=timedelta(hours=1),
        roots_of=lambda space: SpaceRoots(f"http://here/{space}", f"http://here/{space}"),
        api_url="http://here/api",
    )


class Handler:
    """Answers at once."""

    def __init__(self) -> None:
        self.number = 0
        self.arrived = asyncio.Event()

    async def __call__(self, _event: Event) -> Delivered:
        self.number += 1
        self.arrived.set()
        return Delivered()


async def measure(
    database: Database, make: Make, core: str, source: Iterator[StoredInstance], number: int
) -> dict[str, float]:
    """One round of one broker."""
    handler, binding = Handler(), f"{core}-binding"
    broker = make(database, settings(core))
    broker.subscribe(Subscription(binding, DICOM_AVAILABLE, concurrency=32), handler)
    await broker.start()
    delays = []
    for one in itertools.islice(source, ALONE):
        handler.arrived.clear()
        began = time.perf_counter()
        await broker.accept(one)
        await handler.arrived.wait()
        delays.append(time.perf_counter() - began)
    batch = list(itertools.islice(source, number))
    began, cpu = time.perf_counter(), time.process_time()
    left = iter(batch)

    async def send() -> None:
        for one in left:
            await broker.accept(one)

    async with asyncio.TaskGroup() as senders:
        for _ in range(SENDERS):
            senders.create_task(send())
    accepted = time.perf_counter() - began
    carried = delivered = 0.0
    while not delivered:
        now = time.perf_counter() - began
        if isinstance(broker, JetStreamBroker) and not carried:
            carried = now if broker.outbox.state.carried >= 2 * (number + ALONE) else 0.0
        counts = (await database.read(ledger.summary))[binding]
        delivered = now if counts["delivered"] == number + ALONE else 0.0
        await asyncio.sleep(_POLL)  # the ledger tells nobody
    cpu = time.process_time() - cpu
    await broker.stop()
    return {
        "accepted/s": number / accepted,
        "delivered/s": number / delivered,
        "events carried/s": 2 * number / carried if carried else 0.0,
        "CPU ms": cpu / number * 1e3,
        "alone ms": statistics.median(delays) * 1e3,
    }


async def run(folder: Path, url: str | None, number: int, rounds: int) -> None:
    server = NatsServer(store=folder / "nats")
    await server.start()
    nats = NatsSettings((server.url,), token=server.token)
    makes: dict[str, Make] = {
        "embedded": EmbeddedBroker,
        "jetstream": lambda database, of: JetStreamBroker(database, of, JetStreamSettings(nats)),
    }
    found: dict[str, list[dict[str, float]]] = {kind: [] for kind in makes}
    source = instances()
    try:
        for turn in range(rounds):
            for kind, make in makes.items():
                # A database of its own on SQLite; on a server one that grows.
                database = open_database(url or f"sqlite:///{folder}/{kind}-{turn}.db")
                await migrate(database)
                core = f"{kind}-{turn}-{time.time_ns()}"
                found[kind].append(await measure(database, make, core, source, number))
                await database.close()
    finally:
        await server.stop()
    for kind, results in found.items():
        figures = ", ".join(
            f"{name} {statistics.median(one[name] for one in results):.3g}" for name in results[0]
        )
        print(f"{kind:10} {figures}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--instances", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--url", help="of a database; SQLite in a new folder if left out")
    arguments = parser.parse_args()
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    with TemporaryDirectory() as folder:
        asyncio.run(run(Path(folder), arguments.url, arguments.instances, arguments.rounds))


if __name__ == "__main__":
    main()
