"""Retrieve Metadata: the data sets of a study, series or instance (PS3.18 10.4.1.1.2).

The manifest keeps each data set as DICOM JSON, compressed, with `@` where the URLs of bulk values
begin (docs/decisions/0003-metadata-at-intake.md): the answer is made of rows, not of objects, and
JSON is spliced, never parsed. Pieces are bounded, whatever the size of a data set.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator

import zstandard
from starlette.requests import Request
from starlette.responses import Response

from imaging_ingestion.dicom.xml_model import xml_of_json
from imaging_ingestion.dicomweb.conditional import is_unchanged
from imaging_ingestion.dicomweb.multipart_writer import MultipartWriter
from imaging_ingestion.dicomweb.negotiation import Offer
from imaging_ingestion.dicomweb.retrieved_resource import RetrievedResource, look_up
from imaging_ingestion.dicomweb.service import DicomwebService
from imaging_ingestion.dicomweb.streamed_answer import StreamedAnswer
from imaging_ingestion.manifest.retrieve import InstanceMetadata, metadata_page

JSON = "application/dicom+json"
XML = "application/dicom+xml"
_OFFERS = (Offer(JSON), Offer("multipart/related", XML), Offer("application/json"))

METADATA_PAGE = 256  # rows
METADATA_BYTES = 4 << 20  # compressed bytes of a page, but for its last row
_PIECE = 1 << 20
_BULK = b'"BulkDataURI":"@'


class WadoMetadata:
    """The metadata resources of one space."""

    def __init__(self, service: DicomwebService) -> None:
        self._service = service

    async def retrieve(self, request: Request) -> Response:
        """GET …/metadata at the three levels (W9 to W11)."""
        choice = self._service.choose(request, *_OFFERS)
        resource = await look_up(self._service, request)
        offer = choice.offer
        etag = resource.etag(str(offer), resource.base_url)
        headers = {"ETag": etag, "Vary": "Accept"}
        if is_unchanged(request.headers, etag):
            return Response(status_code=304, headers=headers)
        study = request.path_params["study"]
        if offer.part_type == XML:
            writer = MultipartWriter(XML)
            headers["Content-Type"] = writer.content_type
            return StreamedAnswer(_xml_body(resource, study, writer), headers=headers)
        headers["Content-Type"] = offer.type
        return StreamedAnswer(_json_body(resource, study), headers=headers)


async def _json_body(resource: RetrievedResource, study: str) -> AsyncGenerator[bytes, None]:
    """One JSON array, in pieces of about 1 MiB."""
    separator = b"["
    async for page in _pages(resource):
        pieces = _json_pieces(page, resource.base_url, study, separator)
        while piece := await asyncio.to_thread(next, pieces, b""):
            yield piece
        separator = b","
    yield b"]" if separator == b"," else b"[]"


async def _xml_body(
    resource: RetrievedResource, study: str, writer: MultipartWriter
) -> AsyncGenerator[bytes, None]:
    """A part with one Native DICOM Model document for each instance."""
    async for page in _pages(resource):
        for row in page:
            url = _instance_url(resource.base_url, study, row)
            document = await asyncio.to_thread(_xml_document, row, url)
            yield writer.head(XML, f"{url}/metadata", len(document)) + document
    yield writer.end()


async def _pages(resource: RetrievedResource) -> AsyncGenerator[list[InstanceMetadata], None]:
    after = 0
    while True:
        page = await resource.service.database.read(
            metadata_page, resource.place, after, METADATA_PAGE, METADATA_BYTES
        )
        if not page:
            return
        yield page
        after = page[-1].pk


def _json_pieces(
    page: list[InstanceMetadata], base_url: str, study: str, separator: bytes
) -> Iterator[bytes]:
    """The data sets with `separator` before the first and commas between them."""
    gathered, size = [], 0
    for row in page:
        gathered.append(separator)
        separator = b","
        bulk = b'"BulkDataURI":"%b/bulkdata/' % _instance_url(base_url, study, row).encode()
        for piece in _decompressed(row.json_zstd):
            gathered.append(piece.replace(_BULK, bulk))
            size += len(gathered[-1])
            if size > _PIECE:
                yield b"".join(gathered)
                gathered, size = [], 0
    yield b"".join(gathered)


def _decompressed(blob: bytes) -> Iterator[bytes]:
    """The JSON text; if it is large in pieces, none of which ends within a `_BULK`."""
    decompressor = zstandard.ZstdDecompressor()
    if 0 <= zstandard.frame_content_size(blob) <= _PIECE:
        yield decompressor.decompress(blob)
        return
    kept = b""
    with decompressor.stream_reader(blob) as reader:
        while piece := reader.read(_PIECE):
            text = kept + piece
            cut = _begun_bulk(text)
            kept = text[cut:]
            yield text[:cut]
    yield kept


def _begun_bulk(text: bytes) -> int:
    """Where a `_BULK` begins that the text's end cuts; the text's length if there is none."""
    for length in range(min(len(_BULK) - 1, len(text)), 0, -1):
        if text.endswith(_BULK[:length]):
            return len(text) - length
    return len(text)


def _xml_document(row: InstanceMetadata, url: str) -> bytes:
    bulk = b'"BulkDataURI":"%b/bulkdata/' % url.encode()
    return xml_of_json(b"".join(_decompressed(row.json_zstd)).replace(_BULK, bulk))


def _instance_url(base_url: str, study: str, row: InstanceMetadata) -> str:
    return (
        f"{base_url}/studies/{study}/series/{row.series_instance_uid}"
        f"/instances/{row.sop_instance_uid}"
    )
