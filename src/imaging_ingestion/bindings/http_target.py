"""How the bindings speak HTTP: time-outs, credentials, and what an answer means for the delivery.

A target that cannot be reached, is slow, overloaded (408, 425, 429) or broken (5xx) is tried again;
any other 3xx or 4xx is the target's own word that this request is wrong, and makes a dead letter.
Redirects are not followed: credentials and patient data go where the site says, nowhere else.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime

import aiohttp

from imaging_ingestion.events.broker import RefusedError, TryAgainError
from imaging_ingestion.events.retry import retry_after_seconds

CONNECT_TIMEOUT = 10.0  # seconds
#: A target that takes nothing for this long while a request is being sent counts as gone.
IDLE_TIMEOUT = 60.0  # seconds
#: From the end of the request it has this long to answer, and time for each byte it was sent.
ANSWER_TIMEOUT = 60.0  # seconds
DIGESTED = 10 << 20  # bytes a second
#: Bytes of an answer that are read at most; more is no answer we understand.
ANSWER_LIMIT = 16 << 20
#: Characters of an answer that are kept in the ledger.
QUOTED = 1000

_PIECE = 64 << 10  # bytes handed over at once
_TRY_AGAIN = frozenset({408, 425, 429})


@dataclass(frozen=True, slots=True)
class Answer:
    """What a target answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def quoted(self) -> str:
        """The answer in short, for the ledger."""
        text = self.body[: 4 * QUOTED].decode("utf-8", "replace").strip()
        location = self.header("Location")
        if 300 <= self.status < 400 and location is not None:
            text = f"it is to be sent to {location[:200]} instead. {text}".rstrip()
        return f"{self.status}: {text[:QUOTED]}" if text else str(self.status)

    def header(self, name: str) -> str | None:
        """A header, whatever its case."""
        return next((v for k, v in self.headers.items() if k.lower() == name.lower()), None)


@dataclass(frozen=True, slots=True)
class Credentials:
    """A bearer token, or a user name and password, or nothing."""

    token: str | None = field(default=None, repr=False)
    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)

    def headers(self) -> dict[str, str]:
        """The Authorization header."""
        if self.token:
            return {"Authorization": f"Bearer {self.token}"}
        if self.username is not None:
            basic = aiohttp.encode_basic_auth(self.username, self.password or "")
            return {"Authorization": basic}
        return {}


class HttpTarget:
    """One target's HTTP client; connections are kept open and shared by its deliveries."""

    def __init__(self, credentials: Credentials, *, connections: int = 16) -> None:
        self._headers = credentials.headers()
        self._connections = connections
        self._session: aiohttp.ClientSession | None = None

    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        data: bytes | AsyncIterator[bytes] | None = None,
    ) -> Answer:
        """Send a request and read the answer, whatever its status.

        `data` in pieces goes out as it comes; the caller closes it, if it wants that. Raises
        TryAgainError if the target cannot be reached or does not answer in time.
        """
        sent = {**self._headers, **(headers or {})}
        if isinstance(data, bytes):
            sent["Content-Length"] = str(len(data))
        length = int(sent.get("Content-Length", "0"))
        timeout = aiohttp.ClientTimeout(
            total=None,
            sock_connect=CONNECT_TIMEOUT,
            sock_read=ANSWER_TIMEOUT + length / DIGESTED,
        )
        upload: _Upload | None = None
        try:
            async with asyncio.timeout(None) as deadline:
                upload = None if data is None else _Upload(data, deadline)
                async with self._opened().request(
                    method, url, headers=sent, data=upload, timeout=timeout, allow_redirects=False
                ) as response:
                    return Answer(response.status, dict(response.headers), await _read(response))
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            ours = upload.failure if upload is not None else None
            raise TryAgainError(_told(ours or error)) from error
        finally:
            if upload is not None:
                await upload.end()

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._connections), auto_decompress=True
            )
        return self._session


class _Upload:
    """A request's body on its way out, with the time for each piece of it.

    aiohttp waits for ever for a target that does not take what is sent, and when the answer comes
    early it leaves the body in the middle.
    """

    def __init__(self, data: bytes | AsyncIterator[bytes], deadline: asyncio.Timeout) -> None:
        self.failure: OSError | None = None  # of ours: the data could not be read
        self._data = data
        self._deadline = deadline
        self._over = False
        self._idle = asyncio.Event()
        self._idle.set()

    def __aiter__(self) -> AsyncIterator[bytes]:
        # From the start: aiohttp sends a PUT once more if a connection it had kept was closed.
        data = self._data
        return _Pieces(self, _pieces_of(data) if isinstance(data, bytes) else data)

    async def next_of(self, pieces: AsyncIterator[bytes]) -> bytes:
        """The next piece. Raises StopAsyncIteration, and OSError if it cannot be read."""
        if self._over:
            raise StopAsyncIteration
        self._idle.clear()
        self._allow(IDLE_TIMEOUT)
        try:
            return await anext(pieces)
        except StopAsyncIteration:
            self._allow(None)  # from here on aiohttp waits for the answer, in time
            raise
        except OSError as error:
            self.failure = error
            raise
        finally:
            self._idle.set()

    async def end(self) -> None:
        """The request is over: nothing more is read, or being read, when this returns."""
        self._over = True
        await self._idle.wait()

    def _allow(self, seconds: float | None) -> None:
        if not self._over and not self._deadline.expired():
            when = None if seconds is None else asyncio.get_running_loop().time() + seconds
            self._deadline.reschedule(when)


class _Pieces:
    """What aiohttp iterates over."""

    def __init__(self, upload: _Upload, pieces: AsyncIterator[bytes]) -> None:
        self._upload = upload
        self._pieces = pieces

    def __aiter__(self) -> _Pieces:
        return self

    async def __anext__(self) -> bytes:
        return await self._upload.next_of(self._pieces)


async def _pieces_of(data: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(data), _PIECE):
        yield data[at : at + _PIECE]


def classify(answer: Answer) -> None:
    """Return if the target has taken the request. Raises TryAgainError, RefusedError."""
    if 200 <= answer.status < 300:
        return
    if is_for_now(answer):
        raise TryAgainError(answer.quoted(), retry_after=retry_after(answer))
    raise RefusedError(answer.quoted())


def is_for_now(answer: Answer) -> bool:
    """Whether the target may take the same request at another time."""
    return answer.status in _TRY_AGAIN or answer.status >= 500


def retry_after(answer: Answer, now: datetime | None = None) -> float | None:
    """The seconds that a target wants to be left alone, from its Retry-After header."""
    return retry_after_seconds(answer.header("Retry-After"), now)


async def _read(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for piece in response.content.iter_any():
        body += piece
        if len(body) > ANSWER_LIMIT:
            raise TryAgainError(f"{response.status}: the answer is longer than 16 MiB")
    return bytes(body)


def _told(error: Exception) -> str:
    """An error in words, with host and port, but never the path or the query: these name patients.

    Nor the user and password that a URL may hold.
    """
    name = type(error).__name__
    match error:
        case aiohttp.ClientConnectorError() | aiohttp.ServerDisconnectedError():
            return f"{name}: {error}"
        case aiohttp.ClientResponseError():
            return f"{name}: {error.status} {error.message}"
        case TimeoutError():
            return f"{name}: timed out"
        case OSError() if error.errno is not None:
            return f"{name}: {os.strerror(error.errno)}"
        case _:
            return name
