"""`up` with NATS JetStream as the broker: from STOW-RS to a target, whatever NATS does."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from instances import multipart, with_uids
from nats_servers import nats_server
from platform_process import Platform
from site_documents import binding, config_map, core, secret, service
from up_dimse import get, instances_in, running, text_of, until

ROOT = "1.2.826.0.1.3680043.8.498.77"


def site(broker: str, *documents: str, **spec: object) -> str:
    """The core `core` sends its instances to the core `archive`, which is in the same process."""
    return "---\n".join(
        (
            core(revisioningDelay=1, broker=broker, **spec),
            service("web"),
            binding("DicomInstanceBinding", "forward", bindingConfigName="forward"),
            config_map("forward", STOW_ENDPOINT="/spaces/archive/dicom-web"),
            core("archive", revisioningDelay=1),
            service("web-archive", "archive", bucketConfigName="archive"),
            config_map("archive", LOCAL_STORAGE_PATH="archive"),
            *documents,
        )
    )


def database(url: str) -> tuple[str, str]:
    """The ConfigMap and the Secret of a database."""
    parsed = sa.make_url(url)
    host = parsed.host or str(parsed.query["host"])
    shown = {"DB_KIND": "postgresql", "DB_HOST": host, "DB_NAME": parsed.database or ""}
    if parsed.port is not None:
        shown["DB_PORT"] = str(parsed.port)
    hidden = {"DB_USER": parsed.username or "", "DB_PASS": parsed.password or ""}
    return config_map("database", **shown), secret("database", **hidden)


def sender(platform: Platform, source: Path, study: str) -> Callable[[int], int]:
    """Stores the instance of a number; the HTTP status."""

    def send(number: int) -> int:
        body, content_type = multipart(
            [with_uids(source, study, f"{study}.1", f"{study}.1.{number}")]
        )
        request = urllib.request.Request(
            f"{platform.dicomweb}/studies", data=body, headers={"Content-Type": content_type}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return int(answer.status)

    return send


def archived(platform: Platform, study: str) -> set[str]:
    return instances_in(f"{platform.url}/spaces/archive/dicom-web", study)


def readiness(platform: Platform) -> Any:
    return get(f"{platform.url}/healthz/ready")


def metric(platform: Platform, name: str) -> float:
    (line,) = [
        line for line in text_of(f"{platform.url}/metrics").splitlines() if line.startswith(name)
    ]
    return float(line.rsplit(" ", 1)[1])


async def test_a_binding_gets_everything_although_nats_goes_away_during_ingest(
    tmp_path: Path, dicom_file: Callable[[str], Path], postgres_database_url: str
) -> None:
    study = f"{ROOT}.1"
    with nats_server('authorization { token: "s3cret" }\n', jetstream=True) as nats:
        broker = {
            "kind": "jetstream",
            "natsUrl": nats.address,
            "natsSubjectRoot": "clinic.images",
            "natsTokenSecret": "nats",
            "maxAge": 3600,
        }
        documents = (secret("nats", token="s3cret"), *database(postgres_database_url))
        names = {"databaseConfigName": "database", "databaseSecretName": "database"}
        platform = Platform(tmp_path, site(json.dumps(broker), *documents, **names))
        send = sender(platform, dicom_file("CT_small.dcm"), study)
        async with running(platform):
            assert readiness(platform)["brokers"] == {
                "core": {"kind": "jetstream", "connected": True},
                "archive": {"kind": "embedded"},
            }
            assert await asyncio.to_thread(send, 0) == 200
            await until(lambda: len(archived(platform, study)) == 1, "the first is forwarded")
            for number in range(1, 25):
                if number == 8:
                    nats.kill()
                if number == 18:
                    # Intake goes on, what was stored is found at once, and readiness stays.
                    assert len(instances_in(platform.dicomweb, study)) == 18
                    assert readiness(platform)["brokers"]["core"]["connected"] is False
                    assert metric(platform, "imaging_ingestion_outbox_lag_entries") > 0
                    nats.start()
                assert await asyncio.to_thread(send, number) == 200
            await until(lambda: len(archived(platform, study)) == 25, "all are forwarded")
            await until(
                lambda: metric(platform, "imaging_ingestion_outbox_lag_entries") < 30,
                "it is carried",
            )
            assert readiness(platform)["brokers"]["core"]["connected"] is True
        assert "s3cret" not in platform.log.read_text()


async def test_a_site_and_its_workers_share_a_server_whose_streams_outlive_a_restart(
    tmp_path: Path, dicom_file: Callable[[str], Path]
) -> None:
    study = f"{ROOT}.2"
    platform = Platform(tmp_path, site("{kind: jetstream}"))
    send = sender(platform, dicom_file("CT_small.dcm"), study)
    for turn, options in enumerate([(), ("--workers", "2")]):
        platform.options = options
        async with running(platform):
            assert await asyncio.to_thread(send, turn) == 200
            await until(lambda n=turn: len(archived(platform, study)) == n + 1, "it is forwarded")
    made = [line for line in platform.log.read_text().splitlines() if "stream_made" in line]
    assert len(made) == 2  # events and dead letters, once
    assert (platform.data / "nats").is_dir()
