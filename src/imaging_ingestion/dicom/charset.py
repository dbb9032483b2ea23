"""Specific Character Set (PS3.3 C.12.1.1.2, PS3.5 section 6.1): bytes to text.

Bytes that the character set cannot mean become U+FFFD; the stored object keeps them as they came.
Wrong but common spellings of the defined terms ("ISO-IR 100", "ISO_IR_100", "UTF-8") are
understood; a term nobody knows is read as ISO_IR 100.
"""

from __future__ import annotations

import re
from functools import lru_cache

_CODECS = {
    "": "ascii",
    "ISO_IR 6": "ascii",
    "ISO_IR 13": "shift_jis",
    "ISO_IR 100": "latin_1",
    "ISO_IR 101": "iso8859_2",
    "ISO_IR 109": "iso8859_3",
    "ISO_IR 110": "iso8859_4",
    "ISO_IR 126": "iso8859_7",
    "ISO_IR 127": "iso8859_6",
    "ISO_IR 138": "iso8859_8",
    "ISO_IR 144": "iso8859_5",
    "ISO_IR 148": "iso8859_9",
    "ISO_IR 149": "euc_kr",
    "ISO_IR 58": "gb2312",
    "ISO_IR 87": "iso2022_jp",
    "ISO_IR 159": "iso2022_jp_2",
    "ISO_IR 166": "iso8859_11",
    "ISO_IR 192": "utf_8",
    "ISO_IR 203": "iso8859_15",
    "GB18030": "gb18030",
    "GBK": "gbk",
}
_SPELLINGS = {"UTF-8": "ISO_IR 192", "UTF8": "ISO_IR 192", "LATIN1": "ISO_IR 100"}

#: What follows an escape sequence (PS3.3 tables C.12-3 and C.12-4), by the sequence.
_ESCAPES = {
    b"\x1b(B": "ascii",
    b"\x1b-A": "latin_1",
    b"\x1b-B": "iso8859_2",
    b"\x1b-C": "iso8859_3",
    b"\x1b-D": "iso8859_4",
    b"\x1b-F": "iso8859_7",
    b"\x1b-G": "iso8859_6",
    b"\x1b-H": "iso8859_8",
    b"\x1b-L": "iso8859_5",
    b"\x1b-M": "iso8859_9",
    b"\x1b-T": "iso8859_11",
    b"\x1b-b": "iso8859_15",
    b"\x1b)I": "shift_jis",
    b"\x1b(J": "shift_jis",
    b"\x1b$B": "iso2022_jp",
    b"\x1b$(D": "iso2022_jp_2",
    b"\x1b$)C": "euc_kr",
    b"\x1b$)A": "gb2312",
}
#: These codecs want to see the escape sequence themselves.
_KEEP_ESCAPE = {"iso2022_jp", "iso2022_jp_2"}
_ESCAPE = re.compile(rb"(\x1b(?:\([BJ]|\)I|-[ABCDFGHLMTb]|\$B|\$\(D|\$\)[CA]))")
#: Multi-byte sets without code extension, in which a byte of a character may look like a delimiter.
_MULTI_BYTE = {"gb18030", "gbk", "shift_jis"}


class Charset:
    """Decodes the text of one data set or sequence item."""

    __slots__ = ("_codec", "_extended", "splits_bytes")

    def __init__(self, terms: tuple[str, ...]) -> None:
        known = [_codec_of(term) for term in terms] or ["ascii"]
        self._codec = known[0]
        self._extended = len(terms) > 1 or any("2022" in term for term in terms)
        #: Whether a delimiter byte is always a delimiter, so that values may be split undecoded.
        self.splits_bytes = not self._extended and self._codec not in _MULTI_BYTE

    def decode(self, value: bytes) -> str:
        """The text of a value; never raises."""
        if value.isascii() and b"\x1b" not in value:
            return value.decode("ascii")
        if not self._extended or b"\x1b" not in value:
            return _decode(value, self._codec)
        pieces = _ESCAPE.split(value)
        text = [_decode(pieces[0], self._codec)]
        for escape, piece in zip(pieces[1::2], pieces[2::2], strict=True):
            codec = _ESCAPES[escape]
            text.append(_decode(escape + piece if codec in _KEEP_ESCAPE else piece, codec))
        return "".join(text)


@lru_cache(maxsize=64)
def charset(terms: tuple[str, ...]) -> Charset:
    """The decoder for the values of Specific Character Set; none is the default repertoire."""
    return Charset(terms)


def _codec_of(term: str) -> str:
    name = term.strip().upper()
    name = _SPELLINGS.get(name, name)
    name = re.sub(r"^ISO[ _-]?2022[ _-]IR[ _-]?", "ISO_IR ", name)
    name = re.sub(r"^ISO[ _-]?IR[ _-]?", "ISO_IR ", name)
    return _CODECS.get(name, "latin_1")


def _decode(value: bytes, codec: str) -> str:
    if codec == "ascii" and not value.isascii():
        # Said to be the default repertoire, but it is not: UTF-8 is a safe guess, Latin-1 the next.
        try:
            return value.decode("utf_8")
        except UnicodeDecodeError:
            return value.decode("latin_1")
    return value.decode(codec, errors="replace")
