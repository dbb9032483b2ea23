"""A proxy that keeps instances: what it takes arrives, in order, and nothing else happens."""

from __future__ import annotations

from pathlib import Path
from time import monotonic

import pytest
from nats_servers import NatsServer, nats
from network_relay import network_relay
from spool_proxies import (
    CT,
    EXPLICIT,
    Made,
    arrived,
    is_empty,
    kept,
    made,
    scanner,
    send,
    send_all,
    spooling,
    wanted,
)
from storage_peers import Collector, destination
from tunnel_proxies import Behind, eventually, new_root, proxies, running_proxy

from imaging_ingestion.dimse.acceptor import AcceptorPolicy, ContextPolicy
from imaging_ingestion.nats_client.settings import SettingsError

__all__ = ["nats"]

OUT_OF_RESOURCES, CANNOT_UNDERSTAND, COERCED = 0xA700, 0xC000, 0xB000


async def test_instances_arrive_as_they_came_and_leave_nothing(
    nats: NatsServer, tmp_path: Path
) -> None:
    target = Collector()
    instances = [*made(1, range(1, 41)), *made(2, range(1, 11), size=300_000)]
    async with (
        destination(target, "TARGET") as (where, _),
        proxies(nats.address, Behind(where.port), near_values=spooling(tmp_path)) as pair,
    ):
        await send_all(pair.near.port, instances)
        await eventually(lambda: is_empty(tmp_path))
    assert arrived(target) == wanted(instances)
    assert len(target.arrived) == len(instances)
    found = kept(tmp_path)
    assert found.states == {"delivered": 50}
    assert {answer for _, _, answer, _ in found.ledger} == {"0000H Success"}


async def test_the_instances_of_a_study_arrive_in_the_order_they_came(
    nats: NatsServer, tmp_path: Path
) -> None:
    target = Collector()
    instances = [Made(study, number) for number in range(60) for study in (1, 2, 3)]
    async with (
        destination(target, "TARGET") as (where, _),
        proxies(nats.address, Behind(where.port), near_values=spooling(tmp_path)) as pair,
    ):
        await send_all(pair.near.port, instances)
        await eventually(lambda: is_empty(tmp_path))
    for study in (1, 2, 3):
        uids = [one.uid for one in instances if one.study == study]
        assert [uid for uid in target.uids if uid in uids] == uids
    assert len(target.associations) > 1  # side by side


async def test_a_long_way_keeps_no_sender_waiting(nats: NatsServer, tmp_path: Path) -> None:
    target = Collector()
    instances = made(1, range(60))
    async with (
        destination(target, "TARGET") as (where, _),
        network_relay(nats.port, delay=0.1) as network,
        proxies(
            nats.address,
            Behind(where.port),
            near_values=spooling(tmp_path, DIMSE_NATS_URL=network.address),
        ) as pair,
    ):
        began = monotonic()
        await send_all(pair.near.port, instances)
        # Each of them would take 0.2 s, and longer.
        assert monotonic() - began < 6
        await eventually(lambda: len(target.arrived) == 60)
        assert monotonic() - began < 9
    assert arrived(target) == wanted(instances)


async def test_who_sends_and_who_is_called_stay_with_an_instance(
    nats: NatsServer, tmp_path: Path
) -> None:
    target = Collector()
    behind = {"DIMSE_TARGET_HOST": "127.0.0.1"}
    far_ae = {"DIMSE_CALLING_AE": "*"}
    pairs = [("ONE", "CT1"), ("TWO", "CT1"), ("ONE", "CT2")]
    async with destination(target, policy=_anybody()) as (where, _):
        far = {**behind, "DIMSE_TARGET_PORT": str(where.port), **far_ae}
        async with proxies(
            nats.address, None, near_values=spooling(tmp_path), far_values=far
        ) as pair:
            for number, (called, calling) in enumerate(pairs, 1):
                async with scanner(pair.near.port, called=called, calling=calling) as association:
                    mover = ("MOVER", number)
                    response = await send(association, Made(1, number), originator=mover)
                    assert response.status == 0
            await eventually(lambda: is_empty(tmp_path))
    agreements = [one.agreement for one in target.associations]
    titles = {(one.called_ae_title, one.calling_ae_title) for one in agreements}
    assert titles == set(pairs)
    for one in target.arrived:
        assert one.request.move_originator_application_entity_title == "MOVER"
        assert one.request.affected_sop_instance_uid.endswith(
            f".{one.request.move_originator_message_id}"
        )


async def test_an_instance_that_comes_for_two_titles_goes_to_both(
    nats: NatsServer, tmp_path: Path
) -> None:
    target = Collector()
    root = new_root()
    async with (
        destination(target, policy=_anybody()) as (where, _),
        running_proxy(nats.address, "A", root, **spooling(tmp_path)) as near,
    ):
        for called in ("ONE", "TWO"):
            await send_all(near.port, [Made(1, 1)], called=called)
        values = {"DIMSE_TARGET_HOST": "127.0.0.1", "DIMSE_TARGET_PORT": str(where.port)}
        async with running_proxy(nats.address, "B", root, **values):
            await eventually(lambda: is_empty(tmp_path))
    assert {one.agreement.called_ae_title for one in target.associations} == {"ONE", "TWO"}
    assert target.uids == [Made(1, 1).uid] * 2


async def test_a_target_that_cannot_now_is_asked_again_and_nothing_overtakes(
    nats: NatsServer, tmp_path: Path
) -> None:
    failures = iter([OUT_OF_RESOURCES, 0x0110])
    tried: list[str] = []

    def statuses(_number: int, request: object) -> int:
        uid = request.affected_sop_instance_uid  # type: ignore[attr-defined]
        tried.append(uid)
        return next(failures, 0) if uid == Made(1, 10).uid else 0

    target = Collector(statuses)
    instances = made(1, range(40))
    async with (
        destination(target, "TARGET") as (where, _),
        proxies(nats.address, Behind(where.port), near_values=spooling(tmp_path)) as pair,
    ):
        await send_all(pair.near.port, instances)
        await eventually(lambda: is_empty(tmp_path))
    in_order = [one.uid for one in instances]
    assert tried == in_order[:11] + [in_order[10]] * 2 + in_order[11:]


async def test_a_study_that_waits_keeps_no_other_waiting(nats: NatsServer, tmp_path: Path) -> None:
    def statuses(_number: int, request: object) -> int:
        uid = request.affected_sop_instance_uid  # type: ignore[attr-defined]
        return 0x0110 if uid == Made(1, 0).uid else 0

    target = Collector(statuses)
    others = [one for study in range(2, 8) for one in made(study, range(5))]
    async with (
        destination(target, "TARGET") as (where, _),
        proxies(nats.address, Behind(where.port), near_values=spooling(tmp_path)) as pair,
    ):
        await send_all(pair.near.port, [*made(1, range(5)), *others])
        await eventually(lambda: kept(tmp_path).states.get("delivered") == len(others))
        assert not {one.uid for one in made(1, range(1, 5))} & set(target.uids)
        assert kept(tmp_path).states["pending"] == 5


async def test_what_the_target_refuses_is_kept_and_holds_nothing_up(
    nats: NatsServer, tmp_path: Path
) -> None:
    answers = {Made(1, 3).uid: CANNOT_UNDERSTAND, Made(1, 5).uid: 0xA900, Made(1, 7).uid: COERCED}
    target = Collector(lambda _, request: answers.get(request.affected_sop_instance_uid, 0))
    instances = made(1, range(20))
    async with (
        destination(target, "TARGET") as (where, _),
        proxies(nats.address, Behind(where.port), near_values=spooling(tmp_path)) as pair,
    ):
        await send_all(pair.near.port, instances)
        await eventually(lambda: kept(tmp_path).states == {"delivered": 18, "dead": 2})
        assert target.uids == [one.uid for one in instances]
        found = kept(tmp_path)
        assert found.instances == found.objects == 2
        told = {event.split("/")[1]: answer for event, _, answer, _ in found.ledger}
        assert told[Made(1, 3).uid] == "C000H Error: cannot understand"
        assert told[Made(1, 7).uid] == "B000H Warning: coercion of data elements"

        # Whoever sends it again wants it there, and is told that it is stored.
        answers.clear()
        await send_all(pair.near.port, [Made(1, 3)])
        await eventually(lambda: kept(tmp_path).states == {"delivered": 19, "dead": 1})
    assert target.uids[-1] == Made(1, 3).uid


async def test_other_bytes_that_come_while_an_instance_waits_go_in_its_place(
    nats: NatsServer, tmp_path: Path
) -> None:
    target = Collector()
    root = new_root()
    newer = [Made(1, 1, content=7), Made(1, 2)]
    async with (
        destination(target, "TARGET") as (where, _),
        running_proxy(nats.address, "A", root, **spooling(tmp_path)) as near,
    ):
        await send_all(near.port, [Made(1, 1), Made(1, 2), newer[0], Made(1, 2)])
        assert kept(tmp_path).objects == 2
        async with running_proxy(nats.address, "B", root, **Behind(where.port).values()):
            await eventually(lambda: is_empty(tmp_path))
    assert arrived(target) == wanted(newer)
    assert len(target.arrived) == 2


async def test_beyond_the_quota_instances_are_refused_until_there_is_room(
    nats: NatsServer, tmp_path: Path
) -> None:
    target = Collector()
    root = new_root()
    size = 100_000
    values = spooling(tmp_path, DIMSE_SPOOL_QUOTA="1000k")
    async with (
        destination(target, "TARGET") as (where, _),
        running_proxy(nats.address, "A", root, **values) as near,
        scanner(near.port) as association,
    ):
        answers = [(await send(association, one)).status for one in made(1, range(15), size=size)]
        assert answers == [0] * 9 + [OUT_OF_RESOURCES] * 6
        assert kept(tmp_path).objects == 9
        async with running_proxy(nats.address, "B", root, **Behind(where.port).values()):
            await eventually(lambda: is_empty(tmp_path))
            assert (await send(association, Made(1, 9, size=size))).status == 0
            await eventually(lambda: len(target.arrived) == 10)


async def test_the_room_that_is_to_stay_free_is_not_touched(
    nats: NatsServer, tmp_path: Path
) -> None:
    values = spooling(tmp_path, DIMSE_SPOOL_MIN_FREE="999T")
    async with (
        running_proxy(nats.address, "A", new_root(), **values) as near,
        scanner(near.port) as association,
    ):
        response = await send(association, Made(1, 1))
    assert response.status == OUT_OF_RESOURCES
    assert kept(tmp_path).objects == 0


async def test_a_transfer_syntax_that_the_target_refuses_is_changed_on_the_far_side(
    nats: NatsServer, tmp_path: Path
) -> None:
    target = Collector()
    implicit = "1.2.840.10008.1.2"
    async with (
        destination(target, "TARGET", syntaxes=(implicit,)) as (where, _),
        proxies(nats.address, Behind(where.port), near_values=spooling(tmp_path)) as pair,
    ):
        await send_all(pair.near.port, [Made(1, 1)])
        await eventually(lambda: is_empty(tmp_path))
    assert [one.transfer_syntax for one in target.arrived] == [implicit]


async def test_a_class_that_the_target_does_not_take_is_a_dead_letter(
    nats: NatsServer, tmp_path: Path
) -> None:
    target = Collector()
    async with (
        destination(target, policy=_only("1.2.840.10008.5.1.4.1.1.4")) as (where, _),
        proxies(nats.address, Behind(where.port), near_values=spooling(tmp_path)) as pair,
    ):
        await send_all(pair.near.port, [Made(1, 1)])
        await eventually(lambda: kept(tmp_path).states == {"dead": 1})
    ((_, _, answer, _),) = kept(tmp_path).ledger
    assert answer is not None
    assert "the target accepts no such instances" in answer


async def test_objects_that_nobody_was_told_of_are_swept_at_the_start(
    nats: NatsServer, tmp_path: Path
) -> None:
    async with running_proxy(nats.address, "A", new_root(), **spooling(tmp_path)) as near:
        await send_all(near.port, made(1, range(3)))
    (tmp_path / "objects" / "00" / "1.2" / "1.3").mkdir(parents=True)
    left = tmp_path / "objects" / "00" / "1.2" / "1.3" / f"1.4-{'0' * 16}-abc.dcm"
    left.write_bytes(b"left by a crash")
    async with running_proxy(nats.address, "A", new_root(), **spooling(tmp_path)):
        assert not left.exists()
        assert kept(tmp_path).objects == 3


async def test_a_spool_is_of_one_proxy(nats: NatsServer, tmp_path: Path) -> None:
    async with running_proxy(nats.address, "A", new_root(), **spooling(tmp_path)):
        with pytest.raises(SettingsError, match="another proxy uses this spool"):
            async with running_proxy(nats.address, "A", new_root(), **spooling(tmp_path)):
                pass


async def test_what_was_delivered_is_forgotten_after_a_while(
    nats: NatsServer, tmp_path: Path
) -> None:
    target = Collector()
    async with (
        destination(target, "TARGET") as (where, _),
        proxies(
            nats.address,
            Behind(where.port),
            near_values=spooling(tmp_path, DIMSE_SPOOL_KEEP="0"),
        ) as pair,
    ):
        await send_all(pair.near.port, made(1, range(5)))
        await eventually(lambda: len(target.arrived) == 5 and is_empty(tmp_path))
        spool = pair.near.proxy._spool
        assert spool is not None
        await spool.prune()
        assert kept(tmp_path).states == {}
        await send_all(pair.near.port, made(1, range(5)))
        await eventually(lambda: len(target.arrived) == 10 and is_empty(tmp_path))


def _anybody() -> AcceptorPolicy:
    return _only(CT)


def _only(sop_class: str) -> AcceptorPolicy:
    return AcceptorPolicy({sop_class: ContextPolicy((EXPLICIT,))})
