"""Starts the servers a benchmark compares, each on a free port with an empty data folder."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

START_TIMEOUT = 60.0  # seconds


@dataclass(frozen=True, slots=True)
class Server:
    """A running server: where its DICOMweb root is, and which process it is."""

    name: str
    base_url: str
    pid: int

    def cpu_seconds(self) -> float:
        """User and system time of the process and its children so far."""
        process = psutil.Process(self.pid)
        times = [process.cpu_times(), *(c.cpu_times() for c in process.children(recursive=True))]
        return sum(t.user + t.system for t in times)

    def rss_mib(self) -> float:
        """Resident memory of the process, MiB."""
        return float(psutil.Process(self.pid).memory_info().rss) / 2**20


def free_port() -> int:
    """A loopback TCP port nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def orthanc(folder: Path) -> Iterator[Server]:
    """Debian's Orthanc with its DICOMweb plug-in, fsync on (its default)."""
    binary = shutil.which("Orthanc")
    if binary is None:
        raise SystemExit("Orthanc is missing: apt-get install orthanc orthanc-dicomweb")
    port = free_port()
    plugin = next(Path("/usr").rglob("libOrthancDicomWeb.so*"))
    configuration = {
        "Name": "BENCH",
        "StorageDirectory": str(folder / "orthanc"),
        "IndexDirectory": str(folder / "orthanc"),
        "HttpPort": port,
        "DicomServerEnabled": False,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "SyncStorageArea": True,
        "Plugins": [str(plugin)],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
    file = folder / "orthanc.json"
    file.write_text(json.dumps(configuration))
    with _process(
        "Orthanc",
        [binary, str(file)],
        f"http://127.0.0.1:{port}/dicom-web",
        "/studies?limit=1",
        folder,
    ) as server:
        yield server


@contextmanager
def ours(folder: Path, *extra: str, dimse: bool = True) -> Iterator[Server]:
    """`imaging-ingestion up`, on its embedded defaults unless `extra` says otherwise.

    `dimse`: it has a DIMSE service, which takes a free port.
    """
    port = free_port()
    command = [sys.executable, "-m", "imaging_ingestion.cli.main", "up"]
    command += ["--data", str(folder / "ours"), "--http-port", str(port)]
    command += [*(("--dimse-port", "0") if dimse else ()), *extra]
    with _process(
        "imaging-ingestion",
        command,
        f"http://127.0.0.1:{port}/dicom-web",
        "/studies?limit=1",
        folder,
    ) as server:
        yield server


@contextmanager
def _process(
    name: str, command: list[str], base_url: str, probe: str, folder: Path
) -> Iterator[Server]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{name}.log").open("wb") as log:
        child = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            _await(base_url + probe, child, folder / f"{name}.log")
            yield Server(name, base_url, child.pid)
        finally:
            child.send_signal(signal.SIGTERM)
            child.wait(60)


def _await(url: str, child: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline:
        if child.poll() is not None:
            raise SystemExit(
                f"the server ended with {child.returncode}:\n{log.read_text()[-2000:]}"
            )
        try:
            with urllib.request.urlopen(url, timeout=1) as answer:
                if answer.status < 300:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
    raise SystemExit(f"no answer from {url} within {START_TIMEOUT:.0f} s")
