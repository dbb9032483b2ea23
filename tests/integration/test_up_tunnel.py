"""`up` runs proxies and services over NATS: with a server of its own, or one that is named."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from dimse_site import CT, store, tool
from nats_servers import NatsServer, nats_server
from platform_process import Platform, free_port
from site_documents import config_map, core, dimse, resource, secret, service
from storage_peers import Collector, destination
from up_dimse import call, instance, instances_in, running, stored, text_of, until

from imaging_ingestion.association.error import NotConnectedError

ROOT = "1.2.826.0.1.3680043.8.498.31"


@pytest.fixture
def source(dicom_file: Callable[[str], Path]) -> Path:
    return dicom_file("CT_small.dcm")


def proxy(name: str, port: int, **spec: object) -> str:
    return resource("DimseProxy", name, port=port, **spec)


def projected(proxy_port: int, **spec: object) -> str:
    """A service that is only on its subject, and a proxy for it on TCP."""
    return "---\n".join(
        (
            core(revisioningDelay=1),
            service("web"),
            dimse("scanners", natsSubjectRoot="HOSPITAL", **spec),
            proxy("door", proxy_port, natsSubjectRoot="HOSPITAL", natsSubjectChannel="A", **spec),
        )
    )


def own_server(platform: Platform) -> psutil.Process:
    """The nats-server that the platform started."""
    assert platform.process is not None
    (server,) = (
        child
        for child in psutil.Process(platform.process.pid).children()
        if child.name() == "nats-server"
    )
    return server


async def is_connected(platform: Platform, *components: str) -> None:
    """Wait until each of them has its connection to NATS."""

    def up() -> bool:
        text = text_of(f"{platform.url}/metrics")
        return all(
            f'imaging_ingestion_tunnel_nats_up{{component="{name}"}} 1.0' in text
            for name in components
        )

    await until(up, f"{components} connect to NATS")


async def test_a_service_is_reached_through_a_proxy_over_the_sites_own_server(
    tmp_path: Path, source: Path
) -> None:
    port = free_port()
    study = f"{ROOT}.1"
    _, sent = instance(source, study, 1)
    async with running(Platform(tmp_path, projected(port))) as platform:
        said = platform.log.read_text()
        assert "INGESTION over NATS (HOSPITAL.B)" in said
        assert f"door: *@127.0.0.1:{port} over NATS (HOSPITAL.A), target none" in said
        assert "INGESTION@" not in said  # no TCP port for a service that has a subject
        await is_connected(platform, "scanners", "door")
        code, said = await tool("echoscu", "-aec", "WHATEVER", "127.0.0.1", port)
        assert code == 0, said
        association = await call(port, CT)
        assert (await store(association, sent)).status == 0
        await association.release()
        assert stored(platform.dicomweb, study, sent.sop_instance) == sent.data_set
        metrics = text_of(f"{platform.url}/metrics")
        opened = 'imaging_ingestion_tunnel_streams_opened_total{by="us",component="door"} 2.0'
        assert (
            opened in metrics
            or opened.replace('by="us",component="door"', 'component="door",by="us"') in metrics
        )
        assert (
            'imaging_ingestion_dimse_stores_total{service="scanners",status="0000"} 1.0' in metrics
        )
        server = own_server(platform)
    assert not psutil.pid_exists(server.pid)


async def test_the_sites_own_server_is_on_loopback_and_asks_for_a_token(tmp_path: Path) -> None:
    async with running(Platform(tmp_path, projected(free_port()))) as platform:
        server = own_server(platform)
        listening = [one.laddr for one in server.net_connections() if one.status == "LISTEN"]
        assert {address.ip for address in listening} == {"127.0.0.1"}
        (address,) = listening
        reader, writer = await asyncio.open_connection("127.0.0.1", address.port)
        assert b'"auth_required":true' in await reader.readline()
        writer.write(b'CONNECT {"verbose":true}\r\nPING\r\n')
        assert b"Authorization Violation" in await reader.readline()
        writer.close()


async def test_an_association_outlives_the_sites_own_server(tmp_path: Path, source: Path) -> None:
    port = free_port()
    study = f"{ROOT}.2"
    async with running(Platform(tmp_path, projected(port))) as platform:
        await is_connected(platform, "scanners", "door")
        association = await call(port, CT)
        sent = [instance(source, study, number)[1] for number in range(4)]
        assert (await store(association, sent[0])).status == 0
        own_server(platform).kill()
        for one in sent[1:]:
            assert (await store(association, one)).status == 0
        await association.release()
        assert instances_in(platform.dicomweb, study) == {one.sop_instance for one in sent}


async def test_the_sites_own_server_ends_with_a_site_that_is_killed(tmp_path: Path) -> None:
    platform = Platform(tmp_path, projected(free_port()))
    await asyncio.to_thread(platform.start)
    server = own_server(platform)
    platform.kill()
    await until(
        lambda: not server.is_running() or server.status() == psutil.STATUS_ZOMBIE, "it ends"
    )


async def test_two_sites_meet_at_a_server_that_both_name(tmp_path: Path, source: Path) -> None:
    """One has the service, the other the proxy, and a token says who they are."""
    port = free_port()
    study = f"{ROOT}.3"
    _, sent = instance(source, study, 1)
    with nats_server('authorization { token: "let-me-in" }\n') as nats:
        named = {
            "natsUrl": f"'{nats.address}'",
            "natsSubjectRoot": "WAN",
            "natsTokenSecret": "nats",
        }
        token = secret("nats", token="let-me-in")
        cloud = "---\n".join((core(), dimse("cloud", **named), token))
        ward = "---\n".join((core(), service("web"), proxy("ward", port, **named), token))
        async with (
            running(Platform(tmp_path / "cloud", cloud)) as far,
            running(Platform(tmp_path / "ward", ward)) as near,
        ):
            await is_connected(far, "cloud")
            await is_connected(near, "ward")
            association = await call(port, CT)
            assert (await store(association, sent)).status == 0
            await association.release()
            assert instances_in(far.dicomweb, study) == {sent.sop_instance}


async def test_a_service_may_be_on_tcp_and_over_nats(tmp_path: Path, source: Path) -> None:
    direct, through = free_port(), free_port()
    study = f"{ROOT}.4"
    documents = (
        core(revisioningDelay=1),
        dimse("scanners", natsSubjectRoot="BOTH", port=direct),
        proxy("door", through, natsSubjectRoot="BOTH"),
    )
    async with running(Platform(tmp_path, "---\n".join(documents))) as platform:
        said = platform.log.read_text()
        assert f"INGESTION@127.0.0.1:{direct}" in said
        assert "INGESTION over NATS (BOTH.B)" in said
        await is_connected(platform, "scanners", "door")
        for number, port in enumerate((direct, through)):
            _, sent = instance(source, study, number)
            association = await call(port, CT)
            assert (await store(association, sent)).status == 0
            await association.release()
        assert len(instances_in(platform.dicomweb, study)) == 2


async def test_two_proxies_of_a_site_carry_an_association_to_a_target(
    tmp_path: Path, source: Path
) -> None:
    port = free_port()
    collector = Collector()
    async with destination(collector) as (peer, _):
        documents = (
            core(),
            service("web"),
            proxy("near", port, natsSubjectRoot="PAIR", natsSubjectChannel="A"),
            proxy(
                "far",
                0,
                natsSubjectRoot="PAIR",
                natsSubjectChannel="B",
                applicationEntityTitle=peer.ae_title,
                targetDimseHost=peer.host,
                targetDimsePort=peer.port,
            ),
        )
        async with running(Platform(tmp_path, "---\n".join(documents))) as platform:
            await is_connected(platform, "near", "far")
            _, sent = instance(source, f"{ROOT}.5", 1)
            association = await call(port, CT)
            assert (await store(association, sent)).status == 0
            await association.release()
    assert [one.data_set for one in collector.arrived] == [sent.data_set]


async def test_a_proxy_may_keep_instances_until_the_target_is_there(
    tmp_path: Path, source: Path
) -> None:
    port = free_port()
    collector = Collector()
    pair = {"natsSubjectRoot": "KEEP"}
    async with destination(collector) as (peer, _):
        documents = (
            core(),
            service("web"),
            proxy("near", port, mode="spool", spoolMinFree="'0'", **pair),
            proxy(
                "far",
                0,
                natsSubjectChannel="B",
                applicationEntityTitle=peer.ae_title,
                targetDimseHost=peer.host,
                targetDimsePort=peer.port,
                **pair,
            ),
        )
        async with running(Platform(tmp_path, "---\n".join(documents))) as platform:
            assert f"spool {platform.data}/spools/near" in platform.log.read_text()
            association = await call(port, CT)
            sent = [instance(source, f"{ROOT}.7", number)[1] for number in range(3)]
            for one in sent:
                assert (await store(association, one)).status == 0
            await association.release()
            await until(lambda: len(collector.arrived) == 3, "they arrive")
            metrics = text_of(f"{platform.url}/metrics")
            assert "imaging_ingestion_spool_" in metrics
            assert 'component="near"' in metrics
    assert [one.data_set for one in collector.arrived] == [one.data_set for one in sent]


async def test_what_a_proxy_keeps_reaches_a_service_on_its_subject(
    tmp_path: Path, source: Path
) -> None:
    port = free_port()
    study = f"{ROOT}.8"
    documents = (
        core(revisioningDelay=1),
        dimse("scanners", natsSubjectRoot="HOME"),
        proxy("near", port, natsSubjectRoot="HOME", mode="spool", spoolMinFree="'0'"),
    )
    async with running(Platform(tmp_path, "---\n".join(documents))) as platform:
        association = await call(port, CT)
        sent = [instance(source, study, number)[1] for number in range(5)]
        for one in sent:
            assert (await store(association, one)).status == 0
        await association.release()
        await until(lambda: len(instances_in(platform.dicomweb, study)) == 5, "they arrive")
        for one in sent:
            assert stored(platform.dicomweb, study, one.sop_instance) == one.data_set


async def test_an_association_under_way_is_finished_when_the_site_stops(
    tmp_path: Path, source: Path
) -> None:
    port = free_port()
    platform = Platform(tmp_path, projected(port))
    async with running(platform):
        await is_connected(platform, "scanners", "door")
        association = await call(port, CT)
        _, first = instance(source, f"{ROOT}.6", 1)
        assert (await store(association, first)).status == 0
        assert platform.process is not None
        os.kill(platform.process.pid, signal.SIGTERM)
        await until(lambda: "site.stopping" in platform.log.read_text(), "it stops")
        with pytest.raises(NotConnectedError):  # nobody listens any more
            await call(port, CT)
        await association.release()


def test_what_is_wrong_with_it_is_told_before_it_starts(tmp_path: Path) -> None:
    wrong = "---\n".join(
        (
            core(),
            dimse("scanners", natsUrl="'ftp://nats'", port=0),
            proxy("door", 11119, natsSubjectRoot="'two words'", dimseConfigName="more"),
            config_map("more", DIMSE_NATS_SUBJECT_CHANNEL="C"),
        )
    )
    platform = Platform(tmp_path, wrong)
    with pytest.raises(RuntimeError) as raised:
        platform.start()
    said = str(raised.value)
    assert re.search(r"document 2 .*DIMSE_NATS_URL: ftp:// is not spoken", said)
    assert re.search(r"document 3 .*DIMSE_NATS_SUBJECT_ROOT is 'two words'", said)
    assert re.search(r"document 3 .*DIMSE_NATS_SUBJECT_CHANNEL is 'C'", said)
    assert not platform.data.exists()


def test_who_means_another_server_and_names_none_is_told(tmp_path: Path) -> None:
    documents = (
        core(),
        dimse("scanners", natsSubjectRoot="X", natsSecure="true"),
        proxy("door", 0, natsTokenSecret="nats"),
        secret("nats", token="t"),
    )
    platform = Platform(tmp_path, "---\n".join(documents))
    with pytest.raises(RuntimeError) as raised:
        platform.start()
    said = str(raised.value)
    expected = r"DIMSE_NATS_URL \(spec.natsUrl\) was expected beside it"
    assert re.search(rf"document 2 .*DIMSE_NATS_TLS_ENABLED: {expected}", said)
    assert re.search(rf"document 3 .*DIMSE_NATS_AUTH_TOKEN: {expected}", said)


def test_a_server_that_is_away_does_not_keep_the_site_from_starting(tmp_path: Path) -> None:
    away = NatsServer(tmp_path / "nats")  # never started
    documents = (core(), dimse("scanners", natsUrl=f"'{away.address}'"))
    platform = Platform(tmp_path / "up", "---\n".join(documents)).start()
    assert 'nats_up{component="scanners"} 0.0' in text_of(f"{platform.url}/metrics")
    assert platform.stop() == 0
