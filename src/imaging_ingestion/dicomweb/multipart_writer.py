"""multipart/related bodies as they are sent (RFC 2387, PS3.18 8.6.1.2): pure, part by part."""

from __future__ import annotations

import secrets


class MultipartWriter:
    """The framing of one body. What lies between the heads is the caller's, streamed."""

    def __init__(self, root_type: str, boundary: str | None = None) -> None:
        """`root_type` is the media type of the parts, without parameters (H17).

        The boundary is random by default: 128 bits do not occur in an image by chance.
        """
        self._boundary = boundary or secrets.token_hex(16)
        self._begun = False
        self.content_type = f'multipart/related; type="{root_type}"; boundary={self._boundary}'

    def head(self, content_type: str, location: str, length: int | None = None) -> bytes:
        """What stands before the next part's bytes.

        `location` is the absolute URL of what the part represents (H16), `length` its bytes.
        """
        lines = [
            f"--{self._boundary}",
            f"Content-Type: {content_type}",
            f"Content-Location: {location}",
        ]
        if length is not None:
            lines.append(f"Content-Length: {length}")
        head = "\r\n".join(lines) + "\r\n\r\n"
        if self._begun:
            head = "\r\n" + head
        self._begun = True
        return head.encode("ascii")

    def end(self) -> bytes:
        """What stands behind the last part."""
        return f"\r\n--{self._boundary}--\r\n".encode("ascii")
