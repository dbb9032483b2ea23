"""What WADO-RS asks the manifest: which objects make a study, a series or an instance.

Rows come in pages after a key (`Instance.pk`), in the order they arrived, so that a study of any
size costs one page of memory, and a page of a large study no more than that of a small one. The
indexes are `study_uid`, `series_uid`, `instance_live_uid`, `instance_by_study` and
`instance_by_series`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from imaging_ingestion.manifest.schema import instance, instance_metadata, series, study

#: Instances with the columns of `Instance`, in that order.
INSTANCES = (
    sa.select(
        instance.c.id,
        study.c.study_instance_uid,
        series.c.series_instance_uid,
        instance.c.sop_instance_uid,
        instance.c.sop_class_uid,
        instance.c.transfer_syntax_uid,
        instance.c.object_name,
        instance.c.object_size,
        instance.c.sha256,
    )
    .join(series, series.c.id == instance.c.series_pk)
    .join(study, study.c.id == instance.c.study_pk)
)
#: Rows read at once where only narrow columns are read.
_DIGEST_PAGE = 2000


class UnknownResourceError(LookupError):
    """There is no such study, series or instance in the space, or not under that parent.

    `level` is "study", "series" or "instance", the first that is not there; `deleted` says that it
    was there once and has been deleted.
    """

    def __init__(self, level: str, *, deleted: bool = False) -> None:
        super().__init__(f"the {level} {'has been deleted' if deleted else 'is not known'}")
        self.level = level
        self.deleted = deleted


@dataclass(frozen=True, slots=True)
class Place:
    """A study, series or instance in the manifest."""

    study_pk: int
    series_pk: int | None = None
    instance_pk: int | None = None


@dataclass(frozen=True, slots=True)
class Instance:
    """One live instance and its object."""

    pk: int
    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    object_name: str
    object_size: int  # bytes
    sha256: bytes


@dataclass(frozen=True, slots=True)
class InstanceMetadata:
    """One live instance's data set."""

    pk: int
    series_instance_uid: str
    sop_instance_uid: str
    json_zstd: bytes  # DICOM JSON object, see `manifest.schema.instance_metadata`


@dataclass(frozen=True, slots=True)
class Contents:
    """What a study, series or instance consists of, in short.

    `digest` is over the SOP Instance UIDs and the objects' SHA-256 in the order of the pages: it
    changes whenever an instance is stored, replaced or deleted.
    """

    digest: bytes
    number_of_instances: int
    object_size: int  # bytes together
    transfer_syntax_uids: frozenset[str]


def find_place(
    connection: Connection,
    space: str,
    study_instance_uid: str,
    series_instance_uid: str | None = None,
    sop_instance_uid: str | None = None,
) -> Place:
    """Where the resource is. Raises UnknownResourceError if nothing of it is live."""
    found = connection.execute(
        sa.select(study.c.id, study.c.number_of_instances).where(
            study.c.space == space, study.c.study_instance_uid == study_instance_uid
        )
    ).first()
    if found is None:
        raise UnknownResourceError("study")
    if not found.number_of_instances:
        raise UnknownResourceError("study", deleted=True)
    study_pk: int = found.id
    if series_instance_uid is None:
        return Place(study_pk)
    found = connection.execute(
        sa.select(series.c.id, series.c.number_of_instances).where(
            series.c.study_pk == study_pk, series.c.series_instance_uid == series_instance_uid
        )
    ).first()
    if found is None:
        raise UnknownResourceError("series")
    if not found.number_of_instances:
        raise UnknownResourceError("series", deleted=True)
    series_pk: int = found.id
    if sop_instance_uid is None:
        return Place(study_pk, series_pk)
    rows = connection.execute(
        sa.select(instance.c.id, instance.c.deleted_at).where(
            instance.c.space == space,
            instance.c.sop_instance_uid == sop_instance_uid,
            instance.c.series_pk == series_pk,
        )
    ).all()
    live = [row.id for row in rows if row.deleted_at is None]
    if not live:
        raise UnknownResourceError("instance", deleted=bool(rows))
    return Place(study_pk, series_pk, live[0])


def contents(connection: Connection, place: Place) -> Contents:
    """What the resource consists of; read page by page, without holding it."""
    digest = hashlib.sha256()
    number, size, after = 0, 0, 0
    transfer_syntaxes: set[str] = set()
    columns = sa.select(
        instance.c.id,
        instance.c.sop_instance_uid,
        instance.c.sha256,
        instance.c.object_size,
        instance.c.transfer_syntax_uid,
    )
    while True:
        rows = connection.execute(_page(columns, place, after, _DIGEST_PAGE)).all()
        for _, sop_instance_uid, sha256, object_size, transfer_syntax_uid in rows:
            digest.update(b"%b %b\n" % (sop_instance_uid.encode(), sha256))
            size += object_size
            transfer_syntaxes.add(transfer_syntax_uid)
        number += len(rows)
        if len(rows) < _DIGEST_PAGE:
            return Contents(digest.digest(), number, size, frozenset(transfer_syntaxes))
        after = rows[-1].id


def instances_page(connection: Connection, place: Place, after: int, limit: int) -> list[Instance]:
    """At most `limit` live instances whose `pk` is above `after` (0 for the first page)."""
    rows = connection.execute(_page(INSTANCES, place, after, limit))
    return [Instance(*row) for row in rows]


def metadata_page(
    connection: Connection, place: Place, after: int, limit: int, max_bytes: int
) -> list[InstanceMetadata]:
    """The data sets of at most `limit` live instances whose `pk` is above `after`.

    As many as have `max_bytes` (compressed) together, and at least one if there is any: hostile
    data sets are large.
    """
    length = sa.func.length(instance_metadata.c.json_zstd)
    lengths = _page(
        sa.select(instance.c.id, length.label("bytes")).join(
            instance_metadata, instance_metadata.c.instance_pk == instance.c.id
        ),
        place,
        after,
        limit,
    ).subquery("lengths")
    before = sa.func.sum(lengths.c.bytes).over(order_by=lengths.c.id) - lengths.c.bytes
    chosen = sa.select(lengths.c.id, before.label("before")).subquery("chosen")
    rows = connection.execute(
        sa.select(
            instance.c.id,
            series.c.series_instance_uid,
            instance.c.sop_instance_uid,
            instance_metadata.c.json_zstd,
        )
        .join_from(chosen, instance, instance.c.id == chosen.c.id)
        .join(series, series.c.id == instance.c.series_pk)
        .join(instance_metadata, instance_metadata.c.instance_pk == instance.c.id)
        .where(chosen.c.before < max_bytes)
        .order_by(instance.c.id)
    )
    return [InstanceMetadata(*row) for row in rows]


def live_instance(connection: Connection, space: str, sop_instance_uid: str) -> Instance | None:
    """The instance as it is now; None if it has been deleted.

    For whoever finds that the object of a row read a moment ago is not there any more.
    """
    row = connection.execute(
        sa.select(instance.c.id, instance.c.study_pk, instance.c.series_pk).where(
            instance.c.space == space,
            instance.c.sop_instance_uid == sop_instance_uid,
            instance.c.deleted_at.is_(None),
        )
    ).first()
    if row is None:
        return None
    place = Place(row.study_pk, row.series_pk, row.id)
    return instances_page(connection, place, 0, 1)[0]


def _page(columns: sa.Select[Any], place: Place, after: int, limit: int) -> sa.Select[Any]:
    """The live rows of `place` behind the key, in the order of the key."""
    page = columns.where(instance.c.deleted_at.is_(None), instance.c.id > after)
    if place.instance_pk is not None:
        page = page.where(instance.c.id == place.instance_pk)
    elif place.series_pk is not None:
        page = page.where(instance.c.series_pk == place.series_pk)
    else:
        page = page.where(instance.c.study_pk == place.study_pk)
    return page.order_by(instance.c.id).limit(limit)
