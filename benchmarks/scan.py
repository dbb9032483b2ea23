"""What reading a header costs: our scanner beside pydicom, on the CT image of the collection.

    python benchmarks/scan.py

CPU time of this process, the least of several rounds; the JSON is part of ours, and a call of its
own for pydicom.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable

import pydicom

from corpus import CT_NAME, shared_dicom
from imaging_ingestion.dicom.scan import HeaderScanner
from imaging_ingestion.manifest.attributes import columns_of

PIECE = 256_000  # bytes, as they come from a socket
ROUNDS, CALLS = 15, 60


def least(call: Callable[[], object]) -> float:
    """Milliseconds of CPU for one call."""
    best = float("inf")
    for _ in range(ROUNDS):
        began = time.process_time()
        for _ in range(CALLS):
            call()
        best = min(best, (time.process_time() - began) / CALLS * 1000)
    return best


def main() -> None:
    """Print the figures."""
    data = next(shared_dicom().rglob(CT_NAME)).read_bytes()

    def scan() -> bytes:
        scanner = HeaderScanner()
        for start in range(0, len(data), PIECE):
            scanner.feed(data[start : start + PIECE])
        return scanner.finish().json

    scanner = HeaderScanner()
    scanner.feed(data)
    header = scanner.finish()
    dataset = pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True)
    print(f"{len(header.elements)} elements, {len(data)} bytes, {len(header.json)} bytes of JSON")
    print(f"our scanner, with JSON           {least(scan):6.3f} ms")
    print(f"columns of the manifest          {least(lambda: columns_of(header)):6.3f} ms")
    read = least(lambda: pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True))
    print(f"pydicom, stop_before_pixels      {read:6.3f} ms")
    print(f"pydicom, to_json_dict            {least(dataset.to_json_dict):6.3f} ms")


if __name__ == "__main__":
    main()
