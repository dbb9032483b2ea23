"""A DIMSE ingestion service on its NATS subject: the same service, without a TCP hop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from dimse_site import CT as CT_PROPOSAL
from dimse_site import DimseSite, ct, dimse_site
from dimse_site import store as store_sent
from nats_servers import NatsServer, nats_server
from nats_servers import nats as nats_fixture
from prometheus_client import CollectorRegistry
from storage_peers import destination
from tunnel_proxies import RunningProxy, eventually, new_root, run, running_proxy
from tunnel_store import Digests, sender, store

from imaging_ingestion.association.connect import connect
from imaging_ingestion.association.error import AssociationAbortedError
from imaging_ingestion.association.listener import Listener
from imaging_ingestion.tunnel.metrics import TunnelMetrics
from imaging_ingestion.tunnel.service import TunnelService
from imaging_ingestion.tunnel.settings import service_settings

nats = nats_fixture

AE_TITLE = "INGESTION"


@asynccontextmanager
async def on_subject(
    servers: str, root: str, listener: Listener, ae_title: str, **values: str
) -> AsyncIterator[TunnelService]:
    """A listener that is reached through NATS."""
    nats, subjects, settings = service_settings(
        {"DIMSE_NATS_URL": servers, "DIMSE_NATS_SUBJECT_ROOT": root, **values}
    )
    metrics = TunnelMetrics(CollectorRegistry())
    service = TunnelService(nats, subjects, settings, listener, ae_title, metrics)
    service.start()
    try:
        await eventually(lambda: service.is_up)
        yield service
    finally:
        await service.stop()


@dataclass
class Reached:
    """A target that is reached through `near`, and its listener."""

    target: Digests
    near: RunningProxy
    listener: Listener
    service: TunnelService


@asynccontextmanager
async def reached(servers: str, **values: str) -> AsyncIterator[Reached]:
    target, root = Digests(), new_root()
    target.flows.set()
    async with (
        destination(target, "TARGET") as (_, listener),  # type: ignore[arg-type]
        on_subject(servers, root, listener, "TARGET", **values) as service,
        running_proxy(servers, "A", root, **values) as near,
    ):
        yield Reached(target, near, listener, service)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[DimseSite]:
    async with dimse_site(tmp_path / "site") as running:
        yield running


async def test_an_instance_is_stored_as_it_is_over_tcp(nats: NatsServer, site: DimseSite) -> None:
    root, sent = new_root(), ct(number=7)
    async with (
        on_subject(nats.address, root, site.listener, AE_TITLE),
        running_proxy(nats.address, "A", root) as near,
    ):
        association = await connect(
            "127.0.0.1",
            near.port,
            [CT_PROPOSAL],
            called_ae_title="WHATEVER",  # as upstream, the service is called by its own title
            calling_ae_title="SENDER",
        )
        assert (await store_sent(association, sent)).status == 0
        await association.release()
    assert await site.data_set_of(sent.sop_instance) == sent.data_set


async def test_dcmtk_stores_through_a_proxy_into_the_service(
    nats: NatsServer, site: DimseSite, dicom_file
) -> None:
    root = new_root()
    async with (
        on_subject(nats.address, root, site.listener, AE_TITLE),
        running_proxy(nats.address, "A", root) as near,
    ):
        where = ("127.0.0.1", str(near.port))
        code, said = await run("echoscu", "-v", *where)
        assert code == 0, said
        code, said = await run("storescu", *where, str(dicom_file("CT_small.dcm")))
        assert code == 0, said
        await eventually(lambda: site.listener.associations == 0)
    assert len(await site.site.recorded()) == 1


async def test_large_instances_pass_both_ways_of_waiting(nats: NatsServer) -> None:
    async with reached(nats.address) as site, sender(site.near.port) as association:
        site.target.flows.clear()
        storing = asyncio.create_task(store(association, 1, 64 << 20))
        await eventually(site.near.makes_wait)
        site.target.flows.set()
        assert await storing == 0
        site.target.assert_all(range(1, 2), 64 << 20)


async def test_an_association_with_the_service_survives_nats() -> None:
    with nats_server() as server:
        async with reached(server.address) as site, sender(site.near.port) as association:
            for number in range(20):
                if number == 10:
                    await asyncio.to_thread(server.kill)
                    await asyncio.to_thread(server.start)
                assert await store(association, number, 400_000) == 0
            site.target.assert_all(range(20), 400_000)


async def test_a_release_and_an_abort_end_the_association_in_the_service(nats: NatsServer) -> None:
    async with reached(nats.address) as site:
        async with sender(site.near.port) as association:
            assert await store(association, 1, 1000) == 0
            assert site.listener.associations == 1
        await eventually(lambda: site.listener.associations == 0)
        async with sender(site.near.port) as association:
            assert await store(association, 2, 1000) == 0
            await association.abort()
        await eventually(lambda: site.listener.associations == 0)
        await eventually(lambda: site.service._tunnel.streams == 0)


async def test_the_service_aborts_what_is_left_when_it_stops(nats: NatsServer) -> None:
    async with reached(nats.address) as site, sender(site.near.port) as association:
        assert await store(association, 1, 1000) == 0
        await site.service.stop_accepting()
        await site.listener.stop()
        await association.closed()
        assert isinstance(association.end, AssociationAbortedError)
        await eventually(lambda: site.near.proxy.associations == 0)


async def test_a_peer_that_is_away_too_long_ends_the_association_in_the_service(
    nats: NatsServer,
) -> None:
    async with (
        reached(nats.address, DIMSE_NATS_REPLY_TIMEOUT="1") as site,
        sender(site.near.port) as association,
    ):
        assert await store(association, 1, 1000) == 0
        # Nothing more is said by this side, as if its host were gone.
        await site.near.proxy.tunnel._connection.close()
        await eventually(lambda: site.listener.associations == 0, 10)
        await association.abort()
