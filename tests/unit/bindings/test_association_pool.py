"""Associations that stay open between instances, over real connections to a listener."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from storage_peers import ALL_SYNTAXES, AnyService, Collector, destination
from stow_site import until

from imaging_ingestion.association.error import (
    AssociationError,
    AssociationRejectedError,
    NotConnectedError,
)
from imaging_ingestion.association.listener import Listener, ListenerSettings
from imaging_ingestion.association.store_user import Kind, context_for
from imaging_ingestion.bindings.association_pool import AssociationPool, StoreTarget
from imaging_ingestion.dimse.acceptor import AcceptorPolicy, ContextPolicy
from imaging_ingestion.dimse.sop_class import storage_sop_classes
from imaging_ingestion.transcoding.transcoder import Transcoder

CT, MR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4"
EXPLICIT, JPEG = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.4.70"
CT_KIND: Kind = (CT, EXPLICIT)
CLASSES = sorted(storage_sop_classes())


@asynccontextmanager
async def pool_to(
    port: int, *, size: int = 4, idle: float = 30.0, called: str = "PACS"
) -> AsyncIterator[AssociationPool]:
    target = StoreTarget("127.0.0.1", port, called, "US")
    pool = AssociationPool(target, Transcoder(), size=size, idle=idle)
    try:
        yield pool
    finally:
        await pool.close()


@asynccontextmanager
async def listener(port: int = 0, **settings: object) -> AsyncIterator[tuple[int, Listener]]:
    policy = AcceptorPolicy(
        dict.fromkeys(storage_sop_classes(), ContextPolicy(ALL_SYNTAXES)), frozenset({"PACS"})
    )
    found = Listener(policy, AnyService(Collector()), ListenerSettings(**settings))  # type: ignore[arg-type]
    port = await found.listen("127.0.0.1", port)
    try:
        yield port, found
    finally:
        await found.stop()


async def test_an_association_is_used_again() -> None:
    async with listener() as (port, _), pool_to(port) as pool:
        async with pool.association(CT_KIND) as first:
            assert first.is_new
        async with pool.association(CT_KIND) as second:
            assert second.association is first.association
            assert not second.is_new
        assert pool.open_associations == 1


async def test_as_many_are_open_as_are_needed_and_no_more_than_allowed() -> None:
    async with listener() as (port, listening), pool_to(port, size=3) as pool:
        most = 0

        async def use() -> None:
            nonlocal most
            async with pool.association(CT_KIND):
                most = max(most, listening.associations)
                await asyncio.sleep(0.01)

        await asyncio.gather(*(use() for _ in range(20)))
        assert most == 3
        assert pool.open_associations == 3


async def test_a_kind_that_was_not_proposed_gets_another_association() -> None:
    async with listener() as (port, listening), pool_to(port, size=1) as pool:
        async with pool.association(CT_KIND) as first:
            pass
        async with pool.association((MR, JPEG)) as second:
            assert second.association is not first.association
            assert not first.association.is_open
            # What was seen before is proposed as well.
            for kind in (CT_KIND, (MR, JPEG)):
                context = context_for(second.association.agreement, kind, None)
                assert context is not None
        async with pool.association(CT_KIND) as third:
            assert third.association is second.association
        await until(lambda: listening.associations == 1, "the first one is gone")


async def test_more_kinds_than_contexts_are_all_served() -> None:
    kinds = [(uid, syntax) for uid in CLASSES[:90] for syntax in (EXPLICIT, JPEG)]
    async with listener() as (port, _), pool_to(port, size=2) as pool:
        for kind in kinds:
            async with pool.association(kind) as pooled:
                agreement = pooled.association.agreement
                assert context_for(agreement, kind, None) is not None
                assert len(agreement.contexts) <= 128
        assert pool.open_associations <= 2


async def test_what_is_expected_is_proposed_at_once() -> None:
    kinds = [(uid, EXPLICIT) for uid in CLASSES[:40]]
    async with listener() as (port, _), pool_to(port) as pool:
        pool.expect(kinds)
        used = set()
        for kind in kinds:
            async with pool.association(kind) as pooled:
                used.add(id(pooled.association))
        assert len(used) == 1


async def test_idle_associations_are_released() -> None:
    async with listener() as (port, listening), pool_to(port, idle=0.1) as pool:
        async with pool.association(CT_KIND) as pooled:
            pass
        await until(lambda: listening.associations == 0, "it is released")
        assert pool.open_associations == 0
        assert str(pooled.association.end) == "the association was released"
        async with pool.association(CT_KIND) as again:
            assert again.is_new
        await until(lambda: listening.associations == 0, "and the next one, too")


async def test_one_that_the_peer_has_ended_is_not_used_again() -> None:
    async with listener() as (port, _):
        pool = AssociationPool(StoreTarget("127.0.0.1", port, "PACS", "US"), None, size=4)
        async with pool.association(CT_KIND) as pooled:
            pass
    await until(lambda: not pooled.association.is_open, "it has ended")
    async with listener(port=port), pool.association(CT_KIND) as again:
        assert again.is_new
    await pool.close()


async def test_one_left_in_the_middle_of_something_is_not_used_again() -> None:
    waiting = asyncio.Event()
    collector = Collector(before=lambda number, request: waiting.wait())
    async with (
        destination(collector) as (peer, _),
        pool_to(peer.port, called="WORKSTATION") as pool,
    ):
        from dimse_site import ct, store

        sent = ct()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2), pool.association(CT_KIND) as pooled:
                await store(pooled.association, sent)
        assert not pooled.association.is_open
        assert pool.open_associations == 0
        waiting.set()


async def test_a_new_one_is_made_if_asked_for() -> None:
    async with listener() as (port, _), pool_to(port) as pool:
        async with pool.association(CT_KIND) as first:
            pass
        async with pool.association(CT_KIND, new=True) as second:
            assert second.association is not first.association


async def test_a_target_that_has_enough_is_content_with_those_it_has() -> None:
    async with listener(max_associations=2) as (port, listening), pool_to(port, size=8) as pool:
        served = 0

        async def use() -> None:
            nonlocal served
            async with pool.association(CT_KIND):
                await asyncio.sleep(0.01)
                served += 1

        await asyncio.gather(*(use() for _ in range(30)))
        assert served == 30
        assert listening.associations <= 2


async def test_a_target_that_has_enough_without_ours_is_not_waited_for() -> None:
    async with listener(max_associations=1) as (port, _), pool_to(port) as other:
        async with other.association(CT_KIND), pool_to(port) as pool:
            with pytest.raises(AssociationRejectedError, match="local limit exceeded"):
                async with pool.association(CT_KIND):
                    pytest.fail("there is none")
        await other.close()
        async with pool_to(port) as pool, pool.association(CT_KIND):
            pass


async def test_a_title_that_is_not_known_is_told() -> None:
    async with listener() as (port, _), pool_to(port, called="OTHER") as pool:
        with pytest.raises(AssociationRejectedError, match="called AE title not recognized"):
            async with pool.association(CT_KIND):
                pytest.fail("there is none")
        assert pool.open_associations == 0


async def test_nobody_there_is_told_and_tried_anew() -> None:
    async with listener() as (port, _):
        pass
    async with pool_to(port, size=1) as pool:
        for _ in range(3):
            with pytest.raises(NotConnectedError):
                async with pool.association(CT_KIND):
                    pytest.fail("there is none")
        assert pool.open_associations == 0


async def test_closing_releases_what_is_open_and_what_comes_back() -> None:
    async with listener() as (port, listening):
        async with pool_to(port) as pool:
            async with pool.association(CT_KIND):
                pass
            async with pool.association(CT_KIND), pool.association(CT_KIND):
                await pool.close()
            assert pool.open_associations == 0
        await until(lambda: listening.associations == 0, "all are released")


async def test_an_error_of_the_user_goes_through_and_the_association_stays() -> None:
    async with listener() as (port, _), pool_to(port) as pool:
        with pytest.raises(AssociationError, match="of the user"):
            async with pool.association(CT_KIND) as pooled:
                raise AssociationError("of the user")
        async with pool.association(CT_KIND) as again:
            assert again.association is pooled.association


@asynccontextmanager
async def one_at_a_time(port: int) -> AsyncIterator[int]:
    """A relay to a listener that leaves a connection alone until the one before it has ended."""
    turn = asyncio.Semaphore(1)
    tasks = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())
        async with turn:
            there, to_there = await asyncio.open_connection("127.0.0.1", port)

            async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
                try:
                    while data := await source.read(1 << 16):
                        sink.write(data)
                        await sink.drain()
                except ConnectionError:
                    return
                finally:
                    sink.close()

            await asyncio.gather(pump(reader, to_there), pump(there, writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_target_that_serves_one_at_a_time_keeps_nobody_waiting() -> None:
    async with (
        listener() as (port, listening),
        one_at_a_time(port) as relayed,
        pool_to(relayed, size=4) as pool,
        asyncio.timeout(20),
    ):
        used = set()

        async def use(kind: Kind) -> None:
            async with pool.association(kind) as pooled:
                used.add(id(pooled.association))
                await asyncio.sleep(0.01)

        await asyncio.gather(*(use(CT_KIND) for _ in range(30)))
        assert len(used) == 1
        # A kind that was not proposed before: the idle one has to end first.
        await use((MR, JPEG))
        assert listening.associations == 1
