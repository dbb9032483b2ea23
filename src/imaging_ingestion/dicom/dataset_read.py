"""A small data set from bytes: the identifier of a query, the information of an action or event.

The scanner that reads instances reads these as well, so what is said of malformed data sets, of
character sets and of depth holds here, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import msgspec

from imaging_ingestion.dicom.criterion import Element
from imaging_ingestion.dicom.dataset_scan import DatasetScanner, ScanLimits
from imaging_ingestion.dicom.dictionary import vr_of
from imaging_ingestion.dicom.header import SPECIFIC_CHARACTER_SET, MalformedError
from imaging_ingestion.dicom.transfer_syntax import encoding_of

#: What such a data set may cost: a request for storage commitment names thousands of instances.
LIMITS: Final = ScanLimits(header_bytes=16 << 20, depth=16, elements=500_000)

#: Digits of a decimal as they came: a float would be another number.
_decode = msgspec.json.Decoder(dict[str, Any], float_hook=str).decode


@dataclass(frozen=True, slots=True)
class SmallDataSet:
    """A data set in memory.

    `elements` are in DICOM JSON, by tag, eight hexadecimal digits, in ascending order; decimals are
    texts. `character_set` are the values of Specific Character Set, which text has been read by.
    """

    elements: dict[str, Element]
    character_set: tuple[str, ...]

    def texts(self, tag: int) -> tuple[str, ...]:
        """The values of a top-level element of text or numbers; empty if absent."""
        values = self.elements.get(f"{tag:08X}", {}).get("Value", ())
        return tuple("" if value is None else str(value) for value in values)

    def text(self, tag: int) -> str:
        """The one value of a top-level element; empty if it is absent or has several."""
        values = self.texts(tag)
        return values[0] if len(values) == 1 else ""

    def items(self, tag: int) -> tuple[dict[str, Element], ...]:
        """The items of a top-level sequence; empty if absent."""
        return tuple(self.elements.get(f"{tag:08X}", {}).get("Value", ()))


def read_data_set(
    data: bytes, transfer_syntax_uid: str, limits: ScanLimits = LIMITS
) -> SmallDataSet:
    """A whole data set. Raises a ScanError."""
    scanner = DatasetScanner(encoding_of(transfer_syntax_uid), limits, 0)
    scanner.receive(data)
    read = scanner.finish()
    elements = {f"{tag:08X}": _decode(b"{%b}" % text)[f"{tag:08X}"] for tag, text in read.items()}
    for path, place in scanner.bulk.items():
        # Too long for an attribute of an instance. A list of UIDs that are asked for may be so.
        if "/" in path or vr_of(int(path, 16)) != "UI" or place.length is None:
            raise MalformedError(f"({path}) is longer than a data set of this kind allows")
        value = data[place.offset : place.offset + place.length].decode("latin_1")
        elements[path] = {"vr": "UI", "Value": value.rstrip(" \0").split("\\")}
    terms = scanner.raw.get(SPECIFIC_CHARACTER_SET, b"").decode("latin_1")
    character_set = tuple(term.strip(" \0") for term in terms.split("\\"))
    return SmallDataSet(elements, character_set if any(character_set) else ())
