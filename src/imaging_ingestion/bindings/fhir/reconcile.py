"""What an ImagingStudy on the server is to become, given what the manifest says now. Pure.

What we tell of a study is ours, and replaced; what others added to the resource (notes, the
encounter, their identifiers, security labels) is theirs, and kept (R4 3.1.0.1.3: an update carries
the whole resource).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from imaging_ingestion.bindings.fhir.codes import IDENTIFIER_TYPE
from imaging_ingestion.bindings.fhir.identifiers import DICOM_UID, STUDY_ID_TYPE
from imaging_ingestion.bindings.fhir.imaging_study import WITHDRAWN, Resource

_OURS = frozenset(
    {
        "resourceType",
        "contained",
        "identifier",
        "status",
        "modality",
        "subject",
        "started",
        "basedOn",
        "referrer",
        "interpreter",
        "endpoint",
        "numberOfSeries",
        "numberOfInstances",
        "procedureCode",
        "location",
        "reasonCode",
        "description",
        "series",
    }
)
#: What a server makes of a resource by itself.
_MADE_BY_SERVER = frozenset({"meta", "text"})


def updated(existing: Resource, ours: Resource) -> Resource:
    """The resource on the server after this revision; equal to `existing` if nothing changes.

    The subject keeps the reference that the server has, as long as it is the same patient: the
    server may have merged patients since.
    """
    wanted: Resource = {key: value for key, value in existing.items() if key not in _OURS}
    wanted |= ours
    mine = ours.get("contained", [])
    if subject_is_settled(existing, ours):
        wanted["subject"] = existing["subject"]
        mine = [resource for resource in mine if resource["resourceType"] != "Patient"]
    theirs = [i for i in _elements(existing, "identifier") if not _is_our_identifier(i)]
    wanted["identifier"] = [*ours["identifier"], *theirs]
    wanted["contained"] = [*mine, *_still_referenced(existing, wanted, mine)]
    if not wanted["contained"]:
        del wanted["contained"]
    if same(existing, wanted):
        return existing
    wanted.pop("text", None)  # a narrative of what was
    return wanted


def subject_is_settled(existing: Resource, ours: Resource) -> bool:
    """Whether the resource refers to this patient already.

    A study without instances, or without anything about its patient, says nothing new of that.
    """
    subject, wanted = existing.get("subject"), ours["subject"]
    if not isinstance(subject, dict):
        return False
    if ours["status"] == WITHDRAWN or not wanted.keys() & {"reference", "identifier"}:
        return True
    if _is_local(subject) or _is_local(wanted):
        return False
    return "reference" in subject and subject.get("identifier") == wanted["identifier"]


def same(existing: Resource, wanted: Resource) -> bool:
    """Whether two resources say the same, but for what servers make of them."""
    return _comparable(existing) == _comparable(wanted)


def has_study_uid(resource: Resource, identifier: Mapping[str, Any]) -> bool:
    """Whether the resource is that of the study with this identifier."""
    return resource.get("resourceType") == "ImagingStudy" and any(
        found.get("system") == DICOM_UID and found.get("value") == identifier["value"]
        for found in _elements(resource, "identifier")
    )


def _comparable(resource: Resource) -> Resource:
    comparable = {k: v for k, v in resource.items() if k not in _MADE_BY_SERVER}
    # The order of contained resources means nothing; some servers write their ids with a "#".
    contained = {str(c.get("id", "")).lstrip("#"): c for c in _elements(resource, "contained")}
    comparable["contained"] = {key: {**c, "id": key} for key, c in contained.items()}
    return comparable


def _is_our_identifier(identifier: Mapping[str, Any]) -> bool:
    kind = identifier.get("type")
    kind = kind if isinstance(kind, dict) else {}
    return (
        identifier.get("system") == DICOM_UID
        or kind.get("text") == STUDY_ID_TYPE
        or any(
            c.get("code") == "ACSN" and c.get("system") == IDENTIFIER_TYPE
            for c in _elements(kind, "coding")
        )
    )


def _still_referenced(
    existing: Resource, wanted: Resource, mine: Iterable[Resource]
) -> list[Resource]:
    """Contained resources of others that something still refers to."""
    taken = {resource["id"] for resource in mine}
    referred = set(_local_references({k: v for k, v in wanted.items() if k != "contained"}))
    return [
        resource
        for resource in _elements(existing, "contained")
        if (key := str(resource.get("id", "")).lstrip("#")) not in taken and key in referred
    ]


def _local_references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        reference = value.get("reference")
        if isinstance(reference, str) and reference.startswith("#"):
            yield reference[1:]
    if isinstance(value, dict | list):
        parts: Iterable[Any] = value.values() if isinstance(value, dict) else value
        for part in parts:
            yield from _local_references(part)


def _is_local(reference: Mapping[str, Any]) -> bool:
    return str(reference.get("reference", "")).startswith("#")


def _elements(parent: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    found = parent.get(key)
    return [e for e in found if isinstance(e, dict)] if isinstance(found, list) else []
