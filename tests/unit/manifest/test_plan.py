"""Deciding about arrivals and deletions: versions, garbage and the log (see also test_record)."""

from __future__ import annotations

from event_core import stored

from imaging_ingestion.events.model import ChangeKind
from imaging_ingestion.events.stored import StoreOutcome, StoreResult
from imaging_ingestion.manifest.plan import Aside, InstanceRow, Place, plan

PLACE = Place("1", "1.1", "7")


def row(*, version: int = 1, live: bool = True, place: Place = PLACE, pk: int = 1) -> InstanceRow:
    return InstanceRow(
        place, pk, b"old", "old object", version, "old provider", live=live, was_live=live
    )


def test_an_instance_that_comes_back_counts_on_and_its_old_object_is_garbage() -> None:
    decided = plan([row(version=4, live=False)], [stored("7")])
    (revived,) = decided.rows.values()
    assert (revived.pk, revived.version, revived.live) == (1, 5, True)
    assert decided.outcomes == [StoreOutcome(StoreResult.CREATED, "old object")]
    assert [(e.kind, e.version) for e in decided.log] == [(ChangeKind.STORED, 5)]


def test_versions_count_over_every_place_an_instance_has_been_at() -> None:
    elsewhere = row(version=6, live=False, place=Place("2", "2.1", "7"), pk=2)
    decided = plan([row(version=2), elsewhere], [stored("7", "new")])
    (changed,) = decided.rows.values()
    assert (changed.place, changed.version) == (PLACE, 7)


def test_trace_and_provider_are_those_of_the_arrival() -> None:
    decided = plan([row()], [stored("7", "b", provider="ct", traceparent="00-1")])
    assert [(e.provider, e.traceparent) for e in decided.log] == [("ct", "00-1")]
    assert decided.accepted[0].provider == "ct"


def test_a_kept_instance_changes_nothing_and_its_own_object_is_garbage() -> None:
    arrived = stored("7", "b", policy="keep")
    decided = plan([row()], [arrived])
    assert (decided.rows, decided.log, decided.accepted) == ({}, [], [])
    assert decided.outcomes == [StoreOutcome(StoreResult.KEPT, arrived.object_name)]


def test_an_arrival_that_was_replaced_or_deleted_since_changes_nothing_when_told_of_again() -> None:
    arrived = stored("7", "b")
    nothing = [StoreOutcome(StoreResult.UNCHANGED)]
    tombstone = InstanceRow(
        PLACE, 1, arrived.sha256, arrived.object_name, 2, "p", live=False, was_live=False
    )
    deleted = plan([tombstone], [arrived])
    assert (deleted.outcomes, deleted.rows, deleted.log) == (nothing, {}, [])
    replaced = plan([row()], [arrived], Aside(to_go={arrived.object_name}))
    assert (replaced.outcomes, replaced.rows, replaced.log) == (nothing, {}, [])
    assert plan([tombstone], [stored("7", "b")]).outcomes[0].result is StoreResult.CREATED


def test_what_was_replaced_within_a_batch_is_not_taken_up_again_either() -> None:
    first, second = stored("7", "a"), stored("7", "b")
    decided = plan([], [first, second, first])
    assert [one.result for one in decided.outcomes] == [
        StoreResult.CREATED,
        StoreResult.REPLACED,
        StoreResult.UNCHANGED,
    ]
    assert [one.object_name for one in decided.unneeded] == [first.object_name]
