"""The patient of a study: whose identifier it is, and what is told when there is none (F4)."""

from __future__ import annotations

from typing import Any

import pytest
from fhir_revisions import announced, item, study
from fhir_validation import FhirValidator, fhir_validator  # noqa: F401  (a fixture)

from imaging_ingestion.bindings.fhir.imaging_study import Mapped, MappingSettings, map_revision

NAMESPACE = "https://imaging-ingestion.alvearie.org/fhir"


@pytest.fixture
def mapped(fhir_validator: FhirValidator):  # noqa: F811
    """Maps a study with these attributes; study and patient are to be valid (F16)."""

    def of(
        settings: MappingSettings | None = None,
        contain_patient: bool = False,
        space: str = "default",
        provider: str = "test",
        **attributes: Any,
    ) -> Mapped:
        revision = announced(*study(**attributes), space=space, provider=provider)
        result = map_revision(
            revision, settings or MappingSettings(), contain_patient=contain_patient
        )
        for resource in result:
            assert resource is None or fhir_validator.complaints(resource) == []
        return result

    return of


def system(mapped: Mapped) -> str:
    """The namespace of the patient's identifier, which study and patient agree on."""
    assert mapped.patient is not None
    identifier: dict[str, str] = mapped.patient["identifier"][0]
    assert mapped.study["subject"] == {"type": "Patient", "identifier": identifier}
    return identifier["system"]


def qualifiers(**attributes: str) -> list[Any]:
    return [item(**attributes)]


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"IssuerOfPatientID": "1.2.276.0.76.4"}, "urn:oid:1.2.276.0.76.4"),
        ({"IssuerOfPatientID": "urn:oid:1.2.276.0.76.4"}, "urn:oid:1.2.276.0.76.4"),
        ({"IssuerOfPatientID": "https://klinik.example/id"}, "https://klinik.example/id"),
        ({"IssuerOfPatientID": "KIS 1/Süd"}, f"{NAMESPACE}/issuer/KIS%201%2FS%C3%BCd"),
        ({"IssuerOfPatientID": "HOSP:ADT"}, f"{NAMESPACE}/issuer/HOSP%3AADT"),
        (
            {
                "IssuerOfPatientID": "ADT",
                "IssuerOfPatientIDQualifiersSequence": qualifiers(
                    UniversalEntityID="1.2.3.4", UniversalEntityIDType="ISO"
                ),
            },
            "urn:oid:1.2.3.4",
        ),
        (
            {
                "IssuerOfPatientIDQualifiersSequence": qualifiers(
                    UniversalEntityID="E3F1A2B4-0000-4000-8000-ABCDEF012345",
                    UniversalEntityIDType="UUID",
                )
            },
            "urn:uuid:e3f1a2b4-0000-4000-8000-abcdef012345",
        ),
        (
            {
                "IssuerOfPatientIDQualifiersSequence": qualifiers(
                    UniversalEntityID="https://klinik.example/x", UniversalEntityIDType="URI"
                )
            },
            "https://klinik.example/x",
        ),
        (
            {
                "IssuerOfPatientIDQualifiersSequence": qualifiers(
                    UniversalEntityID="klinik.example", UniversalEntityIDType="DNS"
                )
            },
            f"{NAMESPACE}/issuer/DNS/klinik.example",
        ),
        (
            {
                "IssuerOfPatientID": "ADT",
                "IssuerOfPatientIDQualifiersSequence": qualifiers(
                    UniversalEntityID="not an oid", UniversalEntityIDType="ISO"
                ),
            },
            f"{NAMESPACE}/issuer/ADT",
        ),
        (
            {"IssuerOfPatientIDQualifiersSequence": qualifiers(LocalNamespaceEntityID="KIS")},
            f"{NAMESPACE}/issuer/KIS",
        ),
        ({}, f"{NAMESPACE}/space/default/provider/test/patient-id"),
        ({"IssuerOfPatientID": " "}, f"{NAMESPACE}/space/default/provider/test/patient-id"),
    ],
)
def test_the_issuer_is_the_namespace_of_the_patient_id(mapped, attributes, expected) -> None:
    # F4
    assert system(mapped(PatientID="P1", **attributes)) == expected


def test_two_people_with_one_patient_id_are_not_merged(mapped) -> None:
    # F4: another issuer, another space, another provider are other people
    systems = {
        system(mapped(PatientID="1", IssuerOfPatientID="A")),
        system(mapped(PatientID="1", IssuerOfPatientID="B")),
        system(mapped(PatientID="1")),
        system(mapped(PatientID="1", space="research")),
        system(mapped(PatientID="1", provider="clinic-2")),
        system(mapped(PatientID="1", space="a/provider/b", provider="c")),
        system(mapped(PatientID="1", space="a", provider="b/provider/c")),
    }
    assert len(systems) == 7


def test_a_site_may_name_the_namespace_of_ids_without_issuer(mapped) -> None:
    # F4
    settings = MappingSettings(patient_id_system="urn:oid:1.2.3")
    assert system(mapped(settings, PatientID="1")) == "urn:oid:1.2.3"
    assert system(mapped(settings, PatientID="1", IssuerOfPatientID="2.16.840.1")) == (
        "urn:oid:2.16.840.1"
    )


def test_the_patient_is_told_whole(mapped) -> None:
    # F4
    other = item(PatientID="O1", IssuerOfPatientID="OTHER")
    unissued = item(PatientID="O2")
    patient = mapped(
        PatientID="P1",
        IssuerOfPatientID="KIS",
        OtherPatientIDsSequence=[other, unissued],
        PatientName="Yamada^Tarou^Ken^Dr^Jr=山田^太郎=やまだ^たろう",
        PatientSex="M",
        PatientBirthDate="19641128",
    ).patient
    writing = "http://hl7.org/fhir/StructureDefinition/iso21090-EN-representation"
    assert patient == {
        "resourceType": "Patient",
        "identifier": [
            {
                "system": f"{NAMESPACE}/issuer/KIS",
                "value": "P1",
                "assigner": {"display": "KIS"},
            },
            {
                "system": f"{NAMESPACE}/issuer/OTHER",
                "value": "O1",
                "assigner": {"display": "OTHER"},
            },
        ],
        "name": [
            {
                "text": "Dr Tarou Ken Yamada Jr",
                "family": "Yamada",
                "given": ["Tarou", "Ken"],
                "prefix": ["Dr"],
                "suffix": ["Jr"],
            },
            {
                "extension": [{"url": writing, "valueCode": "IDE"}],
                "text": "山田 太郎",
                "family": "山田",
                "given": ["太郎"],
            },
            {
                "extension": [{"url": writing, "valueCode": "SYL"}],
                "text": "やまだ たろう",
                "family": "やまだ",
                "given": ["たろう"],
            },
        ],
        "gender": "male",
        "birthDate": "1964-11-28",
    }


@pytest.mark.parametrize(
    "attributes", [{"PatientSex": "N/A"}, {"PatientBirthDate": "19640230"}, {"PatientName": "^^"}]
)
def test_what_is_no_sex_date_or_name_is_left_out(mapped, attributes) -> None:
    # F4, F16
    patient = mapped(PatientID="P1", **attributes).patient
    assert patient.keys() == {"resourceType", "identifier"}


def test_a_patient_without_id_is_told_inside_the_study(mapped) -> None:
    # F4
    result = mapped(PatientName="Doe^Jane", PatientSex="F")
    assert result.patient is None
    assert result.study["subject"] == {"reference": "#patient", "type": "Patient"}
    assert result.study["contained"][0] == {
        "resourceType": "Patient",
        "id": "patient",
        "name": [{"text": "Jane Doe", "family": "Doe", "given": ["Jane"]}],
        "gender": "female",
    }


def test_a_server_of_studies_alone_gets_the_patient_inside(mapped) -> None:
    # F4
    result = mapped(contain_patient=True, PatientID="P1")
    identifier = {
        "system": f"{NAMESPACE}/space/default/provider/test/patient-id",
        "value": "P1",
    }
    assert result.patient is None
    assert result.study["subject"] == {
        "reference": "#patient",
        "type": "Patient",
        "identifier": identifier,
    }
    assert result.study["contained"][0]["identifier"] == [identifier]


def test_a_study_without_anything_of_its_patient_says_that_it_is_not_known(mapped) -> None:
    # F4: subject is required
    result = mapped()
    assert result.patient is None
    assert result.study["subject"] == {
        "extension": [
            {
                "url": "http://hl7.org/fhir/StructureDefinition/data-absent-reason",
                "valueCode": "unknown",
            }
        ]
    }
