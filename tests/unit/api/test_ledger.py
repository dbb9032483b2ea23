"""The ledger over HTTP: pages, counts, and driving deliveries again."""

from __future__ import annotations

from typing import Any

from api_site import ApiSite
from event_core import Target, record, running, states, stored, until

from imaging_ingestion.events.broker import RefusedError, Subscription
from imaging_ingestion.events.model import DICOM_AVAILABLE, Event
from imaging_ingestion.manifest import deliveries


def refuse_odd(event: Event, _times: int) -> None:
    if int(event.sop_instance_uid or 0) % 2:
        raise RefusedError("409: odd")


async def filled(site: ApiSite, number: int = 7) -> Target:
    """Two bindings; the odd instances are dead letters of `declared`, all delivered by `other`."""
    target = Target(refuse_odd)
    site.broker.subscribe(Subscription("declared", DICOM_AVAILABLE), target)
    site.broker.subscribe(Subscription("other:with colon", DICOM_AVAILABLE), Target())
    async with running(site.broker):
        for n in range(number):
            await site.broker.accept(stored(str(n), study=str(n % 3)))

        async def ended() -> bool:
            counts = [await states(site.database, n) for n in ("declared", "other:with colon")]
            return all(sum(one.values()) == number and not one["pending"] for one in counts)

        await until(ended)
    return target


async def test_the_ledger_is_read_in_pages_to_its_end(site: ApiSite) -> None:
    await filled(site)
    rows = await site.pages("/deliveries", "deliveries", limit=3)
    assert len(rows) == 14
    assert len({(row["binding"], row["seq"]) for row in rows}) == 14
    first = rows[0]
    assert first == {
        "binding": "declared",
        "seq": 1,
        "state": "delivered",
        "attempts": 1,
        "next_at": None,
        "event_id": "available/0/1",
        "space": "default",
        "study_instance_uid": "0",
        "answer": "took available/0/1",
        "changed_at": first["changed_at"],
    }
    dead = await site.pages("/deliveries", "deliveries", limit=2, state="dead")
    assert [(row["binding"], row["answer"]) for row in dead] == [("declared", "409: odd")] * 3
    of_study = await site.pages("/deliveries", "deliveries", limit=1, study="1")
    assert len(of_study) == 4
    of_other = await site.pages("/deliveries", "deliveries", limit=2, binding="other:with colon")
    assert len(of_other) == 7


async def test_bindings_are_listed_with_their_counts_and_whether_they_are_in_the_site(
    site: ApiSite,
) -> None:
    assert await site.get("/bindings") == {
        "bindings": [{"name": "declared", "active": True, "pending": 0, "delivered": 0, "dead": 0}]
    }
    await filled(site)
    assert (await site.get("/bindings"))["bindings"] == [
        {"name": "declared", "active": True, "pending": 0, "delivered": 4, "dead": 3},
        {"name": "other:with colon", "active": False, "pending": 0, "delivered": 7, "dead": 0},
    ]


async def test_a_replay_drives_dead_letters_unless_told_otherwise(site: ApiSite) -> None:
    await filled(site)

    async def replayed(body: dict[str, Any]) -> int:
        answer = await site.post("/replay", body)
        assert set(answer) == {"replayed"}
        return int(answer["replayed"])

    assert await replayed({"study_instance_uid": "1", "binding": "declared"}) == 1
    assert await replayed({}) == 2
    assert await replayed({}) == 0
    assert await replayed({"state": "delivered", "binding": "other:with colon"}) == 7
    assert await replayed({"state": None, "since_seq": 10_000}) == 0
    assert await replayed({"state": "delivered", "space": "research"}) == 0
    assert await replayed({"state": None, "study_instance_uid": "0"}) == 6
    pending = await site.pages("/deliveries", "deliveries", state="pending")
    assert {row["attempts"] for row in pending} == {0}


async def test_a_pending_delivery_is_in_the_ledger_with_its_next_try(site: ApiSite) -> None:
    await site.database.write(deliveries.subscribe, "declared")
    await record(site.database, stored("1"))
    await site.database.write(deliveries.fan_out, "declared", DICOM_AVAILABLE, lambda _: True, 1234)
    (row,) = (await site.get("/deliveries"))["deliveries"]
    assert (row["state"], row["next_at"], row["answer"]) == ("pending", 1234, None)
