"""What a C-FIND identifier asks: keys to be matched, and what each result is to hold.

Every key is both (PS3.4 C.2.2.1). A key that belongs to a level below the one that is asked, or
that the manifest has no way to know, is neither matched nor returned, and the pending responses say
so (C.4.1.1.4, status FF01H).
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from imaging_ingestion.association.services.identifier import (
    QUERY_RETRIEVE_LEVEL,
    IdentifierRefusedError,
    QueryLevel,
    ReadIdentifier,
    read_identifier,
)
from imaging_ingestion.dicom.charset import charset
from imaging_ingestion.dicom.criterion import Element
from imaging_ingestion.dicom.header import SPECIFIC_CHARACTER_SET
from imaging_ingestion.dicom.matching import (
    TIMEZONE_OFFSET_FROM_UTC,
    Identifier,
    InvalidKeyError,
    MatchKey,
    identifier_of,
)
from imaging_ingestion.dicom.uid import is_uid
from imaging_ingestion.dimse.extended_negotiation import FindOptions
from imaging_ingestion.manifest.attribute_levels import Level, level_of
from imaging_ingestion.manifest.query_patient import MATCHED_TAGS

#: What we do of what can be negotiated; `SUPPORTED_OPTIONS.answer` answers an offer.
SUPPORTED_OPTIONS: Final = FindOptions(
    relational_queries=True,
    date_time_matching=True,
    timezone_query_adjustment=True,
    empty_value_matching=True,
    multiple_value_matching=True,
)

RETRIEVE_AE_TITLE: Final = 0x00080054
INSTANCE_AVAILABILITY: Final = 0x00080056
#: Counted for a patient: studies, series, instances.
PATIENT_COUNTS: Final = (0x00201200, 0x00201202, 0x00201204)

_QUERY_RETRIEVE_VIEW: Final = 0x00080053
#: Elements that say something of the query, or are in every result.
_NO_KEYS: Final = frozenset(
    {
        SPECIFIC_CHARACTER_SET,
        QUERY_RETRIEVE_LEVEL,
        _QUERY_RETRIEVE_VIEW,
        RETRIEVE_AE_TITLE,
        INSTANCE_AVAILABILITY,
    }
)
#: The manifest does not know these.
_NOT_KNOWN: Final = frozenset({0x00080062, 0x00080063, 0x00081190})
_LEVELS: Final = {
    QueryLevel.STUDY: Level.STUDY,
    QueryLevel.SERIES: Level.SERIES,
    QueryLevel.IMAGE: Level.INSTANCE,
}

#: The tags wanted of a sequence's items, each perhaps a sequence itself; none: all of the item.
Wanted = Mapping[int, "Wanted"]


@dataclass(frozen=True, slots=True)
class FindQuery:
    """A query. `level` is None for patients; `wanted` are the standard tags of the results."""

    query_level: QueryLevel
    levels: tuple[QueryLevel, ...]  # of the information model, down to that of the query
    level: Level | None
    identifier: Identifier
    wanted: Wanted
    all_supported: bool
    character_set: tuple[str, ...]
    #: The one study, and the one series in it, that a query below is for.
    study_instance_uid: str | None = None
    series_instance_uid: str | None = None


def read_query(
    data: bytes, transfer_syntax_uid: str, sop_class_uid: str, options: FindOptions
) -> FindQuery:
    """What an identifier asks, with the negotiated options. Raises IdentifierRefusedError."""
    read = read_identifier(
        data, transfer_syntax_uid, sop_class_uid, relational=options.relational_queries
    )
    keys = _Keys(read, options)
    try:
        identifier = identifier_of(
            keys.matched,
            # A backslash is nothing else in a key, so it is understood without being negotiated.
            multiple_values=True,
            empty_values=options.empty_value_matching,
            combine_date_times=options.date_time_matching,
        )
    except InvalidKeyError as error:
        raise IdentifierRefusedError(str(error), *error.path) from error
    study = _within(read, QueryLevel.STUDY)
    series = None if study is None else _within(read, QueryLevel.SERIES)
    return FindQuery(
        read.level,
        read.levels,
        _LEVELS.get(read.level),
        identifier,
        keys.wanted,
        keys.all_supported,
        read.data_set.character_set,
        study,
        series,
    )


def _within(read: ReadIdentifier, level: QueryLevel) -> str | None:
    """The one entity of a level above that of the query that is searched in, if it is one."""
    uid = read.data_set.text(level.unique_key)
    return uid if level in read.levels[:-1] and is_uid(uid) else None


@dataclass(slots=True)
class _Keys:
    """The keys of an identifier, sorted out."""

    read: ReadIdentifier
    options: FindOptions
    matched: list[MatchKey] = field(default_factory=list)
    wanted: dict[int, Wanted] = field(default_factory=dict)
    all_supported: bool = True

    def __post_init__(self) -> None:
        text_of = charset(self.read.data_set.character_set).decode
        for name, element in self.read.data_set.elements.items():
            tag = int(name, 16)
            if tag not in _NO_KEYS:
                self._take(tag, _known(element, text_of))

    def _take(self, tag: int, element: Element) -> None:
        if not self._is_supported(tag) or _is_binary(element):
            self.all_supported = False
            return
        if tag in PATIENT_COUNTS:
            # They are counted for the result: nothing is matched against them.
            self.all_supported = self.all_supported and "Value" not in element
            self.wanted[tag] = {}
        elif tag == TIMEZONE_OFFSET_FROM_UTC:
            self.wanted[tag] = {}
            if self.options.timezone_query_adjustment:
                self.matched.append(MatchKey((tag,), _text_of(element)))
        else:
            self.matched.extend(_match_keys((tag,), element))
            if not tag >> 16 & 1:  # private ones are found by their creators
                self.wanted[tag] = _wanted_of(element)

    def _is_supported(self, tag: int) -> bool:
        """Whether a key of the query's level, or of one above, exists in the manifest."""
        if tag < 0x00080000 or tag in _NOT_KNOWN:
            return False
        if tag == TIMEZONE_OFFSET_FROM_UTC:
            return True
        level = _LEVELS.get(self.read.level)
        if level is None:
            return tag in MATCHED_TAGS or tag in PATIENT_COUNTS
        if tag >> 16 & 1:
            return level is Level.INSTANCE and self._has_creator(tag)
        return tag not in PATIENT_COUNTS and level_of(tag) <= level

    def _has_creator(self, tag: int) -> bool:
        """Whether a private key is a private creator, or has it beside it (PS3.5 7.8.1)."""
        if 0x10 <= tag & 0xFFFF <= 0xFF:
            return True
        return bool(self.read.data_set.text(tag & 0xFFFF0000 | tag >> 8 & 0xFF))


def _known(element: Element, text_of: Callable[[bytes], str]) -> Element:
    """An element whose VR did not come with it, as the text that a key is.

    With implicit VR that is every private one (PS3.5 annex A.1). What is no text stays as it is.
    """
    if element["vr"] != "UN" or "InlineBinary" not in element:
        return element
    text = text_of(b64decode(element["InlineBinary"])).strip(" \0")
    return {"vr": "UN", "Value": text.split("\\")} if text.isprintable() else element


def _is_binary(element: Element) -> bool:
    return "InlineBinary" in element or "BulkDataURI" in element


def _match_keys(path: tuple[int, ...], element: Element) -> Iterator[MatchKey]:
    """The keys of an element; those of its item if it is a sequence (C.2.2.2.6)."""
    if element["vr"] != "SQ":
        yield MatchKey(path, _text_of(element))
        return
    items = element.get("Value", ())
    if len(items) > 1:
        raise IdentifierRefusedError(f"{path[0]:08X}: expected one item at most", *path)
    if not items or not items[0]:
        yield MatchKey(path, "")  # universal: the whole sequence is returned
        return
    for name, inner in items[0].items():
        if not _is_binary(inner) and int(name, 16) != SPECIFIC_CHARACTER_SET:
            yield from _match_keys((*path, int(name, 16)), inner)


def _wanted_of(element: Element) -> Wanted:
    if element["vr"] != "SQ":
        return {}
    return {
        int(name, 16): _wanted_of(inner)
        for item in element.get("Value", ())
        for name, inner in item.items()
        if int(name, 16) != SPECIFIC_CHARACTER_SET
    }


def _text_of(element: Element) -> str:
    """A key's text as it stands in a data set."""
    values: list[Any] = element.get("Value", [])
    return "\\".join(_value_text(value) for value in values)


def _value_text(value: Any) -> str:
    if isinstance(value, dict):  # a person name
        groups = (value.get(group, "") for group in ("Alphabetic", "Ideographic", "Phonetic"))
        return "=".join(groups).rstrip("=")
    return "" if value is None else str(value)
