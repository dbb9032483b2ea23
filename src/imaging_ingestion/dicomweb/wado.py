"""WADO-RS: retrieve studies, series and instances as they are stored (PS3.18 10.4).

An instance leaves as its object, byte for byte; one that came without preamble or file meta leaves
with them (PS3.10 7.1). Objects are opened a few at a time: what is not there fails the request
before its first byte where it can, and cuts the connection where it cannot, so that no client takes
part of a study for all of it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response

from imaging_ingestion.dicomweb.conditional import is_unchanged, requested_slice
from imaging_ingestion.dicomweb.multipart_writer import MultipartWriter
from imaging_ingestion.dicomweb.problem import HttpProblemError
from imaging_ingestion.dicomweb.representation import DICOM, Stored, represent
from imaging_ingestion.dicomweb.retrieved_resource import (
    RetrievedResource,
    deleted_meanwhile,
    instance_url,
    look_up,
    payload_etag,
)
from imaging_ingestion.dicomweb.service import DicomwebService
from imaging_ingestion.dicomweb.stored_object import (
    InstanceGoneError,
    ObjectUnavailableError,
    Part10File,
)
from imaging_ingestion.dicomweb.streamed_answer import StreamedAnswer
from imaging_ingestion.dicomweb.wado_bulkdata import WadoBulkdata
from imaging_ingestion.dicomweb.wado_frames import WadoFrames
from imaging_ingestion.dicomweb.wado_metadata import WadoMetadata
from imaging_ingestion.manifest.retrieve import Instance

Handler = Callable[[Request], Awaitable[Response]]

#: Objects open at once for one request, and what is read of each while it is opened: one request
#: holds 4 MiB at most.
OPEN_OBJECTS = 4
READ_AHEAD = 1 << 20

STUDY = "/studies/{study}"
SERIES = STUDY + "/series/{series}"
INSTANCE = SERIES + "/instances/{instance}"


class Wado:
    """The retrieve resources of one space."""

    def __init__(self, service: DicomwebService) -> None:
        self._service = service
        self._metadata = WadoMetadata(service)
        self._frames = WadoFrames(service)
        self._bulkdata = WadoBulkdata(service)

    def handlers(self) -> list[tuple[str, Handler]]:
        """What answers GET and HEAD, by path below the DICOMweb root."""
        handlers: list[tuple[str, Handler]] = [
            (path, _answering_for_objects(self.retrieve)) for path in (STUDY, SERIES, INSTANCE)
        ]
        handlers += [
            (f"{path}/metadata", self._metadata.retrieve) for path in (STUDY, SERIES, INSTANCE)
        ]
        frames = _answering_for_objects(self._frames.retrieve)
        return [
            *handlers,
            (f"{INSTANCE}/frames/{{frames}}", frames),
            (f"{INSTANCE}/frames/", frames),  # an empty list is malformed, not unknown (W15)
            (f"{INSTANCE}/bulkdata/{{path:path}}", _answering_for_objects(self._bulkdata.retrieve)),
        ]

    async def retrieve(self, request: Request) -> Response:
        """GET a study, series or instance (W1 to W6)."""
        ranges = self._service.accepts(request)
        resource = await look_up(self._service, request)
        syntaxes = resource.contents.transfer_syntax_uids
        chosen = represent(ranges, Stored.instances(syntaxes, single=resource.is_instance))
        if not chosen.multipart:
            return await self._single(request, resource)
        etag = resource.etag(DICOM, resource.base_url)
        headers = {"ETag": etag, "Vary": "Accept"}
        if is_unchanged(request.headers, etag):
            return Response(status_code=304, headers=headers)
        writer = MultipartWriter(DICOM)
        headers["Content-Type"] = writer.content_type
        body = _InstancesBody(resource, writer)
        try:
            length = await body.open_first()
        except BaseException:
            await body.close()
            raise
        return StreamedAnswer(body.pieces(), headers=headers, length=length, release=body.close)

    async def _single(self, request: Request, resource: RetrievedResource) -> Response:
        """One instance as a bare file (W6), or a range of it (W32)."""
        try:
            file = await Part10File.open(self._service, await resource.only_instance())
        except InstanceGoneError:
            raise deleted_meanwhile() from None
        instance = file.instance
        try:
            _check_syntax(resource, instance)
            etag = payload_etag(instance, DICOM, multipart=False)
            headers = {
                "ETag": etag,
                "Vary": "Accept",
                "Accept-Ranges": "bytes",
                "Content-Type": _content_type(instance),
                "Content-Location": instance_url(resource.base_url, instance),
            }
            if is_unchanged(request.headers, etag):
                await file.close()
                return Response(status_code=304, headers={"ETag": etag})
            wanted = requested_slice(request.headers, file.size, etag)
        except BaseException:
            await file.close()
            raise
        if wanted is None:
            return StreamedAnswer(
                file.stream(), headers=headers, length=file.size, release=file.close
            )
        headers["Content-Range"] = wanted.content_range
        return StreamedAnswer(
            file.stream(wanted.offset, wanted.length),
            headers=headers,
            length=wanted.length,
            status=206,
            release=file.close,
        )


class _InstancesBody:
    """The multipart body of a study, series or instance, a few objects open at a time."""

    def __init__(self, resource: RetrievedResource, writer: MultipartWriter) -> None:
        self._resource = resource
        self._writer = writer
        self._instances = resource.instances()
        self._is_exhausted = False
        self._open: deque[Part10File] = deque()

    async def open_first(self) -> int | None:
        """Open the first objects; the body's length if they are all (H15), else None.

        Raises HttpProblemError 410 if every instance has been deleted meanwhile.
        """
        await self._refill()
        if not self._open:
            raise deleted_meanwhile()
        if not self._is_exhausted:
            return None
        framing = MultipartWriter(DICOM, "0" * 32)  # of the same length as any boundary
        parts = sum(len(self._head(framing, file)) + file.size for file in self._open)
        return parts + len(framing.end())

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """The body. An object that is not there raises ObjectUnavailableError."""
        while self._open:
            file = self._open[0]
            yield self._head(self._writer, file)
            async for piece in file.stream():
                yield piece
            # Known as open until it is closed: we may be told to stop while it is being closed.
            await file.close()
            self._open.popleft()
            if not self._open:
                await self._refill()
        yield self._writer.end()

    async def close(self) -> None:
        """Release every object. Harmless twice."""
        await self._instances.aclose()
        while self._open:
            await self._open[0].close()
            self._open.popleft()

    async def _refill(self) -> None:
        """Open the next objects; an instance deleted meanwhile belongs to the study no more."""
        while not self._open and not self._is_exhausted:
            wanted: list[Instance] = []
            while len(wanted) < OPEN_OBJECTS and not self._is_exhausted:
                instance = await anext(self._instances, None)
                if instance is None:
                    self._is_exhausted = True
                else:
                    wanted.append(instance)
            await self._open_all(wanted)
        for file in self._open:
            _check_syntax(self._resource, file.instance)

    async def _open_all(self, wanted: list[Instance]) -> None:
        if not wanted:
            return
        service = self._resource.service
        tasks = [
            asyncio.create_task(Part10File.open(service, instance, READ_AHEAD))
            for instance in wanted
        ]
        try:
            await asyncio.wait(tasks)
        finally:
            # Even when this task is told to stop: what is being opened must end up in `_open`,
            # whose files somebody closes.
            await asyncio.wait(tasks)
            self._open += [task.result() for task in tasks if task.exception() is None]
        for task in tasks:
            failed = task.exception()
            if failed is not None and not isinstance(failed, InstanceGoneError):
                raise failed

    def _head(self, writer: MultipartWriter, file: Part10File) -> bytes:
        url = instance_url(self._resource.base_url, file.instance)
        return writer.head(_content_type(file.instance), url, file.size)


def _content_type(instance: Instance) -> str:
    return f"{DICOM}; transfer-syntax={instance.transfer_syntax_uid}"


def _check_syntax(resource: RetrievedResource, instance: Instance) -> None:
    """An instance replaced by one in another transfer syntax must not slip into the answer."""
    if instance.transfer_syntax_uid not in resource.contents.transfer_syntax_uids:
        raise HttpProblemError(
            503,
            "Service Unavailable",
            "an instance was replaced while it was being retrieved; ask again",
            headers={"Retry-After": "1"},
        )


def _answering_for_objects(handler: Handler) -> Handler:
    """500 with the reason where an object is not what the manifest says it is."""

    async def answer(request: Request) -> Response:
        try:
            return await handler(request)
        except InstanceGoneError:
            raise deleted_meanwhile() from None
        except ObjectUnavailableError as error:
            raise HttpProblemError(500, "Internal Server Error", str(error)) from error

    return answer
