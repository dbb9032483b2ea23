"""What our own API asks the manifest: lists for people, and what a sender may skip."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from imaging_ingestion.manifest.schema import instance, series, study


class StudySummary(msgspec.Struct, frozen=True, kw_only=True):
    """A study in a list. Times are microseconds since the epoch."""

    space: str
    study_instance_uid: str
    patient_name: str | None
    patient_id: str | None
    study_date: str | None
    study_description: str | None
    accession_number: str | None
    modalities: tuple[str, ...]
    number_of_series: int
    number_of_instances: int
    revision: int | None
    revision_due_at: int | None
    changed_at: int
    id: int


def studies(
    connection: Connection, *, space: str | None = None, after: int | None = None, limit: int = 100
) -> list[StudySummary]:
    """A page of studies, those that came last first, after the one with the id `after`."""
    columns = [
        study.c[name] for name in StudySummary.__struct_fields__ if name not in {"modalities"}
    ]
    # study_pkey, study_by_arrival
    statement = (
        sa.select(*columns)
        .where(study.c.number_of_instances > 0)
        .order_by(study.c.id.desc())
        .limit(limit)
    )
    if after is not None:
        statement = statement.where(study.c.id < after)
    if space is not None:
        statement = statement.where(study.c.space == space)
    rows = connection.execute(statement).mappings().all()
    found: dict[int, set[str]] = {}
    # series_uid
    for study_pk, modality in connection.execute(
        sa.select(series.c.study_pk, series.c.modality).where(
            series.c.study_pk.in_([row["id"] for row in rows]), series.c.number_of_instances > 0
        )
    ):
        found.setdefault(study_pk, set()).add(modality or "")
    return [
        StudySummary(**row, modalities=tuple(sorted(filter(None, found.get(row["id"], ())))))
        for row in rows
    ]


class KnownObject(msgspec.Struct, frozen=True):
    """Something a sender has: `sha256` in hexadecimal."""

    sop_instance_uid: str
    sha256: str


def known_objects(connection: Connection, space: str, asked: Sequence[KnownObject]) -> list[int]:
    """Which of the objects (their places in `asked`) are what the space has, byte for byte."""
    # instance_live_uid
    rows = connection.execute(
        sa.select(instance.c.sop_instance_uid, instance.c.sha256).where(
            instance.c.space == space,
            instance.c.sop_instance_uid.in_({known.sop_instance_uid for known in asked}),
            instance.c.deleted_at.is_(None),
        )
    )
    here = {row.sop_instance_uid: bytes(row.sha256).hex() for row in rows}
    return [
        index
        for index, known in enumerate(asked)
        if here.get(known.sop_instance_uid) == known.sha256.lower()
    ]
