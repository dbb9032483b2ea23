"""Deliveries: fanned out once, claimed by one, held by its claim, completed or taken over."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from event_core import (
    SECOND,
    ledger_of,
    plans_of,
    reads_a_table_whole,
    record,
    states,
    stored,
)

from imaging_ingestion.events.broker import ReplayFilter
from imaging_ingestion.events.model import DICOM_AVAILABLE, STUDY_REVISION
from imaging_ingestion.manifest import changes, deliveries, ledger
from imaging_ingestion.manifest.changes import Change
from imaging_ingestion.manifest.database import Database, open_database
from imaging_ingestion.manifest.deliveries import Claim, Result

LEASE = 30 * SECOND
NOW = 1000 * SECOND


def every(_entry: Change) -> bool:
    return True


async def subscribed(database: Database, name: str = "b", *sops: str, **fields: Any) -> None:
    """A binding with a delivery for each instance, fanned out at NOW."""
    await database.write(deliveries.subscribe, name)
    await record(database, *(stored(sop, **fields) for sop in sops))
    await fan_out(database, name)


async def fan_out(database: Database, name: str = "b", **arguments: Any) -> bool:
    return await database.write(deliveries.fan_out, name, DICOM_AVAILABLE, every, NOW, **arguments)


async def claim(
    database: Database,
    *,
    now: int = NOW,
    limit: int = 10,
    token: int = 1,
    name: str = "b",
    **more: Any,
) -> list[Claim]:
    return await database.write(deliveries.claim, name, now, LEASE, limit, token, **more)


async def complete(
    database: Database,
    claims: list[Claim],
    state: str = "delivered",
    answer: str = "200",
    next_at: int | None = None,
    now: int = NOW,
) -> list[bool]:
    results = [
        Result(claim=one, event_id="e", state=state, answer=answer, next_at=next_at)
        for one in claims
    ]
    return await database.write(deliveries.complete, "b", results, now)


def sops(claims: list[Claim]) -> list[str | None]:
    return [one.change.sop_instance_uid for one in claims]


async def test_a_new_subscription_begins_at_the_end_of_the_log(database: Database) -> None:
    await record(database, stored("1"))
    await subscribed(database, "b", "2")
    assert [row.event_id for row in await ledger_of(database)] == ["available/2/1"]
    # Known already: nothing changes, whatever came meanwhile.
    await record(database, stored("3"))
    await database.write(deliveries.subscribe, "b")
    await fan_out(database)
    assert [row.event_id for row in await ledger_of(database)] == ["available/2/1", "available/3/1"]
    assert await states(database, "b") == {"pending": 2}


async def test_a_subscription_may_begin_at_the_start(database: Database) -> None:
    await record(database, stored("1"))
    await database.write(deliveries.subscribe, "b", from_start=True)
    await fan_out(database)
    assert [row.event_id for row in await ledger_of(database)] == ["available/1/1"]


async def test_the_fan_out_takes_what_is_wanted_once_and_remembers_where_it_was(
    database: Database,
) -> None:
    await database.write(deliveries.subscribe, "b")
    await record(database, *(stored(str(n), provider="abc"[n % 3]) for n in range(9)))

    def wants(entry: Change) -> bool:
        return entry.provider == "b"

    more = []
    while not more or more[-1]:
        more.append(
            await database.write(deliveries.fan_out, "b", DICOM_AVAILABLE, wants, NOW, limit=4)
        )
    assert more == [True, True, False]
    assert await fan_out(database) is False
    rows = await ledger_of(database)
    assert [row.event_id for row in rows] == ["available/1/1", "available/4/1", "available/7/1"]
    assert {(r.state, r.attempts, r.next_at, r.space, r.study_instance_uid) for r in rows} == {
        ("pending", 0, NOW, "default", "1")
    }


async def test_replicas_that_fan_out_at_once_make_each_delivery_once(database_url: str) -> None:
    databases = [open_database(database_url) for _ in range(3)]
    try:
        await databases[0].write(deliveries.subscribe, "b")
        await record(databases[0], *(stored(str(n)) for n in range(40)))
        await asyncio.gather(*(fan_out(databases[turn % 3], limit=7) for turn in range(18)))
        assert len(await ledger_of(databases[0])) == 40
        assert await states(databases[0], "b") == {"pending": 40}
    finally:
        for one in databases:
            await one.close()


async def test_the_outlook_tells_news_and_the_next_due_time_without_writing(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await database.write(deliveries.subscribe, "b")
    outlook = deliveries.outlook
    arguments = ("b", DICOM_AVAILABLE)
    assert await database.read(outlook, *arguments, 0, ()) == (False, 0, None)
    await record(database, stored("1"))
    assert await database.read(outlook, *arguments, 0, ()) == (True, 0, None)
    await fan_out(database)
    assert await database.read(outlook, *arguments, 0, ()) == (False, 1, NOW)
    assert await database.read(outlook, *arguments, 0, (1,)) == (False, 1, None)
    # Entries of other kinds are no news; they are not looked at twice...
    await database.write(changes.append, [{"at": 1, "kind": "delivered", "space": "s"}] * 30)
    assert await database.read(outlook, *arguments, 1, ()) == (False, 31, NOW)
    monkeypatch.setattr(changes, "SCAN", 7)
    assert await database.read(outlook, *arguments, 0, ()) == (False, 31, NOW)
    # ...and now and then the position moves over them.
    monkeypatch.setattr(deliveries, "_LAG", 10)
    assert await database.read(outlook, *arguments, 0, ()) == (True, 31, NOW)
    while await fan_out(database):
        pass
    assert await database.read(outlook, *arguments, 0, ()) == (False, 31, NOW)


async def test_a_claimed_delivery_is_nobody_elses_until_its_lease_ends(database: Database) -> None:
    await subscribed(database, "b", "1", "2", "3")
    first = await claim(database, limit=2)
    assert (sops(first), [one.attempt for one in first]) == (["1", "2"], [1, 1])
    assert sops(await claim(database, token=2)) == ["3"]
    assert await claim(database, now=NOW + LEASE - 1, token=3) == []
    again = await claim(database, now=NOW + LEASE, token=4)
    assert (sops(again), [one.attempt for one in again]) == (["1", "2", "3"], [2, 2, 2])


async def test_renewing_holds_a_claim_and_only_ones_own(database: Database) -> None:
    await subscribed(database, "b", "1", "2")
    mine = await claim(database, limit=1, token=1)
    others = await claim(database, limit=1, token=2)
    stranger = Claim(others[0].change, 1, token=9)
    await database.write(deliveries.renew, "b", [*mine, stranger], NOW + 2 * LEASE)
    assert sops(await claim(database, now=NOW + LEASE, token=3)) == ["2"]


async def test_what_is_given_back_is_due_at_once(database: Database) -> None:
    await subscribed(database, "b", "1", "2")
    mine = await claim(database, token=1)
    await database.write(deliveries.release, "b", mine[:1], NOW)
    assert sops(await claim(database, token=2)) == ["1"]
    await database.write(deliveries.release, "b", mine[:1], NOW)  # not its own any more
    assert await claim(database, token=3) == []


async def test_what_one_holds_is_not_claimed_again_whatever_the_clock_says(
    database: Database,
) -> None:
    await subscribed(database, "b", "1", "2")
    await claim(database, limit=1)
    assert sops(await claim(database, now=NOW + 10 * LEASE, token=2, holding=(1,))) == ["2"]


async def test_those_waiting_longest_come_first(database: Database) -> None:
    await subscribed(database, "b", "1", "2", "3")
    first = await claim(database, limit=2)
    await complete(database, first[:1], "pending", next_at=NOW + 2 * SECOND)
    await complete(database, first[1:], "pending", next_at=NOW + 1 * SECOND)
    assert sops(await claim(database, now=NOW + 5 * SECOND, limit=1, token=2)) == ["3"]
    assert sops(await claim(database, now=NOW + 5 * SECOND, limit=1, token=3)) == ["2"]
    assert sops(await claim(database, now=NOW + 5 * SECOND, limit=1, token=4)) == ["1"]


async def test_deliveries_of_one_instance_wait_for_the_earlier_ones(database: Database) -> None:
    await subscribed(database, "b", "1", "2")
    await record(database, stored("1", "b"), stored("1", "c"))
    await fan_out(database)
    first = await claim(database)
    assert [(one.change.sop_instance_uid, one.change.version) for one in first] == [
        ("1", 1),
        ("2", 1),
    ]
    assert await claim(database, token=2) == []
    # While the first waits for its next try, the second waits for the first.
    await complete(database, first, "pending", next_at=NOW + SECOND)
    assert await claim(database, token=3) == []
    outlook = await database.read(deliveries.outlook, "b", DICOM_AVAILABLE, 0, ())
    assert outlook.due == NOW + SECOND  # not the time of those that wait their turn
    again = await claim(database, now=NOW + SECOND, token=4)
    assert [one.change.version for one in again] == [1, 1]
    await complete(database, again, "dead")
    assert [one.change.version for one in await claim(database, token=5)] == [2]


async def test_one_uid_in_two_spaces_is_two_instances(database: Database) -> None:
    await subscribed(database, "b", "1")
    await record(database, stored("1", space="research"))
    await fan_out(database)
    assert [one.change.space for one in await claim(database)] == ["default", "research"]


async def test_replicas_that_claim_at_once_never_take_the_same(database_url: str) -> None:
    databases = [open_database(database_url) for _ in range(3)]
    try:
        await subscribed(databases[0], "b", *(str(n) for n in range(60)))
        taken = await asyncio.gather(
            *(claim(databases[turn % 3], limit=4, token=turn) for turn in range(30))
        )
        numbers = [one.change.seq for claims in taken for one in claims]
        assert len(numbers) == len(set(numbers))
        rest = await claim(databases[0], limit=100)  # some may have found the rows locked
        assert len(numbers) + len(rest) == 60
    finally:
        for one in databases:
            await one.close()


async def test_how_a_try_ended_is_in_the_ledger_and_its_end_in_the_log(database: Database) -> None:
    await subscribed(database, "b", "1", "2", "3", traceparent="00-1")
    one, two, three = await claim(database)
    at = NOW + SECOND
    assert await complete(database, [one], "delivered", "201 Created", now=at) == [True]
    assert await complete(database, [two], "dead", "409: no", now=at) == [True]
    assert await complete(database, [three], "pending", "503", next_at=at + 5, now=at) == [True]
    rows = await ledger_of(database)
    assert [(r.state, r.attempts, r.next_at, r.answer, r.changed_at) for r in rows] == [
        ("delivered", 1, None, "201 Created", at),
        ("dead", 1, None, "409: no", at),
        ("pending", 1, at + 5, "503", at),
    ]
    assert await states(database, "b") == {"delivered": 1, "dead": 1, "pending": 1}
    log = (await database.read(changes.since, 3, 10)).entries
    assert [(e.kind, e.binding, e.event_id, e.sop_instance_uid, e.at) for e in log] == [
        ("delivered", "b", "e", "1", at),
        ("failed", "b", "e", "2", at),
    ]
    assert {e.traceparent for e in log} == {"00-1"}


async def test_whoever_lost_its_claim_changes_nothing_any_more(database: Database) -> None:
    await subscribed(database, "b", "1")
    lost = await claim(database, token=1)
    taken_over = await claim(database, now=NOW + LEASE, token=2)
    assert await complete(database, lost, "dead", "too late") == [False]
    assert await complete(database, taken_over) == [True]
    assert await complete(database, lost, "pending", next_at=1) == [False]
    assert [row.state for row in await ledger_of(database)] == ["delivered"]
    kinds = [entry.kind for entry in (await database.read(changes.since, 0, 10)).entries]
    assert kinds == ["stored", "delivered"]
    assert await states(database, "b") == {"delivered": 1}


@pytest.mark.parametrize(
    ("answer", "kept"),
    [
        ("nul \0 within", "nul \ufffd within"),
        ("half \ud800 a character", "half ? a character"),
        ("x" * 5000, "x" * deliveries.ANSWER_LENGTH),
        ("山" * 5000, "山" * deliveries.ANSWER_LENGTH),
    ],
)
async def test_whatever_a_target_answers_can_be_kept(
    database: Database, answer: str, kept: str
) -> None:
    await subscribed(database, "b", "1")
    await complete(database, await claim(database), "dead", answer)
    assert [row.answer for row in await ledger_of(database)] == [kept]


async def test_dead_letters_are_due_again_from_their_first_attempt(database: Database) -> None:
    await subscribed(database, "b", "1", "2", "3")
    one, two, _three = await claim(database)
    await complete(database, [one], "delivered")
    await complete(database, [two], "dead", "409: no")
    replay = ledger.replay
    assert await database.write(replay, ReplayFilter(), NOW + 7) == (1, None)
    row = (await ledger_of(database))[1]
    assert (row.state, row.attempts, row.next_at, row.answer) == ("pending", 0, NOW + 7, "409: no")
    assert await states(database, "b") == {"delivered": 1, "pending": 2}
    assert [one.attempt for one in await claim(database, now=NOW + 7)] == [1]


async def test_what_is_being_tried_is_left_alone_by_a_replay(database: Database) -> None:
    await subscribed(database, "b", "1", "2")
    held = await claim(database, limit=1)
    everything = ReplayFilter(state=None)
    assert await database.write(ledger.replay, everything, NOW) == (1, None)
    assert await complete(database, held) == [True]
    # One whose process died is not being tried.
    await claim(database, limit=1, token=2)
    assert await database.write(ledger.replay, everything, NOW + LEASE) == (2, None)
    assert await states(database, "b") == {"pending": 2}


@pytest.mark.parametrize(
    ("which", "expected"),
    [
        (ReplayFilter(binding="b", state=None), {1, 2, 3}),
        (ReplayFilter(binding="nobody", state=None), set()),
        (ReplayFilter(state="delivered"), {1, 2}),
        (ReplayFilter(state="dead"), {3}),
        (ReplayFilter(state=None, space="research"), {2}),
        (ReplayFilter(state=None, study_instance_uid="1"), {1, 2}),
        (ReplayFilter(state=None, since_seq=1), {2, 3}),
        (ReplayFilter(state="delivered", space="default", since_seq=1), set()),
    ],
)
async def test_a_replay_drives_what_its_filter_says(
    database: Database, which: ReplayFilter, expected: set[int]
) -> None:
    await subscribed(database, "b", "1")
    await record(database, stored("2", space="research"))
    await record(database, stored("3", study="3"))
    await fan_out(database)
    claims = await claim(database)
    await complete(database, claims[:2], "delivered")
    await complete(database, claims[2:], "dead")
    assert await database.write(ledger.replay, which, NOW) == (len(expected), None)
    assert {r.seq for r in await ledger_of(database, state="pending")} == expected


async def test_a_large_replay_goes_in_batches_and_ends(database: Database) -> None:
    await subscribed(database, "b", *(str(n) for n in range(25)))
    await complete(database, await claim(database, limit=100), "dead")
    for which in (ReplayFilter(), ReplayFilter(state=None)):
        total, after, batches = 0, None, 0
        while batches == 0 or after is not None:
            number, after = await database.write(ledger.replay, which, NOW, after, limit=10)
            total += number
            batches += 1
        assert (total, batches) == (25, 3)


async def test_pages_of_the_ledger_meet_every_line_once(database: Database) -> None:
    await database.write(deliveries.subscribe, "a")
    await subscribed(database, "b", *(str(n) for n in range(7)))
    await fan_out(database, "a")
    await complete(database, (await claim(database))[::2], "dead")

    async def pages(**filters: Any) -> list[tuple[str, int]]:
        found: list[tuple[str, int]] = []
        while True:
            after = found[-1] if found else None
            page = await ledger_of(database, after=after, limit=3, **filters)
            found += [(row.binding, row.seq) for row in page]
            if len(page) < 3:
                return found

    everything = [(name, n) for name in "ab" for n in range(1, 8)]
    assert await pages() == everything
    assert await pages(binding="a") == everything[:7]
    assert await pages(state="dead") == [("b", 1), ("b", 3), ("b", 5), ("b", 7)]
    assert await pages(study_instance_uid="1", state="pending", binding="b") == [
        ("b", 2),
        ("b", 4),
        ("b", 6),
    ]
    assert await pages(study_instance_uid="404") == []


async def test_every_statement_of_a_dispatcher_and_of_the_ledger_uses_an_index(
    database: Database,
) -> None:
    for name in ("a", "b", "c"):
        await database.write(deliveries.subscribe, name)
    for start in range(0, 1500, 250):
        await record(
            database,
            *(
                stored(str(n), study=str(n % 300), series=f"{n % 300}.1")
                for n in range(start, start + 250)
            ),
        )
    for name in ("a", "b", "c"):
        while await fan_out(database, name):
            pass
    claims = await claim(database, limit=1400)
    await complete(database, claims[:1300])
    await complete(database, claims[1300:1310], "dead")
    held = claims[1310:1312]
    result = [Result(claim=held[0], event_id="e", state="delivered", answer="")]
    questions: list[tuple[Any, ...]] = [
        (deliveries.outlook, "b", DICOM_AVAILABLE, 1500, ()),
        (deliveries.claim, "b", NOW, LEASE, 4, 9, (1, 2)),
        (deliveries.renew, "b", held, NOW),
        (deliveries.complete, "b", result, NOW),
        (deliveries.release, "b", held, NOW),
        (ledger.replay, ReplayFilter(binding="b"), NOW),
        (ledger.replay, ReplayFilter(state=None, study_instance_uid="7"), NOW),
    ]
    for fn, *arguments in questions:
        for sql, plan in await plans_of(database, fn, *arguments):
            if "max(" not in sql:
                assert not reads_a_table_whole(plan), (fn, sql, plan)
    for filters in (
        {"binding": "b", "state": "dead"},
        {"state": "dead"},
        {"study_instance_uid": "7"},
        {"binding": "b", "after": ("b", 700)},
        {"binding": "b", "state": "dead", "after": ("b", 700)},
        {"state": "dead", "after": ("b", 700)},
        {"after": ("b", 700)},
    ):
        ((sql, plan),) = await plans_of(database, ledger.page, **filters)
        assert not reads_a_table_whole(plan), (filters, sql, plan)


async def test_a_revision_goes_to_who_subscribed_to_revisions_only(database: Database) -> None:
    await database.write(deliveries.subscribe, "images")
    await database.write(deliveries.subscribe, "studies")
    row = {"at": 1, "kind": "revised", "space": "s", "study_instance_uid": "1", "version": 0}
    await database.write(changes.append, [row])
    await database.write(deliveries.fan_out, "images", DICOM_AVAILABLE, every, NOW)
    await database.write(deliveries.fan_out, "studies", STUDY_REVISION, every, NOW)
    assert [(r.binding, r.event_id) for r in await ledger_of(database)] == [
        ("studies", "revised/1/0")
    ]
