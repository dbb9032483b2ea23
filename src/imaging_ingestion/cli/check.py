"""`check`: each space of a site against its manifest, in both directions."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Sequence
from contextlib import aclosing
from datetime import timedelta
from pathlib import Path

from imaging_ingestion.audit import Check, Finding, Repair
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
from imaging_ingestion.events.stored import ConflictPolicy, PatientConflictPolicy


def run(
    files: Sequence[Path],
    data: Path,
    *,
    space: str | None,
    deep: bool,
    repair: bool,
    grace: timedelta,
    as_json: bool,
) -> None:
    """Check, and tell what differs. Exit code 0 if nothing does, 1 if something; 2 if it failed."""
    configure_logging(level=logging.WARNING)

    async def work() -> int:
        site = read_site_of(files, data, space, manifest_must_be=True)
        report = Report(as_json=as_json)
        await _check(site, Check(grace=grace, deep=deep), report, repair=repair)
        report.end()
        return 1 if report.counts else 0

    run_audit("check", work)


class Report:
    """Tells of each finding at once: there may be millions."""

    def __init__(self, *, as_json: bool) -> None:
        self.counts: Counter[str] = Counter()
        self.repaired = 0
        self._as_json = as_json
        self.console = console(stderr=as_json)

    def tell(self, finding: Finding) -> None:
        """A finding, for people a line, for machines a JSON object on a line."""
        self.counts[finding.kind.value] += 1
        self.repaired += finding.repair is not None
        if self._as_json:
            print(json.dumps(_values(finding)))
            return
        place = finding.place
        of = f" (study {place[0]}, series {place[1]}, instance {place[2]})" if place else ""
        more = f": {finding.detail}" if finding.detail else ""
        done = f" -> {finding.repair}" if finding.repair else ""
        line = f"{finding.kind.value}: {finding.space}: {finding.object_name}{of}{more}{done}"
        self.console.print(plain(line), soft_wrap=True)

    def end(self) -> None:
        """How many of each kind there were."""
        if self._as_json:
            print(json.dumps({"findings": dict(self.counts), "repaired": self.repaired}))
            return
        counts = [f"{number} {kind}" for kind, number in self.counts.items()]
        told = ", ".join(counts) or "no differences"
        self.console.print(f"{told}; {self.repaired} repaired" if self.repaired else told)


async def _check(site: Site, check: Check, report: Report, *, repair: bool) -> None:
    with progress_bar(report.console) as progress:
        for core in site.cores:
            async with site.open_core(core) as audited:
                for one in audited:
                    shown = Shown(progress, f"space {one.plan.name}")
                    await _check_space(one, check, report, shown, repair=repair)


async def _check_space(
    audited: Audited, check: Check, report: Report, shown: Shown, *, repair: bool
) -> None:
    repairing = Repair(
        audited.space,
        audited.database,
        audited.plan.provider,
        ConflictPolicy(audited.plan.conflict_policy),
        audited.core.revisioning_delay,
        PatientConflictPolicy(audited.plan.patient_conflict_policy),
    )
    found = check.run(audited.space, audited.database, listed=shown.listed, progress=shown.progress)
    async with aclosing(found) as findings:
        async for finding in findings:
            told = await repairing.of(finding) if repair else finding
            if told is not None:
                report.tell(told)


def _values(finding: Finding) -> dict[str, object]:
    place = finding.place
    return {
        "finding": finding.kind.value,
        "space": finding.space,
        "objectName": finding.object_name,
        "studyInstanceUID": place and place.study_instance_uid,
        "seriesInstanceUID": place and place.series_instance_uid,
        "sopInstanceUID": place and place.sop_instance_uid,
        "detail": finding.detail,
        "repair": finding.repair,
    }
