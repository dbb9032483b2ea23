"""`imaging-ingestion run proxy`: what a container runs, as the processes that it is."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from time import monotonic

import psutil
import pytest
from nats_servers import NatsServer
from nats_servers import nats as nats_fixture
from proxy_process import COMMAND, ProxyProcess, proxy_process
from tunnel_proxies import Behind, eventually, new_root, running_proxy
from tunnel_store import digests, sender, store

from imaging_ingestion.association.error import AssociationAbortedError

nats = nats_fixture


def values(nats: NatsServer, root: str, channel: str, behind: Behind | None = None) -> dict:
    return {
        "DIMSE_NATS_URL": nats.address,
        "DIMSE_NATS_SUBJECT_ROOT": root,
        "DIMSE_NATS_SUBJECT_CHANNEL": channel,
        **(behind.values() if behind else {}),
    }


@pytest.fixture
def near(nats: NatsServer, tmp_path: Path) -> Iterator[tuple[ProxyProcess, str]]:
    root = new_root()
    with proxy_process(tmp_path / "near", **values(nats, root, "A")) as proxy:
        yield proxy, root


async def test_upstreams_environment_names_make_a_proxy(
    nats: NatsServer, near: tuple[ProxyProcess, str]
) -> None:
    proxy, root = near
    async with (
        digests() as (target, port),
        running_proxy(nats.address, "B", root, **Behind(port).values()),
        sender(proxy.port) as association,
    ):
        assert await store(association, 1, 1 << 20) == 0
        status, metrics = await asyncio.to_thread(proxy.get, "/metrics")
        assert status == 200
        assert "imaging_ingestion_tunnel_streams 1.0" in metrics
        target.assert_all(range(1, 2), 1 << 20)


def test_it_is_small(near: tuple[ProxyProcess, str]) -> None:
    proxy, _ = near
    both = [proxy.watcher, proxy.worker]
    assert sum(one.memory_info().rss for one in both) < 80 << 20


def test_health_pages(near: tuple[ProxyProcess, str]) -> None:
    proxy, _ = near
    assert proxy.get("/healthz/live") == (200, "ok\n")
    assert proxy.get("/healthz/ready") == (200, "ok\n")
    assert proxy.get("/other")[0] == 404


def test_a_resource_and_the_environment_together_make_a_proxy(
    nats: NatsServer, tmp_path: Path
) -> None:
    file = tmp_path / "proxy.yaml"
    file.write_text(f"""
apiVersion: imaging-ingestion.alvearie.org/v1alpha1
kind: DimseProxy
metadata: {{name: edge}}
spec:
  applicationEntityTitle: DCM4CHEE
  targetDimseHost: arc.example
  targetDimsePort: 11112
  natsUrl: {nats.address}
  natsSubjectRoot: {new_root()}
  natsSubjectChannel: B
  natsTokenSecret: token
  proxy: {{}}
---
apiVersion: v1
kind: Secret
metadata: {{name: token}}
stringData: {{token: a-token}}
""")
    with proxy_process(tmp_path, "-f", str(file)) as proxy:
        said = proxy.log.read_text()
        assert "DCM4CHEE@arc.example:11112" in said
        assert ".B\n" in said
        assert proxy.stop() == 0


def test_upstreams_own_resource_is_read(tmp_path: Path) -> None:
    from imaging_ingestion.cli.run import proxy_values
    from imaging_ingestion.tunnel.settings import proxy_settings

    file = Path(__file__).parents[1] / "data/upstream/dimseproxy.yaml"
    found = proxy_settings(proxy_values([file], {"DIMSE_NATS_AUTH_TOKEN": "from the environment"}))
    assert found.nats.servers == ("tls://nats-secure.imaging-ingestion.svc.cluster.local:4222",)
    assert found.nats.token == "from the environment"
    assert found.target is not None
    assert found.target.ae_title == "DCM4CHEE"
    assert (found.subjects.root, found.subjects.channel) == ("DIMSE", "A")


@pytest.mark.parametrize(
    ("environment", "problems"),
    [
        ({}, ["DIMSE_NATS_URL is missing"]),
        (
            {"DIMSE_NATS_URL": "http://x", "DIMSE_PORT": "x", "DIMSE_NATS_SUBJECT_CHANNEL": "C"},
            ["http:// is not spoken", "DIMSE_PORT is 'x'", "A or B was expected"],
        ),
        (
            {"DIMSE_NATS_URL": "localhost", "DIMSE_NATS_CREDS": "/nowhere/x.creds"},
            ["/nowhere/x.creds cannot be read"],
        ),
    ],
)
def test_settings_that_cannot_be_used_end_it_with_all_of_them_named(
    environment: dict[str, str], problems: list[str]
) -> None:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("DIMSE_")}
    ended = subprocess.run(
        COMMAND,
        check=False,
        env={**clean, **environment, "HTTP_PORT": "0"},
        capture_output=True,
        timeout=60,
    )
    assert ended.returncode == 2
    for problem in problems:
        assert problem in ended.stderr.decode()


async def test_sigterm_lets_what_is_under_way_end(
    nats: NatsServer, near: tuple[ProxyProcess, str]
) -> None:
    proxy, root = near
    async with (
        digests() as (target, port),
        running_proxy(nats.address, "B", root, **Behind(port).values()),
        sender(proxy.port) as association,
    ):
        storing = asyncio.create_task(store(association, 1, 64 << 20))
        await eventually(lambda: target.received > 4 << 20)
        proxy.process.send_signal(signal.SIGTERM)
        assert await storing == 0
        await association.release()
        assert await asyncio.to_thread(proxy.process.wait, 30) == 0
        target.assert_all(range(1, 2), 64 << 20)


@pytest.mark.parametrize("which", ["worker", "watcher"])
@pytest.mark.parametrize("side", ["near", "far"])
async def test_a_proxy_that_is_killed_ends_its_associations_at_once_on_the_other_side(
    nats: NatsServer, tmp_path: Path, which: str, side: str
) -> None:
    root = new_root()
    async with digests() as (target, port):
        with (
            proxy_process(tmp_path / "near", **values(nats, root, "A")) as near,
            proxy_process(tmp_path / "far", **values(nats, root, "B", Behind(port))) as far,
        ):
            killed = near if side == "near" else far
            left = far if side == "near" else near
            async with sender(near.port) as association:
                assert await store(association, 1, 1000) == 0
                (far_end,) = target.associations
                victim: psutil.Process = getattr(killed, which)
                victim.kill()
                began = monotonic()
                await association.closed()
                await far_end.closed()
                assert monotonic() - began < 5.0
            ends = far_end.end if side == "near" else association.end
            assert isinstance(ends, AssociationAbortedError)
            assert "by the service provider" in str(ends)
            await eventually(lambda: "proxy.ended_in_the_middle" in left.log.read_text())
            if which == "worker":
                assert "the process of the peer proxy has ended" in left.log.read_text()
            code = await asyncio.to_thread(killed.process.wait, 30)
            assert code == (128 + signal.SIGKILL if which == "worker" else -signal.SIGKILL)
            assert await asyncio.to_thread(left.stop) == 0


async def test_600_instances_arrive_over_one_association_of_two_real_proxies(
    nats: NatsServer, tmp_path: Path
) -> None:
    root = new_root()
    async with digests() as (target, port):
        with (
            proxy_process(tmp_path / "near", **values(nats, root, "A")) as near,
            proxy_process(tmp_path / "far", **values(nats, root, "B", Behind(port))) as far,
        ):
            async with sender(near.port) as association:
                for number in range(600):
                    assert await store(association, number, 530_000) == 0
            target.assert_all(range(600), 530_000)
            for one in (near, far):
                assert one.worker.memory_info().rss < 90 << 20
