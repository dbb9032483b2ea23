"""Searches for patients (PS3.4 C.6.1.1.2), who have no table: what studies say of them.

A patient is a Patient ID with its issuer. Studies without a Patient ID are nobody's: they are found
at the other levels. Of several studies the one that arrived last says what a patient is called, of
those that match, so that a result is always as asked. Patients come in the order of their IDs, by
the index `study_by_patient_id`; where a key leaves few studies (see `query_start`) these are
sorted.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from imaging_ingestion.dicom.matching import Identifier
from imaging_ingestion.manifest.attribute_levels import PATIENT_TAGS
from imaging_ingestion.manifest.database import Database
from imaging_ingestion.manifest.query import SCAN_BATCH, TooBroadError
from imaging_ingestion.manifest.query_attributes import MODALITIES_IN_STUDY
from imaging_ingestion.manifest.query_match import Asked, Match, Row, data_set_of
from imaging_ingestion.manifest.query_sql import conditions_of
from imaging_ingestion.manifest.query_start import start_of
from imaging_ingestion.manifest.schema import study

#: What a search for patients can match, beside what is counted for it.
MATCHED_TAGS = PATIENT_TAGS - {MODALITIES_IN_STUDY}

_Position = tuple[str, int]  # Patient ID and key of the last study looked at
_Key = tuple[str, str]  # Patient ID and issuer


@dataclass(frozen=True, slots=True)
class PatientMatch:
    """A patient: the row of a study that tells of them, and what all their studies have."""

    study: Row
    number_of_studies: int
    number_of_series: int
    number_of_instances: int


async def walk_patients(
    database: Database, space: str, identifier: Identifier, *, scan_limit: int = 50_000
) -> AsyncGenerator[Sequence[PatientMatch], None]:
    """All patients that match, some at a time, perhaps none.

    Where SQL cannot say what is asked, at most `scan_limit` studies are looked at. Raises
    TooBroadError, what SQLAlchemy raises, and ValueError for keys that are not of the patient.
    """
    if not MATCHED_TAGS.issuperset(identifier.tags()) or identifier.private:
        raise ValueError("a search for patients can match attributes of patients only")
    conditions = conditions_of(identifier, database.dialect)
    asked = None if conditions.exact else Asked(identifier)
    few = await database.read(start_of, identifier, space) is not None
    statement = _studies(space).where(*conditions.all)
    position: _Position | None = None
    current: dict[_Key, Row] = {}  # of the last Patient ID met, which may have more studies
    scanned = 0
    while True:
        rows = await database.read(_batch, statement, position, few=few)
        matching: Sequence[Row] = rows
        if asked is not None:
            matching = await asyncio.to_thread(_matching, rows, identifier, asked)
            scanned += len(rows)
        done: list[Row] = []
        for row in matching:
            key = (row.patient_id, row.issuer_of_patient_id or "")
            if current and next(iter(current))[0] != row.patient_id:
                done.extend(current.values())
                current.clear()
            current[key] = row
        is_last = len(rows) < SCAN_BATCH
        if is_last:
            done.extend(current.values())
        yield await database.read(_counted, space, done) if done else ()
        if is_last:
            return
        if scanned >= scan_limit:
            raise TooBroadError(scan_limit)
        position = (rows[-1].patient_id, rows[-1].id)


def _studies(space: str) -> sa.Select[Any]:
    return sa.select(study).where(
        study.c.space == space,
        study.c.patient_id.is_not(None),
        study.c.number_of_instances > 0,
    )


def _batch(
    connection: Connection, statement: sa.Select[Any], position: _Position | None, *, few: bool
) -> Sequence[Row]:
    """The next studies, by Patient ID and arrival."""
    return connection.execute(_page(statement, position, few=few)).all()


def _page(statement: sa.Select[Any], position: _Position | None, *, few: bool) -> sa.Select[Any]:
    # As an expression it cannot be had from the index, so that the walk is not even considered.
    patient_id = study.c.patient_id.concat("") if few else study.c.patient_id
    if position is not None:
        behind = sa.or_(
            patient_id > position[0],
            sa.and_(patient_id == position[0], study.c.id > position[1]),
        )
        statement = statement.where(patient_id >= position[0], behind)
    return statement.order_by(patient_id, study.c.id).limit(SCAN_BATCH)


def _matching(rows: Sequence[Row], identifier: Identifier, asked: Asked) -> list[Row]:
    return [row for row in rows if identifier.matches(data_set_of(Match(row, ()), asked, None))]


def _counted(connection: Connection, space: str, rows: Collection[Row]) -> list[PatientMatch]:
    """Patients with the numbers of what all their studies have (index study_by_patient_id)."""
    issuer = sa.func.coalesce(study.c.issuer_of_patient_id, "")
    counts = connection.execute(
        sa.select(
            study.c.patient_id,
            issuer.label("issuer"),
            sa.func.count().label("studies"),
            sa.func.sum(study.c.number_of_series).label("series"),
            sa.func.sum(study.c.number_of_instances).label("instances"),
        )
        .where(
            study.c.space == space,
            study.c.patient_id.in_({row.patient_id for row in rows}),
            study.c.number_of_instances > 0,
        )
        .group_by(study.c.patient_id, issuer)
    )
    found = {(row.patient_id, row.issuer): row for row in counts}
    patients = []
    for row in rows:
        count = found.get((row.patient_id, row.issuer_of_patient_id or ""))
        if count is not None:  # else all has been deleted in the meantime
            patients.append(
                PatientMatch(row, count.studies, int(count.series), int(count.instances))
            )
    return patients
