"""Where a search over a whole space begins: at the few rows of a selective key, or at the newest.

A search has two ways. It may walk through the studies in the order of the results and stop when the
page is full: right for "the last fifty" and for keys that many studies satisfy. Or it may take all
rows that a key leaves, by that key's index, and sort them: right for keys that few satisfy. A
planner without statistics (SQLite's), or with old ones, takes the walk for a patient's two studies
among a hundred thousand (180 ms, instead of 2 ms), and sorts half of them for a page of "S*", so it
is decided here: a key whose index holds fewer than `FEW` entries for it is where to begin. To count
them takes as many steps at most. The other keys are then asked without their indexes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from imaging_ingestion.dicom.criterion import AnyOf, NameIs, TextIs, TextLike
from imaging_ingestion.dicom.matching import Identifier
from imaging_ingestion.dicom.wildcard import Pattern
from imaging_ingestion.manifest.attribute_levels import Level
from imaging_ingestion.manifest.query_attributes import COLUMN_ATTRIBUTES, MODALITIES_IN_STUDY
from imaging_ingestion.manifest.query_sql import Condition, not_indexed, test_condition
from imaging_ingestion.manifest.schema import instance, series, study

#: Index entries that are few enough to be sorted.
FEW = 2000

_TABLES = {Level.STUDY: study, Level.SERIES: series, Level.INSTANCE: instance}
_MODALITY = 0x00080060
#: Attributes whose indexes begin with the space; each finds a handful at most, or is counted.
_UNIQUE = frozenset({0x0020000D, 0x0020000E, 0x00080018})
_INDEXED = frozenset({0x00100010, 0x00100020, 0x00080050})
_STUDY_DATE = 0x00080020
_ALL_INDEXED = _INDEXED | {_STUDY_DATE}
#: For the walk from the newest study on.
WALK_WITHOUT_INDEX = _INDEXED


@dataclass(frozen=True, slots=True)
class Start:
    """A selective key: at which level it is, and what tells the rows of the space from there.

    `without_index` are the attributes whose indexes are not where to begin.
    """

    level: Level
    conditions: tuple[Condition, ...]
    without_index: frozenset[int]


def start_of(connection: Connection, identifier: Identifier, space: str) -> Start | None:
    """Where to begin; None for the walk from the newest study on."""
    for tag in _UNIQUE & identifier.criteria.keys():
        if isinstance(identifier.criteria[tag], AnyOf):
            level = COLUMN_ATTRIBUTES[tag].level
            return Start(level, (_TABLES[level].c.space == space,), _ALL_INDEXED)
    for start, rows in _candidates(identifier, space, connection.dialect.name):
        counted = sa.select(sa.func.count()).select_from(rows.limit(FEW).subquery())
        if connection.execute(counted).scalar_one() < FEW:
            return start
    return None


def _candidates(
    identifier: Identifier, space: str, dialect: str
) -> Iterator[tuple[Start, sa.Select[int]]]:
    """Keys that have an index, with the entries that it has for them."""
    one = sa.literal(1).label("one")
    for tag in sorted(_INDEXED & identifier.criteria.keys()):
        criterion = identifier.criteria[tag]
        if isinstance(criterion, AnyOf) and all(map(_has_prefix, criterion.tests)):
            attribute = COLUMN_ATTRIBUTES[tag]
            wanted = (test_condition(attribute, test, dialect) for test in criterion.tests)
            rows = sa.select(one).where(study.c.space == space, sa.or_(*wanted))
            without_index = _ALL_INDEXED - {tag}
            yield Start(Level.STUDY, (study.c.space == space,), without_index), rows
    for tag in (_MODALITY, MODALITIES_IN_STUDY):
        modalities = identifier.criteria.get(tag)
        tests = modalities.tests if isinstance(modalities, AnyOf) else ()
        exact = [test for test in tests if isinstance(test, TextIs)]
        if exact and len(exact) == len(tests):
            values = {value for test in exact for value in test.spellings}
            wanted_modality = series.c.modality.in_(sorted(values))
            rows = sa.select(one).where(wanted_modality)
            if tag == _MODALITY:
                in_space = not_indexed(series.c.space) == space
                yield Start(Level.SERIES, (in_space,), _ALL_INDEXED), rows
            else:
                found = sa.select(series.c.study_pk).where(wanted_modality)
                of_series = study.c.id.in_(found)
                in_space = not_indexed(study.c.space) == space
                yield Start(Level.STUDY, (of_series, in_space), _ALL_INDEXED), rows


def _has_prefix(test: object) -> bool:
    """Whether an index on the column finds what satisfies the test."""
    if isinstance(test, TextIs):
        return True
    if isinstance(test, TextLike):
        return all(pattern.prefix for pattern in test.patterns)
    if isinstance(test, NameIs) and not test.anywhere:
        first = test.groups[0]
        return bool(first.prefix) if isinstance(first, Pattern) else first is not None
    return False
