"""More connections than there is room for: in the listener, and in the process."""

from __future__ import annotations

import asyncio
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dimse_site import AE_TITLE, CT, dimse_site
from loops import BOTH_LOOPS

from imaging_ingestion.association.listener import ListenerSettings
from imaging_ingestion.dimse.pdu import encode_pdu
from imaging_ingestion.dimse.requestor import build_request

pytestmark = BOTH_LOOPS

#: Connects so often, and says nothing; then once more, with a request.
CROWD = """
import socket, sys
port, number, request = int(sys.argv[1]), int(sys.argv[2]), bytes.fromhex(sys.argv[3])
sys.stdin.readline()
crowd = [socket.create_connection(("127.0.0.1", port)) for _ in range(number)]
last = socket.create_connection(("127.0.0.1", port), timeout=60)
last.sendall(request)
print("accepted" if last.recv(1) == bytes([2]) else "not accepted", flush=True)
sys.stdin.read()
"""


async def test_a_connection_that_is_crowded_out_at_once_is_closed(tmp_path: Path) -> None:
    settings = ListenerSettings(max_waiting=0)
    async with dimse_site(tmp_path / "site", settings=settings) as site:
        for _ in range(20):
            reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
            async with asyncio.timeout(30):
                with suppress(ConnectionError):
                    assert await reader.read() == b""
            writer.close()


async def test_a_listener_that_stops_while_many_connect_leaves_none_open(tmp_path: Path) -> None:
    for number in range(10):
        writers = []
        async with dimse_site(tmp_path / f"site-{number}") as site:
            for _ in range(20):
                _, writer = await asyncio.open_connection("127.0.0.1", site.port)
                writers.append(writer)
            async with asyncio.timeout(30):
                await site.listener.stop()
        for writer in writers:
            writer.transport.abort()


@contextmanager
def few_descriptors(spare: int) -> Iterator[None]:
    """This process may open so many files more."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1 + spare, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


async def test_a_crowd_that_takes_every_descriptor_is_made_to_go(tmp_path: Path) -> None:
    settings = ListenerSettings(max_waiting=10_000, artim=600)
    request = encode_pdu(build_request([CT], called_ae_title=AE_TITLE, calling_ae_title="LAST"))
    async with dimse_site(tmp_path / "site", settings=settings) as site:
        command = [sys.executable, "-c", CROWD, str(site.port), "300", request.hex()]
        crowd = await asyncio.to_thread(
            subprocess.Popen, command, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert crowd.stdin is not None
        assert crowd.stdout is not None
        try:
            with few_descriptors(40):
                crowd.stdin.write(b"go\n")
                crowd.stdin.flush()
                answer = await asyncio.to_thread(crowd.stdout.readline)
        finally:
            crowd.stdin.close()
            await asyncio.to_thread(crowd.wait, 30)
            crowd.stdout.close()
        assert answer == b"accepted\n"
        await site.assert_serves()
