"""multipart/related as it streams in (RFC 2046 5.1, RFC 2387): bytes in, events out, no I/O.

Theory of operation. A body is

    preamble  CRLF--boundary  headers  CRLF  content  CRLF--boundary  …  CRLF--boundary--  epilogue

and the parser is in one of the states below. It looks for the delimiter with `bytes.find`, never
byte by byte, and hands out the content as views of what was received. It keeps back only what is
the beginning of a delimiter so far, so memory does not depend on the size of a part.

What breaks the framing (no boundary at all, no closing delimiter, text behind a boundary) is an
error of the body. Headers of one part that cannot be read are that part's own fault: it begins with
an `error`, its bytes are handed out like any others, and the next part is none the worse for it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto

MAX_HEADER_BYTES = 16384  # of one part
MAX_HEADERS = 64  # of one part
MAX_PADDING = 256  # white space behind a boundary, which nobody sends

_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,\-./:=? ]{0,69}[0-9A-Za-z'()+_,\-./:=?]")
#: Widely used although RFC 2046 5.1.1 does not have them.
_LENIENT_BOUNDARY = re.compile(r"[!-~]{1,200}")


class MultipartError(ValueError):
    """The body is no multipart body of that boundary; the message says what is wrong."""


class InvalidBoundaryError(MultipartError):
    """The Content-Type names a boundary that cannot be one (RFC 2046 5.1.1)."""


class BoundaryMissingError(MultipartError):
    """The boundary does not occur in the body."""


class NotClosedError(MultipartError):
    """The body ends before its closing delimiter."""


class DelimiterError(MultipartError):
    """A boundary is followed by something that cannot follow it."""


class PartHeaderError(MultipartError):
    """The headers of one part cannot be read."""


@dataclass(frozen=True, slots=True)
class PartBegin:
    """A part begins; header names are lower case. `error` says why the headers cannot be read."""

    headers: dict[str, str]
    error: PartHeaderError | None = None


@dataclass(frozen=True, slots=True)
class PartData:
    """Some of the part's bytes."""

    data: memoryview


@dataclass(frozen=True, slots=True)
class PartEnd:
    """The part is complete: the delimiter after it has been seen."""


@dataclass(frozen=True, slots=True)
class End:
    """The closing delimiter: no part follows. Whatever comes after is the epilogue."""


Event = PartBegin | PartData | PartEnd | End


class _State(Enum):
    PREAMBLE = auto()
    DELIMITER = auto()  # just behind a boundary: `--`, or the end of its line
    HEADERS = auto()
    BODY_START = auto()
    BODY = auto()
    EPILOGUE = auto()


class MultipartParser:
    """Parses one body. Raises InvalidBoundaryError."""

    def __init__(self, boundary: str) -> None:
        if not _BOUNDARY.fullmatch(boundary) and not _LENIENT_BOUNDARY.fullmatch(boundary):
            raise InvalidBoundaryError(
                "the boundary in the Content-Type is empty, too long, or has forbidden characters: "
                "1 to 70 letters, digits and '()+_,-./:=? are expected"
            )
        self._dash_boundary = b"--" + boundary.encode("ascii")
        self._delimiter = b"\r\n" + self._dash_boundary
        self._state = _State.PREAMBLE
        self._rest = b"\r\n"  # so that a boundary at the very start is a delimiter like any other

    @property
    def ended(self) -> bool:
        """Whether the closing delimiter has been seen."""
        return self._state is _State.EPILOGUE

    @property
    def held(self) -> int:
        """How many bytes are kept for the next call."""
        return len(self._rest)

    def receive_data(self, data: bytes) -> Iterator[Event]:
        """Take the next bytes; go through all events before the next call.

        Raises DelimiterError.
        """
        buffer = self._rest + data if self._rest else data
        self._rest = b""
        position = 0
        while True:
            match self._state:
                case _State.BODY:
                    found = buffer.find(self._delimiter, position)
                    stop = self._content_end(buffer, position) if found < 0 else found
                    if stop > position:
                        yield PartData(memoryview(buffer)[position:stop])
                    if found < 0:
                        self._rest = buffer[stop:]
                        return
                    position = found + len(self._delimiter)
                    self._state = _State.DELIMITER
                    yield PartEnd()
                case _State.PREAMBLE:
                    found = buffer.find(self._delimiter, position)
                    if found < 0:
                        self._rest = buffer[self._content_end(buffer, position) :]
                        return
                    position = found + len(self._delimiter)
                    self._state = _State.DELIMITER
                case _State.DELIMITER:
                    after = self._after_boundary(buffer, position)
                    if after is None:
                        self._rest = buffer[position:]
                        return
                    position = after
                    if self.ended:
                        yield End()
                case _State.HEADERS:
                    try:
                        parsed = _parse_headers(buffer, position)
                    except PartHeaderError as error:
                        parsed = {}, position  # whatever it is, it goes on to the next delimiter
                        begin = PartBegin({}, error)
                    else:
                        if parsed is None:
                            self._rest = buffer[position:]
                            return
                        begin = PartBegin(parsed[0])
                    position = parsed[1]
                    self._state = _State.BODY_START
                    yield begin
                case _State.BODY_START:
                    # The line break that ended the headers may be that of the next delimiter: then
                    # the part has no body (RFC 2046 5.1.1).
                    available = len(buffer) - position
                    if available < len(self._dash_boundary) and self._dash_boundary.startswith(
                        buffer[position:]
                    ):
                        self._rest = buffer[position:]
                        return
                    self._state = _State.BODY
                    if buffer.startswith(self._dash_boundary, position):
                        position += len(self._dash_boundary)
                        self._state = _State.DELIMITER
                        yield PartEnd()
                case _State.EPILOGUE:
                    return

    def finish(self) -> None:
        """The body is over. Raises BoundaryMissingError, NotClosedError."""
        if self._state is _State.PREAMBLE:
            raise BoundaryMissingError("the body does not contain the boundary of its Content-Type")
        if not self.ended:
            raise NotClosedError("the body ends before its closing delimiter")

    def _content_end(self, buffer: bytes, position: int) -> int:
        """Where content ends that holds no whole delimiter: before one that may be beginning.

        A delimiter has one CR only, at its start, so the last CR decides.
        """
        start = buffer.rfind(b"\r", max(position, len(buffer) - len(self._delimiter) + 1))
        if start < 0 or not self._delimiter.startswith(buffer[start:]):
            return len(buffer)
        return start

    def _after_boundary(self, buffer: bytes, position: int) -> int | None:
        """Where the line of a delimiter ends; None if more bytes are wanted."""
        if len(buffer) - position < 2:
            return None
        if buffer.startswith(b"--", position):
            self._state = _State.EPILOGUE
            return position + 2
        line_end = buffer.find(b"\n", position, position + MAX_PADDING)
        stop = min(len(buffer), position + MAX_PADDING) if line_end < 0 else line_end
        if buffer[position:stop].strip(b" \t\r") or (
            line_end < 0 and stop - position == MAX_PADDING
        ):
            raise DelimiterError(
                "a boundary is followed by something else than the end of its line"
            )
        if line_end < 0:
            return None
        self._state = _State.HEADERS
        return line_end + 1


def _parse_headers(buffer: bytes, position: int) -> tuple[dict[str, str], int] | None:
    """A part's headers and where its body begins; None if more bytes are wanted.

    A line feed alone ends a line, too. Raises PartHeaderError.
    """
    headers: dict[str, str] = {}
    start = position
    while True:
        line_end = buffer.find(b"\n", position, start + MAX_HEADER_BYTES)
        if line_end < 0:
            if len(buffer) - start >= MAX_HEADER_BYTES:
                raise PartHeaderError(f"its headers are longer than {MAX_HEADER_BYTES} bytes")
            return None
        line = buffer[position:line_end].rstrip(b"\r")
        position = line_end + 1
        if not line:
            return headers, position
        if len(headers) == MAX_HEADERS:
            raise PartHeaderError(f"it has more than {MAX_HEADERS} headers")
        name, colon, value = line.partition(b":")
        if not colon or not name.strip():
            raise PartHeaderError("one of its header lines has no name and colon")
        headers[name.strip().decode("latin_1").lower()] = value.strip().decode("latin_1")
