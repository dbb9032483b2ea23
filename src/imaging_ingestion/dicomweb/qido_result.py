"""Results of a search as DICOM JSON objects (PS3.18 10.6.3.3): spliced, not encoded anew.

Each result is a handful of elements whose JSON text lies in the manifest already, so it is put
together from those texts, by tag. What the results of one study or series share is made once.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from imaging_ingestion.dicom.matching import TIMEZONE_OFFSET_FROM_UTC
from imaging_ingestion.dicomweb.qido_parameters import Resource, SearchParameters
from imaging_ingestion.manifest.attribute_levels import Level, level_of
from imaging_ingestion.manifest.query_attributes import COLUMN_ATTRIBUTES, MODALITIES_IN_STUDY
from imaging_ingestion.manifest.query_element import (
    element_of,
    empty_element,
    integer_text,
    is_empty,
    private_creator,
)
from imaging_ingestion.manifest.query_match import Match, Row

#: Always there, without a value if there is none (tables 10.6.3-3 to 10.6.3-5).
REQUIRED = {
    Level.STUDY: (
        0x00080020,
        0x00080030,
        0x00080050,
        0x00080090,
        0x00100010,
        0x00100020,
        0x00100030,
        0x00100040,
        0x0020000D,
        0x00200010,
        0x00201206,
        0x00201208,
    ),
    Level.SERIES: (0x00080060, 0x0020000E, 0x00200011, 0x00201209),
    Level.INSTANCE: (0x00080016, 0x00080018, 0x00200013),
}
#: There if they have a value.
IF_KNOWN = {
    Level.STUDY: (0x00081030,),
    Level.SERIES: (0x0008103E, 0x00400244, 0x00400245, 0x00400275),
    Level.INSTANCE: (0x00083002, 0x00280008, 0x00280010, 0x00280011, 0x00280100),
}

_SPECIFIC_CHARACTER_SET = b'"00080005":{"vr":"CS","Value":["ISO_IR 192"]}'
_ONLINE = b'"00080056":{"vr":"CS","Value":["ONLINE"]}'  # Instance Availability
_BULK = b'"BulkDataURI":"@'
_decode = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode

#: By tag: `"TTTTTTTT":{"vr":…}`, or `{"vr":…}` where it is said so.
Elements = dict[str, bytes]


class ResultWriter:
    """Makes the results of one request."""

    def __init__(self, resource: Resource, parameters: SearchParameters, base_url: str) -> None:
        """`base_url` is the absolute DICOMweb root, for Retrieve URLs."""
        self._own = resource.level
        self._url = base_url
        self._all = parameters.include_all
        self._private = parameters.identifier.private
        keys = {key.path[0] for key in parameters.matched} - {TIMEZONE_OFFSET_FROM_UTC}
        self._keys = _by_level(tag for tag in keys if not tag >> 16 & 1)
        self._include = _by_level(parameters.include)
        self._levels = [
            level
            for level in Level
            if level <= resource.level
            and (
                (resource.within is None or level > resource.within)
                or self._include[level]
                or self._keys[level]
            )
        ]
        self._within = resource.within
        self._parts: dict[tuple[Level, int], Elements] = {}

    @property
    def needs_metadata(self) -> bool:
        """Whether the data sets of instances are needed, which `write` then takes."""
        if self._own is not Level.INSTANCE:
            return False
        asked = self._keys[Level.INSTANCE] | self._include[Level.INSTANCE]
        return self._all or bool(self._private) or not asked <= _KNOWN_OF_INSTANCES

    def write(self, match: Match, metadata: bytes | None = None) -> bytes:
        """One result as a DICOM JSON object.

        Elements stand in `elements` with their keys before them, so that they are sorted and joined
        as they are: 600 results take 7.8 ms so, and 9.3 ms with keys that are added at the end.
        """
        elements: Elements = {}
        for level in self._levels:
            if level is Level.STUDY:
                elements |= self._part(level, match.study, match)
            elif level is Level.SERIES and match.series is not None:
                elements |= self._part(level, match.series, match)
            elif match.instance is not None:
                elements |= self._instance(match, metadata)
        zone = match.own.timezone_offset_from_utc
        if zone is not None:
            elements["00080201"] = b'"00080201":{"vr":"SH","Value":[%b]}' % _encode(zone)
        if self._own is not Level.SERIES:
            elements["00080056"] = _ONLINE
        elements["00081190"] = b'"00081190":{"vr":"UR","Value":[%b]}' % _encode(self.url_of(match))
        if "00080005" in elements:
            elements["00080005"] = _SPECIFIC_CHARACTER_SET  # JSON is UTF-8 (F.2)
        return b"{%b}" % b",".join(sorted(elements.values()))

    def url_of(self, match: Match) -> str:
        """Retrieve URL (0008,1190), absolute (Q38)."""
        url = f"{self._url}/studies/{match.study.study_instance_uid}"
        if match.series is not None:
            url += f"/series/{match.series.series_instance_uid}"
        if match.instance is not None:
            url += f"/instances/{match.instance.sop_instance_uid}"
        return url

    def _part(self, level: Level, row: Row, match: Match) -> Elements:
        """What a study or series adds to each of its results."""
        part = self._parts.get((level, row.id))
        if part is None:
            part = self._parts[level, row.id] = self._make_part(level, row, match)
        return part

    def _make_part(self, level: Level, row: Row, match: Match) -> Elements:
        stored = {
            tag: bytes(element)
            for tag, element in _decode(row.attributes).items()
            if _BULK not in bytes(element)  # of which instance would nobody know
        }
        default = self._within is None or level > self._within
        part: Elements = {}
        if self._all and default:
            part.update((tag, _keyed(tag, element)) for tag, element in stored.items())
        if default:
            for tag in REQUIRED[level]:
                _put(part, tag, element_of(tag, row, stored))
            for tag in IF_KNOWN[level]:
                found = element_of(tag, row, stored)
                if not is_empty(found):
                    _put(part, tag, found)
        for tag in self._include[level]:
            if tag in COLUMN_ATTRIBUTES or f"{tag:08X}" in stored:
                _put(part, tag, element_of(tag, row, stored))
        for tag in self._keys[level]:
            _put(part, tag, element_of(tag, row, stored))
        if level is Level.STUDY and (default or MODALITIES_IN_STUDY in self._include[level]):
            modalities = match.modalities_in_study
            value = b',"Value":%b' % _encode(modalities) if modalities else b""
            part["00080061"] = b'"00080061":{"vr":"CS"%b}' % value
        return part

    def _instance(self, match: Match, metadata: bytes | None) -> Elements:
        row = match.instance
        assert row is not None
        elements: Elements = {
            "00080016": b'"00080016":{"vr":"UI","Value":["%b"]}' % row.sop_class_uid.encode(),
            "00080018": b'"00080018":{"vr":"UI","Value":["%b"]}' % row.sop_instance_uid.encode(),
            "00083002": b'"00083002":{"vr":"UI","Value":["%b"]}' % row.transfer_syntax_uid.encode(),
            "00200013": b'"00200013":' + integer_text(row.instance_number),
        }
        if row.number_of_frames is not None:
            elements["00280008"] = b'"00280008":' + integer_text(row.number_of_frames)
        if row.rows is not None:
            elements["00280010"] = b'"00280010":{"vr":"US","Value":[%d]}' % row.rows
        if row.columns is not None:
            elements["00280011"] = b'"00280011":{"vr":"US","Value":[%d]}' % row.columns
        if row.bits_allocated is not None:
            elements["00280100"] = b'"00280100":{"vr":"US","Value":[%d]}' % row.bits_allocated
        if metadata is not None:
            bulk = b'"BulkDataURI":"%b/bulkdata/' % self.url_of(match).encode()
            stored = {
                tag: bytes(element)
                for tag, element in _decode(metadata.replace(_BULK, bulk)).items()
            }
            self._add_stored(elements, stored)
        for tag in self._keys[Level.INSTANCE]:
            elements.setdefault(f"{tag:08X}", _keyed(f"{tag:08X}", empty_element(tag)))
        return elements

    def _add_stored(self, elements: Elements, stored: Elements) -> None:
        """Add what is asked of a data set; `stored` is without keys."""
        if self._all:
            for tag, element in stored.items():
                if tag not in elements:
                    elements[tag] = _keyed(tag, element)
            return
        for number_ in self._keys[Level.INSTANCE] | self._include[Level.INSTANCE]:
            tag = f"{number_:08X}"
            if tag in stored:
                elements.setdefault(tag, _keyed(tag, stored[tag]))
            creator = f"{tag[:4]}00{tag[4:6]}"
            if number_ >> 16 & 1 and creator in stored:
                elements[creator] = _keyed(creator, stored[creator])
        for block in self._private:
            for place in range(0x10, 0x100):
                creator = f"{block.group:04X}00{place:02X}"
                if private_creator(stored.get(creator)) != block.creator:
                    continue
                elements[creator] = _keyed(creator, stored[creator])
                for low in (*block.criteria, *block.items):
                    tag = f"{block.group:04X}{place:02X}{low:02X}"
                    if tag in stored:
                        elements[tag] = _keyed(tag, stored[tag])


#: Attributes of instances for which `write` needs no data set.
_KNOWN_OF_INSTANCES = frozenset(
    {
        *(tag for tag, found in COLUMN_ATTRIBUTES.items() if found.level is Level.INSTANCE),
        TIMEZONE_OFFSET_FROM_UTC,
        0x00080056,
        0x00081190,
    }
)


def _by_level(tags: Iterable[int]) -> dict[Level, frozenset[int]]:
    found: dict[Level, set[int]] = {level: set() for level in Level}
    for tag in tags:
        found[level_of(tag)].add(tag)
    return {level: frozenset(of_level) for level, of_level in found.items()}


def _keyed(tag: str, element: bytes) -> bytes:
    return b'"%b":%b' % (tag.encode(), element)


def _put(elements: Elements, tag: int, element: bytes) -> None:
    key = f"{tag:08X}"
    elements[key] = _keyed(key, element)
