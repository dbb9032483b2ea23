"""How the bindings speak HTTP: time-outs, credentials, and what an answer means for the delivery.

A target that cannot be reached, is slow, overloaded (408, 425, 429) or broken (5xx) is tried again;
any other 4xx is the target's own word that this request is wrong, and makes a dead letter.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import aiohttp

from imaging_ingestion.events.broker import RefusedError, TryAgainError

CONNECT_TIMEOUT = 10.0  # seconds
#: Without a byte in either direction for this long, the target counts as gone.
IDLE_TIMEOUT = 60.0  # seconds
#: Bytes of an answer that are read at most; more is no answer we understand.
ANSWER_LIMIT = 16 << 20
#: Characters of an answer that are kept in the ledger.
QUOTED = 1000

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
        return f"{self.status}: {text[:QUOTED]}" if text else str(self.status)


@dataclass(frozen=True, slots=True)
class Credentials:
    """A bearer token, or a user name and password, or nothing."""

    token: str | None = None
    username: str | None = None
    password: str | None = None

    def headers(self) -> dict[str, str]:
        """The Authorization header."""
        if self.token:
            return {"Authorization": f"Bearer {self.token}"}
        if self.username is not None:
            basic = aiohttp.encode_basic_auth(self.username, self.password or "")
            return {"Authorization": basic}
        return {}

    def __repr__(self) -> str:
        return "Credentials(…)"


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

        Raises TryAgainError if the target cannot be reached or does not answer in time.
        """
        async with self._answering(method, url, headers, data) as response:
            body = await _read(response)
            return Answer(response.status, dict(response.headers), body)

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    @asynccontextmanager
    async def _answering(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None,
        data: bytes | AsyncIterator[bytes] | None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        if self._session is None:
            timeout = aiohttp.ClientTimeout(
                total=None, sock_connect=CONNECT_TIMEOUT, sock_read=IDLE_TIMEOUT
            )
            self._session = aiohttp.ClientSession(
                timeout=timeout,
                connector=aiohttp.TCPConnector(limit=self._connections),
                auto_decompress=True,
            )
        try:
            async with self._session.request(
                method,
                url,
                headers={**self._headers, **(headers or {})},
                data=data,
                allow_redirects=False,
            ) as response:
                yield response
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            # The error names host and port, never the path or the body.
            raise TryAgainError(f"{type(error).__name__}: {error or 'timed out'}") from error


def classify(answer: Answer) -> None:
    """Return if the target has taken the request. Raises TryAgainError, RefusedError."""
    if 200 <= answer.status < 300:
        return
    if answer.status in _TRY_AGAIN or answer.status >= 500:
        raise TryAgainError(answer.quoted(), retry_after=retry_after(answer))
    raise RefusedError(answer.quoted())


def retry_after(answer: Answer, now: datetime | None = None) -> float | None:
    """The seconds that a target wants to be left alone, from its Retry-After header."""
    value = next((v for k, v in answer.headers.items() if k.lower() == "retry-after"), "").strip()
    if value.isdigit():
        return float(value)
    try:
        when = parsedate_to_datetime(value)
    except ValueError:
        return None
    if when.tzinfo is None:
        return None
    return max(0.0, (when - (now or datetime.now(UTC))).total_seconds())


async def _read(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for piece in response.content.iter_any():
        body += piece
        if len(body) > ANSWER_LIMIT:
            raise TryAgainError(f"{response.status}: the answer is longer than 16 MiB")
    return bytes(body)
