"""Which attributes are columns of the manifest, and what a row says of them in DICOM JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from imaging_ingestion.dicom.criterion import Element
from imaging_ingestion.dicom.dictionary import vr_of
from imaging_ingestion.manifest.attribute_levels import Level
from imaging_ingestion.manifest.schema import instance, series, study

MODALITIES_IN_STUDY = 0x00080061


@dataclass(frozen=True, slots=True)
class ColumnAttribute:
    """An attribute that a column holds; `folded` is the column that matching of names uses."""

    tag: int
    level: Level
    column: sa.Column[Any]
    folded: sa.Column[Any] | None = None

    @property
    def vr(self) -> str:
        """The attribute's VR."""
        return str(vr_of(self.tag))

    def element(self, value: str | int | None) -> Element:
        """The column's value as an element in DICOM JSON (PS3.18 F.2)."""
        if value is None:
            return {"vr": self.vr}
        if self.vr == "PN":
            groups = zip(
                ("Alphabetic", "Ideographic", "Phonetic"), str(value).split("="), strict=False
            )
            return {"vr": "PN", "Value": [{name: text for name, text in groups if text}]}
        return {"vr": self.vr, "Value": [value]}


def _of(level: Level, columns: Mapping[int, sa.Column[Any]]) -> Iterable[ColumnAttribute]:
    folded = {
        0x00080090: study.c.referring_physician_name_folded,
        0x00100010: study.c.patient_name_folded,
    }
    return (ColumnAttribute(tag, level, c, folded.get(tag)) for tag, c in columns.items())


#: Every attribute that is a column, by its tag. Timezone Offset From UTC is one of each level and
#: never matched, so it is not among them.
COLUMN_ATTRIBUTES: Mapping[int, ColumnAttribute] = {
    attribute.tag: attribute
    for attribute in (
        *_of(
            Level.STUDY,
            {
                0x00080020: study.c.study_date,
                0x00080030: study.c.study_time,
                0x00080050: study.c.accession_number,
                0x00080090: study.c.referring_physician_name,
                0x00081030: study.c.study_description,
                0x00100010: study.c.patient_name,
                0x00100020: study.c.patient_id,
                0x00100021: study.c.issuer_of_patient_id,
                0x00100030: study.c.patient_birth_date,
                0x00100040: study.c.patient_sex,
                0x0020000D: study.c.study_instance_uid,
                0x00200010: study.c.study_id,
                0x00201206: study.c.number_of_series,
                0x00201208: study.c.number_of_instances,
            },
        ),
        *_of(
            Level.SERIES,
            {
                0x00080060: series.c.modality,
                0x0008103E: series.c.series_description,
                0x0020000E: series.c.series_instance_uid,
                0x00200011: series.c.series_number,
                0x00201209: series.c.number_of_instances,
                0x00400244: series.c.performed_procedure_step_start_date,
                0x00400245: series.c.performed_procedure_step_start_time,
            },
        ),
        *_of(
            Level.INSTANCE,
            {
                0x00080016: instance.c.sop_class_uid,
                0x00080018: instance.c.sop_instance_uid,
                0x00083002: instance.c.transfer_syntax_uid,
                0x00200013: instance.c.instance_number,
                0x00280008: instance.c.number_of_frames,
                0x00280010: instance.c.rows,
                0x00280011: instance.c.columns,
                0x00280100: instance.c.bits_allocated,
            },
        ),
    )
}
