"""The real platform as a child process, for tests that need all of it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

START_TIMEOUT = 60.0  # seconds; a loaded machine starts slowly


def free_port() -> int:
    """A loopback TCP port nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@dataclass
class Platform:
    """`imaging-ingestion up` over one data folder; may be killed and started again."""

    folder: Path
    site: str | None = None  # YAML text; None is the built-in site
    port: int = field(default_factory=free_port)
    #: Of the built-in site's DIMSE service; a site file says its own.
    dimse_port: int = field(default_factory=free_port)
    #: A command that runs the one that follows it, in the same process.
    prefix: tuple[str, ...] = ()
    #: Further options of `up`.
    options: tuple[str, ...] = ()
    #: More of `up`.
    options: tuple[str, ...] = ()
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The server's root URL."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def dicomweb(self) -> str:
        """The DICOMweb root of the default space."""
        return f"{self.url}/dicom-web"

    @property
    def data(self) -> Path:
        """The platform's data folder."""
        return self.folder / "data"

    @property
    def log(self) -> Path:
        """What the process printed."""
        return self.folder / "platform.log"

    def start(self) -> Platform:
        """Start the process and wait until it says it is ready."""
        self.folder.mkdir(parents=True, exist_ok=True)
        command = [*self.prefix, sys.executable, "-m", "imaging_ingestion.cli.main", "up"]
        command += ["--data", str(self.data), "--http-port", str(self.port), *self.options]
        if self.site is None:
            command += ["--dimse-port", str(self.dimse_port)]
        else:
            file = self.folder / "site.yaml"
            file.write_text(self.site)
            command += ["-f", str(file)]
        command += self.options
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=os.environ
            )
        self._await_ready()
        return self

    def kill(self) -> None:
        """SIGKILL, at once."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM and wait; the exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def _await_ready(self) -> None:
        assert self.process is not None
        deadline = time.monotonic() + START_TIMEOUT
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise RuntimeError(
                    f"the platform ended with {self.process.returncode}:\n"
                    f"{self.log.read_text()[-4000:]}"
                )
            try:
                with urllib.request.urlopen(f"{self.url}/healthz/ready", timeout=2) as answer:
                    if answer.status == 200:
                        return
            except (urllib.error.URLError, OSError):
                time.sleep(0.05)  # polling another process: there is nothing to wait on
        raise RuntimeError(f"not ready in {START_TIMEOUT} s:\n{self.log.read_text()[-4000:]}")
