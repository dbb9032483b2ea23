"""Identifiers and other small data sets, made and read with pydicom."""

from __future__ import annotations

import io
from typing import Any

import pydicom
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset

EXPLICIT = "1.2.840.10008.1.2.1"
IMPLICIT = "1.2.840.10008.1.2"


def keys(**attributes: Any) -> Dataset:
    """A data set with these attributes by keyword; an item is a dict, a sequence a list of them."""
    made = Dataset()
    with pydicom.config.disable_value_validation():
        for keyword, value in attributes.items():
            if isinstance(value, list) and all(isinstance(item, dict) for item in value):
                setattr(made, keyword, [keys(**item) for item in value])
            else:
                setattr(made, keyword, value)
    return made


def encoded(data_set: Dataset, syntax: str = EXPLICIT) -> bytes:
    """The data set's bytes."""
    buffer = pydicom.filebase.DicomBytesIO()
    buffer.is_little_endian = True
    buffer.is_implicit_VR = syntax == IMPLICIT
    with pydicom.config.disable_value_validation():
        write_dataset(buffer, data_set, data_set.get("SpecificCharacterSet"))
    return buffer.getvalue()


def decoded(data: bytes, syntax: str = EXPLICIT) -> Dataset:
    """The data set of bytes, all of it."""
    found = read_dataset(io.BytesIO(data), syntax == IMPLICIT, is_little_endian=True)
    found.decode()
    return found
