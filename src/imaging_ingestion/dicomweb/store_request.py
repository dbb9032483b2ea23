"""A Store request before its parts are looked at: its Content-Type, and its body, bounded."""

from __future__ import annotations

from collections.abc import AsyncIterator

from starlette.requests import ClientDisconnect, Request

from imaging_ingestion.dicomweb.negotiation import MediaRange, parse_accept
from imaging_ingestion.dicomweb.problem import HttpProblemError, bad_request

DICOM = "application/dicom"
SUPPORTED = ('multipart/related; type="application/dicom"; boundary=…', DICOM)
#: After an error the rest of the body is read up to here, so that the client, who reads when it has
#: sent, reads our answer instead of a reset connection.
DRAIN = 64 << 20  # bytes


def content_type_of(request: Request) -> MediaRange:
    """The request's Content-Type, if it is one that can be stored (S11, S12, S32).

    Raises HttpProblemError: 415 for media types and codings that are not supported, 400 for a
    header that is missing or cannot be read.
    """
    if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise HttpProblemError(
            415,
            "Unsupported Media Type",
            "a Content-Encoding is not supported: send the body as it is",
            headers={"Accept-Encoding": "identity"},
        )
    header = request.headers.get("content-type")
    if not header:
        raise bad_request("the Content-Type is missing", supported=SUPPORTED)
    media = parse_accept(header)
    if len(media) != 1:
        raise bad_request("the Content-Type cannot be read", supported=SUPPORTED)
    content = media[0]
    if content.type == DICOM:
        return content
    if content.type != "multipart/related" or content.root_type not in {DICOM, None}:
        raise HttpProblemError(
            415,
            "Unsupported Media Type",
            "instances are stored as application/dicom; metadata with bulk data "
            "(application/dicom+json, application/dicom+xml) come in a later version",
            supported=SUPPORTED,
        )
    if not content.parameters.get("boundary"):
        raise bad_request("the Content-Type names no boundary", supported=SUPPORTED)
    return content


class RequestBody:
    """The body of a request as it comes in, `most` bytes at most.

    Iterating raises HttpProblemError (413) beyond them, and ClientDisconnect.
    """

    def __init__(self, request: Request, most: int) -> None:
        self._request = request
        self._most = most
        self._stream = request.stream()
        self._received = 0
        self._over = False
        #: The client waits for a word before it sends the body (RFC 9110 10.1.1); any answer will do.
        self._unasked = request.headers.get("expect", "").lower() == "100-continue"

    def check_length(self) -> None:
        """Look at Content-Length before anything is read. Raises HttpProblemError: 413."""
        length = self._request.headers.get("content-length", "")
        if length.isdecimal() and int(length[:20]) > self._most:
            raise self._too_long()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        self._unasked = False
        async for chunk in self._stream:
            self._received += len(chunk)
            if self._received > self._most:
                raise self._too_long()
            if chunk:
                yield chunk
        self._over = True

    async def drain(self) -> None:
        """Read on and forget, `DRAIN` bytes at most."""
        if self._unasked or self._over:
            return
        drained = 0
        try:
            async for chunk in self._stream:
                drained += len(chunk)
                if drained > DRAIN:
                    return
        except ClientDisconnect:
            return  # nobody will read the answer

    def _too_long(self) -> HttpProblemError:
        return HttpProblemError(
            413, "Content Too Large", f"the body of a request may have at most {self._most} bytes"
        )
