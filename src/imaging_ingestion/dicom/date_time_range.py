"""Ranges of dates and times, as keys ask for them (PS3.4 C.2.2.2.5) and values lie in them.

DA and TM values are compared as the text they are: in both, an earlier value comes first in the
order of characters, whatever precision it has, and a database compares them in the same way. A
time of lower precision stands for its beginning ("10" for 10:00:00) when it is a value, and for its
whole length (10:00:00 up to 10:59:59.999999) when it is a key. A stored value that is no date or
time at all is somewhere in the order of characters; it harms nobody.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import NamedTuple

_DATE = re.compile(r"[0-9]{8}")
_TIME = re.compile(r"([01][0-9]|2[0-3])(?:([0-5][0-9])(?:([0-5][0-9]|60)(?:\.([0-9]{1,6}))?)?)?")
_DATE_TIME = re.compile(
    r"([0-9]{4})(?:([0-9]{2})(?:([0-9]{2})"
    r"(?:([01][0-9]|2[0-3])(?:([0-5][0-9])(?:([0-5][0-9]|60)(?:\.([0-9]{1,6}))?)?)?)?)?)?"
    r"([+-][0-9]{4})?"
)
_OFFSET = re.compile(r"([+-])([0-9]{2})([0-5][0-9])")

#: Comes after every digit and after the point, so `"1030" + AFTER_DIGITS` is behind all of 10:30.
AFTER_DIGITS = ":"
#: The earliest of all times.
MIDNIGHT = "00"


class InvalidRangeError(ValueError):
    """The text is no value or range of its VR; the message says what is expected."""


@dataclass(frozen=True, slots=True)
class Zones:
    """Offsets from UTC in minutes, of the request and of a data set; None if they do not say."""

    of_query: int | None = None
    of_values: int | None = None

    @property
    def shift(self) -> int:
        """Minutes to add to a value of the data set to tell it in the zone of the request."""
        if self.of_query is None or self.of_values is None:
            return 0
        return self.of_query - self.of_values


@dataclass(frozen=True, slots=True)
class DateRange:
    """Dates from `low` to `high`, both included; None is an open end."""

    low: str | None
    high: str | None
    is_range: bool = True  # False for a single value

    def contains(self, value: str) -> bool:
        """Whether a DA value lies in it."""
        return (self.low is None or value >= self.low) and (self.high is None or value <= self.high)


@dataclass(frozen=True, slots=True)
class TimeRange:
    """Times from `low` on and before `below`, in the order of characters; None is an open end."""

    low: str | None
    below: str | None
    is_range: bool = True

    @property
    def is_reversed(self) -> bool:
        """Whether it ends before it begins: 2300-0100."""
        return self.low is not None and self.below is not None and self.low >= self.below

    def contains(self, value: str) -> bool:
        """Whether a TM value lies in it."""
        return (self.low is None or value >= self.low) and (
            self.below is None or value < self.below
        )


@dataclass(frozen=True, slots=True)
class CombinedRange:
    """From a time on one day to a time on another (C.2.2.2.5.4, PS3.18 8.3.4.1.1).

    A time counts only where its date is given. A value without a time is the day's beginning.
    """

    dates: DateRange
    times: TimeRange

    def contains(self, day: str, time: str) -> bool:
        """Whether a DA and a TM value, taken together, lie in it; `time` is empty if unknown."""
        dates, times = self.dates, self.times
        if not dates.contains(day):
            return False
        time = time or MIDNIGHT
        if day == dates.low and times.low is not None and time < times.low:
            return False
        return not (day == dates.high and times.below is not None and time >= times.below)


class _Moment(NamedTuple):
    start: datetime
    end: datetime
    offset: int | None


@dataclass(frozen=True, slots=True)
class DateTimeRange:
    """Moments from `low` on and before `high`; offsets in minutes from UTC, None if not given."""

    low: datetime | None
    low_offset: int | None
    high: datetime | None
    high_offset: int | None

    def contains(self, value: str, zones: Zones) -> bool:
        """Whether a DT value lies in it. One that does not tell its zone is compared as it is."""
        try:
            moment = _moment(value)
        except InvalidRangeError:
            return False
        offset = zones.of_values if moment.offset is None else moment.offset
        if self.low is not None and moment.start < _told_in(
            self.low, _first(self.low_offset, zones.of_query), offset
        ):
            return False
        return self.high is None or moment.start < _told_in(
            self.high, _first(self.high_offset, zones.of_query), offset
        )


def parse_dates(text: str) -> DateRange:
    """A DA key: YYYYMMDD, or a range with an end open or not. Raises InvalidRangeError."""
    if "-" not in text:
        day = _day(text)
        return DateRange(day, day, is_range=False)
    low, high = _ends(text, "a date YYYYMMDD or a range YYYYMMDD-YYYYMMDD, YYYYMMDD-, -YYYYMMDD")
    dates = DateRange(low and _day(low), high and _day(high))
    if dates.low is not None and dates.high is not None and dates.low > dates.high:
        raise InvalidRangeError("a range that does not end before it begins")
    return dates


def parse_times(text: str) -> TimeRange:
    """A TM key: HH[MM[SS[.F]]], or a range. It may be reversed. Raises InvalidRangeError."""
    if "-" not in text:
        return TimeRange(_earliest(text), _time(text) + AFTER_DIGITS, is_range=False)
    low, high = _ends(text, "a time HH[MM[SS[.FFFFFF]]] or a range with one or both of its ends")
    return TimeRange(low and _earliest(low), high and _time(high) + AFTER_DIGITS)


def parse_date_times(text: str) -> DateTimeRange:
    """A DT key, or a range of two. Raises InvalidRangeError.

    A hyphen may begin an offset from UTC or the end of the range; where both can be meant it is the
    offset, as long as there is such an offset (PS3.4 C.2.2.2.5.3).
    """
    if _is_moment(text):
        moment = _moment(text)
        return DateTimeRange(moment.start, moment.offset, moment.end, moment.offset)
    for place in (place for place, character in enumerate(text) if character == "-"):
        low, high = text[:place], text[place + 1 :]
        if (low or high) and all(not end or _is_moment(end) for end in (low, high)):
            first = _moment(low) if low else None
            last = _moment(high) if high else None
            found = DateTimeRange(
                first and first.start,
                first and first.offset,
                last and last.end,
                last and last.offset,
            )
            if first and last and _utc(first.start, first.offset) >= _utc(last.end, last.offset):
                raise InvalidRangeError("a range that does not end before it begins")
            return found
    raise InvalidRangeError("a date and time YYYY[MM[DD[HH[MM[SS[.FFFFFF]]]]]][&ZZXX] or a range")


def parse_offset(text: str) -> int:
    """Timezone Offset From UTC (0008,0201), &ZZXX, in minutes. Raises InvalidRangeError.

    A missing sign is a plus, since "+" in a query string that was not encoded arrives as a blank.
    """
    found = _OFFSET.fullmatch(text if text[:1] in {"+", "-"} else f"+{text}")
    if found is not None:
        minutes = (int(found[2]) * 60 + int(found[3])) * (-1 if found[1] == "-" else 1)
        if -12 * 60 <= minutes <= 14 * 60:
            return minutes
    raise InvalidRangeError("an offset from UTC +HHMM or -HHMM, from -1200 to +1400")


def told_in_zone(day: str, time: str, shift: int) -> tuple[str, str]:
    """A DA and a TM value `shift` minutes later, with their precision; as they are if unusable.

    What is empty stays empty: without a time nobody can say whether the day changes.
    """
    found = _TIME.fullmatch(time)
    dated = _DATE.fullmatch(day) is not None
    if not shift or found is None or (day and not dated):
        return day, time
    try:
        start = datetime.strptime(day if dated else "20000102", "%Y%m%d")
        moved = start + timedelta(hours=int(found[1]), minutes=int(found[2] or 0) + shift)
    except (ValueError, OverflowError):
        return day, time
    minutes = f"{moved:%H%M}" if found[2] is not None or shift % 60 else f"{moved:%H}"
    return (f"{moved.year:04}{moved:%m%d}" if dated else ""), minutes + time[4:]


def _day(text: str) -> str:
    if _DATE.fullmatch(text):
        try:
            date(int(text[:4]), int(text[4:6]), int(text[6:]))
        except ValueError:
            pass
        else:
            return text
    raise InvalidRangeError("a date YYYYMMDD of the calendar")


def _time(text: str) -> str:
    if not _TIME.fullmatch(text):
        raise InvalidRangeError("a time HH[MM[SS[.FFFFFF]]]")
    return text


def _earliest(text: str) -> str:
    """A time with zeros at its end left out: what every spelling of it begins with or is behind."""
    whole, point, fraction = _time(text).partition(".")
    fraction = fraction.rstrip("0")
    if point and fraction:
        return f"{whole}.{fraction}"
    while len(whole) > 2 and whole.endswith("00"):
        whole = whole[:-2]
    return whole


def _ends(text: str, expected: str) -> tuple[str | None, str | None]:
    ends = text.split("-")
    if len(ends) != 2 or not any(ends):
        raise InvalidRangeError(expected)
    return ends[0] or None, ends[1] or None


def _is_moment(text: str) -> bool:
    try:
        _moment(text)
    except InvalidRangeError:
        return False
    return True


def _moment(text: str) -> _Moment:
    found = _DATE_TIME.fullmatch(text)
    if found is None:
        raise InvalidRangeError("a date and time YYYY[MM[DD[HH[MM[SS[.FFFFFF]]]]]][&ZZXX]")
    year, month, day, hour, minute, second, fraction, zone = found.groups()
    offset = parse_offset(zone) if zone else None
    try:
        # A leap second is told as the first of the next minute.
        start = datetime(int(year), int(month or 1), int(day or 1), int(hour or 0)) + timedelta(
            minutes=int(minute or 0),
            seconds=int(second or 0),
            microseconds=int((fraction or "").ljust(6, "0")),
        )
        if month is None:
            end = start.replace(year=start.year + 1)
        elif day is None:
            end = (start + timedelta(days=31)).replace(day=1)
        else:
            end = start + _length(hour, minute, second, fraction)
    except (ValueError, OverflowError) as error:
        raise InvalidRangeError("a date and time of the calendar") from error
    return _Moment(start, end, offset)


def _length(
    hour: str | None, minute: str | None, second: str | None, fraction: str | None
) -> timedelta:
    if hour is None:
        return timedelta(days=1)
    if minute is None:
        return timedelta(hours=1)
    if second is None:
        return timedelta(minutes=1)
    return timedelta(microseconds=10 ** (6 - len(fraction or "")))


def _first(offset: int | None, otherwise: int | None) -> int | None:
    return otherwise if offset is None else offset


def _told_in(bound: datetime, bound_offset: int | None, offset: int | None) -> datetime:
    """A bound as a clock at `offset` tells it."""
    if bound_offset is None or offset is None:
        return bound
    try:
        return bound + timedelta(minutes=offset - bound_offset)
    except OverflowError:  # at the ends of the calendar
        return datetime.max if bound.year > 1 else datetime.min


def _utc(moment: datetime, offset: int | None) -> datetime:
    return _told_in(moment, offset, None if offset is None else 0)
