"""`rebuild`: a manifest from its spaces alone."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from rich.console import Console

from imaging_ingestion.audit import Rebuild, Rebuilt
from imaging_ingestion.cli.audited import (
    Audited,
    Shown,
    Site,
    progress_bar,
    read_site_of,
    run_audit,
)
from imaging_ingestion.cli.process import configure_logging
from imaging_ingestion.cli.terminal import console, plain
from imaging_ingestion.cli.up import raise_file_limit, tune_interpreter
from imaging_ingestion.events.stored import ConflictPolicy, PatientConflictPolicy
from imaging_ingestion.intake.found import FoundError
from imaging_ingestion.manifest import deliveries, outbox
from imaging_ingestion.manifest.database import Database
from imaging_ingestion.resources.plan import CorePlan


def run(
    files: Sequence[Path],
    data: Path,
    *,
    space: str | None,
    announce: bool,
    grace: timedelta,
    as_json: bool,
) -> None:
    """Rebuild. Exit code 0 if all is recorded, 1 if objects were left out, 2 if it failed."""
    configure_logging(level=logging.WARNING)
    tune_interpreter()
    raise_file_limit()

    async def work() -> int:
        site = read_site_of(files, data, space, manifest_must_be=False)
        shown = console(stderr=as_json)
        results = await _rebuild(site, shown, announce=announce, grace=grace)
        for name, result in results.items():
            _tell(name, result, grace, shown)
        if as_json:
            print(json.dumps({name: dataclasses.asdict(one) for name, one in results.items()}))
        return 1 if any(one.unusable or one.young for one in results.values()) else 0

    run_audit("rebuild", work)


async def _rebuild(
    site: Site, shown: Console, *, announce: bool, grace: timedelta
) -> dict[str, Rebuilt]:
    results: dict[str, Rebuilt] = {}
    with progress_bar(shown) as progress:
        for core in site.cores:
            async with site.open_core(core) as audited:
                if announce:
                    await _subscribe(core, audited[0].database)
                for one in audited:
                    bar = Shown(progress, f"space {one.plan.name}")
                    results[one.plan.name] = await _rebuild_space(
                        one, bar, shown, announce=announce, grace=grace
                    )
    return results


async def _subscribe(core: CorePlan, database: Database) -> None:
    """Make known who is to be told. Whoever is not begins at the end of the log some day."""
    for binding in core.bindings:
        await database.write(deliveries.subscribe, binding.name)
    if core.broker.kind != "embedded":
        await database.write(outbox.register)


async def _rebuild_space(
    audited: Audited, bar: Shown, shown: Console, *, announce: bool, grace: timedelta
) -> Rebuilt:
    def unusable(error: FoundError) -> None:
        line = f"{error.fault.value}: {audited.plan.name}: {error.object_name}: {error.reason}"
        shown.print(plain(line), soft_wrap=True)

    rebuild = Rebuild(
        provider=audited.plan.provider,
        conflict_policy=ConflictPolicy(audited.plan.conflict_policy),
        revisioning_delay=audited.core.revisioning_delay,
        grace=grace,
        announce=announce,
        patient_conflict_policy=PatientConflictPolicy(audited.plan.patient_conflict_policy),
    )
    return await rebuild.run(
        audited.space,
        audited.database,
        listed=bar.listed,
        progress=bar.progress,
        unusable=unusable,
    )


def _tell(name: str, result: Rebuilt, grace: timedelta, shown: Console) -> None:
    counts = [f"{result.recorded} recorded", f"{result.known} known already"]
    if result.older:
        counts.append(f"{result.older} older than what is recorded")
    if result.not_taken:
        counts.append(f"{result.not_taken} against the conflict policy")
    if result.unusable:
        counts.append(f"{result.unusable} not usable")
    shown.print(plain(f"space {name}: {result.objects} objects: {', '.join(counts)}"))
    if result.young:
        seconds = int(grace.total_seconds())
        shown.print(
            f"  {result.young} are younger than {seconds} s and may be arriving just now: run it "
            "again later, or with --grace 0 if no site runs on this manifest",
            soft_wrap=True,
        )
