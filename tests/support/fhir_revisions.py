"""Study revisions as the manifest makes them, of data sets made for a test."""

from __future__ import annotations

import msgspec
import sqlalchemy as sa
from pydicom.dataset import Dataset
from recorded import DELAY_US, data_set, stored_instance

from imaging_ingestion.events.model import StudyRevision
from imaging_ingestion.manifest import revision
from imaging_ingestion.manifest.deletion import delete_instances
from imaging_ingestion.manifest.record import record_batch
from imaging_ingestion.manifest.schema import metadata

BASE = "http://pacs.example/dicom-web"
FAR_FUTURE = 4_000_000_000_000_000  # microseconds since the epoch


def item(**attributes: object) -> Dataset:
    """An item of a sequence."""
    made = data_set(**attributes)
    for keyword in (
        "SpecificCharacterSet",
        "SOPClassUID",
        "StudyInstanceUID",
        "SeriesInstanceUID",
        "SOPInstanceUID",
    ):
        if keyword not in attributes:
            delattr(made, keyword)
    return made


def code(value: str, scheme: str, meaning: str, **more: object) -> Dataset:
    """An item of a code sequence."""
    return item(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning=meaning, **more)


def study(count: int = 1, **attributes: object) -> list[Dataset]:
    """Instances of one series, each with these attributes."""
    first = data_set(**{"Modality": "CT", **attributes})
    rest = [
        data_set(
            **{
                "Modality": "CT",
                **attributes,
                "StudyInstanceUID": first.StudyInstanceUID,
                "SeriesInstanceUID": first.SeriesInstanceUID,
            }
        )
        for _ in range(count - 1)
    ]
    return [first, *rest]


def announced(
    *made: Dataset, space: str = "default", provider: str = "test", deleted: bool = False
) -> StudyRevision:
    """The revision of the study that these instances make; if `deleted`, after their deletion."""
    engine = sa.create_engine("sqlite://")
    metadata.create_all(engine)
    uid = str(made[0].StudyInstanceUID)
    try:
        with engine.begin() as connection:
            stored = [stored_instance(one, space) for one in made]
            stored = [msgspec.structs.replace(one, provider=provider) for one in stored]
            record_batch(connection, stored, 1, DELAY_US)
            _settle(connection)
            if deleted:
                delete_instances(connection, space, uid, None, None, 2, DELAY_US)
                _settle(connection)
            data = revision.load(connection, space, uid)
    finally:
        engine.dispose()
    assert data is not None
    return msgspec.json.decode(data, type=StudyRevision)


def _settle(connection: sa.Connection) -> None:
    for due in revision.due(connection, FAR_FUTURE):
        revision.revise(
            connection,
            due.study_pk,
            FAR_FUTURE,
            lambda _space, study, series: f"{BASE}/studies/{study}/series/{series}",
        )
