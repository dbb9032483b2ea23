"""An HTTP server on a loopback port that does as a test says, good or bad."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

Script = Callable[["Exchange"], Awaitable[None]]

CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2"


@dataclass
class Exchange:
    """One request on its way in, and the answer."""

    method: str
    path: str
    headers: dict[str, str]  # names in lower case
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    size: int = 0  # bytes of the body read
    digest: hashlib._Hash = field(default_factory=hashlib.sha256)
    start: bytes = b""  # of the body

    async def read(self, most: int | None = None) -> None:
        """Read the body, or `most` bytes of it."""
        length = int(self.headers.get("content-length", "0"))
        left = length - self.size if most is None else min(most, length - self.size)
        while left > 0:
            piece = await self.reader.read(min(left, 1 << 16))
            if not piece:
                raise ConnectionError("the client closed in the middle of its body")
            left -= len(piece)
            self.size += len(piece)
            self.digest.update(piece)
            if len(self.start) < 1 << 20:
                self.start += piece

    async def answer(
        self, status: int, body: bytes | dict[str, object] = b"", **headers: str
    ) -> None:
        """Send an answer; header names have `_` for `-`. A body that is no bytes is DICOM JSON."""
        if isinstance(body, dict):
            headers.setdefault("Content_Type", "application/dicom+json")
            body = json.dumps(body).encode()
        lines = [f"HTTP/1.1 {status} Status", f"Content-Length: {len(body)}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.writer.write("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
        await self.writer.drain()

    def close(self, *, hard: bool = False) -> None:
        """Close the connection; `hard` with a reset."""
        if hard:
            self.writer.transport.abort()
        else:
            self.writer.close()


@dataclass
class ScriptedTarget:
    """A server at `url`; each request is one exchange with `script`."""

    script: Script
    port: int = 0
    exchanges: list[Exchange] = field(default_factory=list)
    failures: list[BaseException] = field(default_factory=list)

    @property
    def url(self) -> str:
        """Its root."""
        return f"http://127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Handle one connection."""
        try:
            while head := await _head(reader):
                first, *lines = head.decode("latin-1").split("\r\n")
                method, path, _ = first.split(" ")
                pairs = (line.split(": ", 1) for line in lines if line)
                headers = {name.lower(): text for name, text in pairs}
                exchange = Exchange(method, path, headers, reader, writer)
                self.exchanges.append(exchange)
                await self.script(exchange)
                if writer.is_closing():
                    return
        except ConnectionError:
            return
        except BaseException as error:
            self.failures.append(error)
            raise
        finally:
            writer.close()


async def _head(reader: asyncio.StreamReader) -> bytes | None:
    with contextlib.suppress(asyncio.IncompleteReadError):
        return (await reader.readuntil(b"\r\n\r\n"))[:-4]
    return None


@asynccontextmanager
async def scripted_target(script: Script) -> AsyncIterator[ScriptedTarget]:
    """A target that answers as `script` does; the script may be exchanged at any time."""
    target = ScriptedTarget(script)
    server = await asyncio.start_server(target.serve, "127.0.0.1", 0, limit=1 << 16)
    target.port = server.sockets[0].getsockname()[1]
    try:
        yield target
    finally:
        server.close()
        for exchange in target.exchanges:
            exchange.close(hard=True)
        await server.wait_closed()
    assert target.failures == []


def item(sop_instance_uid: str, **more: object) -> dict[str, object]:
    """An item of a store response, with further attributes by tag (`x00081197=…`)."""
    values = {
        "00081150": ("UI", CT_IMAGE_STORAGE),
        "00081155": ("UI", sop_instance_uid),
        **{tag.removeprefix("x"): ("US", value) for tag, value in more.items()},
    }
    return {tag: {"vr": vr, "Value": [value]} for tag, (vr, value) in values.items()}


def stored_response(sop_instance_uid: str, **more: object) -> dict[str, object]:
    """A store response that says the instance is stored."""
    return {"00081199": {"vr": "SQ", "Value": [item(sop_instance_uid, **more)]}}


def failed_response(sop_instance_uid: str, reason: int) -> dict[str, object]:
    """A store response that says it is not."""
    return {"00081198": {"vr": "SQ", "Value": [item(sop_instance_uid, x00081197=reason)]}}
