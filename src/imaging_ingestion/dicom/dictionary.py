"""The data dictionary (PS3.6): tags, keywords and VRs, and the UIDs we need names for.

Read once, on first use, from `dictionary.txt` (made by scripts/make_dictionary.py), so that a
server need not import a whole DICOM toolkit. Tags are ints, 0xGGGGEEEE.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from importlib import resources

_AMBIGUOUS = {"NONE": "UN"}


@dataclass(slots=True)
class _Dictionary:
    by_tag: dict[int, tuple[str, str]] = field(default_factory=dict)  # tag: (VR, keyword)
    by_keyword: dict[str, int] = field(default_factory=dict)
    repeating: list[tuple[int, int, str, str]] = field(default_factory=list)  # mask, bits, …
    transfer_syntaxes: dict[str, str] = field(default_factory=dict)
    storage_classes: dict[str, str] = field(default_factory=dict)


@cache
def _dictionary() -> _Dictionary:
    book = _Dictionary()
    text = resources.files(__package__).joinpath("dictionary.txt").read_text(encoding="utf-8")
    for line in text.splitlines():
        kind, key, *rest = line.split("\t")
        if kind == "T":
            book.transfer_syntaxes[key] = rest[0]
        elif kind == "S":
            book.storage_classes[key] = rest[0]
        elif "x" in key:
            mask = int("".join("0" if c == "x" else "F" for c in key), 16)
            book.repeating.append((mask, int(key.replace("x", "0"), 16), rest[0], rest[1]))
        else:
            vr, keyword = rest
            book.by_tag[int(key, 16)] = (_AMBIGUOUS.get(vr, vr), keyword)
            if keyword:
                book.by_keyword[keyword] = int(key, 16)
    return book


def _entry(tag: int) -> tuple[str, str] | None:
    book = _dictionary()
    found = book.by_tag.get(tag)
    if found is None and not (tag >> 16) & 1:
        for mask, bits, vr, keyword in book.repeating:
            if tag & mask == bits:
                return vr, keyword
    return found


def vr_of(tag: int) -> str | None:
    """The VR of a standard attribute ("US or SS" and so on where it depends); None if unknown."""
    entry = _entry(tag)
    return entry[0] if entry else None


def keyword_of(tag: int) -> str | None:
    """The keyword of a standard attribute; None if unknown."""
    entry = _entry(tag)
    return entry[1] if entry else None


def tag_of(keyword: str) -> int | None:
    """The tag of a keyword (case-sensitive); None if unknown."""
    return _dictionary().by_keyword.get(keyword)


def transfer_syntax_name(uid: str) -> str | None:
    """The name of a standard transfer syntax; None if unknown."""
    return _dictionary().transfer_syntaxes.get(uid)


def transfer_syntaxes() -> dict[str, str]:
    """Every standard transfer syntax: UID to name."""
    return dict(_dictionary().transfer_syntaxes)


def storage_sop_classes() -> dict[str, str]:
    """Every standard storage SOP class: UID to name."""
    return dict(_dictionary().storage_classes)
