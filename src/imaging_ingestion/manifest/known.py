"""What the manifest has of the studies, series and instances that a transaction is about to change.

On PostgreSQL the rows of the studies are locked, in the order of their UIDs; everything below a
study is changed only under its lock. (On SQLite there is one writer.)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection, RowMapping

from imaging_ingestion.manifest.merge import Values
from imaging_ingestion.manifest.plan import InstanceRow, Place
from imaging_ingestion.manifest.schema import instance, series, study

K = TypeVar("K", int, str)

STUDY_COLUMNS = (
    "study_date",
    "study_time",
    "accession_number",
    "referring_physician_name",
    "patient_name",
    "patient_id",
    "issuer_of_patient_id",
    "patient_birth_date",
    "patient_sex",
    "study_id",
    "study_description",
    "timezone_offset_from_utc",
    "patient_name_folded",
    "referring_physician_name_folded",
    "attributes",
)
SERIES_COLUMNS = (
    "modality",
    "series_number",
    "series_description",
    "performed_procedure_step_start_date",
    "performed_procedure_step_start_time",
    "timezone_offset_from_utc",
    "attributes",
    "provider",
)

_UIDS: sa.BindParameter[Any] = sa.bindparam("uids", expanding=True)
_SPACE: sa.BindParameter[Any] = sa.bindparam("in_space")

# study_uid
_LOCK_STUDIES = (
    sa.select(
        study.c.id,
        study.c.study_instance_uid,
        study.c.number_of_series,
        study.c.number_of_instances,
        *(study.c[name] for name in STUDY_COLUMNS),
    )
    .where(study.c.space == _SPACE, study.c.study_instance_uid.in_(_UIDS))
    .order_by(study.c.study_instance_uid)
    .with_for_update(key_share=True)
)
_INSTANCES = (
    sa.select(
        instance.c.id,
        study.c.study_instance_uid,
        series.c.series_instance_uid,
        instance.c.sop_instance_uid,
        instance.c.sha256,
        instance.c.object_name,
        instance.c.version,
        instance.c.provider,
        instance.c.deleted_at,
    )
    .join(series, series.c.id == instance.c.series_pk)
    .join(study, study.c.id == instance.c.study_pk)
)
_OF_UIDS = _INSTANCES.where(instance.c.space == _SPACE, instance.c.sop_instance_uid.in_(_UIDS))
# instance_live_uid, instance_tombstone
_KNOWN = sa.union_all(
    _OF_UIDS.where(instance.c.deleted_at.is_(None)),
    _OF_UIDS.where(instance.c.deleted_at.is_not(None)),
)
# series_uid
_SERIES = sa.select(
    series.c.id,
    series.c.study_pk,
    series.c.series_instance_uid,
    series.c.number_of_instances,
    *(series.c[name] for name in SERIES_COLUMNS),
).where(
    series.c.study_pk.in_(sa.bindparam("studies", expanding=True)),
    series.c.series_instance_uid.in_(_UIDS),
)


@dataclass(slots=True)
class Group:
    """A study or series row under change."""

    pk: int
    number_of_instances: int
    number_of_series: int  # of a study
    found: Values
    values: Values

    @property
    def changed(self) -> bool:
        return self.values is not self.found


def lock_studies(connection: Connection, space: str, uids: Iterable[str]) -> dict[str, Group]:
    """The studies that there are of `uids`, by UID; nobody else changes them until the commit."""
    found = connection.execute(_LOCK_STUDIES, {"in_space": space, "uids": _padded(uids)})
    return {
        row["study_instance_uid"]: _group(row, STUDY_COLUMNS, row["number_of_series"])
        for row in found.mappings()
    }


def known_instances(connection: Connection, space: str, uids: Iterable[str]) -> list[InstanceRow]:
    """The rows of SOP Instance UIDs, live ones and tombstones, in whichever study."""
    found = connection.execute(_KNOWN, {"in_space": space, "uids": _padded(uids)})
    return [_instance_row(row) for row in found.mappings()]


def live_instances(
    connection: Connection,
    study_pk: int,
    series_instance_uid: str | None,
    sop_instance_uid: str | None,
) -> list[InstanceRow]:
    """The live rows of a study, of one of its series, or of one instance, in order of arrival."""
    wanted = _INSTANCES.where(
        instance.c.study_pk == study_pk, instance.c.deleted_at.is_(None)
    ).order_by(instance.c.id)
    if series_instance_uid is not None:
        wanted = wanted.where(series.c.series_instance_uid == series_instance_uid)
    if sop_instance_uid is not None:
        wanted = wanted.where(instance.c.sop_instance_uid == sop_instance_uid)
    return [_instance_row(row) for row in connection.execute(wanted).mappings()]


def known_series(
    connection: Connection, study_uids: Mapping[int, str], uids: Iterable[str]
) -> dict[tuple[str, str], Group]:
    """The series called `uids` of the studies with the keys of `study_uids`, by (study, series)."""
    found = connection.execute(_SERIES, {"studies": _padded(study_uids), "uids": _padded(uids)})
    return {
        (study_uids[row["study_pk"]], row["series_instance_uid"]): _group(row, SERIES_COLUMNS)
        for row in found.mappings()
    }


def _group(row: RowMapping, columns: Sequence[str], number_of_series: int = 0) -> Group:
    values: Values = {name: row[name] for name in columns}
    return Group(row["id"], row["number_of_instances"], number_of_series, values, values)


def _instance_row(row: RowMapping) -> InstanceRow:
    live = row["deleted_at"] is None
    return InstanceRow(
        Place(row["study_instance_uid"], row["series_instance_uid"], row["sop_instance_uid"]),
        row["id"],
        row["sha256"],
        row["object_name"],
        row["version"],
        row["provider"],
        live=live,
        was_live=live,
    )


def _padded(values: Iterable[K]) -> list[K]:
    """Sorted distinct values, the last repeated up to a power of two: few statements to prepare."""
    distinct = sorted(set(values))
    return distinct + distinct[-1:] * ((1 << (len(distinct) - 1).bit_length()) - len(distinct))
