"""dcmtk's SCPs, listening on loopback ports."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from platform_process import free_port

from imaging_ingestion.dicom.scan import scan_bytes

START_TIMEOUT = 30.0  # seconds


@dataclass(frozen=True)
class DcmtkPeer:
    """An SCP of dcmtk."""

    ae_title: str
    port: int
    folder: Path

    def __str__(self) -> str:
        return f"{self.ae_title}@127.0.0.1:{self.port}"

    def data_sets(self) -> dict[str, bytes]:
        """The data sets of the files it has written, by SOP Instance UID."""
        return data_sets_in(self.folder)


def data_sets_in(folder: Path) -> dict[str, bytes]:
    """The data sets of the files there, as they are, by SOP Instance UID."""
    found = {}
    for path in folder.rglob("*"):
        if path.is_file() and path.name not in ("index.dat", "lockfile"):
            content = path.read_bytes()
            header = scan_bytes(content)
            found[str(header.text(0x00080018))] = content[header.dataset_offset :]
    return found


@asynccontextmanager
async def storescp(folder: Path, *options: str, port: int = 0) -> AsyncIterator[DcmtkPeer]:
    """dcmtk's storage SCP, which answers to any title. `+B` writes files exactly as received."""
    await asyncio.to_thread(folder.mkdir, exist_ok=True)
    port = port or free_port()
    command = ["storescp", "-aet", "STORESCP", "-od", str(folder), *options, str(port)]
    async with _running(command, port, folder):
        yield DcmtkPeer("STORESCP", port, folder)


@asynccontextmanager
async def dcmqrscp(folder: Path, destination_port: int = 0) -> AsyncIterator[DcmtkPeer]:
    """dcmtk's archive QRSCP; its destination DEST is on a port of this machine."""
    area = folder / "area"
    await asyncio.to_thread(area.mkdir, parents=True)
    port = free_port()
    config = folder / "dcmqrscp.cfg"
    text = f"""
NetworkTCPPort = {port}
MaxPDUSize = 16384
MaxAssociations = 16
HostTable BEGIN
dest = (DEST, 127.0.0.1, {destination_port or 1})
HostTable END
AETable BEGIN
QRSCP {area} RW (200, 1024mb) ANY
AETable END
"""
    await asyncio.to_thread(config.write_text, text)
    async with _running(["dcmqrscp", "-c", str(config)], port, folder):
        yield DcmtkPeer("QRSCP", port, area)


@asynccontextmanager
async def _running(command: Sequence[str], port: int, folder: Path) -> AsyncIterator[None]:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder
    )
    try:
        async with asyncio.timeout(START_TIMEOUT):
            while not await _listens(port):
                assert process.returncode is None, f"{command[0]} ended by itself"
                await asyncio.sleep(0.02)
        yield
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True
