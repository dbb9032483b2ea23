"""Retrieve Frames: some frames of one instance's Pixel Data (PS3.18 10.4.1.1.6)."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Sequence

from starlette.requests import Request
from starlette.responses import Response

from imaging_ingestion.dicom.fragments import FramesError, UndividedFramesError
from imaging_ingestion.dicom.frames import (
    Frame,
    FrameBytes,
    NoSuchFrameError,
    NotAnImageError,
    image_pixels,
    locate_frames,
)
from imaging_ingestion.dicom.transfer_syntax import EXPLICIT_VR_LITTLE_ENDIAN, is_encapsulated
from imaging_ingestion.dicomweb.conditional import is_unchanged
from imaging_ingestion.dicomweb.multipart_writer import MultipartWriter
from imaging_ingestion.dicomweb.problem import HttpProblemError, bad_request, not_found
from imaging_ingestion.dicomweb.representation import Representation, Stored, represent
from imaging_ingestion.dicomweb.retrieved_resource import instance_url, look_up
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
        instance = await resource.only_instance()
        stored = Stored.pixels(instance.transfer_syntax_uid, single=len(numbers) == 1)
        dataset = await StoredDataset.open(
            self._service, instance, lambda scanner: scanner.header_complete
        )
        try:
            # Whether it is an image at all goes before how it may be sent: 404 before 406.
            frames = await find_frames(dataset, numbers)
            chosen = represent(ranges, stored)
        except BaseException:
            await dataset.close()
            raise
        etag = resource.etag("frames", str(numbers), str(chosen))
        if is_unchanged(request.headers, etag):
            await dataset.close()
            return Response(status_code=304, headers={"ETag": etag})
        url = f"{instance_url(resource.base_url, dataset.instance)}/frames"
        return frames_answer(dataset, frames, chosen, url, etag)


def frame_numbers(text: str) -> list[int]:
    """The numbers of a frame list, ascending from 1 (PS3.18 10.1.1). Raises 400 (W15)."""
    numbers = [int(number) for number in text.split(",")] if _FRAME_LIST.fullmatch(text) else []
    if not numbers or numbers[0] < 1 or any(a >= b for a, b in zip(numbers, numbers[1:])):
        raise bad_request("the frame list is not made of ascending numbers from 1, like 1,2,5")
    return numbers


async def find_frames(dataset: StoredDataset, numbers: Sequence[int]) -> list[Frame]:
    """Where the frames are. Raises 404 if they are not there, 406 if they cannot be told apart."""
    try:
        return await dataset.answer(locate_frames(image_pixels(dataset.header), numbers))
    except (NotAnImageError, NoSuchFrameError) as error:
        raise not_found(str(error)) from None
    except FramesError as error:
        raise undivided(error) from None


def undivided(error: FramesError) -> HttpProblemError:
    """406: Pixel Data whose frames cannot be told apart."""
    return HttpProblemError(
        406,
        "Not Acceptable",
        f"{error}; the instance itself can be had as application/dicom; transfer-syntax=*",
    )


def pixel_content_type(dataset: StoredDataset, chosen: Representation) -> str:
    """The Content-Type of frames: what they are, and in which transfer syntax (8.7.9, W5)."""
    uid = dataset.header.transfer_syntax_uid
    named = uid if is_encapsulated(uid) else EXPLICIT_VR_LITTLE_ENDIAN
    return f"{chosen.media_type}; transfer-syntax={named}"


def frames_answer(
    dataset: StoredDataset, frames: Sequence[Frame], chosen: Representation, url: str, etag: str
) -> Response:
    """The frames as a body, each at `url`/number; the data set is closed with it."""
    content_type = pixel_content_type(dataset, chosen)
    headers = {"ETag": etag, "Vary": "Accept, Host"}
    if not chosen.multipart:
        (frame,) = frames
        return StreamedAnswer(
            frame_pieces(dataset, frame),
            headers={**headers, "Content-Type": content_type},
            length=frame.length,
            release=dataset.close,
        )
    writer = MultipartWriter(chosen.media_type)
    heads = [
        writer.head(content_type, f"{url}/{frame.number}", frame.length) for frame in frames
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
