"""multipart/related bodies as they are sent (RFC 2387, PS3.18 8.6.1.2)."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from imaging_ingestion.dicomweb.multipart import End, MultipartParser, PartBegin, PartData, PartEnd
from imaging_ingestion.dicomweb.multipart_writer import MultipartWriter


def test_a_body_is_framed_with_crlf_and_closed() -> None:
    # H16, H17
    writer = MultipartWriter("application/dicom", "abc")
    body = (
        writer.head("application/dicom; transfer-syntax=1.2", "http://x/1", 3)
        + b"one"
        + writer.head("application/dicom", "http://x/2")
        + b"two"
        + writer.end()
    )
    assert writer.content_type == 'multipart/related; type="application/dicom"; boundary=abc'
    assert body == (
        b"--abc\r\nContent-Type: application/dicom; transfer-syntax=1.2\r\n"
        b"Content-Location: http://x/1\r\nContent-Length: 3\r\n\r\none"
        b"\r\n--abc\r\nContent-Type: application/dicom\r\n"
        b"Content-Location: http://x/2\r\n\r\ntwo"
        b"\r\n--abc--\r\n"
    )


def test_boundaries_are_random_and_need_no_quotes() -> None:
    # H16: 128 bits do not occur in an image by chance
    boundaries = {MultipartWriter("a/b").content_type.rpartition("=")[2] for _ in range(50)}
    assert len(boundaries) == 50
    assert all(re.fullmatch("[0-9a-f]{32}", boundary) for boundary in boundaries)


@given(st.lists(st.binary(max_size=200), min_size=1, max_size=5))
def test_what_is_written_is_read_back(parts: list[bytes]) -> None:
    # H16
    writer = MultipartWriter("application/dicom")
    body = b"".join(writer.head("application/dicom", "http://x", len(p)) + p for p in parts)
    parser = MultipartParser(writer.content_type.rpartition("=")[2])
    found: list[bytes] = []
    for event in parser.receive_data(body + writer.end()):
        if isinstance(event, PartBegin):
            found.append(b"")
        elif isinstance(event, PartData):
            found[-1] += bytes(event.data)
        else:
            assert isinstance(event, PartEnd | End)
    assert found == parts
    assert parser.ended
