"""The network, NATS, the far proxy and the target fail; the sender sees success all along."""

from __future__ import annotations

import asyncio
from pathlib import Path

from nats_servers import NatsServer, nats, nats_server
from network_relay import network_relay
from spool_proxies import (
    Made,
    arrived,
    is_empty,
    kept,
    scanner,
    send,
    send_all,
    spooling,
    wanted,
)
from storage_peers import Collector, destination
from tunnel_proxies import Behind, eventually, new_root, proxies, running_proxy

__all__ = ["nats"]

STUDIES = (1, 2, 3)


def interleaved(numbers: range, size: int = 20_000) -> list[Made]:
    """Instances of three studies."""
    return [Made(study, number, size) for number in numbers for study in STUDIES]


def assert_all_in_order(target: Collector, instances: list[Made]) -> None:
    """Each has arrived; the first arrivals of a study are in order; repeats are the same bytes."""
    for one in target.arrived:
        uid = one.request.affected_sop_instance_uid
        assert one.data_set == wanted(instances)[uid]
    assert arrived(target) == wanted(instances)
    firsts = list(dict.fromkeys(target.uids))
    for study in STUDIES:
        uids = [one.uid for one in instances if one.study == study]
        assert [uid for uid in firsts if uid in set(uids)] == uids


async def test_nats_is_killed_and_restarted_in_the_middle(tmp_path: Path) -> None:
    target = Collector()
    instances = interleaved(range(40))
    with nats_server() as server:
        async with (
            destination(target, "TARGET") as (where, _),
            proxies(server.address, Behind(where.port), near_values=spooling(tmp_path)) as pair,
        ):
            await send_all(pair.near.port, instances[:60])
            await eventually(lambda: len(target.arrived) > 5)
            await asyncio.to_thread(server.kill)
            await eventually(lambda: not pair.near.proxy.tunnel.is_up)
            await send_all(pair.near.port, instances[60:90])
            await asyncio.to_thread(server.start)
            await send_all(pair.near.port, instances[90:])
            await eventually(lambda: is_empty(tmp_path))
    assert_all_in_order(target, instances)
    assert len(target.arrived) == len(instances)  # the streams outlived it


async def test_the_network_is_away_for_longer_than_a_stream_lives(
    nats: NatsServer, tmp_path: Path
) -> None:
    target = Collector()
    instances = interleaved(range(40))
    patience = {"DIMSE_NATS_REPLY_TIMEOUT": "2"}
    async with (
        destination(target, "TARGET") as (where, _),
        network_relay(nats.port) as network,
        proxies(
            nats.address,
            Behind(where.port),
            near_values=spooling(tmp_path, DIMSE_NATS_URL=network.address, **patience),
            far_values=patience,
        ) as pair,
    ):
        await send_all(pair.near.port, instances[:60])
        await eventually(lambda: len(target.arrived) > 5)
        network.cut()
        await send_all(pair.near.port, instances[60:])
        await eventually(lambda: not pair.far.proxy.tunnel.streams)
        network.mend()
        await eventually(lambda: is_empty(tmp_path))
    assert_all_in_order(target, instances)


async def test_the_far_proxy_is_not_there_and_comes_and_goes(
    nats: NatsServer, tmp_path: Path
) -> None:
    target = Collector()
    root = new_root()
    instances = interleaved(range(40))
    async with (
        destination(target, "TARGET") as (where, _),
        running_proxy(nats.address, "A", root, **spooling(tmp_path)) as near,
    ):
        far = Behind(where.port).values()
        await send_all(near.port, instances[:60])
        async with running_proxy(nats.address, "B", root, **far) as first:
            await eventually(lambda: len(target.arrived) > 5)
            await first.proxy.end("a crash")
        await send_all(near.port, instances[60:])
        async with running_proxy(nats.address, "B", root, **far):
            await eventually(lambda: is_empty(tmp_path))
    assert_all_in_order(target, instances)


async def test_the_target_is_away_and_comes_back(nats: NatsServer, tmp_path: Path) -> None:
    target = Collector()
    instances = interleaved(range(40))
    async with destination(target, "TARGET") as (where, _):
        port = where.port
    async with proxies(nats.address, Behind(port), near_values=spooling(tmp_path)) as pair:
        await send_all(pair.near.port, instances[:60])
        spool = pair.near.proxy._spool
        assert spool is not None
        await eventually(lambda: spool.way.closed_by)
        # Nothing is held against the instances, however often it is tried.
        assert max(attempts for *_, attempts in kept(tmp_path).ledger) <= 1
        async with destination(target, "TARGET", port=port):
            await eventually(lambda: len(target.arrived) > 5)
        await send_all(pair.near.port, instances[60:])
        async with destination(target, "TARGET", port=port):
            await eventually(lambda: is_empty(tmp_path))
    assert_all_in_order(target, instances)


async def test_the_target_breaks_off_in_the_middle_of_an_instance(
    nats: NatsServer, tmp_path: Path
) -> None:
    async def before(number: int, request) -> None:
        if not broken and number == 10:
            broken.append(True)
            await request.association.abort()

    broken: list[bool] = []
    target = Collector(before=before)
    instances = interleaved(range(20))
    async with (
        destination(target, "TARGET") as (where, _),
        proxies(nats.address, Behind(where.port), near_values=spooling(tmp_path)) as pair,
    ):
        await send_all(pair.near.port, instances)
        await eventually(lambda: is_empty(tmp_path))
    assert broken
    assert_all_in_order(target, instances)


async def test_a_proxy_that_is_stopped_goes_on_where_it_was(
    nats: NatsServer, tmp_path: Path
) -> None:
    target = Collector()
    root = new_root()
    instances = interleaved(range(40))
    async with (
        destination(target, "TARGET") as (where, _),
        running_proxy(nats.address, "B", root, **Behind(where.port).values()),
    ):
        for part in (instances[:60], instances[60:]):
            async with running_proxy(nats.address, "A", root, **spooling(tmp_path)) as near:
                await send_all(near.port, part)
        async with running_proxy(nats.address, "A", root, **spooling(tmp_path)):
            await eventually(lambda: is_empty(tmp_path))
    assert_all_in_order(target, instances)


async def test_a_sender_that_breaks_off_leaves_nothing_of_its_instance(
    nats: NatsServer, tmp_path: Path
) -> None:
    async with running_proxy(nats.address, "A", new_root(), **spooling(tmp_path)) as near:
        async with scanner(near.port) as association:
            assert (await send(association, Made(1, 1))).status == 0
            sending = asyncio.create_task(send(association, Made(1, 2, size=64 << 20)))
            spool = near.proxy._spool
            assert spool is not None
            await eventually(lambda: spool.quota.coming > 1 << 20)
            sending.cancel()
            await asyncio.wait({sending})
        await eventually(lambda: spool.quota.coming == 0)
        assert kept(tmp_path).objects == 1
