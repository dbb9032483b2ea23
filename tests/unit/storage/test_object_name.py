"""Object names: readable, unique for each arrival, never outside their place."""

from __future__ import annotations

import hashlib
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imaging_ingestion.storage.object_name import arrivals, object_name, parse_object_name

DIGEST = hashlib.sha256(b"content").digest()


def test_a_name_tells_the_uids_the_content_and_the_arrival() -> None:
    name = object_name("1.2.3", "1.2.3.4", "1.2.3.4.5", DIGEST, "ab12")
    spread = hashlib.sha1(b"1.2.3").hexdigest()[:2]
    assert name == f"{spread}/1.2.3/1.2.3.4/1.2.3.4.5-{DIGEST.hex()[:16]}-ab12.dcm"


def test_a_name_is_the_same_for_the_same_arrival_and_another_for_other_content() -> None:
    other = hashlib.sha256(b"other").digest()
    assert object_name("1.2", "1.3", "1.4", DIGEST, "0") == object_name(
        "1.2", "1.3", "1.4", DIGEST, "0"
    )
    assert object_name("1.2", "1.3", "1.4", DIGEST, "0") != object_name(
        "1.2", "1.3", "1.4", other, "0"
    )


def test_a_name_is_read_back() -> None:
    told = parse_object_name(object_name("1.2.3", "1.2.3.4", "1.2.3.4.5", DIGEST, "ab12"))
    assert told is not None
    assert told.uids == ("1.2.3", "1.2.3.4", "1.2.3.4.5")
    assert told.arrival == "ab12"
    assert told.is_of(DIGEST)
    assert not told.is_of(bytes(32))


@pytest.mark.parametrize(
    "name",
    [
        "1.2.3/1.2.3.4/1.2.3.4.5",
        "00/1.2.3/1.2.3.4/1.2.3.4.5-0123456789abcdef-1.dcm",  # another study's digits
        "folder/image.dcm",
        "",
    ],
)
def test_other_names_tell_nothing(name: str) -> None:
    assert parse_object_name(name) is None


def test_studies_spread_over_the_directories() -> None:
    first = {object_name(f"1.2.{n}", "1", "1", DIGEST, "0")[:2] for n in range(2000)}
    assert len(first) > 250


def test_no_two_arrivals_are_alike() -> None:
    given_out = [*itertools.islice(arrivals(), 1000), *itertools.islice(arrivals(), 1000)]
    assert len(set(given_out)) == 2000


@given(st.text(max_size=70))
def test_nothing_but_a_uid_gets_into_a_name(text: str) -> None:
    allowed = 0 < len(text) <= 64 and set(text) <= set("0123456789.") and text not in {".", ".."}
    for position in range(3):
        uids = ["1.2", "1.3", "1.4"]
        uids[position] = text
        if allowed:
            assert object_name(*uids, DIGEST, "0").count("/") == 3
        else:
            with pytest.raises(ValueError, match="is not a UID"):
                object_name(*uids, DIGEST, "0")


@pytest.mark.parametrize("arrival", ["", "../x", "x" * 33, "AB"])
def test_an_arrival_is_hexadecimal(arrival: str) -> None:
    with pytest.raises(ValueError, match="is not an arrival"):
        object_name("1.2", "1.3", "1.4", DIGEST, arrival)


def test_a_digest_has_its_length() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        object_name("1.2", "1.3", "1.4", b"short", "0")
