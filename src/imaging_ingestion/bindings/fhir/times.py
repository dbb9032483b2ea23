"""From DICOM dates and times (PS3.5 6.2) to FHIR's, which never have a time without an offset."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

# YYYY.MM.DD and hh:mm:ss are the forms of ACR-NEMA 300, which still come in.
_DATE = re.compile(r"(\d{4})(\.?)(\d\d)\2(\d\d)")
_TIME = re.compile(r"(\d\d)(?:(:?)(\d\d)(?:\2(\d\d)(?:\.(\d{1,6}))?)?)?")
_OFFSET = re.compile(r"([+-])(\d\d)([0-5]\d)")


def zone_of(name: str) -> tzinfo:
    """A time zone by its IANA name. Raises ValueError if there is none of that name here."""
    if name.upper() == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError(f"{name!r} is no time zone known here (Europe/Berlin, say)") from error


def fhir_date(da: str | None) -> str | None:
    """A date (VR DA) as YYYY-MM-DD; None if it is none."""
    found = _date(da)
    return None if found is None else found.isoformat()


def fhir_date_time(da: str | None, tm: str | None, offset: str | None, zone: tzinfo) -> str | None:
    """A date and a time (VR DA, TM) as FHIR dateTime, to the millisecond.

    `offset` is Timezone Offset From UTC (0008,0201); without a valid one, `zone` tells what the
    clock on the wall meant. Only the date is told if there is no valid time; None without a date.
    """
    day = _date(da)
    if day is None:
        return None
    clock = _time(tm)
    if clock is None:
        return day.isoformat()
    when = datetime.combine(day, clock, _offset(offset) or zone)
    # Local mean times of the 19th century have seconds in their offset; FHIR has no place for them.
    minutes = round((when.utcoffset() or timedelta()) / timedelta(minutes=1))
    when = when.replace(tzinfo=timezone(timedelta(minutes=minutes)))
    return when.isoformat(timespec="milliseconds" if when.microsecond >= 1000 else "seconds")


def _date(da: str | None) -> date | None:
    match = _DATE.fullmatch(da.strip()) if da else None
    if match is None:
        return None
    try:
        return date(int(match[1]), int(match[3]), int(match[4]))
    except ValueError:  # the 31st of February
        return None


def _time(tm: str | None) -> time | None:
    match = _TIME.fullmatch(tm.strip()) if tm else None
    if match is None:
        return None
    second = 59 if match[4] == "60" else int(match[4] or 0)  # a leap second
    microsecond = int((match[5] or "").ljust(6, "0"))
    try:
        return time(int(match[1]), int(match[3] or 0), second, microsecond)
    except ValueError:
        return None


def _offset(text: str | None) -> timezone | None:
    match = _OFFSET.fullmatch(text.strip()) if text else None
    if match is None:
        return None
    offset = timedelta(hours=int(match[2]), minutes=int(match[3]))
    offset = -offset if match[1] == "-" else offset
    # PS3.3 C.12.1.1.8: -1200 to +1400
    if not timedelta(hours=-12) <= offset <= timedelta(hours=14):
        return None
    return timezone(offset)
