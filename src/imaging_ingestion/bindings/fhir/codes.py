"""Codes: DICOM code sequence items, modalities, body parts and lateralities as FHIR codings."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote

from imaging_ingestion.bindings.fhir.attributes import Attributes
from imaging_ingestion.bindings.fhir.body_sites import BODY_SITES
from imaging_ingestion.bindings.fhir.modalities import MODALITIES

Element = dict[str, Any]

#: What the platform names itself where neither DICOM nor FHIR has a URI (docs/fhir.md).
NAMESPACE = "https://imaging-ingestion.alvearie.org/fhir"
DCM = "http://dicom.nema.org/resources/ontology/DCM"
SCT = "http://snomed.info/sct"
IDENTIFIER_TYPE = "http://terminology.hl7.org/CodeSystem/v2-0203"
PARTICIPATION_TYPE = "http://terminology.hl7.org/CodeSystem/v3-ParticipationType"

#: Coding Scheme Designator (PS3.16 table 8-1) to the URI of the code system in FHIR.
_SCHEMES = {
    "DCM": DCM,
    "SCT": SCT,
    "SRT": "http://snomed.info/srt",
    "SNM3": "http://snomed.info/srt",
    "99SDM": "http://snomed.info/srt",
    "LN": "http://loinc.org",
    "UCUM": "http://unitsofmeasure.org",
    "RADLEX": "http://www.radlex.org",
    "I10": "http://hl7.org/fhir/sid/icd-10",
    "I9C": "http://hl7.org/fhir/sid/icd-9-cm",
    "C4": "http://www.ama-assn.org/go/cpt",
    "CPT4": "http://www.ama-assn.org/go/cpt",
    "RXNORM": "http://www.nlm.nih.gov/research/umls/rxnorm",
}
#: Laterality (0020,0060) in the value set that R4 binds to ImagingStudy.series.laterality.
_LATERALITIES = {
    "L": ("419161000", "Unilateral left"),
    "R": ("419465000", "Unilateral right"),
    "B": ("51440002", "Bilateral"),
}
_OID = re.compile(r"[0-2](\.(0|[1-9][0-9]*))+")
#: What FHIR's `uri` may be, as far as a scheme and no blanks go.
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:\S+")
OTHER_MODALITY = "OT"


def oid_uri(text: str | None) -> str | None:
    """An object identifier as URI; None if the text is none."""
    return f"urn:oid:{text}" if text is not None and _OID.fullmatch(text) else None


def is_uri(text: str) -> bool:
    """Whether the text is an absolute URI."""
    return _URI.fullmatch(text) is not None


def minted(*path: str) -> str:
    """A URI in our own namespace; each part may be any text."""
    return "/".join((NAMESPACE, *(quote(part, safe="") for part in path)))


def coding(item: Attributes) -> Element | None:
    """An item of a code sequence (PS3.3 table 8.8-1); None without a code."""
    code = item.text("00080100") or item.text("00080119")
    display = item.text("00080104")
    if code is not None:
        return {"system": _system(item), "code": _code(code), "display": display}
    urn = item.text("00080120")  # URN Code Value
    if urn is not None:
        return {"system": "urn:ietf:rfc:3986", "code": _code(urn), "display": display}
    return None


def concept(item: Attributes) -> Element | None:
    """An item of a code sequence as CodeableConcept; None if it has neither code nor meaning."""
    coded = coding(item)
    meaning = item.text("00080104")
    if coded is None:
        return None if meaning is None else {"text": meaning}
    return {"coding": [coded], "text": meaning}


def modality(term: str | None) -> Element:
    """A modality; Other (OT) where a series has none, as series.modality is required (F10)."""
    code = _code(term).upper() if term else OTHER_MODALITY
    return {"system": DCM, "code": code, "display": MODALITIES.get(code)}


def body_site(term: str | None) -> Element | None:
    """Body Part Examined: SNOMED CT where the term is known, else its text alone."""
    if term is None:
        return None
    # "WHOLE BODY" and "Brain" are no defined terms, but what is meant is plain.
    known = BODY_SITES.get(re.sub(r"[^A-Z]", "", term.upper()))
    if known is None:
        return {"display": term}
    return {"system": SCT, "code": known[0], "display": known[1]}


def laterality(term: str | None) -> Element | None:
    """Laterality; None if there is none, or none that the attribute may have."""
    known = _LATERALITIES.get(term.upper()) if term else None
    return None if known is None else {"system": SCT, "code": known[0], "display": known[1]}


def distinct(elements: Iterable[Element | None]) -> list[Element]:
    """The elements that are there, each once, in their order."""
    kept: list[Element] = []
    for element in elements:
        if element is not None and element not in kept:
            kept.append(element)
    return kept


def _system(item: Attributes) -> str | None:
    designator = item.text("00080102")
    known = _SCHEMES.get(designator.upper()) if designator else None
    if known is not None:
        return known
    uid = oid_uri(item.text("0008010C"))  # Coding Scheme UID
    if uid is not None:
        return uid
    # A private scheme ("99...") has a meaning only where it was made; still its codes are no one
    # else's, so they get a system of their own instead of none.
    return minted("coding-scheme", designator) if designator else None


def _code(text: str) -> str:
    """FHIR's `code` has no blanks but single ones between words."""
    return " ".join(text.split())
