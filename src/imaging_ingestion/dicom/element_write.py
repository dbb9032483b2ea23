"""The bytes of elements, items and delimiters in one encoding (PS3.5 7.1, 7.5)."""

from __future__ import annotations

from struct import Struct
from typing import Final, NamedTuple

from imaging_ingestion.dicom.byte_order import WordSwap, word_size
from imaging_ingestion.dicom.dataset_scan import UNDEFINED
from imaging_ingestion.dicom.element_kind import LONG_FORM
from imaging_ingestion.dicom.transfer_syntax import Encoding

ITEM: Final = 0xFFFEE000
ITEM_DELIMITATION: Final = 0xFFFEE00D
SEQUENCE_DELIMITATION: Final = 0xFFFEE0DD
_LONGEST_SHORT: Final = 0xFFFE  # bytes that a 16-bit length can tell, being even


class Edit(NamedTuple):
    """A value to stand instead of an element's, or where there is none; little endian."""

    vr: str
    value: bytes


class ElementWriter:
    """Writes the beginnings of elements and items in one encoding."""

    def __init__(self, encoding: Encoding) -> None:
        self._implicit = encoding.implicit_vr
        order = ">" if encoding.big_endian else "<"
        self.big_endian = encoding.big_endian
        self._tag_u32 = Struct(order + "HHI").pack
        self._short = Struct(order + "HH2sH").pack
        self._long = Struct(order + "HH2s2xI").pack

    def head(self, tag: int, vr: str, length: int) -> bytes:
        """The beginning of an element; `vr` as `vr_for` has it."""
        group, element = tag >> 16, tag & 0xFFFF
        if self._implicit:
            return self._tag_u32(group, element, length)
        if vr in LONG_FORM:
            return self._long(group, element, vr.encode(), length)
        return self._short(group, element, vr.encode(), length)

    def vr_for(self, vr: str, length: int) -> str:
        """The VR that can say the length: UN where the own one cannot (PS3.5 6.2.2)."""
        fits = self._implicit or vr in LONG_FORM or length <= _LONGEST_SHORT
        return vr if fits else "UN"

    def item(self, length: int = UNDEFINED) -> bytes:
        """The beginning of an item."""
        return self._tag_u32(ITEM >> 16, ITEM & 0xFFFF, length)

    def delimitation(self, tag: int) -> bytes:
        """The end of an item or sequence."""
        return self._tag_u32(tag >> 16, tag & 0xFFFF, 0)

    def element(self, tag: int, edit: Edit) -> bytes:
        """A whole element with a short value."""
        value = edit.value
        vr = self.vr_for(edit.vr, len(value))
        if self.big_endian and (size := word_size(vr)) > 1:
            swap = WordSwap(size)
            value = swap.receive(value) + swap.finish()
        return self.head(tag, vr, len(value)) + value
