"""Sending files to a STOW-RS server: several instances a request, several connections.

Every file that is given comes back in exactly one report. What may pass is tried again; when the
server is gone, or says what it would say to every request, the rest fails at once with its word.
"""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import urlsplit

import aiohttp
import msgspec

from imaging_ingestion.cli.collect import DicomFile, lanes, sha256_of
from imaging_ingestion.cli.store_result import Answer, Sent, State, read_results

FILES_PER_REQUEST = 20
BYTES_PER_REQUEST = 32 << 20
_PIECE = 1 << 18
#: Seconds to wait before each try of a request; a server that restarts is back in that time.
WAITS = (0.0, 1.0, 2.0, 4.0)
_LONGEST_WAIT = 10.0  # seconds, whatever the server asks for
_KNOWN_PAGE = 200  # lanes
_OBJECTS_ASKED = 1000  # in one question
#: The request may succeed later.
_BUSY = frozenset({408, 425, 429, 502, 503, 504})
#: Nothing in these depends on what is in the request: the next one would get the same answer.
_HOPELESS = frozenset({301, 302, 303, 307, 308, 401, 403, 404, 405, 406, 410, 415, 501})

Report = Callable[[Sent], None]


@dataclass(frozen=True, slots=True)
class _Outcome:
    """How a request ended: with results; by the fault of one of its files; or with a problem.

    `hopeless`: every other request would end like this. `again`: the server may have stored some of
    it.
    """

    results: list[Sent] | None = None
    problem: str = ""
    fault: DicomFile | None = None
    hopeless: bool = False
    again: bool = False


class UnreachableError(Exception):
    """There is no server at the destination."""


@dataclass(frozen=True, slots=True)
class Destination:
    """A STOW-RS server, and our own API if it is one of ours."""

    origin: str
    studies_url: str
    space: str | None

    @property
    def api_url(self) -> str:
        """Where our API is, if the server is one of ours."""
        return f"{self.origin}/api"

    @classmethod
    def parse(cls, url: str) -> Destination:
        """Read `--to`. Raises ValueError with what is expected."""
        expected = (
            f"--to {url}: http://HOST:PORT or the URL of a DICOMweb root was expected, or "
            "AE@HOST:PORT"
        )
        try:
            parts = urlsplit(url)
            usable = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
        except ValueError as error:
            raise ValueError(expected) from error
        if not usable or parts.query or parts.fragment or not url.isprintable() or " " in url:
            raise ValueError(expected)
        origin = f"{parts.scheme}://{parts.netloc}"
        path = parts.path.rstrip("/").removesuffix("/studies") or "/dicom-web"
        steps = path.split("/")
        space = steps[2] if len(steps) == 4 and steps[1] == "spaces" else None
        return cls(origin, f"{origin}{path}/studies", space)


class StowClient:
    """Sends files to one destination. An asynchronous context: entering it greets the server."""

    def __init__(
        self,
        destination: Destination,
        *,
        concurrency: int,
        token: str | None = None,
        force: bool = False,
        waits: Sequence[float] = WAITS,
    ) -> None:
        """`force` sends what the server has, too; `waits` are the seconds before each try."""
        self._destination = destination
        self._concurrency = concurrency
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._force = force
        self._waits = waits
        self._is_ours = False
        #: The space to ask for what it has; None if the server is not one of ours.
        self._space: str | None = None
        #: Why nothing more is sent.
        self._given_up: str | None = None

    async def __aenter__(self) -> Self:
        """Raises UnreachableError if there is nobody to send to."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=300)
        self._session = aiohttp.ClientSession(timeout=timeout, headers=self._headers)
        try:
            self._space = await self._greet()
        except BaseException:
            await self._session.close()
            raise
        return self

    async def __aexit__(self, *_exception: object) -> None:
        await self._session.close()

    async def send(self, files: Sequence[DicomFile], report: Report) -> None:
        """Send files and report what becomes of each; the order of a lane is kept."""
        batches: asyncio.Queue[list[DicomFile] | None] = asyncio.Queue(2 * self._concurrency)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._prepare(lanes(files), batches, report))
            for _ in range(self._concurrency):
                tasks.create_task(self._work(batches, report))

    async def _greet(self) -> str | None:
        url = f"{self._destination.api_url}/spaces"
        try:
            async with self._session.get(url, allow_redirects=False) as response:
                answer = _decoded(response, await response.read())
        except (aiohttp.ClientError, TimeoutError) as error:
            reason = str(error) or "it does not answer in time"
            raise UnreachableError(f"{self._destination.origin}: {reason}") from error
        spaces = answer.get("spaces")
        self._is_ours = isinstance(spaces, list)
        if isinstance(spaces, list) and spaces and self._destination.space is None:
            return str(spaces[0])
        return self._destination.space if self._is_ours else None

    async def _prepare(
        self,
        waiting: list[list[DicomFile]],
        batches: asyncio.Queue[list[DicomFile] | None],
        report: Report,
    ) -> None:
        """Hand out requests to send, ahead of the workers but not far."""
        for start in range(0, len(waiting), _KNOWN_PAGE):
            page = waiting[start : start + _KNOWN_PAGE]
            if self._space is not None and not self._force and self._given_up is None:
                page = await self._without_known(self._space, page, report)
            for batch in batches_of(page):
                await batches.put(batch)
        for _ in range(self._concurrency):
            await batches.put(None)

    async def _work(self, batches: asyncio.Queue[list[DicomFile] | None], report: Report) -> None:
        while (batch := await batches.get()) is not None:
            for sent in await self._send_batch(batch):
                report(sent)

    async def _without_known(
        self,
        space: str,
        page: Sequence[list[DicomFile]],
        report: Report,
    ) -> list[list[DicomFile]]:
        """Leave out of each lane the file that the server has, and those that it replaced.

        What follows in a lane is sent: it is new, or the server refused it before and will again.
        """
        asked = [(lane, i) for lane in page for i, file in enumerate(lane) if _may_be_known(file)]
        digests = await asyncio.gather(
            *(asyncio.to_thread(sha256_of, lane[i].path) for lane, i in asked),
            return_exceptions=True,  # a file that cannot be read fails when it is sent
        )
        objects = [
            (lane, i, {"sop_instance_uid": lane[i].sop_instance_uid, "sha256": digest})
            for (lane, i), digest in zip(asked, digests, strict=True)
            if isinstance(digest, str)
        ]
        last_known: dict[int, int] = {}  # by the lane's identity
        for start in range(0, len(objects), _OBJECTS_ASKED):
            some = objects[start : start + _OBJECTS_ASKED]
            body = {"space": space, "objects": [described for _, _, described in some]}
            for place in await self._known(body):
                lane, i, _ = some[place]
                last_known[id(lane)] = max(i, last_known.get(id(lane), i))
        left = []
        for lane in page:
            there = last_known.get(id(lane), -1)
            for i, file in enumerate(lane[: there + 1]):
                reason = None
                if i < there:
                    reason = f"replaced by {lane[there].path.name}, of the same SOP Instance UID"
                report(Sent(file, State.ALREADY_THERE, reason))
            if rest := lane[there + 1 :]:
                left.append(rest)
        return left

    async def _known(self, body: dict[str, Any]) -> list[int]:
        """Which of the objects the server has; none if it does not say: then they are sent."""
        url = f"{self._destination.api_url}/known-objects"
        try:
            async with self._session.post(url, json=body, allow_redirects=False) as response:
                known = _decoded(response, await response.read()).get("known")
        except (aiohttp.ClientError, TimeoutError):
            return []
        asked = range(len(body["objects"]))
        return [place for place in known if place in asked] if isinstance(known, list) else []

    async def _send_batch(self, batch: list[DicomFile], *, again: bool = False) -> list[Sent]:
        """Send one request until it is answered, in parts if need be; what became of its files.

        `again`: some of them were sent before, and it was not heard what became of them.
        """
        done: list[Sent] = []
        while True:
            outcome = await self._try(batch)
            again = again or outcome.again
            if outcome.results is not None:
                return done + [self._credited(sent, again) for sent in outcome.results]
            if outcome.fault is None:
                break
            done.append(Sent(outcome.fault, State.FAILED, outcome.problem))
            batch = [file for file in batch if file is not outcome.fault]
            if not batch:
                return done
        if outcome.hopeless:
            self._given_up = outcome.problem
        elif len(batch) > 1:  # one of them may spoil the request for the others
            for file in batch:
                done += await self._send_batch([file], again=again)
            return done
        return done + [Sent(file, State.FAILED, outcome.problem) for file in batch]

    async def _try(self, batch: list[DicomFile]) -> _Outcome:
        """Send one request, once more and again while that may help."""
        outcome = _Outcome()
        wish = 0.0
        for wait in self._waits:
            await asyncio.sleep(max(wait, wish))
            if self._given_up is not None:
                return _Outcome(problem=self._given_up, hopeless=True, again=outcome.again)
            body = _Body(batch)
            try:
                answer, wish = await self._post(body)
            except (aiohttp.ClientError, TimeoutError) as error:
                refused = isinstance(error, aiohttp.ClientConnectorError)
                fault, reason = body.fault or (None, str(error) or type(error).__name__)
                outcome = _Outcome(
                    problem=reason,
                    fault=fault,
                    hopeless=refused,
                    again=outcome.again or not refused,
                )
                if fault is not None:
                    break
                continue
            results = read_results(answer, batch)
            if answer.status not in _BUSY:
                hopeless = results is None and answer.status in _HOPELESS
                again = outcome.again or results is None
                return _Outcome(results, answer.in_words(), None, hopeless, again)
            outcome = _Outcome(results, answer.in_words(), None, hopeless=False, again=True)
        return outcome

    def _credited(self, sent: Sent, again: bool) -> Sent:
        """What an earlier try of this very request stored is there through us."""
        if again and sent.state is State.ALREADY_THERE and not self._force:
            return Sent(sent.file, State.STORED, sent.reason)
        return sent

    async def _post(self, body: _Body) -> tuple[Answer, float]:
        """Send one request; its answer, and for how long the server wants to be left alone."""
        headers = {
            "Content-Type": (
                f'multipart/related; type="application/dicom"; boundary={body.boundary}'
            ),
            "Content-Length": str(body.length),
            "Accept": "application/dicom+json",
        }
        async with self._session.post(
            self._destination.studies_url,
            data=body.pieces(),
            headers=headers,
            # A POST that is redirected arrives as a GET, and without its body.
            allow_redirects=False,
            # A server that refuses the length says so before it gets gigabytes.
            expect100=self._is_ours and body.length > BYTES_PER_REQUEST,
        ) as response:
            location = response.headers.get("Location")
            after = response.headers.get("Retry-After", "")
            wait = min(float(after), _LONGEST_WAIT) if after.isascii() and after.isdigit() else 0.0
            content = await response.read()
            return Answer(response.status, response.content_type, content, location), wait


class _Body:
    """The body of a store request, read from the files while it is sent."""

    def __init__(self, batch: Sequence[DicomFile]) -> None:
        self.boundary = uuid.uuid4().hex
        #: The file that could not be sent as it was to be, and why: the request is given up.
        self.fault: tuple[DicomFile, str] | None = None
        self._batch = batch
        self._head = f"\r\n--{self.boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        self._tail = f"\r\n--{self.boundary}--\r\n".encode()

    @property
    def length(self) -> int:
        """Its length in bytes."""
        return sum(len(self._head) + file.size for file in self._batch) + len(self._tail)

    async def pieces(self) -> AsyncIterator[bytes]:
        """Its bytes. Raises OSError after `fault` is set: the request must not be completed."""
        for file in self._batch:
            yield self._head
            try:
                async for piece in _read_unchanged(file):
                    yield piece
            except OSError as error:
                self.fault = (file, error.strerror or str(error))
                raise
        yield self._tail


async def _read_unchanged(file: DicomFile) -> AsyncIterator[bytes]:
    """The bytes of a file. Raises OSError if it is not what it was when it was looked at."""
    opened = await asyncio.to_thread(file.path.open, "rb")
    with opened:
        left = file.size
        while left:
            piece = await asyncio.to_thread(opened.read, min(_PIECE, left))
            if not piece:
                break
            left -= len(piece)
            yield piece
        # Before the next boundary completes the part: a server stores complete parts only.
        status = os.fstat(opened.fileno())
        if left or (status.st_size, status.st_mtime_ns) != (file.size, file.mtime_ns):
            raise OSError("the file has changed while it was being sent")


def _may_be_known(file: DicomFile) -> bool:
    """Whether a server could have it: one question with a UID that is none would fail for all."""
    uid = file.sop_instance_uid
    return uid is not None and 0 < len(uid) <= 64 and uid.isprintable()


def batches_of(waiting: Sequence[list[DicomFile]]) -> Iterator[list[DicomFile]]:
    """Lanes joined to requests; a lane is never divided."""
    batch: list[DicomFile] = []
    size = 0
    for lane in waiting:
        weight = sum(file.size for file in lane)
        if batch and (
            len(batch) + len(lane) > FILES_PER_REQUEST or size + weight > BYTES_PER_REQUEST
        ):
            yield batch
            batch, size = [], 0
        batch = batch + lane
        size += weight
    if batch:
        yield batch


def _decoded(response: aiohttp.ClientResponse, body: bytes) -> dict[str, Any]:
    """The JSON object of an answer of our API; empty if it is none."""
    if response.status != 200 or response.content_type != "application/json":
        return {}
    try:
        decoded = msgspec.json.decode(body)
    except msgspec.DecodeError:
        return {}
    return decoded if isinstance(decoded, dict) else {}
