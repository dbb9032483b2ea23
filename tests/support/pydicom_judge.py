"""pydicom as the judge of what we say of a data set: values, frames, bulk values.

Every difference that is allowed is said here, with its reason.
"""

from __future__ import annotations

import base64
import io
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom import config, datadict
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.pixels.utils import get_expected_length, pack_bits
from pydicom.valuerep import PersonName

JsonObject = dict[str, Any]

_SPECIFIC_CHARACTER_SET = "00080005"
_WORDS = {
    **dict.fromkeys(("OW", "US", "SS", "AT"), "<u2"),
    **dict.fromkeys(("OF", "OL", "FL", "UL", "SL"), "<u4"),
    **dict.fromkeys(("OD", "OV", "FD", "UV", "SV"), "<u8"),
}


@contextmanager
def literal_pydicom() -> Iterator[None]:
    """pydicom that says what is written, as we do, and guesses nothing.

    Values that break the rules of their VR are read as they are, and neither UN nor private
    elements get a VR from a dictionary of vendors.
    """
    reading = config.settings.reading_validation_mode
    writing = config.settings.writing_validation_mode
    replace, vendors = config.replace_un_with_known_vr, dict(datadict.private_dictionaries)
    config.settings.reading_validation_mode = config.IGNORE
    config.settings.writing_validation_mode = config.IGNORE
    config.replace_un_with_known_vr = False
    datadict.private_dictionaries.clear()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        config.settings.reading_validation_mode = reading
        config.settings.writing_validation_mode = writing
        config.replace_un_with_known_vr = replace
        datadict.private_dictionaries.update(vendors)


def read(data: bytes | Path) -> Dataset:
    """The data set as pydicom reads it."""
    source = data if isinstance(data, Path) else io.BytesIO(data)
    return pydicom.dcmread(source, force=True)


def expected_json(data: bytes | Path) -> JsonObject:
    """pydicom's DICOM JSON, with every binary value inline.

    Raises ValueError and TypeError where pydicom cannot say a value (an IS of "1A", say).
    """
    return read(data).to_json_dict(bulk_data_threshold=1 << 62)


def assert_same_json(ours: JsonObject, theirs: JsonObject, where: str = "") -> None:
    """Compare two DICOM JSON objects, `ours` the one to be judged.

    What may differ:

    - group lengths (gggg,0000) are not in ours: they say nothing once the encoding is gone;
    - Specific Character Set is ISO_IR 192 in ours: the one of the JSON (PS3.18 F.2);
    - bulk values: what ours refers to is compared elsewhere (see `raw_value`).
    """
    wanted = {tag: element for tag, element in theirs.items() if not tag.endswith("0000")}
    assert list(ours) == sorted(wanted), f"{where}: {set(ours) ^ set(wanted)}"
    for tag, element in ours.items():
        _assert_same_element(tag, element, wanted[tag], f"{where}{tag}")


def _assert_same_element(tag: str, ours: JsonObject, theirs: JsonObject, place: str) -> None:
    assert ours["vr"] == theirs["vr"], place
    assert set(ours) <= {"vr", "Value", "BulkDataURI", "InlineBinary"}, place
    assert len(ours) <= 2, place  # at most one of the three (F.2.2)
    if "BulkDataURI" in ours:
        return
    if tag == _SPECIFIC_CHARACTER_SET:
        assert ours == {"vr": "CS", "Value": ["ISO_IR 192"]} or not any(theirs.get("Value", ()))
        return
    if "InlineBinary" in ours or "InlineBinary" in theirs:
        assert ours == theirs, place
        return
    mine, other = ours.get("Value", []), theirs.get("Value", [])
    assert mine or "Value" not in ours, f"{place}: an empty element has only vr (F.2.5)"
    if ours["vr"] == "SQ":
        assert len(mine) == len(other), place
        for number, (a, b) in enumerate(zip(mine, other, strict=True), start=1):
            assert_same_json(a, b, f"{place}/{number}/")
        return
    # pydicom has one empty value where there are only delimiters and padding.
    if not any(mine) and not any(other):
        return
    vr = ours["vr"]
    assert [_same(vr, value) for value in mine] == [_same(vr, value) for value in other], place


def _same(vr: str, value: object) -> object:
    """A value as it is compared.

    - An empty value among others is null in ours (F.2.5), "" in pydicom's.
    - Padding at the end of each value, which pydicom keeps within a list, is left out in ours.
    - A number text that is no JSON number ("01", "127.", "+1") is a string in ours (F.2.3) and a
      number in pydicom's; NaN and infinity are no JSON numbers, so they are strings in ours.
    - pydicom has component groups without text in a person name; ours has none (F.2.2).
    """
    if isinstance(value, dict):
        return {group: text.rstrip(" ") for group, text in value.items() if text.strip()} or None
    if vr in {"DS", "IS", "FL", "FD"} and value is not None:
        try:
            number = float(value)  # type: ignore[arg-type]
        except ValueError:
            return str(value).strip(" ")
        return "NaN" if math.isnan(number) else number
    if isinstance(value, str):
        return value.rstrip(" \0") or None
    return value


def assert_same_values(
    back: Dataset, original: Dataset, where: str = "", *, turned: bool = False
) -> None:
    """Compare a data set made from our JSON with the one in the file, bulk values apart.

    With `turned` the file is big endian: pydicom leaves the words of binary values as they are.
    """
    tags = [element.tag for element in original if element.tag.element]
    assert [element.tag for element in back] == tags, where
    for element in back:
        other = original[element.tag]
        place = f"{where}{element.tag}"
        assert element.VR == other.VR, place
        if element.tag == int(_SPECIFIC_CHARACTER_SET, 16):
            continue
        if element.VR == "SQ":
            assert len(element.value) == len(other.value), place
            for number, (a, b) in enumerate(zip(element.value, other.value, strict=True), start=1):
                assert_same_values(a, b, f"{place}/{number}/", turned=turned)
            continue
        if turned and isinstance(other.value, bytes):
            value = _little_endian(other.value, other.VR)
            assert element.value == value, place
            continue
        assert _values(element) == _values(other), place


def _values(element: DataElement) -> list[object]:
    """An element's values without padding; nothing if all of them are empty."""
    value = element.value
    many = value if isinstance(value, list | pydicom.multival.MultiValue) else [value]
    found = [_plain(one) for one in many]
    return found if any(one not in {None, ""} for one in found) else []


def _plain(value: object) -> object:
    if isinstance(value, PersonName):
        groups = [group.rstrip(" ") for group in str(value).split("=")]
        return "=".join(groups).rstrip("=") or None
    if isinstance(value, float) and math.isnan(value):
        return "NaN"
    if isinstance(value, str):
        return value.rstrip(" \0") or None
    return value


def bulk_references(data_set: JsonObject) -> Iterator[tuple[str, str, str]]:
    """Path, VR and URI of every bulk value, nested ones too."""
    for tag, element in data_set.items():
        if "BulkDataURI" in element:
            yield tag, element["vr"], element["BulkDataURI"]
        elif element["vr"] == "SQ":
            for number, item in enumerate(element.get("Value", ()), start=1):
                for path, vr, uri in bulk_references(item):
                    yield f"{tag}/{number}/{path}", vr, uri


def element_at(data_set: Dataset, path: str) -> DataElement:
    """An element by its path (`54000100/1/54001010`)."""
    outer, tag = _outer(data_set, path)
    return outer[tag]


def _outer(data_set: Dataset, path: str) -> tuple[Dataset, int]:
    *outer, last = path.split("/")
    for tag, number in zip(outer[::2], outer[1::2], strict=True):
        data_set = data_set[int(tag, 16)].value[int(number) - 1]
    return data_set, int(last, 16)


def _raw_element(data_set: Dataset, path: str) -> DataElement | RawDataElement:
    """The same as pydicom found it in the file."""
    outer, tag = _outer(data_set, path)
    return outer.get_item(tag)


def raw_value(data_set: Dataset, path: str, vr: str) -> bytes:
    """The bytes of a native value in little endian, from a data set that was just read."""
    value = _raw_element(data_set, path).value
    assert isinstance(value, bytes)
    return value if data_set.original_encoding[1] else _little_endian(value, vr)


def _little_endian(value: bytes, vr: str) -> bytes:
    """A big endian value with its words turned."""
    return np.frombuffer(value, _WORDS[vr]).byteswap().tobytes() if vr in _WORDS else value


def is_encapsulated(data_set: Dataset, path: str) -> bool:
    """Whether a value is a sequence of fragments."""
    element = _raw_element(data_set, path)
    if isinstance(element, RawDataElement):
        return element.length == 0xFFFFFFFF
    return bool(element.is_undefined_length)


def expected_frames(data_set: Dataset) -> list[bytes]:
    """Every frame as pydicom cuts it; native ones little endian."""
    frames = int(data_set.get("NumberOfFrames") or 1)
    transfer_syntax = data_set.file_meta.TransferSyntaxUID
    if "PixelData" in data_set and data_set["PixelData"].is_undefined_length:
        return list(generate_frames(data_set.PixelData, number_of_frames=frames))
    keyword = next(
        k for k in ("PixelData", "FloatPixelData", "DoubleFloatPixelData") if k in data_set
    )
    value = data_set[keyword].value
    if not transfer_syntax.is_little_endian:
        width = {"OW": "<u2", "OB": "u1"}[data_set[keyword].VR]
        value = np.frombuffer(value, width).byteswap().tobytes() if width != "u1" else value
    if data_set.BitsAllocated == 1:
        bits = np.unpackbits(np.frombuffer(value, np.uint8), bitorder="little")
        pixels = data_set.Rows * data_set.Columns
        return [pack_bits(bits[n * pixels : (n + 1) * pixels], pad=False) for n in range(frames)]
    size = get_expected_length(data_set) // frames
    return [value[n * size : (n + 1) * size] for n in range(frames)]


def without_padding(codestream: bytes) -> bytes:
    """A codestream without the byte behind its end that only makes a fragment even."""
    return codestream[:-1] if codestream.endswith(b"\xff\xd9\x00") else codestream


def inline(element: JsonObject) -> bytes:
    """An inline binary value."""
    return base64.b64decode(element.get("InlineBinary", ""))
