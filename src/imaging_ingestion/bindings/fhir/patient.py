"""The patient of a study, and how the study refers to it (F4).

A patient is found by Patient ID together with the namespace that it is unique in. Without a Patient
ID nobody can be found, and the patient is told inside the study.
"""

from __future__ import annotations

from typing import NamedTuple

from imaging_ingestion.bindings.fhir.attributes import Attributes
from imaging_ingestion.bindings.fhir.codes import Element
from imaging_ingestion.bindings.fhir.identifiers import other_patient_ids, patient_id
from imaging_ingestion.bindings.fhir.people import human_names
from imaging_ingestion.bindings.fhir.times import fhir_date

CONTAINED_PATIENT = "patient"
_GENDERS = {"M": "male", "F": "female", "O": "other"}
_ABSENT = {
    "url": "http://hl7.org/fhir/StructureDefinition/data-absent-reason",
    "valueCode": "unknown",
}


class Subject(NamedTuple):
    """How a study tells of its patient."""

    #: ImagingStudy.subject; a logical reference (by identifier) if the patient is apart.
    reference: Element
    #: The Patient to find or make on the server, by its first identifier.
    apart: Element | None
    #: The Patient to tell inside the study.
    contained: Element | None


def subject_of(attributes: Attributes, unissued_system: str, *, contain: bool) -> Subject:
    """The patient of a study.

    `unissued_system` is the namespace of a Patient ID without issuer; `contain` keeps the patient
    inside the study even if it could be found.
    """
    identifier = patient_id(attributes, unissued_system)
    patient = _patient(attributes, identifier)
    reference = {"type": "Patient", "identifier": identifier}
    if patient is None:
        return Subject({"extension": [_ABSENT]}, None, None)
    if identifier is not None and not contain:
        return Subject(reference, patient, None)
    local = {"reference": f"#{CONTAINED_PATIENT}", **reference}
    return Subject(local, None, {**patient, "id": CONTAINED_PATIENT})


def _patient(attributes: Attributes, identifier: Element | None) -> Element | None:
    """The Patient resource; None if nothing is known of the patient."""
    names = [name for pn in attributes.names("00100010") for name in human_names(pn)]
    known: Element = {
        "identifier": [identifier, *other_patient_ids(attributes)] if identifier else None,
        "name": names or None,
        "gender": _GENDERS.get((attributes.text("00100040") or "").upper()),
        "birthDate": fhir_date(attributes.text("00100030")),
    }
    if not any(known.values()):
        return None
    return {"resourceType": "Patient", **known}
