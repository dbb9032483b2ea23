"""What the manifest has of the studies, series and instances that a transaction is about to change.

On PostgreSQL the rows of the studies are locked, in the order of their UIDs; everything below a
study is changed only under its lock. The studies that have an instance now which arrives for
another one are locked with them, for it will move. (On SQLite there is one writer.)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from imaging_ingestion.manifest.merge import Values
from imaging_ingestion.manifest.plan import InstanceRow, Place
from imaging_ingestion.manifest.prepared import Prepared, one_of
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

_SPACE: sa.BindParameter[Any] = sa.bindparam("in_space")

_OF_INSTANCES = sa.select(instance.c.study_pk).where(
    instance.c.space == _SPACE, one_of(instance.c.sop_instance_uid, "instance_uids")
)
_STUDIES = sa.select(
    study.c.id,
    study.c.number_of_instances,
    study.c.number_of_series,
    study.c.study_instance_uid,
    *(study.c[name] for name in STUDY_COLUMNS),
)
_OF_STUDY_UIDS = (study.c.space == _SPACE, one_of(study.c.study_instance_uid, "uids"))
_LOCK_STUDIES = {
    # study_uid
    "sqlite": Prepared(_STUDIES.where(*_OF_STUDY_UIDS)),
    # study_uid, instance_live_uid, instance_tombstone; then study_pkey
    "postgresql": Prepared(
        _STUDIES.where(
            study.c.id.in_(
                sa.union(
                    sa.select(study.c.id).where(*_OF_STUDY_UIDS),
                    _OF_INSTANCES.where(instance.c.deleted_at.is_(None)),
                    _OF_INSTANCES.where(instance.c.deleted_at.is_not(None)),
                )
            )
        )
        .order_by(study.c.study_instance_uid)
        .with_for_update(key_share=True)
    ),
}
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
        instance.c.object_size,
        instance.c.deleted_at,
    )
    .join(series, series.c.id == instance.c.series_pk)
    .join(study, study.c.id == instance.c.study_pk)
)
_OF_UIDS = _INSTANCES.where(instance.c.space == _SPACE, one_of(instance.c.sop_instance_uid, "uids"))
# instance_live_uid, instance_tombstone
_KNOWN = Prepared(
    sa.union_all(
        _OF_UIDS.where(instance.c.deleted_at.is_(None)),
        _OF_UIDS.where(instance.c.deleted_at.is_not(None)),
    )
)
# series_uid
_SERIES = Prepared(
    sa.select(
        series.c.id,
        series.c.number_of_instances,
        series.c.study_pk,
        series.c.series_instance_uid,
        *(series.c[name] for name in SERIES_COLUMNS),
    ).where(
        one_of(series.c.study_pk, "studies"),
        one_of(series.c.series_instance_uid, "uids"),
    )
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


def lock_studies(
    connection: Connection, space: str, uids: Iterable[str], instance_uids: Iterable[str] = ()
) -> dict[str, Group]:
    """The studies that there are of `uids`, by UID; nobody else changes them until the commit.

    On PostgreSQL, where writers are many, those that know one of `instance_uids` as well.
    """
    dialect = connection.dialect.name
    wanted: dict[str, object] = {"in_space": space, "uids": _padded(uids)}
    if dialect != "sqlite":
        wanted["instance_uids"] = _padded(instance_uids)
    return {
        uid: _group(pk, instances, number_of_series, STUDY_COLUMNS, values)
        for pk, instances, number_of_series, uid, *values in _LOCK_STUDIES[dialect].all(
            connection, wanted
        )
    }


def known_instances(connection: Connection, space: str, uids: Iterable[str]) -> list[InstanceRow]:
    """The rows of SOP Instance UIDs, live ones and tombstones, in whichever study."""
    wanted = {"in_space": space, "uids": _padded(uids)}
    return [_instance_row(*row) for row in _KNOWN.all(connection, wanted)]


def known_series(
    connection: Connection, study_uids: Mapping[int, str], uids: Iterable[str]
) -> dict[tuple[str, str], Group]:
    """The series called `uids` of the studies with the keys of `study_uids`, by (study, series)."""
    wanted = {"studies": _padded(study_uids), "uids": _padded(uids)}
    return {
        (study_uids[study_pk], uid): _group(pk, instances, 0, SERIES_COLUMNS, values)
        for pk, instances, study_pk, uid, *values in _SERIES.all(connection, wanted)
    }


def _group(
    pk: int, instances: int, number_of_series: int, columns: Sequence[str], found: Sequence[Any]
) -> Group:
    values: Values = dict(zip(columns, found, strict=True))
    return Group(pk, instances, number_of_series, values, values)


def _instance_row(
    pk: int,
    study_instance_uid: str,
    series_instance_uid: str,
    sop_instance_uid: str,
    sha256: bytes,
    object_name: str,
    version: int,
    provider: str,
    object_size: int,
    deleted_at: int | None,
) -> InstanceRow:
    live = deleted_at is None
    return InstanceRow(
        Place(study_instance_uid, series_instance_uid, sop_instance_uid),
        pk,
        sha256,
        object_name,
        version,
        provider,
        live=live,
        was_live=live,
        object_size=object_size,
    )


def _padded(values: Iterable[K]) -> list[K]:
    """Sorted distinct values, the last repeated up to a power of two: few statements to prepare."""
    distinct = sorted(set(values))
    if not distinct:
        return []
    return distinct + distinct[-1:] * ((1 << (len(distinct) - 1).bit_length()) - len(distinct))
