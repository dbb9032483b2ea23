"""Reading DICOM JSON attributes (PS3.18 F) as FHIR can hold them.

Whatever is in a value, what leaves here is text that FHIR allows: no control characters, no blanks
at the ends, never empty (R4 2.24.0.1). A value of the wrong kind counts as absent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from imaging_ingestion.events.model import Element

_NAME_GROUPS = ("Alphabetic", "Ideographic", "Phonetic")


@dataclass(frozen=True, slots=True)
class PersonName:
    """A value of VR PN: its component groups (PS3.5 6.2.1.1), at least one of them not empty."""

    alphabetic: str | None = None
    ideographic: str | None = None
    phonetic: str | None = None

    def display(self) -> str:
        """The name as one reads it: with the family name last in the alphabetic group only."""
        group = self.alphabetic or self.ideographic or self.phonetic or ""
        family, given, middle, prefix, suffix = components(group)
        parts = (prefix, given, middle, family, suffix)
        if self.alphabetic is None:
            parts = (prefix, family, given, middle, suffix)
        return " ".join(part for part in parts if part)


class Attributes:
    """A data set, or an item of a sequence; tags are as in DICOM JSON, "GGGGEEEE"."""

    __slots__ = ("_elements",)

    def __init__(self, elements: Mapping[str, Any]) -> None:
        self._elements = elements

    @classmethod
    def of(cls, dicom_json: bytes) -> Attributes:
        """Read a DICOM JSON object. Raises msgspec.DecodeError."""
        return cls(msgspec.json.decode(dicom_json, type=dict[str, Any]))

    @classmethod
    def of_elements(cls, elements: Iterable[Element]) -> Attributes:
        """The attributes of an event that has no DICOM JSON: upstream's have none."""
        return cls(
            {
                f"{e.group}{e.element}".upper(): {
                    "vr": e.vr,
                    "Value": [_name(v) if e.vr == "PN" else v for v in e.value.split("\\")],
                }
                for e in elements
                if e.value
            }
        )

    def __bool__(self) -> bool:
        return bool(self._elements)

    def texts(self, tag: str) -> list[str]:
        """The values that are not empty."""
        found = (text_of(str(v)) for v in self._values(tag) if isinstance(v, str | int | float))
        return [text for text in found if text is not None]

    def text(self, tag: str) -> str | None:
        """The first value that is not empty."""
        return next(iter(self.texts(tag)), None)

    def names(self, tag: str) -> list[PersonName]:
        """The person names that are not empty."""
        names = []
        for value in self._values(tag):
            if not isinstance(value, dict):
                continue
            groups = [_group(value.get(name)) for name in _NAME_GROUPS]
            if any(groups):
                names.append(PersonName(*groups))
        return names

    def items(self, tag: str) -> list[Attributes]:
        """The items of a sequence."""
        return [Attributes(value) for value in self._values(tag) if isinstance(value, dict)]

    def _values(self, tag: str) -> list[Any]:
        element = self._elements.get(tag)
        values = element.get("Value") if isinstance(element, dict) else None
        return values if isinstance(values, list) else []


def _name(value: str) -> dict[str, str]:
    """A value of VR PN as DICOM JSON has it."""
    return dict(zip(_NAME_GROUPS, value.split("="), strict=False))


def components(group: str) -> tuple[str, str, str, str, str]:
    """Family name, given name, middle name, prefix and suffix of a component group."""
    parts = [text_of(part) or "" for part in group.split("^", 4)]
    parts += [""] * (5 - len(parts))
    return parts[0], parts[1], parts[2], parts[3], " ".join(parts[4].replace("^", " ").split())


def text_of(raw: str) -> str | None:
    """The text as a FHIR string; None if nothing of it is left."""
    if raw.isascii() and raw.isprintable():
        return raw.strip() or None
    kept = (
        character if character in "\t\r\n" else " " if character.isspace() else character
        for character in raw
        if character in "\t\r\n" or not _is_control(character)
    )
    return "".join(kept).strip() or None


def _group(value: object) -> str | None:
    """A component group, or None if there is nothing but delimiters."""
    text = text_of(value) if isinstance(value, str) else None
    return text if text is not None and text.strip("^ ") else None


def _is_control(character: str) -> bool:
    return character < " " or "\x7f" <= character <= "\x9f" or "\ud800" <= character <= "\udfff"
