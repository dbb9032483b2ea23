"""Which representation a client gets (PS3.18 8.7, RFC 9110 12.5.1)."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imaging_ingestion.dicomweb.negotiation import (
    Choice,
    MediaRange,
    MixedMediaTypesError,
    Offer,
    accepted,
    negotiate,
    parse_accept,
)

JSON = Offer("application/dicom+json")
XML = Offer("application/dicom+xml")
EXPLICIT, JPEG = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.4.50"
INSTANCES = Offer(
    "multipart/related",
    "application/dicom",
    frozenset({EXPLICIT, JPEG}),
    EXPLICIT,
)
MODEL = Offer("multipart/related", "application/dicom+xml")


def chosen(header: str | None, *offers: Offer, query: tuple[str, ...] = ()) -> Offer | None:
    choice = negotiate(accepted(header, query), offers)
    return None if choice is None else choice.offer


@pytest.mark.parametrize(
    ("text", "ranges"),
    [
        ("", []),
        ("*/*", [MediaRange("*/*")]),
        ("Application/DICOM+JSON", [MediaRange("application/dicom+json")]),
        ("a/b;q=0.5", [MediaRange("a/b", {}, 0.5)]),
        ("a/b ; Q = 0.5 ; x = y", [MediaRange("a/b", {"x": "y"}, 0.5)]),
        ("a/b;", [MediaRange("a/b")]),
        ("a/b;;x=1", [MediaRange("a/b", {"x": "1"})]),
        ('a/b;x="y;z,\\"q\\""', [MediaRange("a/b", {"x": 'y;z,"q"'})]),
        ("a/b;x=", [MediaRange("a/b", {"x": ""})]),
        ("a/b, ,c/d", [MediaRange("a/b"), MediaRange("c/d")]),
        (",,a/b,", [MediaRange("a/b")]),
    ],
)  # H4 H5 H8
def test_well_formed_entries_are_read(text: str, ranges: list[MediaRange]) -> None:
    assert list(parse_accept(text)) == ranges


@pytest.mark.parametrize(
    "entry",
    [
        "nonsense",
        "a/",
        "/b",
        "a/b;q=2",
        "a/b;q=-1",
        "a/b;q=x",
        "a/b;q=nan",
        "a b/c",
        'a/b;x="y',
        "(/)",
    ],
)  # H5
def test_a_malformed_entry_is_left_out_and_the_others_count(entry: str) -> None:
    assert parse_accept(f"c/d, {entry}")[0] == MediaRange("c/d")
    assert "a/b" not in {media.type for media in parse_accept(entry)}


def test_an_entry_with_two_transfer_syntaxes_is_malformed() -> None:  # H9
    twice = f"application/dicom;transfer-syntax={EXPLICIT};transfer-syntax={JPEG}"
    assert parse_accept(twice) == ()
    assert [media.type for media in parse_accept(f"{twice}, a/b")] == ["a/b"]


@pytest.mark.parametrize(
    "header",
    [
        'multipart/related; type="application/dicom"; transfer-syntax="*"',
        "multipart/related; type=application/dicom; transfer-syntax=*",
        'multipart/related;transfer-syntax=*;type="APPLICATION/DICOM"',
    ],
)  # H8
def test_quotes_and_case_make_no_difference(header: str) -> None:
    assert negotiate(accepted(header, ()), [INSTANCES]) == Choice(INSTANCES, "*")


@pytest.mark.parametrize(
    ("header", "offer"),
    [
        (None, JSON),  # H1, decided lenient
        ("", JSON),
        ("*/*", JSON),  # H7
        ("application/*", JSON),
        ("application/dicom+xml", XML),
        ("application/dicom+json;q=0.1, application/dicom+xml", XML),
        ("application/dicom+json;q=0.1, application/dicom+xml;q=0.2", XML),
        ("application/dicom+json;q=0, */*", XML),
        ("application/dicom+json;q=0.1, application/*;q=0.9", XML),
        ("*/*;q=0.1, application/dicom+xml;q=0.1", XML),
        ("application/dicom+xml, application/dicom+json", XML),
        ("text/csv, application/dicom+json", JSON),
        ("text/csv", None),  # H6
        ("application/dicom+json;q=0", None),
        ("*/*;q=0", None),
        ("nonsense", None),
    ],
)  # H4
def test_the_highest_q_wins_and_the_most_precise_entry_gives_it(
    header: str | None, offer: Offer | None
) -> None:
    assert chosen(header, JSON, XML) == offer


def test_the_query_parameter_goes_first_and_knows_no_wildcards() -> None:  # H2
    xml = ("application/dicom+xml",)
    assert chosen("application/dicom+json", JSON, XML, query=xml) == XML
    assert chosen("application/dicom+json", JSON, XML, query=("*/*",)) is None
    assert chosen("image/png", JSON, query=("application/dicom+json",)) == JSON


@pytest.mark.parametrize(
    "header",
    [
        "application/dicom, image/png",
        'multipart/related; type="application/dicom+xml", text/html',
        "application/dicom+json;q=0.1, application/pdf;q=0.9",
    ],
)  # H3
def test_dicom_and_rendered_types_at_once_are_an_error(header: str) -> None:
    with pytest.raises(MixedMediaTypesError):
        accepted(header, ())


@pytest.mark.parametrize(
    "header", ["application/dicom, image/png;q=0", "image/png, image/jpeg", "*/*, text/html"]
)  # H3
def test_one_kind_alone_is_none(header: str) -> None:
    assert accepted(header, ())


@pytest.mark.parametrize(
    ("header", "offer"),
    [
        ("multipart/related", INSTANCES),
        ('multipart/related; type="application/dicom+xml"', MODEL),
        ('multipart/related; type="*/*"', INSTANCES),
        ('multipart/related; type="image/jpeg"', None),
        ("multipart/*", INSTANCES),
        ('multipart/related; type="application/dicom+xml", multipart/related;q=0.5', MODEL),
    ],
)
def test_a_multipart_offer_is_named_by_the_type_of_its_parts(
    header: str, offer: Offer | None
) -> None:
    assert chosen(header, INSTANCES, MODEL) == offer


@pytest.mark.parametrize(
    ("syntaxes", "chosen_syntax"),
    [
        ([None], EXPLICIT),
        (["*"], "*"),
        ([JPEG], JPEG),
        (["1.2.3"], None),
        (["1.2.3", JPEG], JPEG),
        ([JPEG, None], JPEG),
    ],
)
def test_a_transfer_syntax_that_is_not_to_be_had_takes_its_entry_away(
    syntaxes: list[str | None], chosen_syntax: str | None
) -> None:
    base = 'multipart/related; type="application/dicom"'
    header = ", ".join(base if s is None else f"{base}; transfer-syntax={s}" for s in syntaxes)
    choice = negotiate(accepted(header, ()), [INSTANCES])
    assert (choice.transfer_syntax if choice else None) == chosen_syntax


@given(st.text(max_size=200))
def test_no_header_is_an_error_of_ours(text: str) -> None:
    for media in parse_accept(text):
        assert 0 <= media.q <= 1
        assert media.type.count("/") == 1


@pytest.mark.parametrize(
    "hostile",
    [
        "," * 60_000,
        ";" * 60_000,
        "a/b" + ";x=y" * 15_000,
        "a/b," * 15_000,
        'a/b;x="' + "\\" * 60_000,
        "a/b;" + " " * 60_000,
        "a/b" * 20_000,
        'a/b;x="' + '";y="' * 12_000,
    ],
)
def test_a_hostile_header_costs_no_more_than_its_length(hostile: str) -> None:
    began = time.process_time()
    assert len(parse_accept(hostile)) <= 100
    assert time.process_time() - began < 1.0  # seconds: quadratic would take minutes
