"""Writes src/imaging_ingestion/dicom/dictionary.txt from pydicom's data dictionary.

    python scripts/make_dictionary.py

One line for each entry, tab-separated: `E tag VR keyword` (an `x` in the tag is any hex digit, for
repeating groups), `T uid name` (transfer syntax), `S uid name` (storage SOP class).
"""

from __future__ import annotations

from pathlib import Path

from pydicom._dicom_dict import DicomDictionary, RepeatersDictionary
from pydicom._uid_dict import UID_dictionary

TARGET = Path(__file__).parents[1] / "src/imaging_ingestion/dicom/dictionary.txt"


def lines() -> list[str]:
    """The file's lines."""
    out = []
    for tag, (vr, _vm, _name, _retired, keyword) in sorted(DicomDictionary.items()):
        out.append(f"E\t{tag:08X}\t{vr}\t{keyword}")
    for mask, (vr, _vm, _name, _retired, keyword) in sorted(RepeatersDictionary.items()):
        out.append(f"E\t{mask.upper().replace('X', 'x')}\t{vr}\t{keyword}")
    for uid, (name, kind, *_rest) in sorted(UID_dictionary.items()):
        if kind == "Transfer Syntax":
            out.append(f"T\t{uid}\t{name}")
        elif kind == "SOP Class" and "Storage" in name and "Storage Commitment" not in name:
            out.append(f"S\t{uid}\t{name}")
    return out


if __name__ == "__main__":
    TARGET.write_text("\n".join(lines()) + "\n", encoding="utf-8")
