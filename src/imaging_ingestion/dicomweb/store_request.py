"""A Store request before its parts are looked at: its Content-Type, and its body, bounded."""

from __future__ import annotations

import asyncio

from starlette.requests import ClientDisconnect, Request

from imaging_ingestion.dicomweb.negotiation import MediaRange, parse_accept
from imaging_ingestion.dicomweb.problem import HttpProblemError, bad_request

DICOM = "application/dicom"
SUPPORTED = ('multipart/related; type="application/dicom"; boundary=…', DICOM)
#: After an error the rest of the body is read up to here, so that the client, who reads when it has
#: sent, reads our answer instead of a reset connection.
DRAIN = 64 << 20  # bytes
#: A client that stays below this is not sending, it holds on to what we keep for it.
SLOWEST = 500  # bytes a second


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
    headers = request.headers.getlist("content-type")
    if not headers or not headers[0].strip():
        raise bad_request("the Content-Type is missing", supported=SUPPORTED)
    if len(headers) > 1:
        raise bad_request("there is more than one Content-Type", supported=SUPPORTED)
    media = parse_accept(headers[0])
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

    A client may pause for `patience` seconds, and is given that long on the whole to send slower
    than `SLOWEST`. Iterating raises ClientDisconnect, and HttpProblemError: 408, 413.
    """

    def __init__(self, request: Request, most: int, patience: float) -> None:
        self._request = request
        self._most = most
        self._patience = patience
        self._allowance = patience  # seconds that may still be spent waiting
        self._received = 0
        self._over = False
        #: The client waits for a word before it sends the body (RFC 9110 10.1.1); any will do.
        self._unasked = request.headers.get("expect", "").lower() == "100-continue"

    def check_length(self) -> None:
        """Look at Content-Length before anything is read. Raises HttpProblemError: 413."""
        length = self._request.headers.get("content-length", "")
        if length.isdecimal() and int(length[:20]) > self._most:
            raise self._too_long()

    def __aiter__(self) -> RequestBody:
        return self

    async def __anext__(self) -> bytes:
        while self._received <= self._most:
            if self._over:
                raise StopAsyncIteration
            chunk = await self._receive()
            within = self._most - self._received
            self._received += len(chunk)
            if chunk[:within]:
                return chunk[:within]
        raise self._too_long()

    async def drain(self) -> None:
        """Read on and forget, `DRAIN` bytes at most."""
        if self._unasked:
            return
        drained = 0
        try:
            while not self._over and drained <= DRAIN:
                drained += len(await self._receive())
        except (ClientDisconnect, HttpProblemError):
            return  # nobody will read the answer

    async def _receive(self) -> bytes:
        self._unasked = False
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            async with asyncio.timeout(min(self._patience, max(self._allowance, 0.0))):
                message = await self._request.receive()
        except TimeoutError:
            self._over = True
            raise HttpProblemError(
                408,
                "Request Timeout",
                f"the body did not go on: {self._received} bytes of it were received",
                headers={"Connection": "close"},
            ) from None
        if message["type"] == "http.disconnect":
            self._over = True
            raise ClientDisconnect
        chunk: bytes = message.get("body", b"")
        self._allowance += len(chunk) / SLOWEST - (loop.time() - began)
        self._over = not message.get("more_body", False)
        return chunk

    def _too_long(self) -> HttpProblemError:
        return HttpProblemError(
            413, "Content Too Large", f"the body of a request may have at most {self._most} bytes"
        )
