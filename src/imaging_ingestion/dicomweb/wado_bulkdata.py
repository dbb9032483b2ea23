"""Retrieve Bulk Data: the bulk values that metadata refers to (PS3.18 10.4.1.1.5, W12).

A bulk value's path is that of its BulkDataURI: tags and item numbers, `54000100/1/54001010`.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from dataclasses import replace

from starlette.requests import Request
from starlette.responses import Response

from imaging_ingestion.dicom.byte_order import WordSwap, word_size
from imaging_ingestion.dicom.fragments import (
    EncapsulatedPixels,
    UndividedFramesError,
    locate_stream,
)
from imaging_ingestion.dicom.frames import Frame, NotAnImageError, image_pixels, locate_frames
from imaging_ingestion.dicom.header import BulkRange
from imaging_ingestion.dicom.transfer_syntax import encoding_of, frame_media_type
from imaging_ingestion.dicomweb.conditional import is_unchanged, requested_slice
from imaging_ingestion.dicomweb.multipart_writer import MultipartWriter
from imaging_ingestion.dicomweb.problem import not_found
from imaging_ingestion.dicomweb.representation import OCTET_STREAM, Stored, represent
from imaging_ingestion.dicomweb.retrieved_resource import (
    RetrievedResource,
    instance_url,
    look_up,
)
from imaging_ingestion.dicomweb.service import DicomwebService
from imaging_ingestion.dicomweb.stored_object import StoredDataset
from imaging_ingestion.dicomweb.streamed_answer import StreamedAnswer
from imaging_ingestion.dicomweb.wado_frames import frames_answer, undivided

_TAG = "[0-9A-Fa-f]{8}"
_PATH = re.compile(rf"{_TAG}(?:/[0-9]{{1,9}}/{_TAG}){{0,64}}", re.ASCII)


class WadoBulkdata:
    """The bulk data resources of one space."""

    def __init__(self, service: DicomwebService) -> None:
        self._service = service

    async def retrieve(self, request: Request) -> Response:
        """GET …/instances/{instance}/bulkdata/{path}."""
        path = request.path_params["path"].upper()
        if not _PATH.fullmatch(path):
            raise not_found("there is no such bulk value: TAG or TAG/ITEM/TAG… expected")
        resource = await look_up(self._service, request)
        instance = await resource.only_instance()
        # Pixel Data is wanted with what comes before it, the others as soon as they are met.
        dataset = await StoredDataset.open(
            self._service, instance, lambda scanner: path in scanner.bulk
        )
        try:
            value = dataset.header.bulk.get(path)
            if value is None:
                raise not_found(
                    "the instance has no bulk value there; what metadata shows inline has none"
                )
            if value.encapsulated:
                return await self._encapsulated(request, resource, dataset, path, value)
            return self._octets(request, resource, dataset, path, value)
        except BaseException:
            await dataset.close()
            raise

    def _octets(
        self,
        request: Request,
        resource: RetrievedResource,
        dataset: StoredDataset,
        path: str,
        value: BulkRange,
    ) -> Response:
        """A native value as little endian bytes."""
        syntax = dataset.header.transfer_syntax_uid
        chosen = represent(self._service.accepts(request), Stored.octets(syntax, single=True))
        etag = resource.etag("bulkdata", path, str(chosen))
        url = f"{instance_url(resource.base_url, dataset.instance)}/bulkdata/{path}"
        length = value.length
        assert length is not None
        headers = {"ETag": etag, "Vary": "Accept, Host"}
        if is_unchanged(request.headers, etag):
            return _and_close(dataset, Response(status_code=304, headers=headers))
        word = word_size(value.vr) if dataset.header.big_endian else 1
        if chosen.multipart:
            writer = MultipartWriter(OCTET_STREAM)
            head = writer.head(OCTET_STREAM, url, length)
            end = writer.end()
            return StreamedAnswer(
                _framed(head, _value_pieces(dataset, value.offset, length, word), end),
                headers={**headers, "Content-Type": writer.content_type},
                length=len(head) + length + len(end),
                release=dataset.close,
            )
        headers |= {"Content-Type": OCTET_STREAM, "Content-Location": url}
        has_ranges = word == 1 and not encoding_of(syntax).deflated
        # A weak validator cannot join ranges, but this one stands for the same bytes (If-Range).
        strong = etag.removeprefix("W/")
        headers["ETag"] = strong
        wanted = requested_slice(request.headers, length, strong) if has_ranges else None
        if has_ranges:
            headers["Accept-Ranges"] = "bytes"
        if wanted is None:
            return StreamedAnswer(
                _value_pieces(dataset, value.offset, length, word),
                headers=headers,
                length=length,
                release=dataset.close,
            )
        return StreamedAnswer(
            dataset.stream(value.offset + wanted.offset, wanted.length),
            headers={**headers, "Content-Range": wanted.content_range},
            length=wanted.length,
            status=206,
            release=dataset.close,
        )

    async def _encapsulated(
        self,
        request: Request,
        resource: RetrievedResource,
        dataset: StoredDataset,
        path: str,
        value: BulkRange,
    ) -> Response:
        """Compressed pixels, one part for each frame; a video is one stream."""
        frames = await _codestreams(dataset, path, value)
        syntax = dataset.header.transfer_syntax_uid
        stored = Stored.pixels(syntax, single=len(frames) == 1)
        chosen = represent(self._service.accepts(request), stored)
        etag = resource.etag("bulkdata", path, str(chosen))
        if is_unchanged(request.headers, etag):
            return _and_close(dataset, Response(status_code=304, headers={"ETag": etag}))
        url = instance_url(resource.base_url, dataset.instance)
        is_frames = dataset.header.pixel_data == value and frames[0].number > 0
        where = f"{url}/frames" if is_frames else f"{url}/bulkdata/{path}"
        return frames_answer(dataset, frames, chosen, where, etag, numbered=is_frames)
