"""The Native DICOM Model (PS3.19 annex A.1) read back into DICOM JSON, to compare the two (J13)."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

from pydicom.datadict import dictionary_keyword

_SPACE = "{http://dicom.nema.org/PS3.19/models/NativeDICOM}"
_NAME_PARTS = ("FamilyName", "GivenName", "MiddleName", "NamePrefix", "NameSuffix")
_GROUPS = ("Alphabetic", "Ideographic", "Phonetic")


def json_of(document: ElementTree.Element) -> dict[str, Any]:
    """A whole document as a DICOM JSON object. Asserts what table A.1.5-2 requires."""
    assert document.tag == f"{_SPACE}NativeDicomModel"
    return _data_set(document)


def _data_set(parent: ElementTree.Element) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for attribute in parent:
        assert attribute.tag == f"{_SPACE}DicomAttribute", attribute.tag
        tag = attribute.attrib["tag"]
        assert tag not in found
        _check_name(tag, attribute)
        found[tag] = {"vr": attribute.attrib["vr"], **_content(attribute)}
    return found


def _check_name(tag: str, attribute: ElementTree.Element) -> None:
    """A standard attribute has its keyword; a private one may name its creator, and has none."""
    if int(tag[:4], 16) & 1:
        assert "keyword" not in attribute.attrib
    else:
        assert "privateCreator" not in attribute.attrib
        try:
            keyword = dictionary_keyword(int(tag, 16))
        except KeyError:
            keyword = ""
        assert attribute.attrib.get("keyword", "") == keyword


def _content(attribute: ElementTree.Element) -> dict[str, Any]:
    children = list(attribute)
    if not children:
        return {}
    names = {child.tag.removeprefix(_SPACE) for child in children}
    assert len(names) == 1, names
    (name,) = names
    if name == "BulkData":
        (child,) = children
        return {"BulkDataURI": child.attrib["uri"]}
    if name == "InlineBinary":
        (child,) = children
        return {"InlineBinary": child.text or ""}
    assert [child.attrib["number"] for child in children] == [
        str(number) for number in range(1, len(children) + 1)
    ]
    read = {"Item": _data_set, "PersonName": _person_name, "Value": _text}[name]
    return {"Value": [read(child) for child in children]}


def _text(value: ElementTree.Element) -> str | None:
    return value.text or None


def _person_name(value: ElementTree.Element) -> dict[str, str] | None:
    groups = {}
    for group in value:
        name = group.tag.removeprefix(_SPACE)
        assert name in _GROUPS
        parts = {part.tag.removeprefix(_SPACE): part.text or "" for part in group}
        assert set(parts) <= set(_NAME_PARTS)
        groups[name] = "^".join(parts.get(part, "") for part in _NAME_PARTS).rstrip("^")
    return groups or None
