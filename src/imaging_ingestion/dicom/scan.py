"""The streaming header scanner: a DICOM Part 10 stream in, a `Header` out (PS3.10 section 7).

Bytes come in pieces of any size. Preamble and file meta information are optional: a bare data set
is recognised by its first element, its encoding is guessed from it, and the header says so in a
warning. Nothing of the bulk values is kept, so the memory is that of the attributes, whatever the
instance's size.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping

from imaging_ingestion.dicom.dataset_scan import DatasetScanner, ScanLimits
from imaging_ingestion.dicom.element_kind import LONG_FORM
from imaging_ingestion.dicom.header import (
    BulkRange,
    Header,
    HeaderTooLargeError,
    MalformedError,
    NotDicomError,
    TruncatedError,
)
from imaging_ingestion.dicom.json_model import KIND_OF_VR
from imaging_ingestion.dicom.transfer_syntax import (
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    encoding_of,
)

__all__ = ["HeaderScanner", "ScanLimits", "scan_bytes"]

PREAMBLE_LENGTH = 128
_TRANSFER_SYNTAX_UID = 0x00020010
_MEDIA_STORAGE_SOP_CLASS_UID = 0x00020002
_MEDIA_STORAGE_SOP_INSTANCE_UID = 0x00020003
#: File meta information is a few hundred bytes; private information could be larger.
_FILE_META_LIMIT = 1 << 20
_INFLATE_PIECE = 1 << 18
#: Deflate packs 1000:1 at most; what inflates to more than this is no image.
_INFLATED_LIMIT = 1 << 36
_FIRST_LENGTH_LIMIT = 1 << 16  # of the first element of a bare data set


_PIECE = 1 << 14  # bytes


class HeaderScanner:
    """Scans one stream: `feed` it all, then `finish`."""

    def __init__(self, limits: ScanLimits | None = None) -> None:
        self._limits = limits or ScanLimits()
        self._start: bytes | None = b""  # bytes before the data set is recognised
        self._received = 0
        self._meta: dict[int, str] = {}
        self._has_preamble = False
        self._has_file_meta = False
        self._dataset_offset = 0
        self._transfer_syntax_uid = ""
        self._warnings: list[str] = []
        self._dataset: DatasetScanner | None = None
        self._inflate: zlib._Decompress | None = None
        self._inflated = 0

    @property
    def header_complete(self) -> bool:
        """Whether Pixel Data has been reached: the attributes before it are all there."""
        return self._dataset is not None and self._dataset.header_complete

    @property
    def held(self) -> int:
        """Bytes kept so far: attributes, and input that waits for more."""
        return len(self._start or b"") + (self._dataset.held if self._dataset is not None else 0)

    @property
    def is_dicom(self) -> bool:
        """Whether what has been fed so far begins like DICOM."""
        return self._has_preamble or self._has_file_meta or self._dataset is not None

    def peek(self, tag: int) -> str | None:
        """The text of a top-level element that has been scanned already, before `finish`."""
        raw = self._dataset.raw.get(tag) if self._dataset is not None else None
        return raw.decode("latin_1").strip(" \0") if raw else None

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Take the next bytes; the caller may reuse them afterwards. Raises ScanError."""
        size = len(data)
        self._received += size
        position = 0
        # Attributes are copied on their way, the pixels behind them are not: by small pieces what
        # came together with the last attributes stays out of the copies.
        while position < size and not self.header_complete:
            piece = memoryview(data)[position : position + _PIECE]
            position += len(piece)
            if self._start is None:
                self._feed_dataset(piece)
            else:
                self._start += piece
                self._open(at_end=False)
        if position < size:
            self._feed_dataset(memoryview(data)[position:])

    def finish(self) -> Header:
        """The header, once every byte has been fed. Raises ScanError."""
        if self._start is not None:
            self._open(at_end=True)
        dataset = self._dataset
        if dataset is None:
            raise NotDicomError("the stream is empty" if not self._received else "no data set")
        if self._inflate is not None and not self._inflate.eof:
            raise TruncatedError("the deflated data set ends before its last block")
        return self._header(dataset, dataset.finish())

    @property
    def bulk(self) -> Mapping[str, BulkRange]:
        """The bulk values met so far."""
        return self._dataset.bulk if self._dataset is not None else {}

    def header_so_far(self) -> Header:
        """The header as far as the stream has been fed, for whoever needs no more of it.

        Once `header_complete`, it has every attribute before Pixel Data, and Pixel Data's place.
        Raises NotDicomError if no data set has been reached yet.
        """
        if self._dataset is None:
            raise NotDicomError("no data set")
        return self._header(self._dataset, self._dataset.elements())

    def _header(self, dataset: DatasetScanner, elements: Mapping[int, bytes]) -> Header:
        return Header(
            transfer_syntax_uid=self._transfer_syntax_uid,
            has_preamble=self._has_preamble,
            has_file_meta=self._has_file_meta,
            dataset_offset=self._dataset_offset,
            media_storage_sop_class_uid=self._meta.get(_MEDIA_STORAGE_SOP_CLASS_UID),
            media_storage_sop_instance_uid=self._meta.get(_MEDIA_STORAGE_SOP_INSTANCE_UID),
            elements=elements,
            raw=dataset.raw,
            bulk=dataset.bulk,
            charset=dataset.charset,
            big_endian=dataset.big_endian,
            warnings=(*self._warnings, *dataset.warnings),
        )

    def _open(self, *, at_end: bool) -> None:
        """Find the data set once enough bytes are there, and hand it what has come of it."""
        start = self._start
        assert start is not None
        if len(start) < PREAMBLE_LENGTH + 4 and not at_end:
            return
        if not start:
            return
        offset = 0
        if start[PREAMBLE_LENGTH : PREAMBLE_LENGTH + 4] == b"DICM":
            offset = PREAMBLE_LENGTH + 4
            self._has_preamble = True
        elif start[:4] == b"DICM":
            offset = 4
            self._warnings.append("the preamble is missing")
        elif start[:2] != b"\x02\x00" and _sniff(start) is None:
            raise NotDicomError("the bytes are not DICOM: neither DICM nor a data set begins there")
        dataset_at = _read_file_meta(start, offset, self._meta, at_end=at_end)
        if dataset_at is None:
            if len(start) > _FILE_META_LIMIT:
                raise MalformedError("the file meta information is longer than 1 MiB")
            return
        self._has_file_meta = dataset_at > offset
        self._dataset_offset = dataset_at
        rest = start[dataset_at:]
        if len(rest) < 16 and not at_end:
            return
        self._transfer_syntax_uid = self._choose_transfer_syntax(rest)
        encoding = encoding_of(self._transfer_syntax_uid)
        if encoding.deflated:
            self._inflate = zlib.decompressobj(-zlib.MAX_WBITS)
        self._dataset = DatasetScanner(
            encoding, self._limits, 0 if encoding.deflated else dataset_at
        )
        self._start = None
        self._feed_dataset(rest)

    def _choose_transfer_syntax(self, rest: bytes) -> str:
        named = self._meta.get(_TRANSFER_SYNTAX_UID)
        if named:
            guessed = _sniff(rest)
            if named == IMPLICIT_VR_LITTLE_ENDIAN and guessed == EXPLICIT_VR_LITTLE_ENDIAN:
                self._warnings.append(
                    "the data set is explicit VR though the file meta says implicit"
                )
                return guessed
            if named == EXPLICIT_VR_LITTLE_ENDIAN and guessed == IMPLICIT_VR_LITTLE_ENDIAN:
                self._warnings.append(
                    "the data set is implicit VR though the file meta says explicit"
                )
                return guessed
            return named
        guessed = _sniff(rest)
        if guessed is None:
            if not rest:
                raise TruncatedError("the stream ends before the data set")
            raise NotDicomError("there is no transfer syntax, and no data set that tells its own")
        self._warnings.append(
            "the file meta information names no transfer syntax"
            if self._has_file_meta
            else "there is no file meta information"
        )
        return guessed

    def _feed_dataset(self, data: bytes | bytearray | memoryview) -> None:
        assert self._dataset is not None
        if self._inflate is None:
            self._dataset.receive(data)
            return
        pending: bytes | bytearray | memoryview = data
        try:
            while pending and not self._inflate.eof:
                piece = self._inflate.decompress(pending, _INFLATE_PIECE)
                self._inflated += len(piece)
                if self._inflated > _INFLATED_LIMIT:
                    raise HeaderTooLargeError("the deflated data set inflates beyond all reason")
                self._dataset.receive(piece)
                pending = self._inflate.unconsumed_tail
        except zlib.error as error:
            raise MalformedError("the deflated data set cannot be inflated") from error


def scan_bytes(data: bytes | bytearray | memoryview, limits: ScanLimits | None = None) -> Header:
    """The header of an instance that is in memory. Raises ScanError."""
    scanner = HeaderScanner(limits)
    scanner.feed(data)
    return scanner.finish()


def _read_file_meta(start: bytes, offset: int, meta: dict[int, str], *, at_end: bool) -> int | None:
    """Read group 0002 (explicit VR little endian, PS3.10 7.1); where it ends, None for more bytes.

    The group length is not trusted: the group ends where another one begins. Elements written with
    implicit VR by mistake are understood.
    """
    while True:
        head = start[offset : offset + 12]
        if len(head) < 12:
            if not at_end:
                return None
            if head[:2] == b"\x02\x00":
                raise TruncatedError("the stream ends in the file meta information")
            return offset
        if head[:2] != b"\x02\x00":
            return offset
        vr = head[4:6].decode("latin_1")
        if vr in LONG_FORM:
            length, value_at = int.from_bytes(head[8:12], "little"), offset + 12
        elif vr in KIND_OF_VR:
            length, value_at = int.from_bytes(head[6:8], "little"), offset + 8
        else:
            length, value_at = int.from_bytes(head[4:8], "little"), offset + 8
        if value_at + length > len(start):
            if not at_end and length <= _FILE_META_LIMIT:
                return None
            raise TruncatedError(
                "an element of the file meta information is longer than the stream"
            )
        tag = 0x00020000 | int.from_bytes(head[2:4], "little")
        if tag in {
            _TRANSFER_SYNTAX_UID,
            _MEDIA_STORAGE_SOP_CLASS_UID,
            _MEDIA_STORAGE_SOP_INSTANCE_UID,
        }:
            value = start[value_at : value_at + length].decode("latin_1").strip(" \0")
            if value:
                meta[tag] = value
        offset = value_at + length


def _sniff(data: bytes) -> str | None:
    """The transfer syntax that the first element of a bare data set shows; None if it is none."""
    if len(data) < 8:
        return None
    vr = data[4:6].decode("latin_1")
    little = int.from_bytes(data[:2], "little")
    if 0x0008 <= little <= 0x0020 and little % 2 == 0:
        if vr in KIND_OF_VR:
            return EXPLICIT_VR_LITTLE_ENDIAN
        if int.from_bytes(data[4:8], "little") <= _FIRST_LENGTH_LIMIT:
            return IMPLICIT_VR_LITTLE_ENDIAN
    big = int.from_bytes(data[:2], "big")
    if 0x0008 <= big <= 0x0020 and big % 2 == 0 and vr in KIND_OF_VR:
        return EXPLICIT_VR_BIG_ENDIAN
    return None
