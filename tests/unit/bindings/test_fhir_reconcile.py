"""What becomes of a resource that a server has already: ours is replaced, others' is kept."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
from fhir_revisions import announced, study

from imaging_ingestion.bindings.fhir.imaging_study import MappingSettings, map_revision
from imaging_ingestion.bindings.fhir.reconcile import subject_is_settled, updated

ATTRIBUTES: dict[str, Any] = {
    "AccessionNumber": "A1",
    "StudyID": "S1",
    "StudyDescription": "old",
    "PatientID": "P1",
    "StudyInstanceUID": "1.2.3",
    "SeriesInstanceUID": "1.2.3.1",
}


def ours(*, deleted: bool = False, contain: bool = False, **attributes: Any) -> dict[str, Any]:
    made = study(**{**ATTRIBUTES, "SOPInstanceUID": "1.2.3.1.1", **attributes})
    revision = announced(*made, deleted=deleted)
    return map_revision(revision, MappingSettings(), contain_patient=contain).study


def on_server(resource: dict[str, Any], **more: Any) -> dict[str, Any]:
    """The resource as a server would keep it."""
    kept = deepcopy(resource) | {"id": "7", "meta": {"versionId": "3", "lastUpdated": "2024"}}
    if "identifier" in kept["subject"] and "reference" not in kept["subject"]:
        kept["subject"]["reference"] = "Patient/12"
    return kept | more


def test_what_is_the_same_is_not_replaced() -> None:
    # F13
    existing = on_server(ours(), text={"status": "generated", "div": "<div>made by it</div>"})
    assert updated(existing, ours()) is existing


def test_contained_resources_in_another_order_are_the_same() -> None:
    # F13
    existing = on_server(ours(contain=True))
    existing["contained"].reverse()
    existing["contained"][0]["id"] = "#" + existing["contained"][0]["id"]
    assert updated(existing, ours(contain=True)) is existing


def test_a_change_of_ours_replaces_what_is_ours() -> None:
    existing = on_server(ours(StudyID="S1"), text={"status": "generated", "div": "<div>old</div>"})
    wanted = updated(existing, ours(StudyDescription="new", StudyID=None, AccessionNumber=None))
    assert wanted["description"] == "new"
    assert [i["value"] for i in wanted["identifier"]] == ["urn:oid:1.2.3"]
    assert "basedOn" not in wanted
    assert "text" not in wanted  # a narrative of what was
    assert (wanted["id"], wanted["meta"]) == ("7", existing["meta"])


def test_what_others_added_is_kept() -> None:
    theirs = {
        "note": [{"text": "seen", "authorReference": {"reference": "#doc"}}],
        "encounter": {"reference": "Encounter/9"},
        "extension": [{"url": "https://ehr.example/x", "valueBoolean": True}],
    }
    existing = on_server(ours(), **theirs)
    existing["identifier"].append({"system": "https://ehr.example/id", "value": "E5"})
    doctor = {"resourceType": "Practitioner", "id": "doc"}
    existing["contained"] += [doctor, {"resourceType": "Endpoint", "id": "of-no-use"}]
    existing["meta"]["security"] = [{"code": "R"}]
    wanted = updated(existing, ours(StudyDescription="new"))
    assert {key: wanted[key] for key in theirs} == theirs
    assert wanted["identifier"][-1] == {"system": "https://ehr.example/id", "value": "E5"}
    assert [c["id"] for c in wanted["contained"]] == ["dicomweb", "doc"]
    assert wanted["meta"]["security"] == [{"code": "R"}]
    assert updated(wanted, ours(StudyDescription="new")) is wanted


def test_the_reference_to_the_same_patient_is_kept_as_the_server_has_it() -> None:
    # F4: a server that merges patients rewrites references
    existing = on_server(ours())
    existing["subject"]["reference"] = "Patient/merged"
    wanted = updated(existing, ours(StudyDescription="new"))
    assert subject_is_settled(existing, ours())
    assert wanted["subject"]["reference"] == "Patient/merged"


@pytest.mark.parametrize(
    "subject",
    [
        {"reference": "Patient/1"},
        {"reference": "#patient.contained.inline"},  # upstream's
        {"display": "somebody"},
        None,
    ],
)
def test_a_subject_that_is_not_known_to_be_the_patient_is_replaced(subject: Any) -> None:
    # F4
    existing = on_server(ours())
    existing["subject"] = subject
    assert not subject_is_settled(existing, ours())
    assert updated(existing, ours())["subject"] == ours()["subject"]


def test_another_patient_id_is_another_patient() -> None:
    # F4
    corrected = ours(PatientID="P2")
    assert not subject_is_settled(on_server(ours()), corrected)
    assert updated(on_server(ours()), corrected)["subject"] == corrected["subject"]


def test_a_study_that_knows_nothing_of_its_patient_leaves_the_subject_alone() -> None:
    # F4
    existing = on_server(ours())
    assert updated(existing, ours(PatientID=None))["subject"] == existing["subject"]


@pytest.mark.parametrize("contain", [False, True])
def test_a_withdrawn_study_keeps_its_patient(contain: bool) -> None:
    # F3, F4
    existing = on_server(ours(contain=contain))
    withdrawn = updated(existing, ours(deleted=True, contain=contain))
    assert withdrawn["status"] == "cancelled"
    assert "series" not in withdrawn
    assert withdrawn["subject"] == existing["subject"]
    patients = [c for c in existing["contained"] if c["resourceType"] == "Patient"]
    assert withdrawn.get("contained", []) == patients
    assert updated(withdrawn, ours(deleted=True, contain=contain)) is withdrawn


def test_a_resource_of_upstream_is_taken_over() -> None:
    existing = {
        "resourceType": "ImagingStudy",
        "id": "u",
        "meta": {"versionId": "1"},
        "contained": [
            {"resourceType": "Patient", "id": "patient.contained.inline"},
            {"resourceType": "Endpoint", "id": "5d1f", "status": "active"},
        ],
        "identifier": [{"system": "urn:dicom:uid", "value": "urn:oid:1.2.3"}],
        "status": "available",
        "subject": {"reference": "#patient.contained.inline"},
    }
    wanted = updated(existing, ours())
    assert wanted == {**ours(), "id": "u", "meta": {"versionId": "1"}}
