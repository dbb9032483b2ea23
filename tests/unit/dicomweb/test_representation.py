"""Which stored representation answers an Accept header: a pure decision (PS3.18 8.7.3)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imaging_ingestion.dicomweb.negotiation import accepted
from imaging_ingestion.dicomweb.problem import HttpProblemError
from imaging_ingestion.dicomweb.representation import (
    DICOM,
    OCTET_STREAM,
    Representation,
    Stored,
    represent,
)

ELE = "1.2.840.10008.1.2.1"
IMPLICIT = "1.2.840.10008.1.2"
JPEG_LOSSLESS = "1.2.840.10008.1.2.4.70"
JPEG = "1.2.840.10008.1.2.4.50"
RLE = "1.2.840.10008.1.2.5"
UNKNOWN = "1.2.3.4.5"


def answer(stored: Stored, accept: str | None) -> Representation | int:
    """The representation, or the status of the error."""
    try:
        return represent(accepted(accept, ()), stored)
    except HttpProblemError as error:
        return error.status


def instance(*syntaxes: str, single: bool = True) -> Stored:
    return Stored.instances(frozenset(syntaxes), single=single)


PARTS = Representation(DICOM, multipart=True)
BARE = Representation(DICOM, multipart=False)
MULTIPART = 'multipart/related; type="application/dicom"'


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (None, PARTS),
        ("*/*", PARTS),
        ("multipart/*", PARTS),
        ("multipart/related", PARTS),
        (MULTIPART, PARTS),
        ("multipart/related; type=application/dicom", PARTS),  # H8
        ('MULTIPART/RELATED; TYPE="Application/DICOM"', PARTS),
        ('multipart/related; type="*/*"', PARTS),
        ("application/dicom", BARE),
        ("application/*", BARE),
        (f"{MULTIPART}, application/dicom", PARTS),
        (f"application/dicom, {MULTIPART}; q=0.9", BARE),
        (f"{MULTIPART}; transfer-syntax={ELE}", PARTS),
        (f"{MULTIPART}; transfer-syntax=*", PARTS),
        (f'{MULTIPART}; transfer-syntax="*"', PARTS),
        ("application/dicom+json", 406),
        ("image/jpeg", 406),
        ('multipart/related; type="image/jpeg"', 406),
        (f"{MULTIPART}; transfer-syntax={JPEG}", 501),
        (f"{MULTIPART}; transfer-syntax={UNKNOWN}", 406),
        (f"{MULTIPART}; transfer-syntax={IMPLICIT}", 406),  # not of the web (8.7.3)
        ("*/*; q=0", 406),
        ("application/dicom; q=0, multipart/related; q=0, */*", 406),
        (f"*/*, {MULTIPART}; q=0", BARE),
        ("*/*, application/dicom; q=0", PARTS),
        ("", PARTS),
        (",,;", 406),
    ],
)
def test_an_instance_in_explicit_vr_little_endian(
    accept: str | None, expected: Representation | int
) -> None:
    # W1, W2, W4, W6, H4 to H9
    assert answer(instance(ELE), accept) == expected


@pytest.mark.parametrize("syntax", [IMPLICIT, JPEG_LOSSLESS, RLE])
def test_what_is_not_the_default_needs_the_asterisk_or_its_name(syntax: str) -> None:
    # W2, W3
    stored = instance(syntax)
    for accept in (None, "*/*", MULTIPART, "application/dicom"):
        assert answer(stored, accept) == 501
    assert answer(stored, f"{MULTIPART}; transfer-syntax=*") == PARTS
    assert answer(stored, f"{MULTIPART}; transfer-syntax={syntax}") == PARTS
    assert answer(stored, f"{MULTIPART}, {MULTIPART}; transfer-syntax=*; q=0.1") == PARTS


def test_pixels_with_loss_are_an_exception_to_the_default() -> None:
    # W2 (8.7.3.4)
    assert answer(instance(JPEG), None) == PARTS
    assert answer(instance(JPEG, ELE, single=False), MULTIPART) == PARTS
    assert answer(instance(JPEG, RLE, single=False), MULTIPART) == 501


def test_more_than_one_instance_is_never_bare() -> None:
    # W6
    stored = instance(ELE, single=False)
    assert answer(stored, "application/dicom") == 406
    assert answer(stored, "application/dicom, multipart/*; q=0.1") == PARTS


def test_a_transfer_syntax_must_be_that_of_all() -> None:
    # W4
    stored = instance(ELE, JPEG, single=False)
    assert answer(stored, f"{MULTIPART}; transfer-syntax={JPEG}") == 501
    assert answer(stored, f"{MULTIPART}; transfer-syntax=*") == PARTS


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        # The most precise entry tells the weight (RFC 9110 12.5.1).
        (f"*/*; q=1, {MULTIPART}; q=0.1, application/dicom; q=0.2", BARE),
        (f"*/*; q=0.1, {MULTIPART}; q=0.9, application/dicom; q=0.2", PARTS),
        ("application/*; q=0.9, application/dicom; q=0.1, multipart/related; q=0.2", PARTS),
        # Of equals, the first.
        ("application/dicom, multipart/related", BARE),
        ("multipart/related, application/dicom", PARTS),
        # Weights out of range are no weights.
        ("application/dicom; q=2, multipart/related; q=0.1", PARTS),
        ("application/dicom; q=x, multipart/related; q=0.1", PARTS),
        ("application/dicom; q=0.0, multipart/related; q=0.001", PARTS),
    ],
)
def test_weights(accept: str, expected: Representation) -> None:
    # H4, W5
    assert answer(instance(ELE), accept) == expected


@pytest.mark.parametrize(
    ("accept", "status"),
    [
        (None, 200),
        ("*/*", 200),
        ('multipart/related; type="image/jpeg"', 200),
        (f'multipart/related; type="image/jpeg"; transfer-syntax={JPEG}', 200),
        ('multipart/related; type="*/*"; transfer-syntax=*', 200),
        ('multipart/related; type="application/octet-stream"; transfer-syntax=*', 200),
        ("image/jpeg", 200),
        ("image/*", 200),
        ('multipart/related; type="application/octet-stream"', 501),  # W19: decoded pixels
        (f'multipart/related; type="application/octet-stream"; transfer-syntax={ELE}', 501),
        ('multipart/related; type="image/jls"', 501),
        ("image/jp2", 501),
        (f'multipart/related; type="image/jpeg"; transfer-syntax={JPEG_LOSSLESS}', 501),
        ("image/png", 406),
        ("video/mp4", 501),
        ("text/*", 406),
    ],
)
def test_a_compressed_frame(accept: str | None, status: int) -> None:
    # W16, W19
    found = answer(Stored.codestreams(JPEG, single=True), accept)
    assert (found if isinstance(found, int) else 200) == status
    if status == 200:
        assert isinstance(found, Representation)
        assert found.media_type == "image/jpeg"


@pytest.mark.parametrize("syntax", [ELE, IMPLICIT, "1.2.840.10008.1.2.2"])
def test_native_pixels_are_octets_whatever_they_were_stored_in(syntax: str) -> None:
    # W12, W14
    stored = Stored.octets(syntax, single=False)
    expected = Representation(OCTET_STREAM, multipart=True)
    octets = 'multipart/related; type="application/octet-stream"'
    for accept in (
        None,
        "*/*",
        octets,
        f"{octets}; transfer-syntax={ELE}",
        f"{octets}; transfer-syntax=*",
    ):
        assert answer(stored, accept) == expected
    assert answer(stored, 'multipart/related; type="image/jpeg"') == 501
    assert answer(stored, f"{octets}; transfer-syntax={JPEG}") == 501
    assert answer(stored, "application/octet-stream") == 406  # more than one


def test_frames_without_a_media_type_of_their_own_are_octets() -> None:
    # W16
    stored = Stored.codestreams(UNKNOWN, single=True)
    octets = 'multipart/related; type="application/octet-stream"'
    assert answer(stored, f"{octets}; transfer-syntax=*") == Representation(OCTET_STREAM, True)
    assert answer(stored, "*/*") == Representation(OCTET_STREAM, True)
    assert answer(stored, octets) == 501  # that would be decoded pixels


_types = st.sampled_from(
    ["*/*", "application/*", "multipart/*", "application/dicom", MULTIPART, "image/jpeg", "image/x"]
)
_syntaxes = st.sampled_from(["", ELE, JPEG, RLE, UNKNOWN, "*"])
_entries = st.builds(
    lambda kind, syntax, q: kind + (f"; transfer-syntax={syntax}" if syntax else "") + f"; q={q}",
    _types,
    _syntaxes,
    st.sampled_from(["0", "0.5", "1"]),
)


@given(
    st.lists(_entries, min_size=1, max_size=5),
    st.sets(st.sampled_from([ELE, IMPLICIT, JPEG, RLE]), min_size=1),
    st.booleans(),
)
def test_what_is_chosen_is_accepted_by_an_entry(
    entries: list[str], syntaxes: set[str], single: bool
) -> None:
    found = answer(instance(*syntaxes, single=single), ", ".join(entries))
    if isinstance(found, int):
        assert found in {406, 501}
        return
    assert single or found.multipart
    names = (
        ["*/*", "multipart/*", MULTIPART] if found.multipart else ["*/*", "application/*", DICOM]
    )
    assert any(entry.startswith(tuple(names)) and not entry.endswith("q=0") for entry in entries)
