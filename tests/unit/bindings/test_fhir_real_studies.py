"""Every study of the real collection as ImagingStudy, judged by validators that are not ours."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest
from fhir_validation import FhirValidator, fhir_validator  # noqa: F401  (a fixture)
from retrieve_site import retrieve_site
from sqlalchemy.engine import Connection

from imaging_ingestion.bindings.fhir.imaging_study import Mapped, MappingSettings, map_revision
from imaging_ingestion.brokers.settling import Settling
from imaging_ingestion.events.model import StudyRevision
from imaging_ingestion.intake import IntakeRefused
from imaging_ingestion.manifest import revision
from imaging_ingestion.manifest.overview import studies

BASE = "http://127.0.0.1:8080/spaces/default/dicom-web"
FAR_FUTURE = 4_000_000_000_000_000_000  # nanoseconds since the epoch


@pytest.fixture(scope="module")
def revisions(
    dicom_files: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> list[StudyRevision]:
    """The first revision of each study, of every file that the intake takes."""
    return asyncio.run(_take_in(dicom_files, tmp_path_factory.mktemp("collection")))


async def _take_in(files: list[Path], folder: Path) -> list[StudyRevision]:
    async with retrieve_site(folder) as site:
        taken = 0
        for file in files:
            try:
                await site.store_file(file)
                taken += 1
            except IntakeRefused:
                continue
        assert taken > len(files) / 2
        settling = Settling(
            site.database,
            lambda _space, study, series: f"{BASE}/studies/{study}/series/{series}",
            lambda: None,
            clock=lambda: FAR_FUTURE,
        )
        made = await settling.settle_due()
        found = []
        for uid in await site.database.read(_study_uids):
            data = await site.database.read(revision.load, "default", uid)
            assert data is not None
            found.append(msgspec.json.decode(data, type=StudyRevision))
        assert len(found) == made > 0
        return found


def _study_uids(connection: Connection) -> list[str]:
    return [found.study_instance_uid for found in studies(connection, limit=10_000)]


@pytest.fixture(scope="module")
def mapped(revisions: list[StudyRevision]) -> list[tuple[StudyRevision, Mapped]]:
    return [(one, map_revision(one, MappingSettings())) for one in revisions]


def test_every_real_study_and_patient_is_valid(
    mapped: list[tuple[StudyRevision, Mapped]],
    fhir_validator: FhirValidator,  # noqa: F811
) -> None:
    # F16
    complaints = {}
    for one, (study, patient) in mapped:
        found = fhir_validator.complaints(study)
        found += fhir_validator.complaints(patient) if patient is not None else []
        if found:
            complaints[one.study.study_instance_uid] = found
    assert complaints == {}


def test_every_real_study_with_its_patient_inside_is_valid(
    revisions: list[StudyRevision],
    fhir_validator: FhirValidator,  # noqa: F811
) -> None:
    # F4, F16
    complaints = {}
    for one in revisions:
        study, patient = map_revision(one, MappingSettings(), contain_patient=True)
        assert patient is None
        if found := fhir_validator.complaints(study):
            complaints[one.study.study_instance_uid] = found
    assert complaints == {}


def test_every_real_study_has_its_series_and_instances_counted(
    mapped: list[tuple[StudyRevision, Mapped]],
) -> None:
    # F1, F7, F9, F11
    for one, (study, _) in mapped:
        expected = {
            s.series_instance_uid: {i.sop_instance_uid for i in s.instances}
            for s in one.study.series
        }
        told = {s["uid"]: {i["uid"] for i in s["instance"]} for s in study["series"]}
        assert told == expected
        assert study["numberOfSeries"] == len(expected)
        assert study["numberOfInstances"] == sum(map(len, expected.values()))
        assert all(s["numberOfInstances"] == len(told[s["uid"]]) for s in study["series"])
        uids = [i["value"] for i in study["identifier"] if i.get("system") == "urn:dicom:uid"]
        assert uids == [f"urn:oid:{one.study.study_instance_uid}"]


def test_every_real_study_is_mapped_alike_twice(revisions: list[StudyRevision]) -> None:
    # F13
    for one in revisions:
        assert map_revision(one, MappingSettings()) == map_revision(one, MappingSettings())
