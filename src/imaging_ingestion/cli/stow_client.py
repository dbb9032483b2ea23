"""Sending files to a STOW-RS server: several instances a request, several connections."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import msgspec

from imaging_ingestion.cli.collect import DicomFile, lanes, sha256_of

FILES_PER_REQUEST = 20
BYTES_PER_REQUEST = 32 << 20
_PIECE = 1 << 18
_ATTEMPTS = 4
_KNOWN_PAGE = 1000
_BUSY = {429, 502, 503, 504}


class State(StrEnum):
    """What became of a file."""

    STORED = "stored"
    ALREADY_THERE = "already there"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Sent:
    """A file and what became of it."""

    file: DicomFile
    state: State
    reason: str | None = None


Report = Callable[[Sent], None]


@dataclass(frozen=True, slots=True)
class Destination:
    """A STOW-RS server, and our own API if it is one of ours."""

    studies_url: str
    api_url: str
    space: str | None

    @classmethod
    def parse(cls, url: str) -> Destination:
        """Read `--to`. Raises ValueError with what is expected."""
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.netloc:
            raise ValueError(
                f"--to {url}: http://HOST:PORT or a DICOMweb root was expected "
                "(sending over DIMSE comes in a later version)"
            )
        origin = f"{parts.scheme}://{parts.netloc}"
        path = parts.path.rstrip("/").removesuffix("/studies") or "/dicom-web"
        steps = path.split("/")
        space = steps[2] if len(steps) == 4 and steps[1] == "spaces" else None
        return cls(f"{origin}{path}/studies", f"{origin}/api", space)


class StowClient:
    """Sends files to one destination."""

    def __init__(self, destination: Destination, *, concurrency: int, token: str | None) -> None:
        self._destination = destination
        self._concurrency = concurrency
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    async def send(self, files: Sequence[DicomFile], report: Report, *, force: bool) -> None:
        """Send files and report what becomes of each; the order of a lane is kept."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=300)
        async with aiohttp.ClientSession(timeout=timeout, headers=self._headers) as session:
            waiting = lanes(files)
            if not force:
                waiting = await self._skip_known(session, waiting, report)
            batches = iter(_batches(waiting))
            async with asyncio.TaskGroup() as tasks:
                for _ in range(self._concurrency):
                    tasks.create_task(self._work(session, batches, report))

    async def _work(
        self,
        session: aiohttp.ClientSession,
        batches: Any,  # an iterator that all workers take from
        report: Report,
    ) -> None:
        for batch in batches:
            for sent in await self._send_batch(session, batch):
                report(sent)

    async def _skip_known(
        self, session: aiohttp.ClientSession, waiting: list[list[DicomFile]], report: Report
    ) -> list[list[DicomFile]]:
        """Leave out the lanes whose last file the server has: the earlier ones were replaced by it."""
        space = self._destination.space or await self._default_space(session)
        if space is None:
            return waiting
        left: list[list[DicomFile]] = []
        for start in range(0, len(waiting), _KNOWN_PAGE):
            page = waiting[start : start + _KNOWN_PAGE]
            known = await self._known(session, space, page)
            for index, lane in enumerate(page):
                if index not in known:
                    left.append(lane)
                    continue
                for file in lane[:-1]:
                    report(Sent(file, State.ALREADY_THERE, f"superseded by {lane[-1].path.name}"))
                report(Sent(lane[-1], State.ALREADY_THERE))
        return left

    async def _default_space(self, session: aiohttp.ClientSession) -> str | None:
        """The server's default space; None if it is not one of ours."""
        answer = await self._api(session, "GET", "/spaces", None)
        spaces = answer.get("spaces") if answer else None
        return spaces[0] if isinstance(spaces, list) and spaces else None

    async def _known(
        self, session: aiohttp.ClientSession, space: str, page: Sequence[list[DicomFile]]
    ) -> set[int]:
        asked: list[int] = [i for i, lane in enumerate(page) if lane[-1].sop_instance_uid]
        digests = await asyncio.gather(
            *(asyncio.to_thread(sha256_of, page[index][-1].path) for index in asked)
        )
        objects = [
            {"sop_instance_uid": page[index][-1].sop_instance_uid, "sha256": digest}
            for index, digest in zip(asked, digests, strict=True)
        ]
        body = {"space": space, "objects": objects}
        answer = await self._api(session, "POST", "/known-objects", body)
        return {asked[place] for place in (answer or {}).get("known", ())}

    async def _api(
        self, session: aiohttp.ClientSession, method: str, path: str, body: object
    ) -> dict[str, Any] | None:
        """Ask our API; None if there is none."""
        url = self._destination.api_url + path
        try:
            async with session.request(method, url, json=body) as response:
                if response.status != 200 or response.content_type != "application/json":
                    return None
                decoded = msgspec.json.decode(await response.read())
        except (aiohttp.ClientError, TimeoutError, msgspec.DecodeError):
            return None
        return decoded if isinstance(decoded, dict) else None

    async def _send_batch(
        self, session: aiohttp.ClientSession, batch: Sequence[DicomFile]
    ) -> list[Sent]:
        problem = ""
        for attempt in range(_ATTEMPTS):
            if attempt:
                await asyncio.sleep(2.0 ** (attempt - 1))
            try:
                status, body = await self._post(session, batch)
            except (aiohttp.ClientError, TimeoutError) as error:
                problem = f"{type(error).__name__}: {error}"
                continue
            except OSError as error:
                problem = f"{error.strerror or error}"
                break
            results = read_results(body, batch)
            if results is not None and status != 503:
                return results
            problem = f"HTTP {status}: {_detail(body)}"
            if status not in _BUSY:
                break
        if len(batch) > 1:  # one of them may spoil the request for the others
            return [sent for file in batch for sent in await self._send_batch(session, [file])]
        return [Sent(batch[0], State.FAILED, problem)]

    async def _post(
        self, session: aiohttp.ClientSession, batch: Sequence[DicomFile]
    ) -> tuple[int, bytes]:
        boundary = uuid.uuid4().hex
        head = f"\r\n--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        tail = f"\r\n--{boundary}--\r\n".encode()
        length = sum(len(head) + file.size for file in batch) + len(tail)
        headers = {
            "Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}',
            "Content-Length": str(length),
            "Accept": "application/dicom+json",
        }
        async with session.post(
            self._destination.studies_url, data=_body(batch, head, tail), headers=headers
        ) as response:
            return response.status, await response.read()


async def _body(batch: Sequence[DicomFile], head: bytes, tail: bytes) -> AsyncIterator[bytes]:
    for file in batch:
        yield head
        opened = await asyncio.to_thread(file.path.open, "rb")
        with opened:
            left = file.size
            while left:
                piece = await asyncio.to_thread(opened.read, min(_PIECE, left))
                if not piece:
                    raise OSError(f"{file.path.name} has become shorter while it was being sent")
                left -= len(piece)
                yield piece
    yield tail


def _batches(waiting: Sequence[list[DicomFile]]) -> list[list[DicomFile]]:
    """Lanes joined to requests; a lane is never divided."""
    batches: list[list[DicomFile]] = []
    size = 0
    for lane in waiting:
        weight = sum(file.size for file in lane)
        full = batches and (
            len(batches[-1]) + len(lane) > FILES_PER_REQUEST or size + weight > BYTES_PER_REQUEST
        )
        if not batches or full:
            batches.append([])
            size = 0
        batches[-1] += lane
        size += weight
    return batches


def read_results(body: bytes, batch: Sequence[DicomFile]) -> list[Sent] | None:
    """What a store response (PS3.18 annex I) says of each file; None if it is none.

    Our own servers name the part; with others the SOP Instance UID tells which file is meant.
    """
    try:
        dataset = msgspec.json.decode(body)
    except msgspec.DecodeError:
        return None
    if isinstance(dataset, list) and len(dataset) == 1:
        dataset = dataset[0]
    if not isinstance(dataset, dict) or not dataset.keys() & {"00081198", "00081199", "0008119A"}:
        return None
    found: dict[int, Sent] = {}
    for tag in ("00081199", "00081198", "0008119A"):
        for item in _values(dataset, tag):
            index = _place(item, batch, found)
            if index is not None:
                found[index] = _sent(batch[index], item, failed=tag != "00081199")
    unnamed = Sent(batch[0], State.FAILED, "the server's answer does not mention it")
    return [found.get(i, Sent(file, unnamed.state, unnamed.reason)) for i, file in enumerate(batch)]


def _place(
    item: Mapping[str, Any], batch: Sequence[DicomFile], taken: Mapping[int, Sent]
) -> int | None:
    number = _value(item, "00091003")
    if _value(item, "00090010") == "IMAGING-INGESTION" and isinstance(number, int):
        return number - 1 if 0 < number <= len(batch) else None
    uid = _value(item, "00081155")
    named = [i for i, f in enumerate(batch) if f.sop_instance_uid == uid and i not in taken]
    if named:
        return named[0]
    unknown = [i for i in range(len(batch)) if i not in taken]
    return unknown[0] if len(unknown) == 1 else None


def _sent(file: DicomFile, item: Mapping[str, Any], *, failed: bool) -> Sent:
    if failed:
        code = _value(item, "00081197")
        reason = _value(item, "00091002") or "no reason given"
        where = f" (failure reason {code:04X}H)" if isinstance(code, int) else ""
        return Sent(file, State.FAILED, f"{reason}{where}")
    unchanged = _value(item, "00091001") == "UNCHANGED"
    return Sent(file, State.ALREADY_THERE if unchanged else State.STORED)


def _values(item: Mapping[str, Any], tag: str) -> list[Any]:
    element = item.get(tag)
    values = element.get("Value") if isinstance(element, dict) else None
    return values if isinstance(values, list) else []


def _value(item: Mapping[str, Any], tag: str) -> Any:
    values = _values(item, tag)
    return values[0] if values else None


def _detail(body: bytes) -> str:
    try:
        decoded = msgspec.json.decode(body)
    except msgspec.DecodeError:
        return body[:200].decode("utf-8", "replace")
    detail = decoded.get("detail") if isinstance(decoded, dict) else None
    return str(detail or decoded)[:500]
