"""What a key asks of the values of one attribute (PS3.4 C.2.2.2), by its VR.

A criterion is a value: a database may read it and say it in SQL, or it decides by itself about an
element in DICOM JSON (PS3.18 F.2). Both give the same answer.

How texts are compared: exactly, but for blanks at the ends, and for the two ways in which Unicode
spells an accented letter. A key is looked for as it came, composed (NFC) and decomposed (NFD), so
it does not matter which of them a keyboard, a character set or a sender prefers. Person names are
compared folded (see `person_name`). Integers are compared as numbers: "05" is "+5" is "5".
"""

from __future__ import annotations

import re
import struct
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

from imaging_ingestion.dicom.date_time_range import (
    DateRange,
    DateTimeRange,
    InvalidRangeError,
    TimeRange,
    Zones,
    parse_date_times,
    parse_dates,
    parse_times,
)
from imaging_ingestion.dicom.dictionary import tag_of
from imaging_ingestion.dicom.person_name import fold_name
from imaging_ingestion.dicom.uid import is_uid
from imaging_ingestion.dicom.wildcard import Pattern, Token, Wild, has_wildcard, pattern_of, pieces

Element = Mapping[str, Any]

#: Characters of one value of a key. Longer ones are no mistake of a person.
LONGEST_VALUE = 1024
#: Alternatives in one key. Each is a condition of its own for a database, and SQLite takes 1000 of
#: those in one expression; UIDs are one list.
MOST_VALUES = 100
MOST_UIDS = 1000

_WILDCARD_VRS = frozenset(("AE", "CS", "LO", "LT", "SH", "ST", "UC", "UR", "UT"))
_INTEGER_VRS = frozenset(
    ("IS", "US", "SS", "UL", "SL", "UV", "SV", "US or SS", "US or OW", "US or SS or OW")
)
_INTEGER = re.compile(r"[+-]?[0-9]{1,19}")
_DECIMAL = re.compile(
    r"[+-]?(?:[0-9]{1,32}(?:\.[0-9]{0,32})?|\.[0-9]{1,32})(?:[eE][+-]?[0-9]{1,4})?"
)
_AGE = re.compile(r"[0-9]{3}[DWMY]")
_TAG = re.compile(r"[0-9A-Fa-f]{8}")
_PADDING = " \0"
_GROUPS = ("Alphabetic", "Ideographic", "Phonetic")


class InvalidValueError(ValueError):
    """The text cannot be matched against the VR; the message says what is expected."""


@dataclass(frozen=True, slots=True)
class TextIs:
    """The value is one of these texts, which are spellings of the same."""

    spellings: tuple[str, ...]

    def accepts(self, value: object, _zones: Zones) -> bool:
        """Whether a value of the element satisfies it."""
        return _text(value) in self.spellings


@dataclass(frozen=True, slots=True)
class TextLike:
    """The value matches one of these patterns, which are spellings of the same."""

    patterns: tuple[Pattern, ...]

    def accepts(self, value: object, _zones: Zones) -> bool:
        """Whether a value of the element satisfies it."""
        text = _text(value)
        return any(pattern.matches(text) for pattern in self.patterns)


NameTest = str | Pattern | None  # None asks nothing


@dataclass(frozen=True, slots=True)
class NameIs:
    """The component groups of the person name are as asked, once folded.

    With `anywhere` it is the same test in each of `groups`, and one that succeeds is enough.
    """

    groups: tuple[NameTest, NameTest, NameTest]
    anywhere: bool = False

    def accepts(self, value: object, _zones: Zones) -> bool:
        """Whether a value of the element satisfies it."""
        if not isinstance(value, Mapping):
            return False
        found = (
            _name_group_is(test, str(value.get(group, "")))
            for group, test in zip(_GROUPS, self.groups, strict=True)
        )
        return any(found) if self.anywhere else all(found)


@dataclass(frozen=True, slots=True)
class IntegerIs:
    """The value is this integer, however it is written."""

    number: int

    def accepts(self, value: object, _zones: Zones) -> bool:
        """Whether a value of the element satisfies it."""
        return canonical_integer(_text(value)) in self.canonical

    @property
    def canonical(self) -> tuple[str, ...]:
        """What `canonical_integer` makes of its spellings."""
        return (str(self.number),) if self.number else ("", "-")


@dataclass(frozen=True, slots=True)
class NumberIs:
    """The value is this number; binary ones of single precision are compared as such."""

    number: Decimal
    single_precision: bool = False

    def accepts(self, value: object, _zones: Zones) -> bool:
        """Whether a value of the element satisfies it."""
        try:
            found = Decimal(_text(value))
            if self.single_precision:
                return _single(float(found)) == _single(float(self.number))
        except (InvalidOperation, OverflowError):
            return False
        return found == self.number


@dataclass(frozen=True, slots=True)
class DateIn:
    """The DA value lies in the range."""

    dates: DateRange

    def accepts(self, value: object, _zones: Zones) -> bool:
        """Whether a value of the element satisfies it."""
        return self.dates.contains(_text(value))


@dataclass(frozen=True, slots=True)
class TimeIn:
    """The TM value lies in the range."""

    times: TimeRange

    def accepts(self, value: object, _zones: Zones) -> bool:
        """Whether a value of the element satisfies it."""
        return self.times.contains(_text(value))


@dataclass(frozen=True, slots=True)
class DateTimeIn:
    """The DT value lies in the range."""

    moments: DateTimeRange

    def accepts(self, value: object, zones: Zones) -> bool:
        """Whether a value of the element satisfies it."""
        return self.moments.contains(_text(value), zones)


ValueTest = TextIs | TextLike | NameIs | IntegerIs | NumberIs | DateIn | TimeIn | DateTimeIn


@dataclass(frozen=True, slots=True)
class Universal:
    """Nothing is asked; the attribute may be absent (C.2.2.2.3)."""

    def holds(self, _element: Element | None, _zones: Zones) -> bool:
        """Always."""
        return True


@dataclass(frozen=True, slots=True)
class Empty:
    """The attribute is absent or has no value (empty value matching, C.2.2.2.7)."""

    def holds(self, element: Element | None, _zones: Zones) -> bool:
        """Whether the element is so."""
        if element is None:
            return True
        if element.get("InlineBinary") or element.get("BulkDataURI"):
            return False
        return not any(_text(value) or value for value in element.get("Value", ()))


@dataclass(frozen=True, slots=True)
class AnyOf:
    """One of the values satisfies one of the tests (lists of UIDs, C.2.2.2.2; C.2.2.2.8)."""

    tests: tuple[ValueTest, ...]

    def holds(self, element: Element | None, zones: Zones) -> bool:
        """Whether the element is so."""
        values = element.get("Value", ()) if element is not None else ()
        return any(
            test.accepts(value, zones)
            for value in values
            if value is not None and value != ""
            for test in self.tests
        )


@dataclass(frozen=True, slots=True)
class OfStoredVr:
    """The VR is not known beforehand (private attributes): the stored element's VR decides.

    A text that cannot be matched against that VR does not match.
    """

    text: str
    multiple_values: bool
    empty_values: bool

    def holds(self, element: Element | None, zones: Zones) -> bool:
        """Whether the element is so."""
        vr = "LO" if element is None else str(element["vr"])
        if vr == "UN":
            return False
        try:
            criterion = criterion_of(
                vr,
                self.text,
                multiple_values=self.multiple_values,
                empty_values=self.empty_values,
            )
        except InvalidValueError:
            return False
        return criterion.holds(element, zones)


Criterion = Universal | Empty | AnyOf | OfStoredVr


def criterion_of(
    vr: str | None, text: str, *, multiple_values: bool = False, empty_values: bool = False
) -> Criterion:
    """What the text of a key asks of an attribute of that VR (None if the VR is not known).

    `multiple_values` and `empty_values` say that matching of those kinds has been asked for: then
    a backslash stands between alternatives, and `""` is the empty value. Lists of UIDs need not be
    asked for. Raises InvalidValueError.
    """
    text = text.strip(_PADDING)
    if not text:
        return Universal()
    if "\0" in text:
        raise InvalidValueError("a text without NUL characters")
    if empty_values and text == '""':
        return Empty()
    if vr == "UI":
        return AnyOf((TextIs(tuple(_uids(text))),))
    if vr is None or vr == "UN":
        return OfStoredVr(text, multiple_values, empty_values)
    values = text.split("\\") if multiple_values else [text]
    _check_number(values, MOST_VALUES)
    tests = [_test_of(vr, value.strip(_PADDING)) for value in values]
    if any(test is None for test in tests):
        return Universal()
    return AnyOf(tuple(test for test in tests if test is not None))


def canonical_integer(text: str) -> str:
    """An integer without plus and leading zeros. Whatever else the text is, the result is as well;
    a database does the same to its columns (`manifest.query_sql`)."""
    if text.startswith("-"):
        return "-" + text[1:].lstrip("0")
    return text.lstrip("+0")


def spellings(text: str) -> tuple[str, ...]:
    """The text as it is, composed and decomposed, each once."""
    if text.isascii():
        return (text,)
    forms = (text, unicodedata.normalize("NFC", text), unicodedata.normalize("NFD", text))
    return tuple(dict.fromkeys(forms))


def _test_of(vr: str, text: str) -> ValueTest | None:
    """The test of one value; None if it asks nothing."""
    if not text:
        raise InvalidValueError("a value on each side of a backslash")
    if len(text) > LONGEST_VALUE:
        raise InvalidValueError(f"a value of at most {LONGEST_VALUE} characters")
    if vr in _WILDCARD_VRS:
        if not has_wildcard(text):
            return TextIs(spellings(text))
        patterns = tuple(pattern_of(pieces(spelling)) for spelling in spellings(text))
        return None if patterns[0].is_universal else TextLike(patterns)
    if vr == "PN":
        return _name_test(text)
    if vr in _INTEGER_VRS:
        return IntegerIs(int(_checked(_INTEGER, text, "an integer")))
    if vr in {"DS", "FL", "FD"}:
        return NumberIs(Decimal(_checked(_DECIMAL, text, "a number")), vr == "FL")
    if vr == "AS":
        return TextIs((_checked(_AGE, text, "an age nnnD, nnnW, nnnM or nnnY"),))
    if vr == "AT":
        tag = tag_of(text)
        expected = "a tag of eight hexadecimal digits, or a keyword"
        return TextIs((_checked(_TAG, text if tag is None else f"{tag:08X}", expected).upper(),))
    try:
        if vr == "DA":
            return DateIn(parse_dates(text))
        if vr == "TM":
            return TimeIn(parse_times(text))
        if vr == "DT":
            return DateTimeIn(parse_date_times(text))
    except InvalidRangeError as error:
        raise InvalidValueError(str(error)) from error
    if vr == "SQ":
        raise InvalidValueError("no value, since it is a sequence: name an attribute of its items")
    raise InvalidValueError(f"no value: attributes of VR {vr} cannot be matched")


def _checked(form: re.Pattern[str], text: str, expected: str) -> str:
    if not form.fullmatch(text):
        raise InvalidValueError(expected)
    return text


def _check_number(values: Sequence[str], most: int) -> None:
    if len(values) > most:
        raise InvalidValueError(f"at most {most} values")


def _uids(text: str) -> list[str]:
    uids = [uid.strip(_PADDING) for uid in re.split(r"[,\\]", text)]
    _check_number(uids, MOST_UIDS)
    if not all(map(is_uid, uids)):
        raise InvalidValueError("a UID (digits and single dots, at most 64 characters) or several")
    return list(dict.fromkeys(uids))


def _name_test(text: str) -> NameIs | None:
    groups = text.split("=")
    if len(groups) > len(_GROUPS):
        raise InvalidValueError("at most three component groups, with = between them")
    first, second, third = (_name_group_test(group) for group in [*groups, "", ""][:3])
    if first is None and second is None and third is None:
        return None
    if len(groups) == 1 and _is_east_asian(first):
        return NameIs((first, first, first), anywhere=True)
    return NameIs((first, second, third))


def _name_group_test(text: str) -> NameTest:
    if not has_wildcard(text):
        return fold_name(text) or None
    tokens = [token if isinstance(token, Wild) else _fold_piece(token) for token in pieces(text)]
    if isinstance(tokens[0], str):
        tokens[0] = tokens[0].lstrip()
    if isinstance(tokens[-1], str):
        tokens[-1] = tokens[-1].rstrip().rstrip("^")
    pattern = pattern_of(tokens)
    return None if pattern.is_universal else pattern


def _fold_piece(text: str) -> Token:
    """What `fold_name` does, to a part of a name: blanks at its ends may be within a component."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return re.sub(r"\s*\^\s*", "^", folded)


def _is_east_asian(test: NameTest) -> bool:
    """Whether a test is for characters that only the other two component groups are meant for."""
    tokens = test.tokens if isinstance(test, Pattern) else (test or "",)
    return any(
        unicodedata.east_asian_width(character) in "WF"
        for token in tokens
        if isinstance(token, str)
        for character in token
    )


def _name_group_is(test: NameTest, group: str) -> bool:
    if test is None:
        return True
    folded = fold_name(group)
    return folded == test if isinstance(test, str) else bool(folded) and test.matches(folded)


def _single(number: float) -> bytes:
    return struct.pack("<f", number)


def _text(value: object) -> str:
    if isinstance(value, str):
        return value.strip(_PADDING)
    return str(value) if isinstance(value, int | float) else ""
