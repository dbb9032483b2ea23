"""Attribute matching (PS3.4 C.2.2.2): the keys of a query against data sets, for QIDO and C-FIND.

    identifier = identifier_of([MatchKey((0x00100010,), "smith*"), …])
    identifier.matches({"00100010": {"vr": "PN", "Value": [{"Alphabetic": "Smith^John"}]}})

Pure. What a key's value means is in `criterion`; here is how keys belong together: those for items
of one sequence must be satisfied by one item (C.2.2.2.6), a range of dates and one of times
are one range (C.2.2.2.5.4), Timezone Offset From UTC tells the zone of the other keys, and a
private key is looked for in the block that its private creator has reserved (PS3.5 7.8.1).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from imaging_ingestion.dicom.criterion import (
    AnyOf,
    Criterion,
    DateIn,
    Element,
    InvalidValueError,
    TimeIn,
    Universal,
    criterion_of,
)
from imaging_ingestion.dicom.date_time_range import (
    CombinedRange,
    InvalidRangeError,
    Zones,
    parse_offset,
    told_in_zone,
)
from imaging_ingestion.dicom.dictionary import vr_of

DataSet = Mapping[str, Element]

TIMEZONE_OFFSET_FROM_UTC = 0x00080201
#: Sequences within sequences that a key may reach into. No module nests keys that deep.
DEEPEST_PATH = 8

#: Dates and the times that belong to them. (The birth has no zone: it stays as it was written.)
TIME_OF_DATE = {
    0x00080012: 0x00080013,  # Instance Creation
    0x00080020: 0x00080030,  # Study
    0x00080021: 0x00080031,  # Series
    0x00080022: 0x00080032,  # Acquisition
    0x00080023: 0x00080033,  # Content
    0x00380020: 0x00380021,  # Admitting
    0x00400002: 0x00400003,  # Scheduled Procedure Step Start
    0x00400004: 0x00400005,  # Scheduled Procedure Step End
    0x00400244: 0x00400245,  # Performed Procedure Step Start
    0x00400250: 0x00400251,  # Performed Procedure Step End
}
_DATE_OF_TIME = {time: day for day, time in TIME_OF_DATE.items()}


class MatchKey(NamedTuple):
    """A key: the tag, behind those of the sequences that it is in, and the text asked for."""

    path: tuple[int, ...]
    text: str


class InvalidKeyError(ValueError):
    """A key that cannot be matched. `path` tells which, `expected` what would be right."""

    def __init__(self, path: tuple[int, ...], expected: str) -> None:
        super().__init__(f"{'.'.join(f'{tag:08X}' for tag in path)}: expected {expected}")
        self.path = path
        self.expected = expected


@dataclass(frozen=True, slots=True)
class CombinedDateTime:
    """A date and a time attribute that are matched together."""

    date_tag: int
    time_tag: int
    moments: CombinedRange


@dataclass(frozen=True, slots=True)
class PrivateBlock:
    """Keys for the elements of one private creator, by the last two digits of their tags."""

    group: int
    creator: str
    criteria: Mapping[int, Criterion]
    items: Mapping[int, Identifier]

    def matches(self, data_set: DataSet, zones: Zones) -> bool:
        """Whether one of the blocks that the creator has reserved is as asked."""
        return any(
            self._block_matches(data_set, self.group << 16 | block << 8, zones)
            for block in range(0x10, 0x100)
            if _first_value(data_set, self.group << 16 | block) == self.creator
        )

    def _block_matches(self, data_set: DataSet, base: int, zones: Zones) -> bool:
        return all(
            criterion.holds(data_set.get(f"{base | low:08X}"), zones)
            for low, criterion in self.criteria.items()
        ) and all(
            item.matches_an_item(data_set.get(f"{base | low:08X}"), zones)
            for low, item in self.items.items()
        )


@dataclass(frozen=True, slots=True)
class Identifier:
    """All keys for one data set, or for one item of a sequence. Made by `identifier_of`."""

    criteria: Mapping[int, Criterion] = field(default_factory=dict)
    items: Mapping[int, Identifier] = field(default_factory=dict)
    combined: tuple[CombinedDateTime, ...] = ()
    private: tuple[PrivateBlock, ...] = ()
    zone: int | None = None  # minutes from UTC

    @property
    def is_universal(self) -> bool:
        """Whether nothing is asked."""
        return (
            not self.combined
            and not self.private
            and all(isinstance(criterion, Universal) for criterion in self.criteria.values())
            and all(item.is_universal for item in self.items.values())
        )

    def tags(self) -> Iterator[int]:
        """Every top-level standard tag that something is asked of."""
        yield from self.criteria
        yield from self.items
        for pair in self.combined:
            yield pair.date_tag
            yield pair.time_tag

    def matches(self, data_set: DataSet) -> bool:
        """Whether a data set in DICOM JSON satisfies every key."""
        return self._matches(data_set, Zones(self.zone, _offset_of(data_set)))

    def matches_an_item(self, sequence: Element | None, zones: Zones) -> bool:
        """Whether one item of the sequence satisfies every key (C.2.2.2.6)."""
        if self.is_universal:
            return True
        items = sequence.get("Value", ()) if sequence is not None else ()
        return any(self._matches(item, zones) for item in items if isinstance(item, Mapping))

    def _matches(self, data_set: DataSet, zones: Zones) -> bool:
        # Depth is that of the longest key, at most DEEPEST_PATH, however deep the data set is.
        return (
            all(
                criterion.holds(self._told(data_set, tag, zones), zones)
                for tag, criterion in self.criteria.items()
            )
            and all(
                item.matches_an_item(data_set.get(f"{tag:08X}"), zones)
                for tag, item in self.items.items()
            )
            and all(_moment_matches(pair, data_set, zones) for pair in self.combined)
            and all(block.matches(data_set, zones) for block in self.private)
        )

    @staticmethod
    def _told(data_set: DataSet, tag: int, zones: Zones) -> Element | None:
        """The element, a date or time as a clock in the zone of the query would tell it."""
        element = data_set.get(f"{tag:08X}")
        if element is None or not zones.shift:
            return element
        if tag in TIME_OF_DATE:
            return {"vr": "DA", "Value": [_pair_told(data_set, tag, zones)[0]]}
        if tag in _DATE_OF_TIME:
            return {"vr": "TM", "Value": [_pair_told(data_set, _DATE_OF_TIME[tag], zones)[1]]}
        return element


def identifier_of(
    keys: Iterable[MatchKey],
    *,
    multiple_values: bool = False,
    empty_values: bool = False,
    combine_date_times: bool = True,
) -> Identifier:
    """The keys of a query as one. A key without text asks nothing (C.2.2.2.3).

    `multiple_values` and `empty_values` as for `criterion_of`. Without `combine_date_times` a range
    of dates and one of times are independent of each other. Raises InvalidKeyError.
    """
    root = _Node((), combine_date_times)
    zone = None
    for key in keys:
        _check_path(key.path)
        if key.path == (TIMEZONE_OFFSET_FROM_UTC,):
            # It is of every level, and nothing is matched against it: a zone, or nothing asked.
            try:
                zone = parse_offset(key.text.strip()) if key.text.strip() else None
            except InvalidRangeError as error:
                raise InvalidKeyError(key.path, str(error)) from error
            continue
        node = root
        for tag in key.path[:-1]:
            node = node.items.setdefault(tag, _Node((*node.path, tag), combine_date_times))
        if key.path[-1] in node.criteria:
            raise InvalidKeyError(key.path, "to be given only once")
        node.texts[key.path[-1]] = key.text.strip()
        try:
            node.criteria[key.path[-1]] = criterion_of(
                _vr(key.path[-1]),
                key.text,
                multiple_values=multiple_values,
                empty_values=empty_values,
            )
        except InvalidValueError as error:
            raise InvalidKeyError(key.path, str(error)) from error
    return root.identifier(zone)


@dataclass(slots=True)
class _Node:
    """The keys of a data set or item while they are gathered."""

    path: tuple[int, ...]
    combine: bool
    criteria: dict[int, Criterion] = field(default_factory=dict)
    texts: dict[int, str] = field(default_factory=dict)
    items: dict[int, _Node] = field(default_factory=dict)

    def identifier(self, zone: int | None = None) -> Identifier:
        """These keys, with pairs and private blocks put together."""
        criteria = {tag: found for tag, found in self.criteria.items() if not _is_private(tag)}
        items = {tag: node.identifier() for tag, node in self.items.items() if not _is_private(tag)}
        return Identifier(
            criteria, items, tuple(self._combine(criteria)), tuple(self._private_blocks()), zone
        )

    def _combine(self, criteria: dict[int, Criterion]) -> Iterator[CombinedDateTime]:
        """Take pairs of ranges out of the criteria; refuse times that end before they begin."""
        for time_tag, criterion in list(criteria.items()):
            if not isinstance(criterion, AnyOf):
                continue
            for test in criterion.tests:
                if not isinstance(test, TimeIn):
                    continue
                date_tag = _DATE_OF_TIME.get(time_tag)
                days = _only_range_of_dates(criteria.get(date_tag) if date_tag else None)
                if (
                    self.combine
                    and days
                    and date_tag
                    and test.times.is_range
                    and len(criterion.tests) == 1
                ):
                    if test.times.is_reversed and days.dates.low == days.dates.high:
                        raise self._reversed(time_tag)
                    del criteria[time_tag], criteria[date_tag]
                    yield CombinedDateTime(
                        date_tag, time_tag, CombinedRange(days.dates, test.times)
                    )
                elif test.times.is_reversed:
                    raise self._reversed(time_tag)

    def _reversed(self, time_tag: int) -> InvalidKeyError:
        return InvalidKeyError((*self.path, time_tag), "a range that does not end before it begins")

    def _private_blocks(self) -> Iterator[PrivateBlock]:
        creators = {tag: text for tag, text in self.texts.items() if _is_creator(tag)}
        data = [tag for tag in (*self.criteria, *self.items) if _is_private(tag)]
        for tag in data:
            creator_tag = tag & 0xFFFF0000 | tag >> 8 & 0xFF
            if not _is_creator(tag) and not creators.get(creator_tag):
                raise InvalidKeyError(
                    (*self.path, tag), f"its private creator, {creator_tag:08X}, as a key beside it"
                )
        for creator_tag, creator in creators.items():
            if not creator:
                continue
            base = creator_tag & 0xFFFF0000 | (creator_tag & 0xFF) << 8
            yield PrivateBlock(
                creator_tag >> 16,
                creator,
                {tag & 0xFF: c for tag, c in self.criteria.items() if tag & 0xFFFFFF00 == base},
                {
                    tag & 0xFF: node.identifier()
                    for tag, node in self.items.items()
                    if tag & 0xFFFFFF00 == base
                },
            )


def _check_path(path: tuple[int, ...]) -> None:
    if not 1 <= len(path) <= DEEPEST_PATH:
        raise InvalidKeyError(path[:DEEPEST_PATH], f"a path of at most {DEEPEST_PATH} attributes")
    for tag in path[:-1]:
        if _vr(tag) not in {"SQ", None, "UN"}:
            raise InvalidKeyError(path, f"a path through sequences; {tag:08X} is none")


def _vr(tag: int) -> str | None:
    if _is_creator(tag):
        return "LO"
    return None if _is_private(tag) else vr_of(tag)


def _is_private(tag: int) -> bool:
    return bool(tag >> 16 & 1)


def _is_creator(tag: int) -> bool:
    return _is_private(tag) and 0x10 <= tag & 0xFFFF <= 0xFF


def _only_range_of_dates(criterion: Criterion | None) -> DateIn | None:
    if isinstance(criterion, AnyOf) and len(criterion.tests) == 1:
        test = criterion.tests[0]
        if isinstance(test, DateIn) and test.dates.is_range:
            return test
    return None


def _moment_matches(pair: CombinedDateTime, data_set: DataSet, zones: Zones) -> bool:
    day, time = _pair_told(data_set, pair.date_tag, zones)
    return bool(day) and pair.moments.contains(day, time)


def _pair_told(data_set: DataSet, date_tag: int, zones: Zones) -> tuple[str, str]:
    return told_in_zone(
        _first_value(data_set, date_tag),
        _first_value(data_set, TIME_OF_DATE[date_tag]),
        zones.shift,
    )


def _offset_of(data_set: DataSet) -> int | None:
    text = _first_value(data_set, TIMEZONE_OFFSET_FROM_UTC)
    if not text:
        return None
    try:
        return parse_offset(text)
    except InvalidRangeError:
        return None  # what a sender wrote wrongly tells nothing


def _first_value(data_set: DataSet, tag: int) -> str:
    element = data_set.get(f"{tag:08X}")
    values = element.get("Value", ()) if element is not None else ()
    return values[0].strip(" \0") if values and isinstance(values[0], str) else ""
