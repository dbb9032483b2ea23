"""Unique identifiers as they come in (PS3.5 section 9)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imaging_ingestion.dicom.uid import InvalidUidError, check_uid, is_uid

GOOD = ["0", "1", "1.2.840.10008.1.2", "2.25.123456789", "1." * 31 + "12", "9" * 64]


@pytest.mark.parametrize("uid", GOOD)
def test_a_good_uid_passes_without_a_word(uid: str) -> None:
    checked = check_uid(uid)
    assert (checked.uid, checked.warning) == (uid, None)
    assert is_uid(uid)


@pytest.mark.parametrize("uid", ["01", "1.02", "1.2.00", "00.1"])
def test_leading_zeros_pass_with_a_warning(uid: str) -> None:
    checked = check_uid(uid)
    assert (checked.uid, checked.warning) == (uid, "a component has a leading zero")
    assert is_uid(uid)


@pytest.mark.parametrize("padding", [" ", "\0", "  ", "\0\0", " \0"])
def test_padding_is_taken_off_with_a_warning(padding: str) -> None:
    for raw in ("1.2" + padding, padding + "1.2"):
        checked = check_uid(raw)
        assert (checked.uid, checked.warning) == ("1.2", "is padded with spaces")
        assert not is_uid(raw)
    assert check_uid("9" * 64 + padding).uid == "9" * 64


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        ("", "is empty"),
        (" \0 ", "is empty"),
        ("1" * 65, "is 65 characters long"),
        ("1.2.x", "is not made of numbers"),
        (".1", "is not made of numbers"),
        ("1.", "is not made of numbers"),
        ("1..2", "is not made of numbers"),
        ("..", "is not made of numbers"),
        ("../1.2", "is not made of numbers"),
        ("1.2/3", "is not made of numbers"),
        ("1.2\\3", "is not made of numbers"),
        ("1.2\n", "is not made of numbers"),
        ("1.2\n.3", "is not made of numbers"),
        ("1. 2", "is not made of numbers"),
        ("1.2\0.3", "is not made of numbers"),
        ("-1.2", "is not made of numbers"),
        ("\u0661.\u0662", "is not made of numbers"),  # digits, but not these
    ],
)
def test_what_is_no_uid_is_told_why_without_being_quoted(raw: str, why: str) -> None:
    with pytest.raises(InvalidUidError) as invalid:
        check_uid(raw)
    assert why in str(invalid.value)
    assert len(raw) < 4 or raw not in str(invalid.value)
    assert not is_uid(raw)


@given(st.text(max_size=80) | st.text("0123456789. \0/", max_size=80))
def test_whatever_passes_is_safe_in_a_path_and_a_url(raw: str) -> None:
    try:
        uid = check_uid(raw).uid
    except InvalidUidError:
        return
    assert is_uid(uid)
    assert set(uid) <= set("0123456789.")
    assert 0 < len(uid) <= 64
    assert uid[0] != "." != uid[-1]
    assert check_uid(uid).uid == uid
