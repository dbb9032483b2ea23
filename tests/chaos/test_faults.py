"""Faults in the midst of ingest from eight senders; afterwards everything is as they know it.

Every acknowledged instance is there byte for byte, the manifest has it once, the log and the
revisions tell exactly what happened in order, both bindings have got everything, and there are no
dead letters. `make chaos` runs this longer: CHAOS_INSTANCES for each sender, CHAOS_ROUNDS faults.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from chaos_senders import SENDERS, Truth, ingest
from chaos_sites import Stage, distributed_stage, embedded_stage
from chaos_truth import (
    assert_has_all,
    assert_no_dead_letters,
    assert_told_all,
    await_true,
    has_delivered_all,
    is_settled,
    lists_all,
)

INSTANCES = int(os.environ.get("CHAOS_INSTANCES", "12"))  # of each sender
ROUNDS = int(os.environ.get("CHAOS_ROUNDS", "2"))
ROOT = "1.2.826.0.1.3680043.8.498.79"
MIB = 1 << 20
AWAY = 1.0  # seconds that an engine is away: some tries long
_FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)

Fault = Callable[[Stage], Awaitable[None]]


@pytest.fixture
def source(dicom_file: Callable[[str], Path]) -> Path:
    return dicom_file("CT_small.dcm")


@asynccontextmanager
async def told(stage: Stage) -> AsyncIterator[None]:
    """Say what the processes said, if something goes wrong."""
    try:
        yield
    except BaseException:
        print(stage.logs())
        raise


async def suffer(stage: Stage, source: Path, case: int, *faults: Fault) -> None:
    """Let the faults loose, in turns, while the senders are at it; then ask if all is well."""
    truth = Truth()
    async with told(stage):
        async with asyncio.TaskGroup() as tasks:
            sending = ingest(f"{ROOT}.{case}", source, stage.doors, INSTANCES, truth)
            sent = tasks.create_task(sending)
            for number, fault in zip(range(1, ROUNDS + 1), itertools.cycle(faults)):
                await truth.reaches(SENDERS * INSTANCES * number // (ROUNDS + 1))
                await fault(stage)
            await sent
        assert len(truth.contents) == SENDERS * INSTANCES
        assert truth.replaced
        await is_well(stage, truth)


async def is_well(stage: Stage, truth: Truth) -> None:
    """Everything that was acknowledged went everywhere, once."""
    site = stage.site
    await await_true(lambda: is_settled(site, truth), "every study is settled")
    # What is still on its way through a broker is in no ledger yet.
    await await_true(lambda: lists_all(stage.delivered, truth), "everything has arrived")
    await await_true(lambda: has_told_all(stage, truth), "the FHIR server knows every study")
    await await_true(lambda: has_delivered_all(site), "nothing is owed")
    await assert_no_dead_letters(site)
    objects = await assert_has_all(site, truth)
    assert await assert_has_all(stage.delivered, truth) == objects
    await assert_told_all(site, truth)
    await is_sound(stage)


async def has_told_all(stage: Stage, truth: Truth) -> bool:
    """Whether the FHIR server has each study, once, with all its instances."""
    found = [
        stage.fhir.store.search("ImagingStudy", f"identifier=urn:oid:{study}")
        for study in truth.studies
    ]
    assert all(len(studies) <= 1 for studies in found)
    told = [sum(one["numberOfInstances"] for one in studies) for studies in found]
    return told == [len(truth.study(study)) for study in truth.studies]


async def is_sound(stage: Stage) -> None:
    """Space and manifest agree.

    An object that was written and not recorded before a crash may be left: nobody was told that it
    is there, and it came again. `check --repair` removes it.
    """
    code, found = await check(stage, "--repair")
    assert code in {0, 1}
    assert set(found["findings"]) <= {"orphan"}, found
    assert await check(stage) == (0, {"findings": {}, "repaired": 0})


async def check(stage: Stage, *options: str) -> tuple[int, dict[str, Any]]:
    """What `imaging-ingestion check --deep` says; its exit code."""
    platform = stage.platforms[0]
    assert platform.process is not None
    # In the platform's own mount namespace, if it has one.
    inside = ("nsenter", "--target", str(platform.process.pid), "--mount", "--wdns=/")
    program = (sys.executable, "-m", "imaging_ingestion.cli.main", "check", "--deep", "--json")
    place = ("-f", str(platform.folder / "site.yaml"), "--data", str(platform.data))
    process = await asyncio.create_subprocess_exec(
        *inside, *program, *place, "--grace", "0", *options, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, json.loads(output.splitlines()[-1])


async def kill_and_start(stage: Stage) -> None:
    """kill -9 of the whole process, and its next start."""
    platform = stage.platforms[0]
    platform.kill()
    await asyncio.to_thread(platform.start)


async def kill_a_worker(stage: Stage) -> None:
    """kill -9 of one of the processes that are a site together; the others go on."""
    platform = stage.platforms[0]
    assert platform.process is not None
    random.choice(psutil.Process(platform.process.pid).children()).kill()


async def target_away(stage: Stage) -> None:
    """What a binding delivers to is away for a while."""
    stage.target.kill()
    await asyncio.sleep(AWAY)  # how long it is away
    await asyncio.to_thread(stage.target.start)


async def crash_postgres(stage: Stage) -> None:
    assert stage.postgres is not None
    await stage.postgres.stop("immediate")
    await asyncio.sleep(AWAY)
    await stage.postgres.start()


async def crash_nats(stage: Stage) -> None:
    assert stage.nats is not None
    stage.nats.kill()
    await asyncio.sleep(AWAY)
    await asyncio.to_thread(stage.nats.start)


async def crash_store(stage: Stage) -> None:
    assert stage.store is not None
    stage.store.kill()
    await asyncio.sleep(AWAY)
    await asyncio.to_thread(stage.store.start)


def fill_up(ballast: Path) -> None:
    """Write a file until no more fits."""
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(MIB >> 4))
        except OSError:
            return


@pytest.mark.parametrize("fault", [kill_and_start, target_away])
async def test_a_site_on_one_machine(tmp_path: Path, source: Path, fault: Fault) -> None:
    async with embedded_stage(tmp_path) as stage:
        await asyncio.to_thread(stage.platforms[0].start)
        await suffer(stage, source, 1, fault)


async def test_a_site_of_two_processes(tmp_path: Path, source: Path) -> None:
    async with embedded_stage(tmp_path, options=("--workers", "2")) as stage:
        await asyncio.to_thread(stage.platforms[0].start)
        await suffer(stage, source, 5, kill_a_worker)


async def test_a_disk_that_is_full_for_a_while(tmp_path: Path, source: Path) -> None:
    mount = 'mount -t tmpfs -o size=64m tmpfs "$0" && exec "$@"'
    data = tmp_path / "up" / "data"
    data.mkdir(parents=True)
    prefix = ("unshare", "-Urm", "sh", "-c", mount, str(data))

    async def fill(stage: Stage) -> None:
        process = stage.platforms[0].process
        assert process is not None
        ballast = Path(f"/proc/{process.pid}/root{data}/ballast")
        await asyncio.to_thread(fill_up, ballast)
        await asyncio.sleep(AWAY)
        await asyncio.to_thread(ballast.unlink)

    async with embedded_stage(tmp_path, prefix=prefix) as stage:
        await asyncio.to_thread(stage.platforms[0].start)
        await suffer(stage, source, 2, fill)


async def test_a_clock_that_jumps(tmp_path: Path, source: Path) -> None:
    assert _FAKETIME is not None, "libfaketime is not installed: `make test` installs it"
    clock = tmp_path / "clock"
    clock.write_text("+0\n")
    jumps = iter(["+2h", "-3h", "+1d", "+0"] * ROUNDS)

    async def jump(_stage: Stage) -> None:
        clock.write_text(f"{next(jumps)}\n")

    prefix = (
        "env",
        f"LD_PRELOAD={_FAKETIME}",
        f"FAKETIME_TIMESTAMP_FILE={clock}",
        "FAKETIME_NO_CACHE=1",
        "FAKETIME_DONT_FAKE_MONOTONIC=1",
    )
    async with embedded_stage(tmp_path, prefix=prefix) as stage:
        await asyncio.to_thread(stage.platforms[0].start)
        await suffer(stage, source, 3, jump)
        assert "clock.set_back" in stage.logs()


@pytest.mark.parametrize(
    "faults",
    [(kill_and_start, crash_nats), (crash_postgres, crash_store)],
    ids=["replica, NATS", "PostgreSQL, store"],
)
async def test_two_replicas_on_engines_of_their_own(
    tmp_path: Path, source: Path, faults: tuple[Fault, ...]
) -> None:
    async with distributed_stage(tmp_path) as stage:
        # Both at once, on an empty database.
        await asyncio.gather(*(asyncio.to_thread(one.start) for one in stage.platforms))
        await suffer(stage, source, 4, *faults)
