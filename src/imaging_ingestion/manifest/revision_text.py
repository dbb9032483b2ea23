"""The data of a StudyRevisionEvent, written as its instances pass by and compressed at once.

A study may have any number of instances, and the text names each up to twice; what is held is the
compressed text, about 1 byte in 10. The change set comes last in the text, but is known only while
the instances pass, so its three lists are compressed on their own: the whole is several zstd frames
one after the other, which read as one text (RFC 8878 3.1).
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum

import msgspec
import zstandard

from imaging_ingestion.events.model import RevisionInstance, RevisionSeries, RevisionStudy

LEVEL = 3
#: Bytes that go to a compressor, or come from a decompressor, together.
PIECE = 1 << 16


class Changed(Enum):
    """What a revision says of an instance, by the list of the change set that names it."""

    ADDITION = "additions"
    DELETION = "deletions"
    MODIFICATION = "modifications"


def what_changed(sha256: bytes, announced_sha256: bytes | None, *, live: bool) -> Changed | None:
    """How an instance differs from what the last revision told of it; None if it does not."""
    if not live:
        return None if announced_sha256 is None else Changed.DELETION
    if announced_sha256 is None:
        return Changed.ADDITION
    return None if announced_sha256 == sha256 else Changed.MODIFICATION


class _Frame:
    """One zstd frame, filled in small pieces."""

    def __init__(self) -> None:
        self._compressor = zstandard.ZstdCompressor(level=LEVEL).compressobj()
        self._compressed: list[bytes] = []
        self._waiting: list[bytes] = []
        self._size = 0

    def write(self, text: bytes) -> None:
        self._waiting.append(text)
        self._size += len(text)
        if self._size >= PIECE:
            self._compress()

    def finish(self) -> bytes:
        self._compress()
        self._compressed.append(self._compressor.flush())
        return b"".join(self._compressed)

    def _compress(self) -> None:
        self._compressed.append(self._compressor.compress(b"".join(self._waiting)))
        self._waiting, self._size = [], 0


class RevisionText:
    """The text of one revision: its series in turn, each with its instances; then `finish`."""

    def __init__(self, number: int, study: RevisionStudy) -> None:
        """`study` without its series."""
        head, self._study_tail = _around(msgspec.json.encode(study), b'"series":[]')
        self._body = _Frame()
        self._body.write(b'{"revision":%d,"study":%b' % (number, head))
        self._series_tail: bytes | None = None
        self._first_series = self._first_instance = True
        self._changes: dict[Changed, _Frame] = {}

    @property
    def tells_of_changes(self) -> bool:
        """Whether anything has changed."""
        return bool(self._changes)

    def begin_series(self, series: RevisionSeries) -> None:
        """The next series, without its instances."""
        self._end_series()
        head, self._series_tail = _around(msgspec.json.encode(series), b'"instances":[]')
        self._body.write(head if self._first_series else b"," + head)
        self._first_series, self._first_instance = False, True

    def add(self, instance: RevisionInstance) -> None:
        """The next instance of the series that was begun last."""
        text = msgspec.json.encode(instance)
        self._body.write(text if self._first_instance else b"," + text)
        self._first_instance = False

    def change(self, what: Changed, series_instance_uid: str, sop_instance_uid: str) -> None:
        """An instance that differs from what the last revision told of it."""
        name = msgspec.json.encode(f"{series_instance_uid}/{sop_instance_uid}")
        frame = self._changes.get(what)
        if frame is None:
            self._changes[what] = frame = _Frame()
            frame.write(name)
        else:
            frame.write(b"," + name)

    def finish(self) -> bytes:
        """The compressed text (see `pieces_of`)."""
        self._end_series()
        self._body.write(self._study_tail)
        self._body.write(b',"changeSet":{')
        frames = [self._body.finish()]
        opening = b""
        for what in Changed:
            frames.append(_compressed(b'%b"%b":[' % (opening, what.value.encode())))
            if what in self._changes:
                frames.append(self._changes[what].finish())
            opening = b"],"
        frames.append(_compressed(b"]}}"))
        return b"".join(frames)

    def _end_series(self) -> None:
        if self._series_tail is not None:
            self._body.write(self._series_tail)
            self._series_tail = None


def pieces_of(packed: bytes) -> Iterator[bytes]:
    """A compressed text in pieces of at most `PIECE` bytes."""
    reader = zstandard.ZstdDecompressor().stream_reader(packed, read_across_frames=True)
    while piece := reader.read(PIECE):
        yield piece


def unpacked(packed: bytes, most: int) -> bytes:
    """The text, or b"" if it is longer than `most` bytes."""
    reader = zstandard.ZstdDecompressor().stream_reader(packed, read_across_frames=True)
    text: bytes = reader.read(most + 1)
    return text if len(text) <= most else b""


def _compressed(text: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=LEVEL).compress(text)


def _around(text: bytes, empty_list: bytes) -> tuple[bytes, bytes]:
    """The text up to the inside of an empty list, and from there on.

    No value can hold the list's name with its quotation marks: inside a value they are escaped.
    """
    head, tail = text.split(empty_list, 1)
    return head + empty_list[:-1], empty_list[-1:] + tail
