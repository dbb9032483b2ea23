"""SELECTOR: which providers' events a binding wants."""

from __future__ import annotations

import pytest

from imaging_ingestion.bindings.selector import SelectorError, parse_selector


@pytest.mark.parametrize("text", [None, "", "  ", ",", " , "])
def test_no_expression_wants_everything(text: str | None) -> None:
    selector = parse_selector(text)
    assert selector.wants("anything")
    assert selector.wants("")


@pytest.mark.parametrize(
    ("text", "wanted", "unwanted"),
    [
        ("clinical", ["clinical"], ["clinic", "clinical2", "Clinical", "", "a clinical"]),
        ("clin.*", ["clin", "clinical"], ["a-clinical", ""]),
        (".*", ["anything", ""], []),
        ("a,b", ["a", "b"], ["a,b", "ab", ""]),
        (" a , b ", ["a", "b"], [" a ", "c"]),
        ("ct-[0-9]+|mr", ["ct-12", "mr"], ["ct-", "mr1"]),
        ("a,,b", ["a", "b"], [""]),
        ("(?i)ward", ["WARD", "Ward"], ["wards"]),
    ],
)
def test_one_of_the_expressions_is_to_match_the_whole_name(
    text: str, wanted: list[str], unwanted: list[str]
) -> None:
    selector = parse_selector(text)
    assert all(map(selector.wants, wanted))
    assert not any(map(selector.wants, unwanted))


@pytest.mark.parametrize("text", ["(", "a,[", "*", "a,+"])
def test_what_is_no_regular_expression_is_told(text: str) -> None:
    with pytest.raises(SelectorError, match=r"SELECTOR: .* is no regular expression"):
        parse_selector(text)
