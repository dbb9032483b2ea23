"""Text to bytes in a Specific Character Set (PS3.3 C.12.1.1.2, PS3.5 section 6.1).

The way back is `dicom.charset`, and it judges: what it would not read as the same text is refused
with `CannotEncodeError`, so that whoever writes can turn to UTF-8, which holds everything.
"""

from __future__ import annotations

import re
from functools import lru_cache

from imaging_ingestion.dicom.charset import charset

UTF_8 = ("ISO_IR 192",)

#: Single-byte sets, UTF-8, and the multi-byte sets without code extensions (table C.12-2, C.12-5).
_REPLACING = {
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
    "ISO_IR 166": "iso8859_11",
    "ISO_IR 192": "utf_8",
    "ISO_IR 203": "iso8859_15",
    "GB18030": "gb18030",
    "GBK": "gbk",
}
_MULTI_BYTE = frozenset(("utf_8", "gb18030", "gbk"))
#: Code extensions (tables C.12-3 and C.12-4): the codec, and the escape sequence that stands before
#: what it encodes; iso2022_jp writes its own.
_EXTENSIONS = {
    "ISO 2022 IR 6": ("ascii", b""),
    "ISO 2022 IR 13": ("shift_jis", b"\x1b)I"),
    "ISO 2022 IR 58": ("gb2312", b"\x1b$)A"),
    "ISO 2022 IR 87": ("iso2022_jp", b""),
    "ISO 2022 IR 100": ("latin_1", b"\x1b-A"),
    "ISO 2022 IR 101": ("iso8859_2", b"\x1b-B"),
    "ISO 2022 IR 109": ("iso8859_3", b"\x1b-C"),
    "ISO 2022 IR 110": ("iso8859_4", b"\x1b-D"),
    "ISO 2022 IR 126": ("iso8859_7", b"\x1b-F"),
    "ISO 2022 IR 127": ("iso8859_6", b"\x1b-G"),
    "ISO 2022 IR 138": ("iso8859_8", b"\x1b-H"),
    "ISO 2022 IR 144": ("iso8859_5", b"\x1b-L"),
    "ISO 2022 IR 148": ("iso8859_9", b"\x1b-M"),
    "ISO 2022 IR 149": ("euc_kr", b"\x1b$)C"),
    "ISO 2022 IR 159": ("iso2022_jp_2", b""),
    "ISO 2022 IR 166": ("iso8859_11", b"\x1b-T"),
    "ISO 2022 IR 203": ("iso8859_15", b"\x1b-b"),
}
#: Behind each of these the set of the first value is in force again (PS3.5 6.1.2.5.3).
_DELIMITERS = re.compile(r"([\\^=\t\n\f\r])")
#: Escape sequences that iso2022_jp_2 may write, by the set that has to be declared for them.
_JP_2_ESCAPE = re.compile(rb"\x1b(?:\$\(.|\$.|\(.|\..)")
_JP_2_DECLARED = {
    b"\x1b(B": "ISO 2022 IR 159",
    b"\x1b$(D": "ISO 2022 IR 159",
    b"\x1b$B": "ISO 2022 IR 87",
}


class CannotEncodeError(ValueError):
    """The character set does not have a character of the text, or is not known."""


class TextEncoder:
    """Encodes the text of one data set. `terms` are the values of Specific Character Set."""

    def __init__(self, terms: tuple[str, ...]) -> None:
        """Raises CannotEncodeError for terms that are not those of the standard."""
        self.terms = terms
        first, *others = (term.strip() for term in terms or ("",))
        replacing = _REPLACING.get(first or "ISO_IR 6")
        if replacing is not None and not others:
            self._first, self._extensions = replacing, []
        else:
            try:
                self._first = _EXTENSIONS[first or "ISO 2022 IR 6"][0]
                self._extensions = [_EXTENSIONS[term] for term in (first, *others) if term]
            except KeyError:
                raise CannotEncodeError("the character set is not one of the standard") from None
        self._decode = charset(terms).decode

    def encode(self, text: str) -> bytes:
        """The bytes of a value, or of several with backslashes between. Raises CannotEncodeError.

        Any text of ASCII can be encoded, whatever the set.
        """
        if text.isascii() and "\x1b" not in text:
            return text.encode("ascii")
        if self._extensions:
            encoded = b"".join(map(self._piece, _DELIMITERS.split(text)))
        else:
            encoded = _encode(text, self._first)
        if self._decode(encoded) != text:
            raise CannotEncodeError("the character set would give another text back")
        return encoded

    def _piece(self, piece: str) -> bytes:
        """What stands between two delimiters, in the first set that has all of it."""
        if piece.isascii():
            return piece.encode("ascii")
        for codec, escape in ((self._first, b""), *self._extensions):
            try:
                encoded = _encode(piece, codec)
            except CannotEncodeError:
                continue
            if codec != "iso2022_jp_2" or all(
                _JP_2_DECLARED.get(found) in self.terms for found in _JP_2_ESCAPE.findall(encoded)
            ):
                return escape + encoded
        raise CannotEncodeError("no character set of the data set has the character")


@lru_cache(maxsize=64)
def text_encoder(terms: tuple[str, ...]) -> TextEncoder:
    """The encoder for the values of Specific Character Set. Raises CannotEncodeError."""
    return TextEncoder(terms)


def _encode(text: str, codec: str) -> bytes:
    try:
        encoded = text.encode(codec)
    except UnicodeEncodeError:
        raise CannotEncodeError(f"{codec} does not have a character of the text") from None
    # JIS X 0201 has single bytes only; the codec would give the others two.
    if codec == "shift_jis" and len(encoded) != len(text):
        raise CannotEncodeError("JIS X 0201 does not have a character of the text")
    return encoded
