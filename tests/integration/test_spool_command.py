"""`imaging-ingestion spool`: the backlog is shown, and dead letters are driven again, by hand."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from certificates import Authority
from nats_servers import NatsServer, nats
from proxy_process import proxy_process
from spool_proxies import CT, Made, arrived, kept, made, send_all, spooling, wanted
from storage_peers import Collector, destination
from tunnel_proxies import Behind, eventually, new_root, proxies, run, running_proxy

from imaging_ingestion.association.connect import ConnectSettings
from imaging_ingestion.association.error import AssociationError
from imaging_ingestion.association.tls import TlsFiles, tls_settings

__all__ = ["nats"]


async def spool(command: str, folder: Path, *options: str) -> tuple[int, str]:
    program = [sys.executable, "-m", "imaging_ingestion.cli.main", "spool", command]
    return await run(*program, "--data", str(folder), *options)


async def said(command: str, folder: Path, *options: str) -> Any:
    """What it says as JSON."""
    code, text = await spool(command, folder, *options, "--json")
    assert code == 0, text
    return json.loads(text)


async def test_the_backlog_is_shown_while_the_proxy_runs_and_when_it_does_not(
    nats: NatsServer, tmp_path: Path
) -> None:
    async with running_proxy(nats.address, "A", new_root(), **spooling(tmp_path)) as near:
        await send_all(near.port, [*made(1, range(5)), *made(2, range(2))])
        await eventually(lambda: kept(tmp_path).states.get("pending") == 7)
        running = await said("status", tmp_path)
    stopped = await said("status", tmp_path)
    for found in (running, stopped):
        assert (found["waiting"], found["dead"], found["delivered"]) == (7, 0, 0)
        assert found["bytes"] > 7 * 2000
        assert [(one["space"], one["waiting"]) for one in found["studies"]] == [
            ("ARCHIVE", 5),
            ("ARCHIVE", 2),
        ]
    code, text = await spool("status", tmp_path)
    assert code == 0
    assert "waiting    7 instances, the first for 0:00:" in text
    assert "ARCHIVE" in text


async def test_dead_letters_are_listed_driven_again_and_discarded(
    nats: NatsServer, tmp_path: Path
) -> None:
    refused = {Made(1, 1).uid, Made(1, 2).uid, Made(2, 1).uid}
    target = Collector(
        lambda _, request: 0xC123 if request.affected_sop_instance_uid in refused else 0
    )
    instances = [*made(1, range(4)), *made(2, range(2))]
    async with (
        destination(target, "TARGET") as (where, _),
        proxies(nats.address, Behind(where.port), near_values=spooling(tmp_path)) as pair,
    ):
        await send_all(pair.near.port, instances)
        await eventually(lambda: kept(tmp_path).states == {"delivered": 3, "dead": 3})
        dead = await said("dead", tmp_path)
        assert {row["event_id"].split("/")[1] for row in dead} == refused
        assert {row["answer"] for row in dead} == {"C123H Error: cannot understand"}
        code, text = await spool("dead", tmp_path, "--study", Made(2, 1).study_uid)
        assert code == 0
        assert "C123H" in text

        refused.clear()
        code, text = await spool("replay", tmp_path, "--study", Made(1, 1).study_uid)
        assert (code, text) == (0, "2 instances will be sent again\n")
        await eventually(lambda: kept(tmp_path).states == {"delivered": 5, "dead": 1})

        code, text = await spool("discard", tmp_path)
        assert code == 2
        assert kept(tmp_path).objects == 1
        code, text = await spool("discard", tmp_path, "--yes")
        assert (code, text) == (0, "1 instances were deleted\n")
        found = kept(tmp_path)
        assert found.states == {"delivered": 5}
        assert found.objects == found.instances == 0
    everything = wanted(instances)
    assert arrived(target) == everything


def files_in(folder: Path) -> list[Path]:
    return list(folder.iterdir())


async def test_where_there_is_no_spool_that_is_said(tmp_path: Path) -> None:
    code, text = await spool("status", tmp_path)
    assert code == 1
    assert "spool.db cannot be read" in text
    assert files_in(tmp_path) == []


async def test_a_proxy_process_tells_its_backlog_and_stays_small(
    nats: NatsServer, tmp_path: Path
) -> None:
    values = {"DIMSE_NATS_URL": nats.address, "DIMSE_NATS_SUBJECT_ROOT": new_root()}
    with proxy_process(tmp_path, **values, **spooling(tmp_path / "spool")) as proxy:
        await send_all(proxy.port, made(1, range(3)))

        def metric(name: str) -> float:
            _, page = proxy.get("/metrics")
            (line,) = [
                line
                for line in page.splitlines()
                if line.startswith(f"imaging_ingestion_spool_{name}")
            ]
            return float(line.rsplit(" ", 1)[1])

        await eventually(lambda: metric("instances ") == 3)
        assert metric("bytes ") == sum(
            path.stat().st_size for path in (tmp_path / "spool").rglob("*.dcm")
        )
        assert metric("received_total") == 3
        both = [proxy.watcher, proxy.worker]
        memory = sum(psutil.Process(one.pid).memory_info().rss for one in both)
        assert memory < 128 << 20


async def test_only_the_classes_of_the_configuration_are_taken(
    nats: NatsServer, tmp_path: Path
) -> None:
    folder = tmp_path / "config"
    folder.mkdir()
    (folder / "IMAGE_CUIDS").write_text("MR:1.2.840.10008.5.1.4.1.1.4\n")
    values = spooling(tmp_path / "spool", DIMSE_CONFIG_PATH=str(folder))
    async with running_proxy(nats.address, "A", new_root(), **values) as near:
        with pytest.raises(AssertionError):
            await send_all(near.port, made(1, range(1)))
    (folder / "IMAGE_CUIDS").write_text(f"CT:{CT}\n")
    async with running_proxy(nats.address, "A", new_root(), **values) as near:
        await send_all(near.port, made(1, range(1)))


async def test_instances_come_over_tls(nats: NatsServer, tmp_path: Path) -> None:
    authority = Authority()
    ca = tmp_path / "ca.pem"
    authority.file(ca)
    own = tmp_path / "own.pem"
    authority.issue("server").pem(own)
    tls = {
        "DIMSE_TLS_ENABLED": "true",
        "DIMSE_TLS_KEYSTORE": str(own),
        "DIMSE_TLS_TRUSTSTORE": str(ca),
    }
    values = spooling(tmp_path / "spool", **tls)
    found = tls_settings(tls)
    assert found is not None
    async with running_proxy(nats.address, "A", new_root(), **values) as near:
        settings = ConnectSettings(tls=TlsFiles(found, is_server=False))
        await send_all(near.port, made(1, range(3), size=400_000), settings=settings)
        with pytest.raises(AssociationError):
            await send_all(near.port, made(1, range(1)))
        assert kept(tmp_path / "spool").objects == 3
