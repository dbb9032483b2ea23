"""`imaging-ingestion run proxy` as the processes that it is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from platform_process import START_TIMEOUT, free_port

COMMAND = [sys.executable, "-m", "imaging_ingestion.cli.main", "run", "proxy"]


@dataclass
class ProxyProcess:
    """A proxy; `watcher` is the process that was started, `worker` the one that works."""

    process: subprocess.Popen[bytes]
    log: Path
    port: int
    http_port: int
    workers: list[psutil.Process] = field(default_factory=list)

    @property
    def watcher(self) -> psutil.Process:
        return psutil.Process(self.process.pid)

    @property
    def worker(self) -> psutil.Process:
        return self.workers[0]

    def get(self, path: str) -> tuple[int, str]:
        """A page of its HTTP server."""
        url = f"http://127.0.0.1:{self.http_port}{path}"
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def stop(self) -> int:
        """SIGTERM and wait; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


@contextmanager
def proxy_process(folder: Path, *arguments: str, **values: str) -> Iterator[ProxyProcess]:
    """A proxy with these environment variables, once it is ready."""
    folder.mkdir(parents=True, exist_ok=True)
    port, http_port = free_port(), free_port()
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("DIMSE_")},
        "DIMSE_HOST": "127.0.0.1",
        "DIMSE_PORT": str(port),
        "HTTP_PORT": str(http_port),
        **values,
    }
    log = folder / "proxy.log"
    with log.open("ab") as output:
        child = subprocess.Popen(
            [*COMMAND, *arguments],
            env=environment,
            stdout=output,
            stderr=output,
            stdin=subprocess.DEVNULL,
        )
    proxy = ProxyProcess(child, log, port, http_port)
    try:
        _await_ready(proxy)
        proxy.workers = proxy.watcher.children()
        yield proxy
    finally:
        for one in (child, *proxy.workers):
            try:
                one.kill()
            except psutil.NoSuchProcess:
                continue
        child.wait()


def _await_ready(proxy: ProxyProcess) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while True:
        try:
            if proxy.get("/healthz/ready")[0] == 200:
                return
        except OSError:
            pass
        if proxy.process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"the proxy is not ready:\n{proxy.log.read_text()}")
        time.sleep(0.02)  # polling another process: there is nothing to wait on
