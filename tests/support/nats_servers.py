"""Real nats-server processes on free loopback ports, each stopped by its own process id."""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from platform_process import free_port

START_TIMEOUT = 30.0  # seconds


@dataclass
class NatsServer:
    """One server; may be killed and started again on its port."""

    folder: Path
    config: str = ""
    port: int = field(default_factory=free_port)
    host: str = "127.0.0.1"
    process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """HOST:PORT."""
        return f"{self.host}:{self.port}"

    @property
    def log(self) -> Path:
        """What it printed."""
        return self.folder / "nats.log"

    def start(self) -> NatsServer:
        """Start it, and wait until it greets."""
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / "nats.conf"
        file.write_text(f'listen: "{self.address}"\n{self.config}')
        program = Path(sys.executable).with_name("nats-server")
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [program, "-c", str(file)], stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
        deadline = time.monotonic() + START_TIMEOUT
        while not self._greets():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"nats-server does not start:\n{self.log.read_text()}")
            time.sleep(0.01)  # polling another process: there is nothing to wait on
        return self

    def kill(self) -> None:
        """SIGKILL."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def _greets(self) -> bool:
        try:
            with socket.create_connection((self.host, self.port), timeout=1) as connection:
                return connection.recv(4) == b"INFO"
        except OSError:
            return False


def _jetstream(folder: str) -> str:
    return f'jetstream {{ store_dir: "{folder}/jetstream", max_file_store: 4G }}\n'


@contextmanager
def nats_server(config: str = "", *, jetstream: bool = False) -> Iterator[NatsServer]:
    """A single server, which keeps streams in its folder if that is asked for."""
    with tempfile.TemporaryDirectory(prefix="nats") as folder:
        server = NatsServer(Path(folder), config + (_jetstream(folder) if jetstream else ""))
        try:
            yield server.start()
        finally:
            server.kill()


@contextmanager
def nats_cluster(size: int = 3, *, jetstream: bool = False) -> Iterator[list[NatsServer]]:
    """Servers that know each other."""
    routes = [free_port() for _ in range(size)]
    others = ", ".join(f'"nats-route://127.0.0.1:{port}"' for port in routes)
    with ExitStack() as stack:
        servers = []
        for number, route in enumerate(routes):
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="nats"))
            config = (
                f"server_name: n{number}\n"
                f'cluster {{ name: c, listen: "127.0.0.1:{route}", routes: [{others}] }}\n'
            ) + (_jetstream(folder) if jetstream else "")
            server = NatsServer(Path(folder), config)
            stack.callback(server.kill)
            servers.append(server.start())
        _await_routes(servers)
        yield servers


def _await_routes(servers: list[NatsServer]) -> None:
    """Wait until each knows all of them: it tells its clients of the others."""
    deadline = time.monotonic() + START_TIMEOUT
    for server in servers:
        while True:
            with socket.create_connection((server.host, server.port), timeout=1) as connection:
                info = connection.recv(65536)
            if all(f":{other.port}".encode() in info for other in servers):
                break
            assert time.monotonic() < deadline, "the cluster does not form"
            time.sleep(0.02)  # polling another process


@pytest.fixture(scope="session")
def nats() -> Iterator[NatsServer]:
    """A server of this test process, for whoever has a subject root of its own."""
    with nats_server() as server:
        yield server
