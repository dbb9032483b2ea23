"""A process that is a proxy, from its start to its end."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from collections.abc import Callable, Coroutine
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.process_collector import ProcessCollector

from imaging_ingestion.association.tls import TlsError
from imaging_ingestion.cli.health import HealthServer
from imaging_ingestion.cli.process import loop_factory
from imaging_ingestion.nats_client.settings import SettingsError
from imaging_ingestion.tunnel.metrics import TunnelMetrics
from imaging_ingestion.tunnel.proxy import Proxy
from imaging_ingestion.tunnel.settings import ProxySettings
from imaging_ingestion.workers.colleagues import Colleague
from imaging_ingestion.workers.figures import Figures
from imaging_ingestion.workers.turns import Entrance


def exit_code(work: Callable[[], int]) -> int:
    """What `work` returns, or 2 if the proxy cannot be run: why is said on standard error."""
    try:
        return work()
    except SettingsError as error:
        print("The proxy cannot be run:", file=sys.stderr)
        for problem in error.problems:
            print(f"  {problem}", file=sys.stderr)
    except (OSError, TlsError) as error:
        print(f"The proxy cannot be run: {error}", file=sys.stderr)
    return 2


def run(work: Coroutine[Any, Any, int]) -> int:
    """Run it in an event loop."""
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(work)


def _tell(text: str) -> None:
    print(text, flush=True)


class ProxyProcess:
    """One proxy in this process, alone or among others, until it is told to stop."""

    def __init__(
        self,
        settings: ProxySettings,
        process_id: bytes,
        alive: int,
        ready: Callable[[str], None] = _tell,
    ) -> None:
        """`alive` is a file descriptor that comes to its end with the process that watches this
        one; `ready` is told where it answers.
        """
        self._settings = settings
        self._process_id = process_id
        self._alive = alive
        self._ready = ready

    async def serve(self, http_host: str, http_port: int) -> int:
        """Be the proxy; the exit code. Raises SettingsError, OSError, TlsError."""
        registry = CollectorRegistry()
        proxy = self._proxy(registry, None)
        health = HealthServer(proxy.why_not_ready, registry)
        await health.start(http_host, http_port)
        return await self._run(proxy, health, http_host)

    async def share(
        self, http_host: str, pages: socket.socket, entrance: Entrance, colleague: Colleague
    ) -> int:
        """Be one of several: accept at `entrance`, answer on `pages`. As `serve`."""
        own, registry = CollectorRegistry(), CollectorRegistry()
        figures = Figures(own, colleague)
        registry.register(figures)
        proxy = self._proxy(own, entrance)
        colleague.answer_with(figures.packed)
        health = HealthServer(proxy.why_not_ready, registry, figures)
        await health.share(pages)
        try:
            return await self._run(proxy, health, http_host)
        finally:
            await colleague.stop()

    def _proxy(self, registry: CollectorRegistry, entrance: Entrance | None) -> Proxy:
        ProcessCollector(registry=registry)
        return Proxy(
            self._settings, TunnelMetrics(registry), process_id=self._process_id, entrance=entrance
        )

    async def _run(self, proxy: Proxy, health: HealthServer, http_host: str) -> int:
        stop, orphaned = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)

        def parent_died() -> None:
            loop.remove_reader(self._alive)
            orphaned.set()
            stop.set()

        loop.add_reader(self._alive, parent_died)
        try:
            await proxy.start()
            self._ready("\n".join(self._words(proxy, health, http_host)))
            await stop.wait()
            if not orphaned.is_set():
                orphan = asyncio.ensure_future(orphaned.wait())
                stopped = asyncio.ensure_future(proxy.stop())
                await asyncio.wait({orphan, stopped}, return_when=asyncio.FIRST_COMPLETED)
                orphan.cancel()
                if stopped.done():
                    await stopped
                    return 0
                stopped.cancel()
            await proxy.end("the process that watches the proxy was killed")
            return 1
        finally:
            await health.stop()

    def _words(self, proxy: Proxy, health: HealthServer, http_host: str) -> list[str]:
        """Where it answers, for people."""
        settings, target = self._settings, self._settings.target
        where = (
            "nowhere" if target is None else f"{target.ae_title or '*'}@{target.host}:{target.port}"
        )
        return [
            f"imaging-ingestion proxy {settings.ae_title or '*'}@{settings.host}:{proxy.port}",
            f"  channel  {settings.subjects.root}.{settings.subjects.channel}",
            f"  target   {where}",
            f"  health   http://{http_host}:{health.port}/healthz/ready",
        ]
