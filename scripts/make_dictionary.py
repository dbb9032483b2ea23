"""Writes src/imaging_ingestion/dicom/dictionary.txt from pydicom's data dictionary.

    python scripts/make_dictionary.py

One line for each entry, tab-separated: `E tag VR keyword` (an `x` in the tag is any hex digit, for
repeating groups), `T uid name` (transfer syntax), `S uid name` (storage SOP class).
"""

from __future__ import annotations

from pathlib import Path

from pydicom._dicom_dict import DicomDictionary, RepeatersDictionary
from pydicom._uid_dict import UID_dictionary

#: Registered in PS3.6 table A-1, but not (yet) known to the pydicom this is made with.
LATER_TRANSFER_SYNTAXES = {
    "1.2.840.10008.1.2.4.110": "JPEG XL Lossless",
    "1.2.840.10008.1.2.4.111": "JPEG XL JPEG Recompression",
    "1.2.840.10008.1.2.4.112": "JPEG XL",
    "1.2.840.10008.1.2.8.1": "Deflated Image Frame Compression",
}
LATER_STORAGE_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.2.3": "CT Image Storage - For Processing",
    "1.2.840.10008.5.1.4.1.1.2.4": "Enhanced CT Image Storage - For Processing",
    "1.2.840.10008.5.1.4.1.1.2.5": ("Legacy Converted Enhanced CT Image Storage - For Processing"),
    "1.2.840.10008.5.1.4.1.1.9.100.1": "Waveform Presentation State Storage",
    "1.2.840.10008.5.1.4.1.1.9.100.2": "Waveform Acquisition Presentation State Storage",
    "1.2.840.10008.5.1.4.1.1.66.7": "Label Map Segmentation Storage",
    "1.2.840.10008.5.1.4.1.1.66.8": "Height Map Segmentation Storage",
    "1.2.840.10008.5.1.4.1.1.601.3": "Thermography Image Storage",
    "1.2.840.10008.5.1.4.1.1.601.4": "Thermography Multi-frame Image Storage",
    "1.2.840.10008.5.1.4.1.1.601.5": "Ultrasound Waveform Storage",
}

TARGET = Path(__file__).parents[1] / "src/imaging_ingestion/dicom/dictionary.txt"


def lines() -> list[str]:
    """The file's lines."""
    out = []
    for tag, (vr, _vm, _name, _retired, keyword) in sorted(DicomDictionary.items()):
        out.append(f"E\t{tag:08X}\t{vr}\t{keyword}")
    for mask, (vr, _vm, _name, _retired, keyword) in sorted(RepeatersDictionary.items()):
        out.append(f"E\t{mask.upper().replace('X', 'x')}\t{vr}\t{keyword}")
    names = {("T", uid): name for uid, name in LATER_TRANSFER_SYNTAXES.items()}
    names |= {("S", uid): name for uid, name in LATER_STORAGE_CLASSES.items()}
    for uid, (name, kind, *_rest) in UID_dictionary.items():
        if kind == "Transfer Syntax":
            names["T", uid] = name
        elif kind == "SOP Class" and "Storage" in name and "Storage Commitment" not in name:
            names["S", uid] = name
    out += [
        f"{letter}\t{uid}\t{name}"
        for (letter, uid), name in sorted(names.items(), key=lambda entry: entry[0][1])
    ]
    return out


if __name__ == "__main__":
    TARGET.write_text("\n".join(lines()) + "\n", encoding="utf-8")
