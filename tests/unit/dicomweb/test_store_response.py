"""The Store Instances Response (PS3.18 10.5.3, annex I)."""

from __future__ import annotations

import msgspec
import pytest
from pydicom import Dataset

from imaging_ingestion.dicom.xml_model import xml_of
from imaging_ingestion.dicomweb.store_response import (
    PartOutcome,
    encoded_store_response,
    retrieve_url,
    status_of,
    store_response,
)
from imaging_ingestion.events.stored import StoreResult
from imaging_ingestion.intake import IntakeRefused, Received

BASE = "http://pacs.example.org/dicom-web"
CT = "1.2.840.10008.5.1.4.1.1.2"


def stored(number: int, study: str = "1.2", remarks: tuple[str, ...] = ()) -> PartOutcome:
    received = Received(StoreResult.CREATED, CT, f"1.2.3.{number}", study, "1.2.3", remarks)
    return PartOutcome(number, received=received)


def failed(number: int, reason: int = 0xC000, *, known: bool = True) -> PartOutcome:
    uids = (CT, f"1.2.3.{number}") if known else (None, None)
    return PartOutcome(number, refused=IntakeRefused(reason, "why", *uids))


@pytest.mark.parametrize(
    ("outcomes", "status"),
    [
        ([stored(1)], 200),
        ([stored(1), stored(2)], 200),
        ([stored(1, remarks=("a leading zero",))], 200),
        ([stored(1), failed(2)], 202),
        ([stored(1), failed(2, 0xA700)], 202),
        ([failed(1)], 409),
        ([failed(1), failed(2, 0xA901)], 409),
        ([failed(1, 0x0111)], 409),
        ([failed(1, 0xA700)], 503),
        ([failed(1, 0x0110)], 503),
        ([failed(1, 0xA700), failed(2, 0x0110)], 503),
        ([failed(1, 0xA700), failed(2, 0xC000)], 409),
        ([failed(1, 0xA701)], 409),  # to send it again would not help
    ],
)  # S14
def test_the_status_tells_all_some_or_none_and_whether_to_try_again(
    outcomes: list[PartOutcome], status: int
) -> None:
    assert status_of(outcomes) == status


def test_the_retrieve_url_is_of_one_study_or_none() -> None:  # S17
    assert retrieve_url([stored(1), stored(2), failed(3)], BASE) == f"{BASE}/studies/1.2"
    assert retrieve_url([stored(1), stored(2, "1.9")], BASE) is None
    assert retrieve_url([failed(1)], BASE) is None
    assert store_response([failed(1)], BASE)["00081190"] == {"vr": "UR"}


def test_a_sequence_is_there_only_if_it_has_items() -> None:  # S18 S19 S20
    assert set(store_response([stored(1)], BASE)) == {"00081190", "00081199"}
    assert set(store_response([failed(1)], BASE)) == {"00081190", "00081198"}
    assert set(store_response([failed(1, known=False)], BASE)) == {"00081190", "0008119A"}


def test_items_have_what_the_standard_asks_for() -> None:  # S18 S19 S20 S25
    dataset = store_response([stored(1), failed(2, 0xA901), failed(3, known=False)], BASE)
    read = Dataset.from_json(dataset)
    (referenced,) = read.ReferencedSOPSequence
    assert (referenced.ReferencedSOPClassUID, referenced.ReferencedSOPInstanceUID) == (
        CT,
        "1.2.3.1",
    )
    assert referenced.RetrieveURL == f"{BASE}/studies/1.2/series/1.2.3/instances/1.2.3.1"
    assert "WarningReason" not in referenced
    (refused,) = read.FailedSOPSequence
    assert (refused.ReferencedSOPClassUID, refused.ReferencedSOPInstanceUID) == (CT, "1.2.3.2")
    assert refused.FailureReason == 0xA901
    (other,) = read.OtherFailuresSequence
    assert other.FailureReason == 0xC000
    assert "ReferencedSOPInstanceUID" not in other


def test_an_instance_without_sop_class_is_named_with_an_empty_one() -> None:
    refused = IntakeRefused(0xC000, "why", None, "1.2.3.1")
    dataset = store_response([PartOutcome(1, refused=refused)], BASE)
    (item,) = dataset["00081198"]["Value"]
    assert item["00081150"] == {"vr": "UI"}


def test_the_private_block_says_it_in_words() -> None:
    dataset = store_response(
        [stored(1, remarks=("one", "two")), failed(2), failed(3, 0x0111)], BASE
    )
    (good,) = dataset["00081199"]["Value"]
    bad, kept = dataset["00081198"]["Value"]
    assert {good["00090010"]["Value"][0], bad["00090010"]["Value"][0]} == {"IMAGING-INGESTION"}
    assert [one["00091001"]["Value"] for one in (good, bad, kept)] == [
        ["CREATED"],
        ["FAILED"],
        ["KEPT"],
    ]
    assert [one["00091003"]["Value"] for one in (good, bad, kept)] == [[1], [2], [3]]
    assert "00091002" not in good
    assert bad["00091002"]["Value"] == ["part 2: why"]
    assert good["00091004"] == {"vr": "UC", "Value": ["one", "two"]}
    assert "00091004" not in bad


def test_the_encoded_response_is_the_response() -> None:
    outcomes = [stored(1, remarks=("x",)), failed(2), failed(3, known=False), stored(4, "1.9")]
    encoded = encoded_store_response(outcomes, BASE)
    assert msgspec.json.decode(encoded) == store_response(outcomes, BASE)


def test_the_response_can_be_said_in_xml() -> None:  # S16
    text = xml_of(store_response([stored(1), failed(2), failed(3, known=False)], BASE)).decode()
    for said in ("1.2.3.1", "1.2.3.2", "part 2: why", 'privateCreator="IMAGING-INGESTION"'):
        assert said in text
