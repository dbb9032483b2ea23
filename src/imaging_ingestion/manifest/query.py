"""Searches for studies, series and instances (PS3.18 10.6, PS3.4 C.6.2): pages in a total order.

Within a study, series and instances come in the order in which they arrived. Over a whole space the
newest study comes first (by Study Date, undated ones last, then by arrival), its series or
instances after it. The order is total, so pages join without gaps and repeats; it is that of the
index `study_by_date` read backwards, in two segments, since the two databases put nulls at
different ends.

What is a column is asked in SQL. When a key is for anything else, SQL finds the rows that may
match, in order, and `Identifier.matches` decides about them, batch by batch: the memory stays
bounded and the pages exact, and a search that would read more than `scan_limit` rows is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import sqlalchemy as sa
import zstandard
from sqlalchemy.engine import Connection
from sqlalchemy.sql import ColumnElement

from imaging_ingestion.dicom.criterion import Element
from imaging_ingestion.dicom.matching import TIMEZONE_OFFSET_FROM_UTC, Identifier
from imaging_ingestion.manifest.attribute_levels import Level, level_of
from imaging_ingestion.manifest.database import Database
from imaging_ingestion.manifest.query_attributes import COLUMN_ATTRIBUTES, MODALITIES_IN_STUDY
from imaging_ingestion.manifest.query_sql import Condition, conditions_of
from imaging_ingestion.manifest.schema import instance, instance_metadata, series, study

Row = sa.Row[Any]

#: Results beyond the page are counted up to here; more are "at least".
COUNT_LIMIT = 10_000
#: Rows that are looked at to count further matches once a page is full.
COUNT_SCAN = 1_000
#: Rows read at once while the matcher decides.
SCAN_BATCH = 100
#: Parameters of one IN list.
_IN_LIST = 1024

#: A data set may unpack to this; the scanner's limit on the header is the same.
_LARGEST_METADATA = 64 << 20


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
    scan_limit: int = 100_000


@dataclass(frozen=True, slots=True)
class Match:
    """A result: its row and those of its parents, with all their columns.

    `modalities_in_study` is of the live series, sorted. `series` is None for a study, `instance`
    for a study or series.
    """

    study: Row
    modalities_in_study: tuple[str, ...]
    series: Row | None = None
    instance: Row | None = None


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
    for tag in wanted.identifier.tags():
        if level_of(tag) > wanted.level:
            raise ValueError(f"a search for a {wanted.level.name} cannot match {tag:08X}")
    if wanted.identifier.private and wanted.level is not Level.INSTANCE:
        raise ValueError("only a search for instances can match private attributes")
    if wanted.limit <= 0:
        return Page(())
    conditions = conditions_of(wanted.identifier, database.dialect)
    if conditions.exact:
        return await database.read(_page, wanted, conditions.all)
    return await _scan(database, wanted, conditions.all)


def metadata_of(connection: Connection, instance_pks: Sequence[int]) -> dict[int, bytes]:
    """The data sets of instances, as DICOM JSON, by primary key; what is gone by now is left out.

    Raises zstandard.ZstdError for a damaged row.
    """
    unpack = zstandard.ZstdDecompressor()
    return {
        pk: unpack.decompress(blob, max_output_size=_LARGEST_METADATA)
        for pk, blob in _in_lists(
            connection,
            sa.select(instance_metadata.c.instance_pk, instance_metadata.c.json_zstd),
            instance_metadata.c.instance_pk,
            instance_pks,
        )
    }


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
            beyond = column < value if down else column > value
            behind = sa.or_(beyond, sa.and_(column == value, behind))
        first, down = self.order[0]
        # The first column alone, so that an index is entered at the position.
        bound = first <= position[0] if down else first >= position[0]
        return self.ordered.where(bound, behind)


def _page(connection: Connection, wanted: Search, conditions: list[Condition]) -> Page:
    """The page, where SQL says all."""
    segments = _segments(connection, wanted, conditions)
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
    matches = _matches(connection, wanted.level, rows[: wanted.limit])
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


async def _scan(database: Database, wanted: Search, conditions: list[Condition]) -> Page:
    """The page, where the matcher decides row by row."""
    rows: list[Row] = []
    skipped = beyond = scanned = scanned_to_count = 0
    for segment in await database.read(_segments, wanted, conditions):
        position: tuple[Any, ...] | None = None
        while True:
            batch, position, size = await database.read(_scan_batch, wanted, segment, position)
            for row in batch:
                if skipped < wanted.offset:
                    skipped += 1
                elif len(rows) < wanted.limit:
                    rows.append(row)
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
                    await database.read(_matches, wanted.level, rows),
                    beyond,
                    remaining_is_exact=False,
                )
    return Page(await database.read(_matches, wanted.level, rows), beyond)


def _scan_batch(
    connection: Connection, wanted: Search, segment: _Segment, position: tuple[Any, ...] | None
) -> tuple[list[Row], tuple[Any, ...] | None, int]:
    """The next rows that match, the position behind the last one looked at, and how many were."""
    statement = segment.ordered if position is None else segment.after(position)
    rows = connection.execute(statement.limit(SCAN_BATCH)).all()
    if not rows:
        return [], position, 0
    needed = {
        level_of(tag)
        for tag in wanted.identifier.tags()
        if tag not in COLUMN_ATTRIBUTES and tag != MODALITIES_IN_STUDY
    }
    if wanted.identifier.private:
        needed.add(Level.INSTANCE)
    data_sets: dict[int, bytes] = {}
    if Level.INSTANCE in needed:
        data_sets = metadata_of(connection, [row.id for row in rows])
    found: list[Row] = []
    for match in _matches(connection, wanted.level, rows):
        row = match.instance or match.series or match.study
        if wanted.identifier.matches(_data_set(match, needed, data_sets.get(row.id))):
            found.append(row)
    return found, segment.position(rows[-1]), len(rows)


def _data_set(match: Match, needed: set[Level], metadata: bytes | None) -> dict[str, Element]:
    """What the manifest knows of a match, as a data set for the matcher.

    `needed` are the levels of which attributes that are no columns are asked. A column goes before
    what a DICOM JSON object says, as in a search in SQL.
    """
    elements: dict[str, Element] = {}
    rows = {Level.STUDY: match.study, Level.SERIES: match.series, Level.INSTANCE: match.instance}
    if metadata is not None:
        elements.update(_decode(metadata))
    if Level.SERIES in needed and match.series is not None:
        elements.update(_decode(match.series.attributes))
    if Level.STUDY in needed:
        elements.update(_decode(match.study.attributes))
    for attribute in COLUMN_ATTRIBUTES.values():
        row = rows[attribute.level]
        if row is not None:
            value = row._mapping[attribute.column.name]  # noqa: SLF001
            elements[f"{attribute.tag:08X}"] = attribute.element(value)
    elements[f"{MODALITIES_IN_STUDY:08X}"] = {"vr": "CS", "Value": match.modalities_in_study}
    own = match.instance or match.series or match.study
    zone = own.timezone_offset_from_utc
    elements[f"{TIMEZONE_OFFSET_FROM_UTC:08X}"] = {"vr": "SH", "Value": [zone] if zone else []}
    return elements


_decode = msgspec.json.Decoder(dict[str, dict[str, Any]]).decode


def _segments(
    connection: Connection, wanted: Search, conditions: list[Condition]
) -> list[_Segment]:
    """The results in order; none if the study or series that is searched in is not there."""
    own = {Level.STUDY: study, Level.SERIES: series, Level.INSTANCE: instance}[wanted.level]
    live = instance.c.deleted_at.is_(None) if own is instance else own.c.number_of_instances > 0
    statement = sa.select(own).where(own.c.space == wanted.space, live, *conditions)
    asked = {
        COLUMN_ATTRIBUTES[tag].level for tag in wanted.identifier.tags() if tag in COLUMN_ATTRIBUTES
    }
    if MODALITIES_IN_STUDY in wanted.identifier.tags() or wanted.study_instance_uid is None:
        asked.add(Level.STUDY)
    tables: sa.FromClause = own
    if own is instance and Level.SERIES in asked:
        tables = tables.join(series, series.c.id == own.c.series_pk)
    if own is not study and Level.STUDY in asked:
        tables = tables.join(study, study.c.id == own.c.study_pk)
    statement = statement.select_from(tables)
    if wanted.study_instance_uid is not None:
        scope = _scope(connection, wanted, own)
        return [] if scope is None else [_Segment.of(statement.where(scope), (own.c.id, False))]
    rest: tuple[tuple[ColumnElement[Any], bool], ...] = ((study.c.id, True),)
    if own is not study:
        statement = statement.where(study.c.space == wanted.space)
        rest = (*rest, (own.c.id, False))
    day = study.c.study_date
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
    if own is study:
        return own.c.id == study_pk
    if wanted.series_instance_uid is None:
        return own.c.study_pk == study_pk
    series_pk = connection.execute(
        sa.select(series.c.id).where(
            series.c.study_pk == study_pk,
            series.c.series_instance_uid == wanted.series_instance_uid,
        )
    ).scalar_one_or_none()
    if series_pk is None:
        return None
    return own.c.id == series_pk if own is series else own.c.series_pk == series_pk


def _matches(connection: Connection, level: Level, rows: Sequence[Row]) -> list[Match]:
    """Rows with their parents: one statement a table, however many rows there are.

    A row whose parents have been deleted in the meantime is left out.
    """
    if not rows:
        return []
    if level is Level.STUDY:
        modalities = _modalities(connection, [row.id for row in rows])
        return [Match(row, modalities.get(row.id, ())) for row in rows]
    study_pks = list({row.study_pk for row in rows})
    studies = _by_pk(connection, study, study_pks)
    modalities = _modalities(connection, study_pks)
    found = []
    if level is Level.SERIES:
        for row in rows:
            parent = studies.get(row.study_pk)
            if parent is not None:
                found.append(Match(parent, modalities.get(row.study_pk, ()), row))
        return found
    all_series = _by_pk(connection, series, list({row.series_pk for row in rows}))
    for row in rows:
        parent, of_series = studies.get(row.study_pk), all_series.get(row.series_pk)
        if parent is not None and of_series is not None:
            found.append(Match(parent, modalities.get(row.study_pk, ()), of_series, row))
    return found


def _by_pk(connection: Connection, table: sa.Table, pks: Sequence[int]) -> dict[int, Row]:
    return {row.id: row for row in _in_lists(connection, sa.select(table), table.c.id, pks)}


def _modalities(connection: Connection, study_pks: Sequence[int]) -> dict[int, tuple[str, ...]]:
    """Modalities in Study (0008,0061) of studies, sorted (index series_uid)."""
    statement = (
        sa.select(series.c.study_pk, series.c.modality)
        .where(series.c.number_of_instances > 0, series.c.modality.is_not(None))
        .distinct()
    )
    found: dict[int, tuple[str, ...]] = {}
    for study_pk, modality in _in_lists(connection, statement, series.c.study_pk, study_pks):
        found[study_pk] = tuple(sorted((*found.get(study_pk, ()), modality)))
    return found


def _in_lists(
    connection: Connection,
    statement: sa.Select[Any],
    column: ColumnElement[int],
    values: Sequence[int],
) -> Iterator[Row]:
    """The rows whose column is one of the values.

    Lists are filled up to a power of two with a value repeated: few statements to prepare.
    """
    for start in range(0, len(values), _IN_LIST):
        part = list(values[start : start + _IN_LIST])
        part += part[-1:] * ((1 << (len(part) - 1).bit_length()) - len(part))
        yield from connection.execute(statement.where(column.in_(part)))
