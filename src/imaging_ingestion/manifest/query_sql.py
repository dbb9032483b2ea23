"""Criteria of `dicom.criterion` as SQL conditions that say the same, in a form an index can serve.

- A pattern that begins with literal text is a range of the column (its collation is by bytes on
  both databases) and, behind it, GLOB on SQLite (whose LIKE is blind to case), LIKE on PostgreSQL.
- Names are matched on their folded columns.
- Integers kept as text are compared without sign and leading zeros, as `canonical_integer` does.

Where SQL cannot say it, the condition lets more rows through, and `exact` is False: then
`Identifier.matches` decides row by row.
"""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.sql import ColumnElement

from imaging_ingestion.dicom.criterion import (
    AnyOf,
    Criterion,
    DateIn,
    Empty,
    IntegerIs,
    NameIs,
    TextIs,
    TextLike,
    TimeIn,
    Universal,
    ValueTest,
)
from imaging_ingestion.dicom.date_time_range import MIDNIGHT, DateRange, TimeRange
from imaging_ingestion.dicom.matching import (
    TIME_OF_DATE,
    CombinedDateTime,
    Identifier,
)
from imaging_ingestion.dicom.wildcard import Pattern, Wild
from imaging_ingestion.manifest.query_attributes import (
    COLUMN_ATTRIBUTES,
    MODALITIES_IN_STUDY,
    ColumnAttribute,
)
from imaging_ingestion.manifest.schema import series, study

Condition = ColumnElement[bool]

_TIMES = frozenset(TIME_OF_DATE.values())
#: Clocks on Earth are at most 26 hours apart (+1400 and -1200).
_DAYS_BETWEEN_ZONES = timedelta(days=2)
_LIKE_ESCAPE = "/"
_LARGEST = {sa.SmallInteger: 0x7FFF, sa.Integer: 0x7FFFFFFF}

_of_study = series.alias("of_study")


@dataclass(slots=True)
class Conditions:
    """Conditions that all must hold. With `exact` no other row than those wanted satisfies them."""

    all: list[Condition]
    exact: bool = True


@dataclass(frozen=True, slots=True)
class _Target:
    """What is compared: an attribute's column, and its folded one if it is a name."""

    column: ColumnElement[Any]
    folded: ColumnElement[Any] | None


def conditions_of(
    identifier: Identifier, dialect: str, without_index: Set[int] = frozenset()
) -> Conditions:
    """The conditions for an identifier over the tables study, series and instance.

    `dialect` is "sqlite" or "postgresql". The columns of the attributes in `without_index` are
    written so that SQLite, which knows nothing of what is in a column, uses no index on them.
    (PostgreSQL does know, and would not recognise the column.) The caller joins the tables of the
    levels asked.
    """
    result = Conditions([], exact=not identifier.private)
    if dialect != "sqlite":
        without_index = frozenset()
    zoned = identifier.zone is not None
    for tag, criterion in identifier.criteria.items():
        if isinstance(criterion, Universal):
            continue
        target = _target(tag, without_index)
        if tag == MODALITIES_IN_STUDY:
            result.all.append(_modalities_are(criterion, dialect))
        elif target is None:
            result.exact = False
        elif zoned and (tag in TIME_OF_DATE or tag in _TIMES):
            result.exact = False
            result.all.extend(_days_near(target.column, criterion))
        else:
            _add(result, target, criterion, dialect)
    for pair in identifier.combined:
        _add_combined(result, pair, without_index, zoned=zoned)
    if not all(item.is_universal for item in identifier.items.values()):
        result.exact = False
    return result


def not_indexed(column: ColumnElement[str]) -> ColumnElement[str]:
    """A text column as an expression, so that no index on it is preferred to another."""
    return column.concat("")


def pattern_condition(column: ColumnElement[Any], pattern: Pattern, dialect: str) -> Condition:
    """The column's text matches the pattern, as `Pattern.matches` decides."""
    bounds: list[Condition] = []
    if pattern.prefix:
        bounds.append(column >= pattern.prefix)
        behind = behind_prefix(pattern.prefix)
        if behind is not None:
            bounds.append(column < behind)
            if pattern.is_prefix:
                return sa.and_(*bounds)
    if dialect == "sqlite":
        return sa.and_(*bounds, column.op("GLOB", is_comparison=True)(_glob(pattern)))
    return sa.and_(*bounds, column.like(_like(pattern), escape=_LIKE_ESCAPE))


def test_condition(attribute: ColumnAttribute, test: ValueTest, dialect: str) -> Condition:
    """What the column satisfies if the attribute passes the test (and perhaps if it does not)."""
    return _test(_Target(attribute.column, attribute.folded), test, dialect).all[0]


def behind_prefix(prefix: str) -> str | None:
    """The least text, by code points, behind every text with the prefix; None if there is none."""
    kept = prefix.rstrip("\U0010ffff")
    if not kept:
        return None
    last = ord(kept[-1]) + 1
    # Surrogates are no characters, and UTF-8 has no bytes for them.
    return kept[:-1] + chr(0xE000 if 0xD800 <= last <= 0xDFFF else last)


def _target(tag: int, without_index: Set[int]) -> _Target | None:
    attribute = COLUMN_ATTRIBUTES.get(tag)
    if attribute is None:
        return None
    column, folded = attribute.column, attribute.folded
    if tag not in without_index:
        return _Target(column, folded)
    return _Target(not_indexed(column), None if folded is None else not_indexed(folded))


def _add(result: Conditions, target: _Target, criterion: Criterion, dialect: str) -> None:
    """Add what an attribute's column must satisfy."""
    if isinstance(criterion, Empty):
        result.all.append(target.column.is_(None))
    elif isinstance(criterion, AnyOf):
        tests = [_test(target, test, dialect) for test in criterion.tests]
        result.all.append(sa.or_(*(test.all[0] for test in tests)))
        result.exact = result.exact and all(test.exact for test in tests)
    else:
        result.exact = False


def _test(target: _Target, test: ValueTest, dialect: str) -> Conditions:
    """One condition for one test of a column."""
    column = target.column
    if isinstance(test, TextIs):
        return Conditions([_one_of(column, test.spellings)])
    if isinstance(test, TextLike):
        patterns = (pattern_condition(column, pattern, dialect) for pattern in test.patterns)
        return Conditions([sa.or_(*patterns)])
    if isinstance(test, NameIs):
        return _name(target, test, dialect)
    if isinstance(test, IntegerIs):
        return Conditions([_integer_is(column, test)])
    if isinstance(test, DateIn):
        return Conditions([_date_in(column, test.dates)])
    if isinstance(test, TimeIn):
        return Conditions([_time_in(column, test.times)])
    return Conditions([column.is_not(None)], exact=False)


def _one_of(column: ColumnElement[Any], values: Iterable[str]) -> Condition:
    found = tuple(values)
    return column == found[0] if len(found) == 1 else column.in_(found)


def _name(target: _Target, test: NameIs, dialect: str) -> Conditions:
    folded, column = target.folded, target.column
    if folded is None:
        return Conditions([column.is_not(None)], exact=False)
    first, second, third = test.groups
    if first is None:
        return Conditions([column.is_not(None)], exact=False)
    alphabetic = (
        folded == first if isinstance(first, str) else pattern_condition(folded, first, dialect)
    )
    if test.anywhere:
        # The other component groups have no column of their own: few rows have them at all.
        return Conditions([sa.or_(alphabetic, column.contains("=", autoescape=True))], exact=False)
    return Conditions([alphabetic], exact=second is None and third is None)


def _integer_is(column: ColumnElement[Any], test: IntegerIs) -> Condition:
    if isinstance(column.type, sa.Text):
        canonical = sa.case(
            (
                column.startswith("-"),
                sa.literal("-") + sa.func.ltrim(sa.func.substr(column, 2), "0"),
            ),
            else_=sa.func.ltrim(column, "+0"),
        )
        return _one_of(canonical, test.canonical)
    largest = next(most for kind, most in _LARGEST.items() if isinstance(column.type, kind))
    return column == test.number if abs(test.number) <= largest else sa.false()


def _date_in(column: ColumnElement[Any], dates: DateRange) -> Condition:
    if dates.low is not None and dates.low == dates.high:
        return column == dates.low
    bounds: list[Condition] = []
    if dates.low is not None:
        bounds.append(column >= dates.low)
    if dates.high is not None:
        bounds.append(column <= dates.high)
    return sa.and_(sa.true(), *bounds)


def _time_in(column: ColumnElement[Any], times: TimeRange) -> Condition:
    bounds: list[Condition] = []
    if times.low is not None:
        bounds.append(column >= times.low)
    if times.below is not None:
        bounds.append(column < times.below)
    return sa.and_(sa.true(), *bounds)


def _add_combined(
    result: Conditions, pair: CombinedDateTime, without_index: Set[int], *, zoned: bool
) -> None:
    day, time = _target(pair.date_tag, without_index), _target(pair.time_tag, without_index)
    if day is None or time is None:
        result.exact = False
        return
    dates, times = pair.moments.dates, pair.moments.times
    if zoned:
        result.exact = False
        result.all.append(_date_in(day.column, _widened(dates)))
        return
    result.all.append(_date_in(day.column, dates))
    known = sa.func.coalesce(time.column, MIDNIGHT)
    if dates.low is not None and times.low is not None:
        result.all.append(sa.or_(day.column > dates.low, known >= times.low))
    if dates.high is not None and times.below is not None:
        result.all.append(sa.or_(day.column < dates.high, known < times.below))


def _days_near(column: ColumnElement[Any], criterion: Criterion) -> list[Condition]:
    """What a date must satisfy in whatever zone it was written; nothing for a time."""
    if not isinstance(criterion, AnyOf):
        return []
    ranges = [test.dates for test in criterion.tests if isinstance(test, DateIn)]
    if len(ranges) != len(criterion.tests):
        return []
    # A value that is no date is compared as it is, so the dates asked for themselves stay in.
    return [sa.or_(*(_date_in(column, _widened(dates)) for dates in ranges))]


def _widened(dates: DateRange) -> DateRange:
    return DateRange(
        dates.low and _moved(dates.low, -_DAYS_BETWEEN_ZONES),
        dates.high and _moved(dates.high, _DAYS_BETWEEN_ZONES),
    )


def _moved(day: str, by: timedelta) -> str | None:
    try:
        moved = date(int(day[:4]), int(day[4:6]), int(day[6:])) + by
    except OverflowError:  # at the ends of the calendar: no bound at all
        return None
    return f"{moved.year:04}{moved:%m%d}"


def _modalities_are(criterion: Criterion, dialect: str) -> Condition:
    """Modalities in Study (0008,0061): what the modality of one of the study's series is."""
    live = (_of_study.c.study_pk == study.c.id, _of_study.c.number_of_instances > 0)
    modality = _of_study.c.modality
    if isinstance(criterion, Empty):
        known = sa.select(sa.literal(1)).where(*live, modality.is_not(None))
        return ~known.correlate(study).exists()
    tests = criterion.tests if isinstance(criterion, AnyOf) else ()
    wanted: list[Condition] = []
    for test in tests:
        if isinstance(test, TextIs):
            wanted.append(_one_of(modality, test.spellings))
        elif isinstance(test, TextLike):
            wanted.extend(pattern_condition(modality, one, dialect) for one in test.patterns)
    return sa.select(sa.literal(1)).where(*live, sa.or_(*wanted)).correlate(study).exists()


def _glob(pattern: Pattern) -> str:
    """For SQLite: in brackets, a character that GLOB has a use for means itself."""
    return "".join(
        token.value
        if isinstance(token, Wild)
        else "".join(f"[{character}]" if character in "*?[" else character for character in token)
        for token in pattern.tokens
    )


def _like(pattern: Pattern) -> str:
    """For PostgreSQL, with `_LIKE_ESCAPE`."""
    wild = {Wild.MANY: "%", Wild.ONE: "_"}
    return "".join(
        wild[token]
        if isinstance(token, Wild)
        else "".join(f"{_LIKE_ESCAPE}{c}" if c in "%_/" else c for c in token)
        for token in pattern.tokens
    )
