"""The Native DICOM Model of a data set (PS3.19 annex A.1)."""

from __future__ import annotations

import json
from typing import Any
from xml.etree import ElementTree

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from native_model import json_of

from imaging_ingestion.dicom.xml_model import NAMESPACE, xml_of, xml_of_json


def read(data_set: dict[str, Any]) -> dict[str, Any]:
    """What another reader makes of the document."""
    return json_of(ElementTree.fromstring(xml_of_json(json.dumps(data_set).encode())))


def test_an_attribute_has_tag_vr_and_keyword() -> None:
    # J13
    document = ElementTree.fromstring(xml_of({"00100020": {"vr": "LO", "Value": ["P1", None]}}))
    (attribute,) = document
    assert document.tag == f"{{{NAMESPACE}}}NativeDicomModel"
    assert attribute.attrib == {"tag": "00100020", "vr": "LO", "keyword": "PatientID"}
    first, second = attribute
    assert (first.attrib, first.text) == ({"number": "1"}, "P1")
    assert (second.attrib, second.text) == ({"number": "2"}, None)


def test_a_private_attribute_names_its_creator() -> None:
    # J13
    data_set = {
        "00090010": {"vr": "LO", "Value": ['ACME "1" <&>']},
        "00091001": {"vr": "CS", "Value": ["A"]},
        "00091101": {"vr": "CS", "Value": ["B"]},  # of a block nobody has reserved
        "00404001": {"vr": "SQ", "Value": [{"00091002": {"vr": "CS", "Value": ["C"]}}]},
    }
    document = ElementTree.fromstring(xml_of(data_set))
    creators = {
        one.attrib["tag"]: one.attrib.get("privateCreator")
        for one in document.iter()
        if one.attrib.get("tag")
    }
    assert creators == {
        "00090010": None,
        "00091001": 'ACME "1" <&>',
        "00091101": None,
        "00404001": None,
        "00091002": None,  # an item has blocks of its own
    }


def test_names_are_told_by_group_and_part() -> None:
    # J13
    name = {"Alphabetic": "A^B^C^D^E", "Ideographic": "山田^太郎", "Phonetic": "^x"}
    document = xml_of({"00100010": {"vr": "PN", "Value": [name, None, {"Alphabetic": "Z"}]}})
    assert (
        b"<FamilyName>A</FamilyName><GivenName>B</GivenName><MiddleName>C</MiddleName>" in document
    )
    assert b"<NamePrefix>D</NamePrefix><NameSuffix>E</NameSuffix>" in document
    assert "<Ideographic><FamilyName>山田</FamilyName>".encode() in document
    assert b'<PersonName number="2"></PersonName>' in document
    assert read({"00100010": {"vr": "PN", "Value": [name, None]}}) == {
        "00100010": {"vr": "PN", "Value": [name, None]}
    }


def test_a_name_of_more_parts_than_there_are_loses_none() -> None:
    # J13
    found = {"00100010": {"vr": "PN", "Value": [{"Alphabetic": "A^B^C^D^E^F^G"}]}}
    assert read(found) == found


def test_items_are_numbered_and_may_be_empty() -> None:
    # J13
    inner = {"00080100": {"vr": "SH", "Value": ["X"]}}
    found = {"00081032": {"vr": "SQ", "Value": [inner, {}, inner]}}
    assert read(found) == found


def test_binary_values_are_base64_or_a_reference() -> None:
    # J13
    found = {
        "00282000": {"vr": "OB", "InlineBinary": "AAEC"},
        "7FE00010": {"vr": "OW", "BulkDataURI": "http://x/bulkdata?a=1&b='2'"},
    }
    assert read(found) == found


def test_numbers_keep_their_digits() -> None:
    # J4, J13
    text = b'{"00101030":{"vr":"DS","Value":[1.50,70,1e5,-0.0,123456789012345678901,"007"]}}'
    found = json_of(ElementTree.fromstring(xml_of_json(text)))
    assert found["00101030"]["Value"] == [
        "1.50",
        "70",
        "1e5",
        "-0.0",
        "123456789012345678901",
        "007",
    ]


def test_line_ends_survive() -> None:
    # J13: XML readers make a line feed of CR and of CR LF
    found = {"00104000": {"vr": "LT", "Value": ["a\r\nb\rc\nd\te  "]}}
    assert read(found) == found


def test_what_xml_cannot_say_is_replaced() -> None:
    found = {"00104000": {"vr": "LT", "Value": ["a\x00b\x1bc\ufffed\x7f"]}}
    assert read(found) == {"00104000": {"vr": "LT", "Value": ["a\ufffdb\ufffdc\ufffdd\x7f"]}}


def test_deep_nesting_does_not_recurse() -> None:
    # J14
    data_set: dict[str, Any] = {}
    for _ in range(5000):
        data_set = {"0040A730": {"vr": "SQ", "Value": [data_set]}}
    document = xml_of(data_set)
    assert document.count(b"<Item ") == document.count(b"</Item>") == 5000


@given(st.text(), st.text())
def test_any_text_makes_a_document(value: str, creator: str) -> None:
    data_set = {
        "00090010": {"vr": "LO", "Value": [creator]},
        "00091001": {"vr": "LT", "Value": [value]},
        "00091002": {"vr": "PN", "Value": [{"Alphabetic": value}]},
    }
    document = ElementTree.fromstring(xml_of_json(msgspec.json.encode(data_set)))
    assert len(document) == 3
