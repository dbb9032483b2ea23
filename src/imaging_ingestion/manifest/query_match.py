"""A result of a search: its row with those of its parents, and as a data set for the matcher."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from typing import Any

import msgspec
import sqlalchemy as sa
import zstandard
from sqlalchemy.engine import Connection

from imaging_ingestion.dicom.criterion import Element
from imaging_ingestion.dicom.matching import (
    TIME_OF_DATE,
    TIMEZONE_OFFSET_FROM_UTC,
    Identifier,
)
from imaging_ingestion.manifest.attribute_levels import Level, level_of
from imaging_ingestion.manifest.query_attributes import COLUMN_ATTRIBUTES, MODALITIES_IN_STUDY
from imaging_ingestion.manifest.schema import instance_metadata, series, study

Row = sa.Row[Any]

#: Parameters of one IN list.
_IN_LIST = 1024
#: Bytes a data set may unpack to; the scanner's limit on the header is the same.
_LARGEST_METADATA = 64 << 20


_decode = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_element = msgspec.json.Decoder(dict[str, Any]).decode


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

    @property
    def own(self) -> Row:
        """The row of what was searched for."""
        if self.instance is not None:
            return self.instance
        return self.study if self.series is None else self.series


def matches_of(connection: Connection, level: Level, rows: Sequence[Row]) -> list[Match]:
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
    for row in _in_lists(connection, statement, series.c.study_pk, study_pks):
        found[row.study_pk] = tuple(sorted((*found.get(row.study_pk, ()), row.modality)))
    return found


def _in_lists(
    connection: Connection,
    statement: sa.Select[Any],
    column: sa.Column[Any],
    values: Sequence[int],
) -> Iterator[Row]:
    """The rows whose column is one of the values.

    Lists are filled up to a power of two with a value repeated: few statements to prepare.
    """
    for start in range(0, len(values), _IN_LIST):
        part = list(values[start : start + _IN_LIST])
        part += part[-1:] * ((1 << (len(part) - 1).bit_length()) - len(part))
        yield from connection.execute(statement.where(column.in_(part)))


def metadata_of(connection: Connection, instance_pks: Sequence[int]) -> dict[int, bytes]:
    """The data sets of instances by primary key, to be `unpacked`; what is gone is left out."""
    statement = sa.select(instance_metadata.c.instance_pk, instance_metadata.c.json_zstd)
    column = instance_metadata.c.instance_pk
    found = _in_lists(connection, statement, column, instance_pks)
    return {row.instance_pk: row.json_zstd for row in found}


def unpacked(json_zstd: bytes) -> bytes:
    """A data set as DICOM JSON text. Raises zstandard.ZstdError if the row is damaged."""
    return zstandard.ZstdDecompressor().decompress(json_zstd, max_output_size=_LARGEST_METADATA)


class Asked:
    """What an identifier asks of, so that nothing else of a data set is looked at."""

    def __init__(self, identifier: Identifier) -> None:
        tags = set(identifier.tags())
        if identifier.zone is not None:  # a date is told in another zone by its time
            tags |= {TIME_OF_DATE[tag] for tag in tags & TIME_OF_DATE.keys()}
            tags |= {day for day, time in TIME_OF_DATE.items() if time in tags}
        self.columns = tuple(COLUMN_ATTRIBUTES[tag] for tag in tags & COLUMN_ATTRIBUTES.keys())
        others = tags - COLUMN_ATTRIBUTES.keys() - {MODALITIES_IN_STUDY}
        self.levels = {level_of(tag) for tag in others}
        self.private_groups = {f"{block.group:04X}" for block in identifier.private}
        if self.private_groups:
            self.levels.add(Level.INSTANCE)
        self.tags = {level: _hex(others, level) for level in Level}

    def elements(self, level: Level, text: str | bytes) -> dict[str, Element]:
        """Those of the level's elements in a DICOM JSON object that are asked of."""
        tags, groups = self.tags[level], self.private_groups
        return {
            tag: _decode_element(element)
            for tag, element in _decode(text).items()
            if tag in tags or (groups and tag[:4] in groups)
        }


def data_set_of(match: Match, asked: Asked, metadata: bytes | None) -> dict[str, Element]:
    """What the manifest knows of a match, as a data set for the matcher.

    A column goes before what a DICOM JSON object says, as in a search in SQL. `metadata` is the
    data set of an instance if `asked.levels` has instances.
    """
    rows = {Level.STUDY: match.study, Level.SERIES: match.series, Level.INSTANCE: match.instance}
    elements: dict[str, Element] = {}
    if metadata is not None:
        elements.update(asked.elements(Level.INSTANCE, metadata))
    for level in (Level.SERIES, Level.STUDY):
        row = rows[level]
        if level in asked.levels and row is not None:
            elements.update(asked.elements(level, row.attributes))
    for attribute in asked.columns:
        row = rows[attribute.level]
        if row is not None:
            value = row._mapping[attribute.column.name]
            elements[f"{attribute.tag:08X}"] = attribute.element(value)
    elements[f"{MODALITIES_IN_STUDY:08X}"] = {"vr": "CS", "Value": match.modalities_in_study}
    zone = match.own.timezone_offset_from_utc
    elements[f"{TIMEZONE_OFFSET_FROM_UTC:08X}"] = {"vr": "SH", "Value": [zone] if zone else []}
    return elements


def _hex(tags: Set[int], level: Level) -> frozenset[str]:
    return frozenset(f"{tag:08X}" for tag in tags if level_of(tag) is level)
