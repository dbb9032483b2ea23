"""What a transfer syntax UID says of the bytes (PS3.5 section 10 and annex A)."""

from __future__ import annotations

from dataclasses import dataclass

IMPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2"
EXPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
EXPLICIT_VR_BIG_ENDIAN = "1.2.840.10008.1.2.2"
DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2.1.99"
JPIP_REFERENCED_DEFLATE = "1.2.840.10008.1.2.4.95"
JPIP_HTJ2K_REFERENCED_DEFLATE = "1.2.840.10008.1.2.4.205"
ENCAPSULATED_UNCOMPRESSED = "1.2.840.10008.1.2.1.98"
RLE_LOSSLESS = "1.2.840.10008.1.2.5"

_DEFLATED = {
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    JPIP_REFERENCED_DEFLATE,
    JPIP_HTJ2K_REFERENCED_DEFLATE,
}
_NATIVE = _DEFLATED | {
    IMPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_BIG_ENDIAN,
}
#: Encapsulated transfer syntaxes whose pixels are always as they were (PS3.5 A.4).
_LOSSLESS = {
    ENCAPSULATED_UNCOMPRESSED,
    RLE_LOSSLESS,
    "1.2.840.10008.1.2.8.1",  # Deflated Image Frame Compression
    "1.2.840.10008.1.2.4.57",
    "1.2.840.10008.1.2.4.70",
    "1.2.840.10008.1.2.4.80",
    "1.2.840.10008.1.2.4.90",
    "1.2.840.10008.1.2.4.92",
    "1.2.840.10008.1.2.4.110",
    "1.2.840.10008.1.2.4.201",
    "1.2.840.10008.1.2.4.202",
}
_MEDIA_TYPES = {  # table 8.7.3-5 of PS3.18, and the video types of 8.7.3-4
    "image/jpeg": ("50", "51", "53", "55", "57", "70"),
    "image/jls": ("80", "81"),
    "image/jp2": ("90", "91"),
    "image/jpx": ("92", "93"),
    "image/jphc": ("201", "202", "203"),
    "image/jxl": ("110", "111", "112"),
    "video/mpeg2": ("100", "100.1", "101", "101.1"),
    "video/mp4": ("102", "102.1", "103", "103.1", "104", "104.1", "105", "105.1", "106", "106.1"),
    "video/H265": ("107", "108"),
}
_MEDIA_TYPE_OF = {
    f"1.2.840.10008.1.2.4.{suffix}": media
    for media, all_ in _MEDIA_TYPES.items()
    for suffix in all_
} | {RLE_LOSSLESS: "image/dicom-rle"}


@dataclass(frozen=True, slots=True)
class Encoding:
    """How a data set of a transfer syntax is to be read."""

    implicit_vr: bool = False
    big_endian: bool = False
    deflated: bool = False


_PLAIN_ENCODING = Encoding()


def encoding_of(uid: str) -> Encoding:
    """The encoding of a transfer syntax; whatever is unknown is explicit VR little endian (A.4)."""
    if uid == EXPLICIT_VR_LITTLE_ENDIAN:
        return _PLAIN_ENCODING
    return Encoding(
        implicit_vr=uid == IMPLICIT_VR_LITTLE_ENDIAN,
        big_endian=uid == EXPLICIT_VR_BIG_ENDIAN,
        deflated=uid in _DEFLATED,
    )


def is_encapsulated(uid: str) -> bool:
    """Whether Pixel Data is a sequence of fragments."""
    return uid not in _NATIVE


def is_lossy(uid: str) -> bool:
    """Whether the pixels may have lost something; an unknown syntax may."""
    return uid not in _NATIVE and uid not in _LOSSLESS


def frame_media_type(uid: str) -> str:
    """The media type of a stored frame's bytes (PS3.18 table 8.7.3-5)."""
    return _MEDIA_TYPE_OF.get(uid, "application/octet-stream")
