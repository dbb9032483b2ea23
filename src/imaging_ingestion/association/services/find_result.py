"""Results of C-FIND as elements in DICOM JSON (PS3.4 C.4.1.1.3.2), from what the manifest found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from imaging_ingestion.association.services.find_query import (
    INSTANCE_AVAILABILITY,
    PATIENT_COUNTS,
    RETRIEVE_AE_TITLE,
    FindQuery,
    Wanted,
)
from imaging_ingestion.association.services.identifier import QUERY_RETRIEVE_LEVEL
from imaging_ingestion.dicom.criterion import Element
from imaging_ingestion.dicom.date_time_range import InvalidRangeError, Zones, parse_offset
from imaging_ingestion.dicom.matching import TIMEZONE_OFFSET_FROM_UTC, Identifier
from imaging_ingestion.manifest.attribute_levels import Level, level_of
from imaging_ingestion.manifest.query_attributes import COLUMN_ATTRIBUTES, MODALITIES_IN_STUDY
from imaging_ingestion.manifest.query_element import (
    column_element,
    element_of,
    empty_element,
    private_creator,
)
from imaging_ingestion.manifest.query_match import Match, Row
from imaging_ingestion.manifest.query_patient import PatientMatch

_decode = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
#: Decimals keep the digits they came with.
_decode_element = msgspec.json.Decoder(dict[str, Any], float_hook=str).decode

#: Studies and series whose elements are kept for the results that follow.
_KEPT_PARTS: Final = 256

Elements = dict[str, Element]


class ResultWriter:
    """Makes the results of one query."""

    def __init__(self, query: FindQuery, retrieve_ae_title: str) -> None:
        self._query = query
        self._tags = set(query.wanted) | {level.unique_key for level in query.levels}
        self._by_level = {
            level: sorted(tag for tag in self._tags if _level_of(tag) is level) for level in Level
        }
        self._always: Elements = {
            f"{QUERY_RETRIEVE_LEVEL:08X}": {"vr": "CS", "Value": [str(query.query_level)]},
            f"{RETRIEVE_AE_TITLE:08X}": {"vr": "AE", "Value": [retrieve_ae_title]},
            f"{INSTANCE_AVAILABILITY:08X}": {"vr": "CS", "Value": ["ONLINE"]},
        }
        self._parts: dict[tuple[Level, int], Elements] = {}

    @property
    def needs_metadata(self) -> bool:
        """Whether the data sets of instances are needed, which `result` then takes."""
        if self._query.level is not Level.INSTANCE:
            return False
        return bool(self._query.identifier.private) or any(
            tag not in COLUMN_ATTRIBUTES for tag in self._by_level[Level.INSTANCE]
        )

    def patient(self, match: PatientMatch) -> Elements:
        """The result for a patient."""
        counts = (match.number_of_studies, match.number_of_series, match.number_of_instances)
        numbers = dict(zip(PATIENT_COUNTS, counts, strict=True))
        stored = _texts(_decode(match.study.attributes))
        elements = dict(self._always)
        for tag in self._tags:
            if tag in numbers:
                elements[f"{tag:08X}"] = {"vr": "IS", "Value": [numbers[tag]]}
            elif tag != TIMEZONE_OFFSET_FROM_UTC:
                self._add(elements, tag, element_of(tag, match.study, stored), match.study)
        self._add_zone(elements, match.study)
        return elements

    def result(self, match: Match, metadata: bytes | None = None) -> Elements:
        """The result for a study, series or instance; `metadata` is an instance's data set."""
        elements = dict(self._always)
        elements.update(self._part(Level.STUDY, match.study, match))
        if match.series is not None:
            elements.update(self._part(Level.SERIES, match.series, match))
        if match.instance is not None:
            self._add_instance(elements, match.instance, metadata)
        self._add_zone(elements, match.own)
        return elements

    def _part(self, level: Level, row: Row, match: Match) -> Elements:
        """What a study or series adds to each of its results."""
        part = self._parts.get((level, row.id))
        if part is not None:
            return part
        part = {}
        stored = _texts(_decode(row.attributes))
        for tag in self._by_level[level]:
            if tag == MODALITIES_IN_STUDY:
                part[f"{tag:08X}"] = {"vr": "CS", "Value": list(match.modalities_in_study)}
            else:
                self._add(part, tag, element_of(tag, row, stored), row)
        if len(self._parts) >= _KEPT_PARTS:
            self._parts.clear()
        self._parts[level, row.id] = part
        return part

    def _add_instance(self, elements: Elements, row: Row, metadata: bytes | None) -> None:
        stored = {} if metadata is None else _texts(_decode(metadata))
        for tag in self._by_level[Level.INSTANCE]:
            attribute = COLUMN_ATTRIBUTES.get(tag)
            if attribute is not None and row._mapping[attribute.column.name] is not None:
                self._add(elements, tag, column_element(attribute, row), row)
            else:
                self._add(elements, tag, stored.get(f"{tag:08X}", empty_element(tag)), row)
        for block in self._query.identifier.private:
            for place in range(0x10, 0x100):
                creator = f"{block.group:04X}00{place:02X}"
                if private_creator(stored.get(creator)) != block.creator:
                    continue
                elements[creator] = _decode_element(stored[creator])
                for low in (*block.criteria, *block.items):
                    name = f"{block.group:04X}{place:02X}{low:02X}"
                    if name in stored:
                        elements[name] = _decode_element(stored[name])

    def _add(self, elements: Elements, tag: int, text: bytes, row: Row) -> None:
        element: Element = _decode_element(text)
        wanted = self._query.wanted.get(tag)
        if wanted and element["vr"] == "SQ":
            zone = _offset(row.timezone_offset_from_utc)
            zones = Zones(self._query.identifier.zone, zone)
            element = _restricted(element, wanted, self._query.identifier.items.get(tag), zones)
        elements[f"{tag:08X}"] = element

    def _add_zone(self, elements: Elements, row: Row) -> None:
        """Timezone Offset From UTC: of the row itself, as everywhere (see `attribute_levels`)."""
        if TIMEZONE_OFFSET_FROM_UTC in self._tags:
            zone = row.timezone_offset_from_utc
            value = {"Value": [zone]} if zone is not None else {}
            elements[f"{TIMEZONE_OFFSET_FROM_UTC:08X}"] = {"vr": "SH", **value}


def _level_of(tag: int) -> Level | None:
    return None if tag == TIMEZONE_OFFSET_FROM_UTC else level_of(tag)


def _texts(stored: Mapping[str, msgspec.Raw]) -> dict[str, bytes]:
    return {tag: bytes(element) for tag, element in stored.items()}


def _offset(zone: str | None) -> int | None:
    try:
        return None if zone is None else parse_offset(zone)
    except InvalidRangeError:
        return None


def _restricted(
    sequence: Element, wanted: Wanted, asked: Identifier | None, zones: Zones
) -> Element:
    """The items that match, with the attributes asked for only (PS3.4 C.2.2.2.6)."""
    items = []
    for item in sequence.get("Value", ()):
        if asked is not None:
            one = {"vr": "SQ", "Value": [item]}
            if not asked.matches_an_item(one, zones):
                continue
        items.append(
            {f"{tag:08X}": _item_element(item, tag, inner) for tag, inner in wanted.items()}
        )
    return {"vr": "SQ", "Value": items} if items else {"vr": "SQ"}


def _item_element(item: Mapping[str, Element], tag: int, wanted: Wanted) -> Element:
    element = item.get(f"{tag:08X}")
    if element is None:
        empty: Element = _decode_element(empty_element(tag))
        return empty
    if wanted and element["vr"] == "SQ":
        return _restricted(element, wanted, None, Zones())
    return element
