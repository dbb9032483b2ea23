"""The transaction that records instances: rows, counts, due times and the log, all or nothing.

A batch takes the same few statements however many instances it has. On PostgreSQL the rows of the
studies are locked first, in the order of their UIDs, and everything below a study is changed only
under that lock; so writers on one study wait for each other and no count is lost. (On SQLite there
is one writer.) What is decided is in `plan`; here it is read and written.

The attributes of a study or series are those of its instances together (see `merge`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlalchemy.engine import Connection

from imaging_ingestion.events.stored import StoredInstance, StoreOutcome
from imaging_ingestion.manifest import changes, held, removal, usage
from imaging_ingestion.manifest.database_error import BeginAgainError
from imaging_ingestion.manifest.known import (
    SERIES_COLUMNS,
    STUDY_COLUMNS,
    Group,
    known_instances,
    known_series,
    lock_studies,
)
from imaging_ingestion.manifest.merge import Values, merged
from imaging_ingestion.manifest.plan import (
    Aside,
    InstanceRow,
    Plan,
    StudyState,
    compares_patients,
    plan,
    quarantines,
)
from imaging_ingestion.manifest.prepared import Rows
from imaging_ingestion.manifest.schema import instance, instance_metadata, series, study
from imaging_ingestion.manifest.usage import Growth

INSTANCE_COLUMNS = (
    "instance_number",
    "rows",
    "columns",
    "bits_allocated",
    "number_of_frames",
    "timezone_offset_from_utc",
)
_CONTENT_COLUMNS = (
    *INSTANCE_COLUMNS,
    "sop_class_uid",
    "transfer_syntax_uid",
    "provider",
    "object_name",
    "object_size",
    "sha256",
    "version",
    "stored_at",
    "deleted_at",
)


_TOUCHED = ("number_of_instances", "changed_at")
_STUDY_TOUCHED = (*_TOUCHED, "number_of_series", "revision_due_at")
_TOUCH_STUDY = Rows.updated(study, *_STUDY_TOUCHED)
_UPDATE_STUDY = Rows.updated(study, *_STUDY_TOUCHED, *STUDY_COLUMNS)
_TOUCH_SERIES = Rows.updated(series, *_TOUCHED)
_UPDATE_SERIES = Rows.updated(series, *_TOUCHED, *SERIES_COLUMNS)
_END_INSTANCE = Rows.updated(instance, "deleted_at")
_UPDATE_INSTANCE = Rows.updated(instance, *_CONTENT_COLUMNS)
_UPDATE_METADATA = Rows.updated(instance_metadata, "json_zstd")
_INSERT_SERIES = Rows.inserted(series, series.c.id, series.c.study_pk, series.c.series_instance_uid)
_INSERT_INSTANCES = Rows.inserted(
    instance, instance.c.id, instance.c.sop_instance_uid, in_order_of=instance.c.sop_instance_uid
)
_INSERT_METADATA = Rows.inserted(instance_metadata)
_ADD_STUDIES = Rows.inserted(study, study.c.id, ignore_known=True)


def record_batch(
    connection: Connection,
    batch: Sequence[StoredInstance],
    now: int,
    revisioning_delay_us: int,
    *,
    announce: bool = True,
) -> list[StoreOutcome]:
    """Record instances whose objects are durable; the outcomes are in the order of the batch.

    `now` is in microseconds since the epoch, `revisioning_delay_us` the microseconds of quiet
    after which a study counts as settled. The instances of a batch take effect in their order.
    Without `announce` nothing is written to the log, so that nobody is told.
    Raises what SQLAlchemy raises.
    """
    outcomes: dict[int, StoreOutcome] = {}
    log: list[dict[str, object]] = []
    growths: dict[str, Growth] = {}
    for space in sorted({stored.space for stored in batch}):
        numbers = [number for number, stored in enumerate(batch) if stored.space == space]
        of_space = [batch[number] for number in numbers]
        decided = _record(connection, space, of_space, now, revisioning_delay_us)
        outcomes.update(zip(numbers, decided.outcomes, strict=True))
        log += _entries(space, decided, now)
        growths[space] = _growth(decided)
    usage.grow(connection, growths)
    if announce:
        changes.append(connection, log)  # last: it takes the log's lock
    return [outcomes[number] for number in range(len(batch))]


def _record(
    connection: Connection, space: str, batch: Sequence[StoredInstance], now: int, delay: int
) -> Plan:
    sop_instance_uids = {stored.sop_instance_uid for stored in batch}
    studies = lock_studies(
        connection, space, {stored.study_instance_uid for stored in batch}, sop_instance_uids
    )
    known = known_instances(connection, space, sop_instance_uids)
    while elsewhere := {row.place.study_instance_uid for row in known} - studies.keys():
        # A SOP Instance UID is known in a study that the batch does not name, and that was not so
        # a moment ago. That study may change as well, so it is locked, in the order of the UIDs,
        # and looked at again.
        if studies and connection.dialect.name != "sqlite" and min(elsewhere) < max(studies):
            raise BeginAgainError
        studies |= lock_studies(connection, space, elsewhere)
        known = known_instances(connection, space, sop_instance_uids)
    compares = any(map(compares_patients, batch))
    while True:
        decided = plan(known, batch, _aside(connection, space, batch, known, studies))
        lacking = {place.study_instance_uid for place in decided.rows} - studies.keys()
        if not lacking:
            break
        rows = [
            {"space": space, "study_instance_uid": uid, "created_at": now, "changed_at": now}
            for uid in sorted(lacking)
        ]
        if len(_ADD_STUDIES.returned(connection, rows)) < len(rows):
            raise BeginAgainError  # another has made one; to wait for it now could be a deadlock
        added = lock_studies(connection, space, lacking)
        studies |= added
        if not compares or not any(one.number_of_instances for one in added.values()):
            break
        # Somebody else has begun the study meanwhile, and what came may contradict it.
        known = known_instances(connection, space, sop_instance_uids)
    _write(connection, space, decided, studies, now, delay)
    return decided


def _aside(
    connection: Connection,
    space: str,
    batch: Sequence[StoredInstance],
    known: Sequence[InstanceRow],
    studies: dict[str, Group],
) -> Aside:
    """What counts beside the rows of the instances. Of new ones there is nothing to ask."""
    waiting = {}
    if any(map(quarantines, batch)):
        waiting = held.waiting(connection, space, {stored.sop_instance_uid for stored in batch})
    elif not known:
        return Aside()
    states = {}
    if any(map(compares_patients, batch)):
        states = {
            uid: StudyState(one.number_of_instances, one.values if one.number_of_instances else {})
            for uid, one in studies.items()
        }
    to_go = removal.to_go(connection, space, {stored.object_name for stored in batch})
    return Aside(to_go, waiting, states)


def _growth(decided: Plan) -> Growth:
    rows = decided.rows.values()
    return Growth(sum(row.live - row.was_live for row in rows), sum(row.growth for row in rows))


def _write(
    connection: Connection,
    space: str,
    decided: Plan,
    studies: dict[str, Group],
    now: int,
    delay: int,
) -> None:
    """Write what was decided. Every study of `decided` is in `studies`, locked."""
    if decided.held:
        held.hold(connection, decided.held, now)
    if not decided.rows:
        return
    all_series = _find_series(connection, space, decided, studies, now)
    for stored in decided.accepted:
        key = (stored.study_instance_uid, stored.series_instance_uid)
        _merge(studies[stored.study_instance_uid], stored.study)
        _merge(all_series[key], {**stored.series, "provider": stored.provider})
    _count(decided, studies, all_series)
    touched = {place.study_instance_uid for place in decided.rows}
    due = {"new_changed_at": now, "new_revision_due_at": now + delay}
    _update_groups(
        connection, _TOUCH_STUDY, _UPDATE_STUDY, (studies[uid] for uid in sorted(touched)), due
    )
    _update_groups(
        connection, _TOUCH_SERIES, _UPDATE_SERIES, all_series.values(), {"new_changed_at": now}
    )
    _write_instances(connection, space, decided, studies, all_series, now)
    removal.schedule(connection, space, decided.unneeded, now)


def _entries(space: str, decided: Plan, now: int) -> list[dict[str, object]]:
    """What was decided, for the log."""
    return [
        {
            "at": now,
            "kind": entry.kind,
            "space": space,
            "study_instance_uid": entry.place.study_instance_uid,
            "series_instance_uid": entry.place.series_instance_uid,
            "sop_instance_uid": entry.place.sop_instance_uid,
            "provider": entry.provider,
            "version": entry.version,
            "traceparent": entry.traceparent,
        }
        for entry in decided.log
    ]


def _find_series(
    connection: Connection, space: str, decided: Plan, studies: dict[str, Group], now: int
) -> dict[tuple[str, str], Group]:
    """The series of every row that changes, by (study UID, series UID); made if they are new."""
    wanted = {place[:2]: None for place in decided.rows}
    uid_of = {studies[uid].pk: uid for uid, _ in wanted}
    result = known_series(connection, uid_of, (uid for _, uid in wanted))
    lacking = [
        {
            "study_pk": studies[study_uid].pk,
            "space": space,
            "series_instance_uid": uid,
            "created_at": now,
            "changed_at": now,
        }
        for study_uid, uid in sorted(wanted.keys() - result.keys())
    ]
    if lacking:
        for pk, study_pk, uid in _INSERT_SERIES.returned(connection, lacking):
            nothing: Values = {**dict.fromkeys(SERIES_COLUMNS), "attributes": "{}", "provider": ""}
            result[uid_of[study_pk], uid] = Group(pk, 0, 0, nothing, nothing)
    return {key: result[key] for key in sorted(wanted)}


def _merge(group: Group, new: Values) -> None:
    if new != group.values:  # nearly always equal: one study's instances tell the same of it
        values = merged(group.values, new)
        if values != group.values:
            group.values = values


def _count(
    decided: Plan, studies: dict[str, Group], all_series: dict[tuple[str, str], Group]
) -> None:
    for row in decided.rows.values():
        delta = row.live - row.was_live
        if delta:
            of_study = studies[row.place.study_instance_uid]
            of_series = all_series[row.place[:2]]
            before = of_series.number_of_instances
            of_study.number_of_instances += delta
            of_series.number_of_instances += delta
            of_study.number_of_series += (before + delta > 0) - (before > 0)


def _update_groups(
    connection: Connection,
    touch: Rows,
    update: Rows,
    groups: Iterable[Group],
    common: dict[str, int],
) -> None:
    """Write counts and times of rows, and for those whose attributes changed, these too."""
    touched, updated = [], []
    for group in groups:
        row: dict[str, object] = {
            "pk": group.pk,
            "new_number_of_instances": group.number_of_instances,
            **common,
        }
        if touch is _TOUCH_STUDY:
            row["new_number_of_series"] = group.number_of_series
        if group.changed:
            updated.append(row | {f"new_{name}": value for name, value in group.values.items()})
        else:
            touched.append(row)
    if touched:
        touch.each(connection, touched)
    if updated:
        update.each(connection, updated)


def _write_instances(
    connection: Connection,
    space: str,
    decided: Plan,
    studies: dict[str, Group],
    all_series: dict[tuple[str, str], Group],
    now: int,
) -> None:
    rows = decided.rows.values()
    # Tombstones first: at most one live row of a SOP Instance UID may be there at any time.
    ended = [{"pk": row.pk, "new_deleted_at": now} for row in rows if row.pk and not row.live]
    if ended:
        _END_INSTANCE.each(connection, ended)
    updated = [row for row in rows if row.pk is not None and row.content is not None]
    if updated:
        _UPDATE_INSTANCE.each(
            connection,
            [
                {"pk": row.pk}
                | {f"new_{name}": value for name, value in _content(row, now).items()}
                for row in updated
            ],
        )
        _UPDATE_METADATA.each(
            connection,
            [
                {"pk": row.pk, "new_json_zstd": row.content.metadata_zstd}
                for row in updated
                if row.content is not None
            ],
        )
    # A SOP Instance UID that moved twice within the batch has several new rows: by its place in
    # the row, not by its UID alone, each finds its metadata.
    added = [row for row in rows if row.pk is None]
    while added:
        again: list[InstanceRow] = []
        by_uid: dict[str, InstanceRow] = {}
        for row in added:
            if by_uid.setdefault(row.place.sop_instance_uid, row) is not row:
                again.append(row)
        inserted = _INSERT_INSTANCES.returned(
            connection,
            [
                {
                    "study_pk": studies[row.place.study_instance_uid].pk,
                    "series_pk": all_series[row.place[:2]].pk,
                    "space": space,
                    "sop_instance_uid": row.place.sop_instance_uid,
                    **_content(row, now),
                }
                for row in by_uid.values()
            ],
        )
        _INSERT_METADATA.each(
            connection,
            [
                {"instance_pk": pk, "json_zstd": _stored(by_uid[uid]).metadata_zstd}
                for pk, uid in inserted
            ],
        )
        added = again


def _content(row: InstanceRow, now: int) -> dict[str, object]:
    """The values of `_CONTENT_COLUMNS`."""
    stored = _stored(row)
    return {
        **{name: stored.instance.get(name) for name in INSTANCE_COLUMNS},
        "sop_class_uid": stored.sop_class_uid,
        "transfer_syntax_uid": stored.transfer_syntax_uid,
        "provider": stored.provider,
        "object_name": stored.object_name,
        "object_size": stored.object_size,
        "sha256": stored.sha256,
        "version": row.version,
        "stored_at": now if stored.stored_at is None else stored.stored_at,
        "deleted_at": None if row.live else now,
    }


def _stored(row: InstanceRow) -> StoredInstance:
    if row.content is None:
        raise ValueError("a row that is to be written has no content")
    return row.content
