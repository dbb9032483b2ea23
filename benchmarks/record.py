"""What recording instances costs in the manifest, by the size of the batch.

    python benchmarks/record.py
    python benchmarks/record.py --url postgresql://…   (a new, empty database; else SQLite)

One transaction records a batch; the instances are those of the real CT image, new each time, a
hundred to a series. CPU and elapsed time of the whole process, milliseconds an instance, the
median of some rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import zstandard

from corpus import CT_NAME, shared_dicom
from imaging_ingestion.dicom.scan import scan_bytes
from imaging_ingestion.events.stored import StoredInstance
from imaging_ingestion.manifest.attributes import columns_of
from imaging_ingestion.manifest.database import open_database
from imaging_ingestion.manifest.migrate import migrate
from imaging_ingestion.manifest.record import record_batch

ROUNDS = 9
INSTANCES = 320  # a round


def instances() -> Iterator[StoredInstance]:
    """The CT image under new UIDs, without end."""
    data = next(shared_dicom().rglob(CT_NAME)).read_bytes()
    header = scan_bytes(data)
    columns = columns_of(header)
    metadata = zstandard.compress(header.json, 1)
    for number in itertools.count():
        study, series = f"1.2.{number // 1000}", f"1.2.{number // 1000}.{number // 100}"
        yield StoredInstance(
            space="default",
            provider="default",
            study_instance_uid=study,
            series_instance_uid=series,
            sop_instance_uid=f"{series}.{number}",
            sop_class_uid=header.text(0x00080016) or "",
            transfer_syntax_uid=header.transfer_syntax_uid,
            object_name=f"{study}/{series}/{number}.dcm",
            object_size=len(data),
            sha256=number.to_bytes(32, "big"),
            # Decoded anew, as they come: no two instances share an object.
            study=msgspec.json.decode(msgspec.json.encode(columns.study)),
            series=msgspec.json.decode(msgspec.json.encode(columns.series)),
            instance=msgspec.json.decode(msgspec.json.encode(columns.instance)),
            metadata_zstd=metadata,
        )


async def measure(folder: Path, sizes: list[int], url: str | None) -> None:
    """Print a line for each size."""
    source = instances()
    for size in sizes:
        database = open_database(url or f"sqlite:///{folder}/{size}.db")
        await migrate(database)
        cpu, wall = [], []
        for _ in range(ROUNDS + 1):
            batches = [list(itertools.islice(source, size)) for _ in range(INSTANCES // size)]
            began, began_cpu = time.perf_counter(), time.process_time()
            for batch in batches:
                await database.write(record_batch, batch, time.time_ns() // 1000, 30_000_000)
            wall.append((time.perf_counter() - began) / INSTANCES * 1e3)
            cpu.append((time.process_time() - began_cpu) / INSTANCES * 1e3)
        await database.close()
        print(
            f"{size:4d} in a transaction: CPU {statistics.median(cpu[1:]):6.3f} ms (least "
            f"{min(cpu):.3f}), elapsed {statistics.median(wall[1:]):6.3f} ms an instance",
            flush=True,
        )


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--url", help="another database, postgresql://… say")
    arguments = parser.parse_args()
    with TemporaryDirectory() as folder:
        asyncio.run(measure(Path(folder), arguments.sizes, arguments.url))


if __name__ == "__main__":
    main()
