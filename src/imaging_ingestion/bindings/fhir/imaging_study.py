"""From a revision of a study to its R4 ImagingStudy: the mapping table of docs/fhir.md as code.

Pure: what goes in is what the manifest announced, what comes out is a resource that is valid as it
stands and holds nothing empty. The line numbers (F1 to F16) are those of the conformance checklist.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, tzinfo
from typing import Any, NamedTuple

from imaging_ingestion.bindings.fhir import codes
from imaging_ingestion.bindings.fhir.attributes import Attributes
from imaging_ingestion.bindings.fhir.codes import Element, distinct, minted
from imaging_ingestion.bindings.fhir.identifiers import accession, study_id, study_uid
from imaging_ingestion.bindings.fhir.patient import subject_of
from imaging_ingestion.bindings.fhir.people import performers, practitioners
from imaging_ingestion.bindings.fhir.times import fhir_date_time
from imaging_ingestion.events.model import (
    RevisionInstance,
    RevisionSeries,
    RevisionStudy,
    StudyRevision,
)

Resource = dict[str, Any]

AVAILABLE = "available"
#: A study whose instances were all deleted. R4 keeps `entered-in-error` for what never happened in
#: the real world; why the instances went is not known here.
WITHDRAWN = "cancelled"
_UNSIGNED_INT = 0x7FFFFFFF
_REQUEST_ATTRIBUTES = "00400275"
_TIMEZONE_OFFSET = "00080201"


@dataclass(frozen=True, slots=True)
class MappingSettings:
    """What a site says of its own DICOM.

    `time_zone` is that of dates and times without Timezone Offset From UTC; `patient_id_system` the
    namespace of Patient IDs without issuer (None: one for each space and provider). `addresses`:
    DICOMweb roots as events name them, and as readers of the FHIR server reach them, where these
    differ.
    """

    time_zone: tzinfo = UTC
    patient_id_system: str | None = None
    addresses: Mapping[str, str] = field(default_factory=dict)


class Mapped(NamedTuple):
    """An ImagingStudy, and the Patient that it refers to by identifier (None: it contains it)."""

    study: Resource
    patient: Resource | None


def map_revision(
    revision: StudyRevision, settings: MappingSettings, *, contain_patient: bool = False
) -> Mapped:
    """The ImagingStudy of a revision. Raises msgspec.DecodeError for attributes that are no JSON.

    `contain_patient` tells the patient inside the study, for a server that takes no other resource.
    """
    study = revision.study
    attributes = _attributes(study)
    series = sorted((s for s in study.series if s.instances), key=_series_order)
    read = [(s, _attributes(s)) for s in series]
    requests = [item for _, a in read for item in a.items(_REQUEST_ATTRIBUTES)]
    subject = subject_of(attributes, _unissued_system(revision, settings), contain=contain_patient)
    endpoints = _Endpoints(series, settings.addresses)
    resource: Resource = {
        "resourceType": "ImagingStudy",
        "contained": [subject.contained, *endpoints.resources],
        "identifier": [
            study_uid(study.study_instance_uid),
            accession(attributes),
            study_id(attributes),
        ],
        "status": AVAILABLE if series else WITHDRAWN,
        "modality": distinct(codes.modality(s.modality) for s in series),
        "subject": subject.reference,
        "started": _started(attributes, "00080020", "00080030", attributes, settings),
        "basedOn": distinct(_order(source) for source in (attributes, *requests)),
        "referrer": _first(practitioners(attributes, "00080090", "00080096")),
        "interpreter": practitioners(attributes, "00081060", "00081062"),
        "endpoint": endpoints.references(series),
        "numberOfSeries": len(series),
        "numberOfInstances": sum(len(s.instances) for s in series),
        "procedureCode": distinct(map(codes.concept, attributes.items("00081032"))),
        "location": _location(a for _, a in read),
        "reasonCode": distinct(r for source in (attributes, *requests) for r in _reasons(source)),
        "description": attributes.text("00081030"),
        "series": [_series(s, a, attributes, endpoints, settings) for s, a in read],
    }
    return Mapped(pruned(resource), pruned(subject.apart) if subject.apart else None)


def _attributes(level: RevisionStudy | RevisionSeries) -> Attributes:
    dicom_json = Attributes.of(bytes(level.dicom_json))
    return dicom_json or Attributes.of_elements(level.attributes)


def pruned(resource: Resource) -> Resource:
    """The resource without anything empty, at any depth (R4 2.6.2)."""
    return {key: kept for key, value in resource.items() if not _empty(kept := _pruned(value))}


def _pruned(value: Any) -> Any:
    if isinstance(value, dict):
        return pruned(value)
    if isinstance(value, list):
        return [kept for item in value if not _empty(kept := _pruned(item))]
    return value


def _empty(value: object) -> bool:
    return value is None or value in ("", [], {})


def _series(
    series: RevisionSeries,
    attributes: Attributes,
    study: Attributes,
    endpoints: _Endpoints,
    settings: MappingSettings,
) -> Element:
    return {
        "uid": series.series_instance_uid,
        "number": _unsigned(series.number),
        "modality": codes.modality(series.modality),
        "description": attributes.text("0008103E"),
        "numberOfInstances": len(series.instances),
        "endpoint": endpoints.references([series]),
        "bodySite": codes.body_site(attributes.text("00180015")),
        "laterality": codes.laterality(attributes.text("00200060")),
        "started": _started(attributes, "00080021", "00080031", study, settings),
        "performer": performers(attributes),
        "instance": [_instance(i) for i in sorted(series.instances, key=_instance_order)],
    }


def _instance(instance: RevisionInstance) -> Element:
    # instance.title has no source: an event tells UIDs, class and number of an instance.
    return {
        "uid": instance.sop_instance_uid,
        "sopClass": {"system": "urn:ietf:rfc:3986", "code": f"urn:oid:{instance.sop_class_uid}"},
        "number": _unsigned(instance.number),
    }


class _Endpoints:
    """The DICOMweb services that a study's series can be retrieved from (F12)."""

    def __init__(self, series: Sequence[RevisionSeries], addresses: Mapping[str, str]) -> None:
        self._addresses = addresses
        self._ids: dict[str, str] = {}
        for one in series:
            number = len(self._ids) + 1
            self._ids.setdefault(_base(one), "dicomweb" if number == 1 else f"dicomweb-{number}")

    @property
    def resources(self) -> list[Resource]:
        """The Endpoint resources to contain."""
        return [
            {
                "resourceType": "Endpoint",
                "id": key,
                "status": "active",
                "connectionType": {
                    "system": "http://terminology.hl7.org/CodeSystem/endpoint-connection-type",
                    "code": "dicom-wado-rs",
                    "display": "DICOM WADO-RS",
                },
                "payloadType": [{"text": "DICOM WADO-RS"}],
                "payloadMimeType": ["application/dicom"],
                "address": self._addresses.get(root, root),
            }
            for root, key in self._ids.items()
        ]

    def references(self, series: Iterable[RevisionSeries]) -> list[Element]:
        """References to the endpoints of these series."""
        return distinct({"reference": f"#{self._ids[_base(one)]}"} for one in series)


def _base(series: RevisionSeries) -> str:
    """The DICOMweb root that a series' URL is below."""
    return series.endpoint.partition("/studies/")[0]


def _started(
    attributes: Attributes, date: str, time: str, study: Attributes, settings: MappingSettings
) -> str | None:
    offset = attributes.text(_TIMEZONE_OFFSET) or study.text(_TIMEZONE_OFFSET)
    return fhir_date_time(attributes.text(date), attributes.text(time), offset, settings.time_zone)


def _order(source: Attributes) -> Element | None:
    """The order that an accession number stands for, as a logical reference."""
    number = accession(source)
    return None if number is None else {"type": "ServiceRequest", "identifier": number}


def _reasons(source: Attributes) -> list[Element]:
    """Why the procedure was requested: the codes, else the text."""
    coded = distinct(map(codes.concept, source.items("0040100A")))
    text = source.text("00401002")
    return coded or ([] if text is None else [{"text": text}])


def _location(series: Iterable[Attributes]) -> Element | None:
    """Institutional Department Name, of the first series that has one."""
    names = (attributes.text("00081040") for attributes in series)
    name = next((n for n in names if n is not None), None)
    return None if name is None else {"type": "Location", "display": name}


def _unissued_system(revision: StudyRevision, settings: MappingSettings) -> str:
    """The namespace of a Patient ID that names no issuer: that of where it came from."""
    if settings.patient_id_system is not None:
        return settings.patient_id_system
    study = revision.study
    provider = study.series[0].provider_name if study.series else ""
    return minted("space", study.space, "provider", provider, "patient-id")


def _unsigned(number: int | None) -> int | None:
    return number if number is not None and 0 <= number <= _UNSIGNED_INT else None


def _first(elements: Sequence[Element]) -> Element | None:
    return elements[0] if elements else None


def _series_order(series: RevisionSeries) -> tuple[bool, int, str]:
    return series.number is None, series.number or 0, series.series_instance_uid


def _instance_order(instance: RevisionInstance) -> tuple[bool, int, str]:
    return instance.number is None, instance.number or 0, instance.sop_instance_uid
