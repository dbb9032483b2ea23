"""`up --workers N`: a site as several processes, and one that watches them."""

from __future__ import annotations

import asyncio
import gc
import os
import secrets
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

from imaging_ingestion.cli.process import configure_logging, loop_factory
from imaging_ingestion.cli.supervisor import Job, Line, Supervisor
from imaging_ingestion.resources.plan import SitePlan
from imaging_ingestion.resources.site_file import SiteError
from imaging_ingestion.site.addresses import RunningSite
from imaging_ingestion.site.nats_server import NatsAddress, NatsServer
from imaging_ingestion.site.running import run_site
from imaging_ingestion.site.shared import SharedSite, share_site


class Workers:
    """The workers of one site, as jobs of a supervisor."""

    def __init__(
        self,
        plan: SitePlan,
        data: Path,
        host: str,
        shared: SharedSite,
        run: Callable[[Callable[[], None]], int],
        words: Callable[[RunningSite], str],
        *,
        log_json: bool,
    ) -> None:
        """`run` calls a function for its exit code, as `up` does; `words` are for people."""
        self._plan = plan
        self._data = data
        self._host = host
        self._shared = shared
        self._run = run
        self._words = words
        self._log_json = log_json
        self._told = ""
        self._token = secrets.token_urlsafe(24)
        self._nats: NatsAddress | None = None
        self._nats_port: int | None = None

    def supervise(self, number: int) -> int:
        """Run so many workers until we are told to stop; the exit code."""
        jobs = [self._job(one) for one in range(1, number + 1)]
        stages = [jobs[:1], jobs[1:]]  # the first one finds the mistakes, and migrates
        if self._shared.needs_nats:
            stages.insert(
                0, [Job("nats", self._keep_nats, on_ready=self._nats_is_ready, is_needed=True)]
            )

        def ready() -> None:
            print(f"{self._told}\n  workers   {number}", flush=True)

        gc.freeze()  # what is here now is never collected, so its pages stay shared
        return Supervisor(stages, on_ready=ready, on_stop=self._shared.close).run()

    def _job(self, number: int) -> Job:
        def is_ready(text: str) -> None:
            self._told = self._told or text

        return Job(
            f"worker {number}",
            partial(self._work, number),
            on_ready=is_ready,
            on_death=lambda _code: self._shared.left(number),
        )

    def _work(self, number: int, line: Line) -> int:
        """In a process of its own."""
        configure_logging(as_json=self._log_json, worker=number)
        worker = self._shared.worker(number, self._nats)

        def serve() -> None:
            with asyncio.Runner(loop_factory=loop_factory()) as runner:
                runner.run(
                    run_site(
                        self._plan,
                        data=self._data,
                        host=self._host,
                        http_port=worker.http.port,
                        ready=lambda site: line.ready(self._words(site)),
                        worker=worker,
                        alive=line.alive,
                    )
                )

        return self._run(serve)

    # ---- the site's own NATS server: in a process beside them, for each of them may die

    def _nats_is_ready(self, port: str) -> None:
        self._nats_port = int(port)
        self._nats = NatsAddress(f"nats://127.0.0.1:{port}", self._token)

    def _keep_nats(self, line: Line) -> int:
        """In a process of its own."""
        configure_logging(as_json=self._log_json)
        os.setsid()  # a Ctrl-C is for the others: they need it while they stop
        self._shared.close()
        return self._run(lambda: asyncio.run(self._serve_nats(line)))

    async def _serve_nats(self, line: Line) -> None:
        server = NatsServer(self._nats_port, self._token, store=self._shared.nats_store)
        stopping = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stopping.set)
        loop.add_reader(line.alive, stopping.set)
        try:
            await server.start()
            line.ready(str(server.port))
            await stopping.wait()
        finally:
            loop.remove_reader(line.alive)
            await server.stop()


def share(plan: SitePlan, data: Path, host: str, http_port: int, workers: int) -> SharedSite:
    """Listen for the workers. Raises SiteError, OSError."""
    if workers > 1 and not hasattr(os, "fork"):
        raise SiteError(["--workers: this system cannot do it (no fork): 1 was expected"])
    return asyncio.run(share_site(plan, data, host, http_port, workers))
