"""The network, NATS and the proxies fail, and associations live on, or end at once and clearly."""

from __future__ import annotations

import asyncio
from time import monotonic

import pytest
from nats_servers import NatsServer, nats, nats_cluster, nats_server
from network_relay import network_relay
from tunnel_proxies import Behind, eventually, new_root, proxies, running_proxy
from tunnel_store import digests, sender, store

from imaging_ingestion.association.error import AssociationAbortedError, AssociationError

__all__ = ["nats"]

KIB = 1024


async def test_600_instances_arrive_though_nats_is_killed_and_restarted_in_the_middle() -> None:
    with nats_server() as server:
        async with (
            digests() as (target, port),
            proxies(server.address, Behind(port)) as pair,
            sender(pair.near.port) as association,
        ):
            for number in range(600):
                if number in (200, 400):
                    await asyncio.to_thread(server.kill)
                    storing = asyncio.create_task(store(association, number, 150 * KIB))
                    await eventually(lambda: not pair.near.proxy.tunnel.is_up)
                    await asyncio.to_thread(server.start)
                    assert await storing == 0
                else:
                    assert await store(association, number, 150 * KIB) == 0
            target.assert_all(range(600), 150 * KIB)
            assert len(target.associations) == 1
            assert pair.near.metric("nats_connections_total") == 3


async def test_an_instance_under_way_arrives_once_though_nats_is_killed() -> None:
    size = 24 << 20
    with nats_server() as server:
        async with (
            digests() as (target, port),
            proxies(server.address, Behind(port)) as pair,
            sender(pair.near.port) as association,
        ):
            storing = asyncio.create_task(store(association, 1, size))
            for part in (4, 8):
                await eventually(lambda part=part: target.received > size * part // 12)
                await asyncio.to_thread(server.kill)
                await asyncio.to_thread(server.start)
            assert await storing == 0
            target.assert_all(range(1, 2), size)


async def test_an_association_moves_to_another_node_of_the_cluster() -> None:
    with nats_cluster() as nodes:
        addresses = ",".join(node.address for node in nodes)
        async with (
            digests() as (target, port),
            proxies(addresses, Behind(port)) as pair,
            sender(pair.near.port) as association,
        ):
            assert await store(association, 0, 500 * KIB) == 0
            for number, proxy in enumerate((pair.near, pair.far, pair.near), 1):
                connection = proxy.proxy.tunnel._connection
                (node,) = [one for one in nodes if one.address == connection.server]
                storing = asyncio.create_task(store(association, number, 8 << 20))
                await asyncio.to_thread(node.kill)
                assert await storing == 0
                await asyncio.to_thread(node.start)
            assert len(target.associations) == 1
            assert set(target.times.values()) == {1}


@pytest.mark.parametrize(
    ("how", "side", "away"),
    [
        ("cut", "near", 20.0),
        ("cut", "far", 5.0),
        ("stalled", "near", 12.0),  # a silent network is noticed after 8 to 12 s
        ("stalled", "far", 12.0),
    ],
)
async def test_a_network_that_is_away_for_a_while_is_waited_for(
    nats: NatsServer, how: str, side: str, away: float
) -> None:
    size = 16 << 20
    async with (
        digests() as (target, port),
        network_relay(nats.port) as network,
        proxies(
            nats.address,
            Behind(port),
            near_values={"DIMSE_NATS_URL": network.address} if side == "near" else None,
            far_values={"DIMSE_NATS_URL": network.address} if side == "far" else None,
        ) as pair,
        sender(pair.near.port) as association,
    ):
        storing = asyncio.create_task(store(association, 1, size))
        await eventually(lambda: target.received > size // 4)
        if how == "cut":
            network.cut()
        else:
            network.stall()
        await asyncio.sleep(away)  # this long it is away
        assert not storing.done()
        network.mend()
        assert await storing == 0
        target.assert_all(range(1, 2), size)


async def test_a_network_that_stays_away_ends_the_association_on_both_sides(
    nats: NatsServer,
) -> None:
    patience = {"DIMSE_NATS_REPLY_TIMEOUT": "2"}
    async with (
        digests() as (target, port),
        network_relay(nats.port) as network,
        proxies(
            nats.address,
            Behind(port),
            near_values={"DIMSE_NATS_URL": network.address, **patience},
            far_values=patience,
        ) as pair,
        sender(pair.near.port) as association,
    ):
        assert await store(association, 1, KIB) == 0
        network.cut()
        with pytest.raises(AssociationAbortedError, match="by the service provider"):
            await store(association, 2, KIB)
        (far_end,) = target.associations
        await eventually(lambda: not far_end.is_open)
        await eventually(lambda: pair.near.proxy.associations + pair.far.proxy.associations == 0)
        assert pair.near.proxy.tunnel.streams == pair.far.proxy.tunnel.streams == 0
        assert pair.near.metric("streams_failed_total", why="peer_gone") == 1


async def test_a_slow_target_slows_the_sender_and_nothing_piles_up(nats: NatsServer) -> None:
    size = 64 << 20
    async with (
        digests() as (target, port),
        proxies(nats.address, Behind(port)) as pair,
        sender(pair.near.port) as association,
    ):
        target.flows.clear()
        storing = asyncio.create_task(store(association, 1, size))
        tunnels = [pair.near.proxy.tunnel, pair.far.proxy.tunnel]
        await eventually(lambda: tunnels[0].streams and tunnels[1].streams)
        (near,), (far,) = (tunnel._streams.values() for tunnel in tunnels)
        await eventually(pair.near.makes_wait)
        window = near.core.window
        for _ in range(100):
            await asyncio.sleep(0.01)  # it is looked at for a while
            assert near.unsent <= window + (256 << 10)
            assert far.core.receiver.unconsumed <= window
        assert pair.near.metric("sent_bytes_total") < 3 * window
        target.flows.set()
        assert await storing == 0
        target.assert_all(range(1, 2), size)


async def test_a_target_that_pauses_for_half_a_minute_is_waited_for(nats: NatsServer) -> None:
    size = 16 << 20
    async with (
        digests() as (target, port),
        proxies(nats.address, Behind(port)) as pair,
        sender(pair.near.port) as association,
    ):
        storing = asyncio.create_task(store(association, 1, size))
        await eventually(lambda: target.received > size // 8)
        target.flows.clear()
        await asyncio.sleep(30.0)  # this long it pauses
        assert not storing.done()
        target.flows.set()
        assert await storing == 0
        target.assert_all(range(1, 2), size)


async def test_one_that_waits_keeps_no_other_waiting(nats: NatsServer) -> None:
    async with (
        digests() as (slow, slow_port),
        digests() as (target, port),
        proxies(nats.address, Behind(slow_port), Behind(port)) as pair,
        sender(pair.near.port) as waiting,
        sender(pair.far.port) as other,
    ):
        slow.flows.clear()
        # More than fits in the windows and the kernel buffers on the way.
        storing = asyncio.create_task(store(waiting, 1, 64 << 20))
        await eventually(pair.near.makes_wait)
        for number in range(20):
            began = monotonic()
            assert await store(other, number, 100 * KIB) == 0
            assert monotonic() - began < 2.0
        slow.flows.set()
        assert await storing == 0
        assert len(target.arrived) == 20


async def test_many_associations_share_the_connection_fairly(nats: NatsServer) -> None:
    async with digests() as (target, port), proxies(nats.address, Behind(port)) as pair:

        async def bulk(number: int) -> None:
            async with sender(pair.near.port) as association:
                assert await store(association, number, 48 << 20) == 0

        bulks = [asyncio.create_task(bulk(number)) for number in range(4)]
        await eventually(lambda: target.received > 8 << 20)
        async with sender(pair.near.port) as small:
            latencies = []
            while not all(task.done() for task in bulks) and len(latencies) < 20:
                began = monotonic()
                assert await store(small, 100 + len(latencies), KIB) == 0
                latencies.append(monotonic() - began)
        await asyncio.gather(*bulks)
        assert latencies
        assert sorted(latencies)[len(latencies) // 2] < 1.0


@pytest.mark.parametrize("delay", [0.05, 0.2])
async def test_a_long_way_is_no_hindrance(nats: NatsServer, delay: float) -> None:
    async with (
        digests() as (target, port),
        network_relay(nats.port, delay=delay) as network,
        proxies(
            nats.address, Behind(port), near_values={"DIMSE_NATS_URL": network.address}
        ) as pair,
        sender(pair.near.port) as association,
    ):
        began = monotonic()
        assert await store(association, 1, 16 << 20) == 0
        elapsed = monotonic() - began
        target.assert_all(range(1, 2), 16 << 20)
        # A window of 4 MiB each round trip is what there is; some of them go for the beginning.
        assert elapsed < 2 * delay * (4 + 4) + 5.0


async def test_a_proxy_that_stops_lets_what_is_under_way_end(nats: NatsServer) -> None:
    size = 32 << 20
    async with digests() as (target, port):
        root = new_root()
        drain = {"DIMSE_DRAIN_TIMEOUT": "30"}
        async with (
            running_proxy(nats.address, "B", root, **Behind(port).values(), **drain) as far,
            running_proxy(nats.address, "A", root, **drain) as near,
            sender(near.port) as one,
            sender(near.port) as other,
        ):
            storing = [
                asyncio.create_task(store(association, number, size))
                for number, association in enumerate((one, other))
            ]
            await eventually(lambda: target.received > size // 4)
            stopping = [asyncio.create_task(proxy.proxy.stop()) for proxy in (near, far)]
            assert await asyncio.gather(*storing) == [0, 0]
            for association in (one, other):
                await association.release()
            await asyncio.gather(*stopping)
        target.assert_all(range(2), size)


async def test_several_proxies_of_a_side_share_the_load_and_one_may_leave(
    nats: NatsServer,
) -> None:
    root = new_root()
    async with digests() as (target, port):
        behind = Behind(port).values()
        async with (
            running_proxy(nats.address, "A", root) as near,
            running_proxy(nats.address, "B", root, **behind) as one,
            running_proxy(nats.address, "B", root, **behind) as other,
        ):

            async def use(number: int) -> None:
                async with sender(near.port) as association:
                    assert await store(association, number, KIB) == 0

            for number in range(20):
                await use(number)
            shares = [proxy.metric("streams_opened_total", by="peer") for proxy in (one, other)]
            assert sum(shares) == 20
            assert min(shares) > 0
            await one.proxy.stop()
            for number in range(20, 30):
                await use(number)
        target.assert_all(range(30), KIB)


async def test_without_a_proxy_on_the_other_side_a_request_is_rejected_for_now(
    nats: NatsServer,
) -> None:
    async with running_proxy(nats.address, "A", new_root()) as near:
        near.proxy.tunnel._up_since -= 10.0  # it has been connected for a while
        began = monotonic()
        with pytest.raises(AssociationError, match="temporary congestion") as raised:
            async with sender(near.port):
                pass
        assert raised.value.is_transient
        assert monotonic() - began < 2.0
