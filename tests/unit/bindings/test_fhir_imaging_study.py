"""The mapping of a study revision to ImagingStudy, line by line of the conformance checklist."""

from __future__ import annotations

from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest
from fhir_revisions import BASE, announced, code, item, study
from fhir_validation import FhirValidator, fhir_validator  # noqa: F401  (a fixture)
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from recorded import data_set

from imaging_ingestion.bindings.fhir.imaging_study import MappingSettings, map_revision
from imaging_ingestion.events.model import Element, RevisionStudy, StudyRevision

DCM = "http://dicom.nema.org/resources/ontology/DCM"
SCT = "http://snomed.info/sct"
ACSN = {
    "system": "http://terminology.hl7.org/CodeSystem/v2-0203",
    "code": "ACSN",
    "display": "Accession ID",
}


@pytest.fixture
def mapped(fhir_validator: FhirValidator):  # noqa: F811
    """Maps instances to their ImagingStudy, which is to be valid (F16)."""

    def of(*made: Dataset, settings: MappingSettings | None = None, **how: Any) -> dict[str, Any]:
        contain = how.pop("contain_patient", False)
        result = map_revision(
            announced(*made, **how), settings or MappingSettings(), contain_patient=contain
        )
        for resource in result:
            assert resource is None or fhir_validator.complaints(resource) == []
        return result.study

    return of


def by_type(resource: dict[str, Any], code: str) -> list[dict[str, Any]]:
    return [
        i
        for i in resource["identifier"]
        if i.get("type", {}).get("coding", [{}])[0].get("code") == code
    ]


def test_the_study_instance_uid_is_an_identifier(mapped) -> None:
    # F1
    made = study()
    found = [i for i in mapped(*made)["identifier"] if i.get("system") == "urn:dicom:uid"]
    assert [i["value"] for i in found] == [f"urn:oid:{made[0].StudyInstanceUID}"]


def test_the_accession_number_has_the_namespace_of_its_issuer(mapped) -> None:
    # F2
    issuer = item(
        LocalNamespaceEntityID="RIS",
        UniversalEntityID="1.2.276.0.76.3.1",
        UniversalEntityIDType="ISO",
    )
    resource = mapped(*study(AccessionNumber="A 1", IssuerOfAccessionNumberSequence=[issuer]))
    assert by_type(resource, "ACSN") == [
        {
            "use": "usual",
            "type": {"coding": [ACSN]},
            "system": "urn:oid:1.2.276.0.76.3.1",
            "value": "A 1",
            "assigner": {"display": "RIS"},
        }
    ]


def test_an_accession_number_with_a_local_issuer_names_its_assigner(mapped) -> None:
    # F2
    issuer = item(LocalNamespaceEntityID="RIS")
    resource = mapped(*study(AccessionNumber="7", IssuerOfAccessionNumberSequence=[issuer]))
    (found,) = by_type(resource, "ACSN")
    assert "system" not in found
    assert found["assigner"] == {"display": "RIS"}


@pytest.mark.parametrize("empty", [None, "", "  "])
def test_without_accession_number_there_is_no_such_identifier_and_no_order(mapped, empty) -> None:
    # F2, F8
    resource = mapped(*study(AccessionNumber=empty))
    assert len(resource["identifier"]) == 1
    assert "basedOn" not in resource


def test_the_study_id_is_a_further_identifier(mapped) -> None:
    # F2
    assert mapped(*study(StudyID="S-1"))["identifier"][1] == {
        "use": "secondary",
        "type": {"text": "Study ID"},
        "value": "S-1",
    }


def test_a_study_with_instances_is_available(mapped) -> None:
    # F3
    assert mapped(*study())["status"] == "available"


def test_a_study_without_instances_is_cancelled(mapped) -> None:
    # F3, F7: as R4 words it, `entered-in-error` would say that it was never made
    resource = mapped(*study(2, StudyDescription="Head"), deleted=True)
    assert resource["status"] == "cancelled"
    assert (resource["numberOfSeries"], resource["numberOfInstances"]) == (0, 0)
    assert resource["description"] == "Head"
    assert not resource.keys() & {"series", "endpoint", "contained", "modality"}


def test_modalities_are_distinct_codings(mapped) -> None:
    # F5
    first, second = study(2, Modality="CT")
    second.SeriesInstanceUID = generate_uid()
    (third,) = study(StudyInstanceUID=first.StudyInstanceUID, Modality="SR")
    modalities = mapped(first, second, third)["modality"]
    assert sorted(modalities, key=lambda m: m["code"]) == [
        {"system": DCM, "code": "CT", "display": "Computed Tomography"},
        {"system": DCM, "code": "SR", "display": "Structured Report Document"},
    ]


@pytest.mark.parametrize(
    ("attributes", "started"),
    [
        (
            {
                "StudyDate": "20240229",
                "StudyTime": "101112.345",
                "TimezoneOffsetFromUTC": "-0430",
            },
            "2024-02-29T10:11:12.345-04:30",
        ),
        ({"StudyDate": "20240701", "StudyTime": "1011"}, "2024-07-01T10:11:00+02:00"),
        ({"StudyDate": "20240101", "StudyTime": "101112"}, "2024-01-01T10:11:12+01:00"),
        (
            {"StudyDate": "20240101", "StudyTime": "10", "TimezoneOffsetFromUTC": "x"},
            "2024-01-01T10:00:00+01:00",
        ),
        ({"StudyDate": "20240101"}, "2024-01-01"),
        ({"StudyDate": "20240101", "StudyTime": "25"}, "2024-01-01"),
        ({"StudyDate": "1994.11.05", "StudyTime": "11:20:00"}, "1994-11-05T11:20:00+01:00"),
        ({"StudyDate": "20230229", "StudyTime": "1011"}, None),
        ({"StudyDate": "", "StudyTime": "1011"}, None),
        ({"StudyTime": "1011"}, None),
    ],
)
def test_started_has_an_offset_or_is_a_date_or_is_left_out(mapped, attributes, started) -> None:
    # F6
    settings = MappingSettings(ZoneInfo("Europe/Berlin"))
    assert mapped(*study(**attributes), settings=settings).get("started") == started


def test_a_series_started_in_the_time_zone_of_its_instances(mapped) -> None:
    # F6, F9
    made = study(SeriesDate="20240101", SeriesTime="0800", TimezoneOffsetFromUTC="+0900")
    assert mapped(*made)["series"][0]["started"] == "2024-01-01T08:00:00+09:00"


def test_a_series_without_time_zone_has_that_of_its_study(mapped) -> None:
    # F6, F9
    (first,) = study(SeriesNumber="1", TimezoneOffsetFromUTC="+0900")
    (second,) = study(
        SeriesNumber="2",
        StudyInstanceUID=first.StudyInstanceUID,
        SeriesDate="20240101",
        SeriesTime="0800",
    )
    assert mapped(first, second)["series"][1]["started"] == "2024-01-01T08:00:00+09:00"


def test_what_is_stored_is_counted(mapped) -> None:
    # F7: what the instances say of these numbers is not asked
    first, second = study(2, NumberOfStudyRelatedInstances=99, NumberOfStudyRelatedSeries=9)
    (third,) = study(StudyInstanceUID=first.StudyInstanceUID)
    resource = mapped(first, second, third)
    assert (resource["numberOfSeries"], resource["numberOfInstances"]) == (2, 3)
    assert sorted(s["numberOfInstances"] for s in resource["series"]) == [1, 2]


def test_description_and_people_are_told(mapped) -> None:
    # F8
    person = code("123", "99HOSP", "Dr House")
    identification = item(
        PersonIdentificationCodeSequence=[person], InstitutionName="Princeton-Plainsboro"
    )
    resource = mapped(
        *study(
            StudyDescription="  Thorax mit Kontrastmittel\n",
            ReferringPhysicianName="House^Gregory^^Dr^MD",
            ReferringPhysicianIdentificationSequence=[identification],
            NameOfPhysiciansReadingStudy=["Wilson^James", "Cuddy^Lisa"],
            PhysiciansReadingStudyIdentificationSequence=[identification],
        )
    )
    assert resource["description"] == "Thorax mit Kontrastmittel"
    assert resource["referrer"] == {
        "type": "Practitioner",
        "identifier": {
            "system": "https://imaging-ingestion.alvearie.org/fhir/coding-scheme/99HOSP",
            "value": "123",
            "assigner": {"display": "Princeton-Plainsboro"},
        },
        "display": "Dr Gregory House MD",
    }
    # One identification for two names says nothing of whose it is.
    assert resource["interpreter"] == [
        {"type": "Practitioner", "display": "James Wilson"},
        {"type": "Practitioner", "display": "Lisa Cuddy"},
    ]


def test_people_without_a_name_are_told_by_their_identification(mapped) -> None:
    # F8
    identification = item(PersonIdentificationCodeSequence=[code("9", "L", "Nurse Joy")])
    resource = mapped(*study(ReferringPhysicianIdentificationSequence=[identification]))
    assert resource["referrer"]["display"] == "Nurse Joy"
    assert resource["referrer"]["identifier"]["value"] == "9"


def test_procedures_are_coded_in_the_systems_that_fhir_knows(mapped) -> None:
    # F8
    codes = [
        code("24627-2", "LN", "CT Chest"),
        code("169069000", "SCT", "CT of chest"),
        code("24627-2", "LN", "CT Chest"),
        code("X7", "99ACME", "Thorax", CodingSchemeUID="1.2.3.4"),
        code("X 8 ", "99ACME/1", "Thorax 2"),
        item(CodeMeaning="Only words"),
        item(URNCodeValue="urn:oid:1.2.3", CodeMeaning="By URN"),
        item(LongCodeValue="L" * 20, CodingSchemeDesignator="SRT", CodeMeaning="Long"),
        item(),
    ]
    resource = mapped(*study(ProcedureCodeSequence=codes))
    minted = "https://imaging-ingestion.alvearie.org/fhir/coding-scheme/99ACME%2F1"
    told = [(c.get("coding", [{}])[0], c["text"]) for c in resource["procedureCode"]]
    assert [(c.get("system"), c.get("code"), text) for c, text in told] == [
        ("http://loinc.org", "24627-2", "CT Chest"),
        (SCT, "169069000", "CT of chest"),
        ("urn:oid:1.2.3.4", "X7", "Thorax"),
        (minted, "X 8", "Thorax 2"),
        (None, None, "Only words"),
        ("urn:ietf:rfc:3986", "urn:oid:1.2.3", "By URN"),
        ("http://snomed.info/srt", "L" * 20, "Long"),
    ]


def test_reasons_and_orders_come_from_the_request_too(mapped) -> None:
    # F8
    asked = item(
        AccessionNumber="B2",
        ReasonForTheRequestedProcedure="not needed beside the code",
        ReasonForRequestedProcedureCodeSequence=[code("267036007", "SCT", "Dyspnea")],
    )
    also = item(AccessionNumber="A1", ReasonForTheRequestedProcedure="Husten")
    resource = mapped(*study(AccessionNumber="A1", RequestAttributesSequence=[asked, also]))
    assert resource["reasonCode"] == [
        {
            "coding": [{"system": SCT, "code": "267036007", "display": "Dyspnea"}],
            "text": "Dyspnea",
        },
        {"text": "Husten"},
    ]
    assert [o["identifier"]["value"] for o in resource["basedOn"]] == ["A1", "B2"]
    assert all(o["type"] == "ServiceRequest" for o in resource["basedOn"])


def test_the_department_is_the_location(mapped) -> None:
    # F8
    resource = mapped(*study(InstitutionalDepartmentName="Radiologie 2"))
    assert resource["location"] == {"type": "Location", "display": "Radiologie 2"}


def test_a_series_is_told_whole(mapped) -> None:
    # F9
    made = study(
        SeriesNumber="3",
        SeriesDescription="axial",
        BodyPartExamined="KNEE",
        Laterality="L",
        PerformingPhysicianName="Quinn^Michaela",
        OperatorsName="Scott^Montgomery",
        SeriesDate="20200102",
        SeriesTime="030405.06",
    )
    (series,) = mapped(*made)["series"]
    function = "http://terminology.hl7.org/CodeSystem/v3-ParticipationType"
    del series["instance"], series["endpoint"]
    assert series == {
        "uid": made[0].SeriesInstanceUID,
        "number": 3,
        "modality": {"system": DCM, "code": "CT", "display": "Computed Tomography"},
        "description": "axial",
        "numberOfInstances": 1,
        "bodySite": {"system": SCT, "code": "72696002", "display": "Knee"},
        "laterality": {"system": SCT, "code": "419161000", "display": "Unilateral left"},
        "started": "2020-01-02T03:04:05.060+00:00",
        "performer": [
            {
                "function": {
                    "coding": [{"system": function, "code": "PRF", "display": "performer"}]
                },
                "actor": {"type": "Practitioner", "display": "Michaela Quinn"},
            },
            {
                "function": {
                    "coding": [
                        {"system": function, "code": "SPRF", "display": "secondary performer"}
                    ]
                },
                "actor": {"type": "Practitioner", "display": "Montgomery Scott"},
            },
        ],
    }


@pytest.mark.parametrize(
    ("term", "told"),
    [
        ("Whole Body", {"system": SCT, "code": "38266002", "display": "Entire body"}),
        ("LEFT PINKY", {"display": "LEFT PINKY"}),
        ("", None),
    ],
)
def test_a_body_part_is_coded_if_it_is_known(mapped, term, told) -> None:
    # F9
    (series,) = mapped(*study(BodyPartExamined=term))["series"]
    assert series.get("bodySite") == told


@pytest.mark.parametrize(
    ("term", "code"), [("R", "419465000"), ("B", "51440002"), ("U", None), ("X", None)]
)
def test_laterality_is_that_of_the_value_set_or_left_out(mapped, term, code) -> None:
    # F9
    (series,) = mapped(*study(Laterality=term))["series"]
    assert series.get("laterality", {}).get("code") == code


@pytest.mark.parametrize("modality", ["", None])
def test_a_series_without_modality_is_other(mapped, modality) -> None:
    # F10
    resource = mapped(*study(Modality=modality))
    other = {"system": DCM, "code": "OT", "display": "Other"}
    assert resource["series"][0]["modality"] == other
    assert resource["modality"] == [other]


@pytest.mark.parametrize(
    ("number", "told"),
    [("0", 0), ("2147483647", 2147483647), ("-1", None), ("2147483648", None)],
)
def test_numbers_that_fhir_cannot_hold_are_left_out(mapped, number, told) -> None:
    # F10, F11
    (series,) = mapped(*study(SeriesNumber=number, InstanceNumber=number))["series"]
    assert series.get("number") == told
    assert series["instance"][0].get("number") == told


def test_a_series_number_of_letters_is_left_out(mapped) -> None:
    # F10
    (made,) = study()
    made.add(DataElement(0x00200011, "LO", "four"))
    assert "number" not in mapped(made)["series"][0]


def test_an_instance_is_told_by_uid_class_and_number(mapped) -> None:
    # F11
    made = study(InstanceNumber="12")
    assert mapped(*made)["series"][0]["instance"] == [
        {
            "uid": made[0].SOPInstanceUID,
            "sopClass": {
                "system": "urn:ietf:rfc:3986",
                "code": "urn:oid:1.2.840.10008.5.1.4.1.1.2",
            },
            "number": 12,
        }
    ]


def test_series_and_instances_are_in_the_order_of_their_numbers(mapped) -> None:
    # F13: the same study is told alike however it came
    first = data_set(Modality="CT", SeriesNumber="10", InstanceNumber="2")
    uid = first.StudyInstanceUID
    others = [
        data_set(
            Modality="CT",
            SeriesNumber="10",
            InstanceNumber="1",
            StudyInstanceUID=uid,
            SeriesInstanceUID=first.SeriesInstanceUID,
        ),
        data_set(Modality="CT", SeriesNumber="9", StudyInstanceUID=uid),
        data_set(Modality="CT", StudyInstanceUID=uid),
    ]
    resource = mapped(first, *others)
    assert [s.get("number") for s in resource["series"]] == [9, 10, None]
    assert [i["number"] for i in resource["series"][1]["instance"]] == [1, 2]
    assert mapped(*reversed(others), first)["series"] == resource["series"]


def test_the_endpoint_is_the_dicomweb_base(mapped) -> None:
    # F12
    resource = mapped(*study())
    (endpoint,) = resource["contained"]
    assert endpoint == {
        "resourceType": "Endpoint",
        "id": "dicomweb",
        "status": "active",
        "connectionType": {
            "system": "http://terminology.hl7.org/CodeSystem/endpoint-connection-type",
            "code": "dicom-wado-rs",
            "display": "DICOM WADO-RS",
        },
        "payloadType": [{"text": "DICOM WADO-RS"}],
        "payloadMimeType": ["application/dicom"],
        "address": BASE,
    }
    assert resource["endpoint"] == [{"reference": "#dicomweb"}]
    assert resource["series"][0]["endpoint"] == [{"reference": "#dicomweb"}]


def test_the_endpoint_is_the_root_that_readers_reach_where_that_is_another(mapped) -> None:
    # F12
    made = study()
    root = mapped(*made)["contained"][0]["address"]
    settings = MappingSettings(addresses={root: "https://images.example/dicom-web"})
    (endpoint,) = mapped(*made, settings=settings)["contained"]
    assert endpoint["address"] == "https://images.example/dicom-web"


def test_values_of_odd_characters_become_strings_that_fhir_allows(mapped) -> None:
    # F16
    resource = mapped(
        *study(
            StudyDescription="a\u00a0b\u3000c\x7f\x85d",
            SeriesDescription="\u2003",
            PatientName="\u00a0^\u3000",
            PatientID="7",
            ReferringPhysicianName="^^^^",
            StudyID="\u00a0",
        )
    )
    assert resource["description"] == "a b cd"
    assert "description" not in resource["series"][0]
    assert "referrer" not in resource


def test_an_event_of_upstream_without_dicom_json_is_mapped_from_its_elements(
    fhir_validator: FhirValidator,  # noqa: F811
) -> None:
    # F8: the elements that upstream's events list
    whole = announced(*study())
    elements = (
        Element("0008", "0050", "SH", "A1"),
        Element("0008", "0090", "PN", "House^Gregory"),
        Element("0010", "0010", "PN", "Yamada^Tarou=山田^太郎"),
        Element("0010", "0020", "LO", "P1"),
        Element("0010", "0030", "DA", None),
        Element("0008", "1032", "SQ", None),
    )
    bare = msgspec.structs.replace(
        whole.study, attributes=elements, dicom_json=msgspec.Raw(b"{}"), series=whole.study.series
    )
    assert isinstance(bare, RevisionStudy)
    revision = StudyRevision(0, bare, whole.change_set)
    resource, patient = map_revision(revision, MappingSettings())
    assert patient is not None
    assert fhir_validator.complaints(resource) == fhir_validator.complaints(patient) == []
    assert resource["basedOn"][0]["identifier"]["value"] == "A1"
    assert resource["referrer"]["display"] == "Gregory House"
    assert [name["text"] for name in patient["name"]] == ["Tarou Yamada", "山田 太郎"]
