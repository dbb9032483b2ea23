"""The page at `/`."""

from __future__ import annotations

from imaging_ingestion.api.landing import landing_page


def test_it_leads_to_every_space_and_says_who_answers_dimse() -> None:
    page = landing_page(["default", "research"], ["A&B@127.0.0.1:104"])
    assert 'href="/spaces/research/dicom-web/studies"' in page
    assert "<code>A&amp;B@127.0.0.1:104</code>" in page


def test_without_dimse_it_says_nothing_of_it() -> None:
    assert "DIMSE" not in landing_page(["default"])
