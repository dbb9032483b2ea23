"""Retrieve Bulk Data: the bulk values that metadata refers to (PS3.18 10.4.1.1.5, W12).

A bulk value's path is that of its BulkDataURI: tags and item numbers, `54000100/1/54001010`.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator

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
from imaging_ingestion.dicomweb.representation import (
    OCTET_STREAM,
    Representation,
    Stored,
    represent,
)
from imaging_ingestion.dicomweb.retrieved_resource import instance_url, look_up, payload_etag
from imaging_ingestion.dicomweb.service import DicomwebService
from imaging_ingestion.dicomweb.stored_object import StoredDataset
from imaging_ingestion.dicomweb.streamed_answer import StreamedAnswer
from imaging_ingestion.dicomweb.wado_frames import (
    frames_answer,
    frames_syntax,
    stored_pixels,
    undivided,
)

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
        ranges = self._service.accepts(request)
        resource = await look_up(self._service, request)
        dataset = await StoredDataset.open(
            self._service, await resource.only_instance(), lambda scanner: path in scanner.bulk
        )
        try:
            url = instance_url(resource.base_url, dataset.instance)
            value = dataset.header.bulk.get(path)
            if value is None:
                raise not_found(
                    "the instance has no bulk value there; values that metadata shows have none"
                )
            if value.length is not None:
                syntax = dataset.header.transfer_syntax_uid
                chosen = represent(ranges, Stored.octets(syntax, single=True))
                return await _octets(
                    request, dataset, value, value.length, f"{url}/bulkdata/{path}", chosen
                )
            pixels, frames = await _codestreams(dataset, value)
            chosen = represent(ranges, stored_pixels(pixels, dataset, single=len(frames) == 1))
            if value == dataset.header.pixel_data and frames[0].number:
                locations = [f"{url}/frames/{frame.number}" for frame in frames]
            else:
                locations = [f"{url}/bulkdata/{path}"]
            syntax = frames_syntax(pixels, dataset)
            return await frames_answer(request, dataset, frames, locations, chosen, syntax)
        except BaseException:
            await dataset.close()
            raise


async def _octets(
    request: Request,
    dataset: StoredDataset,
    value: BulkRange,
    length: int,
    url: str,
    chosen: Representation,
) -> Response:
    """A native value as little endian bytes."""
    etag = payload_etag(dataset.instance, url, multipart=chosen.multipart)
    headers = {"ETag": etag, "Vary": "Accept"}
    if is_unchanged(request.headers, etag):
        await dataset.close()
        return Response(status_code=304, headers=headers)
    word = word_size(value.vr) if dataset.header.big_endian else 1
    if chosen.multipart:
        writer = MultipartWriter(OCTET_STREAM)
        head, end = writer.head(OCTET_STREAM, url, length), writer.end()
        return StreamedAnswer(
            _framed(head, _value_pieces(dataset, value.offset, length, word), end),
            headers={**headers, "Content-Type": writer.content_type},
            length=len(head) + length + len(end),
            release=dataset.close,
        )
    headers |= {"Content-Type": OCTET_STREAM, "Content-Location": url}
    wanted = None
    if word == 1 and not encoding_of(dataset.header.transfer_syntax_uid).deflated:
        headers["Accept-Ranges"] = "bytes"
        wanted = requested_slice(request.headers, length, etag)
    if wanted is None:
        body, status = _value_pieces(dataset, value.offset, length, word), 200
    else:
        body, status = dataset.stream(value.offset + wanted.offset, wanted.length), 206
        headers["Content-Range"] = wanted.content_range
    return StreamedAnswer(
        body,
        headers=headers,
        length=length if wanted is None else wanted.length,
        status=status,
        release=dataset.close,
    )


async def _codestreams(
    dataset: StoredDataset, value: BulkRange
) -> tuple[EncapsulatedPixels, list[Frame]]:
    """Every frame of an encapsulated value; a video, or an icon's pixels, is one stream.

    Raises 404 and 406 as frames do.
    """
    syntax = dataset.header.transfer_syntax_uid
    pixels = EncapsulatedPixels(value.offset, syntax, 1)
    try:
        if value == dataset.header.pixel_data:
            image = image_pixels(dataset.header)
            if isinstance(image, EncapsulatedPixels):
                pixels = image
        if frame_media_type(syntax).startswith("video/"):
            ranges = await dataset.answer(locate_stream(pixels))
            return pixels, [Frame(0, ranges, sum(part.length for part in ranges))]
        numbers = range(1, pixels.number_of_frames + 1)
        return pixels, await dataset.answer(locate_frames(pixels, numbers))
    except NotAnImageError as error:
        raise not_found(str(error)) from None
    except UndividedFramesError as error:
        raise undivided(error) from None


async def _value_pieces(
    dataset: StoredDataset, offset: int, length: int, word: int
) -> AsyncGenerator[bytes, None]:
    """A value's bytes, its words turned to little endian. Raises OSError if it is cut short."""
    swap = WordSwap(word)
    left = length
    async for piece in dataset.stream(offset, length):
        left -= len(piece)
        if ready := piece if word == 1 else swap.receive(piece):
            yield ready
    if left:
        raise OSError(f"a bulk value ends {left} bytes early")
    if rest := swap.finish():
        yield rest


async def _framed(
    head: bytes, pieces: AsyncGenerator[bytes, None], end: bytes
) -> AsyncGenerator[bytes, None]:
    yield head
    async for piece in pieces:
        yield piece
    yield end
