"""Searches for studies, series and instances (PS3.18 10.6, PS3.4 C.6.2): pages in a total order.

Within a study, series and instances come in the order in which they arrived. Over a whole space the
newest study comes first (by Study Date, undated ones last, then by arrival), its series or
instances after it. The order is total, so pages join without gaps and repeats. Where many rows may
be found it is that of the index `study_by_date` read backwards, in two segments, since the two
databases put nulls at different ends (see `query_start`).

What is a column is asked in SQL. When a key is for anything else, SQL finds the rows that may
match, in order, and `Identifier.matches` decides about them, batch by batch: the memory stays
bounded and the pages exact, and a search that would read more than `scan_limit` rows is refused.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.sql import ColumnElement

from imaging_ingestion.dicom.matching import Identifier
from imaging_ingestion.manifest.attribute_levels import Level, level_of
from imaging_ingestion.manifest.database import Database
from imaging_ingestion.manifest.query_attributes import COLUMN_ATTRIBUTES, MODALITIES_IN_STUDY
from imaging_ingestion.manifest.query_match import (
    Asked,
    Match,
    Row,
    data_set_of,
    matches_of,
    metadata_of,
    unpacked,
)
from imaging_ingestion.manifest.query_sql import Condition, conditions_of
from imaging_ingestion.manifest.query_start import WALK_WITHOUT_INDEX, start_of
from imaging_ingestion.manifest.schema import instance, series, study

#: Results beyond the page are counted up to here; more are "at least".
COUNT_LIMIT = 2_000
#: Rows that are looked at to count further matches once a page is full.
COUNT_SCAN = 1_000
#: Rows read at once while the matcher decides.
SCAN_BATCH = 250


class TooBroadError(Exception):
    """The search would have to read more rows than is allowed."""

    def __init__(self, scan_limit: int) -> None:
        super().__init__(f"more than {scan_limit} rows would have to be read")
        self.scan_limit = scan_limit


@dataclass(frozen=True, slots=True)
class Search:
    """What is searched for. `offset` and `limit` count results; a limit of 0 finds nothing.

    A search for series or instances may be within one study, one for instances within one series.
    """

    space: str
    level: Level
    identifier: Identifier
    study_instance_uid: str | None = None
    series_instance_uid: str | None = None
    offset: int = 0
    limit: int = 100
    scan_limit: int = 50_000


@dataclass(frozen=True, slots=True)
class Page:
    """Results, and how many there are behind them (`remaining`; at least so many if not exact)."""

    matches: Sequence[Match]
    remaining: int = 0
    remaining_is_exact: bool = True


async def search(database: Database, wanted: Search) -> Page:
    """The results of a search from its offset on, at most its limit.

    Raises TooBroadError, what SQLAlchemy raises, and ValueError for a key below the level.
    """
    _check(wanted)
    if wanted.limit <= 0:
        return Page(())
    if conditions_of(wanted.identifier, database.dialect).exact:
        return await database.read(_page, wanted)
    return await _scan(database, wanted)


async def walk(database: Database, wanted: Search) -> AsyncGenerator[Sequence[Match], None]:
    """All results of a search in order, a batch at a time; offset and limit are not looked at.

    A batch goes on behind the last row of the one before: nothing is met twice, and the thousandth
    batch costs what the first did. It is empty where none of its rows matches, so that the caller
    may think better of it. Raises as `search`.
    """
    _check(wanted)
    is_exact = conditions_of(wanted.identifier, database.dialect).exact
    asked = None if is_exact else Asked(wanted.identifier)
    scanned = 0
    for segment in await database.read(_segments, wanted):
        position: tuple[Any, ...] | None = None
        while True:
            batch = await database.read(_scan_batch, wanted, segment, position, asked)
            position = batch.position
            matches = batch.matches
            if asked is not None:
                matches = await asyncio.to_thread(_matching, batch, wanted.identifier, asked)
                scanned += batch.size
            yield matches
            if batch.size < SCAN_BATCH:
                break
            if scanned >= wanted.scan_limit:
                raise TooBroadError(wanted.scan_limit)


def _check(wanted: Search) -> None:
    for tag in wanted.identifier.tags():
        if level_of(tag) > wanted.level:
            raise ValueError(f"a search for a {wanted.level.name} cannot match {tag:08X}")
    if wanted.identifier.private and wanted.level is not Level.INSTANCE:
        raise ValueError("only a search for instances can match private attributes")


@dataclass(frozen=True, slots=True)
class _Segment:
    """Part of the results, with their order: columns, and whether they descend.

    The last columns of a row are those of the order.
    """

    statement: sa.Select[Any]
    order: tuple[tuple[ColumnElement[Any], bool], ...]

    @classmethod
    def of(cls, statement: sa.Select[Any], *order: tuple[ColumnElement[Any], bool]) -> _Segment:
        """A segment of a statement that does not select the columns of the order yet."""
        columns = (column.label(f"order_{place}") for place, (column, _) in enumerate(order))
        return cls(statement.add_columns(*columns), order)

    @property
    def ordered(self) -> sa.Select[Any]:
        """The rows, in order."""
        terms = [column.desc() if down else column.asc() for column, down in self.order]
        return self.statement.order_by(*terms)

    def position(self, row: Row) -> tuple[Any, ...]:
        """Where a row is in the order."""
        return tuple(row[-len(self.order) :])

    def after(self, position: tuple[Any, ...]) -> sa.Select[Any]:
        """The rows behind a position, in order."""
        behind: Condition = sa.false()
        for (column, down), value in reversed(list(zip(self.order, position, strict=True))):
            beyond: Condition = sa.false()  # nothing is behind an unknown date but its equals
            if value is not None:
                beyond = column < value if down else column > value
            behind = sa.or_(beyond, sa.and_(column == value, behind))
        first, down = self.order[0]
        # The first column alone, so that an index is entered at the position.
        bound = first <= position[0] if down else first >= position[0]
        return self.ordered.where(bound, behind)


def _page(connection: Connection, wanted: Search) -> Page:
    """The page, where SQL says all."""
    segments = _segments(connection, wanted)
    rows: list[Row] = []
    skipped = wanted.offset
    for segment in segments:
        room = wanted.limit + 1 - len(rows)
        found = connection.execute(segment.ordered.limit(room).offset(skipped)).all()
        rows.extend(found)
        if len(rows) > wanted.limit:
            break
        if found:
            skipped = 0
        elif skipped:
            skipped = max(0, skipped - _count(connection, segment))
    matches = matches_of(connection, wanted.level, rows[: wanted.limit])
    if len(rows) <= wanted.limit:
        return Page(matches)
    most = wanted.offset + wanted.limit + COUNT_LIMIT
    total = 0
    for segment in segments:
        total += _count(connection, segment, most - total)
    return Page(matches, total - wanted.offset - wanted.limit, total < most)


def _count(connection: Connection, segment: _Segment, most: int | None = None) -> int:
    """How many rows a segment has; no more than `most` are counted."""
    rows = segment.statement.with_only_columns(sa.literal(1).label("one")).limit(most).subquery()
    return connection.execute(sa.select(sa.func.count()).select_from(rows)).scalar_one()


async def _scan(database: Database, wanted: Search) -> Page:
    """The page, where the matcher decides row by row."""
    asked = Asked(wanted.identifier)
    rows: list[Row] = []
    skipped = beyond = scanned = scanned_to_count = 0
    for segment in await database.read(_segments, wanted):
        position: tuple[Any, ...] | None = None
        while True:
            batch = await database.read(_scan_batch, wanted, segment, position, asked)
            position, size = batch.position, batch.size
            # In a thread: on PostgreSQL we are in the event loop here, and a batch takes 50 ms.
            for match in await asyncio.to_thread(_matching, batch, wanted.identifier, asked):
                if skipped < wanted.offset:
                    skipped += 1
                elif len(rows) < wanted.limit:
                    rows.append(match.own)
                else:
                    beyond += 1
            if size < SCAN_BATCH:
                break
            scanned += size
            scanned_to_count += size if beyond else 0
            if scanned_to_count >= COUNT_SCAN or scanned >= wanted.scan_limit:
                if len(rows) < wanted.limit:
                    raise TooBroadError(wanted.scan_limit)
                return Page(
                    await database.read(matches_of, wanted.level, rows),
                    beyond,
                    remaining_is_exact=False,
                )
    return Page(await database.read(matches_of, wanted.level, rows), beyond)


@dataclass(frozen=True, slots=True)
class _Batch:
    """Rows to be looked at, what is needed for it, and the position behind the last one."""

    matches: Sequence[Match]
    data_sets: Mapping[int, bytes]  # packed, by primary key of instances
    position: tuple[Any, ...] | None
    size: int  # rows read


def _scan_batch(
    connection: Connection,
    wanted: Search,
    segment: _Segment,
    position: tuple[Any, ...] | None,
    asked: Asked | None,
) -> _Batch:
    """The next rows, with the data sets of instances if they are asked of."""
    statement = segment.ordered if position is None else segment.after(position)
    rows = connection.execute(statement.limit(SCAN_BATCH)).all()
    if not rows:
        return _Batch((), {}, position, 0)
    data_sets: dict[int, bytes] = {}
    if asked is not None and Level.INSTANCE in asked.levels:
        data_sets = metadata_of(connection, [row.id for row in rows])
    matches = matches_of(connection, wanted.level, rows)
    return _Batch(matches, data_sets, segment.position(rows[-1]), len(rows))


def _matching(batch: _Batch, identifier: Identifier, asked: Asked) -> list[Match]:
    """Those of a batch that the matcher accepts."""
    found = []
    for match in batch.matches:
        packed = batch.data_sets.get(match.own.id)
        metadata = None if packed is None else unpacked(packed)
        if identifier.matches(data_set_of(match, asked, metadata)):
            found.append(match)
    return found


def _segments(connection: Connection, wanted: Search) -> list[_Segment]:
    """The results in order; none if the study or series that is searched in is not there."""
    own = {Level.STUDY: study, Level.SERIES: series, Level.INSTANCE: instance}[wanted.level]
    live = instance.c.deleted_at.is_(None) if own is instance else own.c.number_of_instances > 0
    asked = {
        COLUMN_ATTRIBUTES[tag].level for tag in wanted.identifier.tags() if tag in COLUMN_ATTRIBUTES
    }
    in_space = wanted.study_instance_uid is None
    if in_space or MODALITIES_IN_STUDY in wanted.identifier.tags():
        asked.add(Level.STUDY)
    tables: sa.FromClause = own
    if own is instance and Level.SERIES in asked:
        tables = tables.join(series, series.c.id == own.c.series_pk)
    if own is not study and Level.STUDY in asked:
        tables = tables.join(study, study.c.id == own.c.study_pk)
    statement = sa.select(own).select_from(tables).where(live)
    dialect = connection.dialect.name
    if not in_space:
        scope = _scope(connection, wanted, own)
        if scope is None:
            return []
        conditions = conditions_of(wanted.identifier, dialect).all
        return [_Segment.of(statement.where(scope, *conditions), (own.c.id, False))]
    rest: tuple[tuple[ColumnElement[Any], bool], ...] = ((study.c.id, True),)
    if own is not study:
        rest = (*rest, (own.c.id, False))
    # The space is said of one table only, that where the search begins: said of others as well, it
    # would invite a planner to begin there.
    start = start_of(connection, wanted.identifier, wanted.space)
    without_index = WALK_WITHOUT_INDEX if start is None else start.without_index
    conditions = conditions_of(wanted.identifier, dialect, without_index).all
    statement = statement.where(*conditions)
    day = study.c.study_date
    if start is not None:
        undated = sa.case((day.is_(None), 1), else_=0)
        ordered = ((undated, False), (day, True), *rest)
        return [_Segment.of(statement.where(*start.conditions), *ordered)]
    statement = statement.where(study.c.space == wanted.space)
    return [
        _Segment.of(statement.where(day.is_not(None)), (day, True), *rest),
        _Segment.of(statement.where(day.is_(None)), *rest),
    ]


def _scope(connection: Connection, wanted: Search, own: sa.Table) -> Condition | None:
    """What rows in the study, or series, of the search satisfy; None if it is not there."""
    study_pk = connection.execute(
        sa.select(study.c.id).where(
            study.c.space == wanted.space,
            study.c.study_instance_uid == wanted.study_instance_uid,
        )
    ).scalar_one_or_none()
    if study_pk is None:
        return None
    of_study: Condition = (own.c.id if own is study else own.c.study_pk) == study_pk
    if wanted.series_instance_uid is None:
        return of_study
    series_pk = connection.execute(
        sa.select(series.c.id).where(
            series.c.study_pk == study_pk,
            series.c.series_instance_uid == wanted.series_instance_uid,
        )
    ).scalar_one_or_none()
    if series_pk is None:
        return None
    of_series: Condition = (own.c.id if own is series else own.c.series_pk) == series_pk
    return of_series
