"""Identifiers and who assigned them: of the study, its order, its patient."""

from __future__ import annotations

import uuid
from typing import NamedTuple

from imaging_ingestion.bindings.fhir.attributes import Attributes
from imaging_ingestion.bindings.fhir.codes import IDENTIFIER_TYPE, Element, is_uri, minted, oid_uri

DICOM_UID = "urn:dicom:uid"
STUDY_ID_TYPE = "Study ID"


class Authority(NamedTuple):
    """Who assigned an identifier: a namespace, and a name to show."""

    system: str | None
    name: str | None


def study_uid(study_instance_uid: str) -> Element:
    """The identifier that a study is found by (F1)."""
    return {"use": "official", "system": DICOM_UID, "value": f"urn:oid:{study_instance_uid}"}


def accession(attributes: Attributes) -> Element | None:
    """Accession Number (0008,0050) with its issuer (0008,0051); None without a number (F2)."""
    value = attributes.text("00080050")
    if value is None:
        return None
    issuer = next(iter(attributes.items("00080051")), None)
    by = Authority(None, None) if issuer is None else universal(issuer)
    name = by.name or (issuer.text("00400031") if issuer is not None else None)
    return {
        "use": "usual",
        "type": {
            "coding": [{"system": IDENTIFIER_TYPE, "code": "ACSN", "display": "Accession ID"}]
        },
        "system": by.system,
        "value": value,
        "assigner": {"display": name},
    }


def study_id(attributes: Attributes) -> Element | None:
    """Study ID (0020,0010); None without."""
    value = attributes.text("00200010")
    if value is None:
        return None
    return {"use": "secondary", "type": {"text": STUDY_ID_TYPE}, "value": value}


def patient_id(attributes: Attributes, unissued_system: str) -> Element | None:
    """Patient ID (0010,0020) in the namespace of who issued it; None without.

    `unissued_system` is the namespace of identifiers that name no issuer. Every identifier has a
    system: a Patient ID alone says nothing of whose it is (F4).
    """
    value = attributes.text("00100020")
    if value is None:
        return None
    by = _patient_authority(attributes) or Authority(unissued_system, None)
    return {"system": by.system, "value": value, "assigner": {"display": by.name}}


def other_patient_ids(attributes: Attributes) -> list[Element]:
    """The Other Patient IDs (0010,1002) whose issuer is named."""
    found = []
    for item in attributes.items("00101002"):
        value, by = item.text("00100020"), _patient_authority(item)
        if value is not None and by is not None:
            found.append({"system": by.system, "value": value, "assigner": {"display": by.name}})
    return found


def universal(issuer: Attributes) -> Authority:
    """An HL7v2 Hierarchic Designator (PS3.3 table 10-17); a system only if it is universal."""
    name = issuer.text("00400031")  # Local Namespace Entity ID
    entity, kind = issuer.text("00400032"), (issuer.text("00400033") or "").upper()
    if entity is None:
        return Authority(None, name)
    system: str | None = None
    if kind == "ISO":
        system = oid_uri(entity)
    elif kind == "UUID":
        system = _uuid_uri(entity)
    elif kind == "URI" and is_uri(entity):
        system = entity
    elif kind:
        system = minted("issuer", kind, entity)
    return Authority(system, name)


def _patient_authority(attributes: Attributes) -> Authority | None:
    """The issuer of a Patient ID as a namespace; None if there is none.

    The Universal Entity ID comes before the issuer's name, which need not be unique in the world.
    """
    name = attributes.text("00100021")  # Issuer of Patient ID
    qualifiers = next(iter(attributes.items("00100024")), None)
    by = Authority(None, None) if qualifiers is None else universal(qualifiers)
    local = name or by.name
    if by.system is not None:
        return Authority(by.system, local)
    if local is None:
        return None
    if oid := oid_uri(local.removeprefix("urn:oid:")):
        return Authority(oid, None)
    if local.startswith(("http://", "https://", "urn:")) and is_uri(local):
        return Authority(local, None)
    return Authority(minted("issuer", local), local)


def _uuid_uri(text: str) -> str | None:
    try:
        return f"urn:uuid:{uuid.UUID(text)}"
    except ValueError:
        return None
