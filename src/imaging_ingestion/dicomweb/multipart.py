"""multipart/related as it streams in (RFC 2046 5.1, RFC 2387): bytes in, events out, no I/O.

The parser looks for the delimiter with `bytes.find`, never byte by byte, and hands out the parts'
bytes as views of what was received. It keeps back only what might be the beginning of a delimiter,
so memory does not depend on the size of a part.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto

MAX_HEADER_BYTES = 16384
MAX_BOUNDARY = 70  # RFC 2046 5.1.1

_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,\-./:=? ]{0,69}[0-9A-Za-z'()+_,\-./:=?]")
#: Widely used although the RFC does not have them.
_LENIENT_BOUNDARY = re.compile(r"[!-~]{1,200}")


class MultipartError(ValueError):
    """The body is no multipart body of that boundary; the message says what is wrong."""


@dataclass(frozen=True, slots=True)
class PartBegin:
    """A part begins; header names are lower case."""

    headers: dict[str, str]


@dataclass(frozen=True, slots=True)
class PartData:
    """Some of the part's bytes, valid until the next call of the parser."""

    data: memoryview


@dataclass(frozen=True, slots=True)
class PartEnd:
    """The part is complete."""


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
    """Parses one body."""

    def __init__(self, boundary: str) -> None:
        if not _BOUNDARY.fullmatch(boundary) and not _LENIENT_BOUNDARY.fullmatch(boundary):
            raise MultipartError("the boundary is empty, too long, or has forbidden characters")
        #: Behind a line break.
        self._dash_boundary = b"--" + boundary.encode("ascii")
        self._delimiter = b"\r\n" + self._dash_boundary
        self._state = _State.PREAMBLE
        self._rest = b"\r\n"  # so that a boundary at the very start is a delimiter like any other

    @property
    def ended(self) -> bool:
        """Whether the closing delimiter has been seen."""
        return self._state is _State.EPILOGUE

    def receive_data(self, data: bytes) -> Iterator[Event]:
        """Take the next bytes; go through all events before the next call.

        Raises MultipartError.
        """
        buffer = self._rest + data if self._rest else data
        self._rest = b""
        position = 0
        while True:
            match self._state:
                case _State.BODY:
                    found = buffer.find(self._delimiter, position)
                    if found < 0:
                        # Keep what may be the start of a delimiter: only from the last CR on.
                        keep = buffer.rfind(b"\r", max(position, len(buffer) - self._tail()))
                        stop = len(buffer) if keep < 0 else keep
                        if stop > position:
                            yield PartData(memoryview(buffer)[position:stop])
                        self._rest = buffer[stop:]
                        return
                    if found > position:
                        yield PartData(memoryview(buffer)[position:found])
                    position = found + len(self._delimiter)
                    self._state = _State.DELIMITER
                    yield PartEnd()
                case _State.PREAMBLE:
                    found = buffer.find(self._delimiter, position)
                    if found < 0:
                        self._rest = buffer[max(position, len(buffer) - self._tail()) :]
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
                    parsed = _parse_headers(buffer, position)
                    if parsed is None:
                        self._rest = buffer[position:]
                        return
                    headers, position = parsed
                    self._state = _State.BODY_START
                    yield PartBegin(headers)
                case _State.BODY_START:
                    # The line break that ended the headers may be that of the next delimiter: then
                    # the part has no body (RFC 2046 5.1.1).
                    if self._dash_boundary.startswith(buffer[position:]):
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
        """The body is over. Raises MultipartError unless the closing delimiter was there."""
        if self._state is _State.PREAMBLE:
            raise MultipartError("the body does not contain the boundary of its Content-Type")
        if not self.ended:
            raise MultipartError("the body ends before its closing delimiter")

    def _tail(self) -> int:
        return len(self._delimiter) - 1

    def _after_boundary(self, buffer: bytes, position: int) -> int | None:
        """Where the line of a delimiter ends; None if more bytes are wanted."""
        if len(buffer) - position < 2:
            return None
        if buffer.startswith(b"--", position):
            self._state = _State.EPILOGUE
            return position + 2
        line_end = buffer.find(b"\n", position, position + 256)
        if line_end < 0:
            if len(buffer) - position > 256:
                raise MultipartError("a boundary is followed by more than white space")
            return None
        if buffer[position:line_end].strip(b" \t\r"):
            raise MultipartError("a boundary is followed by more than white space")
        self._state = _State.HEADERS
        return line_end + 1


def _parse_headers(buffer: bytes, position: int) -> tuple[dict[str, str], int] | None:
    """A part's headers and where its body begins; None if more bytes are wanted."""
    headers: dict[str, str] = {}
    start = position
    while True:
        line_end = buffer.find(b"\n", position)
        if line_end - start > MAX_HEADER_BYTES or (
            line_end < 0 and len(buffer) - start > MAX_HEADER_BYTES
        ):
            raise MultipartError(f"the headers of a part are longer than {MAX_HEADER_BYTES} bytes")
        if line_end < 0:
            return None
        line = buffer[position:line_end].rstrip(b"\r")
        position = line_end + 1
        if not line:
            return headers, position
        name, colon, value = line.partition(b":")
        if not colon or not name.strip():
            raise MultipartError("a header line of a part has no colon")
        headers[name.strip().decode("latin_1").lower()] = value.strip().decode("latin_1")
