"""What a scan of an instance tells: identification, attributes, and where the bulk values are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from imaging_ingestion.dicom.charset import Charset

SPECIFIC_CHARACTER_SET = 0x00080005
PIXEL_DATA = 0x7FE00010
FLOAT_PIXEL_DATA = 0x7FE00008
DOUBLE_FLOAT_PIXEL_DATA = 0x7FE00009
PIXEL_TAGS = frozenset({PIXEL_DATA, FLOAT_PIXEL_DATA, DOUBLE_FLOAT_PIXEL_DATA})

#: `"00100020":` before an element's JSON object.
_KEY_LENGTH = 11
_VR_AT = 18
_NUMBER_BYTES = {"US": 2, "SS": 2, "UL": 4, "SL": 4, "UV": 8, "SV": 8}


class ScanError(ValueError):
    """The stream is no data set that can be read. `reason` says why, without patient data."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class NotDicomError(ScanError):
    """The bytes are not DICOM at all."""


class TruncatedError(ScanError):
    """The stream ended in the middle of the data set."""


class MalformedError(ScanError):
    """The data set contradicts its own encoding."""


class HeaderTooLargeError(ScanError):
    """The attributes take more memory than is allowed."""


@dataclass(frozen=True, slots=True)
class BulkRange:
    """Where a bulk value lies in the stream.

    `offset` and `length` are bytes; for encapsulated Pixel Data `length` is None and `offset` is
    where the first item (the Basic Offset Table) begins. With a deflated transfer syntax both count
    in the inflated data set.
    """

    offset: int
    length: int | None
    vr: str

    @property
    def encapsulated(self) -> bool:
        """Whether the value is a sequence of fragments (PS3.5 A.4)."""
        return self.length is None


@dataclass(frozen=True, slots=True)
class Header:
    """The attributes of one instance, without its bulk values.

    `elements` holds every top-level element as DICOM JSON text (`"00100020":{"vr":…}`), ascending;
    `raw` the value bytes of those that are short and no sequence. `bulk` maps the path of each bulk
    value ("7FE00010", "54000100/1/54001010") to its place.
    """

    transfer_syntax_uid: str
    has_preamble: bool
    has_file_meta: bool
    dataset_offset: int  # bytes into the stream
    media_storage_sop_class_uid: str | None
    media_storage_sop_instance_uid: str | None
    elements: Mapping[int, bytes]
    raw: Mapping[int, bytes]
    bulk: Mapping[str, BulkRange]
    charset: Charset
    big_endian: bool
    warnings: tuple[str, ...]

    @property
    def json(self) -> bytes:
        """The data set as one DICOM JSON object (PS3.18 F.2), without group 0002."""
        return b"{" + b",".join(self.elements.values()) + b"}"

    @property
    def pixel_data(self) -> BulkRange | None:
        """Where the pixels are, of whichever kind; None if the instance has none."""
        for tag in PIXEL_TAGS:
            found = self.bulk.get(f"{tag:08X}")
            if found is not None:
                return found
        return None

    def element_json(self, tag: int) -> bytes | None:
        """The JSON object of a top-level element, `{"vr":…}`; None if absent."""
        element = self.elements.get(tag)
        return None if element is None else element[_KEY_LENGTH:]

    def vr(self, tag: int) -> str:
        """The VR of a top-level element; empty if absent."""
        return self.elements.get(tag, b"")[_VR_AT : _VR_AT + 2].decode()

    def text(self, tag: int) -> str | None:
        """The first value of a top-level element as text, unpadded; None if empty or absent."""
        raw = self.raw.get(tag)
        if not raw:
            return None
        size = _NUMBER_BYTES.get(self.vr(tag))
        if size is not None:
            number = self.integer(tag)
            return None if number is None else str(number)
        if raw.isascii() and b"\\" not in raw and b"\x1b" not in raw:
            return raw.decode("ascii").strip(" \0") or None
        return self.charset.decode(raw).split("\\", 1)[0].strip(" \0") or None

    def values(self, tag: int) -> tuple[str, ...]:
        """Every value of a top-level text element, without padding; empty if absent."""
        raw = self.raw.get(tag)
        if not raw:
            return ()
        return tuple(value.strip(" \0") for value in self.charset.decode(raw).split("\\"))

    def integer(self, tag: int) -> int | None:
        """The first value of a top-level number, binary or text; None if it is none."""
        raw = self.raw.get(tag)
        if not raw:
            return None
        vr = self.vr(tag)
        size = _NUMBER_BYTES.get(vr)
        if size is not None and len(raw) >= size:
            return int.from_bytes(
                raw[:size], "big" if self.big_endian else "little", signed=vr[0] == "S"
            )
        try:
            return int(self.charset.decode(raw).split("\\", 1)[0].strip(" \0"))
        except ValueError:
            return None
