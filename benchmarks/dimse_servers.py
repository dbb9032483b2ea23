"""The C-STORE SCPs that benchmarks/dimse.py compares, each on a free port with an empty folder."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from dimse_client import RefusedError, StoreClient
from servers import START_TIMEOUT, free_port


@dataclass(frozen=True, slots=True)
class Scp:
    """A listening application entity, and which process it is."""

    name: str
    port: int
    pid: int

    def cpu_seconds(self) -> float:
        """User and system time of the process and its children so far, the ended ones too."""
        process = psutil.Process(self.pid)
        total = 0.0
        for one in [process, *process.children(recursive=True)]:
            try:
                times = one.cpu_times()
            except psutil.NoSuchProcess:  # its time is the parent's now
                continue
            total += times.user + times.system + times.children_user + times.children_system
        return total

    def rss_mib(self) -> float:
        """Resident memory of the process, MiB."""
        return float(psutil.Process(self.pid).memory_info().rss) / 2**20


Start = Callable[[Path], AbstractContextManager[Scp]]


SITE = """\
apiVersion: imaging-ingestion.alvearie.org/v1alpha1
kind: DicomEventDrivenIngestion
metadata: {name: core}
---
apiVersion: imaging-ingestion.alvearie.org/v1alpha1
kind: DimseIngestionService
metadata: {name: bench}
spec: {dicomEventDrivenIngestionName: core, applicationEntityTitle: BENCH}
"""


@contextmanager
def ours(folder: Path) -> Iterator[Scp]:
    """`imaging-ingestion up` on its embedded defaults: object, manifest and event with fsync."""
    port = free_port()
    folder.mkdir(parents=True, exist_ok=True)
    site = folder / "site.yaml"
    site.write_text(SITE)
    command = [sys.executable, "-m", "imaging_ingestion.cli.main", "up", "-f", str(site)]
    command += ["--data", str(folder / "ours"), "--http-port", "0", "--dimse-port", str(port)]
    with _process("imaging-ingestion", command, port, folder) as scp:
        yield scp


@contextmanager
def orthanc(folder: Path) -> Iterator[Scp]:
    """Debian's Orthanc: object and index with fsync (its default)."""
    binary = shutil.which("Orthanc") or "/usr/sbin/Orthanc"
    if not Path(binary).exists():
        raise SystemExit("Orthanc is missing: apt-get install orthanc")
    port = free_port()
    configuration = {
        "Name": "BENCH",
        "StorageDirectory": str(folder / "orthanc"),
        "IndexDirectory": str(folder / "orthanc"),
        "HttpPort": free_port(),
        "DicomServerEnabled": True,
        "DicomPort": port,
        "DicomAet": "BENCH",
        "DicomCheckCalledAet": False,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "SyncStorageArea": True,
    }
    file = folder / "orthanc.json"
    folder.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(configuration))
    with _process("Orthanc", [binary, str(file)], port, folder) as scp:
        yield scp


@contextmanager
def pynetdicom(folder: Path) -> Iterator[Scp]:
    """pynetdicom's storescp: files, no index, no fsync."""
    port = free_port()
    target = folder / "pynetdicom"
    target.mkdir(parents=True)
    command = [sys.executable, "-m", "pynetdicom", "storescp", str(port), "-od", str(target)]
    with _process("pynetdicom storescp", command, port, folder) as scp:
        yield scp


@contextmanager
def dcmtk(folder: Path) -> Iterator[Scp]:
    """dcmtk's storescp, a process an association: files, no index, no fsync."""
    port = free_port()
    target = folder / "dcmtk"
    target.mkdir(parents=True)
    command = ["storescp", "--fork", "-od", str(target), "-pdu", "131072", "-uf", str(port)]
    with _process("dcmtk storescp", command, port, folder) as scp:
        yield scp


@contextmanager
def _process(name: str, command: list[str], port: int, folder: Path) -> Iterator[Scp]:
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / f"{name}.log"
    with log.open("wb") as output:
        child = subprocess.Popen(command, stdout=output, stderr=output)
        try:
            _await(name, port, child, log)
            yield Scp(name, port, child.pid)
        finally:
            child.send_signal(signal.SIGTERM)
            child.wait(60)


def _await(name: str, port: int, child: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until an association is accepted."""
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline:
        if child.poll() is not None:
            raise SystemExit(f"{name} ended with {child.returncode}:\n{log.read_text()[-2000:]}")
        try:
            StoreClient("127.0.0.1", port).close()
        except (OSError, RefusedError):
            time.sleep(0.05)
        else:
            return
    raise SystemExit(f"{name} does not answer within {START_TIMEOUT:.0f} s")
