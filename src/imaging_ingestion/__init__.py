"""Imaging ingestion: DICOM in, durable in storage spaces, recorded, announced, distributed."""

__version__ = "0.1.0"
