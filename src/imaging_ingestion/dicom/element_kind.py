"""What an element's first bytes mean: a memo from the raw tag (and VR) bytes to how it is read."""

from __future__ import annotations

from typing import NamedTuple

from imaging_ingestion.dicom.dictionary import vr_of
from imaging_ingestion.dicom.header import PIXEL_TAGS
from imaging_ingestion.dicom.json_model import KIND_OF_VR, Kind

#: VRs whose explicit form has two reserved bytes and a 32-bit length (PS3.5 table 7.1-1).
LONG_FORM = frozenset(
    ("OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV")
)
#: VRs whose values may be bulk data (PS3.18 10.4.3.3.2).
BULK_VRS = frozenset(
    (
        *("DS", "FL", "FD", "IS", "LT", "OB", "OD", "OF", "OL", "OV", "OW", "SL", "SS", "ST", "SV"),
        *("UC", "UL", "UN", "US", "UT", "UV"),
    )
)
#: Lengths above which a value is a bulk value, by what it is (W11): numbers and text stay readable.
BULK_BINARY = 1024
BULK_TEXT = 65536

#: A hostile sender could make up tags without end.
_MEMO_LIMIT = 16384


IMPLICIT_FORM = 2


class ElementKind(NamedTuple):
    """How to read one element. `form` is 0 for a 16-bit length, 1 for a 32-bit one after two
    reserved bytes, IMPLICIT_FORM for implicit VR."""

    tag: int
    kind: int
    form: int
    key: bytes  # `"TTTTTTTT":{"vr":"XX"`
    value_key: bytes  # the same up to the value: with `,"Value":[` or `,"InlineBinary":"`
    large_above: int  # bytes; a longer value is no short one (-1: never is)
    vr: str


class ElementKinds:
    """The memo for one encoding."""

    def __init__(self, *, implicit_vr: bool, big_endian: bool) -> None:
        self.implicit_vr = implicit_vr
        self.big_endian = big_endian
        self.key_bytes = 4 if implicit_vr else 6
        self.memo: dict[bytes, ElementKind] = {}

    def learn(self, head: bytes) -> ElementKind:
        """Work out an element's kind from its first `key_bytes` bytes, and remember it."""
        order = "big" if self.big_endian else "little"
        group, element = (int.from_bytes(head[i : i + 2], order) for i in (0, 2))  # type: ignore[arg-type]
        tag = group << 16 | element
        form = IMPLICIT_FORM
        vr = None
        if not self.implicit_vr:
            spelled = head[4:6]
            if spelled.isalpha() and spelled.isupper():
                vr = spelled.decode("ascii")
                form = 1 if vr in LONG_FORM else 0
        kind = element_kind(tag, vr, form)
        if len(self.memo) >= _MEMO_LIMIT:
            self.memo.clear()
        self.memo[head] = kind
        return kind


def element_kind(tag: int, vr: str | None, form: int) -> ElementKind:
    """The kind of an element whose VR is spelled out, or None if the dictionary must tell."""
    if vr is None:
        vr = implicit_vr(tag)
    elif vr not in KIND_OF_VR:
        vr = "UN"
    kind: int = KIND_OF_VR.get(vr, Kind.AMBIGUOUS)
    if tag == 0x00080005:
        kind = Kind.CHARACTER_SET
    elif tag & 0xFFFF == 0:
        kind = Kind.LEFT_OUT
    large_above = BULK_BINARY if kind == Kind.BINARY else BULK_TEXT
    if kind == Kind.SEQUENCE or tag in PIXEL_TAGS:
        large_above = -1
    key = b'"%08X":{"vr":"%b"' % (tag, vr.encode())
    value_key = key + (b',"InlineBinary":"' if kind == Kind.BINARY else b',"Value":[')
    return ElementKind(tag, int(kind), form, key, value_key, large_above, vr)


def implicit_vr(tag: int) -> str:
    """The VR of an element that does not say it (PS3.5 annex A.1); "US or SS" where it depends."""
    if tag >> 16 & 1:
        return "LO" if 0x10 <= tag & 0xFFFF <= 0xFF else "UN"
    if tag & 0xFFFF == 0:
        return "UL"
    vr = vr_of(tag) or "UN"
    if vr == "OB or OW":
        return "OW"  # with implicit VR always OW (A.1)
    return "US or SS" if vr.startswith("US or") else vr


_KINDS = {
    (implicit, big): ElementKinds(implicit_vr=implicit, big_endian=big)
    for implicit in (False, True)
    for big in (False, True)
}


def kinds_for(*, implicit_vr: bool, big_endian: bool) -> ElementKinds:
    """The memo of an encoding, shared by all scanners: it only ever holds facts."""
    return _KINDS[implicit_vr, big_endian]
