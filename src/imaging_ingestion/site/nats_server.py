"""A NATS server of the site's own, for proxies and services that name none: on loopback, by token.

It is a child process that ends with this one, whatever ends it, and is started again on its port if
it ends by itself. What waits is kept by those who talk over it (docs/tunnel.md), so it keeps
nothing on the disk, but for the streams of a core whose broker is JetStream.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import secrets
import shutil
import signal
import sys
import sysconfig
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import structlog

from imaging_ingestion.resources.site_file import SiteError

log = structlog.get_logger(__name__)

PROGRAM: Final = "nats-server"
#: Seconds: until it answers; until one that ended is started again; until one is killed.
_START: Final = 20.0
_AGAIN: Final = 1.0
_STOP: Final = 5.0
_POLL: Final = 0.02
#: Bytes of a message, at most: a tunnel's chunk and its header are well below.
_LARGEST_MESSAGE: Final = 8 << 20
_PR_SET_PDEATHSIG: Final = 1


@dataclass(frozen=True, slots=True)
class NatsAddress:
    """Where a server answers, and to whom."""

    url: str
    token: str = field(repr=False)


class NatsServer:
    """One server. `address` is for its clients, after `start`."""

    def __init__(
        self, port: int | None = None, token: str | None = None, *, store: Path | None = None
    ) -> None:
        """`port` None takes a free one, `token` None makes one; `store`: where it keeps streams."""
        self.token = secrets.token_urlsafe(24) if token is None else token
        self.port = -1 if port is None else port  # -1: a free one
        self._store = store
        self._folder: Path | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"nats://127.0.0.1:{self.port}"

    @property
    def address(self) -> NatsAddress:
        """Where it answers, and to whom."""
        return NatsAddress(self.url, self.token)

    async def start(self) -> None:
        """Start it, and wait until it answers. Raises SiteError."""
        program = find_program()
        if program is None:
            raise SiteError(
                [
                    f"a proxy, service or broker names no NATS server, and {PROGRAM} is not "
                    "installed: install imaging-ingestion[nats], or give spec.natsUrl"
                ]
            )
        self._folder = Path(tempfile.mkdtemp(prefix="imaging-ingestion-nats-"))
        try:
            await self._run(program)
        except OSError as error:
            raise SiteError([f"{program} cannot be run: {error}"]) from error
        self._keeper = asyncio.get_running_loop().create_task(self._keep(program))
        log.info("nats.started", url=self.url)

    async def stop(self) -> None:
        """End it. Harmless twice."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait({self._keeper})
            self._keeper = None
        await self._end()
        if self._folder is not None:
            await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)
            self._folder = None

    # ---- its own

    async def _run(self, program: str) -> None:
        """One run of the program, from here to where it answers. Raises OSError, SiteError."""
        assert self._folder is not None
        config = self._folder / "server.conf"
        await asyncio.to_thread(_write_secret, config, self._config())
        self._process = await asyncio.create_subprocess_exec(
            program,
            "-c",
            str(config),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,  # a Ctrl-C is for us; it is still needed while we stop
            preexec_fn=_ends_with_parent() if sys.platform == "linux" else None,
        )
        try:
            async with asyncio.timeout(_START):
                self.port = await self._answering_port()
        except TimeoutError:
            await self._end()
            raise SiteError([f"{program} did not start in {_START:.0f} seconds"]) from None

    def _config(self) -> str:
        # A path as JSON has its quotation marks and backslashes escaped as the server reads them.
        store = "" if self._store is None else json.dumps(str(self._store))
        return (
            f'listen: "127.0.0.1:{self.port}"\n'
            f'ports_file_dir: "{self._folder}"\n'
            f'authorization {{ token: "{self.token}" }}\n'
            f"max_payload: {_LARGEST_MESSAGE}\n"
            + (f"jetstream {{ store_dir: {store} }}\n" if store else "")
        )

    async def _answering_port(self) -> int:
        """The port, once it can be connected to. Raises SiteError if the process ends."""
        assert self._process is not None
        assert self._folder is not None
        file = self._folder / f"{PROGRAM}_{self._process.pid}.ports"
        while True:  # polling another process: there is nothing to wait on
            if self._process.returncode is not None:
                raise SiteError([f"{PROGRAM} ended at once, with {self._process.returncode}"])
            with contextlib.suppress(OSError, ValueError, LookupError):
                (url,) = json.loads(await asyncio.to_thread(file.read_bytes))["nats"]
                port = int(url.rpartition(":")[2])
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                return port
            await asyncio.sleep(_POLL)

    async def _keep(self, program: str) -> None:
        """Start it again whenever it has ended."""
        while True:
            if self._process is not None:
                ended = await self._process.wait()
                log.error("nats.ended", exit_code=ended, url=self.url)
            await asyncio.sleep(_AGAIN)
            try:
                await self._run(program)
                log.info("nats.started", url=self.url)
            except (OSError, SiteError) as error:
                log.warning("nats.not_started", error=str(error))

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(_STOP):
                await process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def find_program() -> str | None:
    """The nats-server beside this Python, or in the PATH."""
    return shutil.which(PROGRAM, path=sysconfig.get_path("scripts")) or shutil.which(PROGRAM)


def _write_secret(file: Path, text: str) -> None:
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "w", encoding="utf-8") as stream:
        stream.write(text)


def _ends_with_parent() -> Callable[[], None]:
    """For the child: to be ended by the kernel when the parent is gone, even if that was killed."""
    prctl = ctypes.CDLL(None).prctl

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)

    return ask
