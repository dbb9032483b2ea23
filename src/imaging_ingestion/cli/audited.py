"""The spaces of a site with their manifests, for the commands that hold them side by side."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
)
from sqlalchemy.exc import DBAPIError

from imaging_ingestion.cli.process import loop_factory
from imaging_ingestion.cli.terminal import plain
from imaging_ingestion.cli.up import in_words, plan_of
from imaging_ingestion.manifest.database import Database
from imaging_ingestion.resources.plan import CorePlan, SitePlan, SpacePlan
from imaging_ingestion.resources.site_file import SiteError
from imaging_ingestion.site.manifest import manifest_file, open_manifest
from imaging_ingestion.site.spaces import Buckets, open_space, read_buckets
from imaging_ingestion.storage.space import Space


@dataclass(frozen=True, slots=True)
class Audited:
    """A space, opened, with its core's manifest."""

    core: CorePlan
    plan: SpacePlan
    space: Space
    database: Database


@dataclass(frozen=True, slots=True)
class Site:
    """What is declared, and what of it is asked for."""

    plan: SitePlan
    buckets: Buckets
    data: Path
    only: str | None

    @asynccontextmanager
    async def open_core(self, core: CorePlan) -> AsyncIterator[Sequence[Audited]]:
        """A core's spaces, those asked for. Raises SiteError, OSError."""
        async with AsyncExitStack() as stack:
            database = await open_manifest(stack, core, self.data)
            audited = []
            for plan in self.wanted(core):
                if not plan.bucket and not (self.data / plan.directory).is_dir():
                    raise SiteError(
                        [f"space {plan.name}: there is no folder {self.data / plan.directory}"]
                    )
                space = await open_space(plan, self.data, self.buckets)
                stack.push_async_callback(space.close)
                audited.append(Audited(core, plan, space, database))
            yield audited

    def wanted(self, core: CorePlan) -> Sequence[SpacePlan]:
        """The core's spaces that are asked for."""
        return [plan for plan in core.spaces if self.only in {None, plan.name}]

    @property
    def cores(self) -> Sequence[CorePlan]:
        """The cores that have one."""
        return [core for core in self.plan.cores if self.wanted(core)]


def read_site_of(
    files: Sequence[Path], data: Path, only: str | None, *, manifest_must_be: bool
) -> Site:
    """The site that files declare, or the built-in one. Raises SiteError.

    A command that only reads must not make the folders and databases whose names are mistaken.
    """
    plan = plan_of(files, None)
    site = Site(plan, read_buckets(plan), data, only)
    spaces = [space.name for core in plan.cores for space in core.spaces]
    if only is not None and only not in spaces:
        raise SiteError([f"there is no space {only}: {', '.join(spaces)} expected"])
    if not data.is_dir():
        raise SiteError([f"there is no folder {data}"])
    for core in site.cores:
        file = manifest_file(core, data)
        if manifest_must_be and file is not None and not file.is_file():
            raise SiteError(
                [f"core {core.name}: there is no manifest {file} (`rebuild` makes one)"]
            )
    return site


def run_audit(what: str, work: Callable[[], Coroutine[None, None, int]]) -> NoReturn:
    """Run a command to its exit code: what `work` says, 2 if it could not run, 130 for Ctrl-C."""
    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            code = runner.run(work())
    except SiteError as error:
        print(f"The {what} cannot be run:", file=sys.stderr)
        for problem in error.problems:
            print(f"  {plain(problem)}", file=sys.stderr)
        code = 2
    except OSError as error:
        print(f"The {what} cannot go on: {plain(in_words(error))}", file=sys.stderr)
        code = 2
    except DBAPIError as error:
        reason = plain(str(error.orig or type(error).__name__))
        print(f"The {what} cannot go on: the database says: {reason}", file=sys.stderr)
        code = 2
    except sqlite3.Error as error:  # SQLAlchemy's are other ones
        print(f"The {what} cannot go on: its scratch file: {plain(str(error))}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        code = 130
    raise SystemExit(code)


class Shown:
    """The progress of one space on a terminal; elsewhere nothing."""

    def __init__(self, progress: Progress, what: str) -> None:
        self._progress = progress
        self._task = progress.add_task(f"{what}: objects listed", total=None)
        self._what = what
        self._begun = False

    def listed(self, number: int) -> None:
        """So many objects were listed."""
        self._progress.update(self._task, completed=number)

    def progress(self, done: int, total: int) -> None:
        """So many of so many were looked at."""
        if not self._begun:
            self._begun = True
            self._progress.update(self._task, description=self._what)
        self._progress.update(self._task, completed=done, total=total)


@contextmanager
def progress_bar(shown: Console) -> Iterator[Progress]:
    """A bar for each space, if people look on."""
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        console=shown,
        disable=not shown.is_terminal,
    ) as progress:
        yield progress
