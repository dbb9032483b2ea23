"""One space with C-ECHO and C-STORE on a port, as `up` has it: what benchmarks/dimse.py measures.

    python benchmarks/dimse_server.py --port 11112 --data FOLDER

SQLite, a directory and the embedded broker, fsync on: an answer of success means object, manifest
and event are durable.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
from datetime import timedelta
from pathlib import Path

import structlog

from imaging_ingestion.association.listener import Listener
from imaging_ingestion.association.services.echo import EchoService
from imaging_ingestion.association.services.store import StoreService
from imaging_ingestion.brokers.embedded import BrokerSettings, EmbeddedBroker
from imaging_ingestion.cli.up import loop_factory, tune_interpreter
from imaging_ingestion.dimse.acceptor import AcceptorPolicy, ContextPolicy
from imaging_ingestion.dimse.sop_class import (
    DATA_SET_TRANSFER_SYNTAXES,
    VERIFICATION,
    storage_sop_classes,
    storage_transfer_syntaxes,
)
from imaging_ingestion.intake import Intake
from imaging_ingestion.manifest.database import open_database
from imaging_ingestion.manifest.event_data import SpaceRoots
from imaging_ingestion.manifest.migrate import migrate
from imaging_ingestion.storage.directory import DirectorySpace


async def serve(port: int, data: Path) -> None:
    """Serve until SIGTERM."""
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    await asyncio.to_thread(data.mkdir, parents=True, exist_ok=True)
    database = open_database(f"sqlite:///{data / 'manifest.db'}")
    await migrate(database)
    space = DirectorySpace("default", data / "space")
    broker = EmbeddedBroker(
        database,
        BrokerSettings(
            core="bench",
            revisioning_delay=timedelta(seconds=30),
            roots_of=lambda _space: SpaceRoots(
                "http://127.0.0.1/dicom-web", "http://127.0.0.1/dicom-web"
            ),
            api_url="http://127.0.0.1/api",
        ),
    )
    await broker.start()
    intake = Intake(space, broker)
    store = StoreService(intake, "bench")
    storage = ContextPolicy(storage_transfer_syntaxes())
    listener = Listener(
        AcceptorPolicy(
            {
                **dict.fromkeys(storage_sop_classes(), storage),
                VERIFICATION: ContextPolicy(DATA_SET_TRANSFER_SYNTAXES),
            }
        ),
        {**dict.fromkeys(storage_sop_classes(), store), VERIFICATION: EchoService()},
    )
    await listener.listen("127.0.0.1", port)
    await stopping.wait()
    await listener.stop()
    await intake.close()
    await broker.stop()
    await space.close()
    await database.close()


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--data", type=Path, required=True)
    arguments = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.INFO))
    tune_interpreter()
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(serve(arguments.port, arguments.data))


if __name__ == "__main__":
    main()
