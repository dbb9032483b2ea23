"""Frames in and out of compressed transfer syntaxes; the codecs are imported when one is used.

They come with the extra `codecs` and are written in C: whoever calls this with bytes of others does
so in a process that may crash (see `transcoding.worker`). Which codec serves a transfer syntax is
fixed, so that the same bytes give the same pixels everywhere.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final

from imaging_ingestion.dicom.codestream import sample_format
from imaging_ingestion.dicom.transfer_syntax import ENCAPSULATED_UNCOMPRESSED, RLE_LOSSLESS

if TYPE_CHECKING:
    import numpy as np

JPEG_2000_LOSSLESS: Final = "1.2.840.10008.1.2.4.90"
DEFLATED_IMAGE_FRAME: Final = "1.2.840.10008.1.2.8.1"

_GDCM, _OPENJPEG, _RLE = "gdcm", "openjpeg", "rle"  # modules
_PLUGIN_OF_MODULE = {_GDCM: "gdcm", _OPENJPEG: "pylibjpeg", _RLE: "pylibjpeg"}
#: The codec of each transfer syntax; None where none is needed.
_DECODERS: Final[dict[str, str | None]] = {
    ENCAPSULATED_UNCOMPRESSED: None,
    DEFLATED_IMAGE_FRAME: None,
    RLE_LOSSLESS: _RLE,
    **{f"1.2.840.10008.1.2.4.{suffix}": _GDCM for suffix in (50, 51, 57, 70, 80, 81)},
    **{f"1.2.840.10008.1.2.4.{suffix}": _OPENJPEG for suffix in (90, 91, 201, 202, 203)},
}
_ENCODERS: Final = {RLE_LOSSLESS: _RLE, JPEG_2000_LOSSLESS: _OPENJPEG}
#: Bytes of a frame at most; what claims more is no image but an attack on the memory.
FRAME_LIMIT: Final = 1 << 30
#: After decoding, one component for each pixel: what the standard calls the same without
#: subsampling (PS3.3 C.7.6.3.1.2).
_FULL = {
    "YBR_FULL_422": "YBR_FULL",
    "YBR_FULL_420": "YBR_FULL",
    "YBR_PARTIAL_422": "YBR_PARTIAL",
    "YBR_PARTIAL_420": "YBR_PARTIAL",
}


class CodecError(ValueError):
    """A frame cannot be decoded or encoded; the message says why, without patient data."""


@dataclass(frozen=True, slots=True)
class PixelFormat:
    """What the Image Pixel Module says of each frame (PS3.3 C.7.6.3)."""

    rows: int
    columns: int
    samples: int  # for each pixel
    bits_allocated: int
    bits_stored: int
    is_signed: bool
    photometric_interpretation: str
    planar_configuration: int = 0

    @property
    def frame_bits(self) -> int:
        """Bits of a frame without subsampling."""
        return self.rows * self.columns * self.samples * self.bits_allocated

    @property
    def frame_length(self) -> int:
        """Bytes of a frame that begins with one."""
        return (self.frame_bits + 7) // 8


@dataclass(frozen=True, slots=True)
class DecodedFrame:
    """A frame, colour by pixel, in words of Bits Allocated, little endian."""

    data: bytes
    photometric_interpretation: str


def can_decode(transfer_syntax_uid: str) -> bool:
    """Whether frames of that transfer syntax can be decoded here."""
    if transfer_syntax_uid not in _DECODERS:
        return False
    return _is_installed(_DECODERS[transfer_syntax_uid])


def can_encode(transfer_syntax_uid: str) -> bool:
    """Whether frames can be brought into that transfer syntax here, losing nothing."""
    return transfer_syntax_uid in _ENCODERS and _is_installed(_ENCODERS[transfer_syntax_uid])


def _is_installed(module: str | None) -> bool:
    if module is None:
        return True
    needed = ["numpy", "pydicom", module, *(["pylibjpeg"] if module != _GDCM else [])]
    return all(find_spec(name) is not None for name in needed)


def decode_frame(transfer_syntax_uid: str, codestream: bytes, form: PixelFormat) -> DecodedFrame:
    """Decode one frame. Raises CodecError."""
    if form.frame_length > FRAME_LIMIT:
        raise CodecError(f"a frame of {form.frame_length} bytes is too large")
    if transfer_syntax_uid not in _DECODERS:
        raise CodecError(f"there is no decoder for transfer syntax {transfer_syntax_uid}")
    module = _DECODERS[transfer_syntax_uid]
    photometric = _FULL.get(form.photometric_interpretation, form.photometric_interpretation)
    if module is None or (module == _RLE and form.bits_allocated == 1):
        plain = _decode_plain(transfer_syntax_uid, codestream, form.frame_length)
        return DecodedFrame(by_pixel(plain, form), photometric)
    data, properties = _decode_compressed(transfer_syntax_uid, codestream, form, module)
    found = str(properties["photometric_interpretation"])
    return DecodedFrame(_in_words(data, codestream, form, properties), _FULL.get(found, found))


def _decode_plain(transfer_syntax_uid: str, stored: bytes, length: int) -> bytes:
    """Frames that need no codec: stored as they are, deflated, or packed bits in RLE."""
    if transfer_syntax_uid == DEFLATED_IMAGE_FRAME:
        inflate = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            data = inflate.decompress(stored, length + 1)
        except zlib.error as error:
            raise CodecError("a deflated frame cannot be inflated") from error
    elif transfer_syntax_uid == RLE_LOSSLESS:
        data = _unpack_bits(stored, length)
    else:
        data = stored
    if len(data) not in (length, length + length % 2):
        raise CodecError(f"a frame has {len(data)} bytes instead of {length}")
    return data[:length]


def _unpack_bits(stored: bytes, length: int) -> bytes:
    """The one segment of an RLE frame with Bits Allocated 1 (PS3.5 G.3.2)."""
    if stored[:8] != b"\1\0\0\0\x40\0\0\0":
        raise CodecError("an RLE frame of single bits has one segment")
    data = bytearray()
    at = 64
    while len(data) < length and at + 1 < len(stored):
        count = stored[at]
        if count < 128:
            data += stored[at + 1 : at + 2 + count]
            at += 2 + count
        else:
            if count > 128:
                data += stored[at + 1 : at + 2] * (257 - count)
            at += 2 if count > 128 else 1
    return bytes(data)


def _decode_compressed(
    transfer_syntax_uid: str, codestream: bytes, form: PixelFormat, module: str
) -> tuple[bytes | bytearray | memoryview, dict[str, str | int]]:
    from pydicom.encaps import encapsulate
    from pydicom.pixels.decoders.base import get_decoder

    try:
        return get_decoder(transfer_syntax_uid).as_buffer(
            encapsulate([codestream], has_bot=False),
            index=0,
            decoding_plugin=_PLUGIN_OF_MODULE[module],
            number_of_frames=1,
            pixel_keyword="PixelData",
            **_options(form),
        )
    except Exception as error:  # codecs raise anything
        raise CodecError(f"a frame cannot be decoded: {_told(error)}") from error


def _options(form: PixelFormat) -> dict[str, Any]:
    return {
        "rows": form.rows,
        "columns": form.columns,
        "samples_per_pixel": form.samples,
        "photometric_interpretation": form.photometric_interpretation,
        "bits_allocated": form.bits_allocated,
        "bits_stored": form.bits_stored,
        "pixel_representation": int(form.is_signed),
        "planar_configuration": 0,  # codecs put samples so, whatever the header says; RLE tells
    }


def _in_words(
    data: bytes | bytearray | memoryview,
    codestream: bytes,
    form: PixelFormat,
    properties: dict[str, str | int],
) -> bytes:
    """What a decoder gave, colour by pixel, in words of Bits Allocated, with the right sign.

    Codecs use the smallest word that holds the codestream's precision, and the sign, where there is
    one, is known to JPEG 2000 only (PS3.5 8.2.3, A.4.4).
    """
    import numpy as np

    bits = int(properties["bits_allocated"])
    if bits > form.bits_allocated:
        raise CodecError(f"samples of {bits} bits do not fit into {form.bits_allocated}")
    samples = np.frombuffer(data, dtype=f"<u{bits // 8}")
    told = sample_format(codestream)
    if told is not None and 0 < told.precision < form.bits_allocated and told.precision <= bits:
        samples = _with_sign(samples, told.precision, form)
    elif bits != form.bits_allocated:
        samples = samples.astype(f"<u{form.bits_allocated // 8}")
    if form.samples > 1 and properties.get("planar_configuration") == 1:
        samples = samples.reshape(form.samples, -1).T
    return samples.tobytes()


def _with_sign(samples: np.ndarray, precision: int, form: PixelFormat) -> np.ndarray:
    """The lowest `precision` bits of each sample as Pixel Representation has them."""
    size = form.bits_allocated // 8
    shift = form.bits_allocated - precision
    wide = samples.astype(f"<u{size}") << shift
    return wide.view(f"<{'i' if form.is_signed else 'u'}{size}") >> shift


def by_pixel(data: bytes, form: PixelFormat) -> bytes:
    """A frame with its colours by pixel, as Planar Configuration says or not (C.7.6.3.1.3)."""
    if form.samples == 1 or form.planar_configuration != 1:
        return data
    import numpy as np

    words = np.frombuffer(data, dtype=f"<u{form.bits_allocated // 8}")
    return words.reshape(form.samples, -1).T.tobytes()


def encode_frame(transfer_syntax_uid: str, frame: bytes, form: PixelFormat) -> bytes:
    """Encode one frame, colour by pixel, losing nothing: it is decoded again and compared.

    Raises CodecError.
    """
    module = _ENCODERS.get(transfer_syntax_uid)
    if module is None:
        raise CodecError(f"there is no encoder for transfer syntax {transfer_syntax_uid}")
    if form.bits_allocated not in (8, 16) or form.samples not in (1, 3):
        raise CodecError(
            f"{form.samples} samples of {form.bits_allocated} bits are not compressed here"
        )
    if form.photometric_interpretation in _FULL:
        raise CodecError("subsampled pixels are not compressed here")
    from pydicom.pixels.encoders.base import get_encoder

    if module == _OPENJPEG:
        _check_bits_stored(frame, form)
    try:
        encoded = get_encoder(transfer_syntax_uid).encode(
            frame,
            encoding_plugin=_PLUGIN_OF_MODULE[module],
            number_of_frames=1,
            **_options(form),
        )
    except Exception as error:  # codecs raise anything
        raise CodecError(f"a frame cannot be encoded: {_told(error)}") from error
    codestream = bytes(encoded)
    if decode_frame(transfer_syntax_uid, codestream, form).data != frame:
        raise CodecError("a frame does not come back from its encoder as it was")
    return codestream


def _check_bits_stored(frame: bytes, form: PixelFormat) -> None:
    """Raise CodecError if something lies in the bits above Bits Stored: an overlay, for one.

    JPEG 2000 has one precision for all, and its readers would take these for pixels (PS3.5 8.2.4).
    """
    import numpy as np

    kind = "i" if form.is_signed else "u"
    samples = np.frombuffer(frame, dtype=f"<{kind}{form.bits_allocated // 8}")
    least = -(1 << (form.bits_stored - 1)) if form.is_signed else 0
    most = (1 << (form.bits_stored - form.is_signed)) - 1
    if samples.min() < least or samples.max() > most:
        raise CodecError("bits above Bits Stored are in use, which this compression would mix in")


def _told(error: Exception) -> str:
    """The codec's word in what pydicom says, in one line."""
    words = str(error).rpartition("plugins:")[2]
    return " ".join(words.split())[:200] or type(error).__name__
