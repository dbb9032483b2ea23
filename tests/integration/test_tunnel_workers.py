"""`run proxy --workers 2`: two proxies on one port, and a process that watches them."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path
from time import monotonic, sleep

import psutil
from nats_servers import NatsServer
from nats_servers import nats as nats_fixture
from proxy_process import COMMAND, ProxyProcess, proxy_process
from tunnel_proxies import Behind, eventually, new_root, running_proxy
from tunnel_store import digests, sender, store

nats = nats_fixture


def two(folder: Path, nats: NatsServer, root: str, channel: str = "A", **more: str):  # type: ignore[no-untyped-def]
    return proxy_process(
        folder,
        "--workers",
        "2",
        DIMSE_NATS_URL=nats.address,
        DIMSE_NATS_SUBJECT_ROOT=root,
        DIMSE_NATS_SUBJECT_CHANNEL=channel,
        **more,
    )


def await_both(proxy: ProxyProcess) -> list[psutil.Process]:
    """Its workers, once both are ready."""
    while not all(
        f'imaging_ingestion_tunnel_nats_up{{worker="{n}"}} 1.0' in proxy.get("/metrics")[1]
        for n in (1, 2)
    ):
        sleep(0.02)  # polling another process: there is nothing to wait on
    proxy.workers = proxy.watcher.children()
    return proxy.workers


async def test_associations_are_shared_and_metrics_are_of_both(
    nats: NatsServer, tmp_path: Path
) -> None:
    root = new_root()
    with two(tmp_path, nats, root) as proxy:
        await asyncio.to_thread(await_both, proxy)
        async with (
            digests() as (target, port),
            running_proxy(nats.address, "B", root, **Behind(port).values()),
            sender(proxy.port) as first,
            sender(proxy.port) as second,
        ):
            assert await store(first, 1, 100_000) == 0
            assert await store(second, 2, 100_000) == 0
            _, metrics = await asyncio.to_thread(proxy.get, "/metrics")
            for worker in (1, 2):
                assert f'imaging_ingestion_tunnel_streams{{worker="{worker}"}} 1.0' in metrics
            target.assert_all(range(1, 3), 100_000)
        assert await asyncio.to_thread(proxy.stop) == 0


async def test_calls_of_the_other_side_come_to_either_worker_and_go_on_when_one_is_killed(
    nats: NatsServer, tmp_path: Path
) -> None:
    root = new_root()
    async with digests() as (target, port):
        with two(tmp_path, nats, root, "B", **Behind(port).values()) as far:
            first, second = await asyncio.to_thread(await_both, far)
            async with running_proxy(nats.address, "A", root) as near:
                for number, victim in enumerate((first, second)):
                    async with sender(near.port) as association:
                        assert await store(association, number, 10_000) == 0
                    victim.kill()
                    began = monotonic()
                    await eventually(lambda: len(far.watcher.children()) >= 1)
                    async with sender(near.port) as association:
                        assert await store(association, 10 + number, 10_000) == 0
                    assert monotonic() - began < 20
                    await asyncio.to_thread(await_both, far)
            target.assert_all([0, 1, 10, 11], 10_000)
            assert far.log.read_text().count("worker.died") == 2
            assert await asyncio.to_thread(far.stop) == 0


async def test_the_other_side_is_told_of_a_worker_that_was_killed(
    nats: NatsServer, tmp_path: Path
) -> None:
    root = new_root()
    async with digests() as (target, port):
        with (
            two(tmp_path, nats, root) as near,
        ):
            await asyncio.to_thread(await_both, near)
            async with (
                running_proxy(nats.address, "B", root, **Behind(port).values()),
                sender(near.port) as association,
            ):
                assert await store(association, 1, 1000) == 0
                (far_end,) = target.associations
                for one in near.workers:
                    one.kill()
                began = monotonic()
                await association.closed()
                await far_end.closed()
                assert monotonic() - began < 20.0  # without being told it would be 60
            assert await asyncio.to_thread(near.stop) == 0, near.log.read_text()


def test_a_proxy_that_keeps_instances_is_one_process(nats: NatsServer, tmp_path: Path) -> None:
    ended = subprocess.run(
        [*COMMAND, "--workers", "2", "--http-port", "0"],
        check=False,
        env={
            "DIMSE_NATS_URL": nats.address,
            "DIMSE_PROXY_MODE": "spool",
            "DIMSE_SPOOL_DIRECTORY": str(tmp_path),
            "DIMSE_PORT": "0",
        },
        capture_output=True,
        timeout=60,
    )
    assert ended.returncode == 2
    assert "one process" in ended.stderr.decode()
