"""Which instances a retrieval is for (PS3.4 C.4.2, C.4.3): by patient, study, series, instance.

The instances are told by their keys first, grouped by what has to be negotiated for them: eight
bytes each, so a patient of a million instances is still a few megabytes. Their rows are read some
at a time. What arrives in the meantime is not among them, what is deleted is known to be.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from imaging_ingestion.manifest.retrieve import INSTANCES, Instance
from imaging_ingestion.manifest.schema import instance, series, study

#: UIDs of one list. Three such lists are as many parameters as either database takes.
MOST_UIDS = 10_000
_PAGE = 5_000


class Kind(NamedTuple):
    """What a presentation context has to be for."""

    sop_class_uid: str
    transfer_syntax_uid: str


@dataclass(frozen=True, slots=True)
class Selection:
    """Live instances of a space that satisfy every condition given; None and () are none."""

    space: str
    patient_id: str | None = None
    study_instance_uids: tuple[str, ...] = ()
    series_instance_uids: tuple[str, ...] = ()
    sop_instance_uids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Selected:
    """An instance of a selection as it is now; `is_live` is False if it has been deleted since."""

    instance: Instance
    is_live: bool


def select_instances(connection: Connection, selection: Selection) -> Mapping[Kind, array[int]]:
    """The keys of the instances by kind, in the order of their arrival.

    Indexes: instance_live_uid, series_by_uid, study_uid, study_by_patient_id, and from there
    instance_by_series and instance_by_study. Raises ValueError where nothing narrows the selection
    down, or a list has more than MOST_UIDS.
    """
    lists = {
        study.c.study_instance_uid: selection.study_instance_uids,
        series.c.series_instance_uid: selection.series_instance_uids,
        instance.c.sop_instance_uid: selection.sop_instance_uids,
    }
    if selection.patient_id is None and not any(lists.values()):
        raise ValueError("a selection of everything")
    if any(len(uids) > MOST_UIDS for uids in lists.values()):
        raise ValueError(f"more than {MOST_UIDS} UIDs in a list")
    tables: sa.FromClause = instance
    wanted: list[sa.ColumnElement[bool]] = [instance.c.deleted_at.is_(None)]
    if selection.sop_instance_uids:
        wanted.append(instance.c.space == selection.space)
    if selection.series_instance_uids:
        tables = tables.join(series, series.c.id == instance.c.series_pk)
        wanted.append(series.c.space == selection.space)
    if selection.study_instance_uids or selection.patient_id is not None:
        tables = tables.join(study, study.c.id == instance.c.study_pk)
        wanted.append(study.c.space == selection.space)
    if selection.patient_id is not None:
        wanted.append(study.c.patient_id == selection.patient_id)
    wanted.extend(column.in_(uids) for column, uids in lists.items() if uids)
    columns = (instance.c.id, instance.c.sop_class_uid, instance.c.transfer_syntax_uid)
    found: dict[Kind, array[int]] = {}
    rows = connection.execute(
        sa.select(*columns).select_from(tables).where(*wanted).order_by(instance.c.id),
        execution_options={"yield_per": _PAGE},
    )
    for pk, sop_class_uid, transfer_syntax_uid in rows:
        found.setdefault(Kind(sop_class_uid, transfer_syntax_uid), array("q")).append(pk)
    return found


def selected(connection: Connection, pks: Sequence[int]) -> dict[int, Selected]:
    """The rows of instances by key; one that is gone without a trace is left out."""
    rows = connection.execute(
        INSTANCES.add_columns(instance.c.deleted_at).where(instance.c.id.in_(pks))
    )
    return {row.id: Selected(Instance(*row[:-1]), row.deleted_at is None) for row in rows}
