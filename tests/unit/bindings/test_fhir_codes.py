"""The tables of codes, against those that pydicom made from the standard."""

from __future__ import annotations

import pytest
from pydicom.sr._cid_dict import cid_concepts
from pydicom.sr._concepts_dict import concepts

from imaging_ingestion.bindings.fhir.body_sites import BODY_SITES
from imaging_ingestion.bindings.fhir.codes import body_site, modality, oid_uri
from imaging_ingestion.bindings.fhir.modalities import MODALITIES


def codes_of(scheme: str, cid: int | None = None) -> dict[str, set[str]]:
    """Codes of a scheme with all their meanings, of a context group if one is given."""
    found: dict[str, set[str]] = {}
    for keyword, by_code in concepts[scheme].items():
        if cid is None or keyword in cid_concepts[cid].get(scheme, ()):
            for code, (meaning, cids) in by_code.items():
                if cid is None or cid in cids:
                    found.setdefault(code, set()).add(meaning)
    return found


def test_the_modalities_are_those_of_cid_33() -> None:
    # F5
    assert {code: {meaning} for code, meaning in MODALITIES.items()} == codes_of("DCM", 33)


def test_every_body_site_is_a_code_of_the_standard_with_its_meaning() -> None:
    # F9
    known = codes_of("SCT")
    wrong = {
        term: (code, meaning)
        for term, (code, meaning) in BODY_SITES.items()
        if meaning not in known.get(code, ())
    }
    assert wrong == {}


def test_every_body_site_is_a_defined_term_as_body_part_examined_can_hold_it() -> None:
    # F9: VR CS, and what the look-up makes of it
    assert all(term.isalpha() and term.isupper() and len(term) <= 16 for term in BODY_SITES)


@pytest.mark.parametrize("term", ["CHEST", "chest", "CHEST ", "C-H-E-S-T", "Chest_"])
def test_a_body_part_is_known_however_it_is_written(term: str) -> None:
    found = body_site(term)
    assert found is not None
    assert found["code"] == "816094009"


def test_a_modality_that_dicom_does_not_know_is_told_as_it_is() -> None:
    # F5
    assert modality("my  mod") == {
        "system": "http://dicom.nema.org/resources/ontology/DCM",
        "code": "MY MOD",
        "display": None,
    }


@pytest.mark.parametrize("text", ["1.2.3", "2.16.840.1.113883", "0.9"])
def test_an_oid_is_a_urn(text: str) -> None:
    assert oid_uri(text) == f"urn:oid:{text}"


@pytest.mark.parametrize("text", [None, "", "3.1", "1.02", "1..2", "1.2.", "1", "1.2 "])
def test_what_is_no_oid_is_no_urn(text: str | None) -> None:
    assert oid_uri(text) is None
