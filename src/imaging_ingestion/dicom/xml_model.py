"""The Native DICOM Model (PS3.19 annex A.1) of a data set, from its DICOM JSON.

Numbers keep the digits they have there ("1.50"). XML 1.0 cannot say most control characters; they
become U+FFFD. What stands behind the fourth ^ of a person name is its suffix, ^ and all.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any
from xml.sax.saxutils import escape, quoteattr

import msgspec

from imaging_ingestion.dicom.dictionary import keyword_of

NAMESPACE = "http://dicom.nema.org/PS3.19/models/NativeDICOM"

_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_NAME_PARTS = ("FamilyName", "GivenName", "MiddleName", "NamePrefix", "NameSuffix")

#: A carriage return as it is would be read back as a line feed (XML 1.0, 2.11).
_REFERENCES = {"\r": "&#13;"}
#: Numbers with a point or exponent stay the text they are.
_decode = msgspec.json.Decoder(dict[str, dict[str, Any]], float_hook=str).decode

_Close = str
_Open = tuple[Mapping[str, Any], str]


def xml_of_json(text: bytes) -> bytes:
    """The XML document of one data set given as the text of a DICOM JSON object."""
    return xml_of(_decode(text))


def xml_of(dataset: Mapping[str, Any]) -> bytes:
    """The XML document of one data set given as a DICOM JSON object."""
    out = ['<?xml version="1.0" encoding="UTF-8"?>\n', f'<NativeDicomModel xmlns="{NAMESPACE}">']
    # An explicit stack, so that deep nesting cannot overflow: what is still to be written.
    todo: list[_Close | _Open] = ["</NativeDicomModel>", (dataset, "")]
    while todo:
        task = todo.pop()
        if isinstance(task, str):
            out.append(task)
            continue
        out.append(task[1])
        creators = _private_creators(task[0])
        written: list[_Close | _Open] = []
        for tag, element in task[0].items():
            _write(tag, element, creators, written)
        todo += reversed(written)
    return "".join(out).encode("utf-8")


def _write(
    tag: str, element: Mapping[str, Any], creators: Mapping[str, str], out: list[_Close | _Open]
) -> None:
    number = int(tag, 16)
    vr = element["vr"]
    attributes = f'tag="{tag}" vr="{vr}"'
    if number >> 16 & 1:
        creator = creators.get(f"{tag[:4]}00{tag[4:6]}")
        if creator:
            attributes += f" privateCreator={quoteattr(_clean(creator))}"
    elif keyword := keyword_of(number):
        attributes += f' keyword="{keyword}"'
    out.append(f"<DicomAttribute {attributes}>")
    if "BulkDataURI" in element:
        out.append(f"<BulkData uri={quoteattr(_clean(element['BulkDataURI']))}/>")
    elif "InlineBinary" in element:
        out.append(f"<InlineBinary>{element['InlineBinary']}</InlineBinary>")
    else:
        for index, value in enumerate(element.get("Value", ()), start=1):
            if vr == "SQ":
                out.append((value or {}, f'<Item number="{index}">'))
                out.append("</Item>")
            elif vr == "PN":
                out.append(_person_name(index, value))
            else:
                text = "" if value is None else _escaped(str(value))
                out.append(f'<Value number="{index}">{text}</Value>')
    out.append("</DicomAttribute>")


def _person_name(index: int, value: Mapping[str, str] | None) -> str:
    groups = []
    for group, name in (value or {}).items():
        parts = zip(_NAME_PARTS, name.split("^", len(_NAME_PARTS) - 1), strict=False)
        inner = "".join(f"<{part}>{_escaped(text)}</{part}>" for part, text in parts if text)
        groups.append(f"<{group}>{inner}</{group}>")
    return f'<PersonName number="{index}">{"".join(groups)}</PersonName>'


def _private_creators(dataset: Mapping[str, Any]) -> dict[str, str]:
    creators = {}
    for tag, element in dataset.items():
        if int(tag[:4], 16) & 1 and tag[4:6] == "00":
            value: Sequence[Any] = element.get("Value", ())
            if value and isinstance(value[0], str):
                creators[tag] = value[0]
    return creators


def _escaped(text: str) -> str:
    return escape(_clean(text), _REFERENCES)


def _clean(text: str) -> str:
    return _NOT_XML.sub("\ufffd", text)
