"""Retrieve Frames: some frames of one instance's Pixel Data (PS3.18 10.4.1.1.6)."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Sequence
from itertools import pairwise

from starlette.requests import Request
from starlette.responses import Response

from imaging_ingestion.dicom.fragments import EncapsulatedPixels, UndividedFramesError
from imaging_ingestion.dicom.frames import (
    Frame,
    FrameBytes,
    ImagePixels,
    NoSuchFrameError,
    NotAnImageError,
    image_pixels,
    locate_frames,
)
from imaging_ingestion.dicom.transfer_syntax import EXPLICIT_VR_LITTLE_ENDIAN
from imaging_ingestion.dicomweb.conditional import is_unchanged
from imaging_ingestion.dicomweb.multipart_writer import MultipartWriter
from imaging_ingestion.dicomweb.problem import HttpProblemError, bad_request, not_found
from imaging_ingestion.dicomweb.representation import (
    Representation,
    Stored,
    represent,
)
from imaging_ingestion.dicomweb.retrieved_resource import instance_url, look_up, payload_etag
from imaging_ingestion.dicomweb.service import DicomwebService
from imaging_ingestion.dicomweb.stored_object import StoredDataset
from imaging_ingestion.dicomweb.streamed_answer import StreamedAnswer

_FRAME_LIST = re.compile(r"[0-9]{1,9}(?:,[0-9]{1,9})*", re.ASCII)


class WadoFrames:
    """The frames resources of one space."""

    def __init__(self, service: DicomwebService) -> None:
        self._service = service

    async def retrieve(self, request: Request) -> Response:
        """GET …/instances/{instance}/frames/{frames} (W14 to W19)."""
        numbers = frame_numbers(request.path_params.get("frames", ""))
        ranges = self._service.accepts(request)
        resource = await look_up(self._service, request)
        dataset = await StoredDataset.open(
            self._service, await resource.only_instance(), lambda scanner: scanner.header_complete
        )
        try:
            # Whether the frames are there goes before how they may be sent: 404 before 406.
            pixels, frames = await _find_frames(dataset, numbers)
            chosen = represent(ranges, stored_pixels(pixels, dataset, single=len(frames) == 1))
            url = f"{instance_url(resource.base_url, dataset.instance)}/frames"
            locations = [f"{url}/{number}" for number in numbers]
            syntax = frames_syntax(pixels, dataset)
            return await frames_answer(request, dataset, frames, locations, chosen, syntax)
        except BaseException:
            await dataset.close()
            raise


def frame_numbers(text: str) -> list[int]:
    """The numbers of a frame list, ascending from 1 (PS3.18 10.1.1). Raises 400 (W15)."""
    numbers = [int(number) for number in text.split(",")] if _FRAME_LIST.fullmatch(text) else []
    if not numbers or numbers[0] < 1 or any(a >= b for a, b in pairwise(numbers)):
        raise bad_request("the frame list is not made of ascending numbers from 1, like 1,2,5")
    return numbers


async def _find_frames(
    dataset: StoredDataset, numbers: Sequence[int]
) -> tuple[ImagePixels, list[Frame]]:
    """The image and its frames. Raises 404 if they are not there, 406 if they cannot be told."""
    try:
        pixels = image_pixels(dataset.header)
        return pixels, await dataset.answer(locate_frames(pixels, numbers))
    except (NotAnImageError, NoSuchFrameError) as error:
        raise not_found(str(error)) from None
    except UndividedFramesError as error:
        raise undivided(error) from None


def undivided(error: UndividedFramesError) -> HttpProblemError:
    """406: Pixel Data whose frames cannot be told apart."""
    return HttpProblemError(
        406,
        "Not Acceptable",
        f"{error}; the instance itself can be had as application/dicom; transfer-syntax=*",
    )


def stored_pixels(pixels: ImagePixels, dataset: StoredDataset, *, single: bool) -> Stored:
    """What an image's frames can be had as."""
    uid = dataset.header.transfer_syntax_uid
    if isinstance(pixels, EncapsulatedPixels):
        return Stored.codestreams(uid, single=single)
    return Stored.octets(uid, single=single)


def frames_syntax(pixels: ImagePixels, dataset: StoredDataset) -> str:
    """The transfer syntax that frames leave in: native ones are little endian, whatever they were
    stored in; codestreams are what they are, even those that have no media type of their own."""
    if isinstance(pixels, EncapsulatedPixels):
        return dataset.header.transfer_syntax_uid
    return EXPLICIT_VR_LITTLE_ENDIAN


async def frames_answer(
    request: Request,
    dataset: StoredDataset,
    frames: Sequence[Frame],
    locations: Sequence[str],
    chosen: Representation,
    transfer_syntax_uid: str,
) -> Response:
    """The frames, each at its URL, as a body; the data set is closed with it.

    Every part names the transfer syntax it really is in (8.7.9, W5).
    """
    numbers = ",".join(str(frame.number) for frame in frames)
    etag = payload_etag(dataset.instance, *locations[:1], numbers, multipart=chosen.multipart)
    headers = {"ETag": etag, "Vary": "Accept"}
    if is_unchanged(request.headers, etag):
        await dataset.close()
        return Response(status_code=304, headers=headers)
    content_type = f"{chosen.media_type}; transfer-syntax={transfer_syntax_uid}"
    if not chosen.multipart:
        return StreamedAnswer(
            frame_pieces(dataset, frames[0]),
            headers={**headers, "Content-Type": content_type, "Content-Location": locations[0]},
            length=frames[0].length,
            release=dataset.close,
        )
    writer = MultipartWriter(chosen.media_type)
    heads = [
        writer.head(content_type, location, frame.length)
        for frame, location in zip(frames, locations, strict=True)
    ]
    length = sum(map(len, heads)) + sum(frame.length for frame in frames) + len(writer.end())

    async def body() -> AsyncGenerator[bytes, None]:
        for head, frame in zip(heads, frames, strict=True):
            yield head
            async for piece in frame_pieces(dataset, frame):
                yield piece
        yield writer.end()

    return StreamedAnswer(
        body(),
        headers={**headers, "Content-Type": writer.content_type},
        length=length,
        release=dataset.close,
    )


async def frame_pieces(dataset: StoredDataset, frame: Frame) -> AsyncGenerator[bytes, None]:
    """A frame's bytes as they leave. Raises UndividedFramesError if the object is too short."""
    made = FrameBytes(frame)
    for offset, length in frame.ranges:
        async for piece in dataset.stream(offset, length):
            if ready := made.receive(piece):
                yield ready
    if rest := made.finish():
        yield rest
