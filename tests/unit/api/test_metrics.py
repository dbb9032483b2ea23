"""/metrics: true figures, at the price of a few rows, and also without a database."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from event_core import plans_of, reads_a_table_whole, record, stored
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs

from imaging_ingestion.api.metrics import Metrics
from imaging_ingestion.events.model import DICOM_AVAILABLE
from imaging_ingestion.manifest import deliveries, ledger
from imaging_ingestion.manifest.database import Database, open_database
from imaging_ingestion.manifest.deliveries import Result


async def figures(metrics: Metrics) -> dict[tuple[str, ...], float]:
    """Name and label values to value, of our own metrics."""
    text = (await metrics.text()).decode()
    return {
        (sample.name.removeprefix("imaging_ingestion_"), *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith("imaging_ingestion_")
    }


async def test_the_figures_are_what_the_manifest_says(database: Database) -> None:
    metrics = Metrics({"core": database})
    assert await figures(metrics) == {
        ("database_up", "core"): 1,
        ("log_entries", "core"): 0,
        ("next_revision_due_seconds", "core"): 0,
    }
    await database.write(deliveries.subscribe, "b")
    await record(database, *(stored(str(n)) for n in range(5)), now=0, delay=90_000_000)
    await database.write(deliveries.fan_out, "b", DICOM_AVAILABLE, lambda _: True, 0)
    one, two = await database.write(deliveries.claim, "b", 0, 10, 2, 1)
    await database.write(
        deliveries.complete,
        "b",
        [
            Result(claim=one, event_id="e", state="delivered", answer=""),
            Result(claim=two, event_id="e", state="dead", answer=""),
        ],
        0,
    )
    assert await figures(metrics) == {
        ("database_up", "core"): 1,
        ("log_entries", "core"): 7,
        ("next_revision_due_seconds", "core"): 90,
        ("deliveries", "b", "core", "pending"): 3,
        ("deliveries", "b", "core", "delivered"): 1,
        ("deliveries", "b", "core", "dead"): 1,
        ("space_instances", "core", "default"): 5,
        ("space_bytes", "core", "default"): 5,
        ("space_quarantined", "core", "default"): 0,
    }


async def test_dimse_services_are_shown_as_they_are_now() -> None:
    listener = SimpleNamespace(associations=2)
    metrics = Metrics({})
    metrics.watch_dimse("scanners", listener)
    metrics.watch_dimse("others", SimpleNamespace(associations=0))
    for status in (0, 0, 0xA700):
        metrics.count_store("scanners", status)
    listener.associations = 3
    found = await figures(metrics)
    assert found["dimse_associations", "scanners"] == 3
    assert found["dimse_associations", "others"] == 0
    assert found["dimse_stores_total", "scanners", "0000"] == 2
    assert found["dimse_stores_total", "scanners", "A700"] == 1


async def test_the_counts_are_not_counted(database: Database) -> None:
    await database.write(deliveries.subscribe, "b")
    ((sql, _plan),) = await plans_of(database, ledger.summary)
    assert "FROM delivery_count" in sql
    assert "count(" not in sql.lower().replace("delivery_count", "")
    assert reads_a_table_whole("SCAN delivery")  # the judge of plans is awake


async def test_a_core_without_its_database_is_told_as_such_and_the_others_go_on(
    database: Database, tmp_path: Any
) -> None:
    empty = open_database(f"sqlite:///{tmp_path / 'empty.db'}")  # without tables
    try:
        metrics = Metrics({"gone": empty, "here": database})
        with capture_logs() as lines:
            found = await figures(metrics)
        assert (found["database_up", "gone"], found["database_up", "here"]) == (0, 1)
        assert [line["event"] for line in lines] == ["metrics.database_away"]
        assert b"process_resident_memory_bytes" in await metrics.text()
    finally:
        await empty.close()
