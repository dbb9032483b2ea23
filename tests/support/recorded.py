"""Instances as the intake hands them to the manifest, made without an object behind them."""

from __future__ import annotations

import hashlib
import io
import itertools
import time

import pydicom
import zstandard
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from sqlalchemy.engine import Connection

from imaging_ingestion.dicom.scan import scan_bytes
from imaging_ingestion.events.stored import StoredInstance
from imaging_ingestion.manifest.attributes import columns_of
from imaging_ingestion.manifest.record import record_batch

CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
DELAY_US = 30_000_000

_ARRIVALS = itertools.count()


def data_set(**attributes: object) -> Dataset:
    """A data set with UIDs of its own, in UTF-8, and these attributes by keyword."""
    made = Dataset()
    made.SpecificCharacterSet = "ISO_IR 192"
    made.SOPClassUID = CT_IMAGE_STORAGE
    made.StudyInstanceUID = generate_uid()
    made.SeriesInstanceUID = generate_uid()
    made.SOPInstanceUID = generate_uid()
    with pydicom.config.disable_value_validation():  # senders do not ask either
        for keyword, value in attributes.items():
            setattr(made, keyword, value)
    return made


def part10(made: Dataset) -> bytes:
    """The data set as a Part 10 file."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = made.SOPClassUID
    meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.file_meta = meta
    buffer = io.BytesIO()
    with pydicom.config.disable_value_validation():
        pydicom.dcmwrite(buffer, made, enforce_file_format=True)
    return buffer.getvalue()


def stored_instance(made: Dataset, space: str = "default") -> StoredInstance:
    """What the intake would tell of the data set."""
    content = part10(made)
    header = scan_bytes(content)
    columns = columns_of(header)
    return StoredInstance(
        space=space,
        provider="test",
        study_instance_uid=str(made.StudyInstanceUID),
        series_instance_uid=str(made.SeriesInstanceUID),
        sop_instance_uid=str(made.SOPInstanceUID),
        sop_class_uid=str(made.SOPClassUID),
        transfer_syntax_uid=header.transfer_syntax_uid,
        object_name=f"{made.SOPInstanceUID}-{next(_ARRIVALS)}.dcm",
        object_size=len(content),
        sha256=hashlib.sha256(content).digest(),
        study=columns.study,
        series=columns.series,
        instance=columns.instance,
        metadata_zstd=zstandard.ZstdCompressor(level=1).compress(header.json),
    )


def record(connection: Connection, *made: Dataset, space: str = "default") -> None:
    """Record data sets in the manifest, in their order, as the platform does."""
    now = time.time_ns() // 1000
    record_batch(connection, [stored_instance(one, space) for one in made], now, DELAY_US)
