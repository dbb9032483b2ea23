"""Losing the manifest of a site and making it again from its space: how long, how much memory.

    python benchmarks/rebuild.py [--instances N] [--database URL]

A site takes in N real CT images (39 KB) under UIDs of their own, a hundred to a series and a
thousand to a study. Then its manifest is lost, and the commands run as they would in that hour:
`rebuild`, `check`, `check --deep`. What is rebuilt is compared with what was lost, row for row
apart from keys and times. `--database` is an empty PostgreSQL database instead of SQLite.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile

import sqlalchemy as sa

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests/support"))
from audited_site import DELAY, PROVIDER, AuditedSite

from corpus import ct_template
from imaging_ingestion.brokers.embedded import BrokerSettings, EmbeddedBroker
from imaging_ingestion.intake import Intake
from imaging_ingestion.manifest.database import open_database
from imaging_ingestion.manifest.event_data import SpaceRoots
from imaging_ingestion.manifest.migrate import migrate
from imaging_ingestion.storage.directory import DirectorySpace

FILE = "CT_small.dcm"
AT_ONCE = 32
SITE = """\
apiVersion: imaging-ingestion.alvearie.org/v1alpha1
kind: DicomEventDrivenIngestion
metadata: {{name: core}}
spec: {{databaseConfigName: database}}
---
apiVersion: imaging-ingestion.alvearie.org/v1alpha1
kind: DicomwebIngestionService
metadata: {{name: default}}
spec: {{dicomEventDrivenIngestionName: core, bucketConfigName: default, providerName: {provider}}}
---
apiVersion: v1
kind: ConfigMap
metadata: {{name: default}}
data: {{LOCAL_STORAGE_PATH: spaces/default}}
---
apiVersion: v1
kind: ConfigMap
metadata: {{name: database}}
data: {database}
"""


def declared(url: str | None) -> str:
    """The site's file."""
    if url is None:
        values = {"DB_KIND": "sqlite", "DB_NAME": "core.db"}
    else:
        parsed = sa.make_url(url)
        values = {
            "DB_KIND": "postgresql",
            "DB_HOST": parsed.query.get("host") or parsed.host,
            "DB_PORT": str(parsed.port or 5432),
            "DB_NAME": parsed.database,
            "DB_USER": parsed.username,
            "DB_PASS": parsed.password,
        }
    kept = {key: value for key, value in values.items() if value}
    return SITE.format(provider=PROVIDER, database=json.dumps(kept))


async def take_in(site: AuditedSite, instances: int) -> None:
    """Store them, some at a time."""
    settings = BrokerSettings(
        core="core",
        revisioning_delay=DELAY,
        roots_of=lambda space: SpaceRoots(f"http://{space}", f"http://{space}"),
        api_url="http://api",
    )
    broker = EmbeddedBroker(site.database, settings)
    intake = Intake(site.space, broker)
    template = ct_template(FILE)
    numbers: Iterator[int] = iter(range(instances))

    async def some() -> None:
        for number in numbers:
            reception = intake.receive(source="benchmark", provider=PROVIDER)
            for piece in template.instance(number // 1000, number // 100, number):
                await reception.write(piece)
            await reception.finish()

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(some())
    await intake.close()
    await broker.stop()


def run(*arguments: str) -> None:
    """Run the command, and print what it said, its time, and the most memory that it took."""
    began = time.monotonic()
    command = [sys.executable, "-m", "imaging_ingestion.cli.main", *arguments]
    with TemporaryFile("w+") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said)
        # What the system says of a child at its end includes what its parent took.
        most = 0
        while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            most = max(most, peak(process.pid))
            time.sleep(0.02)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        words = said.read().strip()
    print(
        f"{arguments[0]:8} {'--deep' if '--deep' in arguments else '':7}"
        f"{time.monotonic() - began:7.1f} s  {usage.ru_utime + usage.ru_stime:6.1f} s CPU"
        f"  {most:4} MiB  exit code {process.returncode}: {words}"
    )


def peak(pid: int) -> int:
    """The most memory (MiB) that a process has taken so far."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next((int(line.split()[1]) >> 10 for line in lines if line.startswith("VmHWM")), 0)


async def measure(folder: Path, instances: int, url: str | None) -> bool:
    """Whether what was rebuilt is what was lost."""
    file = folder / "site.yaml"
    file.write_text(declared(url))
    database = open_database(url or f"sqlite:///{folder}/core.db")
    await migrate(database)
    site = AuditedSite(DirectorySpace("default", folder / "spaces/default"), database)
    began = time.monotonic()
    await take_in(site, instances)
    print(f"take in         {time.monotonic() - began:7.1f} s")
    before = await site.rows()
    await site.lose_manifest()
    common = ["-f", str(file), "--data", str(folder), "--grace", "0"]
    await asyncio.to_thread(run, "rebuild", *common)
    after = await site.rows()
    await asyncio.to_thread(run, "check", *common)
    await asyncio.to_thread(run, "check", "--deep", *common)
    await asyncio.to_thread(run, "rebuild", *common)
    await site.space.close()
    await database.close()
    for name, rows in before.items():
        print(f"{name:10} {len(rows):6} rows, {'equal' if rows == after[name] else 'DIFFERENT'}")
    return before == after


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--instances", type=int, default=10_000)
    parser.add_argument("--database", help="URL of an empty PostgreSQL database")
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        equal = asyncio.run(measure(Path(folder), options.instances, options.database))
    raise SystemExit(0 if equal else 1)


if __name__ == "__main__":
    main()
