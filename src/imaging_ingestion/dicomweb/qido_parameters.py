"""The query string of a search (PS3.18 8.3.4): keys, includefield, paging and the switches.

A parameter that is known but wrong is 400, and the answer names it and says what is expected. One
that is not known, or that this resource cannot match, is ignored and a warning names it (H10, Q7).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import parse_qsl

from imaging_ingestion.dicom.dictionary import tag_of
from imaging_ingestion.dicom.matching import (
    TIMEZONE_OFFSET_FROM_UTC,
    Identifier,
    InvalidKeyError,
    MatchKey,
    identifier_of,
)
from imaging_ingestion.dicomweb.problem import HttpProblemError, bad_request
from imaging_ingestion.manifest.attribute_levels import Level, level_of

LARGEST_NUMBER = 0xFFFFFFFF  # of limit and offset
#: Parameters of one request that are looked at.
MOST_PARAMETERS = 500

_TAG = re.compile(r"[0-9A-Fa-f]{8}")
_KEYWORD = re.compile(r"[A-Za-z][A-Za-z0-9]{0,63}")
_NUMBER = re.compile(r"[0-9]{1,10}")
_NO_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_SWITCHES = ("fuzzymatching", "emptyvaluematching", "multiplevaluematching")
#: Parameters that others read (PS3.18 8.3.3).
_ELSEWHERE = ("accept", "charset")

#: Attributes of results that are made for the answer, so that nothing can be asked of them.
_NOT_MATCHED = frozenset(
    {
        0x00080005,  # Specific Character Set
        0x00080054,  # Retrieve AE Title
        0x00080056,  # Instance Availability
        0x00080062,  # SOP Classes in Study
        0x00080063,  # Anatomic Regions in Study Code Sequence
        0x00081190,  # Retrieve URL
    }
)

Path = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Resource:
    """What is searched: the level, and the level of what it is searched in, if that is given."""

    level: Level
    within: Level | None = None


@dataclass(frozen=True, slots=True)
class SearchParameters:
    """What a request asks for. `limit` is None if it does not say."""

    identifier: Identifier
    matched: tuple[MatchKey, ...] = ()
    include: frozenset[int] = frozenset()  # top-level tags
    include_all: bool = False
    limit: int | None = None
    offset: int = 0
    fuzzy: bool = False
    ignored: tuple[str, ...] = ()  # names of parameters, fit for a header


@dataclass(slots=True)
class _Gathered:
    keys: dict[Path, str] = field(default_factory=dict)
    names: dict[Path, str] = field(default_factory=dict)
    include: set[int] = field(default_factory=set)
    include_all: bool = False
    single: dict[str, str] = field(default_factory=dict)
    ignored: list[str] = field(default_factory=list)


def parse_search(query: bytes, resource: Resource) -> SearchParameters:
    """The parameters of a search, from the query string as it came. Raises HttpProblemError 400."""
    gathered = _Gathered()
    for name, value in _pairs(query):
        if name in _ELSEWHERE:
            continue
        if name == "includefield":
            _include(gathered, value)
        elif name in {"limit", "offset", *_SWITCHES}:
            if name in gathered.single:
                raise bad_request(f"the parameter {name} is given twice")
            gathered.single[name] = value
        else:
            _key(gathered, name, value, resource)
    switches = {name: _switch(gathered.single, name) for name in _SWITCHES}
    matched = tuple(MatchKey(path, text) for path, text in gathered.keys.items())
    try:
        identifier = identifier_of(
            matched,
            multiple_values=switches["multiplevaluematching"],
            empty_values=switches["emptyvaluematching"],
        )
    except InvalidKeyError as error:
        name = gathered.names.get(error.path, str(error).partition(":")[0])
        raise bad_request(f"the parameter {name}: expected {error.expected}") from error
    return SearchParameters(
        identifier,
        matched,
        frozenset(gathered.include),
        gathered.include_all,
        _number(gathered.single, "limit"),
        _number(gathered.single, "offset") or 0,
        switches["fuzzymatching"],
        tuple(dict.fromkeys(gathered.ignored)),
    )


def _pairs(query: bytes) -> Sequence[tuple[str, str]]:
    try:
        text = query.decode("ascii")
        if _NO_ESCAPE.search(text):
            raise _not_encoded()
        return parse_qsl(
            text, keep_blank_values=True, errors="strict", max_num_fields=MOST_PARAMETERS
        )
    except UnicodeDecodeError as error:
        raise _not_encoded() from error
    except ValueError as error:
        raise bad_request(f"the query has more than {MOST_PARAMETERS} parameters") from error


def _not_encoded() -> HttpProblemError:
    return bad_request(
        "the query string is not percent-encoded UTF-8; a percent sign itself is written %25"
    )


def _key(gathered: _Gathered, name: str, value: str, resource: Resource) -> None:
    path = _path(name)
    if path is None:
        gathered.ignored.append(_printable(name))
        return
    if path in gathered.keys or path in gathered.names:
        raise bad_request(
            f"the parameter {_printable(name)} is given twice; an attribute may be given once"
        )
    gathered.names[path] = name
    if _is_matched(path[0], resource):
        gathered.keys[path] = value
    else:
        gathered.ignored.append(_printable(name))


def _is_matched(tag: int, resource: Resource) -> bool:
    """Whether a resource can match an attribute (tables 10.6.1-5 and, for levels, Q34)."""
    if tag == TIMEZONE_OFFSET_FROM_UTC:
        return True
    level = level_of(tag)
    return (
        tag >= 0x00080000
        and tag not in _NOT_MATCHED
        and level <= resource.level
        and (resource.within is None or level > resource.within)
    )


def _include(gathered: _Gathered, value: str) -> None:
    for name in value.split(","):
        if name.strip() == "all":
            gathered.include_all = True
            continue
        path = _path(name.strip())
        if path is None:
            gathered.ignored.append(_printable(name.strip()))
        else:
            gathered.include.add(path[0])


def _path(name: str) -> Path | None:
    """Tags by keyword or number (8.3.4.1); None if a keyword is not known. Raises 400."""
    path = []
    for part in name.split("."):
        if _TAG.fullmatch(part):
            path.append(int(part, 16))
            continue
        if part[:1].isdigit() or not part:
            raise bad_request(
                f"{_printable(name)} is no attribute: expected a keyword, or a tag of eight"
                " hexadecimal digits, or several of them with points between"
            )
        tag = tag_of(part) if _KEYWORD.fullmatch(part) else None
        if tag is None:
            return None
        path.append(tag)
    return tuple(path)


def _number(single: Mapping[str, str], name: str) -> int | None:
    text = single.get(name)
    if text is None:
        return None
    if not _NUMBER.fullmatch(text) or int(text) > LARGEST_NUMBER:
        raise bad_request(
            f"the parameter {name}: expected a whole number from 0 to {LARGEST_NUMBER}"
        )
    return int(text)


def _switch(single: Mapping[str, str], name: str) -> bool:
    text = single.get(name, "false")
    if text not in {"true", "false"}:
        raise bad_request(f"the parameter {name}: expected true or false")
    return text == "true"


def _printable(name: str) -> str:
    """A name from outside, as it may stand in a header or message."""
    return name if re.fullmatch(r"[A-Za-z0-9_.\-]{1,64}", name) else "(unprintable)"
