"""A revision of 10,000 instances: a reference, whichever broker carries it, in bounded memory."""

from __future__ import annotations

import tracemalloc

import msgspec
from brokers_under_test import BrokerOn
from event_core import Target, record, running, stored, until

from imaging_ingestion.events.broker import Subscription
from imaging_ingestion.events.model import STUDY_REVISION, StudyRevision
from imaging_ingestion.manifest import revision
from imaging_ingestion.manifest.database import Database
from imaging_ingestion.manifest.event_data import INLINE_LIMIT

INSTANCES = 10_000
BATCH = 500
MIB = 1 << 20
#: Far less than the text of the event takes, and its instances as objects many times over.
MOST = 3 * MIB
ROOT = "1.2.840.113619.2.55.3.2831868886"


def endpoint(space: str, study: str, series: str) -> str:
    return f"http://127.0.0.1/spaces/{space}/dicom-web/studies/{study}/series/{series}"


async def test_a_revision_of_ten_thousand_instances_goes_as_a_reference(
    database: Database, broker_on: BrokerOn
) -> None:
    for start in range(0, INSTANCES, BATCH):
        await record(
            database,
            *(
                stored(f"{ROOT}.{n % 20}.{n}", study=ROOT, series=f"{ROOT}.{n % 20}")
                for n in range(start, start + BATCH)
            ),
        )
    target = Target()
    broker = broker_on(database, (Subscription("studies", STUDY_REVISION), target))
    async with running(broker):
        tracemalloc.start()
        try:
            await database.write(revision.revise, 1, 10, endpoint)
            broker.committed()
            await until(lambda: target.taken)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    (event,) = target.taken
    assert event.data is None
    assert event.dataref == f"http://127.0.0.1/api/revisions/default/{ROOT}/0?core=test"
    assert peak < MOST
    data = await database.read(revision.load, "default", ROOT, 0)
    assert data is not None
    assert len(data) > 4 * INLINE_LIMIT
    told = msgspec.json.decode(data, type=StudyRevision)
    assert len(told.change_set.additions) == INSTANCES
    assert sum(len(series.instances) for series in told.study.series) == INSTANCES
